//! The errors a client can be given, one variant for each message of etcd's catalogue that this
//! server can raise.
//!
//! Clients recognise an error by its text, so the texts are etcd's, byte for byte; the codes
//! steer retries only. Everything that is not an answer to a client (a failed disk, a broken
//! invariant) is a [`Fatal`]: the member stops.

use crate::env::EngineError;

/// The gRPC status codes that errors of this crate map to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// 1
    Canceled,
    /// 2
    Unknown,
    /// 3
    InvalidArgument,
    /// 4
    DeadlineExceeded,
    /// 5
    NotFound,
    /// 8
    ResourceExhausted,
    /// 9
    FailedPrecondition,
    /// 11
    OutOfRange,
    /// 12
    Unimplemented,
    /// 14
    Unavailable,
    /// 15
    DataLoss,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// An answer other than success. Equal on every member for the same log entry and state
        /// when it comes out of apply.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
        pub enum Error {
            $($(#[$doc])* #[error($text)] $name,)*
        }

        impl Error {
            /// The status code that goes with the text.
            pub fn code(self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                }
            }

            /// Every error, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

errors! {
    /// A key is empty where one is needed.
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on an absent key, or a txn operation that is not set.
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` together with a value.
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    /// A txn has more compares or operations than allowed.
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    /// A txn puts a key twice, or puts and deletes it.
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// The `client-api-version` metadata is not UTF-8.
    InvalidClientApiVersion = InvalidArgument, "etcdserver: invalid client api version";
    /// A sort order or target number that does not exist.
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    /// The revision asked for is below the compacted one.
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// The revision asked for is above the current one.
    FutureRev = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The quota is used up, or its alarm is on.
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// No lease has this id.
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    /// A lease with this id exists.
    LeaseExist = FailedPrecondition, "etcdserver: lease already exists";
    /// The time to live is above the limit.
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    /// A watch stream was ended by its client.
    WatchCanceled = Canceled, "etcdserver: watch canceled";
    /// MemberAdd met an id in use.
    MemberExist = FailedPrecondition, "etcdserver: member ID already exist";
    /// Another member has this peer URL.
    PeerUrlExist = FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// A change would leave too few started members. Sent as Unknown, as etcd does.
    MemberNotEnoughStarted = Unknown, "etcdserver: re-configuration failed due to not enough started members";
    /// A peer URL cannot be used.
    MemberBadUrls = InvalidArgument, "etcdserver: given member URLs are invalid";
    /// No member has this id.
    MemberNotFound = NotFound, "etcdserver: member not found";
    /// Promote of a voter.
    MemberNotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Promote of a learner that lags.
    LearnerNotReady = FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// More learners than allowed.
    TooManyLearners = FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// The peer belongs to another cluster.
    ClusterIdMismatch = FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// The request is larger than `--max-request-bytes`.
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    /// Too much accepted work waits. Sent as Unknown, as etcd does.
    TooManyRequests = Unknown, "etcdserver: too many requests";
    /// Login while auth is off.
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    /// No leader is known.
    NoLeader = Unavailable, "etcdserver: no leader";
    /// The call is for the leader only.
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    /// The leader changed while the request waited.
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    /// A call of a version that the cluster does not speak yet.
    NotCapable = FailedPrecondition, "etcdserver: not capable";
    /// The server is shutting down.
    Stopped = Unavailable, "etcdserver: server stopped";
    /// The server gave up waiting.
    Timeout = Unavailable, "etcdserver: request timed out";
    /// The same, near a leader loss.
    TimeoutDueToLeaderFail = Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// The same, with lost peer connections.
    TimeoutDueToConnectionLost = Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// The same, while apply lags.
    TimeoutWaitAppliedIndex = Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// Too few members are connected for a safe change.
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    /// The corrupt alarm is on.
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    /// Learners do not serve this.
    NotSupportedForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// Leadership cannot go to this member.
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";
    /// The transfer of leadership did not finish in time.
    LeaderTransferTimeout = Unknown, "etcdserver: request timed out, leader transfer took too long";
    /// A downgrade version that cannot be read.
    WrongDowngradeVersionFormat = InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// A downgrade version that is not one minor below.
    InvalidDowngradeTargetVersion = InvalidArgument, "etcdserver: invalid downgrade target version";
    /// Unknown downgrade action.
    UnknownMethod = Unknown, "etcdserver: unknown method";
    /// Keepalive on a leader that is not sure of its leadership.
    NotPrimaryLessor = Unknown, "not a primary lessor";
    /// The request was cancelled inside the server.
    Canceled = Canceled, "etcdserver: request canceled";
}

/// This member must stop: something failed that no client caused and that other members would
/// not see.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fatal {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Bytes on disk are not what this version wrote.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// A log entry cannot be understood; a newer version wrote it, or it is damaged.
    #[error("log entry cannot be read: {0}")]
    Entry(String),
    /// raft refused something that must not happen.
    #[error("consensus failed: {0}")]
    Raft(String),
}

/// The outcome of something that may be answered with an [`Error`] or may stop the member.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// An answer for the client.
    #[error(transparent)]
    Answer(#[from] Error),
    /// The member stops.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Fatal(Fatal::Engine(error))
    }
}
