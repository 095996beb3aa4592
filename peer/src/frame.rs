//! Frames: what travels on a connection after the handshake.
//!
//! ```text
//! payload length u32 | kind u8 | zero u8 ×3 | sequence u64 | crc32c of the payload |
//! crc32c of the header before it | payload
//! ```
//!
//! Both checksums start from the connection's [`Salt`], which each side derives from the two
//! handshake messages, so a frame of another connection, or one sent back, does not check. The
//! header has its own checksum, so that a length is believed before the payload is waited for.
//!
//! Pure: bytes in, frames or a reason to close out. Nothing is allocated here for a length that
//! was only announced.
//!
//! Invariants:
//! - Sequence numbers start at 1 in each direction of a connection and leave out none: a frame
//!   that is lost, repeated or out of order is an error.
//! - Any bytes give a frame, the wish for more bytes, or an error; a changed bit is never a frame.

use bytes::{Buf, Bytes, BytesMut};

/// Size of a frame's header.
pub const HEADER_BYTES: usize = 24;

/// Payloads up to this size are copied out of the receive buffer: a slice of it would keep the
/// whole buffer in memory for as long as the owner keeps the message.
const COPY_BYTES_MAX: usize = 4 * 1024;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Nothing: the sender lives.
    Ping = 0,
    /// A message of the owner, opaque.
    Message = 1,
    /// The receiver does not go on, and why.
    Refused = 2,
    /// What a snapshot consists of.
    Offer = 3,
    /// How much of it the receiver has.
    Resume = 4,
    /// A piece of a file.
    Chunk = 5,
    /// The checksum of a file that was sent.
    FileEnd = 6,
    /// The checksum of a snapshot that was sent.
    Done = 7,
    /// The receiver has the whole snapshot, durably.
    Accepted = 8,
}

impl Kind {
    fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Ping,
            1 => Self::Message,
            2 => Self::Refused,
            3 => Self::Offer,
            4 => Self::Resume,
            5 => Self::Chunk,
            6 => Self::FileEnd,
            7 => Self::Done,
            8 => Self::Accepted,
            _ => return None,
        })
    }
}

/// Where the checksums of one direction of a connection start from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt(u32);

impl Salt {
    /// The salts of a connection, from the checksums of its two handshake messages, each of which
    /// covers a random number: first the dialler's direction, then the acceptor's.
    pub fn of_handshake(dialler_crc: u32, acceptor_crc: u32) -> (Self, Self) {
        let both =
            crc32c::crc32c_append(crc32c::crc32c(&dialler_crc.to_le_bytes()), &acceptor_crc.to_le_bytes());
        (Self(both), Self(!both))
    }
}

/// A frame that arrived unharmed and in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// Its content.
    pub payload: Bytes,
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The header was changed on the way, or belongs to another connection.
    #[error("frame header does not match its checksum")]
    HeaderChecksum,
    /// The payload was changed on the way.
    #[error("frame payload does not match its checksum: sequence={0}")]
    PayloadChecksum(u64),
    /// A frame was lost, repeated, or came out of order.
    #[error("frame out of order: expected={expected} found={found}")]
    Sequence {
        /// The number whose turn it was.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The payload is larger than the bound.
    #[error("frame too large: bytes={bytes} max={bytes_max}")]
    TooLarge {
        /// Its announced size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// A kind that this version does not know.
    #[error("frame of an unknown kind: kind={0}")]
    Kind(u8),
    /// Bytes that must be zero are not.
    #[error("frame header has unknown flags")]
    Reserved,
}

/// Writes the frames of one direction of a connection.
#[derive(Debug)]
pub struct Encoder {
    salt: Salt,
    next: u64,
}

impl Encoder {
    /// For a fresh connection.
    pub fn new(salt: Salt) -> Self {
        Self { salt, next: 1 }
    }

    /// The header of the next frame, for this payload.
    ///
    /// # Panics
    ///
    /// If the payload is 4 GiB or larger; callers check it against the configured bound before.
    pub fn header(&mut self, kind: Kind, payload: &[u8]) -> [u8; HEADER_BYTES] {
        let length = u32::try_from(payload.len()).expect("frames are bounded far below 4 GiB");
        let mut header = [0; HEADER_BYTES];
        header[0..4].copy_from_slice(&length.to_le_bytes());
        header[4] = kind as u8;
        header[8..16].copy_from_slice(&self.next.to_le_bytes());
        header[16..20].copy_from_slice(&crc32c::crc32c_append(self.salt.0, payload).to_le_bytes());
        let crc = crc32c::crc32c_append(self.salt.0, &header[..20]);
        header[20..24].copy_from_slice(&crc.to_le_bytes());
        self.next += 1;
        header
    }
}

#[derive(Clone, Copy, Debug)]
struct Header {
    kind: Kind,
    payload_bytes: usize,
    payload_crc: u32,
}

/// Reads the frames of one direction of a connection. After an error it is of no more use.
#[derive(Debug)]
pub struct Decoder {
    salt: Salt,
    next: u64,
    payload_bytes_max: usize,
    header: Option<Header>,
}

impl Decoder {
    /// For a fresh connection whose payloads have at most this size.
    pub fn new(salt: Salt, payload_bytes_max: usize) -> Self {
        Self { salt, next: 1, payload_bytes_max, header: None }
    }

    /// Takes the next frame out of `buffer`, if it is all there.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(bytes) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
                let header = self.check_header(bytes)?;
                buffer.advance(HEADER_BYTES);
                *self.header.insert(header)
            }
        };
        if buffer.len() < header.payload_bytes {
            return Ok(None);
        }
        if crc32c::crc32c_append(self.salt.0, &buffer[..header.payload_bytes]) != header.payload_crc {
            return Err(FrameError::PayloadChecksum(self.next));
        }
        let payload = if header.payload_bytes <= COPY_BYTES_MAX {
            let copy = Bytes::copy_from_slice(&buffer[..header.payload_bytes]);
            buffer.advance(header.payload_bytes);
            copy
        } else {
            buffer.split_to(header.payload_bytes).freeze()
        };
        self.header = None;
        self.next += 1;
        Ok(Some(Frame { kind: header.kind, payload }))
    }

    /// How many bytes more than the `buffered` ones the next step needs.
    pub fn missing(&self, buffered: usize) -> usize {
        self.header.map_or(HEADER_BYTES, |header| header.payload_bytes).saturating_sub(buffered)
    }

    fn check_header(&self, header: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let u32_at =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if crc32c::crc32c_append(self.salt.0, &header[..20]) != u32_at(20) {
            return Err(FrameError::HeaderChecksum);
        }
        let found = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
        if found != self.next {
            return Err(FrameError::Sequence { expected: self.next, found });
        }
        if header[5..8] != [0; 3] {
            return Err(FrameError::Reserved);
        }
        let kind = Kind::from_wire(header[4]).ok_or(FrameError::Kind(header[4]))?;
        let payload_bytes = usize::try_from(u32_at(0)).unwrap_or(usize::MAX);
        if payload_bytes > self.payload_bytes_max {
            return Err(FrameError::TooLarge { bytes: payload_bytes, bytes_max: self.payload_bytes_max });
        }
        Ok(Header { kind, payload_bytes, payload_crc: u32_at(16) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 20_000;

    fn salt(number: u32) -> Salt {
        Salt::of_handshake(number, !number).0
    }

    fn encode(encoder: &mut Encoder, kind: Kind, payload: &[u8]) -> Vec<u8> {
        [encoder.header(kind, payload).as_slice(), payload].concat()
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let sizes = prop_oneof![4 => 0..64_usize, 1 => COPY_BYTES_MAX - 2..COPY_BYTES_MAX + 3];
        proptest::collection::vec(
            sizes.prop_flat_map(|size| proptest::collection::vec(any::<u8>(), size)),
            1..8,
        )
    }

    proptest! {
        #[test]
        fn frames_arrive_as_sent_wherever_the_stream_is_cut(
            payloads in payloads(),
            seed in any::<u32>(),
            cuts in proptest::collection::vec(1..40_usize, 1..400),
        ) {
            let mut encoder = Encoder::new(salt(seed));
            let stream: Vec<u8> =
                payloads.iter().flat_map(|payload| encode(&mut encoder, Kind::Message, payload)).collect();
            let mut decoder = Decoder::new(salt(seed), MAX);
            let (mut buffer, mut rest, mut arrived) = (BytesMut::new(), stream.as_slice(), Vec::new());
            let mut cuts = cuts.into_iter();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap_or(usize::MAX).min(rest.len()));
                (rest, _) = (later, buffer.extend_from_slice(now));
                while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                    prop_assert_eq!(frame.kind, Kind::Message);
                    arrived.push(frame.payload.to_vec());
                }
                prop_assert!(decoder.missing(buffer.len()) > 0);
            }
            prop_assert_eq!(arrived, payloads);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn any_bytes_are_a_frame_a_wait_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            let decoded = Decoder::new(salt(7), MAX).decode(&mut buffer);
            if bytes.len() < HEADER_BYTES {
                prop_assert_eq!(decoded, Ok(None));
            } else {
                // One in four billion has the right checksum.
                prop_assert_eq!(decoded, Err(FrameError::HeaderChecksum));
            }
        }

        /// Valid checksums over arbitrary fields: what a checksum does not catch.
        #[test]
        fn any_header_with_a_valid_checksum_is_a_frame_a_wait_or_an_error(
            mut header in proptest::array::uniform20(any::<u8>()),
            small in any::<bool>(),
            payload in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            if small {
                header[1..4].fill(0);
                header[4..16].copy_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
            }
            let crc = crc32c::crc32c_append(salt(1).0, &header);
            let stream = [header.as_slice(), &crc.to_le_bytes(), &payload].concat();
            let mut buffer = BytesMut::from(stream.as_slice());
            let _ = Decoder::new(salt(1), MAX).decode(&mut buffer);
        }
    }

    #[test]
    fn each_flipped_bit_is_noticed() {
        let stream = encode(&mut Encoder::new(salt(3)), Kind::Message, b"some words that matter");
        for bit in 0..stream.len() * 8 {
            let mut harmed = stream.clone();
            harmed[bit / 8] ^= 1 << (bit % 8);
            let decoded = Decoder::new(salt(3), MAX).decode(&mut BytesMut::from(harmed.as_slice()));
            assert!(decoded.is_err(), "bit={bit} decoded={decoded:?}");
        }
    }

    #[test]
    fn a_repeated_a_lost_and_a_foreign_frame_are_errors() {
        let mut encoder = Encoder::new(salt(3));
        let first = encode(&mut encoder, Kind::Message, b"1");
        let second = encode(&mut encoder, Kind::Message, b"2");
        let mut decoder = Decoder::new(salt(3), MAX);
        assert!(decoder.decode(&mut BytesMut::from(first.as_slice())).unwrap().is_some());
        let repeated = decoder.decode(&mut BytesMut::from(first.as_slice()));
        assert_eq!(repeated, Err(FrameError::Sequence { expected: 2, found: 1 }));
        let lost = Decoder::new(salt(3), MAX).decode(&mut BytesMut::from(second.as_slice()));
        assert_eq!(lost, Err(FrameError::Sequence { expected: 1, found: 2 }));
        let foreign = Decoder::new(salt(4), MAX).decode(&mut BytesMut::from(first.as_slice()));
        assert_eq!(foreign, Err(FrameError::HeaderChecksum));
        let (ours, theirs) = Salt::of_handshake(1, 2);
        let reflected = encode(&mut Encoder::new(ours), Kind::Message, b"1");
        let reflected = Decoder::new(theirs, MAX).decode(&mut BytesMut::from(reflected.as_slice()));
        assert_eq!(reflected, Err(FrameError::HeaderChecksum));
    }

    #[test]
    fn a_giant_frame_is_refused_by_its_header_alone() {
        let giant = vec![0; MAX + 1];
        let header = Encoder::new(salt(3)).header(Kind::Message, &giant);
        let decoded = Decoder::new(salt(3), MAX).decode(&mut BytesMut::from(header.as_slice()));
        assert_eq!(decoded, Err(FrameError::TooLarge { bytes: MAX + 1, bytes_max: MAX }));
    }
}
