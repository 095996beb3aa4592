//! Calls and their answers.

use bytes::Bytes;

use super::{ClientId, KeyRange, KeyValue, LeaseId, MemberId, Nanos, Revision};

/// One call of one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who called.
    pub client: ClientId,
    /// The member that was asked.
    pub member: MemberId,
    /// When the client was about to send.
    pub invoked: Nanos,
    /// When the client had the outcome; `None` if it was still waiting at the end of the history.
    pub completed: Option<Nanos>,
    /// What was asked.
    pub request: Request,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a client knows about its call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was answered.
    Ok(Reply),
    /// It was refused and certainly has no effect, now and later.
    Refused(Refusal),
    /// It may or may not have taken effect, or may still (timeout, connection lost, leader
    /// changed, client ended).
    Unknown,
}

/// Why a call was refused. The reasons with a name are checked, they are statements about the
/// store; everything else is [`Refusal::Other`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The revision asked for is compacted (range, txn, compact).
    Compacted,
    /// The revision asked for is not reached yet (range, txn, compact).
    FutureRevision,
    /// The lease does not exist (put, txn, revoke).
    LeaseNotFound,
    /// The lease exists already (grant).
    LeaseExists,
    /// The key whose value or lease should be kept does not exist (put, txn).
    KeyNotFound,
    /// Any other refusal before execution: overload, not leader, wrong argument.
    Other(String),
}

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Write one key.
    Put(PutRequest),
    /// Delete a range of keys.
    Delete(DeleteRequest),
    /// Read a range of keys.
    Range(RangeRequest),
    /// Compare, then write, delete and read as one step.
    Txn(TxnRequest),
    /// Forget history below a revision.
    Compact {
        /// The oldest revision that stays readable.
        revision: Revision,
    },
    /// Make a lease.
    LeaseGrant {
        /// The id asked for, 0 to let the store choose.
        id: LeaseId,
        /// Seconds asked for.
        ttl: i64,
    },
    /// End a lease and delete its keys.
    LeaseRevoke {
        /// The lease.
        id: LeaseId,
    },
    /// Renew a lease (one message of a keepalive stream and its answer).
    LeaseKeepAlive {
        /// The lease.
        id: LeaseId,
    },
    /// Ask how long a lease has.
    LeaseTimeToLive {
        /// The lease.
        id: LeaseId,
        /// Ask for its keys too.
        keys: bool,
    },
}

/// Writes one key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PutRequest {
    /// The key.
    pub key: Bytes,
    /// The value. Values that are unique in the history make a checker without ground truth sharp.
    pub value: Bytes,
    /// Lease to hang the key on, 0 for none.
    pub lease: LeaseId,
    /// Return the key as it was before.
    pub prev_kv: bool,
    /// Keep the value as it is.
    pub ignore_value: bool,
    /// Keep the lease as it is.
    pub ignore_lease: bool,
}

/// Deletes a range of keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteRequest {
    /// The keys.
    pub range: KeyRange,
    /// Return the deleted keys.
    pub prev_kv: bool,
}

/// Reads a range of keys, ascending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeRequest {
    /// The keys.
    pub range: KeyRange,
    /// Most keys to return; 0 or less for all.
    pub limit: i64,
    /// Revision to read at; 0 or less for the current one.
    pub revision: Revision,
    /// A possibly stale answer of the asked member alone will do.
    pub serializable: bool,
    /// Return the count and no keys.
    pub count_only: bool,
    /// Leave values (and leases) out.
    pub keys_only: bool,
}

impl RangeRequest {
    /// A linearizable read of all of `range`.
    pub fn new(range: KeyRange) -> Self {
        Self { range, limit: 0, revision: 0, serializable: false, count_only: false, keys_only: false }
    }
}

/// All of `success` if every condition holds, else all of `failure`, as one step.
///
/// Transactions inside transactions are not modelled; nothing that is tested so needs them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TxnRequest {
    /// The conditions; none means true.
    pub compare: Vec<Compare>,
    /// Operations if they hold.
    pub success: Vec<OpRequest>,
    /// Operations if one does not.
    pub failure: Vec<OpRequest>,
}

/// One condition: every key of `range` must satisfy it. An absent key counts as zero, and for a
/// value compares false whatever the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compare {
    /// The key, or the interval all keys of which must satisfy the condition.
    pub range: KeyRange,
    /// How the key's own side relates to the given side.
    pub op: CompareOp,
    /// What is compared, and the given side.
    pub target: CompareTarget,
}

/// How a key's own side must relate to the given side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompareOp {
    /// Own == given.
    Equal,
    /// Own != given.
    NotEqual,
    /// Own > given.
    Greater,
    /// Own < given.
    Less,
}

/// What is compared, with the given side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompareTarget {
    /// The version.
    Version(i64),
    /// The create revision; `Equal` to 0 means absent.
    Create(Revision),
    /// The mod revision.
    Mod(Revision),
    /// The value.
    Value(Bytes),
    /// The lease.
    Lease(LeaseId),
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpRequest {
    /// Write.
    Put(PutRequest),
    /// Delete.
    Delete(DeleteRequest),
    /// Read.
    Range(RangeRequest),
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// `header.revision`.
    pub revision: Revision,
    /// The rest.
    pub body: ReplyBody,
}

/// An answer without its header; its kind is the request's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplyBody {
    /// To a put.
    Put(PutReply),
    /// To a delete.
    Delete(DeleteReply),
    /// To a range.
    Range(RangeReply),
    /// To a transaction.
    Txn(TxnReply),
    /// To a compaction.
    Compact,
    /// To a grant.
    LeaseGrant {
        /// The lease that was made.
        id: LeaseId,
        /// Its time to live in seconds.
        ttl: i64,
    },
    /// To a revoke.
    LeaseRevoke,
    /// To a keepalive.
    LeaseKeepAlive {
        /// Seconds from now; 0 or less: the lease does not exist.
        ttl: i64,
    },
    /// To a question for the time to live.
    LeaseTimeToLive {
        /// Whole seconds left; -1: the lease does not exist. 0 and less else: about to end.
        ttl: i64,
        /// Seconds it was granted.
        granted_ttl: i64,
        /// Its keys, if asked for, in any order.
        keys: Vec<Bytes>,
    },
}

/// Answer to a put.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PutReply {
    /// The key before, if asked for and it existed.
    pub prev_kv: Option<KeyValue>,
}

/// Answer to a delete.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeleteReply {
    /// Number of keys deleted.
    pub deleted: i64,
    /// The deleted keys in key order, if asked for.
    pub prev_kvs: Vec<KeyValue>,
}

/// Answer to a range.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeReply {
    /// The keys, ascending.
    pub kvs: Vec<KeyValue>,
    /// Keys in the range, whatever the limit.
    pub count: i64,
    /// The limit cut keys off.
    pub more: bool,
}

/// Answer to a transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TxnReply {
    /// The conditions held.
    pub succeeded: bool,
    /// One answer for each operation of the branch that ran.
    pub responses: Vec<OpReply>,
}

/// Answer to one operation of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpReply {
    /// To a put.
    Put(PutReply),
    /// To a delete.
    Delete(DeleteReply),
    /// To a range.
    Range(RangeReply),
}

impl Operation {
    /// The answer, if there was one.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.outcome {
            Outcome::Ok(reply) => Some(reply),
            Outcome::Refused(_) | Outcome::Unknown => None,
        }
    }
}

impl Request {
    /// Whether the store promises a current answer: everything that goes through the log and
    /// every read that is not serializable. Not so are keepalives and questions to a lease, whose
    /// header is the asked member's own, and, as in etcd, transactions of serializable reads or
    /// of conditions only.
    pub fn is_linearizable(&self) -> bool {
        match self {
            Self::Put(_)
            | Self::Delete(_)
            | Self::Compact { .. }
            | Self::LeaseGrant { .. }
            | Self::LeaseRevoke { .. } => true,
            Self::Range(range) => !range.serializable,
            Self::Txn(txn) => txn
                .success
                .iter()
                .chain(&txn.failure)
                .any(|op| !matches!(op, OpRequest::Range(RangeRequest { serializable: true, .. }))),
            Self::LeaseKeepAlive { .. } | Self::LeaseTimeToLive { .. } => false,
        }
    }
}
