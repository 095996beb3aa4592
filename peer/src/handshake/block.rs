//! A block: the envelope of every handshake message.

use bytes::{Buf, Bytes, BytesMut};

use crate::codec::Malformed;

/// The version of everything on the wire. Members speak with each other only in the same one.
pub(crate) const VERSION: u16 = 1;
/// Largest body of a greeting, a welcome or a refusal.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 4 * 1024;
/// Largest body of an answer that describes a cluster.
pub(crate) const INFO_BYTES_MAX: usize = 4 << 20;

const MAGIC: [u8; 4] = *b"FKMP";
const PREFIX_BYTES: usize = 12;
const HEADER_BYTES: usize = PREFIX_BYTES + 4;

/// What a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum BlockKind {
    /// The dialler wants to send messages.
    Messages = 1,
    /// The dialler wants to send a snapshot.
    Snapshot = 2,
    /// Asks for the members of the cluster.
    ClusterInfo = 3,
    /// Asks who answers.
    Probe = 4,
    /// Frames may follow.
    Welcome = 16,
    /// They may not.
    Refused = 17,
    /// Answers [`Self::ClusterInfo`].
    ClusterInfoAnswer = 18,
    /// Answers [`Self::Probe`].
    ProbeAnswer = 19,
}

impl BlockKind {
    fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Messages,
            2 => Self::Snapshot,
            3 => Self::ClusterInfo,
            4 => Self::Probe,
            16 => Self::Welcome,
            17 => Self::Refused,
            18 => Self::ClusterInfoAnswer,
            19 => Self::ProbeAnswer,
            _ => return None,
        })
    }
}

/// Bytes that are no handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// Whoever speaks is no member of this software.
    #[error("not the protocol between members, check the port")]
    Magic,
    /// Another version of the protocol.
    #[error("another version of the protocol between members: ours={VERSION} theirs={0}")]
    Version(u16),
    /// The body is larger than any handshake.
    #[error("handshake too large: bytes={bytes} max={bytes_max}")]
    TooLarge {
        /// Its announced size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// Changed on the way.
    #[error("handshake does not match its checksum")]
    Checksum,
    /// A kind that is unknown, or not expected here.
    #[error("handshake of an unexpected kind: kind={0}")]
    Kind(u8),
    /// The body does not say what it should.
    #[error("handshake is malformed: {0}")]
    Malformed(#[from] Malformed),
}

/// A block that arrived unharmed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    pub kind: BlockKind,
    pub body: Bytes,
    /// Its checksum, which goes into the salt of the frames that follow.
    pub crc: u32,
}

impl Block {
    /// A block to send, and its checksum.
    ///
    /// # Panics
    ///
    /// If the body is 4 GiB or larger; bodies are bounded far below.
    pub fn encode(kind: BlockKind, body: &[u8]) -> (Vec<u8>, u32) {
        let length = u32::try_from(body.len()).expect("bounded far below 4 GiB");
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[kind as u8, 0]);
        out.extend_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), body);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(body);
        (out, crc)
    }

    /// Takes a block out of `buffer`, if it is all there.
    pub fn decode(buffer: &mut BytesMut, body_bytes_max: usize) -> Result<Option<Self>, BlockError> {
        // What is wrong is said as soon as it is known: a stranger may never send the rest.
        let known = buffer.len().min(MAGIC.len());
        if buffer[..known] != MAGIC[..known] {
            return Err(BlockError::Magic);
        }
        let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let u32_at =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version != VERSION {
            return Err(BlockError::Version(version));
        }
        let bytes = usize::try_from(u32_at(8)).unwrap_or(usize::MAX);
        if bytes > body_bytes_max {
            return Err(BlockError::TooLarge { bytes, bytes_max: body_bytes_max });
        }
        let (kind, crc) = (header[6], u32_at(PREFIX_BYTES));
        let checked = crc32c::crc32c(&header[..PREFIX_BYTES]);
        if buffer.len() < HEADER_BYTES + bytes {
            return Ok(None);
        }
        buffer.advance(HEADER_BYTES);
        let body = buffer.split_to(bytes).freeze();
        if crc32c::crc32c_append(checked, &body) != crc {
            return Err(BlockError::Checksum);
        }
        let kind = BlockKind::from_wire(kind).ok_or(BlockError::Kind(kind))?;
        Ok(Some(Self { kind, body, crc }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_block_a_wait_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            begin in 0..8_usize,
        ) {
            let start = Block::encode(BlockKind::Probe, b"").0;
            let stream = [&start[..begin], &bytes].concat();
            let _ = Block::decode(&mut BytesMut::from(stream.as_slice()), 64);
        }

        #[test]
        fn a_block_waits_until_it_is_whole(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (stream, crc) = Block::encode(BlockKind::Welcome, &body);
            for end in 0..stream.len() {
                prop_assert_eq!(Block::decode(&mut BytesMut::from(&stream[..end]), 100), Ok(None));
            }
            let whole = Block::decode(&mut BytesMut::from(stream.as_slice()), 100);
            prop_assert_eq!(whole, Ok(Some(Block { kind: BlockKind::Welcome, body: body.into(), crc })));
        }
    }

    #[test]
    fn each_flipped_bit_is_noticed_or_waited_for() {
        let stream = Block::encode(BlockKind::Messages, b"who I am").0;
        for bit in 0..stream.len() * 8 {
            let mut harmed = stream.clone();
            harmed[bit / 8] ^= 1 << (bit % 8);
            let decoded = Block::decode(&mut BytesMut::from(harmed.as_slice()), 1 << 20);
            assert!(!matches!(decoded, Ok(Some(_))), "bit={bit}");
        }
    }

    #[test]
    fn a_larger_body_is_refused_before_it_is_there() {
        let stream = Block::encode(BlockKind::Messages, &[0; 65]).0;
        let decoded = Block::decode(&mut BytesMut::from(&stream[..HEADER_BYTES]), 64);
        assert_eq!(decoded, Err(BlockError::TooLarge { bytes: 65, bytes_max: 64 }));
    }
}
