//! The hub: what its owner calls, and the one path by which anything reaches a watcher.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Failure, Fatal};
use crate::event::{Event, EventBatch, EventKind, History};
use crate::mutant::mutant;
use crate::types::{Instant64, KeyRange, KeyValue};

use super::catch_up::Chunks;
use super::frame::{EventSet, Pick, WatchFrame};
use super::groups::{GroupIndex, Groups};
use super::ring::Ring;
use super::streams::{StreamIndex, Streams};
use super::watchers::{State, Variant, Watcher, WatcherIndex, WatcherRef, Watchers};
use super::{CreateRequest, HubConfig, StreamId};

/// The watch id of responses that are about no single watcher.
const NO_WATCH_ID: i64 = -1;
/// Wire numbers of the event filters.
const FILTER_NO_PUT: i32 = 0;
const FILTER_NO_DELETE: i32 = 1;
/// Shorter progress intervals are raised to this, as in etcd.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// See the module [`watch`](super).
pub struct Hub {
    pub(super) config: HubConfig,
    pub(super) history: Arc<dyn History>,
    /// The last revision published.
    pub(super) revision: i64,
    /// The smallest revision that can be read.
    pub(super) compact_revision: i64,
    pub(super) ring: Ring,
    pub(super) groups: Groups,
    pub(super) watchers: Watchers,
    pub(super) streams: Streams,
    pub(super) chunks: Chunks,
    /// Watchers in state [`State::Cursor`].
    pub(super) cursor_count: usize,
    /// Cursors whose history was compacted before the hub was told; they are in no stream's queue.
    pub(super) parked: Vec<WatcherRef>,
    #[cfg(test)]
    pub(super) faults: super::model::Faults,
}

/// Numbers for metrics and tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HubStats {
    /// Open streams.
    pub stream_count: usize,
    /// Watchers of all streams.
    pub watcher_count: usize,
    /// Watchers that still have to read older revisions (etcd: slow or unsynced watchers).
    pub cursor_count: usize,
    /// Distinct ranges that are watched.
    pub group_count: usize,
    /// Recent events in memory, in bytes.
    pub ring_bytes: usize,
    /// Frames queued or in flight, in bytes.
    pub outbox_bytes: usize,
}

/// Why events could not be put together.
pub(super) enum Trouble {
    /// The rows are being replaced by a snapshot's.
    Busy,
    /// The member must stop.
    Fatal(Fatal),
}

impl Hub {
    /// A hub without streams for a store at `revision`, which the engine holds wholly;
    /// `compact_revision` is the smallest that can be read, -1 or 0 when nothing was compacted.
    pub fn new(config: HubConfig, history: Arc<dyn History>, revision: i64, compact_revision: i64) -> Self {
        Self {
            history,
            revision,
            compact_revision,
            ring: Ring::new(config.ring_bytes, revision),
            groups: Groups::new(config.hash_seed),
            watchers: Watchers::default(),
            streams: Streams::new(config.outbox_bytes, config.outboxes_bytes),
            chunks: Chunks::default(),
            cursor_count: 0,
            parked: Vec::new(),
            #[cfg(test)]
            faults: super::model::Faults::default(),
            config,
        }
    }

    /// A client opened a watch stream. `seed` spreads the streams' progress notifications.
    pub fn open_stream(&mut self, id: StreamId, seed: u64, now: Instant64) {
        let interval = self.config.progress_interval.max(PROGRESS_INTERVAL_MIN);
        let per_mille = (xxh3_64(&seed.to_le_bytes()) % 101) as u32;
        let jitter = interval / 1000 * per_mille;
        self.streams.open(id, now, interval + jitter);
    }

    /// A stream ended; its watchers and frames are forgotten. Unknown streams are ignored, here
    /// and below: their client may be gone already.
    pub fn close_stream(&mut self, id: StreamId) {
        for at in self.streams.close(id) {
            self.forget(at);
        }
    }

    /// A client asked for a watcher. `denied` is the reason if auth refuses it.
    ///
    /// Queues `created`, or the rejection that etcd gives.
    pub fn create(&mut self, stream: StreamId, request: CreateRequest, denied: Option<String>) {
        let Some(stream) = self.streams.find(stream) else { return };
        let start_revision = request.start_revision;
        let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key };
        let range = KeyRange::from_wire(key, request.range_end);
        let taken =
            request.watch_id != 0 && self.streams.get(stream).watchers.contains_key(&request.watch_id);
        // The order is etcd's.
        let rejection = if start_revision < 0 {
            Some(Error::Compacted.to_string())
        } else if denied.is_some() {
            denied
        } else if range.is_empty() {
            Some("mvcc: watcher range is empty".to_owned())
        } else if taken {
            Some("mvcc: duplicate watch ID provided on the WatchStream".to_owned())
        } else {
            None
        };
        if let Some(cancel_reason) = rejection {
            let frame = WatchFrame {
                watch_id: NO_WATCH_ID,
                revision: self.revision,
                created: true,
                canceled: true,
                cancel_reason,
                ..WatchFrame::default()
            };
            self.streams.push(stream, frame);
            return;
        }
        let id = match request.watch_id {
            0 => self.streams.get_mut(stream).allocate_watch_id(),
            chosen => chosen,
        };
        let at = self.watchers.insert(Watcher {
            id,
            next: start_revision,
            start_revision,
            stream,
            group: self.groups.join(range),
            state: State::Cursor,
            variant: Variant {
                no_put: request.filters.contains(&FILTER_NO_PUT),
                no_delete: request.filters.contains(&FILTER_NO_DELETE),
                prev_kv: request.prev_kv,
            },
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            active: false,
        });
        let owner = self.streams.get_mut(stream);
        owner.watchers.insert(id, at);
        owner.unsynced_count += 1;
        owner.start_revision_max = owner.start_revision_max.max(start_revision);
        self.cursor_count += 1;
        let created =
            WatchFrame { watch_id: id, revision: self.revision, created: true, ..WatchFrame::default() };
        self.streams.push(stream, created);
        if start_revision == 0 || start_revision > self.revision {
            self.make_live(at);
        } else {
            self.queue_cursor(at);
        }
    }

    /// A client cancelled a watcher. Unknown ids are ignored, as in etcd.
    pub fn cancel(&mut self, stream: StreamId, watch_id: i64) {
        let Some(stream) = self.streams.find(stream) else { return };
        let owner = self.streams.get_mut(stream);
        let Some(at) = owner.watchers.remove(&watch_id) else { return };
        if !matches!(self.watchers.get(at).state, State::Live(_)) {
            owner.unsynced_count -= 1;
        }
        self.forget(at);
        // References to cancelled cursors must not pile up in a stream that gets no turn.
        let owner = self.streams.get_mut(stream);
        if owner.lagging.len() > 2 * owner.watchers.len() + 16 {
            owner.lagging.retain(|reference| self.watchers.resolve(*reference).is_some());
        }
        let frame = WatchFrame { watch_id, revision: self.revision, canceled: true, ..WatchFrame::default() };
        self.streams.push(stream, frame);
    }

    /// A client asked how far its stream is. Answered only if all its watchers are live and have
    /// reached their start; otherwise, as in etcd, there is no answer. Dropped when the stream
    /// has no room.
    pub fn progress_request(&mut self, stream: StreamId) {
        let Some(stream) = self.streams.find(stream) else { return };
        let frame = WatchFrame { watch_id: NO_WATCH_ID, revision: self.revision, ..WatchFrame::default() };
        let overtakes = mutant!("progress_overtakes_events");
        #[cfg(test)]
        let overtakes = overtakes || self.faults.progress_overtakes;
        if overtakes && !self.streams.get(stream).watchers.is_empty() {
            self.streams.push_before_events(stream, frame);
            return;
        }
        let owner = self.streams.get(stream);
        let started = owner.start_revision_max <= self.revision
            || owner.watchers.values().all(|at| self.watchers.get(*at).start_revision <= self.revision);
        let in_sync = !owner.watchers.is_empty() && owner.unsynced_count == 0 && started;
        if in_sync && self.streams.has_room(stream) {
            self.streams.push(stream, frame);
        }
    }

    /// A revision was applied. Revisions come one after the other, without a gap.
    ///
    /// # Errors
    /// The engine failed while reading what an event superseded.
    pub fn publish(&mut self, batch: Arc<EventBatch>) -> Result<(), Fatal> {
        assert_eq!(batch.revision, self.revision + 1, "revisions are published in order");
        self.revision = batch.revision;
        let mut matches: Vec<(GroupIndex, u32)> = Vec::new();
        let mut found = Vec::new();
        if self.watchers.count() > self.cursor_count {
            for (index, event) in batch.events.iter().enumerate() {
                self.groups.watching(&event.kv.key, &mut found);
                matches.extend(found.drain(..).map(|group| (group, index as u32)));
            }
            // By group, the events of each in order.
            matches.sort_unstable();
        }
        for of_group in matches.chunk_by(|a, b| a.0 == b.0) {
            self.deliver(of_group[0].0, &batch, of_group)?;
        }
        self.ring.push(batch);
        Ok(())
    }

    /// Queues the events of a new revision for the live watchers of a group.
    fn deliver(
        &mut self,
        group: GroupIndex,
        batch: &Arc<EventBatch>,
        matches: &[(GroupIndex, u32)],
    ) -> Result<(), Fatal> {
        let mut sets: [Option<Option<Arc<EventSet>>>; Variant::COUNT] = Default::default();
        let mut position = 0;
        while let Some(at) = self.groups.get(group).live.get(position).copied() {
            position += 1;
            let watcher = self.watchers.get(at);
            let (variant, stream) = (watcher.variant, watcher.stream);
            let not_started = batch.revision < watcher.next;
            let not_started = not_started && !mutant!("a_watch_of_the_future_gets_events");
            #[cfg(test)]
            let not_started = not_started && !self.faults.future_gets_events;
            if not_started {
                continue;
            }
            let set = match &mut sets[variant.number()] {
                Some(known) => known.clone(),
                unknown => {
                    let picks = matches.iter().map(|(_, index)| (batch, *index));
                    match self.select(picks, variant) {
                        Ok(set) => unknown.insert(set).clone(),
                        Err(Trouble::Fatal(fatal)) => return Err(fatal),
                        Err(Trouble::Busy) => {
                            // It reads the event again when the rows are back.
                            self.make_cursor(at, batch.revision);
                            position -= 1;
                            continue;
                        }
                    }
                }
            };
            // Nothing is left behind the filters.
            let Some(set) = set else { continue };
            if self.streams.has_room(stream) {
                self.push_events(at, &set, batch.revision);
                continue;
            }
            let drops = mutant!("a_full_outbox_drops_events");
            #[cfg(test)]
            let drops = drops || self.faults.full_drops_events;
            if drops {
                continue;
            }
            self.make_cursor(at, batch.revision);
            // Another watcher took its place in the group.
            position -= 1;
        }
        Ok(())
    }

    /// The events that a variant wants of the given ones; `None` for none.
    pub(super) fn select<'a>(
        &self,
        events: impl Iterator<Item = (&'a Arc<EventBatch>, u32)>,
        variant: Variant,
    ) -> Result<Option<Arc<EventSet>>, Trouble> {
        let mut picks = Vec::new();
        for (batch, index) in events {
            let event = &batch.events[index as usize];
            let unwanted = match event.kind {
                EventKind::Put => variant.no_put,
                EventKind::Delete => variant.no_delete,
            };
            if unwanted {
                continue;
            }
            let prev = if variant.prev_kv { self.superseded(event)?.map(Box::new) } else { None };
            picks.push(Pick { batch: batch.clone(), index, prev });
        }
        Ok(if picks.is_empty() { None } else { Some(Arc::new(EventSet::new(picks))) })
    }

    /// The key as it was before the event; `None` for a key that was not there, and when that
    /// revision can no longer be read.
    fn superseded(&self, event: &Event) -> Result<Option<KeyValue>, Trouble> {
        let Some(prev) = &event.prev else { return Ok(None) };
        // etcd reads the key at the revision before the event, which compaction may forbid.
        if event.kv.mod_revision - 1 < self.compact_revision {
            return Ok(None);
        }
        // A version of the same command does not count: it was never a state of the store.
        if let Some(value) = &prev.value
            && prev.revision.main < event.kv.mod_revision
        {
            return Ok(Some(KeyValue {
                key: event.kv.key.clone(),
                value: value.clone(),
                create_revision: prev.create_revision,
                mod_revision: prev.revision.main,
                version: prev.version,
                lease: prev.lease,
            }));
        }
        match self.history.prev_kv(event) {
            Ok(prev) => Ok(prev),
            Err(Failure::Answer(Error::Timeout)) => Err(Trouble::Busy),
            Err(Failure::Answer(_)) => Ok(None),
            Err(Failure::Fatal(fatal)) => Err(Trouble::Fatal(fatal)),
        }
    }

    /// Queues events for a watcher, in pieces if it asked for that.
    pub(super) fn push_events(&mut self, at: WatcherIndex, set: &Arc<EventSet>, revision: i64) {
        let watcher = self.watchers.get_mut(at);
        watcher.active = true;
        let (watch_id, stream) = (watcher.id, watcher.stream);
        let limit_bytes = self.config.fragment_bytes;
        let whole = std::slice::from_ref(set);
        let pieces =
            if watcher.fragment && set.is_split(limit_bytes) { set.fragments(limit_bytes) } else { whole };
        for (number, piece) in pieces.iter().enumerate() {
            let frame = WatchFrame {
                watch_id,
                revision,
                fragment: number + 1 < pieces.len(),
                events: Some(piece.clone()),
                ..WatchFrame::default()
            };
            self.streams.push(stream, frame);
        }
    }

    /// The store was compacted at `revision`, which is the smallest that can be read from now on.
    pub fn compacted(&mut self, revision: i64) {
        self.compact_revision = self.compact_revision.max(revision);
        self.chunks.clear();
        self.unpark();
    }

    /// The engine holds everything up to `revision`, so the ring need not.
    pub fn stored(&mut self, revision: i64) {
        self.ring.stored(revision);
    }

    /// The store was replaced by a snapshot at `revision`, which the engine holds wholly. Every
    /// watcher goes on with the revision it has to see next.
    ///
    /// A store goes back only if what it held was wrong; its streams were ended then.
    pub fn reset(&mut self, revision: i64, compact_revision: i64) {
        let next = self.revision + 1;
        self.revision = revision;
        self.ring = Ring::new(self.config.ring_bytes, revision);
        for at in self.watchers.indexes() {
            let watcher = self.watchers.get(at);
            if !matches!(watcher.state, State::Live(_)) {
                continue;
            }
            let next = next.max(watcher.next);
            let goes_back = mutant!("a_snapshot_takes_watches_back");
            #[cfg(test)]
            let goes_back = goes_back || self.faults.reset_goes_back;
            let next = if goes_back { watcher.next } else { next };
            let next = if mutant!("a_snapshot_carries_watches_forward") { revision + 1 } else { next };
            if next <= revision {
                self.make_cursor(at, next);
            }
        }
        self.compacted(compact_revision);
    }

    /// Queues periodic progress: for each watcher that asked for it, that is live, has reached its
    /// start and had no events since its stream's last tick.
    pub fn tick(&mut self, now: Instant64) {
        self.unpark();
        while let Some(stream) = self.streams.next_progress_due(now) {
            let watchers: Vec<_> = self.streams.get(stream).watchers.values().copied().collect();
            for at in watchers {
                let watcher = self.watchers.get_mut(at);
                if !watcher.progress_notify || std::mem::take(&mut watcher.active) {
                    continue;
                }
                let in_sync =
                    matches!(watcher.state, State::Live(_)) && watcher.start_revision <= self.revision;
                let watch_id = watcher.id;
                if in_sync && self.streams.has_room(stream) {
                    let frame = WatchFrame { watch_id, revision: self.revision, ..WatchFrame::default() };
                    self.streams.push(stream, frame);
                }
            }
        }
    }

    /// When [`Hub::tick`] has something to do; `None` without streams.
    pub fn next_tick(&self) -> Option<Instant64> {
        self.streams.next_progress_at()
    }

    /// The streams that got frames since the last call. A stream is named again only when it gets
    /// more: whoever leaves frames in an outbox must come back by itself.
    pub fn take_ready_streams(&mut self) -> Vec<StreamId> {
        self.streams.take_ready()
    }

    /// Frames for the transport, oldest first: at least one if there are any, together about
    /// `bytes_max`. They count for the stream's outbox until [`Hub::sent`].
    pub fn next_frames(&mut self, stream: StreamId, bytes_max: usize) -> Vec<WatchFrame> {
        let Some(stream) = self.streams.find(stream) else { return Vec::new() };
        self.streams.take_frames(stream, bytes_max)
    }

    /// Whether frames wait in the stream's outbox.
    pub fn has_frames(&self, stream: StreamId) -> bool {
        self.streams.find(stream).is_some_and(|stream| self.streams.has_frames(stream))
    }

    /// The transport took frames of together `bytes` ([`WatchFrame::size_bytes`]). Cursors of the
    /// stream may go on: call [`Hub::work`].
    pub fn sent(&mut self, stream: StreamId, bytes: usize) {
        if let Some(stream) = self.streams.find(stream) {
            self.streams.sent(stream, bytes);
        }
    }

    /// Whether the stream's owner should read further requests from the client. Answers to
    /// requests are queued even when the outbox is full, so a client that asks and never reads
    /// must be stopped here.
    pub fn accepts_requests(&self, stream: StreamId) -> bool {
        self.streams
            .find(stream)
            .is_some_and(|stream| self.streams.bytes_of(stream) < self.config.outbox_bytes)
    }

    /// The last revision published.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> HubStats {
        HubStats {
            stream_count: self.streams.count(),
            watcher_count: self.watchers.count(),
            cursor_count: self.cursor_count,
            group_count: self.groups.count(),
            ring_bytes: self.ring.bytes(),
            outbox_bytes: self.streams.bytes(),
        }
    }

    /// A cursor has been told everything up to the hub's revision.
    pub(super) fn make_live(&mut self, at: WatcherIndex) {
        let watcher = self.watchers.get_mut(at);
        let live = &mut self.groups.get_mut(watcher.group).live;
        watcher.state = State::Live(live.len() as u32);
        live.push(at);
        self.streams.get_mut(watcher.stream).unsynced_count -= 1;
        self.cursor_count -= 1;
    }

    /// A live watcher goes on from `next`, when its stream has room.
    fn make_cursor(&mut self, at: WatcherIndex, next: i64) {
        self.leave_live(at);
        let watcher = self.watchers.get_mut(at);
        watcher.state = State::Cursor;
        watcher.next = next;
        self.streams.get_mut(watcher.stream).unsynced_count += 1;
        self.cursor_count += 1;
        self.queue_cursor(at);
    }

    pub(super) fn queue_cursor(&mut self, at: WatcherIndex) {
        let stream: StreamIndex = self.watchers.get(at).stream;
        let reference = self.watchers.reference(at);
        self.streams.get_mut(stream).lagging.push_back(reference);
        self.streams.schedule(stream);
    }

    fn leave_live(&mut self, at: WatcherIndex) {
        let watcher = self.watchers.get(at);
        let State::Live(place) = watcher.state else { return };
        let live = &mut self.groups.get_mut(watcher.group).live;
        live.swap_remove(place as usize);
        if let Some(moved) = live.get(place as usize).copied() {
            self.watchers.get_mut(moved).state = State::Live(place);
        }
    }

    /// Removes a watcher that its stream does not know any more.
    fn forget(&mut self, at: WatcherIndex) {
        self.leave_live(at);
        let watcher = self.watchers.remove(at);
        match watcher.state {
            State::Live(_) => self.groups.leave(watcher.group),
            State::Cursor => {
                self.cursor_count -= 1;
                self.groups.leave(watcher.group);
            }
            State::Compacted => {}
        }
    }

    fn unpark(&mut self) {
        for reference in std::mem::take(&mut self.parked) {
            if let Some(at) = self.watchers.resolve(reference) {
                self.queue_cursor(at);
            }
        }
    }
}
