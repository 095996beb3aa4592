//! Where the hub thread leaves the frames of one session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use folkmoot_core::watch::WatchFrame;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Requests of one session that the hub has not looked at yet. Above it the session stops reading
/// from its client.
pub const UNSEEN_REQUESTS_MAX: u32 = 256;

/// Frames for one session.
pub struct Outlet {
    state: Mutex<State>,
    port: Arc<WakePort>,
}

#[derive(Default)]
struct State {
    frames: VecDeque<WatchFrame>,
    waker: Option<Waker>,
    unseen_requests: u32,
    ended: bool,
}

/// What a session finds in its outlet.
pub enum Found {
    /// The next frame.
    Frame(WatchFrame),
    /// The hub has stopped.
    Ended,
}

impl Outlet {
    /// An empty outlet of a session on the port's runtime.
    pub fn new(port: Arc<WakePort>) -> Self {
        Self { state: Mutex::default(), port }
    }

    /// Adds frames and has the session woken.
    pub fn put(self: &Arc<Self>, frames: Vec<WatchFrame>) {
        self.state.lock().frames.extend(frames);
        self.port.wake(self);
    }

    /// A request went to the hub.
    pub fn request_sent(&self) {
        self.state.lock().unseen_requests += 1;
    }

    /// The hub has looked at a request.
    pub fn request_seen(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.unseen_requests -= 1;
        let reads_again = state.unseen_requests + 1 == UNSEEN_REQUESTS_MAX;
        drop(state);
        if reads_again {
            self.port.wake(self);
        }
    }

    /// Whether the session may send another request.
    pub fn accepts_requests(&self) -> bool {
        self.state.lock().unseen_requests < UNSEEN_REQUESTS_MAX
    }

    /// Nothing more will come.
    pub fn end(self: &Arc<Self>) {
        self.state.lock().ended = true;
        self.port.wake(self);
    }

    /// The next frame, and whether it was the last for now.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<(Found, bool)> {
        let mut state = self.state.lock();
        if let Some(frame) = state.frames.pop_front() {
            return Poll::Ready((Found::Frame(frame), state.frames.is_empty()));
        }
        if state.ended {
            return Poll::Ready((Found::Ended, true));
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn wake_session(&self) {
        let waker = self.state.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The sessions of one runtime that have something new.
#[derive(Default)]
pub struct WakePort {
    outlets: Mutex<Vec<Arc<Outlet>>>,
    bell: Notify,
}

impl WakePort {
    /// A port without sessions.
    pub fn new() -> Self {
        Self::default()
    }

    fn wake(&self, outlet: &Arc<Outlet>) {
        let mut outlets = self.outlets.lock();
        outlets.push(Arc::clone(outlet));
        let first = outlets.len() == 1;
        drop(outlets);
        if first {
            self.bell.notify_one();
        }
    }

    /// Wakes sessions for ever. Run it as a task on the port's runtime.
    pub async fn deliver(self: Arc<Self>) {
        let mut outlets = Vec::new();
        loop {
            self.bell.notified().await;
            std::mem::swap(&mut *self.outlets.lock(), &mut outlets);
            for outlet in outlets.drain(..) {
                outlet.wake_session();
            }
        }
    }
}
