use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use folkmoot_core::env::{Engine, ScanStep};
use folkmoot_core::raft::ConfState;
use folkmoot_core::types::{MemberId, Term};

use super::*;
use crate::{DataDir, DirIdentity, EngineSlot, OpenOptions};

pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);

pub(crate) fn applied(index: u64) -> Applied {
    Applied {
        index: LogIndex(index),
        term: Term(3),
        revision: 9,
        compact_revision: -1,
        chain_hash: 7,
        cluster_id: CLUSTER,
        conf_state: ConfState { voters: vec![MemberId(1)], learners: vec![] },
    }
}

/// A batch that reaches all families and says so in each.
pub(crate) fn write_entry(engine: &dyn Engine, index: u64) {
    let mut batch = WriteBatch::new();
    for family in [Family::Rev, Family::Idx, Family::Lease, Family::Sys] {
        batch.put(family, &index.to_be_bytes(), &[index as u8; 300]);
    }
    applied(index).write(&mut batch);
    engine.write(&batch).expect("write");
}

/// With room for all rows of a test in memory, so that a snapshot has one table for each family.
fn open(dir: &Path) -> RocksEngine {
    RocksEngine::open(dir, RocksOptions { write_buffer_bytes: 16 << 20, ..SMALL }).expect("open")
}

fn count(engine: &dyn Engine, family: Family) -> u64 {
    let mut count = 0;
    let mut visit = |_: &[u8], _: &[u8]| {
        count += 1;
        ScanStep::Next
    };
    engine.scan(family, &[], None, &mut visit).expect("scan");
    count
}

fn files_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("dir").map(|entry| entry.expect("entry"));
    entries
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("read"))
        })
        .collect()
}

/// What the receiver has when all files have arrived.
fn receive(snapshot: &SnapshotFiles, dir: &Path) {
    fs::create_dir(dir).expect("new");
    for SnapshotFile { name, bytes } in &snapshot.files {
        let copied = fs::copy(snapshot.dir.join(name), dir.join(name)).expect("copy");
        assert_eq!(copied, *bytes);
    }
}

fn refusal(dir: &Path) -> StorageError {
    let before = files_of(dir);
    let error = verify(dir, CLUSTER).expect_err("must be refused");
    assert_eq!(files_of(dir), before, "nothing is changed");
    error
}

/// A snapshot with tables of some size.
fn some_snapshot(dir: &Path) -> SnapshotFiles {
    let engine = open(&dir.join("sender"));
    for index in 1..=200 {
        write_entry(&engine, index);
    }
    make(&engine, &dir.join("made")).expect("make")
}

#[test]
fn a_snapshot_travels_and_becomes_the_engine() {
    let dir = tempfile::tempdir().expect("temp dir");
    let snapshot = some_snapshot(dir.path());
    assert_eq!(snapshot.applied, applied(200));
    assert_eq!(snapshot.total_bytes, snapshot.files.iter().map(|file| file.bytes).sum::<u64>());
    assert!(snapshot.total_bytes > 0);

    let identity = DirIdentity { cluster_id: CLUSTER, member_id: MemberId(2) };
    let create = OpenOptions { create: Some(identity), ..OpenOptions::default() };
    let data = DataDir::open(&dir.path().join("data"), create).expect("create");
    let slot = EngineSlot::new(Arc::new(open(&data.db_dir())));
    write_entry(&slot, 7);

    let staged = data.snap_dir().join("1");
    receive(&snapshot, &staged);
    let arrived = files_of(&staged);
    assert_eq!(verify(&staged, CLUSTER).expect("good"), applied(200));
    assert_eq!(files_of(&staged), arrived, "verifying changes nothing");
    mark_installed(&staged, LogIndex(200)).expect("mark");
    let installed = data.install_engine(&staged).expect("install");
    assert_eq!(installed, data.db_dir());
    let old = slot.swap(Arc::new(open(&installed)));
    assert_eq!(count(&slot, Family::Rev), 200);
    drop(Arc::into_inner(old).expect("nobody else has it"));
    data.remove_old_engines().expect("remove");
    assert!(!data.path().join("db").exists());

    drop((slot, data));
    let data = DataDir::open(&dir.path().join("data"), create).expect("open");
    assert!(!data.is_new());
    assert_eq!(data.db_dir(), installed);
    let engine = open(&data.db_dir());
    assert_eq!(Applied::load(&engine).expect("reads"), Some(applied(200)));
    let mark = engine.get(Family::Meta, INSTALLED_KEY).expect("get").expect("there");
    assert_eq!(mark, 200u64.to_le_bytes().as_slice());
}

#[test]
fn a_snapshot_has_files_that_every_member_accepts_and_needs_nothing_else() {
    let dir = tempfile::tempdir().expect("temp dir");
    let snapshot = some_snapshot(dir.path());
    assert!(snapshot.files.iter().all(|file| is_file_name(&file.name)), "{:?}", snapshot.files);
    assert_eq!(files_of(&snapshot.dir).len(), snapshot.files.len());
    for name in
        ["", "LOCK", "../CURRENT", "1.sst/..", ".sst", "a.sst", "MANIFEST-", "MANIFEST-1.sst", "1.sst "]
    {
        assert!(!is_file_name(name), "{name:?}");
    }
}

#[test]
fn snapshots_made_while_rows_are_written_hold_a_prefix_of_them() {
    let dir = tempfile::tempdir().expect("temp dir");
    // Little memory, so that RocksDB flushes and compacts meanwhile.
    let engine = RocksEngine::open(&dir.path().join("sender"), SMALL).expect("open");
    write_entry(&engine, 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 2..5000 {
                if done.load(Ordering::Acquire) {
                    break;
                }
                write_entry(&engine, index);
            }
        });
        let mut last = 0;
        for number in 0..5 {
            let made = make(&engine, &dir.path().join(number.to_string())).expect("make");
            let copy = RocksEngine::open_read_only(&made.dir, SMALL).expect("open");
            let index = made.applied.index.0;
            assert!(index > last, "everything written before is in it");
            last = index;
            for family in [Family::Rev, Family::Idx, Family::Lease, Family::Sys] {
                assert_eq!(count(&copy, family), index, "{family:?}");
            }
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn a_snapshot_stays_as_it_is_while_the_engine_goes_on() {
    let dir = tempfile::tempdir().expect("temp dir");
    let engine = open(&dir.path().join("sender"));
    for index in 1..=100 {
        write_entry(&engine, index);
    }
    let snapshot = make(&engine, &dir.path().join("made")).expect("make");
    let before = files_of(&snapshot.dir);
    for index in 101..=300 {
        write_entry(&engine, index);
    }
    engine.compact_all().expect("compact");
    drop(engine);
    fs::remove_dir_all(dir.path().join("sender")).expect("remove");
    assert_eq!(files_of(&snapshot.dir), before);
    assert_eq!(verify(&snapshot.dir, CLUSTER).expect("good"), applied(100));
}

#[test]
fn a_snapshot_never_replaces_a_directory() {
    let dir = tempfile::tempdir().expect("temp dir");
    let engine = open(&dir.path().join("sender"));
    write_entry(&engine, 1);
    fs::create_dir(dir.path().join("made")).expect("dir");
    fs::write(dir.path().join("made").join("precious"), b"x").expect("write");
    make(&engine, &dir.path().join("made")).expect_err("there is something");
    assert!(dir.path().join("made").join("precious").exists());
}

#[test]
fn an_engine_without_an_applied_position_makes_no_snapshot() {
    let dir = tempfile::tempdir().expect("temp dir");
    let engine = open(&dir.path().join("sender"));
    let error = make(&engine, &dir.path().join("made")).expect_err("nothing to send");
    assert!(error.to_string().contains("no applied position"), "{error}");
    assert!(!dir.path().join("made").exists());
}

#[test]
fn the_snapshot_of_another_cluster_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let snapshot = some_snapshot(dir.path());
    let before = files_of(&snapshot.dir);
    let error = verify(&snapshot.dir, ClusterId(0xd2)).expect_err("foreign");
    assert!(matches!(error, StorageError::SnapshotForeign { found: CLUSTER, .. }), "{error}");
    assert_eq!(files_of(&snapshot.dir), before);
}

#[test]
fn rows_of_a_newer_version_are_refused_and_named_as_such() {
    let dir = tempfile::tempdir().expect("temp dir");
    let engine = open(&dir.path().join("sender"));
    let mut batch = WriteBatch::new();
    batch.put(Family::Meta, b"applied", &[99; 80]);
    engine.write(&batch).expect("write");
    engine.checkpoint(&dir.path().join("made")).expect("checkpoint");
    let error = refusal(&dir.path().join("made")).to_string();
    assert!(error.contains("schema=99"), "{error}");
}

#[test]
fn a_snapshot_without_one_of_its_files_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let snapshot = some_snapshot(dir.path());
    let needed = |name: &str| !name.starts_with("OPTIONS") && !name.ends_with(".log");
    for missing in snapshot.files.iter().filter(|file| needed(&file.name)) {
        let copy = dir.path().join(format!("without-{}", missing.name));
        receive(&snapshot, &copy);
        fs::remove_file(copy.join(&missing.name)).expect("remove");
        let error = refusal(&copy);
        assert!(matches!(error, StorageError::SnapshotDamaged { .. }), "{}: {error}", missing.name);
    }
}

#[test]
fn a_cut_or_damaged_table_is_refused_wherever_the_damage_is() {
    let dir = tempfile::tempdir().expect("temp dir");
    let snapshot = some_snapshot(dir.path());
    let copy = dir.path().join("received");
    receive(&snapshot, &copy);
    let tables = snapshot.files.iter().filter(|file| file.name.ends_with(".sst"));
    let mut checked = 0;
    for table in tables {
        let path = copy.join(&table.name);
        let whole = fs::read(&path).expect("read");
        // Tables of a page and more are damaged at places of all kinds: rows, index, footer.
        let step = (whole.len() / 5).max(1);
        for at in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            fs::write(&path, &bytes).expect("write");
            // Some bytes carry nothing that is read: then the rows must be unharmed.
            if verify(&copy, CLUSTER).is_ok() {
                let engine = RocksEngine::open_read_only(&copy, SMALL).expect("open");
                assert_eq!(count(&engine, Family::Rev), 200, "{} at={at}", table.name);
            } else {
                checked += 1;
            }
        }
        fs::write(&path, &whole[..whole.len() - 1]).expect("write");
        let error = refusal(&copy);
        assert!(matches!(error, StorageError::SnapshotDamaged { .. }), "{error}");
        fs::write(&path, &whole).expect("write");
    }
    assert!(checked > 10, "damage is noticed nearly everywhere: {checked}");
    verify(&copy, CLUSTER).expect("whole again");
}

#[test]
fn an_empty_directory_is_no_snapshot_and_becomes_none() {
    let dir = tempfile::tempdir().expect("temp dir");
    assert!(matches!(refusal(dir.path()), StorageError::SnapshotDamaged { .. }));
    mark_installed(dir.path(), LogIndex(1)).expect_err("nothing to mark");
    assert!(files_of(dir.path()).is_empty());
}
