//! The head of a segment: whose log it is, where in the chain it stands, and what the log looked
//! like before it, so that all earlier segments can go.
//!
//! ```text
//! magic 8 | version u32 | 0 u32 | cluster u64 | member u64 | sequence u64 | nonce u64 |
//! size u64 | first frame u64 | term u64 | vote u64 | commit u64 | last index u64 |
//! last term u64 | zeros | crc32c u32 of all before
//! ```

use crate::types::{ClusterId, LogIndex, MemberId, Term};

use super::{HardState, Identity, LogPoint, WalError, u32_at, u64_at};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// Size of a segment's header; the first frame starts here.
pub const SEGMENT_HEADER_BYTES: usize = SECTOR_BYTES;
/// The version this code writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"FOLKWAL\n";
const CRC_AT: usize = SEGMENT_HEADER_BYTES - 4;

/// The seed of the checksums of one segment's frames. It depends on the log's identity, the
/// segment's number and a number drawn for the segment, so that frames of another log, of an
/// earlier use of the same file, or made up by a client inside a value, do not verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt(pub(super) u32);

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Whose log it is.
    pub identity: Identity,
    /// Number in the chain; the first segment of a log is 1.
    pub sequence: u64,
    /// Any number that cannot be foreseen.
    pub nonce: u64,
    /// Size of the file. It never changes, so a shorter file has lost something.
    pub segment_bytes: u64,
    /// Number of the first frame; all frames before it are durable.
    pub first_frame: u64,
    /// The hard state before the first frame.
    pub hard_state: HardState,
    /// The last entry before the first frame, or the point after which the log (re)started.
    pub last: LogPoint,
}

impl SegmentHeader {
    /// The seed for this segment's frames.
    pub fn salt(&self) -> Salt {
        let words = [self.identity.cluster_id.0, self.identity.member_id.0, self.sequence, self.nonce];
        Salt(words.iter().fold(0, |crc, word| crc32c::crc32c_append(crc, &word.to_le_bytes())))
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let words = [
            self.identity.cluster_id.0,
            self.identity.member_id.0,
            self.sequence,
            self.nonce,
            self.segment_bytes,
            self.first_frame,
            self.hard_state.term.0,
            self.hard_state.vote,
            self.hard_state.commit.0,
            self.last.index.0,
            self.last.term.0,
        ];
        for (at, word) in words.iter().enumerate() {
            bytes[16 + at * 8..24 + at * 8].copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header at the start of a segment's bytes. `name` is for the messages.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, WalError> {
        let segment = || name.to_owned();
        let not_a_segment = || WalError::NotASegment { segment: name.to_owned() };
        let header = bytes.get(..SEGMENT_HEADER_BYTES).ok_or_else(not_a_segment)?;
        if header[..8] != MAGIC {
            return Err(not_a_segment());
        }
        // Later versions keep the place of the version and of the checksum.
        let stored_crc = u32_at(header, CRC_AT).ok_or_else(not_a_segment)?;
        if stored_crc != crc32c::crc32c(&header[..CRC_AT]) {
            return Err(WalError::HeaderDamaged { segment: segment() });
        }
        let version = u32_at(header, 8).ok_or_else(not_a_segment)?;
        if version != FORMAT_VERSION {
            return Err(WalError::UnsupportedVersion { segment: segment(), version });
        }
        let word = |at: usize| u64_at(header, 16 + at * 8).ok_or_else(not_a_segment);
        Ok(Self {
            identity: Identity { cluster_id: ClusterId(word(0)?), member_id: MemberId(word(1)?) },
            sequence: word(2)?,
            nonce: word(3)?,
            segment_bytes: word(4)?,
            first_frame: word(5)?,
            hard_state: HardState { term: Term(word(6)?), vote: word(7)?, commit: LogIndex(word(8)?) },
            last: LogPoint { index: LogIndex(word(9)?), term: Term(word(10)?) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            identity: Identity { cluster_id: ClusterId(1), member_id: MemberId(2) },
            sequence: 3,
            nonce: 4,
            segment_bytes: 5,
            first_frame: 6,
            hard_state: HardState { term: Term(7), vote: 8, commit: LogIndex(9) },
            last: LogPoint { index: LogIndex(10), term: Term(11) },
        }
    }

    #[test]
    fn a_header_comes_back_as_it_was() {
        assert_eq!(SegmentHeader::decode("a", &header().encode()), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let bytes = header().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode("a", &flipped).is_err(), "bit={bit}");
        }
    }

    #[test]
    fn the_header_of_a_newer_version_is_named_as_such() {
        let mut bytes = header().encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        let error = SegmentHeader::decode("a", &bytes).expect_err("newer");
        assert_eq!(error, WalError::UnsupportedVersion { segment: "a".into(), version: 2 });
    }

    #[test]
    fn the_salt_depends_on_every_part_of_the_identity() {
        let base = header();
        let mut others = [base; 4];
        others[0].identity.cluster_id.0 += 1;
        others[1].identity.member_id.0 += 1;
        others[2].sequence += 1;
        others[3].nonce += 1;
        for other in others {
            assert_ne!(other.salt(), base.salt());
        }
    }
}
