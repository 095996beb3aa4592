//! Records, the contents of frames, and the batches in which the core hands them out.
//!
//! All numbers are little-endian and of fixed size:
//!
//! ```text
//! entry       1 u8 | kind u8 | index u64 | term u64 | length u32 | data
//! hard state  2 u8 | term u64 | vote u64 | commit u64
//! reset       3 u8 | index u64 | term u64
//! ```

use crate::types::{LogIndex, Term};

use super::{HardState, LogPoint, u32_at, u64_at};

const ENTRY: u8 = 1;
const HARD_STATE: u8 = 2;
const RESET: u8 = 3;

const ENTRY_HEADER_BYTES: usize = 22;
const HARD_STATE_BYTES: usize = 25;
const RESET_BYTES: usize = 17;

/// One record, borrowed from the bytes it was read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// An entry of the log.
    Entry {
        /// Position and term.
        point: LogPoint,
        /// Number of raft's `EntryType`.
        kind: u8,
        /// Payload.
        data: &'a [u8],
    },
    /// The hard state from here on.
    HardState(HardState),
    /// The log is empty and continues after this point: a snapshot up to it was installed.
    Reset(LogPoint),
}

/// Bytes with a valid checksum that are not records of this format.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// A newer version wrote it, or a defect.
    #[error("record of unknown type: type={0}")]
    UnknownType(u8),
    /// The record is longer than what holds it.
    #[error("record reaches beyond its frame")]
    TooShort,
}

/// The records of a frame's payload or of a batch, in order. Ends after the first error.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let record = split_record(rest)?;
        match record {
            Ok((record, after)) => {
                rest = after;
                Some(Ok(record))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

type Split<'a> = Result<(Record<'a>, &'a [u8]), RecordError>;

fn split_record(bytes: &[u8]) -> Option<Split<'_>> {
    let record_type = *bytes.first()?;
    let split = match record_type {
        ENTRY => split_entry(bytes),
        HARD_STATE => split_hard_state(bytes),
        RESET => split_reset(bytes),
        other => return Some(Err(RecordError::UnknownType(other))),
    };
    Some(split.ok_or(RecordError::TooShort))
}

fn split_entry(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let kind = *bytes.get(1)?;
    let point = LogPoint { index: LogIndex(u64_at(bytes, 2)?), term: Term(u64_at(bytes, 10)?) };
    let data_bytes = usize::try_from(u32_at(bytes, 18)?).ok()?;
    let end = ENTRY_HEADER_BYTES.checked_add(data_bytes)?;
    let data = bytes.get(ENTRY_HEADER_BYTES..end)?;
    Some((Record::Entry { point, kind, data }, &bytes[end..]))
}

fn split_hard_state(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let state = HardState {
        term: Term(u64_at(bytes, 1)?),
        vote: u64_at(bytes, 9)?,
        commit: LogIndex(u64_at(bytes, 17)?),
    };
    Some((Record::HardState(state), &bytes[HARD_STATE_BYTES..]))
}

fn split_reset(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let point = LogPoint { index: LogIndex(u64_at(bytes, 1)?), term: Term(u64_at(bytes, 9)?) };
    Some((Record::Reset(point), &bytes[RESET_BYTES..]))
}

/// Records that become durable together, encoded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WalBatch {
    /// The records.
    pub bytes: Vec<u8>,
    /// First entry pushed, if any.
    pub first_index: Option<LogIndex>,
    /// Last entry pushed, if any.
    pub last_index: Option<LogIndex>,
    /// Last hard state pushed, if any.
    pub hard_state: Option<HardState>,
}

impl WalBatch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Encodes records into one buffer.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    batch: WalBatch,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry; `kind` is the number of raft's `EntryType`.
    ///
    /// An index at or below the last one replaces the log from there on. The index must not leave
    /// a hole; the log's writer checks that and fails.
    ///
    /// # Panics
    ///
    /// If `data` is 4 GiB or longer; requests are bounded far below.
    pub fn push_entry(&mut self, index: LogIndex, term: Term, kind: u8, data: &[u8]) {
        let data_bytes = u32::try_from(data.len()).expect("entries are bounded far below 4 GiB");
        let bytes = &mut self.batch.bytes;
        bytes.reserve(ENTRY_HEADER_BYTES + data.len());
        bytes.extend_from_slice(&[ENTRY, kind]);
        bytes.extend_from_slice(&index.0.to_le_bytes());
        bytes.extend_from_slice(&term.0.to_le_bytes());
        bytes.extend_from_slice(&data_bytes.to_le_bytes());
        bytes.extend_from_slice(data);
        self.batch.first_index.get_or_insert(index);
        self.batch.last_index = Some(index);
    }

    /// Adds the hard state.
    pub fn push_hard_state(&mut self, state: HardState) {
        let bytes = &mut self.batch.bytes;
        bytes.push(HARD_STATE);
        bytes.extend_from_slice(&state.term.0.to_le_bytes());
        bytes.extend_from_slice(&state.vote.to_le_bytes());
        bytes.extend_from_slice(&state.commit.0.to_le_bytes());
        self.batch.hard_state = Some(state);
    }

    /// Empties the log and lets it continue after `point`, because a snapshot up to there was
    /// installed. Push the hard state that belongs to the snapshot after it, in the same batch.
    pub fn push_reset(&mut self, point: LogPoint) {
        let bytes = &mut self.batch.bytes;
        bytes.push(RESET);
        bytes.extend_from_slice(&point.index.0.to_le_bytes());
        bytes.extend_from_slice(&point.term.0.to_le_bytes());
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Encoded size so far.
    pub fn size_bytes(&self) -> usize {
        self.batch.bytes.len()
    }

    /// The batch.
    pub fn finish(self) -> WalBatch {
        self.batch
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point(index: u64, term: u64) -> LogPoint {
        LogPoint { index: LogIndex(index), term: Term(term) }
    }

    #[test]
    fn records_come_back_in_the_order_in_which_they_were_pushed() {
        let state = HardState { term: Term(3), vote: u64::MAX, commit: LogIndex(6) };
        let mut builder = BatchBuilder::new();
        builder.push_reset(point(6, 2));
        builder.push_entry(LogIndex(7), Term(3), 0, b"data");
        builder.push_entry(LogIndex(8), Term(3), 2, b"");
        builder.push_hard_state(state);
        let batch = builder.finish();
        assert_eq!((batch.first_index, batch.last_index), (Some(LogIndex(7)), Some(LogIndex(8))));
        assert_eq!(batch.hard_state, Some(state));
        let read: Vec<_> = records(&batch.bytes).map(|record| record.expect("valid")).collect();
        assert_eq!(
            read,
            [
                Record::Reset(point(6, 2)),
                Record::Entry { point: point(7, 3), kind: 0, data: b"data" },
                Record::Entry { point: point(8, 3), kind: 2, data: b"" },
                Record::HardState(state),
            ]
        );
    }

    #[test]
    fn a_record_cut_short_is_an_error_and_the_end() {
        let mut builder = BatchBuilder::new();
        builder.push_entry(LogIndex(1), Term(1), 0, b"data");
        let bytes = builder.finish().bytes;
        for cut in 1..bytes.len() {
            let read: Vec<_> = records(&bytes[..cut]).collect();
            assert_eq!(read, [Err(RecordError::TooShort)], "cut={cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_bytes_at_hand_is_not_believed() {
        let mut bytes = vec![ENTRY; ENTRY_HEADER_BYTES];
        bytes[18..22].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(records(&bytes).collect::<Vec<_>>(), [Err(RecordError::TooShort)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_records_or_an_error(bytes in proptest::collection::vec(0u8..5, 0..200)) {
            // Small byte values make lengths that fit sometimes.
            let mut errors = 0;
            for record in records(&bytes) {
                errors += usize::from(record.is_err());
            }
            prop_assert!(errors <= 1);
        }
    }
}
