//! Frames: one write to the disk, whole or absent.
//!
//! ```text
//! magic u32 | payload length u32 | frame number u64 | synced mark u64 | crc32c of the payload |
//! crc32c of the header before it | payload | zeros to the end of the sector
//! ```
//!
//! Both checksums start from the segment's [`Salt`]. The header has its own, so that a length is
//! believed before the payload is read, and so that a client cannot make recovery read megabytes
//! over and over by storing values that look like headers.

use super::segment::{SECTOR_BYTES, Salt};
use super::{u32_at, u64_at};

/// Size of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 32;
/// Largest payload of a frame.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 1 << 30;

const MAGIC: u32 = u32::from_le_bytes(*b"FRM\n");

/// The space that a frame with this payload takes in a segment.
pub const fn frame_bytes(payload_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + payload_bytes).next_multiple_of(SECTOR_BYTES)
}

/// Appends a frame to `out`: its payload is `parts` one after the other.
///
/// # Panics
///
/// If the payload is larger than [`FRAME_PAYLOAD_BYTES_MAX`]; the writer splits before.
pub fn encode_frame(out: &mut Vec<u8>, salt: Salt, number: u64, synced: u64, parts: &[&[u8]]) {
    let payload_bytes: usize = parts.iter().map(|part| part.len()).sum();
    assert!(payload_bytes <= FRAME_PAYLOAD_BYTES_MAX, "frame too large: bytes={payload_bytes}");
    let start = out.len();
    out.reserve(frame_bytes(payload_bytes));
    let length = u32::try_from(payload_bytes).expect("bounded above");
    let payload_crc = parts.iter().fold(salt.0, |crc, part| crc32c::crc32c_append(crc, part));
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&synced.to_le_bytes());
    out.extend_from_slice(&payload_crc.to_le_bytes());
    let header_crc = crc32c::crc32c_append(salt.0, &out[start..]);
    out.extend_from_slice(&header_crc.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.resize(start + frame_bytes(payload_bytes), 0);
}

/// A frame's header with a valid checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameHeader {
    pub number: u64,
    pub synced: u64,
    payload_bytes: usize,
    payload_crc: u32,
}

impl FrameHeader {
    /// The header at `at`, if there is one of this segment.
    pub fn read(bytes: &[u8], at: usize, salt: Salt) -> Option<Self> {
        if u32_at(bytes, at)? != MAGIC {
            return None;
        }
        let header = bytes.get(at..at.checked_add(FRAME_HEADER_BYTES)?)?;
        let checked = FRAME_HEADER_BYTES - 4;
        if u32_at(header, checked)? != crc32c::crc32c_append(salt.0, &header[..checked]) {
            return None;
        }
        Some(Self {
            number: u64_at(header, 8)?,
            synced: u64_at(header, 16)?,
            payload_bytes: usize::try_from(u32_at(header, 4)?).ok()?,
            payload_crc: u32_at(header, 24)?,
        })
    }

    /// The payload of the frame whose header is at `at`, if it is all there and unharmed.
    pub fn payload<'a>(&self, bytes: &'a [u8], at: usize, salt: Salt) -> Option<&'a [u8]> {
        let start = at.checked_add(FRAME_HEADER_BYTES)?;
        let payload = bytes.get(start..start.checked_add(self.payload_bytes)?)?;
        (crc32c::crc32c_append(salt.0, payload) == self.payload_crc).then_some(payload)
    }

    /// Where the sector after the frame at `at` starts.
    pub fn end(&self, at: usize) -> usize {
        at.saturating_add(frame_bytes(self.payload_bytes))
    }
}
