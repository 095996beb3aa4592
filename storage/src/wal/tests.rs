use std::fs;

use folkmoot_core::types::{ClusterId, MemberId, Term};
use folkmoot_core::wal::{BatchBuilder, HardState, LogPoint, WalError};

use super::sim_disk::{Random, SimDisk};
use super::*;

fn identity() -> Identity {
    Identity { cluster_id: ClusterId(0xc1), member_id: MemberId(0x3e) }
}

fn entry(index: u64, term: u64, data: &[u8]) -> WalBatch {
    let mut builder = BatchBuilder::new();
    builder.push_entry(LogIndex(index), Term(term), 0, data);
    builder.finish()
}

fn commit(index: u64) -> WalBatch {
    let mut builder = BatchBuilder::new();
    builder.push_hard_state(HardState { term: Term(1), vote: 0, commit: LogIndex(index) });
    builder.finish()
}

fn indexes(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(|entry| entry.index.0).collect()
}

const SMALL: WalOptions =
    WalOptions { segment_bytes: 8192, first_segment_bytes: 4096, discard_through: LogIndex(0) };

mod on_real_files {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("dir")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("ascii"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_log_survives_being_closed_and_opened() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut wal, recovered) = Wal::open(dir.path(), identity()).expect("open");
        assert_eq!(recovered, Recovered::default());
        wal.append(&[entry(1, 1, b"a"), entry(2, 1, b"b")], true).expect("append");
        wal.append(&[commit(1)], false).expect("append");
        drop(wal);
        let (mut wal, recovered) = Wal::open(dir.path(), identity()).expect("open");
        assert_eq!(indexes(&recovered), [1, 2]);
        assert_eq!(recovered.hard_state.commit, LogIndex(1));
        wal.append(&[entry(3, 2, b"c")], true).expect("append");
        drop(wal);
        let (_, recovered) = Wal::open(dir.path(), identity()).expect("open");
        assert_eq!(indexes(&recovered), [1, 2, 3]);
    }

    #[test]
    fn a_new_log_is_small() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (wal, _) = Wal::open(dir.path(), identity()).expect("open");
        assert_eq!(wal.size_bytes(), 1 << 20);
        assert_eq!(names(dir.path()), ["0000000000000001.wal"]);
    }

    #[test]
    fn a_full_segment_is_followed_by_another_and_purged_ones_are_used_again() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut wal, _) = Wal::open_on(RealDisk::new(dir.path()), identity(), SMALL).expect("open");
        let data = [7; 1000];
        for index in 1..=40 {
            wal.append(&[entry(index, 1, &data)], true).expect("append");
        }
        assert_eq!(wal.segments.len(), 9);
        wal.append(&[commit(40)], true).expect("append");
        wal.purge(LogIndex(20)).expect("purge");
        assert_eq!(names(dir.path()).iter().filter(|name| name.ends_with(".spare")).count(), 2);
        for index in 41..=60 {
            wal.append(&[entry(index, 1, &data)], true).expect("append");
        }
        drop(wal);
        let (wal, recovered) = Wal::open_on(RealDisk::new(dir.path()), identity(), SMALL).expect("open");
        assert!(recovered.start.index <= LogIndex(20));
        assert_eq!(recovered.last().index, LogIndex(60));
        assert_eq!(recovered.hard_state.commit, LogIndex(40));
        assert!(wal.prepare_spare().expect("space"));
        assert!(!wal.prepare_spare().expect("space"), "there is one");
    }

    #[test]
    fn a_batch_larger_than_a_segment_gets_a_segment_of_its_own() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut wal, _) = Wal::open_on(RealDisk::new(dir.path()), identity(), SMALL).expect("open");
        wal.append(&[entry(1, 1, &vec![1; 100_000])], true).expect("append");
        wal.append(&[entry(2, 1, b"")], true).expect("append");
        drop(wal);
        let (_, recovered) = Wal::open_on(RealDisk::new(dir.path()), identity(), SMALL).expect("open");
        assert_eq!(recovered.entries[0].data.len(), 100_000);
        assert_eq!(indexes(&recovered), [1, 2]);
    }

    #[test]
    fn very_large_appends_are_split_between_batches() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut wal, _) = Wal::open(dir.path(), identity()).expect("open");
        let batches: Vec<_> = (1..=3).map(|index| entry(index, 1, &vec![1; 7 << 20])).collect();
        wal.append(&batches, true).expect("append");
        assert_eq!(wal.next_frame, 3, "two batches fit into 16 MiB");
        drop(wal);
        let (_, recovered) = Wal::open(dir.path(), identity()).expect("open");
        assert_eq!(indexes(&recovered), [1, 2, 3]);
    }

    #[test]
    fn the_spare_thread_has_a_spare_ready_before_the_segment_is_full() {
        let dir = tempfile::tempdir().expect("temp dir");
        let options = WalOptions { segment_bytes: 4 << 20, ..WalOptions::default() };
        let (mut wal, _) = Wal::open_with(dir.path(), identity(), options).expect("open");
        wal.append(&[entry(1, 1, &vec![1; 700_000])], true).expect("append");
        while wal.spares.is_empty() {
            std::thread::yield_now();
        }
        let spare = names(dir.path()).pop().expect("a spare");
        assert!(spare.ends_with(".spare"), "{spare}");
        wal.append(&[entry(2, 1, &vec![1; 700_000])], true).expect("append");
        assert_eq!(wal.size_bytes(), 5 << 20);
    }

    #[test]
    fn the_log_of_another_member_is_refused_and_untouched() {
        let dir = tempfile::tempdir().expect("temp dir");
        drop(Wal::open(dir.path(), identity()).expect("open"));
        let other = Identity { member_id: MemberId(1), ..identity() };
        let error = Wal::open(dir.path(), other).err().expect("foreign");
        assert!(matches!(error, StorageError::Log { source: WalError::WrongIdentity { .. }, .. }), "{error}");
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
        Wal::open(dir.path(), identity()).expect("still ours");
    }

    #[test]
    fn a_log_with_holes_is_not_written() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut wal, _) = Wal::open(dir.path(), identity()).expect("open");
        let error = wal.append(&[entry(2, 1, b"")], true).expect_err("hole");
        assert!(matches!(error, StorageError::LogRules(_)), "{error}");
        let error = wal.append(&[entry(1, 1, b"")], true).expect_err("stays failed");
        assert!(matches!(error, StorageError::LogRules(_)), "{error}");
    }
}

#[test]
fn many_batches_take_one_write_and_one_sync() {
    let disk = SimDisk::new(1);
    let (mut wal, _) = Wal::open_on(disk.clone(), identity(), SMALL).expect("open");
    let before = disk.world().sync_count;
    wal.append(&[entry(1, 1, b"a"), entry(2, 1, b"b"), commit(1)], true).expect("append");
    assert_eq!(disk.world().sync_count, before + 1);
    assert_eq!(wal.next_frame, 2);
    wal.append(&[commit(2)], false).expect("append");
    assert_eq!(disk.world().sync_count, before + 1);
    wal.append(&[], true).expect("sync");
    assert_eq!(disk.world().sync_count, before + 2);
    wal.append(&[], true).expect("nothing to do");
    assert_eq!(disk.world().sync_count, before + 2);
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    let disk = SimDisk::new(1);
    let (mut wal, _) = Wal::open_on(disk.clone(), identity(), SMALL).expect("open");
    disk.world().syncs_until_failure = Some(0);
    let first = wal.append(&[entry(1, 1, b"a")], true).expect_err("failed sync");
    disk.world().syncs_until_failure = None;
    let syncs = disk.world().sync_count;
    for error in [
        wal.append(&[entry(1, 1, b"a")], true).expect_err("poisoned"),
        wal.append(&[], true).expect_err("poisoned"),
        wal.purge(LogIndex(1)).expect_err("poisoned"),
    ] {
        assert_eq!(error.to_string(), first.to_string());
    }
    assert_eq!(disk.world().sync_count, syncs);
}

#[test]
fn a_full_disk_is_named_and_costs_nothing_that_was_acknowledged() {
    let disk = SimDisk::new(1);
    disk.world().capacity = 3 * 8192;
    let (mut wal, _) = Wal::open_on(disk.clone(), identity(), SMALL).expect("open");
    let mut acknowledged = 0;
    let error = loop {
        match wal.append(&[entry(acknowledged + 1, 1, &[1; 900])], true) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
    assert!(acknowledged > 10);
    disk.world().cut_power();
    disk.world().capacity = usize::MAX;
    let (mut wal, recovered) = Wal::open_on(disk, identity(), SMALL).expect("open");
    assert_eq!(recovered.last().index, LogIndex(acknowledged));
    wal.append(&[entry(acknowledged + 1, 1, &[1; 900])], true).expect("space again");
}

/// What a log should hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Model {
    start: u64,
    terms: Vec<u64>,
    state: HardState,
}

impl Model {
    fn last(&self) -> u64 {
        self.start + self.terms.len() as u64
    }

    /// Whether this is what was recovered; purged entries may be missing.
    fn explains(&self, recovered: &Recovered) -> bool {
        let Some(skipped) = recovered.start.index.0.checked_sub(self.start) else { return false };
        let Some(terms) = self.terms.get(skipped as usize..) else { return false };
        let found = recovered.entries.iter();
        self.state == recovered.hard_state
            && terms.len() == recovered.entries.len()
            && found.clone().map(|entry| entry.term.0).eq(terms.iter().copied())
            && found.clone().all(|entry| entry.data == payload(entry.index.0, entry.term.0))
    }
}

fn payload(index: u64, term: u64) -> Vec<u8> {
    let length = (index * 37 + term * 101) % 1500;
    (0..length).map(|at| (at + index + term) as u8).collect()
}

/// Random batches, applied to the model as well.
fn random_batch(random: &mut Random, model: &mut Model) -> WalBatch {
    let mut builder = BatchBuilder::new();
    let commit = model.state.commit.0;
    match random.below(12) {
        0 => {
            model.state.term.0 += 1;
            model.start = commit + random.below(5);
            model.terms.clear();
            model.state.commit = LogIndex(model.start);
            let term = model.state.term;
            builder.push_reset(LogPoint { index: LogIndex(model.start), term });
            builder.push_hard_state(model.state);
        }
        1 | 2 => {
            model.state.vote = random.below(3);
            model.state.commit.0 += random.below(model.last() - commit + 1);
            builder.push_hard_state(model.state);
        }
        kind => {
            let mut first = model.last() + 1;
            if kind == 3 {
                first -= random.below(first - commit);
                model.state.term.0 += 1;
                builder.push_hard_state(model.state);
            }
            model.terms.truncate((first - model.start - 1) as usize);
            let term = model.state.term.0;
            for index in first..=first + random.below(4) {
                builder.push_entry(LogIndex(index), Term(term), 0, &payload(index, term));
                model.terms.push(term);
            }
        }
    }
    builder.finish()
}

/// What a run met, to show that the interesting things happen.
#[derive(Default, Debug)]
struct Seen {
    crashes: u64,
    torn_tails: u64,
    lost_unsynced: u64,
    failed_syncs: u64,
    recycled: u64,
}

/// Runs a random life of a log: appends, rotations, purges, crashes at any operation, failed
/// syncs, restarts. Fails when something acknowledged is missing or the log cannot be opened.
fn live(seed: u64, prepare: fn(&SimDisk), seen: &mut Seen) -> Result<SimDisk, String> {
    let disk = SimDisk::new(seed);
    prepare(&disk);
    let mut random = Random(!seed);
    // States of the log after each append, the first of which is certainly durable.
    let mut states = vec![Model::default()];
    for _ in 0..12 {
        if random.one_in(4) {
            disk.world().syncs_until_failure = Some(random.below(30));
        }
        disk.world().operations_left = Some(random.below(60));
        // Opening may be cut short as well; what is on the disk stays explained by `states`.
        if let Ok((mut wal, recovered)) = Wal::open_on(disk.clone(), identity(), SMALL) {
            settle(&mut states, &recovered)?;
            live_until_crash(&mut wal, &mut random, &mut states);
        }
        seen.failed_syncs += u64::from(disk.world().syncs_until_failure == Some(0));
        seen.crashes += 1;
        let power_cut = random.one_in(2);
        if power_cut {
            disk.world().cut_power()
        } else {
            disk.world().restart()
        }
        let (wal, recovered) = Wal::open_on(disk.clone(), identity(), SMALL)
            .map_err(|error| format!("seed={seed}: cannot open: {error}"))?;
        seen.torn_tails += u64::from(recovered.tail.is_some_and(|tail| tail.is_torn()));
        seen.recycled += u64::from(!wal.spares.is_empty());
        let lost = settle(&mut states, &recovered).map_err(|error| format!("seed={seed}: {error}"))?;
        seen.lost_unsynced += u64::from(lost);
        // Whatever was read is now durable, even if the power goes at once.
        drop(wal);
        disk.world().cut_power();
        let (_, again) = Wal::open_on(disk.clone(), identity(), SMALL)
            .map_err(|error| format!("seed={seed}: cannot open twice: {error}"))?;
        if !states[0].explains(&again) {
            return Err(format!("seed={seed}: what was read once is gone"));
        }
    }
    Ok(disk)
}

/// Finds the state that was recovered; it becomes the only one. Returns whether newer ones, which
/// were not acknowledged, are gone.
fn settle(states: &mut Vec<Model>, recovered: &Recovered) -> Result<bool, String> {
    let found = states.iter().rposition(|state| state.explains(recovered)).ok_or_else(|| {
        let last = recovered.last();
        format!("no acknowledged state explains the log: last={last:?}")
    })?;
    let lost = found + 1 < states.len();
    states.swap(0, found);
    states.truncate(1);
    Ok(lost)
}

fn live_until_crash(wal: &mut Wal<SimDisk>, random: &mut Random, states: &mut Vec<Model>) {
    loop {
        let newest = states.last().expect("at least one");
        match random.below(10) {
            0 => {
                // Purging relies on what is durable only.
                let durable = states[0].state.commit.0;
                if wal.purge(LogIndex(random.below(durable + 1))).is_err() {
                    return;
                }
            }
            1 => {
                if wal.prepare_spare().is_err() {
                    return;
                }
            }
            _ => {
                let mut model = newest.clone();
                let batches: Vec<_> =
                    (0..=random.below(3)).map(|_| random_batch(random, &mut model)).collect();
                let sync = !random.one_in(4);
                // From here on the write may or may not have happened.
                states.push(model);
                if wal.append(&batches, sync).is_err() {
                    return;
                }
                if sync {
                    states.drain(..states.len() - 1);
                }
            }
        }
    }
}

const SEEDS: u64 = 400;

#[test]
fn nothing_acknowledged_is_lost_in_any_crash() {
    let mut seen = Seen::default();
    // Some of the faults this is to find show in one run of a thousand.
    for seed in 0..5 * SEEDS {
        if let Err(error) = live(seed, |_| {}, &mut seen) {
            panic!("{error}");
        }
    }
    assert!(seen.torn_tails > 20, "{seen:?}");
    assert!(seen.lost_unsynced > 20, "{seen:?}");
    assert!(seen.failed_syncs > 20, "{seen:?}");
    assert!(seen.recycled > 20, "{seen:?}");
}

#[test]
fn a_disk_that_only_pretends_to_sync_files_is_noticed() {
    let found = (0..SEEDS)
        .filter(|seed| live(*seed, |disk| disk.world().syncs_files = false, &mut Seen::default()).is_err())
        .count();
    assert!(found as u64 > SEEDS / 2, "found={found}");
}

#[test]
fn a_disk_that_only_pretends_to_sync_names_is_noticed() {
    let found = (0..SEEDS)
        .filter(|seed| live(*seed, |disk| disk.world().syncs_names = false, &mut Seen::default()).is_err())
        .count();
    assert!(found as u64 > SEEDS / 4, "found={found}");
}

#[test]
fn bit_rot_is_harmless_or_refused_or_costs_what_nothing_proves() {
    let (mut refused, mut harmless, mut cut) = (0, 0, 0);
    for seed in 0..SEEDS {
        let disk = live(seed, |_| {}, &mut Seen::default()).expect("no rot yet");
        let (wal, whole) = Wal::open_on(disk.clone(), identity(), SMALL).expect("open");
        let newest = wal.current.path.file_name().expect("a name").to_os_string();
        drop(wal);
        let (name, _) = disk.world().rot(".wal").expect("a segment");
        match Wal::open_on(disk, identity(), SMALL) {
            Err(StorageError::Log { .. }) => refused += 1,
            Err(error) => panic!("seed={seed}: {error}"),
            Ok((_, found)) => {
                let frames = |recovered: &Recovered| recovered.tail.expect("segments").next_frame;
                if frames(&found) == frames(&whole) {
                    assert_eq!(found.entries, whole.entries, "seed={seed}");
                    assert_eq!(found.hard_state, whole.hard_state, "seed={seed}");
                    harmless += 1;
                } else {
                    assert_eq!(*newest, *name, "seed={seed}");
                    // Frames that were never synced may go as well.
                    let (found, whole) = (found.tail.expect("one"), whole.tail.expect("one"));
                    assert!(found.offset >= whole.unproven_from, "seed={seed}");
                    cut += 1;
                }
            }
        }
    }
    assert!(refused > 0 && harmless > 0 && cut > 0, "refused={refused} harmless={harmless} cut={cut}");
}
