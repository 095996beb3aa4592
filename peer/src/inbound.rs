//! Messages from another member.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use folkmoot_core::types::MemberId;
use tokio::time::sleep;

use crate::connection::{ConnectionError, FrameReader, refuse};
use crate::event::{Event, Flow};
use crate::frame::Kind;
use crate::listener::Accepted;
use crate::shared::Shared;
use crate::warnings::About;

/// Hands messages to the owner until the connection ends.
pub(crate) async fn run(shared: Arc<Shared>, accepted: Accepted) {
    let Accepted { hello, mut registered, mut reader, mut writer } = accepted;
    let current = registered.current();
    let ended = tokio::select! {
        biased;
        // A lost sender cannot happen while the register has the connection.
        refusal = &mut registered.close => Ok(refusal.ok().flatten()),
        // Before delivery, which uses up the task's turn when there is always something to read.
        never = writer.keep_alive() => match never {},
        error = deliver(&shared, hello.from, &current, &mut reader) => Err(error),
    };
    match ended {
        Ok(Some(refusal)) => {
            tracing::info!(from = %hello.from, %refusal, "connection of a peer closed");
            refuse(reader, writer, &refusal).await;
        }
        Ok(None) => tracing::debug!(from = %hello.from, "connection of a peer replaced by a newer one"),
        Err(error) => log_end(&shared, hello.from, &error),
    }
}

async fn deliver(
    shared: &Shared,
    from: MemberId,
    current: &AtomicBool,
    reader: &mut FrameReader,
) -> ConnectionError {
    loop {
        let frame = match reader.next_content().await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        if frame.kind != Kind::Message {
            return ConnectionError::Unexpected(frame.kind);
        }
        // What is still in the buffer of a replaced connection must not come after what its
        // successor delivers.
        if !current.load(Ordering::Acquire) {
            return ConnectionError::Closed;
        }
        if shared.emit(Event::Message { from, bytes: frame.payload }) == Flow::Pause {
            sleep(shared.config.pause).await;
        }
    }
}

/// Logs why a connection with a peer ended.
pub(crate) fn log_end(shared: &Shared, peer: MemberId, error: &ConnectionError) {
    if !error.is_violation() {
        tracing::info!(%peer, %error, "connection with a peer ended");
    } else if let Some(left_out) = shared.warnings.admit(About::Peer(peer), "violation") {
        tracing::warn!(%peer, %error, left_out, "connection with a peer closed");
    }
}
