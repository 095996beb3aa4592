//! Readers on other threads beside the writer, storage and compaction.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::env::{EngineError, EngineUsage, ScanStep};

/// The writer changes all keys in each command, so every read must find them equal, at whatever
/// revision, although values leave memory and rows are removed all the time.
#[test]
fn readers_see_whole_commands_while_values_leave_memory_and_rows_are_removed() {
    const KEYS: usize = 300;
    let mut world = World::new(0);
    let stop = AtomicBool::new(false);
    let reader = world.store.reader();
    let ops = |value: usize| -> TxnRequest {
        let put = |n: usize| RequestOp::Put(put(&format!("{n:04}"), &format!("value {value}")));
        TxnRequest { success: (0..KEYS).map(put).collect(), ..TxnRequest::default() }
    };
    world.txn(ops(0)).unwrap();
    let read = || {
        let mut newest = 0;
        let mut reads = 0;
        while !stop.load(Ordering::Relaxed) || reads < 20 {
            let back = reads % 3;
            let revision = if back == 0 { 0 } else { (reader.revision() - back).max(2) };
            let response = match reader.range(&at(revision, range("\0", "\0"))) {
                Ok(response) => response,
                Err(Failure::Answer(Error::Compacted)) if revision > 0 => continue,
                Err(failure) => panic!("{failure}"),
            };
            assert_eq!((response.kvs.len(), response.count), (KEYS, KEYS as i64));
            let first = &response.kvs[0];
            for kv in &response.kvs {
                assert_eq!((&kv.value, kv.mod_revision), (&first.value, first.mod_revision));
            }
            let expected = if revision == 0 { response.revision } else { revision };
            assert_eq!(first.mod_revision, expected);
            assert_eq!(first.value, format!("value {}", expected - 2));
            assert!(response.revision >= newest, "a reader never goes back");
            newest = response.revision;
            reads += 1;
            // A few under the lock, and a transaction of several reads.
            let few = reader.range(&range("0000", "0010")).unwrap();
            assert!(few.kvs.iter().all(|kv| kv.value == few.kvs[0].value));
            let both = vec![RequestOp::Range(range("0000", "")), RequestOp::Range(range("0299", ""))];
            let both = reader.txn_read_only(&TxnRequest { success: both, ..TxnRequest::default() }).unwrap();
            let [ResponseOp::Range(one), ResponseOp::Range(other)] = both.responses.as_slice() else {
                panic!()
            };
            assert_eq!(one.kvs[0].value, other.kvs[0].value);
        }
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        for value in 1..120 {
            world.txn(ops(value)).unwrap();
            if value % 3 == 0 {
                world.store_all();
            }
            if value % 5 == 0 {
                let revision = world.store.revision();
                world.compact(revision - 1).unwrap();
                world.store_all();
                while world.collect_garbage(200) {}
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    world.assert_rebuilds();
}

type Hook = Box<dyn FnOnce() + Send>;

/// An engine that lets something happen just before the next read of a row.
#[derive(Default)]
struct Interrupted {
    rows: MemoryEngine,
    hook: Mutex<Option<Hook>>,
}

impl Engine for Interrupted {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let hook = self.hook.lock().take();
        if let Some(hook) = hook {
            hook();
        }
        self.rows.get(family, key)
    }
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanStep,
    ) -> Result<(), EngineError> {
        self.rows.scan(family, from, to, visit)
    }
    fn write(&self, batch: &WriteBatch) -> Result<(), EngineError> {
        self.rows.write(batch)
    }
    fn flush(&self) -> Result<(), EngineError> {
        self.rows.flush()
    }
    fn usage(&self) -> EngineUsage {
        self.rows.usage()
    }
}

/// Overwrites a key, compacts, and removes the rows of what was there.
fn overwrite(engine: &Interrupted, store: &Mutex<Store>, key: &str, value: &str) {
    let mut store = store.lock();
    let mut rows = WriteBatch::new();
    store.apply_put(put(key, value), &lease_exists, &mut rows).unwrap();
    engine.rows.write(&rows).unwrap();
    let revision = store.revision();
    store.stored(revision);
    store.compact(revision).unwrap();
    let mut next = gc::plan(gc::load(&engine.rows).unwrap(), revision, revision);
    while let Some(state) = next {
        let step = gc::step(&engine.rows, state, 10).unwrap();
        engine.rows.write(&step.batch).unwrap();
        next = step.next;
    }
}

fn interrupted() -> (Arc<Interrupted>, Arc<Mutex<Store>>, Reader) {
    let engine = Arc::new(Interrupted::default());
    let store = Store::open(engine.clone(), 1, -1, Options { value_cache_bytes: 0 }).unwrap();
    let reader = store.reader();
    let store = Arc::new(Mutex::new(store));
    overwrite(&engine, &store, "a", "old");
    (engine, store, reader)
}

impl Interrupted {
    fn before_next_get(self: &Arc<Self>, store: &Arc<Mutex<Store>>, value: &'static str) {
        let (engine, store) = (self.clone(), store.clone());
        *self.hook.lock() = Some(Box::new(move || overwrite(&engine, &store, "a", value)));
    }
}

#[test]
fn a_read_whose_row_is_removed_under_it_answers_with_the_newer_state() {
    let (engine, store, reader) = interrupted();
    assert_eq!(values(&reader.range(&range("a", "")).unwrap().kvs), ["old"]);
    engine.before_next_get(&store, "new");
    let response = reader.range(&range("a", "")).unwrap();
    assert_eq!((response.revision, values(&response.kvs)), (3, vec!["new".into()]));

    engine.before_next_get(&store, "newer");
    let txn = TxnRequest { success: vec![RequestOp::Range(range("a", ""))], ..TxnRequest::default() };
    let response = reader.txn_read_only(&txn).unwrap();
    let ResponseOp::Range(inner) = &response.responses[0] else { panic!() };
    assert_eq!((response.revision, values(&inner.kvs)), (4, vec!["newer".into()]));
}

#[test]
fn a_read_that_names_the_current_revision_does_not_answer_with_a_newer_one() {
    let (engine, store, reader) = interrupted();
    engine.before_next_get(&store, "new");
    assert_eq!(reader.range(&at(2, range("a", ""))), Err(Error::Compacted.into()));
}

#[test]
fn a_read_of_the_past_never_shows_what_is_left_after_compaction() {
    let (engine, store, reader) = interrupted();
    // Revision 2 is readable beside 3, until the read of its row is interrupted.
    let mut rows = WriteBatch::new();
    store.lock().apply_put(put("b", ""), &lease_exists, &mut rows).unwrap();
    engine.rows.write(&rows).unwrap();
    store.lock().stored(3);
    assert_eq!(values(&reader.range(&at(2, range("a", ""))).unwrap().kvs), ["old"]);
    engine.before_next_get(&store, "new");
    assert_eq!(reader.range(&at(2, range("a", ""))), Err(Error::Compacted.into()));
}
