//! A prefix of the store as it is, kept up to date: a snapshot, then changes, and a fresh snapshot
//! when the changes in between are gone.
//!
//! It is pulled, not pushed: what the consumer has not asked for is not held here, and a consumer
//! that was away for long gets the difference. Compaction never ends a view.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;

use bytes::Bytes;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Event, EventKind, Get, KeyValue, Keys};
use crate::runtime;
use crate::watch::{Delivery, Watcher};

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// What the view is up to.
    pub revision: i64,
    /// Keys that were put.
    pub put: Vec<KeyValue>,
    /// Keys that are gone, as they were last.
    pub gone: Vec<KeyValue>,
    /// The difference of two snapshots, not the changes of one revision.
    pub resync: bool,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty()
    }
}

/// What a view tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ViewEvent {
    Change(Change),
    /// The store is not heard; what is here may be old.
    Stale,
    /// It is heard again.
    Fresh,
    /// It is another store than before, or went back in time; the difference follows.
    Reset,
}

/// The keys of a prefix and their values.
#[derive(Debug, Default)]
struct Table {
    map: BTreeMap<Bytes, KeyValue>,
}

impl Table {
    fn apply(&mut self, revision: i64, events: Vec<Event>) -> Change {
        let mut change = Change { revision, ..Change::default() };
        for event in events {
            match event.kind {
                EventKind::Put => {
                    self.map.insert(event.kv.key.clone(), event.kv.clone());
                    change.put.push(event.kv);
                }
                EventKind::Delete => change.gone.extend(self.map.remove(&event.kv.key)),
            }
        }
        change
    }

    /// Becomes the snapshot and tells the difference.
    fn replace(&mut self, revision: i64, kvs: Vec<KeyValue>) -> Change {
        let fresh: BTreeMap<Bytes, KeyValue> = kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        let old = std::mem::replace(&mut self.map, fresh);
        let put = self.map.values().filter(|kv| old.get(&kv.key) != Some(kv)).cloned().collect();
        let gone = old.into_values().filter(|kv| !self.map.contains_key(&kv.key)).collect();
        Change { revision, put, gone, resync: true }
    }
}

/// The view.
#[derive(Debug)]
pub(crate) struct PrefixView {
    client: Client,
    prefix: String,
    table: Table,
    revision: i64,
    watcher: Option<Watcher>,
    ready: VecDeque<ViewEvent>,
    stale: bool,
}

impl PrefixView {
    /// Reads the prefix and begins to watch it.
    pub async fn open(client: &Client, prefix: impl Into<String>) -> Result<Self> {
        let mut view = Self {
            client: client.clone(),
            prefix: prefix.into(),
            table: Table::default(),
            revision: 0,
            watcher: None,
            ready: VecDeque::new(),
            stale: false,
        };
        view.snapshot().await?;
        Ok(view)
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn values(&self) -> impl Iterator<Item = &KeyValue> {
        self.table.map.values()
    }

    async fn snapshot(&mut self) -> Result<Change> {
        let answer = self.client.get(Get::prefix(&self.prefix)).await?;
        let keys = Keys::prefix(&self.prefix);
        let watcher = self.client.watch(keys).heard().open_at(answer.header.revision + 1)?;
        // From here on nothing waits: a dropped call has changed all of this or nothing.
        self.watcher = Some(watcher);
        self.revision = answer.header.revision;
        Ok(self.table.replace(answer.header.revision, answer.kvs))
    }

    /// What comes next.
    ///
    /// # Cancel safety
    /// May be dropped and called again; nothing is lost.
    pub async fn next(&mut self) -> Result<ViewEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let Some(watcher) = &mut self.watcher else {
                self.resync().await?;
                continue;
            };
            match poll_fn(|cx| watcher.poll_delivery(cx)).await {
                Some(Ok(Delivery::Heard(heard))) => self.heard(heard),
                Some(Ok(Delivery::Batch(batch))) => {
                    self.heard(true);
                    self.revision = batch.revision;
                    let change = self.table.apply(batch.revision, batch.events);
                    if !change.is_empty() {
                        return Ok(ViewEvent::Change(change));
                    }
                }
                Some(Err(error)) => self.watch_ended(error)?,
                None => return Err(Error::closed("the view")),
            }
        }
    }

    /// Whoever asks again after an error begins with a fresh snapshot.
    fn watch_ended(&mut self, error: Error) -> Result<()> {
        self.watcher = None;
        match error.kind() {
            ErrorKind::Compacted { .. } => {}
            ErrorKind::ClusterReset => self.ready.push_back(ViewEvent::Reset),
            _ => return Err(error),
        }
        Ok(())
    }

    fn heard(&mut self, heard: bool) {
        if self.stale == heard {
            self.stale = !heard;
            self.ready.push_back(if heard { ViewEvent::Fresh } else { ViewEvent::Stale });
        }
    }

    /// Reads everything afresh, as often as it takes.
    async fn resync(&mut self) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            match self.snapshot().await {
                Ok(change) => {
                    self.ready.extend((!change.is_empty()).then_some(ViewEvent::Change(change)));
                    return Ok(());
                }
                Err(error) if error.is_retryable() || error.kind() == ErrorKind::ClusterReset => {
                    self.heard(false);
                    let core = self.client.core()?;
                    runtime::within(&core.handle, backoff.wait()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &str, revision: i64) -> KeyValue {
        KeyValue {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            mod_revision: revision,
            ..KeyValue::default()
        }
    }

    #[test]
    fn w_6_a_fresh_snapshot_tells_the_difference() {
        let mut table = Table::default();
        table.replace(5, vec![kv("a", "1", 1), kv("b", "1", 2), kv("c", "1", 3)]);
        let change = table.replace(9, vec![kv("a", "1", 1), kv("b", "2", 8), kv("d", "1", 9)]);
        assert_eq!(change.put, [kv("b", "2", 8), kv("d", "1", 9)]);
        assert_eq!(change.gone, [kv("c", "1", 3)]);
        assert!(change.resync);
    }

    #[test]
    fn the_deletion_of_an_unknown_key_is_no_change() {
        let mut table = Table::default();
        let event = Event { kind: EventKind::Delete, kv: kv("a", "", 3), prev: None };
        assert!(table.apply(3, vec![event]).is_empty());
    }
}
