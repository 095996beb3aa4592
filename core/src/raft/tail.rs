//! The part of the log that is kept in memory: everything not yet applied, and some of what was,
//! for followers that lag a little. It is what `raft` reads as its storage.
//!
//! A follower that lags more gets a snapshot. `raft` asks for one here and is told to come again
//! until the host has made a copy of the engine and it was [offered](LogTail::offer).
//!
//! Invariant: `start` is the index just before the first entry held; entries are contiguous.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// See the module.
#[derive(Debug, Default)]
pub struct LogTail {
    start_index: u64,
    start_term: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
    hard_state: HardState,
    conf_state: ConfState,
    offer: Option<Snapshot>,
    wanted: Cell<bool>,
}

impl LogTail {
    /// A tail that begins after `(start_index, start_term)`, with the durable state that `raft`
    /// starts from.
    pub fn new(start_index: u64, start_term: u64, hard_state: HardState, conf_state: ConfState) -> Self {
        Self { start_index, start_term, hard_state, conf_state, ..Self::default() }
    }

    /// Takes new entries; an entry at or before the last one replaces it and what follows.
    pub fn append(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if entry.index <= self.last() {
                let keep = entry.index.saturating_sub(self.start_index + 1) as usize;
                for gone in self.entries.drain(keep..) {
                    self.bytes -= gone.data.len();
                }
            }
            assert_eq!(entry.index, self.last() + 1, "the log has a gap");
            self.bytes += entry.data.len();
            self.entries.push_back(entry);
        }
    }

    /// A snapshot took the place of the whole log.
    pub fn reset(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes = 0;
        (self.start_index, self.start_term) = (index, term);
    }

    /// A snapshot that followers may be given from now on, instead of any earlier one.
    pub fn offer(&mut self, snapshot: Option<Snapshot>) {
        self.offer = snapshot;
    }

    /// Whether a snapshot was asked for, since the last call, that could not be given.
    pub fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    /// The index just before the first entry held.
    pub fn start(&self) -> u64 {
        self.start_index
    }

    /// Forgets entries up to and including `index`.
    pub fn compact(&mut self, index: u64) {
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            let gone = self.entries.pop_front().expect("looked at above");
            self.bytes -= gone.data.len();
            (self.start_index, self.start_term) = (gone.index, gone.term);
        }
    }

    /// The index up to which entries may go so that at most `count_max` entries and `bytes_max`
    /// bytes of those at or before `applied` stay; not beyond `ceiling`. Looks at no more entries
    /// than those that may go.
    pub fn surplus(&self, applied: u64, count_max: usize, bytes_max: usize, ceiling: u64) -> u64 {
        let applied_count = applied.saturating_sub(self.start_index) as usize;
        let mut bytes: usize = self.entries.iter().skip(applied_count).map(|entry| entry.data.len()).sum();
        bytes = self.bytes - bytes;
        let mut index = self.start_index;
        for (position, entry) in self.entries.iter().take(applied_count).enumerate() {
            let fits = applied_count - position <= count_max && bytes <= bytes_max;
            if fits || entry.index > ceiling {
                break;
            }
            bytes -= entry.data.len();
            index = entry.index;
        }
        index
    }

    /// Bytes of entry payloads held.
    pub fn size_bytes(&self) -> usize {
        self.bytes
    }

    /// The last index.
    pub fn last(&self) -> u64 {
        self.start_index + self.entries.len() as u64
    }

    fn position(&self, index: u64) -> usize {
        (index - self.start_index - 1) as usize
    }
}

impl Storage for LogTail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.start_index {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "entries beyond the last were asked for; high={high}");
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0u64;
        let mut found = Vec::new();
        for entry in self.entries.range(self.position(low)..self.position(high)) {
            size = size.saturating_add(entry.data.len() as u64 + 32);
            if !found.is_empty() && size > max_size {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.start_index {
            return Ok(self.start_term);
        }
        if index < self.start_index {
            return Err(StorageError::Compacted.into());
        }
        self.entries
            .get(self.position(index))
            .map(|entry| entry.term)
            .ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let fits = |snapshot: &&Snapshot| {
            let metadata = snapshot.get_metadata();
            let members = metadata.get_conf_state();
            // The receiver ignores a snapshot in which it is no member, and one that ends before
            // the log begins would have to be followed by another.
            metadata.index >= request_index.max(self.start_index)
                && (members.voters.contains(&to) || members.learners.contains(&to))
        };
        match self.offer.as_ref().filter(fits) {
            Some(snapshot) => Ok(snapshot.clone()),
            None => {
                self.wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        Entry { index, term, data: vec![0; bytes], ..Entry::default() }
    }

    fn tail(count: u64) -> LogTail {
        let mut tail = LogTail::new(10, 1, HardState::default(), ConfState::default());
        tail.append((11..11 + count).map(|index| entry(index, 2, 100)).collect());
        tail
    }

    #[test]
    fn an_entry_with_an_old_index_replaces_what_follows() {
        let mut tail = tail(5);
        tail.append(vec![entry(13, 3, 7)]);
        assert_eq!(tail.last(), 13);
        assert_eq!(tail.term(13).unwrap(), 3);
        assert_eq!(tail.size_bytes(), 207);
        assert!(tail.term(14).is_err());
    }

    #[test]
    fn the_term_of_the_entry_before_the_first_stays_known() {
        let mut tail = tail(5);
        assert_eq!(tail.term(10).unwrap(), 1);
        tail.compact(12);
        assert_eq!((tail.first_index().unwrap(), tail.term(12).unwrap()), (13, 2));
        assert!(tail.entries(12, 14, None, GetEntriesContext::empty(false)).is_err());
    }

    #[test]
    fn a_size_limit_still_gives_one_entry() {
        let tail = tail(5);
        let found = tail.entries(11, 16, Some(1), GetEntriesContext::empty(false)).unwrap();
        assert_eq!(found.len(), 1);
        let found = tail.entries(11, 16, Some(270), GetEntriesContext::empty(false)).unwrap();
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_snapshot_is_given_only_to_a_member_of_it_and_only_if_the_log_goes_on_from_it() {
        let mut tail = tail(10);
        assert!(tail.snapshot(0, 7).is_err() && tail.take_wanted() && !tail.take_wanted());
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = 15;
        snapshot.mut_metadata().mut_conf_state().voters = vec![7];
        tail.offer(Some(snapshot));
        assert!(tail.snapshot(0, 7).is_ok() && !tail.take_wanted());
        assert!(tail.snapshot(0, 8).is_err() && tail.take_wanted());
        assert!(tail.snapshot(16, 7).is_err());
        tail.compact(16);
        assert!(tail.snapshot(0, 7).is_err());
    }

    #[test]
    fn surplus_keeps_what_is_not_applied_and_a_bounded_rest() {
        let tail = tail(10);
        assert_eq!(tail.surplus(10, 0, 0, u64::MAX), 10);
        assert_eq!(tail.surplus(15, 0, 0, u64::MAX), 15);
        assert_eq!(tail.surplus(15, 2, usize::MAX, u64::MAX), 13);
        assert_eq!(tail.surplus(15, 100, 300, u64::MAX), 12);
        assert_eq!(tail.surplus(15, 0, 0, 13), 13, "kept for a follower");
        assert_eq!(tail.surplus(15, 0, 0, 3), 10, "nothing is before what is held");
    }
}
