//! Reads a log back from the bytes of its segments.
//!
//! Each segment is read frame by frame up to the first place that does not hold the frame that
//! must come next. Whether that is the end, the remains of a write that a crash cut short, or
//! damage, is decided by proof: see the rules in [`super`].

use bytes::Bytes;

use super::chain::{Chain, ChainError};
use super::frame::FrameHeader;
use super::record::{Record, records};
use super::segment::{SECTOR_BYTES, SEGMENT_HEADER_BYTES, Salt, SegmentHeader};
use super::{HardState, Identity, LogEntry, LogPoint, WalError};
use crate::types::LogIndex;

/// A log that was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// The point after which `entries` start: what a snapshot, a purge or
    /// [`Recovery::discard_through`] left out.
    pub start: LogPoint,
    /// The entries, without holes, from `start.index + 1`.
    pub entries: Vec<LogEntry>,
    /// The last hard state.
    pub hard_state: HardState,
    /// Where writing goes on; `None` if there was no segment.
    pub tail: Option<Tail>,
    /// The log's shape, for the writer.
    pub chain: Chain,
}

impl Recovered {
    /// The last entry, or the start if there is none.
    pub fn last(&self) -> LogPoint {
        self.entries.last().map_or(self.start, |entry| LogPoint { index: entry.index, term: entry.term })
    }
}

/// The end of a log in its newest segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tail {
    /// Number of the segment.
    pub sequence: u64,
    /// Seed for its frames.
    pub salt: Salt,
    /// Size of the segment.
    pub segment_bytes: u64,
    /// Where the next frame goes.
    pub offset: u64,
    /// Number of the next frame.
    pub next_frame: u64,
    /// Frames from here to `offset` were read, but nothing proves that they are on the disk and
    /// not only in a cache. They must be written again and synced before the log is used.
    pub unproven_from: u64,
    /// If above `offset`: remains of a write that a crash cut short end here. They must be
    /// zeroed before the log is used, or they could follow the next frame as if written after it.
    pub zero_until: u64,
}

impl Tail {
    /// Whether a write that was cut short was found, and left out.
    pub fn is_torn(&self) -> bool {
        self.zero_until > self.offset
    }
}

/// See the module.
#[derive(Debug)]
pub struct Recovery {
    identity: Identity,
    first_sequence: u64,
    discard_through: LogIndex,
    chain: Chain,
    start: LogPoint,
    entries: Vec<LogEntry>,
    end: Option<End>,
}

/// Where the last segment so far ended.
#[derive(Debug)]
struct End {
    name: String,
    tail: Tail,
}

impl Recovery {
    /// Nothing read yet.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            first_sequence: 1,
            discard_through: LogIndex(0),
            chain: Chain::default(),
            start: LogPoint::default(),
            entries: Vec::new(),
            end: None,
        }
    }

    /// The log starts with this segment, because older ones were purged.
    pub fn starting_with(mut self, sequence: u64) -> Self {
        self.first_sequence = sequence;
        self
    }

    /// Leaves out entries up to `index`, because the state machine has them durably, to save
    /// memory.
    pub fn discard_through(mut self, index: LogIndex) -> Self {
        self.discard_through = index;
        self
    }

    /// Reads the next segment; `name` is for the messages. After an error the recovery must not
    /// be used any more.
    pub fn segment(&mut self, name: &str, bytes: &[u8]) -> Result<(), WalError> {
        let header = SegmentHeader::decode(name, bytes)?;
        self.check_header(name, bytes.len() as u64, &header)?;
        if self.end.is_none() {
            self.start = header.last;
            self.chain.start = header.last;
            self.chain.last = header.last;
            self.chain.hard_state = header.hard_state;
        }
        self.chain.open_segment(header.sequence);

        let salt = header.salt();
        let mut next_frame = header.first_frame;
        // All frames before the segment are proven durable by the segment's being there.
        let mut synced = header.first_frame.saturating_sub(1);
        // Offsets and numbers of frames that no synced mark covers yet.
        let mut unproven: Vec<(u64, usize)> = Vec::new();
        let mut offset = SEGMENT_HEADER_BYTES;
        while let Some(frame) = FrameHeader::read(bytes, offset, salt)
            && frame.number == next_frame
            && let Some(payload) = frame.payload(bytes, offset, salt)
        {
            self.replay(name, offset, payload)?;
            synced = synced.max(frame.synced);
            unproven.retain(|(number, _)| *number > synced);
            unproven.push((frame.number, offset));
            offset = frame.end(offset);
            next_frame = next_frame.saturating_add(1);
        }
        // A file whose last frame's padding was not written whole.
        let offset = offset.min(bytes.len());

        let zero_until = self.judge_rest(name, bytes, offset, salt, next_frame)?;
        self.drop_discarded();
        self.end = Some(End {
            name: name.to_owned(),
            tail: Tail {
                sequence: header.sequence,
                salt,
                segment_bytes: bytes.len() as u64,
                offset: offset as u64,
                next_frame,
                unproven_from: unproven.first().map_or(offset, |(_, at)| *at) as u64,
                zero_until: zero_until as u64,
            },
        });
        Ok(())
    }

    fn check_header(&self, name: &str, bytes: u64, header: &SegmentHeader) -> Result<(), WalError> {
        let segment = || name.to_owned();
        if header.identity != self.identity {
            return Err(WalError::WrongIdentity {
                segment: segment(),
                found: header.identity,
                expected: self.identity,
            });
        }
        if bytes < header.segment_bytes {
            return Err(WalError::Truncated {
                segment: segment(),
                bytes,
                expected_bytes: header.segment_bytes,
            });
        }
        let expected =
            self.end.as_ref().map_or(self.first_sequence, |end| end.tail.sequence.saturating_add(1));
        if header.sequence != expected {
            let found = header.sequence;
            return Err(WalError::MissingSegment { segment: segment(), found, expected });
        }
        let Some(end) = &self.end else { return Ok(()) };
        // A segment is started only after everything before it is durable.
        if header.first_frame != end.tail.next_frame
            || header.last != self.chain.last
            || header.hard_state != self.chain.hard_state
        {
            return Err(WalError::Damaged {
                segment: end.name.clone(),
                offset: end.tail.offset,
                frame: end.tail.next_frame,
                proof: format!("segment {name} starts with frame {}", header.first_frame),
            });
        }
        Ok(())
    }

    fn replay(&mut self, name: &str, offset: usize, payload: &[u8]) -> Result<(), WalError> {
        let chain_error =
            |source| WalError::Chain { segment: name.to_owned(), offset: offset as u64, source };
        for record in records(payload) {
            let record = record.map_err(|source| WalError::Record {
                segment: name.to_owned(),
                offset: offset as u64,
                source,
            })?;
            self.chain.observe(&record).map_err(chain_error)?;
            match record {
                Record::Entry { point, kind, data } => {
                    self.keep_entry(point, kind, data).map_err(chain_error)?;
                }
                Record::Reset(point) => {
                    self.start = point;
                    self.entries.clear();
                }
                Record::HardState(_) => {}
            }
        }
        Ok(())
    }

    fn keep_entry(&mut self, point: LogPoint, kind: u8, data: &[u8]) -> Result<(), ChainError> {
        let LogPoint { index, term } = point;
        if index <= self.start.index && index <= self.discard_through {
            // A later leader wrote over entries that were left out already. The chain has checked
            // that it may; what it replaced is gone, and so is everything after it.
            self.start = point;
            self.entries.clear();
            return Ok(());
        }
        let start = self.start.index;
        let before = index
            .0
            .checked_sub(start.0.saturating_add(1))
            .and_then(|count| usize::try_from(count).ok())
            .ok_or(ChainError::BeforeStart { index, start })?;
        self.entries.truncate(before);
        self.entries.push(LogEntry { index, term, kind, data: Bytes::copy_from_slice(data) });
        Ok(())
    }

    /// Decides what the bytes after the last good frame are. Returns where remains end, or
    /// `offset` if there are none.
    fn judge_rest(
        &self,
        name: &str,
        bytes: &[u8],
        offset: usize,
        salt: Salt,
        next_frame: u64,
    ) -> Result<usize, WalError> {
        let mut zero_until = offset;
        for at in (offset..bytes.len()).step_by(SECTOR_BYTES) {
            let Some(frame) = FrameHeader::read(bytes, at, salt) else { continue };
            if frame.number < next_frame {
                continue;
            }
            // The header alone is proof: only the writer can make it, and only after the sync.
            if frame.synced >= next_frame {
                return Err(WalError::Damaged {
                    segment: name.to_owned(),
                    offset: offset as u64,
                    frame: next_frame,
                    proof: format!("frame {} at offset {at} was written after it", frame.number),
                });
            }
            zero_until = zero_until.max(frame.end(at).min(bytes.len()));
        }
        Ok(zero_until)
    }

    fn drop_discarded(&mut self) {
        let count = self.entries.partition_point(|entry| entry.index <= self.discard_through);
        if let Some(last) = self.entries[..count].last() {
            self.start = LogPoint { index: last.index, term: last.term };
            self.entries.drain(..count);
        }
    }

    /// The log, once all segments were read.
    pub fn finish(self) -> Result<Recovered, WalError> {
        let hard_state = self.chain.hard_state;
        let last = self.chain.last.index;
        if hard_state.commit > last {
            return Err(WalError::CommitBeyondEnd { commit: hard_state.commit, last });
        }
        Ok(Recovered {
            start: self.start,
            entries: self.entries,
            hard_state,
            tail: self.end.map(|end| end.tail),
            chain: self.chain,
        })
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
