use std::collections::BTreeMap;
use std::fs;

use folkmoot_core::env::MemoryEngine;
use proptest::prelude::*;

use super::*;

/// Small bounds, so that flushes happen.
fn small() -> RocksOptions {
    RocksOptions {
        write_buffer_bytes: 1 << 20,
        block_cache_bytes: 1 << 20,
        open_files_max: 64,
        background_jobs: 2,
    }
}

pub(super) fn open(path: &Path) -> RocksEngine {
    RocksEngine::open(path, small()).expect("open")
}

pub(super) fn put(engine: &dyn Engine, family: Family, key: &[u8], value: &[u8]) {
    let mut batch = WriteBatch::new();
    batch.put(family, key, value);
    engine.write(&batch).expect("write");
}

fn all_rows(engine: &dyn Engine) -> BTreeMap<(Family, Vec<u8>), Vec<u8>> {
    let mut rows = BTreeMap::new();
    for family in Family::ALL {
        let mut visit = |key: &[u8], value: &[u8]| {
            rows.insert((family, key.to_vec()), value.to_vec());
            ScanStep::Next
        };
        engine.scan(family, &[], None, &mut visit).expect("scan");
    }
    rows
}

/// Waits until no flush or compaction runs or is due, so that files stand still.
fn wait_until_quiet(engine: &RocksEngine) {
    let busy = [
        "rocksdb.mem-table-flush-pending",
        "rocksdb.num-running-flushes",
        "rocksdb.compaction-pending",
        "rocksdb.num-running-compactions",
    ];
    while busy.iter().any(|name| engine.property(name) > 0) {
        std::thread::yield_now();
    }
}

/// What a killed process would leave behind.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).expect("new");
    for entry in fs::read_dir(from).expect("dir") {
        let entry = entry.expect("entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copy");
    }
}

#[test]
fn a_killed_engine_comes_back_with_at_least_what_was_flushed_and_nothing_half() {
    let dir = tempfile::tempdir().expect("temp dir");
    let engine = open(&dir.path().join("db"));
    for round in 0u64..20 {
        let mut batch = WriteBatch::new();
        // A batch that reaches all families; large rows in one of them force flushes.
        for family in Family::ALL {
            let value = vec![round as u8; if family == Family::Rev { 100_000 } else { 8 }];
            batch.put(family, &round.to_be_bytes(), &value);
        }
        engine.write(&batch).expect("write");
        if round == 9 {
            engine.flush().expect("flush");
        }
        if round >= 9 {
            wait_until_quiet(&engine);
            let copy = dir.path().join(format!("killed-{round}"));
            copy_dir(&dir.path().join("db"), &copy);
            let rows = all_rows(&open(&copy));
            let count = rows.len() / Family::ALL.len();
            assert!(count >= 10, "flushed rows are there: count={count}");
            let whole: Vec<_> = Family::ALL
                .into_iter()
                .flat_map(|family| (0..count as u64).map(move |n| (family, n.to_be_bytes().to_vec())))
                .collect();
            assert_eq!(rows.into_keys().collect::<Vec<_>>(), whole, "round={round}");
        }
    }
}

#[test]
fn a_checkpoint_has_everything_written_before_it_and_nothing_after() {
    let dir = tempfile::tempdir().expect("temp dir");
    let engine = open(&dir.path().join("db"));
    put(&engine, Family::Rev, b"a", b"1");
    put(&engine, Family::Meta, b"applied", b"1");
    engine.checkpoint(&dir.path().join("copy")).expect("checkpoint");
    put(&engine, Family::Rev, b"b", b"2");
    let rows = all_rows(&open(&dir.path().join("copy")));
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[&(Family::Rev, b"a".to_vec())], b"1");
}

#[test]
fn a_view_does_not_see_later_writes() {
    let dir = tempfile::tempdir().expect("temp dir");
    let engine = open(dir.path());
    put(&engine, Family::Sys, b"a", b"old");
    let view = engine.view();
    put(&engine, Family::Sys, b"a", b"new");
    put(&engine, Family::Sys, b"b", b"new");
    assert_eq!(view.get(Family::Sys, b"a").expect("get").expect("there"), "old");
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        seen.push(key.to_vec());
        ScanStep::Next
    };
    view.visit_rows(Family::Sys, &mut visit).expect("scan");
    assert_eq!(seen, [b"a"]);
}

#[test]
fn compacting_gives_back_the_space_of_removed_rows() {
    let dir = tempfile::tempdir().expect("temp dir");
    let engine = open(dir.path());
    assert!(engine.usage().total_bytes > 0, "an empty database takes space");
    for row in 0u32..2000 {
        // Not compressible.
        let noise = |at: u32| ((at * 31 + row).wrapping_mul(2_654_435_761) >> 24) as u8;
        let value: Vec<u8> = (0..1000).map(noise).collect();
        put(&engine, Family::Rev, &row.to_be_bytes(), &value);
    }
    engine.flush().expect("flush");
    let full = engine.usage();
    for row in 0u32..2000 {
        let mut batch = WriteBatch::new();
        batch.delete(Family::Rev, &row.to_be_bytes());
        engine.write(&batch).expect("write");
    }
    engine.compact_all().expect("compact");
    let empty = engine.usage();
    assert!(full.total_bytes > 1_500_000, "{full:?}");
    assert!(empty.total_bytes < full.total_bytes / 2, "{empty:?} {full:?}");
    assert!(empty.live_bytes <= empty.total_bytes);
}

#[test]
fn a_second_engine_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let _engine = open(dir.path());
    let error = RocksEngine::open(dir.path(), small()).err().expect("locked");
    assert!(matches!(error, StorageError::Engine { .. }), "{error}");
}

#[test]
fn a_damaged_table_is_reported_as_damage_or_read_error() {
    let dir = tempfile::tempdir().expect("temp dir");
    let engine = open(dir.path());
    for row in 0u32..1000 {
        put(&engine, Family::Rev, &row.to_be_bytes(), &[7; 500]);
    }
    engine.flush().expect("flush");
    drop(engine);
    for entry in fs::read_dir(dir.path()).expect("dir") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = fs::read(&path).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            fs::write(&path, bytes).expect("write");
        }
    }
    let scanned = RocksEngine::open(dir.path(), small()).map(|engine| {
        engine.scan(Family::Rev, &[], None, &mut |_, _| ScanStep::Next).map_err(|error| error.0)
    });
    match scanned {
        Err(StorageError::EngineDamaged { .. }) => {}
        Ok(Err(reason)) => assert!(reason.contains("Corruption"), "{reason}"),
        other => panic!("damage was not noticed: {other:?}"),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(u8, Vec<u8>, Option<u8>)>),
    Get(u8, Vec<u8>),
    /// From, to, and what to do at each row: 0 next, 1 seek ahead, 2 stop.
    Scan(u8, Vec<u8>, Option<Vec<u8>>, Vec<u8>),
    Flush,
    Compact,
    FlushAndReopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few and short, with the edges of the byte range, so that keys meet.
    let byte = prop_oneof![Just(0u8), Just(1), Just(97), Just(98), Just(255)];
    proptest::collection::vec(byte, 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0u8..5, key(), proptest::option::weighted(0.7, any::<u8>()));
    prop_oneof![
        6 => proptest::collection::vec(change, 0..8).prop_map(Step::Write),
        3 => (0u8..5, key()).prop_map(|(family, key)| Step::Get(family, key)),
        6 => (0u8..5, key(), proptest::option::of(key()), proptest::collection::vec(0u8..3, 0..5))
            .prop_map(|(family, from, to, plan)| Step::Scan(family, from, to, plan)),
        1 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::FlushAndReopen),
    ]
}

type Visited = Vec<(Vec<u8>, Vec<u8>)>;

fn scan(engine: &dyn Engine, family: Family, from: &[u8], to: Option<&[u8]>, plan: &[u8]) -> Visited {
    let mut visited = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        let next = match plan.get(visited.len()) {
            Some(1) => ScanStep::Seek([key, &[97]].concat()),
            Some(2) => ScanStep::Stop,
            _ => ScanStep::Next,
        };
        visited.push((key.to_vec(), value.to_vec()));
        next
    };
    engine.scan(family, from, to, &mut visit).expect("scan");
    visited
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn both_engines_answer_alike(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().expect("temp dir");
        let memory = MemoryEngine::new();
        let mut rocks = Some(open(dir.path()));
        let family = |number| Family::from_number(number).expect("below five");
        for step in steps {
            let engine = rocks.as_ref().expect("open");
            match step {
                Step::Write(changes) => {
                    let mut batch = WriteBatch::new();
                    for (number, key, value) in &changes {
                        match value {
                            Some(value) => batch.put(family(*number), key, &[*value; 3]),
                            None => batch.delete(family(*number), key),
                        }
                    }
                    memory.write(&batch).expect("write");
                    engine.write(&batch).expect("write");
                }
                Step::Get(number, key) => {
                    prop_assert_eq!(memory.get(family(number), &key), engine.get(family(number), &key));
                }
                Step::Scan(number, from, to, plan) => {
                    prop_assert_eq!(
                        scan(&memory, family(number), &from, to.as_deref(), &plan),
                        scan(engine, family(number), &from, to.as_deref(), &plan)
                    );
                }
                Step::Flush => engine.flush().expect("flush"),
                Step::Compact => engine.compact_all().expect("compact"),
                Step::FlushAndReopen => {
                    engine.flush().expect("flush");
                    drop(rocks.take());
                    rocks = Some(open(dir.path()));
                }
            }
            prop_assert!(rocks.as_ref().expect("open").usage().total_bytes > 0);
        }
        prop_assert_eq!(all_rows(&memory), all_rows(rocks.as_ref().expect("open")));
    }
}
