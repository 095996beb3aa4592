//! Watching keys: every change once, whole revisions, in order, for as long as it takes.

mod cursor;
pub(crate) mod hub;
mod queue;
mod stream;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;

use self::hub::{Spec, Subscription};
use self::queue::{Item, Pop, Queue};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::kv::{Event, Keys};
use crate::namespace::Namespace;

const BATCHES_MAX: usize = 1024;
const BYTES_MAX: usize = 64 << 20;

/// All changes of one revision among the watched keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision.
    pub revision: i64,
    /// The changes, in the order of the transaction. Empty if the store only says that there was
    /// nothing up to here, which comes if [`WatchBuilder::progress`] asked for it.
    pub events: Vec<Event>,
}

/// What happens when the consumer is slower than the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The watch waits and goes on where it stopped; if the history in between is compacted away
    /// meanwhile, it ends with [`Compacted`](crate::ErrorKind::Compacted).
    #[default]
    Wait,
    /// The watch ends with [`Overflow`](crate::ErrorKind::Overflow).
    Fail,
}

/// What to watch, and how.
#[derive(Clone, Debug)]
#[must_use = "nothing is watched until it is opened"]
pub struct WatchBuilder {
    client: Client,
    keys: Keys,
    start: Option<i64>,
    prev: bool,
    no_put: bool,
    no_delete: bool,
    progress: bool,
    when_full: WhenFull,
    batches_max: usize,
    bytes_max: usize,
    heard: bool,
}

impl Client {
    /// Begins to watch these keys.
    pub fn watch(&self, keys: impl Into<Keys>) -> WatchBuilder {
        WatchBuilder {
            client: self.clone(),
            keys: keys.into(),
            start: None,
            prev: false,
            no_put: false,
            no_delete: false,
            progress: false,
            when_full: WhenFull::Wait,
            batches_max: BATCHES_MAX,
            bytes_max: BYTES_MAX,
            heard: false,
        }
    }

    /// How many watch streams are open.
    #[doc(hidden)]
    pub fn watch_stream_count(&self) -> usize {
        self.core().map_or(0, |core| core.hub.stream_count())
    }
}

impl WatchBuilder {
    /// From this revision on, itself included; from now on if not said.
    pub fn from_revision(mut self, revision: i64) -> Self {
        self.start = Some(revision);
        self
    }

    /// Asks what the keys were before.
    pub fn prev(mut self) -> Self {
        self.prev = true;
        self
    }

    /// Leaves puts out.
    pub fn no_puts(mut self) -> Self {
        self.no_put = true;
        self
    }

    /// Leaves deletions out.
    pub fn no_deletes(mut self) -> Self {
        self.no_delete = true;
        self
    }

    /// Also delivers empty batches when the store says how far it is.
    pub fn progress(mut self) -> Self {
        self.progress = true;
        self
    }

    /// What happens when the consumer is slow.
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.when_full = policy;
        self
    }

    /// How much waits for the consumer at most; 1024 batches and 64 MiB if not said.
    pub fn buffer(mut self, batches: usize, bytes: usize) -> Self {
        self.batches_max = batches;
        self.bytes_max = bytes;
        self
    }

    /// Also delivers whether the store is heard.
    pub(crate) fn heard(mut self) -> Self {
        self.heard = true;
        self
    }

    /// Watches. From now on, every change after this call returned is delivered, and perhaps some
    /// that came while it ran.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn open(self) -> Result<Watcher> {
        let next = match self.start {
            Some(revision) if revision < 1 => {
                return Err(Error::invalid(format!(
                    "a watch begins at revision 1 or later revision={revision}"
                )));
            }
            Some(revision) => revision,
            // Never 0: a stream that breaks before its first event could not tell where it began.
            None => self.client.revision(&self.keys).await? + 1,
        };
        self.open_at(next)
    }

    pub(crate) fn open_at(self, next: i64) -> Result<Watcher> {
        let core = self.client.core()?;
        let (key, end) = self.keys.wire(self.client.keys());
        let spec = Spec {
            key,
            end,
            prev: self.prev,
            no_put: self.no_put,
            no_delete: self.no_delete,
            progress: self.progress,
            fail_when_full: self.when_full == WhenFull::Fail,
        };
        let queue = Queue::new(self.batches_max, self.bytes_max, self.heard);
        let subscription = hub::subscribe(&core, spec, next, queue);
        Ok(Watcher { subscription, keys: self.client.keys().clone(), ended: false })
    }
}

/// A running watch: a stream of batches that survives every failure it can survive.
///
/// It ends with an error that says why, then with `None`. Dropping it ends it.
///
/// # Cancel safety
/// `next()` may be dropped at any time; nothing is lost.
#[derive(Debug)]
pub struct Watcher {
    subscription: Subscription,
    keys: Namespace,
    ended: bool,
}

/// What a watch delivers, inside this crate.
#[derive(Debug)]
pub(crate) enum Delivery {
    Batch(WatchBatch),
    Heard(bool),
}

impl Watcher {
    pub(crate) fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.subscription.is_foreign() {
            self.ended = true;
            return Poll::Ready(Some(Err(Error::forked())));
        }
        match ready!(self.subscription.queue.poll_pop(cx)) {
            Pop::Item { item, resume } => {
                if resume {
                    self.subscription.resume();
                }
                Poll::Ready(Some(Ok(match item {
                    Item::Batch(batch) => {
                        let events = batch
                            .events
                            .into_iter()
                            .map(|event| Event::from_wire(event, &self.keys))
                            .collect();
                        Delivery::Batch(WatchBatch { revision: batch.revision, events })
                    }
                    Item::Progress(revision) => Delivery::Batch(WatchBatch { revision, events: Vec::new() }),
                    Item::Heard(heard) => Delivery::Heard(heard),
                })))
            }
            Pop::End(error) => {
                self.ended = true;
                Poll::Ready(error.map(Err))
            }
        }
    }
}

impl Stream for Watcher {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.poll_delivery(cx)) {
                Some(Ok(Delivery::Batch(batch))) => return Poll::Ready(Some(Ok(batch))),
                Some(Ok(Delivery::Heard(_))) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}
