//! The thread that owns the watch hub.
//!
//! Its queue is filled by the core thread (what was applied), the storage thread (what is stored)
//! and the sessions (what clients ask). Publishing never waits and, while nobody watches, wakes
//! nobody: the batches then stay in the queue until there are many, or somebody asks something.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use folkmoot_core::error::Fatal;
use folkmoot_core::event::EventBatch;
use folkmoot_core::watch::{CreateRequest, Hub, StreamId};
use parking_lot::{Condvar, Mutex};

use super::outlet::Outlet;
use crate::node::clock;
use crate::tasks::Fate;

/// Published revisions that may wait in the queue while nobody watches.
const UNWATCHED_BATCHES_MAX: usize = 1024;
/// The same in bytes.
const UNWATCHED_BYTES_MAX: usize = 8 << 20;
/// Published events that may wait while the hub is busy. Above it new writes are refused: the hub
/// never drops events and the core never waits for it.
const BACKLOG_BYTES_MAX: usize = 64 << 20;
/// Events read for lagging watchers before the queue is looked at again.
const WORK_BYTES: usize = 1 << 20;
/// The hub looks around at least this often.
const IDLE_MAX: Duration = Duration::from_secs(3600);

enum Input {
    Publish(Arc<EventBatch>),
    Compacted(i64),
    Restored(i64, i64),
    EndAll,
    Open(StreamId, Arc<Outlet>),
    Close(StreamId),
    Create(StreamId, CreateRequest),
    Cancel(StreamId, i64),
    Progress(StreamId),
    Sent(StreamId, usize),
}

/// The way to the hub thread. Cheap to clone.
#[derive(Clone)]
pub struct HubHandle {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    watcher_count: AtomicUsize,
    lagging: AtomicBool,
    /// Events in the queue, in bytes.
    backlog_bytes: AtomicUsize,
    last_stream: AtomicU64,
}

#[derive(Default)]
struct Queue {
    inputs: Vec<Input>,
    stored: i64,
    /// Somebody wants the inputs to be looked at now.
    urgent: bool,
    closed: bool,
}

impl HubHandle {
    /// Revisions were applied, in order. Drains `batches`.
    pub fn publish(&self, batches: &mut Vec<Arc<EventBatch>>) {
        let bytes: usize = batches.iter().map(|batch| batch.size_bytes()).sum();
        let mut queue = self.shared.queue.lock();
        queue.inputs.extend(batches.drain(..).map(Input::Publish));
        let backlog_bytes = self.shared.backlog_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let watched = self.shared.watcher_count.load(Ordering::Acquire) > 0;
        let many = queue.inputs.len() >= UNWATCHED_BATCHES_MAX || backlog_bytes >= UNWATCHED_BYTES_MAX;
        if watched || many {
            queue.urgent = true;
            drop(queue);
            self.shared.filled.notify_one();
        }
    }

    /// Whether so many events wait for the hub that no more should be made.
    pub fn is_behind(&self) -> bool {
        self.shared.backlog_bytes.load(Ordering::Relaxed) > BACKLOG_BYTES_MAX
    }

    /// The store was compacted.
    pub fn compacted(&self, revision: i64) {
        self.push(Input::Compacted(revision));
    }

    /// The keys were replaced by a snapshot's, at this revision and this compacted one.
    pub fn restored(&self, revision: i64, compact_revision: i64) {
        let mut queue = self.shared.queue.lock();
        queue.inputs.push(Input::Restored(revision, compact_revision));
        queue.stored = revision;
        queue.urgent = true;
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// Ends all streams: what this member knows is not to be told.
    pub fn end_all(&self) {
        self.push(Input::EndAll);
    }

    /// The engine holds everything up to this revision.
    pub fn stored(&self, revision: i64) {
        // Only lets memory go, which can wait until there is something else to do.
        self.shared.queue.lock().stored = revision;
    }

    /// Opens a stream whose frames go to `outlet`.
    pub fn open(&self, outlet: Arc<Outlet>) -> StreamId {
        let id = StreamId(self.shared.last_stream.fetch_add(1, Ordering::Relaxed) + 1);
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            drop(queue);
            outlet.end();
            return id;
        }
        queue.inputs.push(Input::Open(id, outlet));
        queue.urgent = true;
        drop(queue);
        self.shared.filled.notify_one();
        id
    }

    /// Forgets a stream.
    pub fn close(&self, stream: StreamId) {
        self.push(Input::Close(stream));
    }

    /// Asks for a watcher.
    pub fn create(&self, stream: StreamId, request: CreateRequest) {
        self.push(Input::Create(stream, request));
    }

    /// Ends a watcher.
    pub fn cancel(&self, stream: StreamId, watch_id: i64) {
        self.push(Input::Cancel(stream, watch_id));
    }

    /// Asks how far the stream is.
    pub fn progress(&self, stream: StreamId) {
        self.push(Input::Progress(stream));
    }

    /// Frames of together `bytes` were taken. Looked at now if `soon` or if a watcher lags, which
    /// may wait for the room; otherwise with the next thing that happens.
    pub fn sent(&self, stream: StreamId, bytes: usize, soon: bool) {
        let mut queue = self.shared.queue.lock();
        queue.inputs.push(Input::Sent(stream, bytes));
        if soon || self.shared.lagging.load(Ordering::Acquire) {
            queue.urgent = true;
            drop(queue);
            self.shared.filled.notify_one();
        }
    }

    /// Ends the thread and all streams.
    pub fn stop(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.filled.notify_all();
    }

    fn push(&self, input: Input) {
        let mut queue = self.shared.queue.lock();
        queue.inputs.push(input);
        queue.urgent = true;
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// Tells publishers and sessions from now on whether their news can wait.
    fn set_needs(&self, watcher_count: usize, lagging: bool) {
        let was_watched = self.shared.watcher_count.swap(watcher_count, Ordering::AcqRel) > 0;
        let was_lagging = self.shared.lagging.swap(lagging, Ordering::AcqRel);
        if (watcher_count > 0 && !was_watched) || (lagging && !was_lagging) {
            // What came a moment ago believed that it could wait.
            self.shared.queue.lock().urgent = true;
        }
    }

    /// Waits until there is something to do or `until` has come; `false` when stopped.
    fn take(&self, until: Instant, inputs: &mut Vec<Input>, stored: &mut i64) -> bool {
        let mut queue = self.shared.queue.lock();
        loop {
            if queue.closed || queue.urgent {
                break;
            }
            if self.shared.filled.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
        queue.urgent = false;
        self.shared.backlog_bytes.store(0, Ordering::Relaxed);
        std::mem::swap(&mut queue.inputs, inputs);
        *stored = queue.stored;
        !queue.closed
    }

    fn has_urgent(&self) -> bool {
        let queue = self.shared.queue.lock();
        queue.urgent || queue.closed
    }
}

/// A handle, and the work of its thread.
pub fn hub_thread() -> (HubHandle, HubThread) {
    let handle = HubHandle { shared: Arc::default() };
    (handle.clone(), HubThread { handle })
}

/// See the module.
pub struct HubThread {
    handle: HubHandle,
}

impl HubThread {
    /// Works until stopped. A failure of the engine is the server's.
    pub fn run(self, mut hub: Hub, fate: &Fate) {
        let mut outlets = HashMap::new();
        if let Err(fatal) = self.work(&mut hub, &mut outlets) {
            fate.fail("watch", &fatal);
        }
        for outlet in outlets.values() {
            outlet.end();
        }
        // Streams that were opened too late to be in the table.
        let (mut inputs, mut stored) = (Vec::new(), 0);
        self.handle.stop();
        self.handle.take(Instant::now(), &mut inputs, &mut stored);
        for input in inputs {
            if let Input::Open(_, outlet) = input {
                outlet.end();
            }
        }
    }

    fn work(&self, hub: &mut Hub, outlets: &mut HashMap<StreamId, Arc<Outlet>>) -> Result<(), Fatal> {
        let mut inputs = Vec::new();
        let mut stored = 0;
        // Lagging watchers could go on, but the queue comes first.
        let mut more = false;
        loop {
            let until = match std::mem::take(&mut more) {
                true => Instant::now(),
                false => hub.next_tick().map_or_else(|| Instant::now() + IDLE_MAX, clock::to_instant),
            };
            if !self.handle.take(until, &mut inputs, &mut stored) {
                return Ok(());
            }
            for input in inputs.drain(..) {
                follow(hub, outlets, input)?;
            }
            hub.stored(stored);
            hub.tick(clock::now());
            deliver(hub, outlets);
            while hub.work(WORK_BYTES)? {
                deliver(hub, outlets);
                if self.handle.has_urgent() {
                    more = true;
                    break;
                }
            }
            deliver(hub, outlets);
            let stats = hub.stats();
            self.handle.set_needs(stats.watcher_count, stats.cursor_count > 0);
        }
    }
}

fn follow(hub: &mut Hub, outlets: &mut HashMap<StreamId, Arc<Outlet>>, input: Input) -> Result<(), Fatal> {
    let seen = |stream| {
        if let Some(outlet) = outlets.get(&stream) {
            outlet.request_seen();
        }
    };
    match input {
        Input::Publish(batch) => hub.publish(batch)?,
        Input::Compacted(revision) => hub.compacted(revision),
        Input::Restored(revision, compact_revision) => hub.reset(revision, compact_revision),
        Input::EndAll => {
            for (stream, outlet) in outlets.drain() {
                hub.close_stream(stream);
                outlet.end();
            }
        }
        Input::Open(stream, outlet) => {
            hub.open_stream(stream, stream.0, clock::now());
            outlets.insert(stream, outlet);
        }
        Input::Close(stream) => {
            hub.close_stream(stream);
            outlets.remove(&stream);
        }
        Input::Create(stream, request) => {
            hub.create(stream, request, None);
            seen(stream);
        }
        Input::Cancel(stream, watch_id) => {
            hub.cancel(stream, watch_id);
            seen(stream);
        }
        Input::Progress(stream) => {
            hub.progress_request(stream);
            seen(stream);
        }
        Input::Sent(stream, bytes) => hub.sent(stream, bytes),
    }
    Ok(())
}

/// Hands all queued frames to their outlets. They count for their streams' outboxes until the
/// sessions report them sent, so this does not weaken the bound.
fn deliver(hub: &mut Hub, outlets: &HashMap<StreamId, Arc<Outlet>>) {
    for stream in hub.take_ready_streams() {
        let frames = hub.next_frames(stream, usize::MAX);
        if let Some(outlet) = outlets.get(&stream)
            && !frames.is_empty()
        {
            outlet.put(frames);
        }
    }
}
