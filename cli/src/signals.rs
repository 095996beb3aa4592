//! Being asked to stop, from the keyboard or by the system.

use std::future;

use tokio::signal::unix::{SignalKind, signal};

/// Returns when the process is asked to stop by SIGINT (Ctrl-C) or SIGTERM. From the first call on
/// these signals no longer end the process by themselves.
pub async fn asked_to_stop() {
    tokio::select! {
        () = received(SignalKind::interrupt()) => {}
        () = received(SignalKind::terminate()) => {}
    }
}

async fn received(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        // Without a handler the signal still ends the process, only less gently.
        Err(_) => future::pending().await,
    }
}
