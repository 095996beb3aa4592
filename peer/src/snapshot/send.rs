//! Sending a snapshot: attempts until it is accepted, refused for good, or given up.

use std::sync::Arc;

use bytes::Bytes;
use folkmoot_core::types::MemberId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::SnapshotError;
use super::offer::{FileEntry, Have, Offer, decode_resume};
use super::pace::Pace;
use super::source::{self, Piece};
use crate::backoff::Backoff;
use crate::codec::Malformed;
use crate::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::dial::{DialError, Link, dial_member};
use crate::event::{Event, SnapshotToSend};
use crate::frame::Kind;
use crate::shared::{Peer, Purpose, Shared};

/// Chunks that are read ahead.
const PIECES_AHEAD: usize = 4;

/// A snapshot on its way, in the register.
pub(crate) struct Outgoing {
    serial: u64,
    cancel: oneshot::Sender<SnapshotError>,
}

impl Outgoing {
    /// Gives it up.
    pub fn cancel(self, reason: SnapshotError) {
        // It may have ended by itself.
        let _ = self.cancel.send(reason);
    }
}

/// Tells the owner how it ended, whatever happens.
struct Report {
    shared: Arc<Shared>,
    to: MemberId,
    id: u64,
    outcome: Result<(), SnapshotError>,
}

impl Report {
    fn end(mut self, outcome: Result<(), SnapshotError>) {
        self.outcome = outcome;
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let (to, id) = (self.to, self.id);
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        match &outcome {
            Ok(()) => tracing::info!(%to, id, "snapshot sent"),
            Err(error) => tracing::warn!(%to, id, %error, "snapshot not sent"),
        }
        self.shared.emit(Event::SnapshotSent { to, id, outcome });
    }
}

/// Starts to send a snapshot, in place of an older one to the same member.
pub(crate) fn send(shared: &Arc<Shared>, to: MemberId, snapshot: SnapshotToSend) {
    // An owner that answers each failure with another try would never come back from here.
    if shared.tasks.stopped() {
        return;
    }
    let outcome = Err(SnapshotError::Stopped);
    let report = Report { shared: Arc::clone(shared), to, id: snapshot.id, outcome };
    let registered = {
        let mut state = shared.state.lock();
        let peer = state.peers.get(&to).cloned();
        peer.map(|peer| {
            let (serial, (cancel, cancelled)) = (state.next_serial(), oneshot::channel());
            if let Some(older) = state.outgoing.insert(to, Outgoing { serial, cancel }) {
                older.cancel(SnapshotError::Superseded);
            }
            (peer, serial, cancelled)
        })
    };
    let task = {
        let shared = Arc::clone(shared);
        async move {
            let outcome = match registered {
                Some((peer, serial, cancelled)) => {
                    let outcome = tokio::select! {
                        biased;
                        reason = cancelled => Err(reason.unwrap_or(SnapshotError::Stopped)),
                        sent = attempts(&shared, &peer, snapshot) => sent,
                    };
                    unregister(&shared, to, serial);
                    outcome
                }
                None => Err(SnapshotError::UnknownMember),
            };
            report.end(outcome);
        }
    };
    shared.tasks.spawn(task);
}

fn unregister(shared: &Shared, to: MemberId, serial: u64) {
    let mut state = shared.state.lock();
    if state.outgoing.get(&to).is_some_and(|outgoing| outgoing.serial == serial) {
        state.outgoing.remove(&to);
    }
}

/// A snapshot over several attempts.
struct Sending<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    dir: std::path::PathBuf,
    files: Arc<[FileEntry]>,
    offer: Bytes,
    /// The checksums of the files that were read to their end.
    hashes: Arc<Mutex<Vec<Option<u128>>>>,
    pace: Pace,
    first_url: usize,
    /// The most that the receiver had at the start of an attempt.
    best_bytes: Option<u64>,
    progressed: bool,
}

async fn attempts(shared: &Shared, peer: &Peer, snapshot: SnapshotToSend) -> Result<(), SnapshotError> {
    let SnapshotToSend { id, message, dir, rate_bytes_per_second } = snapshot;
    let stopped = |_| SnapshotError::Stopped;
    let _turn = shared.snapshots_sent.acquire().await.map_err(|_| SnapshotError::Stopped)?;
    let (listed, list) = oneshot::channel();
    let of_list = dir.clone();
    shared.tasks.spawn_blocking(move || {
        // Nobody waits for it once the order was cancelled.
        let _ = listed.send(source::list(&of_list));
    });
    let files = list.await.map_err(stopped)??;
    let count = files.len();
    let offer = Offer { transfer: rand::random(), id, message, files };
    let encoded = Bytes::from(offer.encode());
    let bytes_max = shared.config.frame_bytes_max;
    if encoded.len() > bytes_max {
        return Err(SnapshotError::TooLarge { bytes: encoded.len(), bytes_max });
    }
    let mut sending = Sending {
        shared,
        peer,
        dir,
        files: offer.files.into(),
        offer: encoded,
        hashes: Arc::new(Mutex::new(vec![None; count])),
        pace: Pace::new(rate_bytes_per_second),
        first_url: 0,
        best_bytes: None,
        progressed: false,
    };
    let mut backoff = Backoff::new(shared.config.backoff_min, shared.config.backoff_max);
    let mut failures = 0;
    loop {
        let Err(error) = sending.attempt().await else { return Ok(()) };
        if std::mem::take(&mut sending.progressed) {
            failures = 0;
            backoff.reset();
        }
        failures += 1;
        if failures >= shared.config.snapshot_attempts_max || !error.is_worth_another_try() {
            return Err(error);
        }
        tracing::info!(to = %peer.id, id, %error, "snapshot is sent again");
        sleep(backoff.wait()).await;
    }
}

impl Sending<'_> {
    async fn attempt(&mut self) -> Result<(), SnapshotError> {
        let target = self.peer.target.lock().clone();
        let dialled = dial_member(self.shared, &target, Purpose::Snapshot, &mut self.first_url).await;
        let Link { mut reader, mut writer, .. } = dialled?;
        writer.send(Kind::Offer, &self.offer).await.map_err(ConnectionError::Io)?;
        let answer = writer.keep_alive_during(reader.next_content()).await?;
        let have = match answer.kind {
            Kind::Accepted => return Ok(()),
            Kind::Resume => decode_resume(&answer.payload, &self.files)?,
            other => return Err(ConnectionError::Unexpected(other).into()),
        };
        self.note_progress(&have);
        let pieces = self.read_ahead(have);
        tokio::select! {
            biased;
            accepted = wait_for_acceptance(&mut reader) => accepted,
            error = write(&mut writer, pieces, &mut self.pace) => Err(error),
        }
    }

    /// The attempts before got further if the receiver has more than ever.
    fn note_progress(&mut self, have: &[Have]) {
        let bytes = have.iter().map(|file| file.bytes).sum::<u64>();
        self.progressed = self.best_bytes.is_some_and(|best| bytes > best);
        self.best_bytes = Some(self.best_bytes.map_or(bytes, |best| best.max(bytes)));
    }

    fn read_ahead(&self, have: Vec<Have>) -> mpsc::Receiver<Piece> {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let (dir, files) = (self.dir.clone(), Arc::clone(&self.files));
        let (offer, hashes) = (self.offer.clone(), Arc::clone(&self.hashes));
        self.shared.tasks.spawn_blocking(move || source::read(&dir, &files, &have, &offer, &hashes, &sender));
        pieces
    }
}

async fn wait_for_acceptance(reader: &mut FrameReader) -> Result<(), SnapshotError> {
    match reader.next_content().await?.kind {
        Kind::Accepted => Ok(()),
        other => Err(ConnectionError::Unexpected(other).into()),
    }
}

/// Writes all pieces, then pings until the other branch has its answer.
async fn write(
    writer: &mut FrameWriter,
    mut pieces: mpsc::Receiver<Piece>,
    pace: &mut Pace,
) -> SnapshotError {
    loop {
        let (kind, payload) = match writer.keep_alive_during(pieces.recv()).await {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => return error,
            None => return SnapshotError::Stopped,
        };
        writer.keep_alive_during(pace.wait(payload.len())).await;
        if let Err(error) = writer.send(kind, &payload).await {
            return ConnectionError::Io(error).into();
        }
        if kind == Kind::Done {
            match writer.keep_alive().await {}
        }
    }
}

impl From<DialError> for SnapshotError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Refused { refusal, .. } => Self::Refused(refusal),
            other => Self::Undelivered(other.to_string()),
        }
    }
}

impl From<ConnectionError> for SnapshotError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Refused(refusal) => Self::Refused(refusal),
            other => Self::Undelivered(other.to_string()),
        }
    }
}

impl From<Malformed> for SnapshotError {
    fn from(error: Malformed) -> Self {
        ConnectionError::Malformed(error).into()
    }
}
