//! Backup archives: all rows of the engine in one stream of bytes, for `Maintenance.Snapshot`,
//! and back into a new data directory.
//!
//! ```text
//! header    magic 8 | format u32 | 0 u32 | cluster u64 | member u64 | revision i64 |
//!           applied index u64 | applied term u64 | zeros to 508 | crc32c u32
//! block     magic u32 | family u8 | 0 u8 x3 | number u64 | rows u32 | payload length u32 |
//!           crc32c u32 | payload: (key length u32 | value length u32 | key | value)...
//! trailer   magic u32 | 0 u32 | blocks u64 | rows of each family u64 x5 | crc32c u32
//! padding   zeros up to a multiple of 512 bytes
//! ```
//!
//! All numbers are little-endian. Checksums of blocks and trailer start from the header's, so
//! that blocks of two archives do not mix. Families and keys are in ascending order.
//!
//! The server appends the SHA-256 of everything before to the stream; `etcdctl snapshot save`
//! checks only that the size is 32 above a multiple of 512. [`verify_archive`] and [`restore`]
//! check the digest if it is there.
//!
//! The room does not know what rows mean; who restores rewrites the few that must change.

mod read;
mod restore;
#[cfg(test)]
mod tests;
mod write;

use folkmoot_core::env::{Engine, EngineError, Family, MemoryEngine, ScanStep};
use folkmoot_core::types::{ClusterId, MemberId};
use folkmoot_core::wal::LogPoint;

pub use read::verify_archive;
pub use restore::{RestoreOptions, RestoreRow, restore};
pub use write::write_archive;

/// Version of the archive's layout.
pub const ARCHIVE_FORMAT: u32 = 1;

const HEADER_BYTES: usize = 512;
const ALIGNMENT_BYTES: usize = 512;
const BLOCK_HEADER_BYTES: usize = 28;
const TRAILER_BYTES: usize = 60;
const DIGEST_BYTES: usize = 32;
/// A block is closed above this size.
const BLOCK_BYTES_TARGET: usize = 64 << 10;
/// Rows are bounded far below.
const BLOCK_BYTES_MAX: u32 = 256 << 20;

const HEADER_MAGIC: [u8; 8] = *b"FOLKARC\n";
const BLOCK_MAGIC: [u8; 4] = *b"BLK\n";
const TRAILER_MAGIC: [u8; 4] = *b"END\n";

/// What an archive says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArchiveHeader {
    /// Cluster it was taken from.
    pub cluster_id: ClusterId,
    /// Member it was taken from.
    pub member_id: MemberId,
    /// Revision of the store.
    pub revision: i64,
    /// Last log entry that is in it.
    pub applied: LogPoint,
}

/// What an archive holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArchiveSummary {
    /// What it says about itself.
    pub header: ArchiveHeader,
    /// Size in bytes, without a digest after it; a multiple of 512.
    pub bytes: u64,
    /// Rows of each family, by [`Family::number`].
    pub family_rows: [u64; Family::ALL.len()],
    /// SHA-256 of those bytes.
    pub sha256: [u8; DIGEST_BYTES],
    /// Whether the digest followed the archive, and matched.
    pub has_digest: bool,
}

impl ArchiveSummary {
    /// Rows of all families.
    pub fn rows(&self) -> u64 {
        self.family_rows.iter().sum()
    }
}

/// Rows that stand still while they are read.
pub trait RowSource {
    /// Visits all rows of a family in key order.
    fn visit_rows(
        &self,
        family: Family,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanStep,
    ) -> Result<(), EngineError>;
}

/// Stands still only if nobody writes meanwhile.
impl RowSource for MemoryEngine {
    fn visit_rows(
        &self,
        family: Family,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanStep,
    ) -> Result<(), EngineError> {
        self.scan(family, &[], None, visit)
    }
}

fn encode_header(header: &ArchiveHeader) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&HEADER_MAGIC);
    bytes[8..12].copy_from_slice(&ARCHIVE_FORMAT.to_le_bytes());
    let words = [
        header.cluster_id.0,
        header.member_id.0,
        header.revision.cast_unsigned(),
        header.applied.index.0,
        header.applied.term.0,
    ];
    for (at, word) in words.iter().enumerate() {
        bytes[16 + at * 8..24 + at * 8].copy_from_slice(&word.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
    bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The checksum at the end of an encoded header: the seed of all others.
fn header_crc(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c(&header[..HEADER_BYTES - 4])
}
