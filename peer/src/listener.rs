//! Accepting connections: who calls, what for, and whether it may.

use std::io;
use std::net::{IpAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use folkmoot_core::types::MemberId;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::connection::{ConnectionError, FrameReader, FrameWriter, read_block, write_block};
use crate::event::Event;
use crate::frame::Salt;
use crate::handshake::{Block, BlockError, BlockKind, HANDSHAKE_BYTES_MAX, Hello, Refusal, VERSION};
use crate::shared::{Purpose, Registered, Shared};
use crate::warnings::About;
use crate::{inbound, snapshot, stream};

/// How long accepting rests when the process is out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection of a member that may send.
pub(crate) struct Accepted {
    pub hello: Hello,
    pub registered: Registered,
    pub reader: FrameReader,
    pub writer: FrameWriter,
}

/// Brings a bound listener onto the runtime, whose context the caller has entered.
pub(crate) fn listen(listener: StdListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Accepts for ever.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, address)) => accept(&shared, tcp, address.ip()),
            Err(error) => {
                if let Some(left_out) = shared.warnings.admit(About::Anybody, "accept") {
                    tracing::warn!(%error, left_out, "cannot accept a peer connection");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn accept(shared: &Arc<Shared>, tcp: TcpStream, from: IpAddr) {
    let Ok(permit) = Arc::clone(&shared.handshakes).try_acquire_owned() else {
        warn_refused(shared, from, None, &Refusal::Busy);
        stream::turn_away(&tcp, &Block::encode(BlockKind::Refused, &Refusal::Busy.encode()).0);
        return;
    };
    let task = {
        let shared = Arc::clone(shared);
        async move {
            let within = shared.config.handshake_timeout;
            let greeted = timeout(within, greet(&shared, tcp, from)).await;
            drop(permit);
            match greeted {
                Ok(Ok(Some((Purpose::Messages, accepted)))) => inbound::run(shared, accepted).await,
                Ok(Ok(Some((Purpose::Snapshot, accepted)))) => snapshot::receive(shared, accepted).await,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => warn_broken(&shared, from, &error),
                Err(_) => warn_broken(&shared, from, &ConnectionError::TimedOut(within)),
            }
        }
    };
    shared.tasks.spawn(task);
}

/// Answers the first block; a connection comes out if frames may follow.
async fn greet(
    shared: &Arc<Shared>,
    tcp: TcpStream,
    from: IpAddr,
) -> Result<Option<(Purpose, Accepted)>, ConnectionError> {
    let (mut read, mut write) = stream::accepted(tcp).await?;
    let mut buffer = BytesMut::new();
    let asked = match read_block(&mut read, &mut buffer, HANDSHAKE_BYTES_MAX).await {
        Ok(asked) => asked,
        Err(ConnectionError::Block(BlockError::Version(dialler))) => {
            let refusal = Refusal::Version { acceptor: VERSION, dialler };
            warn_refused(shared, from, None, &refusal);
            write_block(&mut write, BlockKind::Refused, &refusal.encode()).await?;
            write.shutdown().await?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let purpose = match asked.kind {
        BlockKind::Messages => Purpose::Messages,
        BlockKind::Snapshot => Purpose::Snapshot,
        BlockKind::Probe => {
            write_block(&mut write, BlockKind::ProbeAnswer, &shared.probe_answer().encode()).await?;
            write.shutdown().await?;
            return Ok(None);
        }
        BlockKind::ClusterInfo => {
            match shared.cluster_info().encode() {
                Some(body) => {
                    write_block(&mut write, BlockKind::ClusterInfoAnswer, &body).await?;
                    write.shutdown().await?;
                }
                None => tracing::error!("cluster is too large to be described to a joining member"),
            }
            return Ok(None);
        }
        other => return Err(BlockError::Kind(other as u8).into()),
    };
    let hello = Hello::decode(&asked.body)?;
    let registered = match shared.register(&hello, purpose) {
        Ok(registered) => registered,
        Err(refusal) => {
            warn_refused(shared, from, Some(hello.from), &refusal);
            if let Refusal::UnknownMember { member } = refusal {
                shared.emit(Event::Stranger { member });
            }
            write_block(&mut write, BlockKind::Refused, &refusal.encode()).await?;
            write.shutdown().await?;
            return Ok(None);
        }
    };
    let answer_crc = write_block(&mut write, BlockKind::Welcome, &shared.welcome().encode()).await?;
    let (theirs, ours) = Salt::of_handshake(asked.crc, answer_crc);
    let config = &shared.config;
    let reader = FrameReader::new(read, buffer, theirs, config.frame_bytes_max, config.read_timeout);
    let writer = FrameWriter::new(write, ours, config.ping_interval);
    Ok(Some((purpose, Accepted { hello, registered, reader, writer })))
}

/// `member` is who the caller says it is.
fn warn_refused(shared: &Shared, from: IpAddr, member: Option<MemberId>, refusal: &Refusal) {
    let about = member.map_or(About::Address(from), About::Peer);
    if let Some(left_out) = shared.warnings.admit(about, refusal.name()) {
        let member = member.map(tracing::field::display);
        tracing::warn!(%from, member, %refusal, left_out, "peer connection refused");
    }
}

fn warn_broken(shared: &Shared, from: IpAddr, error: &ConnectionError) {
    // Somebody who connects and leaves (a health check of the port) is nothing to warn about.
    if !error.is_violation() {
        tracing::debug!(%from, %error, "connection ended before it said who it is");
    } else if let Some(left_out) = shared.warnings.admit(About::Address(from), "handshake") {
        tracing::warn!(%from, %error, left_out, "connection that is no peer's closed");
    }
}
