//! The streams: each one's watch ids, its outbox, and its cursors that wait for room.
//!
//! A stream with waiting cursors is in the run queue if it has room. If it has none, its outbox
//! is not empty (an empty one always has room), and [`Streams::sent`] brings the stream back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::types::Instant64;

use super::StreamId;
use super::frame::WatchFrame;
use super::watchers::{WatcherIndex, WatcherRef};

/// Index of a stream; reused after it was closed.
pub(super) type StreamIndex = u32;

pub(super) struct Stream {
    id: StreamId,
    /// By watch id.
    pub(super) watchers: BTreeMap<i64, WatcherIndex>,
    /// Where to look for the next automatic watch id; only moves forward.
    next_watch_id: i64,
    /// Watchers that are not live.
    pub(super) unsynced_count: usize,
    /// The largest start revision that a watcher was created with.
    pub(super) start_revision_max: i64,
    outbox: VecDeque<WatchFrame>,
    queued_bytes: usize,
    /// Handed out by [`Streams::take_frames`] and not yet reported as sent.
    in_flight_bytes: usize,
    /// Cursors in the order in which they get their turn; gone watchers may stand between.
    pub(super) lagging: VecDeque<WatcherRef>,
    /// In the list of streams with frames.
    listed: bool,
    running: bool,
    progress_interval: Duration,
    next_progress: Instant64,
}

impl Stream {
    fn bytes(&self) -> usize {
        self.queued_bytes + self.in_flight_bytes
    }

    /// The id for a watcher that did not choose one.
    pub(super) fn allocate_watch_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_watch_id) {
            self.next_watch_id += 1;
        }
        let id = self.next_watch_id;
        self.next_watch_id += 1;
        id
    }
}

/// See the module.
pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<StreamIndex>,
    by_id: BTreeMap<StreamId, StreamIndex>,
    /// Streams that got frames since they were last listed. May name closed ones, as may
    /// `run`.
    ready: Vec<StreamId>,
    run: VecDeque<StreamId>,
    progress_due: BTreeSet<(Instant64, StreamIndex)>,
    bytes: usize,
    outbox_bytes_max: usize,
    bytes_max: usize,
}

impl Streams {
    pub(super) fn new(outbox_bytes_max: usize, bytes_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            ready: Vec::new(),
            run: VecDeque::new(),
            progress_due: BTreeSet::new(),
            bytes: 0,
            outbox_bytes_max,
            bytes_max,
        }
    }

    pub(super) fn open(&mut self, id: StreamId, now: Instant64, progress_interval: Duration) {
        assert!(!self.by_id.contains_key(&id), "a watch stream was opened twice stream={}", id.0);
        let next_progress = now.after(progress_interval);
        let stream = Stream {
            id,
            watchers: BTreeMap::new(),
            next_watch_id: 0,
            unsynced_count: 0,
            start_revision_max: 0,
            outbox: VecDeque::new(),
            queued_bytes: 0,
            in_flight_bytes: 0,
            lagging: VecDeque::new(),
            listed: false,
            running: false,
            progress_interval,
            next_progress,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = Some(stream);
                at
            }
            None => {
                self.slots.push(Some(stream));
                (self.slots.len() - 1) as StreamIndex
            }
        };
        self.by_id.insert(id, at);
        self.progress_due.insert((next_progress, at));
    }

    /// Forgets a stream and its frames; hands out its watchers.
    pub(super) fn close(&mut self, id: StreamId) -> Vec<WatcherIndex> {
        let Some(at) = self.by_id.remove(&id) else { return Vec::new() };
        let stream = self.slots[at as usize].take().expect("named by its id");
        self.free.push(at);
        self.progress_due.remove(&(stream.next_progress, at));
        self.bytes -= stream.bytes();
        stream.watchers.into_values().collect()
    }

    pub(super) fn find(&self, id: StreamId) -> Option<StreamIndex> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, at: StreamIndex) -> &Stream {
        self.slots[at as usize].as_ref().expect("a stream outlives its watchers")
    }

    pub(super) fn get_mut(&mut self, at: StreamIndex) -> &mut Stream {
        self.slots[at as usize].as_mut().expect("a stream outlives its watchers")
    }

    pub(super) fn count(&self) -> usize {
        self.by_id.len()
    }

    /// What all outboxes hold, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What one outbox holds, frames in flight included, in bytes.
    pub(super) fn bytes_of(&self, at: StreamIndex) -> usize {
        self.get(at).bytes()
    }

    /// Whether events may be queued for the stream.
    pub(super) fn has_room(&self, at: StreamIndex) -> bool {
        let bytes = self.get(at).bytes();
        bytes == 0 || (bytes < self.outbox_bytes_max && self.bytes < self.bytes_max)
    }

    pub(super) fn push(&mut self, at: StreamIndex, frame: WatchFrame) {
        let bytes = frame.size_bytes();
        self.bytes += bytes;
        let stream = self.get_mut(at);
        stream.queued_bytes += bytes;
        stream.outbox.push_back(frame);
        let id = stream.id;
        if !std::mem::replace(&mut stream.listed, true) {
            self.ready.push(id);
        }
    }

    /// Puts a frame in front of what is queued: wrong, for tests that must notice.
    pub(super) fn push_before_events(&mut self, at: StreamIndex, frame: WatchFrame) {
        self.push(at, frame);
        let outbox = &mut self.get_mut(at).outbox;
        outbox.rotate_right(1);
    }

    /// The streams that got frames since the last call and still have them.
    pub(super) fn take_ready(&mut self) -> Vec<StreamId> {
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|id| {
            let Some(at) = self.find(*id) else { return false };
            let stream = self.get_mut(at);
            std::mem::replace(&mut stream.listed, false) && !stream.outbox.is_empty()
        });
        ready
    }

    pub(super) fn has_frames(&self, at: StreamIndex) -> bool {
        !self.get(at).outbox.is_empty()
    }

    /// Frames from the front of an outbox, at least one if there is any, until `bytes_max` is
    /// reached.
    pub(super) fn take_frames(&mut self, at: StreamIndex, bytes_max: usize) -> Vec<WatchFrame> {
        let stream = self.get_mut(at);
        let mut taken = 0;
        let mut frames = Vec::new();
        while let Some(frame) = stream.outbox.front() {
            let bytes = frame.size_bytes();
            if !frames.is_empty() && taken + bytes > bytes_max {
                break;
            }
            taken += bytes;
            frames.extend(stream.outbox.pop_front());
        }
        if stream.outbox.is_empty() {
            // An idle stream keeps no buffer.
            stream.outbox = VecDeque::new();
        }
        stream.queued_bytes -= taken;
        stream.in_flight_bytes += taken;
        frames
    }

    /// The transport took frames of this size.
    pub(super) fn sent(&mut self, at: StreamIndex, bytes: usize) {
        let outbox_bytes_max = self.outbox_bytes_max;
        let stream = self.get_mut(at);
        let bytes = bytes.min(stream.in_flight_bytes);
        stream.in_flight_bytes -= bytes;
        let low = stream.bytes() <= outbox_bytes_max / 2;
        self.bytes -= bytes;
        if low {
            self.schedule(at);
        }
    }

    /// Gives a stream with cursors its turn if it has room.
    pub(super) fn schedule(&mut self, at: StreamIndex) {
        let has_room = self.has_room(at);
        let stream = self.get_mut(at);
        if has_room && !stream.running && !stream.lagging.is_empty() {
            stream.running = true;
            let id = stream.id;
            self.run.push_back(id);
        }
    }

    /// The stream whose turn it is; it must be scheduled again if it has cursors left.
    pub(super) fn next_running(&mut self) -> Option<StreamIndex> {
        while let Some(id) = self.run.pop_front() {
            if let Some(at) = self.find(id)
                && std::mem::replace(&mut self.get_mut(at).running, false)
            {
                return Some(at);
            }
        }
        None
    }

    pub(super) fn has_running(&self) -> bool {
        !self.run.is_empty()
    }

    /// A stream whose progress interval is over; starts the next one.
    pub(super) fn next_progress_due(&mut self, now: Instant64) -> Option<StreamIndex> {
        let (due, at) = self.progress_due.first().copied()?;
        if due > now {
            return None;
        }
        self.progress_due.remove(&(due, at));
        let stream = self.get_mut(at);
        stream.next_progress = now.after(stream.progress_interval);
        let next = stream.next_progress;
        self.progress_due.insert((next, at));
        Some(at)
    }

    /// When the next progress interval ends.
    pub(super) fn next_progress_at(&self) -> Option<Instant64> {
        self.progress_due.first().map(|(due, _)| *due)
    }
}
