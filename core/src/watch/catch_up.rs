//! Catching up: cursors read older revisions, a piece at a time, until they are live.
//!
//! A piece of history (a *chunk*) is read once and serves every cursor whose next revision is in
//! it. When many cursors wait, the chunk's events are matched with all groups once, instead of
//! every cursor looking through all events.
//!
//! Turns go round the streams that have room; a stream's turn ends after a share of bytes, and
//! within a stream its cursors take turns too.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Failure, Fatal};
use crate::event::EventBatch;
use crate::mutant::mutant;

use super::frame::{EventSet, WatchFrame};
use super::groups::{Group, Groups};
use super::hub::{Hub, Trouble};
use super::streams::StreamIndex;
use super::watchers::{State, WatcherIndex};

/// Bytes that one stream may be given before the next one has its turn.
const STREAM_SHARE_BYTES: usize = 64 * 1024;
/// What a cursor's turn counts for even if it finds nothing.
const TURN_COST_BYTES: usize = 256;
/// Chunks kept: enough for a few crowds at different places.
const CHUNKS_MAX: usize = 4;
/// From this many cursors on, a chunk is matched with all groups at once.
const TABLE_CURSORS_MIN: usize = if cfg!(test) { 4 } else { 16 };
/// A table of matches larger than this is not kept (many groups that overlap).
const TABLE_MATCHES_MAX: usize = 200_000;
/// Event sets kept with a chunk to be shared.
const SHARED_SETS_MAX: usize = 1_024;

/// Where an event stands in a chunk: batch, event.
type Position = (u32, u32);

/// A contiguous piece of history in memory.
struct Chunk {
    from: i64,
    /// The first revision behind it.
    to: i64,
    batches: Vec<Arc<EventBatch>>,
    table: Option<Table>,
    /// Events already selected, by group serial, variant and first revision.
    sets: BTreeMap<(u64, usize, i64), Option<Arc<EventSet>>>,
}

/// The events of a chunk that each group wants.
struct Table {
    /// Groups with a smaller serial existed when the table was made.
    serials_end: u64,
    by_group: BTreeMap<u64, Vec<Position>>,
}

impl Table {
    /// `None` when it would be too large.
    fn new(batches: &[Arc<EventBatch>], groups: &Groups) -> Option<Self> {
        let mut by_group: BTreeMap<u64, Vec<Position>> = BTreeMap::new();
        let mut found = Vec::new();
        let mut count = 0;
        for (batch_at, batch) in batches.iter().enumerate() {
            for (event_at, event) in batch.events.iter().enumerate() {
                groups.watching(&event.kv.key, &mut found);
                count += found.len();
                if count > TABLE_MATCHES_MAX {
                    return None;
                }
                for group in found.drain(..) {
                    let serial = groups.get(group).serial;
                    by_group.entry(serial).or_default().push((batch_at as u32, event_at as u32));
                }
            }
        }
        Some(Self { serials_end: groups.next_serial(), by_group })
    }
}

impl Chunk {
    /// The events that a group wants, from revision `next` on.
    fn positions(&self, group: &Group, next: i64) -> Vec<Position> {
        let is_wanted = |position: &Position| self.batches[position.0 as usize].revision >= next;
        match &self.table {
            Some(table) if group.serial < table.serials_end => {
                let all = table.by_group.get(&group.serial).map_or(&[][..], Vec::as_slice);
                all.iter().copied().filter(is_wanted).collect()
            }
            _ => {
                let first = self.batches.partition_point(|batch| batch.revision < next);
                let mut positions = Vec::new();
                for (batch_at, batch) in self.batches.iter().enumerate().skip(first) {
                    for (event_at, event) in batch.events.iter().enumerate() {
                        if group.range.contains(&event.kv.key) {
                            positions.push((batch_at as u32, event_at as u32));
                        }
                    }
                }
                positions
            }
        }
    }
}

/// The chunks read last, the newest at the end.
#[derive(Default)]
pub(super) struct Chunks(Vec<Chunk>);

impl Chunks {
    /// Forgets everything: what may be shown of old revisions has changed.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What a read of history gave.
enum Read {
    Chunk(Vec<Arc<EventBatch>>, i64),
    /// It cannot be read at this moment.
    Later,
}

impl Hub {
    /// Lets cursors catch up, for about `budget_bytes` of events; says whether there is more to
    /// do now. To be called again after [`Hub::sent`], [`Hub::create`], [`Hub::compacted`],
    /// [`Hub::reset`] and [`Hub::tick`].
    ///
    /// # Errors
    /// The engine failed, or its history has a hole.
    pub fn work(&mut self, budget_bytes: usize) -> Result<bool, Fatal> {
        let mut left = budget_bytes.max(1);
        while left > 0 {
            let Some(stream) = self.streams.next_running() else { return Ok(false) };
            let spent = self.catch_up_stream(stream, left.min(STREAM_SHARE_BYTES))?;
            self.streams.schedule(stream);
            left = left.saturating_sub(spent);
        }
        Ok(self.streams.has_running())
    }

    /// One stream's turn; returns what it cost in bytes.
    fn catch_up_stream(&mut self, stream: StreamIndex, share_bytes: usize) -> Result<usize, Fatal> {
        let mut spent = 0;
        while spent < share_bytes && self.streams.has_room(stream) {
            let Some(reference) = self.streams.get_mut(stream).lagging.pop_front() else { break };
            let Some(at) = self.watchers.resolve(reference) else { continue };
            spent += TURN_COST_BYTES + self.advance(at)?;
        }
        Ok(spent)
    }

    /// One cursor's turn; returns the bytes read and queued.
    fn advance(&mut self, at: WatcherIndex) -> Result<usize, Fatal> {
        let watcher = self.watchers.get(at);
        let (next, stream, variant) = (watcher.next, watcher.stream, watcher.variant);
        if next < self.compact_revision {
            let skips = mutant!("a_slow_watch_skips_what_was_compacted");
            #[cfg(test)]
            let skips = skips || self.faults.cursor_skips_compacted;
            if skips {
                self.watchers.get_mut(at).next = self.compact_revision;
                self.queue_cursor(at);
                return Ok(0);
            }
            self.cancel_compacted(at);
            return Ok(0);
        }
        if next > self.revision {
            self.make_live(at);
            return Ok(0);
        }
        let mut spent = 0;
        let known = self.chunks.0.iter().position(|chunk| chunk.from <= next && next < chunk.to);
        let mut chunk = match known {
            Some(place) => self.chunks.0.remove(place),
            None => match self.read(next)? {
                Read::Chunk(batches, to) => {
                    spent += batches.iter().map(|batch| batch.size_bytes()).sum::<usize>();
                    let table = if self.cursor_count >= TABLE_CURSORS_MIN {
                        Table::new(&batches, &self.groups)
                    } else {
                        None
                    };
                    Chunk { from: next, to, batches, table, sets: BTreeMap::new() }
                }
                Read::Later => {
                    self.parked.push(self.watchers.reference(at));
                    return Ok(0);
                }
            },
        };
        let group = self.groups.get(self.watchers.get(at).group);
        let key = (group.serial, variant.number(), next);
        let set = match chunk.sets.get(&key) {
            Some(set) => set.clone(),
            None => {
                let positions = chunk.positions(group, next);
                let events = positions.iter().map(|(batch, event)| (&chunk.batches[*batch as usize], *event));
                let set = match self.select(events, variant) {
                    Ok(set) => set,
                    Err(Trouble::Fatal(fatal)) => return Err(fatal),
                    Err(Trouble::Busy) => {
                        self.parked.push(self.watchers.reference(at));
                        return Ok(0);
                    }
                };
                if chunk.sets.len() >= SHARED_SETS_MAX {
                    chunk.sets.clear();
                }
                chunk.sets.insert(key, set.clone());
                set
            }
        };
        let to = chunk.to;
        if self.chunks.0.len() >= CHUNKS_MAX {
            self.chunks.0.remove(0);
        }
        self.chunks.0.push(chunk);
        if let Some(set) = set {
            spent += set.wire_bytes();
            // As in etcd: the store's revision when the piece was cut, not that of its last event.
            self.push_events(at, &set, self.revision);
        }
        let repeats = mutant!("a_watch_that_catches_up_repeats_events");
        #[cfg(test)]
        let repeats = repeats || self.faults.cursor_repeats;
        let to = if repeats { (to - 1).max(next + 1) } else { to };
        self.watchers.get_mut(at).next = to;
        if to > self.revision {
            self.make_live(at);
        } else {
            debug_assert!(matches!(self.watchers.get(at).state, State::Cursor));
            self.streams.get_mut(stream).lagging.push_back(self.watchers.reference(at));
        }
        Ok(spent)
    }

    /// Reads revisions from `next` on, out of the ring if they are there.
    fn read(&self, next: i64) -> Result<Read, Fatal> {
        let revisions_max = self.config.catch_up_revisions.max(1);
        let bytes_max = self.config.outbox_bytes;
        if next >= self.ring.first() {
            let batches = self.ring.read(next, revisions_max as usize, bytes_max);
            let to = next + batches.len() as i64;
            return Ok(Read::Chunk(batches, to));
        }
        let to = next.saturating_add(revisions_max).min(self.ring.first());
        match self.history.batches(next, to, (to - next) as usize, bytes_max) {
            Ok(batches) => {
                let to = end_of_read(next, to, &batches)?;
                Ok(Read::Chunk(batches, to))
            }
            // The hub has not heard of the compaction yet, or the rows are being replaced.
            Err(Failure::Answer(Error::Compacted | Error::Timeout)) => Ok(Read::Later),
            Err(Failure::Answer(other)) => {
                Err(Fatal::Damaged(format!("history cannot be read from={next} to={to}: {other}")))
            }
            Err(Failure::Fatal(fatal)) => Err(fatal),
        }
    }

    fn cancel_compacted(&mut self, at: WatcherIndex) {
        let watcher = self.watchers.get_mut(at);
        watcher.state = State::Compacted;
        let (watch_id, stream, group) = (watcher.id, watcher.stream, watcher.group);
        self.groups.leave(group);
        self.cursor_count -= 1;
        let frame = WatchFrame {
            watch_id,
            canceled: true,
            compact_revision: self.compact_revision,
            ..WatchFrame::default()
        };
        self.streams.push(stream, frame);
    }
}

/// Checks that a read of `from..to` has no hole, and returns the revision after it.
///
/// Only the first revision may be missing: when it is the compacted one, all its changes may have
/// been superseded, and revision 1 is the empty store. A hole anywhere else would be events that
/// nobody hears of.
fn end_of_read(from: i64, to: i64, batches: &[Arc<EventBatch>]) -> Result<i64, Fatal> {
    let mut expected = match batches.first() {
        Some(first) if first.revision == from + 1 => from + 1,
        None if to == from + 1 => from + 1,
        _ => from,
    };
    for batch in batches {
        if batch.revision != expected {
            break;
        }
        expected += 1;
    }
    let is_whole = batches.last().map_or(expected == to, |last| last.revision + 1 == expected);
    if is_whole && expected <= to {
        Ok(expected)
    } else {
        let revisions: Vec<_> = batches.iter().take(5).map(|batch| batch.revision).collect();
        Err(Fatal::Damaged(format!(
            "history has a hole from={from} to={to} missing={expected} first={revisions:?}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: i64, to: i64, revisions: &[i64]) -> Result<i64, Fatal> {
        let batches: Vec<_> = revisions
            .iter()
            .map(|revision| Arc::new(EventBatch { revision: *revision, events: Vec::new() }))
            .collect();
        end_of_read(from, to, &batches)
    }

    #[test]
    fn a_hole_in_history_stops_the_member_instead_of_being_skipped() {
        assert_eq!(read(5, 8, &[5, 6, 7]), Ok(8));
        assert_eq!(read(5, 9, &[5, 6]), Ok(7), "a read may end early");
        assert_eq!(read(5, 8, &[6, 7]), Ok(8), "the compacted revision may be empty");
        assert_eq!(read(5, 6, &[]), Ok(6));
        assert!(read(5, 8, &[]).is_err());
        assert!(read(5, 8, &[5, 7]).is_err());
        assert!(read(5, 9, &[7, 8]).is_err());
        assert!(read(5, 8, &[4, 5]).is_err());
        assert!(read(5, 7, &[5, 6, 7]).is_err());
    }
}
