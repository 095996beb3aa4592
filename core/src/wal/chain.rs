//! The shape of a log without its data: where it starts and ends, the hard state, and which
//! segments can go. Writer and recovery feed the same records to it and so agree.

use std::collections::VecDeque;

use super::{HardState, LogPoint, Record};
use crate::types::LogIndex;

/// A record that does not fit the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// An entry is missing.
    #[error("entry leaves a hole: index={index} last_index={last}")]
    Hole {
        /// The entry met.
        index: LogIndex,
        /// The last before it.
        last: LogIndex,
    },
    /// An entry that a snapshot or the state machine already covers is replaced.
    #[error("entry replaces one before the start of the log: index={index} start={start}")]
    BeforeStart {
        /// The entry met.
        index: LogIndex,
        /// The point after which the log starts.
        start: LogIndex,
    },
}

/// See the module.
///
/// Invariants: `start <= last`; segments are in order of their numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    /// The point after which the log starts.
    pub start: LogPoint,
    /// The last entry, or `start` if there is none.
    pub last: LogPoint,
    /// The latest hard state.
    pub hard_state: HardState,
    segments: VecDeque<Segment>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Segment {
    sequence: u64,
    /// Last entry before the segment, as its header says.
    before: LogPoint,
    /// Whether `before` is still what precedes the segment's entries: not replaced since.
    can_be_first: bool,
    /// A reset followed, so that later entries say nothing about `before`.
    sealed: bool,
}

impl Chain {
    /// A new segment continues the log.
    pub fn open_segment(&mut self, sequence: u64) {
        self.segments.push_back(Segment { sequence, before: self.last, can_be_first: true, sealed: false });
    }

    /// Takes note of a record in the newest segment.
    pub fn observe(&mut self, record: &Record<'_>) -> Result<(), ChainError> {
        match *record {
            Record::Entry { point, .. } => self.observe_entry(point)?,
            Record::HardState(state) => self.hard_state = state,
            Record::Reset(point) => {
                self.start = point;
                self.last = point;
                for segment in &mut self.segments {
                    segment.sealed = true;
                }
            }
        }
        Ok(())
    }

    fn observe_entry(&mut self, point: LogPoint) -> Result<(), ChainError> {
        let (index, last) = (point.index, self.last.index);
        if index.0 > last.0.saturating_add(1) {
            return Err(ChainError::Hole { index, last });
        }
        if index <= self.start.index {
            return Err(ChainError::BeforeStart { index, start: self.start.index });
        }
        if index <= last {
            for segment in self.segments.iter_mut().rev().take_while(|segment| !segment.sealed) {
                if index <= segment.before.index {
                    segment.can_be_first = false;
                }
            }
        }
        self.last = point;
        Ok(())
    }

    /// Numbers of the segments, oldest first.
    pub fn sequences(&self) -> impl Iterator<Item = u64> + '_ {
        self.segments.iter().map(|segment| segment.sequence)
    }

    /// Number of the newest segment.
    pub fn newest(&self) -> Option<u64> {
        self.segments.back().map(|segment| segment.sequence)
    }

    /// The segment with which the log of a reader can start that has everything up to `up_to`, if
    /// that is not the oldest one. All older ones can go, together: a segment between need not be
    /// a possible start.
    ///
    /// The start's header has the hard state and the last entry before it, which must be at or
    /// below `up_to` and must still be in the log.
    pub fn first_needed(&self, up_to: LogIndex) -> Option<u64> {
        self.segments
            .iter()
            .skip(1)
            .rfind(|segment| segment.can_be_first && segment.before.index <= up_to)
            .map(|segment| segment.sequence)
    }

    /// Forgets the segments before this one.
    pub fn remove_before(&mut self, sequence: u64) {
        self.segments.retain(|segment| segment.sequence >= sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;

    fn entry(index: u64, term: u64) -> Record<'static> {
        let point = LogPoint { index: LogIndex(index), term: Term(term) };
        Record::Entry { point, kind: 0, data: b"" }
    }

    fn chain(script: &[&[Record<'static>]]) -> Chain {
        let mut chain = Chain::default();
        for (records, sequence) in script.iter().zip(1..) {
            chain.open_segment(sequence);
            for record in *records {
                chain.observe(record).expect("fits");
            }
        }
        chain
    }

    #[test]
    fn an_entry_must_not_leave_a_hole() {
        let mut chain = chain(&[&[entry(1, 1)]]);
        let error = ChainError::Hole { index: LogIndex(3), last: LogIndex(1) };
        assert_eq!(chain.observe(&entry(3, 1)), Err(error));
    }

    #[test]
    fn an_entry_must_not_replace_what_a_snapshot_covers() {
        let point = LogPoint { index: LogIndex(9), term: Term(2) };
        let mut chain = chain(&[&[entry(1, 1), Record::Reset(point)]]);
        let error = ChainError::BeforeStart { index: LogIndex(9), start: LogIndex(9) };
        assert_eq!(chain.observe(&entry(9, 3)), Err(error));
        assert_eq!(chain.observe(&entry(10, 3)), Ok(()));
    }

    #[test]
    fn a_segment_goes_when_all_its_entries_are_covered() {
        let chain = chain(&[&[entry(1, 1), entry(2, 1)], &[entry(3, 1)]]);
        assert_eq!(chain.first_needed(LogIndex(1)), None);
        assert_eq!(chain.first_needed(LogIndex(2)), Some(2));
    }

    #[test]
    fn the_newest_segment_never_goes() {
        assert_eq!(chain(&[&[entry(1, 1)]]).first_needed(LogIndex(9)), None);
    }

    #[test]
    fn a_segment_stays_while_its_successor_replaces_its_entries() {
        // Segment 2 says "entry 3 of term 1 came before me", which stopped to be true.
        let script: &[&[Record<'static>]] = &[
            &[entry(1, 1), entry(2, 1), entry(3, 1)],
            &[entry(2, 2), entry(3, 2), entry(4, 2)],
            &[entry(5, 2)],
        ];
        assert_eq!(chain(&script[..2]).first_needed(LogIndex(3)), None);
        assert_eq!(chain(script).first_needed(LogIndex(4)), Some(3));
    }

    #[test]
    fn entries_after_a_reset_do_not_keep_segments_before_it() {
        let reset = Record::Reset(LogPoint { index: LogIndex(2), term: Term(5) });
        let chain = chain(&[&[entry(1, 1), entry(2, 1), entry(3, 1)], &[reset, entry(3, 5)]]);
        assert_eq!(chain.first_needed(LogIndex(3)), Some(2));
    }
}
