//! The stored history as batches of events, for watchers that lag behind what is in memory.

use std::sync::Arc;

use bytes::Bytes;

use super::reader::Reader;
use super::request::RangeRequest;
use super::rows::{self, Version};
use crate::env::{Family, ScanStep};
use crate::error::{Error, Failure, Fatal};
use crate::event::{Event, EventBatch, EventKind, History, PrevVersion};
use crate::types::{KeyValue, Revision};

/// Collects versions into batches until there are enough.
struct Batches {
    done: Vec<Arc<EventBatch>>,
    open: Option<EventBatch>,
    bytes: usize,
    revisions_max: usize,
    bytes_max: usize,
}

impl Batches {
    /// Adds a version; false if it belongs to a batch that is not wanted any more.
    fn push<B: AsRef<[u8]>>(&mut self, version: &Version<B>) -> bool {
        let main = version.revision.main;
        if self.open.as_ref().is_none_or(|open| open.revision != main) {
            self.close();
            if !self.done.is_empty()
                && (self.done.len() >= self.revisions_max || self.bytes >= self.bytes_max)
            {
                return false;
            }
            self.open = Some(EventBatch { revision: main, events: Vec::new() });
        }
        if let Some(open) = &mut self.open {
            open.events.push(event(version));
        }
        true
    }

    fn close(&mut self) {
        if let Some(batch) = self.open.take() {
            self.bytes += batch.size_bytes();
            self.done.push(Arc::new(batch));
        }
    }
}

/// The event that a version was. Its `prev` has neither value nor, for puts, lease:
/// [`History::prev_kv`] reads those.
fn event<B: AsRef<[u8]>>(version: &Version<B>) -> Event {
    let Revision { main, sub } = version.revision;
    let key = Bytes::copy_from_slice(version.key.as_ref());
    let (kind, kv) = if version.tombstone {
        (EventKind::Delete, KeyValue { key, mod_revision: main, ..KeyValue::default() })
    } else {
        let kv = KeyValue {
            key,
            value: Bytes::copy_from_slice(version.value.as_ref()),
            create_revision: version.create_revision,
            mod_revision: main,
            version: version.version,
            lease: version.lease,
        };
        (EventKind::Put, kv)
    };
    let prev = version.prev.map(|revision| PrevVersion {
        revision,
        create_revision: version.create_revision,
        version: version.version - i64::from(!version.tombstone),
        lease: version.lease.filter(|_| version.tombstone),
        value: None,
    });
    Event { kind, sub, kv, prev }
}

impl History for Reader {
    fn batches(
        &self,
        from: i64,
        to: i64,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<EventBatch>>, Failure> {
        let (stored, unstored, epoch) = {
            let state = self.state()?;
            if from < state.compact_revision {
                return Err(Error::Compacted.into());
            }
            let stored = state.stored_revision;
            let start = state.unstored.partition_point(|version| version.revision.main < from);
            let unstored: Vec<_> = state
                .unstored
                .range(start..)
                .take_while(|version| version.revision.main < to)
                .cloned()
                .collect();
            (stored, unstored, state.epoch)
        };
        let mut batches = Batches { done: Vec::new(), open: None, bytes: 0, revisions_max, bytes_max };
        let mut full = false;
        let mut failed = None;
        let start = rows::rev_key(Revision::start_of(from.max(0)));
        let end = rows::rev_key(Revision::start_of(to.min(stored + 1).max(0)));
        self.shared.engine.scan(Family::Rev, &start, Some(&end), &mut |key, row| match rows::decode_rev(
            key, row,
        ) {
            Ok(version) if batches.push(&version) => ScanStep::Next,
            Ok(_) => {
                full = true;
                ScanStep::Stop
            }
            Err(fatal) => {
                failed = Some(fatal);
                ScanStep::Stop
            }
        })?;
        if let Some(fatal) = failed {
            return Err(fatal.into());
        }
        if !full {
            let _ = unstored.iter().all(|version| batches.push(version));
        }
        batches.close();
        if self.epoch() != epoch {
            return Err(Error::Timeout.into());
        }
        // Compaction may have removed rows meanwhile.
        if from < self.compact_revision() {
            return Err(Error::Compacted.into());
        }
        Ok(batches.done)
    }

    /// etcd reads the key at the revision before the event's, and sends nothing if that revision
    /// is compacted by now, whether or not its rows are still there.
    fn prev_kv(&self, event: &Event) -> Result<Option<KeyValue>, Failure> {
        let at = event.kv.mod_revision - 1;
        let Some(prev) = &event.prev else { return Ok(None) };
        let epoch = self.state()?.epoch;
        let created = event.kind == EventKind::Put && event.kv.create_revision == event.kv.mod_revision;
        if created || at < self.compact_revision() {
            return Ok(None);
        }
        if prev.revision.main > at {
            // The command of the event had changed the key before; what counts is the key as it
            // was before the command.
            let key = event.kv.key.clone();
            let request = RangeRequest { key, revision: at, ..RangeRequest::default() };
            return match self.range(&request) {
                Ok(response) => Ok(response.kvs.into_iter().next()),
                Err(Failure::Answer(Error::Compacted)) => Ok(None),
                Err(failure) => Err(failure),
            };
        }
        if let Some(value) = &prev.value {
            return Ok(Some(KeyValue {
                key: event.kv.key.clone(),
                value: value.clone(),
                create_revision: prev.create_revision,
                mod_revision: prev.revision.main,
                version: prev.version,
                lease: prev.lease,
            }));
        }
        match self.version(prev.revision)? {
            Some(version) => Ok(Some(KeyValue {
                key: version.key,
                value: version.value,
                create_revision: version.create_revision,
                mod_revision: version.revision.main,
                version: version.version,
                lease: version.lease,
            })),
            None if self.epoch() != epoch => Err(Error::Timeout.into()),
            None if at < self.compact_revision() => Ok(None),
            None => Err(Fatal::Damaged(format!(
                "a superseded version is missing; revision={} sub={}",
                prev.revision.main, prev.revision.sub
            ))
            .into()),
        }
    }
}

impl Reader {
    /// One version, wherever it is.
    fn version(&self, revision: Revision) -> Result<Option<Version<Bytes>>, Failure> {
        {
            let state = self.state()?;
            if revision.main > state.stored_revision {
                let at = state.unstored.partition_point(|version| version.revision < revision);
                return Ok(state.unstored.get(at).filter(|version| version.revision == revision).cloned());
            }
        }
        let key = rows::rev_key(revision);
        let Some(row) = self.shared.engine.get(Family::Rev, &key)? else { return Ok(None) };
        let Version { revision, tombstone, create_revision, version, lease, prev, key, value } =
            rows::decode_rev(&key, &row)?;
        let (key, value) = (row.slice_ref(key), row.slice_ref(value));
        Ok(Some(Version { revision, tombstone, create_revision, version, lease, prev, key, value }))
    }
}
