//! Consensus: owns the `raft` crate's `RawNode`, guards its edges, and turns its `Ready`s into
//! log writes, messages and committed entries.
//!
//! Refuses: applying anything, files, sockets, time (ticks are given), the crate's own
//! randomness (timeouts are drawn from a seed).
//! Invariants: an entry is handed out as committed only when it is durable here and on a quorum;
//! a message that promises durability leaves only after the write it speaks of; there is one
//! path for one, three and five members.

mod ingress;
mod membership;
mod owner;
#[cfg(test)]
mod owner_tests;
mod snapshot;
mod start;
mod tail;

pub use ingress::Refused;
pub use membership::{MembershipChange, membership_payload};
pub use owner::{CommittedEntry, ConfState, Drained, Owner, OwnerConfig, ReadRound, Role};
pub use snapshot::{Arrival, SnapshotPoint};
pub use start::StartPoint;
pub use tail::LogTail;
