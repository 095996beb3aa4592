//! Receiving a snapshot: frames in, parts to the thread that writes them.

use std::sync::Arc;

use folkmoot_core::types::MemberId;
use tokio::sync::{mpsc, oneshot};

use super::offer::{Offer, Part, decode_chunk, decode_done, decode_file_end, encode_resume};
use super::staging::{self, Offered, Prepared, Slot};
use crate::connection::{ConnectionError, FrameReader, FrameWriter, finish, refuse};
use crate::event::Event;
use crate::frame::Kind;
use crate::handshake::{Hello, Refusal};
use crate::inbound::log_end;
use crate::listener::Accepted;
use crate::shared::Shared;

/// Parts that wait for the disk; above, the connection is not read.
const PARTS_WAITING: usize = 8;

/// Takes one snapshot of another member.
pub(crate) async fn receive(shared: Arc<Shared>, accepted: Accepted) {
    let Accepted { hello, mut registered, mut reader, mut writer } = accepted;
    let taken = tokio::select! {
        biased;
        // A lost sender cannot happen while the register has the connection.
        refusal = &mut registered.close => {
            Err(refusal.ok().flatten().map_or(ConnectionError::Closed, ConnectionError::Refusing))
        }
        taken = take(&shared, &hello, &mut reader, &mut writer) => taken,
    };
    match taken {
        Ok(()) => finish(reader, writer, Kind::Accepted, &[]).await,
        Err(ConnectionError::Refusing(refusal)) => {
            tracing::warn!(from = %hello.from, %refusal, "snapshot refused");
            refuse(reader, writer, &refusal).await;
        }
        Err(error) => log_end(&shared, hello.from, &error),
    }
}

async fn take(
    shared: &Arc<Shared>,
    hello: &Hello,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
) -> Result<(), ConnectionError> {
    let frame = writer.keep_alive_during(reader.next_content()).await?;
    if frame.kind != Kind::Offer {
        return Err(ConnectionError::Unexpected(frame.kind));
    }
    let payload = frame.payload;
    let offer =
        Offer::decode(&payload, shared.config.snapshot_files_max).map_err(ConnectionError::Refusing)?;
    let identity = Offer::identity(&payload, hello.boot, hello.incarnation);
    let offered = Offered { from: hello.from, offer, payload, identity };
    // The connection that this one replaces may still have its last part to write.
    let slot = Arc::clone(shared.state.lock().slots.entry(hello.from).or_default());
    let slot = writer.keep_alive_during(slot.lock_owned()).await;

    let (parts, waiting) = mpsc::channel(PARTS_WAITING);
    let (prepared, preparation) = oneshot::channel();
    let (ended, end) = oneshot::channel();
    let on_disk = Arc::clone(shared);
    shared.tasks.spawn_blocking(move || write(&on_disk, slot, &offered, prepared, waiting, ended));

    match writer.keep_alive_during(preparation).await.map_err(|_| ConnectionError::Closed)? {
        Ok(Prepared::Accepted) => return Ok(()),
        Ok(Prepared::Resume(have)) => writer.send(Kind::Resume, &encode_resume(&have)).await?,
        Err(refusal) => return Err(ConnectionError::Refusing(refusal)),
    }
    writer.keep_alive_during(feed(reader, parts, end)).await
}

/// Passes parts on until the disk's thread has an answer.
async fn feed(
    reader: &mut FrameReader,
    parts: mpsc::Sender<Part>,
    mut end: oneshot::Receiver<Result<(), Refusal>>,
) -> Result<(), ConnectionError> {
    loop {
        let frame = tokio::select! {
            biased;
            ended = &mut end => return answer(ended),
            frame = reader.next_content() => frame?,
        };
        let part = match frame.kind {
            Kind::Chunk => decode_chunk(&frame.payload)?,
            Kind::FileEnd => decode_file_end(&frame.payload)?,
            Kind::Done => decode_done(&frame.payload)?,
            other => return Err(ConnectionError::Unexpected(other)),
        };
        let last = matches!(part, Part::Done { .. });
        if parts.send(part).await.is_err() || last {
            return answer(end.await);
        }
    }
}

fn answer(ended: Result<Result<(), Refusal>, oneshot::error::RecvError>) -> Result<(), ConnectionError> {
    // Without an answer the transport is stopping.
    ended.map_err(|_| ConnectionError::Closed)?.map_err(ConnectionError::Refusing)
}

/// The disk's side. It ends when `parts` does.
fn write(
    shared: &Shared,
    mut slot: tokio::sync::OwnedMutexGuard<Slot>,
    offered: &Offered,
    prepared: oneshot::Sender<Result<Prepared, Refusal>>,
    mut parts: mpsc::Receiver<Part>,
    ended: oneshot::Sender<Result<(), Refusal>>,
) {
    if !staging::has_begun(&slot, offered.identity) {
        discard_idle(shared, offered.from);
    }
    // Answers that nobody waits for belong to a connection that is gone.
    let preparation = staging::prepare(&mut slot, &shared.config, offered);
    let goes_on = matches!(preparation, Ok(Prepared::Resume(_)));
    let _ = prepared.send(preparation);
    if !goes_on {
        return;
    }
    let taken = staging::take(&mut slot, &shared.config, offered, &mut parts);
    let answer = match taken {
        Ok(None) => return,
        Ok(Some(dir)) => {
            discard_idle(shared, offered.from);
            let offer = &offered.offer;
            let (from, id, bytes) = (offered.from, offer.id, offer.bytes().unwrap_or(u64::MAX));
            tracing::info!(%from, id, bytes, dir = %dir.display(), "snapshot arrived");
            // From this thread, so that what was handed over and what was told cannot differ.
            shared.emit(Event::SnapshotArrived { from, id, message: offer.message.clone(), dir, bytes });
            Ok(())
        }
        Err(refusal) => Err(refusal),
    };
    let _ = ended.send(answer);
}

/// Whoever sends now has newer news than those who stopped in the middle: their rests would only
/// take space.
fn discard_idle(shared: &Shared, except: MemberId) {
    let state = shared.state.lock();
    let others: Vec<_> =
        state.slots.iter().filter(|(id, _)| **id != except).map(|(_, slot)| Arc::clone(slot)).collect();
    drop(state);
    for other in others {
        // One that is being written is locked.
        if let Ok(mut idle) = other.try_lock() {
            staging::discard(&mut idle);
        }
    }
}
