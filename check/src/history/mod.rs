//! What clients saw, as plain values: the input of every checker.
//!
//! A recorder (the simulator, a fault test) fills a [`History`] while clients run and never looks
//! into it; checkers read it and never change it. The types follow the etcd v3 API field for
//! field where a field can be judged, and leave out what cannot.
//!
//! Rules for recorders
//! - Times are nanoseconds of one monotonic clock for the whole history, read by the client
//!   *before* it sends ([`Operation::invoked`]) and *after* it has the answer
//!   ([`Operation::completed`]). Two equal times count as concurrent.
//! - An outcome is [`Outcome::Refused`] only when the operation certainly had no effect and never
//!   will. Whatever is not certain is [`Outcome::Unknown`]. When in doubt: unknown.
//! - A client that repeats a request records every attempt as an operation of its own.
//! - The store starts empty at revision 1 and only the operations of the history, and the ends of
//!   leases, change it. What an administrator does besides (compaction by timer) must be recorded
//!   too, or allowed in the checker's settings.
//! - The order of the vectors means nothing, but for the messages of one watch and the uses of
//!   one fenced resource, which stand in the order they happened.

mod kv;
mod lock;
mod operation;
mod watch;

pub use kv::{Change, Event, EventKind, KeyRange, KeyValue};
pub use lock::{FenceUse, LockHold};
pub use operation::{
    Compare, CompareOp, CompareTarget, DeleteReply, DeleteRequest, OpReply, OpRequest, Operation, Outcome,
    PutReply, PutRequest, RangeReply, RangeRequest, Refusal, Reply, ReplyBody, Request, TxnReply, TxnRequest,
};
pub use watch::{Watch, WatchMessage, WatchRequest};

/// A client, that is one sequential session or many concurrent calls of one process.
pub type ClientId = u64;
/// A member of the cluster.
pub type MemberId = u64;
/// A lease; 0 is none.
pub type LeaseId = i64;
/// A main revision. An empty new store is at 1; every command that changes a key makes one more.
pub type Revision = i64;
/// Nanoseconds of the history's one monotonic clock.
pub type Nanos = u64;

/// Everything that was seen in one run against one cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// The calls, with their answers where there were any.
    pub operations: Vec<Operation>,
    /// The watches, each with all its messages.
    pub watches: Vec<Watch>,
    /// Who believed to hold which lock.
    pub holds: Vec<LockHold>,
    /// Uses of resources that are guarded by fencing tokens, in the order the resource saw them.
    pub fence_uses: Vec<FenceUse>,
    /// All changes the store committed, from revision 2 on, in order, if somebody knows them: the
    /// simulator reads them out of a store, a fault test collects them with a watch on every key.
    /// `None` lets the checkers work them out from what clients saw, which can leave room for
    /// doubt where outcomes are unknown, and doubt is never reported.
    pub truth: Option<Vec<Change>>,
}
