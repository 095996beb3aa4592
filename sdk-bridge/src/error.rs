//! The one error.

use std::any::Any;
use std::fmt;

use folkmoot_client::{Error, ErrorKind};
use serde_json::json;

/// What every call answers when it fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeError {
    /// A stable name of what happened, `UNAVAILABLE` for example.
    pub code: String,
    /// What happened, for people; with neither code nor endpoint in it.
    pub message: String,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// Whether the store may have been changed in spite of the error.
    pub maybe_applied: bool,
    /// The member that was asked, if one was.
    pub endpoint: Option<String>,
    /// More about it, as the text of a JSON object: `compact_revision` of `COMPACTED`,
    /// `resume_revision` of `OVERFLOW`, `argument` of `INVALID_ARGUMENT` where this crate knows it.
    pub details: String,
}

impl BridgeError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            code: kind.code().to_owned(),
            message: message.into(),
            retryable: kind.is_retryable(),
            maybe_applied: kind.maybe_applied(),
            endpoint: None,
            details: details(kind),
        }
    }

    /// An argument that makes no sense.
    pub(crate) fn argument(argument: &str, message: impl Into<String>) -> Self {
        let details = json!({ "argument": argument }).to_string();
        Self { details, ..Self::new(ErrorKind::InvalidArgument, message) }
    }

    pub(crate) fn closed(what: &str) -> Self {
        Self::new(ErrorKind::Closed, format!("{what} is closed"))
    }

    pub(crate) fn forked() -> Self {
        let text = "made in another process, before a fork; open it anew in this one";
        Self::new(ErrorKind::Forked, text)
    }

    /// Time ran out for something of which nothing is left behind.
    pub(crate) fn late(message: impl Into<String>) -> Self {
        Self { maybe_applied: false, ..Self::new(ErrorKind::DeadlineExceeded, message) }
    }

    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no text".to_owned());
        Self::new(ErrorKind::Internal, format!("a bug in the client, please report it: {text}"))
    }
}

fn details(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::Compacted { compact_revision } => {
            json!({ "compact_revision": compact_revision }).to_string()
        }
        ErrorKind::Overflow { resume_revision } => json!({ "resume_revision": resume_revision }).to_string(),
        _ => "{}".to_owned(),
    }
}

impl From<Error> for BridgeError {
    fn from(error: Error) -> Self {
        Self {
            code: error.code().to_owned(),
            message: error.message().to_owned(),
            retryable: error.is_retryable(),
            maybe_applied: error.maybe_applied(),
            endpoint: error.endpoint().map(str::to_owned),
            details: details(error.kind()),
        }
    }
}

impl fmt::Display for BridgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(endpoint) = &self.endpoint {
            write!(f, " endpoint={endpoint}")?;
        }
        write!(f, " code={}", self.code)
    }
}

impl std::error::Error for BridgeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_kind_are_details() {
        let error = BridgeError::new(ErrorKind::Compacted { compact_revision: 7 }, "gone");
        assert_eq!((error.code.as_str(), error.details.as_str()), ("COMPACTED", r#"{"compact_revision":7}"#));
        assert_eq!(BridgeError::closed("the client").details, "{}");
    }

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let error = BridgeError::panicked(&"index out of range");
        assert_eq!(error.code, "INTERNAL");
        assert!(error.message.ends_with("index out of range"));
    }
}
