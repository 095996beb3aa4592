//! The checker of the hub's random tests: what a client may conclude from its requests, the frames
//! that arrive and the whole history. It knows nothing of how the hub works.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::model::Store;
use super::{CreateRequest, WatchFrame};
use crate::event::{Event, EventKind};
use crate::types::{KeyRange, KeyValue};

/// Revisions that one catch-up response may cover in these tests.
pub(super) const CATCH_UP_REVISIONS: i64 = 5;

/// A watcher as its client knows it.
pub(super) struct Watch {
    pub(super) request: CreateRequest,
    range: KeyRange,
    /// Nothing before this revision may arrive, everything from it on must.
    cursor: i64,
    pub(super) compacted: bool,
    /// Events of a response whose last fragment has not come.
    partial: Vec<(Event, Option<KeyValue>)>,
    partial_revision: i64,
}

impl Watch {
    fn wants(&self, event: &Event) -> bool {
        let unwanted = match event.kind {
            EventKind::Put => 0,
            EventKind::Delete => 1,
        };
        self.range.contains(&event.kv.key) && !self.request.filters.contains(&unwanted)
    }

    fn wanted(&self, store: &Store, to: i64) -> Vec<Event> {
        let batches = store.truth(self.cursor, to);
        batches.iter().flat_map(|batch| &batch.events).filter(|event| self.wants(event)).cloned().collect()
    }
}

/// One stream's client.
#[derive(Default)]
pub(super) struct Client {
    /// Creates that were not answered: the id, `None` for a rejection.
    pub(super) creates: VecDeque<(Option<i64>, CreateRequest)>,
    pub(super) cancels: VecDeque<i64>,
    /// Ids taken when all requests so far are handled.
    pub(super) ids: BTreeSet<i64>,
    pub(super) next_id: i64,
    pub(super) watches: BTreeMap<i64, Watch>,
    pub(super) slow: bool,
    pub(super) progress_count: usize,
}

impl Client {
    pub(super) fn create(&mut self, request: CreateRequest) {
        let range = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
        let rejected = request.start_revision < 0
            || range.is_empty()
            || self.ids.contains(&request.watch_id) && request.watch_id != 0;
        let id = (!rejected).then(|| {
            if request.watch_id != 0 {
                return request.watch_id;
            }
            while self.ids.contains(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            self.next_id - 1
        });
        self.ids.extend(id);
        self.creates.push_back((id, request));
    }

    pub(super) fn receive(&mut self, frame: &WatchFrame, store: &Store) -> Result<(), String> {
        let fail = |what: &str| Err(format!("{what}: {frame:?}"));
        if frame.revision > store.revision() {
            return fail("header from the future");
        }
        if let Some((id, _)) = self.watches.iter().find(|(_, watch)| !watch.partial.is_empty())
            && *id != frame.watch_id
        {
            return fail("fragments interrupted");
        }
        if frame.created {
            let Some((id, request)) = self.creates.pop_front() else { return fail("nobody asked") };
            let Some(id) = id else {
                let ok = frame.canceled && frame.watch_id == -1 && !frame.cancel_reason.is_empty();
                return if ok { Ok(()) } else { fail("not rejected") };
            };
            if frame.canceled || frame.watch_id != id || frame.events.is_some() {
                return fail("bad answer to a create");
            }
            let cursor =
                if request.start_revision == 0 { frame.revision + 1 } else { request.start_revision };
            let range = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
            let watch =
                Watch { request, range, cursor, compacted: false, partial: Vec::new(), partial_revision: 0 };
            return match self.watches.insert(id, watch) {
                Some(_) => fail("id given twice"),
                None => Ok(()),
            };
        }
        if frame.watch_id == -1 && !self.watches.contains_key(&-1) {
            self.progress_count += 1;
            if self.watches.is_empty() {
                return fail("progress without watchers");
            }
            return self.watches.values_mut().try_for_each(|watch| progress(watch, frame, store));
        }
        let Some(watch) = self.watches.get_mut(&frame.watch_id) else { return fail("unknown watch id") };
        if frame.canceled && frame.compact_revision != 0 {
            if frame.revision != 0 || !frame.cancel_reason.is_empty() || watch.compacted {
                return fail("bad cancel by compaction");
            }
            if watch.cursor >= frame.compact_revision || frame.compact_revision > store.compact_revision() {
                return fail("cancelled though nothing was lost");
            }
            watch.compacted = true;
            return Ok(());
        }
        if frame.canceled {
            if self.cancels.pop_front() != Some(frame.watch_id) {
                return fail("nobody cancelled");
            }
            self.watches.remove(&frame.watch_id);
            return Ok(());
        }
        if watch.compacted {
            return fail("something after the cancel");
        }
        if frame.events.is_none() {
            return progress(watch, frame, store);
        }
        events(watch, frame, store)
    }

    /// Everything was delivered: nothing may be missing.
    pub(super) fn finish(&self, store: &Store, revision: i64) -> Result<(), String> {
        if !self.creates.is_empty() || !self.cancels.is_empty() {
            return Err("requests without an answer".to_owned());
        }
        for (id, watch) in &self.watches {
            if !watch.compacted && !watch.wanted(store, revision).is_empty() {
                return Err(format!("lost at the end: watch={id} cursor={}", watch.cursor));
            }
        }
        Ok(())
    }
}

fn progress(watch: &mut Watch, frame: &WatchFrame, store: &Store) -> Result<(), String> {
    if watch.compacted || frame.revision < watch.request.start_revision {
        return Err(format!("progress of a watcher that is not in sync: {frame:?}"));
    }
    if !watch.wanted(store, frame.revision).is_empty() {
        return Err(format!("progress overtook events: cursor={} {frame:?}", watch.cursor));
    }
    watch.cursor = watch.cursor.max(frame.revision + 1);
    Ok(())
}

fn events(watch: &mut Watch, frame: &WatchFrame, store: &Store) -> Result<(), String> {
    let fail = |what: &str, cursor: i64| Err(format!("{what}: cursor={cursor} {frame:?}"));
    if !watch.partial.is_empty() && watch.partial_revision != frame.revision {
        return fail("header changed between fragments", watch.cursor);
    }
    watch.partial.extend(frame.events().map(|(event, prev)| (event.clone(), prev.cloned())));
    watch.partial_revision = frame.revision;
    if frame.fragment {
        return if watch.request.fragment { Ok(()) } else { fail("nobody wanted fragments", watch.cursor) };
    }
    let got = std::mem::take(&mut watch.partial);
    let (Some(first), Some(last)) = (got.first(), got.last()) else { return fail("empty", watch.cursor) };
    let (first, last) = (first.0.kv.mod_revision, last.0.kv.mod_revision);
    if first < watch.cursor {
        return fail("went back", watch.cursor);
    }
    if last > frame.revision || last - first >= CATCH_UP_REVISIONS {
        return fail("bad span of revisions", watch.cursor);
    }
    let wanted = watch.wanted(store, last);
    for event in &wanted {
        if !got.iter().any(|(got, _)| got.kv == event.kv && got.kind == event.kind) {
            return fail(&format!("lost revision={} sub={}", event.kv.mod_revision, event.sub), watch.cursor);
        }
    }
    if !got.iter().map(|(event, _)| event).eq(wanted.iter()) {
        return fail("not the wanted events in order", watch.cursor);
    }
    for (event, prev) in &got {
        let truth = if watch.request.prev_kv { store.true_prev(event) } else { None };
        let may_be_gone = event.kv.mod_revision - 1 < store.compact_revision();
        if *prev != truth && !(prev.is_none() && may_be_gone) {
            return fail("wrong prev_kv", watch.cursor);
        }
    }
    watch.cursor = last + 1;
    Ok(())
}
