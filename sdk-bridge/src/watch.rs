//! Watching keys.

use std::pin::Pin;

use folkmoot_client as sdk;
use futures_util::StreamExt as _;

use crate::client::Client;
use crate::edge::{Result, edge};
use crate::error::BridgeError;
use crate::kv::{KeySet, KeyValueRecord};
use crate::stream::{Cell, Source, stream};

/// What to watch, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchOptions {
    /// Which keys.
    pub keys: KeySet,
    /// From this revision on, itself included; from now on if not said.
    pub from_revision: Option<i64>,
    /// Asks what the keys were before.
    pub prev: bool,
    /// Leaves puts out.
    pub no_puts: bool,
    /// Leaves deletions out.
    pub no_deletes: bool,
    /// Also delivers empty batches when the store says how far it is.
    pub progress: bool,
    /// Ends with `OVERFLOW` when the consumer is too slow, instead of waiting for it.
    pub fail_when_full: bool,
    /// How many batches, and how many bytes, wait for the consumer at most.
    pub buffer: Option<(usize, usize)>,
}

impl WatchOptions {
    /// Watches these keys from now on.
    pub fn new(keys: KeySet) -> Self {
        Self {
            keys,
            from_revision: None,
            prev: false,
            no_puts: false,
            no_deletes: false,
            progress: false,
            fail_when_full: false,
            buffer: None,
        }
    }
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Whether it was deleted rather than put.
    pub is_delete: bool,
    /// The key as it is now; of a deletion only key and `mod_revision`.
    pub kv: KeyValueRecord,
    /// What it was before, if asked for and still known.
    pub prev: Option<KeyValueRecord>,
}

/// All changes of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatchRecord {
    /// The revision.
    pub revision: i64,
    /// The changes; none if the store only says how far it is.
    pub events: Vec<EventRecord>,
}

impl From<sdk::WatchBatch> for WatchBatchRecord {
    fn from(batch: sdk::WatchBatch) -> Self {
        let event = |event: sdk::Event| EventRecord {
            is_delete: event.kind == sdk::EventKind::Delete,
            kv: event.kv.into(),
            prev: event.prev.map(Into::into),
        };
        Self { revision: batch.revision, events: batch.events.into_iter().map(event).collect() }
    }
}

#[derive(Debug)]
pub(crate) struct Batches(sdk::Watcher);

impl Source for Batches {
    type Item = WatchBatchRecord;
    const QUICK: bool = true;

    async fn pull(&mut self) -> Option<Result<WatchBatchRecord>> {
        Some(Pin::new(&mut self.0).next().await?.map(Into::into).map_err(Into::into))
    }
}

stream! {
    /// A running watch: every change once, whole revisions, in order.
    WatchStream(Batches) -> WatchBatchRecord
}

impl Client {
    /// Watches. Every change after this call came back is delivered.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn watch(&self, options: WatchOptions) -> Result<WatchStream, BridgeError> {
        let client = self.sdk()?;
        edge(async {
            let mut watch = client.watch(options.keys);
            if let Some(revision) = options.from_revision {
                watch = watch.from_revision(revision);
            }
            if options.prev {
                watch = watch.prev();
            }
            if options.no_puts {
                watch = watch.no_puts();
            }
            if options.no_deletes {
                watch = watch.no_deletes();
            }
            if options.progress {
                watch = watch.progress();
            }
            if options.fail_when_full {
                watch = watch.when_full(sdk::WhenFull::Fail);
            }
            if let Some((batches, bytes)) = options.buffer {
                watch = watch.buffer(batches, bytes);
            }
            Ok(WatchStream(Cell::new(Batches(watch.open().await?))))
        })
        .await
    }
}
