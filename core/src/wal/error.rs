//! Why a log was refused. Each message says where, what, and what an operator can do.

use super::{ChainError, Identity, RecordError};
use crate::types::LogIndex;

/// A log that cannot be read. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WalError {
    /// No header where one must be.
    #[error(
        "file is not a write-ahead log segment; remove it if it does not belong here, otherwise \
         remove this member and add it again with an empty data directory, or restore a backup: \
         segment={segment}"
    )]
    NotASegment {
        /// File name.
        segment: String,
    },
    /// The header's checksum is wrong.
    #[error(
        "header of a write-ahead log segment is damaged; remove this member and add it again with \
         an empty data directory, or restore a backup: segment={segment}"
    )]
    HeaderDamaged {
        /// File name.
        segment: String,
    },
    /// A newer program wrote it.
    #[error(
        "write-ahead log has a format that this version does not read; start the version that \
         wrote it, or a newer one: segment={segment} format={version} newest_readable=1"
    )]
    UnsupportedVersion {
        /// File name.
        segment: String,
        /// Its format.
        version: u32,
    },
    /// The log of another member or cluster.
    #[error(
        "write-ahead log belongs to another member; give each member its own data directory: \
         segment={segment} cluster={} member={} expected_cluster={} expected_member={}",
        found.cluster_id, found.member_id, expected.cluster_id, expected.member_id
    )]
    WrongIdentity {
        /// File name.
        segment: String,
        /// Whose it is.
        found: Identity,
        /// Whose it should be.
        expected: Identity,
    },
    /// The file is shorter than it was made.
    #[error(
        "write-ahead log segment was cut short; remove this member and add it again with an empty \
         data directory, or restore a backup: segment={segment} bytes={bytes} \
         expected_bytes={expected_bytes}"
    )]
    Truncated {
        /// File name.
        segment: String,
        /// Its size.
        bytes: u64,
        /// The size in its header.
        expected_bytes: u64,
    },
    /// A hole in the chain, or files in the wrong order.
    #[error(
        "write-ahead log segment is missing; put it back, or remove this member and add it again \
         with an empty data directory, or restore a backup: segment={segment} sequence={found} \
         expected_sequence={expected}"
    )]
    MissingSegment {
        /// The file met instead.
        segment: String,
        /// Its number.
        found: u64,
        /// The number that should follow.
        expected: u64,
    },
    /// A frame that was durable is not readable any more.
    #[error(
        "write-ahead log is damaged in the middle: entries that were acknowledged cannot be read; \
         remove this member and add it again with an empty data directory, or restore a backup: \
         segment={segment} offset={offset} frame={frame} proof={proof}"
    )]
    Damaged {
        /// File name.
        segment: String,
        /// Where the readable part ends, in bytes.
        offset: u64,
        /// The frame that should be there.
        frame: u64,
        /// What proves that it was there.
        proof: String,
    },
    /// A valid frame with contents that are not records.
    #[error(
        "write-ahead log holds a record that this version does not understand; start the version \
         that wrote it, or a newer one: segment={segment} offset={offset}: {source}"
    )]
    Record {
        /// File name.
        segment: String,
        /// Where the frame starts, in bytes.
        offset: u64,
        /// What is wrong.
        source: RecordError,
    },
    /// Valid records that do not make a log.
    #[error(
        "write-ahead log does not follow its own rules; remove this member and add it again with \
         an empty data directory, or restore a backup: segment={segment} offset={offset}: {source}"
    )]
    Chain {
        /// File name.
        segment: String,
        /// Where the frame starts, in bytes.
        offset: u64,
        /// What is wrong.
        source: ChainError,
    },
    /// The hard state speaks of entries that are not there.
    #[error(
        "write-ahead log ends before its commit index: entries were lost; remove this member and \
         add it again with an empty data directory, or restore a backup: commit={commit} \
         last_index={last}"
    )]
    CommitBeyondEnd {
        /// Commit index of the hard state.
        commit: LogIndex,
        /// Last entry.
        last: LogIndex,
    },
}
