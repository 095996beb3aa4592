//! Messages to another member: a connection that is made again whenever it is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::dial::{DialError, Link, dial_member};
use crate::event::Event;
use crate::frame::Kind;
use crate::handshake::{Refusal, Welcome};
use crate::inbound::log_end;
use crate::roster::check_disk;
use crate::shared::{Peer, Purpose, Shared};
use crate::warnings::About;

/// Messages that are written in one go.
const BATCH_BYTES: usize = 256 * 1024;
/// How long writing to a peer that has left may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Keeps a connection to a peer until it is no member any more, and has been sent what waited for
/// it then: the last of it may be the news that it was removed.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    let farewell = async {
        peer.gone.notified().await;
        if peer.connected().is_some() {
            sleep(FAREWELL).await;
        }
    };
    tokio::select! {
        biased;
        () = farewell => {}
        () = keep_connected(&shared, &peer) => {}
    }
}

async fn keep_connected(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    let mut backoff = Backoff::new(shared.config.backoff_min, shared.config.backoff_max);
    let mut first_url = 0;
    loop {
        let target = peer.target.lock().clone();
        match dial_member(shared, &target, Purpose::Messages, &mut first_url).await {
            Ok(link) => {
                let start = Instant::now();
                let error = talk(shared, peer, link).await;
                // One that breaks at once, again and again, is no success.
                if start.elapsed() >= shared.config.backoff_max {
                    backoff.reset();
                }
                if let ConnectionError::Refused(refusal) | ConnectionError::Refusing(refusal) = &error {
                    shared.note_refusal(peer, refusal);
                }
                peer.problem.lock().text = Some(error.to_string());
                log_end(shared, peer.id, &error);
            }
            Err(error) => note_failure(shared, peer, &error),
        }
        if peer.has_left() {
            return;
        }
        tokio::select! {
            () = sleep(backoff.wait()) => {}
            () = peer.nudge.notified() => backoff.reset(),
        }
    }
}

fn note_failure(shared: &Shared, peer: &Peer, error: &DialError) {
    if let Some(refusal) = error.refusal() {
        shared.note_refusal(peer, refusal);
    }
    peer.problem.lock().text = Some(error.to_string());
    let kind = error.refusal().map_or("dial", Refusal::name);
    if let Some(left_out) = shared.warnings.admit(About::Peer(peer.id), kind) {
        tracing::warn!(peer = %peer.id, %error, left_out, "no connection to a peer");
    }
}

/// A connection is open for as long as this lives, however it ends.
struct Open<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, peer: &'a Peer, welcome: &Welcome) -> Self {
        shared.clear_problem(peer);
        peer.outbox.lock().open();
        tracing::info!(peer = %peer.id, boot = welcome.boot, "connected to a peer");
        let (boot, incarnation) = (welcome.boot, welcome.incarnation);
        shared.emit(Event::Connected { peer: peer.id, boot, incarnation });
        Self { shared, peer }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.peer.outbox.lock().close();
        self.shared.emit(Event::Disconnected { peer: self.peer.id });
        // What was written last may be lost, too.
        self.shared.report_unreachable(self.peer.id);
    }
}

async fn talk(shared: &Shared, peer: &Peer, link: Link) -> ConnectionError {
    let Link { mut reader, mut writer, welcome } = link;
    let _open = Open::new(shared, peer, &welcome);
    tokio::select! {
        // Writing comes last: it uses up the task's turn when there is always something to write.
        biased;
        refusal = wrong_disk(peer, welcome.incarnation) => ConnectionError::Refusing(refusal),
        error = listen(&mut reader) => error,
        error = write(shared, peer, &mut writer) => error,
    }
}

/// All that comes back are pings, and at most a refusal.
async fn listen(reader: &mut FrameReader) -> ConnectionError {
    match reader.next_content().await {
        Ok(frame) => ConnectionError::Unexpected(frame.kind),
        Err(error) => error,
    }
}

async fn write(shared: &Shared, peer: &Peer, writer: &mut FrameWriter) -> ConnectionError {
    loop {
        // Asked first: whoever says that the peer has left has queued everything before.
        let has_left = peer.has_left();
        let batch = peer.outbox.lock().take(BATCH_BYTES);
        let written = if !batch.is_empty() {
            writer.send_all(Kind::Message, &batch).await
        } else if has_left {
            return ConnectionError::Left;
        } else if timeout(shared.config.ping_interval, peer.filled.notified()).await.is_err() {
            writer.ping().await
        } else {
            Ok(())
        };
        if let Err(error) = written {
            return error.into();
        }
    }
}

/// Waits until the owner says that the peer's disk is another one than that of this connection.
async fn wrong_disk(peer: &Peer, incarnation: u64) -> Refusal {
    loop {
        let expected = peer.target.lock().incarnation;
        if let Err(refusal) = check_disk(expected, incarnation) {
            return refusal;
        }
        peer.retargeted.notified().await;
    }
}
