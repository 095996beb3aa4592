//! The write-ahead log as bytes: records, frames, segments, and how a log is read back.
//!
//! The room encodes what must be durable before the member may answer (log entries, the hard
//! state, the point after which the log restarts once a snapshot was installed) and turns the
//! bytes of the segments back into a log after a restart. It refuses to open files, to sync, and
//! to guess: bytes that cannot be explained by a crash are an error, never a shorter log.
//!
//! Layout: a log is a chain of segments, numbered without holes. A segment is one sector of
//! header and then frames, each at the start of a sector. A frame is one write to the disk and
//! holds the records of one or more [`WalBatch`]es. Frames are numbered without holes over the
//! whole life of the log, and each carries the number of the last frame that was known to be
//! durable when it was written (the synced mark).
//!
//! Invariants:
//! - A frame is in the log whole or not at all (checksum, seeded with the segment's own salt, so
//!   that what an earlier use of a recycled file left behind never passes for a frame).
//! - A bad frame that a later frame or segment proves to have been durable is damage: recovery
//!   refuses. A bad frame without such a proof was never acknowledged: it and what follows is cut.
//! - An entry with an index at or below the last one replaces the log from there on (Raft's rule
//!   for conflicting entries); an entry that leaves a hole is an error.
//! - Every decoder is total: any bytes give a result or an error, and no length is believed
//!   before it was compared with the bytes at hand.
//!
//! One thing cannot be told apart: damage in the very last frame, and a crash while it was
//! written. The log is then cut before that frame.

mod chain;
mod error;
mod frame;
mod record;
mod recovery;
mod segment;

use bytes::Bytes;

use crate::types::{ClusterId, LogIndex, MemberId, Term};

pub use chain::{Chain, ChainError};
pub use error::WalError;
pub use frame::{FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, encode_frame, frame_bytes};
pub use record::{BatchBuilder, Record, RecordError, WalBatch, records};
pub use recovery::{Recovered, Recovery, Tail};
pub use segment::{FORMAT_VERSION, SECTOR_BYTES, SEGMENT_HEADER_BYTES, Salt, SegmentHeader};

/// Whose log it is; written into every segment and checked when the log is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The member.
    pub member_id: MemberId,
}

/// One entry of the Raft log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Position in the log.
    pub index: LogIndex,
    /// Term in which a leader created it.
    pub term: Term,
    /// Number of raft's `EntryType`; opaque here.
    pub kind: u8,
    /// The payload; empty for the entry a new leader commits first.
    pub data: Bytes,
}

/// What Raft needs to remember beside the entries (section 5.2 of the Raft paper), and the
/// commit index as a hint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// Latest term seen.
    pub term: Term,
    /// Member voted for in that term, 0 for none.
    pub vote: u64,
    /// Highest entry known to be committed. May lag after a crash, never leads.
    pub commit: LogIndex,
}

/// A position in the log together with its entry's term: what Raft compares logs by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogPoint {
    /// Position.
    pub index: LogIndex,
    /// Term of the entry there.
    pub term: Term,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let end = at.checked_add(8)?;
    Some(u64::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
}
