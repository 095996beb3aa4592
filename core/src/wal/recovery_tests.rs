use proptest::prelude::*;

use super::super::{BatchBuilder, WalBatch, encode_frame, frame_bytes};
use super::*;
use crate::types::{ClusterId, MemberId, Term};

const SEGMENT_BYTES: usize = 16 * SECTOR_BYTES;

fn identity() -> Identity {
    Identity { cluster_id: ClusterId(0xc1), member_id: MemberId(0x3e) }
}

/// The writer without a disk.
#[derive(Clone)]
struct Writer {
    segments: Vec<(String, Vec<u8>)>,
    chain: Chain,
    offset: usize,
    next_frame: u64,
    synced: u64,
    salt: Salt,
    /// Segment number, first byte and byte after the last of every frame, padding left out.
    frames: Vec<(usize, usize, usize)>,
}

impl Writer {
    fn new() -> Self {
        let mut writer = Self {
            segments: Vec::new(),
            chain: Chain::default(),
            offset: 0,
            next_frame: 1,
            synced: 0,
            salt: Salt(0),
            frames: Vec::new(),
        };
        writer.rotate();
        writer
    }

    /// Starts a segment in a file full of `filler`.
    fn rotate_into(&mut self, mut filler: Vec<u8>) {
        self.synced = self.next_frame - 1;
        let sequence = self.segments.len() as u64 + 1;
        let header = SegmentHeader {
            identity: identity(),
            sequence,
            nonce: 77 * sequence,
            segment_bytes: filler.len() as u64,
            first_frame: self.next_frame,
            hard_state: self.chain.hard_state,
            last: self.chain.last,
        };
        filler[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
        self.segments.push((format!("{sequence:04}.wal"), filler));
        self.chain.open_segment(sequence);
        self.salt = header.salt();
        self.offset = SEGMENT_HEADER_BYTES;
    }

    fn rotate(&mut self) {
        self.rotate_into(vec![0; SEGMENT_BYTES]);
    }

    fn append(&mut self, batch: &WalBatch, sync: bool) {
        for record in records(&batch.bytes) {
            self.chain.observe(&record.expect("valid")).expect("fits");
        }
        let mut frame = Vec::new();
        encode_frame(&mut frame, self.salt, self.next_frame, self.synced, &[&batch.bytes]);
        let bytes = &mut self.segments.last_mut().expect("one").1;
        bytes[self.offset..self.offset + frame.len()].copy_from_slice(&frame);
        let end = self.offset + super::super::FRAME_HEADER_BYTES + batch.bytes.len();
        self.frames.push((self.segments.len() - 1, self.offset, end));
        self.offset += frame_bytes(batch.bytes.len());
        if sync {
            self.synced = self.next_frame;
        }
        self.next_frame += 1;
    }

    fn recover(&self) -> Result<Recovered, WalError> {
        recover(&self.segments)
    }
}

fn recover(segments: &[(String, Vec<u8>)]) -> Result<Recovered, WalError> {
    recover_from(1, segments)
}

fn recover_from(first: u64, segments: &[(String, Vec<u8>)]) -> Result<Recovered, WalError> {
    let mut recovery = Recovery::new(identity()).starting_with(first);
    for (name, bytes) in segments {
        recovery.segment(name, bytes)?;
    }
    recovery.finish()
}

fn entries(range: std::ops::Range<u64>, term: u64) -> WalBatch {
    let mut builder = BatchBuilder::new();
    for index in range {
        builder.push_entry(LogIndex(index), Term(term), 0, format!("data {index}").as_bytes());
    }
    builder.finish()
}

fn hard_state(term: u64, vote: u64, commit: u64) -> WalBatch {
    let mut builder = BatchBuilder::new();
    builder.push_hard_state(HardState { term: Term(term), vote, commit: LogIndex(commit) });
    builder.finish()
}

fn point(index: u64, term: u64) -> LogPoint {
    LogPoint { index: LogIndex(index), term: Term(term) }
}

fn shape(recovered: &Recovered) -> Vec<(u64, u64)> {
    recovered.entries.iter().map(|entry| (entry.index.0, entry.term.0)).collect()
}

/// Five frames in two segments; what the log holds after each of them.
fn small_log() -> (Writer, Vec<(LogPoint, Vec<LogEntry>, HardState)>) {
    let mut writer = Writer::new();
    let mut states = Vec::new();
    let mut note = |writer: &Writer| {
        let recovered = writer.recover().expect("whole");
        states.push((recovered.start, recovered.entries, recovered.hard_state));
    };
    note(&writer);
    writer.append(&hard_state(1, 7, 0), true);
    note(&writer);
    writer.append(&entries(1..4, 1), true);
    note(&writer);
    let mut builder = BatchBuilder::new();
    builder.push_entry(LogIndex(3), Term(2), 1, &[9; 700]);
    builder.push_hard_state(HardState { term: Term(2), vote: 8, commit: LogIndex(2) });
    writer.append(&builder.finish(), true);
    note(&writer);
    writer.rotate();
    writer.append(&entries(4..6, 2), true);
    note(&writer);
    writer.append(&hard_state(2, 8, 5), true);
    note(&writer);
    (writer, states)
}

#[test]
fn a_log_comes_back_as_it_was_written() {
    let (writer, _) = small_log();
    let recovered = writer.recover().expect("whole");
    assert_eq!(shape(&recovered), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]);
    assert_eq!(recovered.entries[2].data, vec![9; 700]);
    assert_eq!(recovered.entries[2].kind, 1);
    let state = HardState { term: Term(2), vote: 8, commit: LogIndex(5) };
    assert_eq!(recovered.hard_state, state);
    assert_eq!(recovered.start, LogPoint::default());
    assert_eq!(recovered.chain, writer.chain);
    let tail = recovered.tail.expect("segments");
    assert_eq!((tail.sequence, tail.next_frame), (2, writer.next_frame));
    assert_eq!(tail.offset, writer.offset as u64);
    assert!(!tail.is_torn());
}

#[test]
fn no_segments_are_an_empty_log() {
    let recovered = recover(&[]).expect("empty");
    assert_eq!(recovered, Recovered::default());
}

#[test]
fn a_write_cut_at_any_byte_leaves_the_frames_before_it() {
    let (writer, states) = small_log();
    // Zeros, and what an earlier use of the file left: valid frames of another segment.
    let mut stale = Writer::new();
    stale.rotate();
    stale.rotate();
    stale.next_frame = 100;
    stale.synced = 99;
    for _ in 0..SEGMENT_BYTES / SECTOR_BYTES - 1 {
        stale.append(&hard_state(9, 9, 9), true);
    }
    for filler in [vec![0; SEGMENT_BYTES], stale.segments[2].1.clone()] {
        for segment in 0..2 {
            for cut in SEGMENT_HEADER_BYTES..SEGMENT_BYTES {
                let mut segments = writer.segments[..=segment].to_vec();
                segments[segment].1[cut..].copy_from_slice(&filler[cut..]);
                // What was there before may happen to end like the frame.
                let whole = |&(at, start, end): &(usize, usize, usize)| {
                    at < segment
                        || at == segment && segments[at].1[start..end] == writer.segments[at].1[start..end]
                };
                let whole_frames = writer.frames.iter().take_while(|frame| whole(frame)).count();
                let recovered = recover(&segments).expect("a torn tail is cut");
                let (start, entries, hard_state) = &states[whole_frames];
                assert_eq!(&recovered.start, start, "cut={cut}");
                assert_eq!(&recovered.entries, entries, "cut={cut}");
                assert_eq!(&recovered.hard_state, hard_state, "cut={cut}");
            }
        }
    }
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let (writer, _) = small_log();
    for segment in 0..2 {
        for cut in 0..SEGMENT_BYTES {
            let mut segments = writer.segments.clone();
            segments[segment].1.truncate(cut);
            recover(&segments).expect_err("bytes are missing");
        }
    }
}

#[test]
fn any_flipped_bit_is_harmless_or_refused_or_costs_the_last_frame() {
    let (writer, states) = small_log();
    let [.., before_last, whole] = &states[..] else { panic!("several states") };
    let last_frame = *writer.frames.last().expect("frames");
    let (mut harmless, mut refused, mut cut) = (0, 0, 0);
    for segment in 0..2 {
        for bit in 0..SEGMENT_BYTES * 8 {
            let byte = bit / 8;
            let mut segments = writer.segments.clone();
            segments[segment].1[byte] ^= 1 << (bit % 8);
            let in_last = segment == last_frame.0 && (last_frame.1..last_frame.2).contains(&byte);
            match recover(&segments) {
                Err(_) => refused += 1,
                Ok(found) => {
                    let found = (found.start, found.entries, found.hard_state);
                    if &found == whole {
                        harmless += 1;
                    } else {
                        assert!(in_last, "segment={segment} byte={byte}");
                        assert_eq!(&found, before_last, "byte={byte}");
                        cut += 1;
                    }
                }
            }
        }
    }
    // Every bit of the last frame costs the frame, every bit of headers and earlier frames is
    // refused, and only padding and unused space are harmless.
    assert_eq!(cut, (last_frame.2 - last_frame.1) * 8);
    let checked: usize = writer.frames.iter().map(|(_, start, end)| end - start).sum();
    assert_eq!(refused, (2 * SEGMENT_HEADER_BYTES + checked) * 8 - cut);
    assert_eq!(harmless + refused + cut, 2 * SEGMENT_BYTES * 8);
}

#[test]
fn damage_in_the_middle_names_the_place_and_what_to_do() {
    let (writer, _) = small_log();
    let (_, second_frame, _) = writer.frames[1];
    let mut segments = writer.segments.clone();
    segments[0].1[second_frame + 40] ^= 1;
    let error = recover(&segments[..1]).expect_err("frame 3 proves frame 2");
    let WalError::Damaged { ref segment, offset, frame, .. } = error else { panic!("{error}") };
    assert_eq!((segment.as_str(), offset, frame), ("0001.wal", second_frame as u64, 2));
    assert!(error.to_string().contains("add it again with an empty data directory"));
}

#[test]
fn damage_at_the_end_of_a_segment_is_proved_by_the_next_one() {
    let (writer, _) = small_log();
    let (_, third_frame, _) = writer.frames[2];
    let mut segments = writer.segments.clone();
    segments[0].1[third_frame] ^= 1;
    let error = recover(&segments).expect_err("segment 2 proves frame 3");
    assert!(
        matches!(error, WalError::Damaged { ref segment, frame: 3, .. } if segment == "0001.wal"),
        "{error}"
    );
}

#[test]
fn frames_that_were_never_synced_may_be_lost_under_later_ones() {
    // Frame 2 is a lone commit index, written lazily. A crash while frame 3 is written keeps
    // frame 3 and loses frame 2: nobody was told about either.
    let mut writer = Writer::new();
    writer.append(&entries(1..3, 1), true);
    writer.append(&hard_state(1, 0, 1), false);
    let (_, lazy, lazy_end) = (0, writer.frames[1].1, writer.frames[1].2);
    writer.append(&entries(3..4, 1), true);
    writer.segments[0].1[lazy..lazy_end].fill(0);
    let recovered = writer.recover().expect("cut");
    assert_eq!(shape(&recovered), [(1, 1), (2, 1)]);
    let tail = recovered.tail.expect("segment");
    assert_eq!((tail.offset, tail.next_frame), (lazy as u64, 2));
    assert_eq!(tail.zero_until, writer.offset as u64, "frame 3 must not come back");
    // Once a frame says that frame 2 is durable, losing it is damage.
    writer.append(&entries(4..5, 1), true);
    assert!(matches!(writer.recover(), Err(WalError::Damaged { frame: 2, .. })));
}

#[test]
fn the_last_frames_without_a_synced_mark_are_unproven() {
    let mut writer = Writer::new();
    writer.append(&entries(1..3, 1), true);
    writer.append(&hard_state(1, 0, 1), false);
    writer.append(&hard_state(1, 0, 2), false);
    let tail = writer.recover().expect("whole").tail.expect("segment");
    assert_eq!(tail.unproven_from, writer.frames[1].1 as u64, "frame 2 proves frame 1 only");
    writer.rotate();
    let tail = writer.recover().expect("whole").tail.expect("segment");
    assert_eq!(tail.unproven_from, tail.offset, "a new segment proves all before it");
}

#[test]
fn an_old_frame_of_the_same_segment_does_not_follow_a_new_one() {
    // Without zeroing, frame 3 of the first life would follow frame 2 of the second.
    let mut first = Writer::new();
    first.append(&entries(1..2, 1), true);
    let mut second = first.clone();
    first.append(&hard_state(1, 0, 1), false);
    first.append(&entries(2..3, 1), true);
    let lazy = first.frames[1];
    first.segments[0].1[lazy.1..lazy.2].fill(0);
    let tail = first.recover().expect("cut").tail.expect("segment");
    assert!(tail.is_torn());

    second.append(&entries(2..3, 2), true);
    let (from, to) = (second.frames[1].1, second.offset);
    let new_frame = second.segments[0].1[from..to].to_vec();
    let mut ghost = first.segments.clone();
    ghost[0].1[from..to].copy_from_slice(&new_frame);
    assert_eq!(recover(&ghost).expect("reads").entries[1].term, Term(1), "the danger is real");
    let mut zeroed = first.segments.clone();
    zeroed[0].1[tail.offset as usize..tail.zero_until as usize].fill(0);
    zeroed[0].1[from..to].copy_from_slice(&new_frame);
    assert_eq!(recover(&zeroed).expect("reads").entries[1].term, Term(2));
}

#[test]
fn a_missing_segment_is_refused() {
    let (mut writer, _) = small_log();
    writer.rotate();
    writer.segments.remove(1);
    let error = WalError::MissingSegment { segment: "0003.wal".into(), found: 3, expected: 2 };
    assert_eq!(writer.recover(), Err(error));
    let error = WalError::MissingSegment { segment: "0003.wal".into(), found: 3, expected: 1 };
    assert_eq!(recover(&writer.segments[1..]), Err(error));
}

#[test]
fn the_log_of_another_member_is_refused() {
    let (writer, _) = small_log();
    for other in [
        Identity { cluster_id: ClusterId(1), ..identity() },
        Identity { member_id: MemberId(1), ..identity() },
    ] {
        let mut recovery = Recovery::new(other);
        let (name, bytes) = &writer.segments[0];
        let error = recovery.segment(name, bytes).expect_err("foreign");
        assert!(matches!(error, WalError::WrongIdentity { .. }), "{error}");
    }
}

#[test]
fn a_hole_in_the_indexes_is_refused() {
    let mut writer = Writer::new();
    writer.append(&entries(1..2, 1), true);
    writer.chain.last = point(2, 1);
    writer.append(&entries(3..4, 1), true);
    let error = writer.recover().expect_err("hole");
    assert!(matches!(error, WalError::Chain { source: ChainError::Hole { .. }, .. }), "{error}");
}

#[test]
fn a_commit_index_beyond_the_end_is_refused() {
    let mut writer = Writer::new();
    writer.append(&hard_state(1, 0, 3), true);
    let error = WalError::CommitBeyondEnd { commit: LogIndex(3), last: LogIndex(0) };
    assert_eq!(writer.recover(), Err(error));
}

#[test]
fn a_record_of_an_unknown_type_is_refused() {
    let mut writer = Writer::new();
    let mut frame = Vec::new();
    encode_frame(&mut frame, writer.salt, 1, 0, &[&[200, 1, 2]]);
    writer.segments[0].1[SEGMENT_HEADER_BYTES..][..frame.len()].copy_from_slice(&frame);
    let error = writer.recover().expect_err("unknown");
    assert!(matches!(error, WalError::Record { .. }), "{error}");
}

#[test]
fn a_log_restarts_after_a_reset() {
    let mut writer = Writer::new();
    writer.append(&entries(1..4, 1), true);
    let mut builder = BatchBuilder::new();
    builder.push_reset(point(10, 4));
    builder.push_hard_state(HardState { term: Term(4), vote: 0, commit: LogIndex(10) });
    builder.push_entry(LogIndex(11), Term(4), 0, b"");
    writer.append(&builder.finish(), true);
    let recovered = writer.recover().expect("whole");
    assert_eq!(recovered.start, point(10, 4));
    assert_eq!(shape(&recovered), [(11, 4)]);
}

#[test]
fn a_purged_log_starts_after_the_last_purged_entry() {
    let (mut writer, _) = small_log();
    assert_eq!(writer.chain.first_needed(LogIndex(3)), Some(2));
    writer.segments.remove(0);
    let recovered = recover_from(2, &writer.segments).expect("whole");
    assert_eq!(recovered.start, point(3, 2));
    assert_eq!(shape(&recovered), [(4, 2), (5, 2)]);
    assert_eq!(recovered.last(), point(5, 2));
    // The hard state survives the segment in which it was written.
    let mut only_header = Writer::new();
    only_header.append(&hard_state(3, 2, 0), true);
    only_header.rotate();
    only_header.segments.remove(0);
    let recovered = recover_from(2, &only_header.segments).expect("whole");
    assert_eq!(recovered.hard_state, HardState { term: Term(3), vote: 2, commit: LogIndex(0) });
}

#[test]
fn entries_that_the_engine_has_can_be_left_out() {
    let (writer, _) = small_log();
    let mut recovery = Recovery::new(identity()).discard_through(LogIndex(4));
    for (name, bytes) in &writer.segments {
        recovery.segment(name, bytes).expect("whole");
    }
    let recovered = recovery.finish().expect("whole");
    assert_eq!(recovered.start, point(4, 2));
    assert_eq!(shape(&recovered), [(5, 2)]);
    assert_eq!(recovered.chain, writer.chain);
}

proptest! {
    #[test]
    fn any_bytes_are_a_log_or_an_error(
        seed in proptest::collection::vec(any::<u8>(), 0..2000),
        keep in 0usize..2000,
    ) {
        let (writer, _) = small_log();
        let mut segments = writer.segments;
        for (at, byte) in seed.iter().enumerate().skip(keep) {
            segments[0].1[at] = *byte;
        }
        let _ = recover(&segments);
        let _ = recover(&[("a".to_owned(), seed)]);
    }

    /// Random histories against a plain list of entries.
    #[test]
    fn recovery_agrees_with_a_list(steps in proptest::collection::vec((0u8..10, 0u64..6, 1u64..4), 1..60)) {
        let mut writer = Writer::new();
        let (mut start, mut list, mut state) = (point(0, 0), Vec::<(u64, u64)>::new(), HardState::default());
        let mut term = 1;
        let mut first = 1;
        for (kind, back, count) in steps {
            if writer.offset + 2 * SECTOR_BYTES > SEGMENT_BYTES || kind == 0 {
                writer.rotate();
            }
            let last = start.index.0 + list.len() as u64;
            match kind {
                1 => {
                    state = HardState { term: Term(term), vote: back, commit: LogIndex(last.min(state.commit.0 + count)) };
                    writer.append(&hard_state(term, back, state.commit.0), true);
                }
                2 => {
                    term += 1;
                    start = point(last + back, term);
                    state = HardState { term: Term(term), vote: 0, commit: start.index };
                    list.clear();
                    let mut builder = BatchBuilder::new();
                    builder.push_reset(start);
                    builder.push_hard_state(state);
                    writer.append(&builder.finish(), true);
                }
                3 => {
                    if let Some(sequence) = writer.chain.first_needed(state.commit) {
                        writer.chain.remove_before(sequence);
                        first = sequence;
                    }
                }
                _ => {
                    // Replacing entries is legal above the commit index.
                    let from = (last + 1).saturating_sub(back).max(state.commit.0.max(start.index.0) + 1);
                    if from <= last {
                        term += 1;
                    }
                    writer.append(&entries(from..from + count, term), true);
                    list.truncate((from - start.index.0 - 1) as usize);
                    list.extend((from..from + count).map(|index| (index, term)));
                }
            }
            let recovered = recover_from(first, &writer.segments[first as usize - 1..]).expect("whole");
            prop_assert_eq!(recovered.hard_state, state);
            prop_assert_eq!(recovered.last().index.0, start.index.0 + list.len() as u64);
            let left_out = recovered.start.index.0 - start.index.0;
            prop_assert!(recovered.start.index.0 <= state.commit.0);
            prop_assert_eq!(shape(&recovered), list[left_out as usize..].to_vec());
            prop_assert_eq!(&recovered.chain.last, &writer.chain.last);
        }
    }
}

#[test]
fn entries_that_a_later_leader_wrote_over_are_left_out_like_any_others() {
    let mut writer = Writer::new();
    writer.append(&entries(1..11, 1), true);
    writer.rotate();
    writer.append(&entries(8..13, 2), true);
    let whole = writer.recover().unwrap();
    for applied in 0..=13 {
        let mut recovery = Recovery::new(identity()).discard_through(LogIndex(applied));
        for (name, bytes) in &writer.segments {
            recovery.segment(name, bytes).unwrap_or_else(|error| panic!("applied={applied}: {error}"));
        }
        let recovered = recovery.finish().unwrap();
        let expected: Vec<_> =
            whole.entries.iter().filter(|entry| entry.index.0 > applied).cloned().collect();
        assert_eq!(recovered.entries, expected, "applied={applied}");
        let term = match applied {
            0 => 0,
            1..8 => 1,
            _ => 2,
        };
        let start = LogPoint { index: LogIndex(applied.min(12)), term: Term(term) };
        assert_eq!(recovered.start, start, "applied={applied}");
    }
}
