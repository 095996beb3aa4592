//! Locks: who believed to hold one, and resources guarded by their tokens.

use bytes::Bytes;

use super::{ClientId, KeyRange, Nanos, Revision};

/// One time a client held a lock of the usual recipe: one key per contender under a common
/// prefix, each hanging on its contender's lease; the live key with the smallest create revision
/// holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockHold {
    /// Who.
    pub client: ClientId,
    /// All contenders' keys.
    pub contenders: KeyRange,
    /// The client's own key.
    pub key: Bytes,
    /// The fencing token: the own key's create revision.
    pub token: Revision,
    /// `header.revision` of the answer that told the client that it holds the lock. A client that
    /// waited for another's key to go reads once more before it believes.
    pub acquired_revision: Revision,
    /// When the client had that answer.
    pub acquired: Nanos,
    /// When the client stopped to believe that it holds the lock; `None`: until the end of the
    /// history. For people who read reports.
    pub released: Option<Nanos>,
}

/// One use of a resource that remembers the largest token it saw and refuses smaller ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FenceUse {
    /// Which resource.
    pub resource: Bytes,
    /// Who used it.
    pub client: ClientId,
    /// The fencing token presented.
    pub token: Revision,
    /// When the resource handled it.
    pub at: Nanos,
    /// Whether the resource took it.
    pub accepted: bool,
}
