//! What went wrong, as one line for people and one number for scripts.
//!
//! Every command ends in `Ok` or in one [`Failure`]; nothing prints an error on its own way.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use folkmoot_client::ErrorKind;

/// Result of everything a command does.
pub type Result<T> = std::result::Result<T, Failure>;

/// Why a command did not succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    exit: u8,
    message: String,
}

impl Failure {
    /// Something failed: exit code 1. The message is one line, without a full stop.
    pub fn new(message: impl Into<String>) -> Self {
        Self { exit: 1, message: message.into() }
    }

    /// The command line or its input makes no sense: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: 2, message: message.into() }
    }

    /// A command that was run on behalf of the user ended with this code and has said why itself.
    pub fn passed_on(exit: u8) -> Self {
        Self { exit, message: String::new() }
    }

    /// The line for people; empty if there is nothing to say.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the command line or its input makes no sense: the same again will fail again.
    pub fn is_usage(&self) -> bool {
        self.exit == 2
    }

    /// The number for scripts.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }
}

impl From<tonic::Status> for Failure {
    /// The text that the server sent, as it is: people search for it. Connection errors have no
    /// text of their own and show their causes.
    fn from(status: tonic::Status) -> Self {
        let mut message = match status.message() {
            "" => status.code().description().to_owned(),
            text => text.to_owned(),
        };
        append_causes(&mut message, &status);
        Self::new(message)
    }
}

impl From<folkmoot_client::Error> for Failure {
    /// The text of the store as it is, as above. Where none was got it is told who was asked, and of
    /// a write whether it may have been done.
    fn from(error: folkmoot_client::Error) -> Self {
        let mut message = error.message().to_owned();
        let Some(endpoint) = error.endpoint() else {
            // Refused before anybody was asked.
            return match error.kind() {
                ErrorKind::InvalidArgument | ErrorKind::InvalidConfig => Self::usage(message),
                _ => Self::new(message),
            };
        };
        if matches!(
            error.kind(),
            ErrorKind::Unavailable
                | ErrorKind::DeadlineExceeded
                | ErrorKind::Ambiguous
                | ErrorKind::Cancelled
        ) {
            let _ = write!(message, "; endpoint={endpoint}");
            if error.maybe_applied() {
                message.push_str("; it may have been done nevertheless");
            }
        }
        Self::new(message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // The reader of our output has left, as `head` does; that is no news to anybody.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::passed_on(1);
        }
        Self::new(error.to_string())
    }
}

/// Adds the causes of an error to its text, each once.
fn append_causes(message: &mut String, error: &dyn std::error::Error) {
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            let _ = write!(message, ": {text}");
        }
        cause = error.source();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_the_server_is_shown_as_it_is() {
        let status = tonic::Status::invalid_argument("etcdserver: key is not provided");
        let failure = Failure::from(status);
        assert_eq!(failure.message(), "etcdserver: key is not provided");
        assert_eq!(failure.exit, 1);
    }

    #[test]
    fn a_reader_that_left_is_no_news() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.message(), "");
    }
}
