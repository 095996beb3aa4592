//! Snapshots: directories of files that travel beside the messages, on connections of their own.
//!
//! ```text
//! sender                              receiver
//! Offer    message, names, sizes ──►  checks names, bounds, free space
//!                                ◄──  Resume   how much of each file is there, durably
//! Chunk    a piece of a file     ──►  appends it
//! FileEnd  checksum of the file  ──►  syncs the file, reads it back and compares
//! Done     checksum of all       ──►  compares, syncs the directories, hands over
//!                                ◄──  Accepted, or at any time Refused with the reason
//! ```
//!
//! Each frame has its crc32c, each file and the whole an xxh3 of 128 bits. After a lost connection
//! the sender comes again and goes on where the receiver is. What the receiver has is kept for one
//! snapshot of each sender; another one replaces it. Only regular files travel: empty directories
//! and permissions do not.
//!
//! Invariants:
//! - A snapshot is handed over at most once for each `send`, whole, compared and synced.
//! - A receiver counts only what it synced.
//! - Names stay below the staging directory.
//! - Each `send` ends in exactly one report, also when the transport stops meanwhile.

mod offer;
mod pace;
mod receive;
mod send;
mod source;
mod staging;

pub(crate) use receive::receive;
pub(crate) use send::{Outgoing, send};
pub(crate) use staging::{Slot, clear_stale, discard};

use crate::handshake::Refusal;

/// Files travel in pieces of this size.
const CHUNK_BYTES: usize = 256 * 1024;

/// Why a snapshot did not arrive.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The receiver is no member, or is none any more.
    #[error("receiver is not a member")]
    UnknownMember,
    /// The receiver does not take it.
    #[error("receiver refused the snapshot: {0}")]
    Refused(Refusal),
    /// The files cannot be read.
    #[error("cannot read the snapshot, check the disk: {0}")]
    Files(String),
    /// The description alone is larger than a frame.
    #[error("snapshot has too many files or too large a message: offer_bytes={bytes} max={bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The receiver could not be reached, or not for long enough.
    #[error("snapshot was not delivered: {0}")]
    Undelivered(String),
    /// A newer snapshot is sent to the same member instead.
    #[error("a newer snapshot is sent instead")]
    Superseded,
    /// The transport was stopped.
    #[error("peer transport was stopped")]
    Stopped,
}

impl SnapshotError {
    /// Whether the same snapshot may arrive when it is sent again.
    fn is_worth_another_try(&self) -> bool {
        match self {
            Self::Undelivered(_) => true,
            Self::Refused(refusal) => !matches!(
                refusal,
                Refusal::Removed { .. }
                    | Refusal::DiskReplaced { .. }
                    | Refusal::NoSpace { .. }
                    | Refusal::TooLarge { .. }
                    | Refusal::WriteFailed(_)
                    | Refusal::BadSnapshot(_)
            ),
            _ => false,
        }
    }
}
