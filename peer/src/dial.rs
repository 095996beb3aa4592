//! Connecting to another member, up to the point where frames may flow.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use crate::codec::Malformed;
use crate::connection::{ConnectionError, FrameReader, FrameWriter, read_block, write_block};
use crate::event::PeerMember;
use crate::frame::Salt;
use crate::handshake::{Block, BlockError, BlockKind, HANDSHAKE_BYTES_MAX, Refusal, VERSION, Welcome};
use crate::shared::{Purpose, Shared};
use crate::stream::{self, ReadHalf, WriteHalf};
use crate::url::{PeerUrl, UrlError};

/// Why there is no connection, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The URL is none.
    #[error("{0}")]
    Url(#[from] UrlError),
    /// The member has no URL.
    #[error("member has no peer URL")]
    NoUrl,
    /// Nobody answers there.
    #[error("cannot connect, check that the member runs and the URL is right: url={url}: {source}")]
    Connect {
        /// The URL.
        url: PeerUrl,
        /// The system's reason.
        source: io::Error,
    },
    /// It takes too long.
    #[error("no answer within {within:?}, check the network and the URL: url={url}")]
    TimedOut {
        /// The URL.
        url: PeerUrl,
        /// The time that was given.
        within: Duration,
    },
    /// The connection broke in the middle of the handshake.
    #[error("connection ended in the handshake: url={url}: {reason}")]
    Broken {
        /// The URL.
        url: PeerUrl,
        /// How.
        reason: String,
    },
    /// What answers does not speak our protocol.
    #[error("{source}: url={url}")]
    NotAMember {
        /// The URL.
        url: PeerUrl,
        /// How that shows.
        source: BlockError,
    },
    /// The member there refuses, or is the wrong one.
    #[error("{refusal}: url={url}")]
    Refused {
        /// The URL.
        url: PeerUrl,
        /// Why.
        refusal: Refusal,
    },
}

impl DialError {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

/// A connection on which frames may flow.
pub(crate) struct Link {
    pub reader: FrameReader,
    pub writer: FrameWriter,
    pub welcome: Welcome,
}

struct Answered {
    read: ReadHalf,
    write: WriteHalf,
    buffer: BytesMut,
    asked_crc: u32,
    answer: Block,
}

/// Connects, says `body`, and hands out the answer's body, if it is of the expected kind.
pub(crate) async fn ask(
    url: &PeerUrl,
    question: BlockKind,
    answer: BlockKind,
    answer_bytes_max: usize,
    within: Duration,
) -> Result<Block, DialError> {
    let asked = async {
        let (read, write) = connect(url).await?;
        greet(url, read, write, (question, &[]), answer, answer_bytes_max).await
    };
    let timed_out = || DialError::TimedOut { url: url.clone(), within };
    timeout(within, asked).await.map_err(|_| timed_out())?.map(|answered| answered.answer)
}

/// Connects to a member by one of its URLs, `first` before the others, and remembers which one it
/// was.
pub(crate) async fn dial_member(
    shared: &Shared,
    target: &PeerMember,
    purpose: Purpose,
    first: &mut usize,
) -> Result<Link, DialError> {
    let mut failure = DialError::NoUrl;
    for turn in 0..target.urls.len() {
        let at = first.wrapping_add(turn) % target.urls.len();
        match dial_url(shared, target, &target.urls[at], purpose).await {
            Ok(link) => {
                *first = at;
                return Ok(link);
            }
            // A reason that a member gave tells more than a URL that is not reachable from here.
            Err(error) if failure.refusal().is_none() || error.refusal().is_some() => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

async fn dial_url(
    shared: &Shared,
    target: &PeerMember,
    url: &str,
    purpose: Purpose,
) -> Result<Link, DialError> {
    let url = &PeerUrl::parse(url)?;
    let config = &shared.config;
    let timed_out = |within| DialError::TimedOut { url: url.clone(), within };
    let (read, write) =
        timeout(config.dial_timeout, connect(url)).await.map_err(|_| timed_out(config.dial_timeout))??;
    let question = match purpose {
        Purpose::Messages => BlockKind::Messages,
        Purpose::Snapshot => BlockKind::Snapshot,
    };
    let hello = shared.hello(target.id).encode();
    let greeted = greet(url, read, write, (question, &hello), BlockKind::Welcome, HANDSHAKE_BYTES_MAX);
    let answered = timeout(config.handshake_timeout, greeted)
        .await
        .map_err(|_| timed_out(config.handshake_timeout))??;
    let Answered { read, write, buffer, asked_crc, answer } = answered;
    let welcome = Welcome::decode(&answer.body).map_err(|error| malformed(url, error))?;
    let checked = shared.state.lock().roster.check_answer(target, &welcome);
    checked.map_err(|refusal| DialError::Refused { url: url.clone(), refusal })?;
    let (ours, theirs) = Salt::of_handshake(asked_crc, answer.crc);
    Ok(Link {
        reader: FrameReader::new(read, buffer, theirs, config.frame_bytes_max, config.read_timeout),
        writer: FrameWriter::new(write, ours, config.ping_interval),
        welcome,
    })
}

async fn connect(url: &PeerUrl) -> Result<(ReadHalf, WriteHalf), DialError> {
    stream::dial(url).await.map_err(|source| DialError::Connect { url: url.clone(), source })
}

async fn greet(
    url: &PeerUrl,
    mut read: ReadHalf,
    mut write: WriteHalf,
    (question, body): (BlockKind, &[u8]),
    expected: BlockKind,
    answer_bytes_max: usize,
) -> Result<Answered, DialError> {
    let broken = |reason: String| DialError::Broken { url: url.clone(), reason };
    // A busy member answers and closes without listening: the answer counts, not the failed write.
    let written = write_block(&mut write, question, body).await;
    let mut buffer = BytesMut::new();
    let answer = match read_block(&mut read, &mut buffer, answer_bytes_max).await {
        Ok(answer) => answer,
        Err(ConnectionError::Block(BlockError::Version(acceptor))) => {
            let refusal = Refusal::Version { acceptor, dialler: VERSION };
            return Err(DialError::Refused { url: url.clone(), refusal });
        }
        Err(ConnectionError::Block(source)) => {
            return Err(DialError::NotAMember { url: url.clone(), source });
        }
        Err(error) => return Err(broken(error.to_string())),
    };
    if answer.kind == BlockKind::Refused {
        let refusal = Refusal::decode(&answer.body).map_err(|error| malformed(url, error))?;
        return Err(DialError::Refused { url: url.clone(), refusal });
    }
    let asked_crc = written.map_err(|error| broken(error.to_string()))?;
    if answer.kind != expected {
        return Err(DialError::NotAMember { url: url.clone(), source: BlockError::Kind(answer.kind as u8) });
    }
    Ok(Answered { read, write, buffer, asked_crc, answer })
}

pub(crate) fn malformed(url: &PeerUrl, error: Malformed) -> DialError {
    DialError::NotAMember { url: url.clone(), source: BlockError::Malformed(error) }
}
