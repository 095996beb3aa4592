//! Tests of the room as a whole. Those of one file's functions stand in that file.

mod hash_script;
mod history;
mod index;
mod range;
mod threads;
mod twin;
mod twin_tests;
mod txn;
mod validate;
mod values;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::env::{Engine, Family, MemoryEngine, WriteBatch};
use crate::error::{Error, Failure};
use crate::event::EventBatch;
use crate::types::{KeyValue, LeaseId};

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: b(key), value: b(value), ..PutRequest::default() }
}

fn delete(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: b(key), range_end: b(range_end), prev_kv: false }
}

fn range(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest { key: b(key), range_end: b(range_end), ..RangeRequest::default() }
}

fn at(revision: i64, request: RangeRequest) -> RangeRequest {
    RangeRequest { revision, ..request }
}

fn keys(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| kv.key.escape_ascii().to_string()).collect()
}

fn values(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| kv.value.escape_ascii().to_string()).collect()
}

/// Leases 1 to 3 exist in tests.
fn lease_exists(id: LeaseId) -> bool {
    (1..=3).contains(&id.get())
}

/// What goes into the log in tests.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(i64),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Answer {
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact,
}

/// A store over an engine in memory that writes behind, crashes and compacts as a member would.
struct World {
    engine: Arc<MemoryEngine>,
    store: Store,
    options: Options,
    log: Vec<Step>,
    /// Row batches on their way to the engine, with the revision they bring it to.
    on_the_way: VecDeque<(WriteBatch, i64)>,
}

impl World {
    fn new(value_cache_bytes: usize) -> Self {
        let engine = Arc::new(MemoryEngine::new());
        let options = Options { value_cache_bytes };
        let store = Store::open(engine.clone(), 1, -1, options).unwrap();
        Self { engine, store, options, log: Vec::new(), on_the_way: VecDeque::new() }
    }

    fn apply(&mut self, step: Step) -> Result<(Answer, Option<EventBatch>), Error> {
        self.log.push(step.clone());
        self.execute(step, self.log.len() as u64)
    }

    fn execute(&mut self, step: Step, index: u64) -> Result<(Answer, Option<EventBatch>), Error> {
        let mut rows = WriteBatch::new();
        let result = match step {
            Step::Put(request) => {
                self.store.apply_put(request, &lease_exists, &mut rows).map(|(a, e)| (Answer::Put(a), e))
            }
            Step::Delete(request) => {
                self.store.apply_delete_range(request, &mut rows).map(|(a, e)| (Answer::Delete(a), e))
            }
            Step::Txn(request) => {
                self.store.apply_txn(&request, &lease_exists, &mut rows).map(|(a, e)| (Answer::Txn(a), e))
            }
            Step::Compact(revision) => {
                self.store.compact(revision).map(|()| (Answer::Compact, None)).map_err(Failure::Answer)
            }
        };
        let changed = result.as_ref().is_ok_and(|(_, events)| events.is_some());
        assert_eq!(changed, !rows.is_empty(), "rows are written exactly with a new revision");
        let mut position = index.to_le_bytes().to_vec();
        position.extend(self.store.revision().to_le_bytes());
        position.extend(self.store.compact_revision().to_le_bytes());
        rows.put(Family::Meta, b"position", &position);
        self.on_the_way.push_back((rows, self.store.revision()));
        result.map_err(|failure| match failure {
            Failure::Answer(error) => error,
            Failure::Fatal(fatal) => panic!("{fatal}"),
        })
    }

    fn put(&mut self, key: &str, value: &str) -> i64 {
        match self.apply(Step::Put(put(key, value))).unwrap() {
            (Answer::Put(response), Some(_)) => response.revision,
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, key: &str, range_end: &str) -> DeleteRangeResponse {
        match self.apply(Step::Delete(delete(key, range_end))).unwrap().0 {
            Answer::Delete(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, Error> {
        match self.apply(Step::Txn(request))?.0 {
            Answer::Txn(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    fn compact(&mut self, revision: i64) -> Result<(), Error> {
        self.apply(Step::Compact(revision)).map(|_| ())
    }

    fn read(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        match self.store.reader().range(request) {
            Ok(response) => Ok(response),
            Err(Failure::Answer(error)) => Err(error),
            Err(Failure::Fatal(fatal)) => panic!("{fatal}"),
        }
    }

    /// Lets some batches reach the engine.
    fn store_batches(&mut self, count: usize) {
        for _ in 0..count {
            let Some((rows, revision)) = self.on_the_way.pop_front() else { return };
            self.engine.write(&rows).unwrap();
            self.store.stored(revision);
        }
    }

    fn store_all(&mut self) {
        self.store_batches(usize::MAX);
    }

    /// Index of the last command in the engine, revision and compact revision.
    fn position(&self) -> (u64, i64, i64) {
        let Some(row) = self.engine.get(Family::Meta, b"position").unwrap() else { return (0, 1, -1) };
        let number = |at: usize| i64::from_le_bytes(row[at..at + 8].try_into().unwrap());
        (number(0) as u64, number(8), number(16))
    }

    /// One step of physical compaction; false when there is nothing to do.
    fn collect_garbage(&mut self, rows_max: usize) -> bool {
        let (_, _, recorded_compaction) = self.position();
        let state = gc::load(self.engine.as_ref()).unwrap();
        let stored = self.store.reader().stored_revision();
        let Some(state) = gc::plan(state, recorded_compaction, stored) else { return false };
        let step = gc::step(self.engine.as_ref(), state, rows_max).unwrap();
        self.engine.write(&step.batch).unwrap();
        true
    }

    fn collect_all_garbage(&mut self) {
        while self.collect_garbage(3) {}
    }

    /// Loses what was not flushed, starts again and replays the log from there.
    fn crash(&mut self) {
        self.engine.crash();
        self.on_the_way.clear();
        let (index, revision, compact_revision) = self.position();
        self.store = Store::open(self.engine.clone(), revision, compact_revision, self.options).unwrap();
        for at in index as usize..self.log.len() {
            let _ = self.execute(self.log[at].clone(), at as u64 + 1);
        }
    }

    /// What a store that starts on the rows as they are would have: everything but values.
    fn assert_rebuilds(&mut self) {
        self.store_all();
        let (_, revision, compact_revision) = self.position();
        let rebuilt = Store::open(self.engine.clone(), revision, compact_revision, self.options).unwrap();
        let (ours, theirs) = (self.store.shared.state.read(), rebuilt.shared.state.read());
        ours.tree.check();
        theirs.tree.check();
        ours.values.check(&ours.tree);
        let without_values = |state: &super::store::State| -> Vec<_> {
            state.tree.iter().map(|live| super::index::Live { value: None, ..live.clone() }).collect()
        };
        assert_eq!(without_values(&ours), without_values(&theirs));
    }

    fn rows(&self, family: Family) -> usize {
        let mut count = 0;
        self.engine
            .scan(family, &[], None, &mut |_, _| {
                count += 1;
                crate::env::ScanStep::Next
            })
            .unwrap();
        count
    }
}
