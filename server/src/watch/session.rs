//! One client's side of the hub: a stream with its requests and frames.

use std::sync::Arc;
use std::task::{Context, Poll};

use folkmoot_core::watch::{CreateRequest, StreamId, WatchFrame};

use super::hub_thread::HubHandle;
use super::outlet::{Found, Outlet, WakePort};

/// Taken frames are reported to the hub in lots of about this size, so that a fast client costs
/// the hub few wake-ups. Well below the outbox's bound.
const REPORT_BYTES: usize = 32 * 1024;

/// A watch stream; dropping it closes it.
pub struct Session {
    hub: HubHandle,
    stream: StreamId,
    outlet: Arc<Outlet>,
    unreported_bytes: usize,
}

impl Session {
    /// Opens a stream for a client on the port's runtime.
    pub fn open(hub: HubHandle, port: Arc<WakePort>) -> Self {
        let outlet = Arc::new(Outlet::new(port));
        let stream = hub.open(Arc::clone(&outlet));
        Self { hub, stream, outlet, unreported_bytes: 0 }
    }

    /// Asks for a watcher.
    pub fn create(&self, request: CreateRequest) {
        self.outlet.request_sent();
        self.hub.create(self.stream, request);
    }

    /// Ends a watcher.
    pub fn cancel(&self, watch_id: i64) {
        self.outlet.request_sent();
        self.hub.cancel(self.stream, watch_id);
    }

    /// Asks how far the stream is.
    pub fn progress(&self) {
        self.outlet.request_sent();
        self.hub.progress(self.stream);
    }

    /// Whether the client may be asked for further requests. When it turns true again, whoever
    /// waits for frames is woken.
    pub fn accepts_requests(&self) -> bool {
        self.outlet.accepts_requests()
    }

    /// The next frame; `None` when the hub has stopped.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<WatchFrame>> {
        let Poll::Ready((found, last)) = self.outlet.poll(cx) else { return Poll::Pending };
        let Found::Frame(frame) = found else { return Poll::Ready(None) };
        self.unreported_bytes += frame.size_bytes();
        let soon = self.unreported_bytes >= REPORT_BYTES;
        if last || soon {
            self.hub.sent(self.stream, std::mem::take(&mut self.unreported_bytes), soon);
        }
        Poll::Ready(Some(frame))
    }

    /// Waits for the next frame; `None` when the hub has stopped.
    pub async fn next(&mut self) -> Option<WatchFrame> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.close(self.stream);
    }
}
