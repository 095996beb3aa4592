//! For tests: a slow store with its whole history, and bugs that can be switched on.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{Error, Failure};
use crate::event::{Event, EventBatch, EventKind, History, PrevVersion};
use crate::types::{KeyValue, LeaseId, Revision};

/// Bugs that watch implementations have had. Tests switch one on to show that they would see it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// A cursor below the compacted revision goes on from there (etcd issue 17529).
    pub cursor_skips_compacted: bool,
    /// Progress goes past queued events and cursors (etcd issue 15220).
    pub progress_overtakes: bool,
    /// After a snapshot install live watchers start again where they began (etcd issue 15271).
    pub reset_goes_back: bool,
    /// Watchers hear of revisions before their start (etcd issue 20221).
    pub future_gets_events: bool,
    /// A full outbox loses the event.
    pub full_drops_events: bool,
    /// A cursor gets the last revision of a piece again (etcd issue 17247).
    pub cursor_repeats: bool,
}

/// One change of a transaction.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(Bytes, Bytes, Option<LeaseId>),
    Delete(Bytes),
}

/// Every revision there ever was, in memory.
#[derive(Default)]
pub(super) struct Store(Mutex<State>);

struct State {
    revision: i64,
    compact_revision: i64,
    stored: i64,
    keys: BTreeMap<Bytes, (Revision, KeyValue)>,
    log: BTreeMap<i64, Arc<EventBatch>>,
    /// What each event superseded, by its revision.
    superseded: BTreeMap<(i64, u32), KeyValue>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            revision: 1,
            compact_revision: -1,
            stored: 1,
            keys: BTreeMap::new(),
            log: BTreeMap::new(),
            superseded: BTreeMap::new(),
        }
    }
}

impl Store {
    /// Applies changes of different keys as one revision; `None` if nothing changed (deletes of
    /// absent keys). `evicted` leaves the superseded values to [`History::prev_kv`].
    pub(super) fn apply(&self, changes: Vec<Change>, evicted: bool) -> Option<Arc<EventBatch>> {
        let state = &mut *self.0.lock();
        let main = state.revision + 1;
        let mut events = Vec::new();
        for change in changes {
            let sub = events.len() as u32;
            let key = match &change {
                Change::Put(key, ..) | Change::Delete(key) => key.clone(),
            };
            let before = state.keys.get(&key).cloned();
            let (kind, kv) = match change {
                Change::Put(key, value, lease) => {
                    let (create_revision, version) =
                        before.as_ref().map_or((main, 1), |(_, kv)| (kv.create_revision, kv.version + 1));
                    let kv = KeyValue { key, value, create_revision, mod_revision: main, version, lease };
                    state.keys.insert(kv.key.clone(), (Revision { main, sub }, kv.clone()));
                    (EventKind::Put, kv)
                }
                Change::Delete(key) => {
                    if state.keys.remove(&key).is_none() {
                        continue;
                    }
                    (EventKind::Delete, KeyValue { key, mod_revision: main, ..KeyValue::default() })
                }
            };
            let prev = before.map(|(revision, kv)| {
                state.superseded.insert((main, sub), kv.clone());
                PrevVersion {
                    revision,
                    create_revision: kv.create_revision,
                    version: kv.version,
                    lease: kv.lease,
                    value: (!evicted).then_some(kv.value),
                }
            });
            events.push(Event { kind, sub, kv, prev });
        }
        if events.is_empty() {
            return None;
        }
        state.revision = main;
        let batch = Arc::new(EventBatch { revision: main, events });
        state.log.insert(main, batch.clone());
        Some(batch)
    }

    pub(super) fn revision(&self) -> i64 {
        self.0.lock().revision
    }

    pub(super) fn compact_revision(&self) -> i64 {
        self.0.lock().compact_revision
    }

    pub(super) fn compact(&self, revision: i64) {
        let state = &mut *self.0.lock();
        assert!(revision > state.compact_revision && revision <= state.revision);
        state.compact_revision = revision;
    }

    pub(super) fn stored(&self) -> i64 {
        self.0.lock().stored
    }

    pub(super) fn set_stored(&self, revision: i64) {
        self.0.lock().stored = revision;
    }

    /// All batches from `from` up to `to`, whether compacted or not.
    pub(super) fn truth(&self, from: i64, to: i64) -> Vec<Arc<EventBatch>> {
        if from > to {
            return Vec::new();
        }
        self.0.lock().log.range(from..=to).map(|(_, batch)| batch.clone()).collect()
    }

    /// What an event superseded, whether compacted or not.
    pub(super) fn true_prev(&self, event: &Event) -> Option<KeyValue> {
        self.0.lock().superseded.get(&(event.kv.mod_revision, event.sub)).cloned()
    }
}

impl History for Store {
    fn batches(
        &self,
        from: i64,
        to: i64,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<EventBatch>>, Failure> {
        let state = self.0.lock();
        assert!(from < to && to <= state.stored + 1, "asked for what is not stored {from}..{to}");
        if from < state.compact_revision {
            return Err(Failure::Answer(Error::Compacted));
        }
        let mut bytes = 0;
        let batches = state.log.range(from..to).map(|(_, batch)| batch.clone()).take(revisions_max);
        Ok(batches
            .take_while(|batch| {
                let room = bytes < bytes_max;
                bytes += batch.size_bytes();
                room
            })
            .collect())
    }

    fn prev_kv(&self, event: &Event) -> Result<Option<KeyValue>, Failure> {
        let state = self.0.lock();
        if event.kv.mod_revision - 1 < state.compact_revision {
            return Ok(None);
        }
        Ok(state.superseded.get(&(event.kv.mod_revision, event.sub)).cloned())
    }
}
