//! What a failed call means: who refused it, and whether it may have been applied.
//!
//! The store names its errors by their text; the code alone does not tell them apart.

use std::error::Error as StdError;

use tonic::{Code, Status};

use crate::error::{Error, ErrorKind};

/// Why a call failed, in terms of what the transport does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request never left, or was given back unprocessed.
    NotSent,
    /// The connection failed while the request was on its way or being worked on.
    Broken,
    /// The member could not serve it now and did not start.
    Busy,
    /// The member could not tell how it ended.
    Unsure,
    /// The token is missing, unknown or older than the rules; nothing was done.
    Token,
    /// A definite answer.
    Refused,
}

/// The first cause of an error: the layers above it say only that there was one.
pub(crate) fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

fn was_not_sent(status: &Status) -> bool {
    chain(status).any(|cause| {
        cause.is::<tonic::ConnectError>()
            || cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
            || cause
                .downcast_ref::<h2::Error>()
                .is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// Texts that say the token must be renewed.
pub(crate) fn is_token_text(message: &str) -> bool {
    message.contains("etcdserver: invalid auth token")
        || message.contains("etcdserver: user name is empty")
        || message.contains("etcdserver: revision of auth store is old")
}

/// What the transport does about it.
pub(crate) fn fault(status: &Status) -> Fault {
    // A status that was made here has a source, one that travelled has none.
    if status.source().is_some() {
        return if was_not_sent(status) { Fault::NotSent } else { Fault::Broken };
    }
    let message = status.message();
    if is_token_text(message) {
        return Fault::Token;
    }
    match status.code() {
        Code::Unavailable => match message {
            "etcdserver: no leader" => Fault::Busy,
            _ => Fault::Unsure,
        },
        Code::DeadlineExceeded | Code::Cancelled | Code::Internal => Fault::Unsure,
        _ if message == "etcdserver: too many requests"
            || message == "etcdserver: rpc not supported for learner"
            || message == "etcdserver: not capable"
            // Of a member while the leader moves: its log did not take the write.
            || message == "raft proposal dropped" =>
        {
            Fault::Busy
        }
        Code::Unknown if message == "not a primary lessor" => Fault::Unsure,
        _ => Fault::Refused,
    }
}

fn kind(status: &Status) -> ErrorKind {
    let message = status.message();
    match status.code() {
        Code::Cancelled => ErrorKind::Cancelled,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::Unauthenticated => ErrorKind::AuthFailed,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::DataLoss | Code::Unimplemented | Code::Aborted => ErrorKind::FailedPrecondition,
        Code::OutOfRange if message.contains("has been compacted") => {
            // Which revision is not in the text.
            ErrorKind::Compacted { compact_revision: 0 }
        }
        Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::NotFound if message.contains("lease") => ErrorKind::LeaseNotFound,
        Code::NotFound => ErrorKind::NotFound,
        Code::InvalidArgument if is_auth_text(message) || is_token_text(message) => ErrorKind::AuthFailed,
        Code::InvalidArgument if message.contains("too many operations in txn") => ErrorKind::TooManyOps,
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        Code::FailedPrecondition if message.contains("already exist") => ErrorKind::AlreadyExists,
        Code::FailedPrecondition if message.contains("not found") => ErrorKind::NotFound,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::Unknown if message.starts_with("auth: authentication failed") => ErrorKind::AuthFailed,
        Code::Unknown if message == "etcdserver: too many requests" => ErrorKind::Unavailable,
        Code::Unknown if message.contains("re-configuration failed") => ErrorKind::FailedPrecondition,
        Code::Unknown | Code::Internal | Code::Ok => ErrorKind::Internal,
    }
}

fn is_auth_text(message: &str) -> bool {
    message.contains("authentication failed, invalid user ID or password")
}

/// What the caller sees.
pub(crate) fn error(status: Status, endpoint: &str) -> Error {
    if status.source().is_some() {
        let text = format!("{}: {}", status.message(), innermost(&status));
        return Error::new(ErrorKind::Unavailable, text).at(endpoint).caused_by(status);
    }
    Error::new(kind(&status), status.message()).at(endpoint).caused_by(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_3_a_timeout_in_the_store_is_unsure_and_a_refusal_is_not() {
        let status = Status::unavailable("etcdserver: request timed out");
        assert_eq!(fault(&status), Fault::Unsure);
        assert_eq!(fault(&Status::unavailable("etcdserver: no leader")), Fault::Busy);
        assert_eq!(fault(&Status::unknown("raft proposal dropped")), Fault::Busy);
        assert_eq!(fault(&Status::invalid_argument("etcdserver: key is not provided")), Fault::Refused);
    }

    #[test]
    fn c_7_three_texts_ask_for_a_new_token() {
        for status in [
            Status::unauthenticated("etcdserver: invalid auth token"),
            Status::invalid_argument("etcdserver: user name is empty"),
            Status::invalid_argument("etcdserver: revision of auth store is old"),
        ] {
            assert_eq!(fault(&status), Fault::Token);
        }
        let wrong =
            Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password");
        assert_eq!(fault(&wrong), Fault::Refused);
        assert_eq!(error(wrong, "n").kind(), ErrorKind::AuthFailed);
    }

    #[test]
    fn c_8_texts_of_the_store_become_kinds() {
        let cases = [
            (Status::out_of_range("etcdserver: mvcc: required revision has been compacted"), "COMPACTED"),
            (Status::not_found("etcdserver: requested lease not found"), "LEASE_NOT_FOUND"),
            (Status::invalid_argument("etcdserver: too many operations in txn request"), "TOO_MANY_OPS"),
            (Status::failed_precondition("etcdserver: lease already exists"), "ALREADY_EXISTS"),
            (Status::permission_denied("etcdserver: permission denied"), "PERMISSION_DENIED"),
            (Status::resource_exhausted("etcdserver: mvcc: database space exceeded"), "RESOURCE_EXHAUSTED"),
        ];
        for (status, code) in cases {
            assert_eq!(error(status, "n").code(), code);
        }
    }
}
