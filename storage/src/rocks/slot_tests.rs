use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;

use super::tests::{open, put};
use super::*;

const ROWS_MAX: usize = 40;
const READERS: usize = 3;

/// What happens to the current engine. All rows of a generation have the generation's number as
/// their value, and each generation has as many rows as it says.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// The current engine gets the next generation, in one batch.
    Rewrite(usize),
    /// Another engine, which holds the next generation, takes its place.
    Swap(usize),
}

impl Change {
    fn rows(self) -> usize {
        match self {
            Self::Rewrite(rows) | Self::Swap(rows) => rows,
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let rows = 1..ROWS_MAX;
    prop_oneof![rows.clone().prop_map(Change::Rewrite), rows.prop_map(Change::Swap)]
}

fn generation(number: usize, rows: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for family in Family::ALL {
        for row in 0..ROWS_MAX {
            if row < rows {
                batch.put(family, &row.to_be_bytes(), &number.to_be_bytes());
            } else {
                batch.delete(family, &row.to_be_bytes());
            }
        }
    }
    batch
}

/// The generation of all rows and their number; a mixture is a panic.
fn scan(slot: &EngineSlot, family: Family) -> (usize, usize) {
    let mut found = None;
    let mut count = 0;
    let mut visit = |_: &[u8], value: &[u8]| {
        let number = usize::from_be_bytes(value.try_into().expect("eight bytes"));
        assert_eq!(*found.get_or_insert(number), number, "rows of two engines in one scan");
        count += 1;
        // Others get their turn in the middle.
        std::thread::yield_now();
        ScanStep::Next
    };
    slot.scan(family, &[], None, &mut visit).expect("scan");
    (found.expect("every generation has rows"), count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn no_scan_sees_rows_of_two_engines(changes in proptest::collection::vec(change(), 1..12)) {
        let dir = tempfile::tempdir().expect("temp dir");
        let engine = |number: usize, rows| {
            let engine = open(&dir.path().join(number.to_string()));
            engine.write(&generation(number, rows)).expect("write");
            Arc::new(engine)
        };
        let slot = EngineSlot::new(engine(0, 1));
        let rows: Vec<usize> = std::iter::once(1).chain(changes.iter().map(|change| change.rows())).collect();
        let (done, scans) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; READERS]);
        let mut replaced = Vec::new();
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|reader| {
                let (slot, rows, done, scans) = (&slot, &rows, &done, &scans);
                scope.spawn(move || {
                    let mut newest = 0;
                    while !done.load(Ordering::Acquire) {
                        let family = Family::ALL[scans[reader].load(Ordering::Relaxed) % Family::ALL.len()];
                        let (number, count) = scan(slot, family);
                        assert_eq!(count, rows[number], "generation={number}");
                        assert!(number >= newest, "a later scan sees an older engine");
                        newest = number;
                        scans[reader].fetch_add(1, Ordering::Release);
                    }
                })
            }).collect();
            for (number, change) in changes.iter().enumerate().map(|(at, change)| (at + 1, change)) {
                match *change {
                    Change::Rewrite(rows) => slot.write(&generation(number, rows)).expect("write"),
                    Change::Swap(rows) => replaced.push(slot.swap(engine(number, rows))),
                }
                // So that readers are in the middle of something at every change.
                let seen: Vec<usize> = scans.iter().map(|scans| scans.load(Ordering::Acquire)).collect();
                for (reader, handle) in readers.iter().enumerate() {
                    while scans[reader].load(Ordering::Acquire) == seen[reader] && !handle.is_finished() {
                        std::thread::yield_now();
                    }
                }
            }
            done.store(true, Ordering::Release);
        });
        for old in replaced {
            prop_assert!(Arc::into_inner(old).is_some(), "nobody uses a replaced engine any more");
        }
        prop_assert_eq!(scan(&slot, Family::Rev), (changes.len(), rows[changes.len()]));
    }
}

#[test]
fn a_call_that_began_before_a_swap_ends_on_the_old_engine() {
    let dir = tempfile::tempdir().expect("temp dir");
    let [old, new] = ["old", "new"].map(|name| {
        let engine = open(&dir.path().join(name));
        for row in 0u8..10 {
            put(&engine, Family::Sys, &[row], name.as_bytes());
        }
        Arc::new(engine)
    });
    let slot = EngineSlot::new(old);
    let mut replaced = None;
    let mut seen = Vec::new();
    let mut visit = |_: &[u8], value: &[u8]| {
        seen.push(value.to_vec());
        if seen.len() == 3 {
            replaced = Some(slot.swap(Arc::clone(&new)));
        }
        ScanStep::Next
    };
    slot.scan(Family::Sys, &[], None, &mut visit).expect("scan");
    assert_eq!(seen, vec![b"old".to_vec(); 10]);
    assert_eq!(slot.get(Family::Sys, &[0]).expect("get").expect("there"), "new");
    assert!(Arc::into_inner(replaced.expect("swapped")).is_some(), "the scan has let go of it");
}
