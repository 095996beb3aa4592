//! Errors of the member as gRPC statuses.

use folkmoot_core::error::Code;
use tonic::Status;

use crate::node::CallError;

/// The status of an error: etcd's code and, byte for byte, etcd's text.
pub fn status(error: impl Into<CallError>) -> Status {
    match error.into() {
        CallError::Answer(error) => Status::new(wire_code(error.code()), error.to_string()),
        CallError::DeadlineExceeded => Status::deadline_exceeded("context deadline exceeded"),
    }
}

/// The status of a failure below the call, while the messages of a stream were read.
pub fn stream_status(failure: Status) -> Status {
    crate::http::in_etcds_words(&failure).unwrap_or(failure)
}

/// Errors that pass through the Lock and Election services lose their code.
pub fn without_code(error: impl Into<CallError>) -> Status {
    match error.into() {
        CallError::Answer(error) => Status::unknown(error.to_string()),
        CallError::DeadlineExceeded => Status::deadline_exceeded("context deadline exceeded"),
    }
}

fn wire_code(code: Code) -> tonic::Code {
    match code {
        Code::Canceled => tonic::Code::Cancelled,
        Code::Unknown => tonic::Code::Unknown,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::NotFound => tonic::Code::NotFound,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::OutOfRange => tonic::Code::OutOfRange,
        Code::Unimplemented => tonic::Code::Unimplemented,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::DataLoss => tonic::Code::DataLoss,
    }
}

#[cfg(test)]
mod tests {
    use folkmoot_core::error::Error;

    use super::*;

    #[test]
    fn codes_and_texts_are_those_of_the_catalogue() {
        let of = |error: Error| {
            let status = status(error);
            (status.code() as i32, status.message().to_owned())
        };
        assert_eq!(of(Error::EmptyKey), (3, "etcdserver: key is not provided".into()));
        assert_eq!(
            of(Error::Compacted),
            (11, "etcdserver: mvcc: required revision has been compacted".into())
        );
        assert_eq!(of(Error::NoSpace), (8, "etcdserver: mvcc: database space exceeded".into()));
        assert_eq!(of(Error::TooManyRequests), (2, "etcdserver: too many requests".into()));
        assert_eq!(of(Error::Corrupt), (15, "etcdserver: corrupt cluster".into()));
        assert_eq!(of(Error::Stopped), (14, "etcdserver: server stopped".into()));
    }

    #[test]
    fn without_its_code_an_error_keeps_its_text() {
        let status = without_code(Error::LeaseNotFound);
        assert_eq!(status.code(), tonic::Code::Unknown);
        assert_eq!(status.message(), "etcdserver: requested lease not found");
    }
}
