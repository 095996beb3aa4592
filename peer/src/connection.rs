//! A connection after its handshake: frames in, frames out.
//!
//! Reading takes memory only for bytes that arrived; a peer that writes nothing for the read
//! timeout is given up. Writing has no limit of its own: when the other side is gone, reading
//! notices.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use crate::codec::Malformed;
use crate::frame::{Decoder, Encoder, Frame, FrameError, HEADER_BYTES, Kind, Salt};
use crate::handshake::{Block, BlockError, BlockKind, Refusal};
use crate::stream::{ReadHalf, WriteHalf};

/// What a read makes room for, at least and at most.
const READ_BYTES_MIN: usize = 64 * 1024;
const READ_BYTES_MAX: usize = 1 << 20;
/// Payloads up to this size are gathered in one buffer; larger ones are written as they are.
const GATHER_BYTES_MAX: usize = 32 * 1024;
/// How long a refused peer may take to close its end.
const LINGER: Duration = Duration::from_millis(500);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("peer closed the connection")]
    Closed,
    #[error("peer is no member any more")]
    Left,
    #[error("nothing arrived within {0:?}")]
    TimedOut(Duration),
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Block(#[from] BlockError),
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("frame not expected here: kind={0:?}")]
    Unexpected(Kind),
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("refusing: {0}")]
    Refusing(Refusal),
}

impl ConnectionError {
    /// Whether the peer, or the network, did what it must not: worth a warning.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Block(_) | Self::Malformed(_) | Self::Unexpected(_))
    }
}

/// Reads a handshake block; bytes after it stay in `buffer`. The caller limits the time.
pub(crate) async fn read_block(
    half: &mut ReadHalf,
    buffer: &mut BytesMut,
    body_bytes_max: usize,
) -> Result<Block, ConnectionError> {
    loop {
        if let Some(block) = Block::decode(buffer, body_bytes_max)? {
            return Ok(block);
        }
        buffer.reserve(4096);
        if half.read_buf(buffer).await? == 0 {
            return Err(ConnectionError::Closed);
        }
    }
}

/// Writes a handshake block; its checksum goes into the salt. The caller limits the time.
pub(crate) async fn write_block(half: &mut WriteHalf, kind: BlockKind, body: &[u8]) -> io::Result<u32> {
    let (bytes, crc) = Block::encode(kind, body);
    half.write_all(&bytes).await?;
    Ok(crc)
}

/// The reading half.
pub(crate) struct FrameReader {
    half: ReadHalf,
    buffer: BytesMut,
    decoder: Decoder,
    read_timeout: Duration,
}

impl FrameReader {
    /// `buffer` holds what was read behind the handshake.
    pub fn new(
        half: ReadHalf,
        buffer: BytesMut,
        salt: Salt,
        frame_bytes_max: usize,
        read_timeout: Duration,
    ) -> Self {
        Self { half, buffer, decoder: Decoder::new(salt, frame_bytes_max), read_timeout }
    }

    /// The next frame, pings included. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Frame, ConnectionError> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer)? {
                return Ok(frame);
            }
            // A large frame's room is made as it fills, not when it is announced.
            let missing = self.decoder.missing(self.buffer.len());
            self.buffer.reserve(missing.clamp(READ_BYTES_MIN, READ_BYTES_MAX));
            let read = timeout(self.read_timeout, self.half.read_buf(&mut self.buffer)).await;
            if read.map_err(|_| ConnectionError::TimedOut(self.read_timeout))?? == 0 {
                return Err(ConnectionError::Closed);
            }
        }
    }

    /// The next frame that is no ping; a refusal is an error.
    pub async fn next_content(&mut self) -> Result<Frame, ConnectionError> {
        loop {
            let frame = self.next().await?;
            match frame.kind {
                Kind::Ping => {}
                Kind::Refused => return Err(ConnectionError::Refused(Refusal::decode(&frame.payload)?)),
                _ => return Ok(frame),
            }
        }
    }

    /// Reads on until the other side closes, so that what was written to it last is not lost in a
    /// reset.
    async fn linger(&mut self) {
        let drain = async {
            loop {
                self.buffer.clear();
                self.buffer.reserve(READ_BYTES_MIN);
                if !matches!(self.half.read_buf(&mut self.buffer).await, Ok(1..)) {
                    return;
                }
            }
        };
        let _ = timeout(LINGER, drain).await;
    }
}

/// The writing half.
pub(crate) struct FrameWriter {
    half: WriteHalf,
    encoder: Encoder,
    gathered: BytesMut,
    ping_interval: Duration,
}

impl FrameWriter {
    pub fn new(half: WriteHalf, salt: Salt, ping_interval: Duration) -> Self {
        Self { half, encoder: Encoder::new(salt), gathered: BytesMut::new(), ping_interval }
    }

    /// Writes one frame.
    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        self.gather(kind, payload).await?;
        self.flush().await
    }

    /// Writes many frames with as few writes as possible.
    pub async fn send_all(&mut self, kind: Kind, payloads: &[Bytes]) -> io::Result<()> {
        for payload in payloads {
            self.gather(kind, payload).await?;
        }
        self.flush().await
    }

    /// Says that this side lives.
    pub async fn ping(&mut self) -> io::Result<()> {
        self.send(Kind::Ping, &[]).await
    }

    /// Pings for ever, or until that fails: then reading comes to an end, too, but first to what
    /// the peer had still sent.
    pub async fn keep_alive(&mut self) -> Infallible {
        loop {
            sleep(self.ping_interval).await;
            if self.ping().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits for `work`, pinging meanwhile.
    pub async fn keep_alive_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            // First, because work that never has to wait would use up the task's turn.
            biased;
            never = self.keep_alive() => match never {},
            done = work => done,
        }
    }

    async fn gather(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let header = self.encoder.header(kind, payload);
        self.gathered.extend_from_slice(&header);
        if payload.len() <= GATHER_BYTES_MAX {
            self.gathered.extend_from_slice(payload);
            return Ok(());
        }
        self.flush().await?;
        self.half.write_all(payload).await
    }

    /// What is not written when the future is dropped stays for the next time.
    async fn flush(&mut self) -> io::Result<()> {
        self.half.write_all_buf(&mut self.gathered).await
    }
}

/// Tells the peer why its connection ends, and gives it the time to hear it.
pub(crate) async fn refuse(reader: FrameReader, writer: FrameWriter, refusal: &Refusal) {
    finish(reader, writer, Kind::Refused, &refusal.encode()).await;
}

/// Says the last word and waits until the peer has closed, for a while.
pub(crate) async fn finish(mut reader: FrameReader, mut writer: FrameWriter, kind: Kind, payload: &[u8]) {
    let said = async {
        writer.send(kind, payload).await?;
        writer.half.shutdown().await
    };
    if matches!(timeout(LINGER, said).await, Ok(Ok(()))) {
        reader.linger().await;
    }
}

const _: () = assert!(GATHER_BYTES_MAX > HEADER_BYTES);
