//! The one error of this crate: what happened, and what the caller may do next.

use std::fmt;
use std::sync::Arc;

/// What happened, in terms of the caller's next step.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The call was given up by the caller or by the store on its behalf.
    Cancelled,
    /// Time ran out. A write may have been applied.
    DeadlineExceeded,
    /// No member could serve the call; nothing was applied.
    Unavailable,
    /// A write was sent and its answer was lost: it may have been applied, or may still be.
    Ambiguous,
    /// Name and password, or the certificate, were refused.
    AuthFailed,
    /// This user may not do that.
    PermissionDenied,
    /// The session has ended; everything held through it is lost.
    SessionLost,
    /// The object was made before a `fork` and is used in the child.
    Forked,
    /// The lock is not, or no longer, held.
    NotHeld,
    /// The leadership is not, or no longer, held.
    NotLeader,
    /// Somebody else holds it, and waiting was not asked for.
    WouldBlock,
    /// What was read has changed meanwhile.
    Conflict,
    /// More operations than a transaction takes.
    TooManyOps,
    /// The asked-for history is compacted away.
    Compacted {
        /// The oldest revision that can still be read.
        compact_revision: i64,
    },
    /// A consumer was too slow for the policy it chose.
    Overflow {
        /// The revision from which to go on.
        resume_revision: i64,
    },
    /// The store is another one than before, or went back in time: it was restored or replaced.
    ClusterReset,
    /// Only members answered that are behind what this client has already seen.
    StaleRead,
    /// A configuration value does not parse or does not fit its type.
    InvalidConfig,
    /// A configuration value was refused by the validator.
    Rejected,
    /// There is no instance to pick.
    NoInstances,
    /// Somebody else is registered under this id.
    AlreadyRegistered,
    /// The arguments make no sense, here or for the store.
    InvalidArgument,
    /// The lease does not exist, or no longer.
    LeaseNotFound,
    /// What was named does not exist.
    NotFound,
    /// What was to be created exists.
    AlreadyExists,
    /// The store's state does not allow it.
    FailedPrecondition,
    /// The store is full, or its limits are reached.
    ResourceExhausted,
    /// The client, session or stream was closed.
    Closed,
    /// A bug here or in the store.
    Internal,
}

impl ErrorKind {
    /// A stable name for logs, metrics and other languages.
    pub fn code(self) -> &'static str {
        match self {
            Self::Cancelled => "CANCELLED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Ambiguous => "AMBIGUOUS",
            Self::AuthFailed => "AUTH_FAILED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::SessionLost => "SESSION_LOST",
            Self::Forked => "FORKED",
            Self::NotHeld => "NOT_HELD",
            Self::NotLeader => "NOT_LEADER",
            Self::WouldBlock => "WOULD_BLOCK",
            Self::Conflict => "CONFLICT",
            Self::TooManyOps => "TOO_MANY_OPS",
            Self::Compacted { .. } => "COMPACTED",
            Self::Overflow { .. } => "OVERFLOW",
            Self::ClusterReset => "CLUSTER_RESET",
            Self::StaleRead => "STALE_READ",
            Self::InvalidConfig => "INVALID_CONFIG",
            Self::Rejected => "REJECTED",
            Self::NoInstances => "NO_INSTANCES",
            Self::AlreadyRegistered => "ALREADY_REGISTERED",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::LeaseNotFound => "LEASE_NOT_FOUND",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Closed => "CLOSED",
            Self::Internal => "INTERNAL",
        }
    }

    /// Whether the same call may succeed later. Says nothing about whether repeating it is safe: that
    /// is [`ErrorKind::maybe_applied`].
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::DeadlineExceeded | Self::Unavailable | Self::Conflict | Self::StaleRead)
    }

    /// Whether the call may have changed the store in spite of the error.
    pub fn maybe_applied(self) -> bool {
        matches!(self, Self::Cancelled | Self::DeadlineExceeded | Self::Ambiguous)
    }
}

#[derive(Clone, Debug)]
struct Details {
    kind: ErrorKind,
    message: String,
    endpoint: Option<String>,
    maybe_applied: Option<bool>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// Every failure of this crate.
///
/// Cheap to clone, because one failure may end many waiting calls.
#[derive(Clone)]
pub struct Error(Box<Details>);

/// What calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind,
            message: message.into(),
            endpoint: None,
            maybe_applied: None,
            source: None,
        }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub(crate) fn closed(what: &str) -> Self {
        Self::new(ErrorKind::Closed, format!("{what} is closed"))
    }

    pub(crate) fn forked() -> Self {
        Self::new(ErrorKind::Forked, "made in another process, before a fork; open it anew in this one")
    }

    pub(crate) fn at(mut self, endpoint: &str) -> Self {
        self.0.endpoint = Some(endpoint.to_owned());
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    pub(crate) fn with_maybe_applied(mut self, maybe: bool) -> Self {
        self.0.maybe_applied = Some(maybe);
        self
    }

    pub(crate) fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// What happened.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable name of what happened.
    pub fn code(&self) -> &'static str {
        self.0.kind.code()
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// Whether the store may have been changed in spite of the error.
    pub fn maybe_applied(&self) -> bool {
        self.0.maybe_applied.unwrap_or_else(|| self.0.kind.maybe_applied())
    }

    /// The member that was asked, if one was.
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// What the store or this crate said, without code and endpoint.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(endpoint) = &self.0.endpoint {
            write!(f, " endpoint={endpoint}")?;
        }
        write!(f, " code={}", self.code())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("endpoint", &self.0.endpoint)
            .field("maybe_applied", &self.maybe_applied())
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_8_an_error_says_what_to_do_next() {
        let error = Error::new(ErrorKind::Ambiguous, "the answer was lost").at("http://n1:2379");
        assert_eq!(error.code(), "AMBIGUOUS");
        assert!(!error.is_retryable());
        assert!(error.maybe_applied());
        assert_eq!(error.endpoint(), Some("http://n1:2379"));
        assert_eq!(error.to_string(), "the answer was lost endpoint=http://n1:2379 code=AMBIGUOUS");
    }

    #[test]
    fn c_8_unavailable_is_retryable_and_not_applied() {
        assert!(ErrorKind::Unavailable.is_retryable());
        assert!(!ErrorKind::Unavailable.maybe_applied());
    }
}
