//! Who carries which watch: a stream takes up to two hundred, and ends when it has none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::cursor::Cursor;
use super::queue::Queue;
use super::stream;
use crate::transport::Core;

const WATCHES_MAX: usize = 200;

/// What is watched, in the keys of the store.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub key: Bytes,
    pub end: Bytes,
    pub prev: bool,
    pub no_put: bool,
    pub no_delete: bool,
    /// Whether the consumer wants to hear of progress.
    pub progress: bool,
    /// Fail instead of waiting when the consumer is slow.
    pub fail_when_full: bool,
}

/// A watch in the hands of a stream.
#[derive(Debug)]
pub(crate) struct Entry {
    pub spec: Spec,
    pub cursor: Cursor,
    pub queue: Arc<Queue>,
}

pub(crate) enum Command {
    Open(u64, Entry),
    /// The consumer is gone.
    Close(u64),
    /// The consumer has room again.
    Resume(u64),
}

#[derive(Debug)]
struct StreamHandle {
    id: u64,
    commands: mpsc::UnboundedSender<Command>,
    count: usize,
}

/// All streams of a client.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    streams: Mutex<Vec<StreamHandle>>,
    ids: AtomicU64,
}

/// A watch in the hands of its consumer. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Subscription {
    id: u64,
    stream: u64,
    commands: mpsc::UnboundedSender<Command>,
    pub queue: Arc<Queue>,
    core: Arc<Core>,
}

impl Subscription {
    pub fn resume(&self) {
        // A stream that is gone has said why in the queue.
        let _ = self.commands.send(Command::Resume(self.id));
    }

    pub fn is_foreign(&self) -> bool {
        self.core.is_foreign()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.core.is_foreign() {
            return;
        }
        self.core.hub.release(self.stream);
        let _ = self.commands.send(Command::Close(self.id));
    }
}

impl Hub {
    fn release(&self, stream: u64) {
        if let Some(handle) = self.streams.lock().iter_mut().find(|handle| handle.id == stream) {
            handle.count -= 1;
        }
    }

    /// Ends the stream if nobody has asked it for anything meanwhile.
    pub fn try_end(&self, stream: u64, commands: &mut mpsc::UnboundedReceiver<Command>) -> Option<Command> {
        let mut streams = self.streams.lock();
        if let Ok(command) = commands.try_recv() {
            return Some(command);
        }
        streams.retain(|handle| handle.id != stream);
        None
    }

    /// How many streams are open.
    pub fn stream_count(&self) -> usize {
        self.streams.lock().len()
    }
}

/// Begins to watch from `next`.
pub(crate) fn subscribe(core: &Arc<Core>, spec: Spec, next: i64, queue: Queue) -> Subscription {
    let hub = &core.hub;
    let id = hub.ids.fetch_add(1, Ordering::Relaxed);
    let queue = Arc::new(queue);
    let entry = Entry { spec, cursor: Cursor::new(next), queue: queue.clone() };
    let mut streams = hub.streams.lock();
    let handle = match streams.iter_mut().position(|handle| handle.count < WATCHES_MAX) {
        Some(found) => &mut streams[found],
        None => {
            let (commands, orders) = mpsc::unbounded_channel();
            core.handle.spawn(stream::run(core.clone(), id, orders, core.seen.epochs(), core.closing()));
            streams.push(StreamHandle { id, commands, count: 0 });
            streams.last_mut().expect("was just added")
        }
    };
    handle.count += 1;
    // Sent under the lock: a stream that ends looks for orders under it.
    let _ = handle.commands.send(Command::Open(id, entry));
    Subscription { id, stream: handle.id, commands: handle.commands.clone(), queue, core: core.clone() }
}
