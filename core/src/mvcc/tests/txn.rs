//! Commands that change keys: puts, deletions and transactions in the odd cases.

use super::*;
use crate::event::EventKind;
use crate::limits::TXN_DEPTH_MAX;
use crate::mvcc::request::{compare_result, compare_target};

fn then(ops: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success: ops, ..TxnRequest::default() }
}

fn put_op(key: &str, value: &str) -> RequestOp {
    RequestOp::Put(put(key, value))
}

fn delete_op(key: &str, end: &str) -> RequestOp {
    RequestOp::DeleteRange(delete(key, end))
}

fn range_op(request: RangeRequest) -> RequestOp {
    RequestOp::Range(request)
}

fn compare(target: i32, result: i32, key: &str, operand: CompareOperand) -> Compare {
    Compare { result, target, key: b(key), range_end: Bytes::new(), operand }
}

impl World {
    fn holds(&mut self, compare: Compare) -> bool {
        let before = self.store.revision();
        let response = self.txn(TxnRequest { compare: vec![compare], ..TxnRequest::default() }).unwrap();
        assert_eq!(response.revision, before, "a transaction of conditions makes no revision");
        response.succeeded
    }
}

#[test]
fn a_deleted_key_starts_again_at_version_one() {
    let mut world = World::new(0);
    world.put("a", "1");
    world.put("a", "2");
    let kv = world.read(&range("a", "")).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    assert_eq!(world.delete("a", "").deleted, 1);
    world.put("a", "3");
    let kv = world.read(&range("a", "")).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[test]
fn the_same_value_again_is_a_new_revision_and_an_event() {
    let mut world = World::new(0);
    world.put("a", "1");
    let (_, events) = world.apply(Step::Put(put("a", "1"))).unwrap();
    let events = events.unwrap();
    assert_eq!((events.revision, events.events.len()), (3, 1));
    assert_eq!(events.events[0].prev.as_ref().unwrap().version, 1);
}

#[test]
fn a_deletion_of_nothing_makes_no_revision_and_no_event() {
    let mut world = World::new(0);
    world.put("a", "1");
    let (answer, events) = world.apply(Step::Delete(delete("b", "\0"))).unwrap();
    assert_eq!(answer, Answer::Delete(DeleteRangeResponse { revision: 2, ..Default::default() }));
    assert_eq!(events, None);
}

#[test]
fn a_deletion_removes_keys_in_order_under_one_revision() {
    let mut world = World::new(0);
    for key in ["c", "a", "b"] {
        world.put(key, key);
    }
    let request = DeleteRangeRequest { prev_kv: true, ..delete("a", "z") };
    let (answer, events) = world.apply(Step::Delete(request)).unwrap();
    let Answer::Delete(answer) = answer else { panic!("{answer:?}") };
    assert_eq!((answer.revision, answer.deleted), (5, 3));
    assert_eq!(values(&answer.prev_kvs), ["a", "b", "c"]);
    let events = events.unwrap().events;
    let told: Vec<_> = events.iter().map(|event| (event.kind, event.sub, event.kv.key.clone())).collect();
    let deleted = EventKind::Delete;
    assert_eq!(told, [(deleted, 0, b("a")), (deleted, 1, b("b")), (deleted, 2, b("c"))]);
    let bare = KeyValue { key: b("a"), mod_revision: 5, ..KeyValue::default() };
    assert_eq!(events[0].kv, bare, "a deletion carries its key and revision alone");
}

#[test]
fn a_put_without_a_lease_detaches_the_key() {
    let mut world = World::new(0);
    world.apply(Step::Put(PutRequest { lease: 2, ..put("a", "1") })).unwrap();
    let (_, events) = world.apply(Step::Put(put("a", "2"))).unwrap();
    let event = &events.unwrap().events[0];
    assert_eq!((event.kv.lease, event.prev.as_ref().unwrap().lease), (None, LeaseId::from_wire(2)));
    assert_eq!(world.read(&range("a", "")).unwrap().kvs[0].lease, None);
}

#[test]
fn a_put_can_keep_value_or_lease_of_a_key_that_exists() {
    let mut world = World::new(0);
    world.apply(Step::Put(PutRequest { lease: 2, ..put("a", "1") })).unwrap();
    world.store_all();
    let request = PutRequest { ignore_value: true, prev_kv: true, ..put("a", "") };
    let Answer::Put(answer) = world.apply(Step::Put(request)).unwrap().0 else { panic!() };
    assert_eq!(answer.prev_kv.unwrap().lease, LeaseId::from_wire(2));
    let kv = world.read(&range("a", "")).unwrap().kvs.remove(0);
    assert_eq!((kv.value, kv.lease, kv.version), (b("1"), None, 2));
    world.apply(Step::Put(PutRequest { lease: 3, ..put("a", "2") })).unwrap();
    world.apply(Step::Put(PutRequest { ignore_lease: true, ..put("a", "3") })).unwrap();
    let kv = world.read(&range("a", "")).unwrap().kvs.remove(0);
    assert_eq!((kv.value, kv.lease), (b("3"), LeaseId::from_wire(3)));
    let absent = PutRequest { ignore_value: true, ..put("x", "") };
    assert_eq!(world.apply(Step::Put(absent)).unwrap_err(), Error::KeyNotFound);
    let absent = PutRequest { ignore_lease: true, ..put("x", "") };
    assert_eq!(world.apply(Step::Put(absent)).unwrap_err(), Error::KeyNotFound);
}

#[test]
fn the_lease_is_looked_up_before_the_key() {
    let mut world = World::new(0);
    let request = PutRequest { lease: 9, ignore_value: true, ..put("x", "") };
    assert_eq!(world.apply(Step::Put(request)).unwrap_err(), Error::LeaseNotFound);
}

#[test]
fn an_absent_key_compares_as_zero_and_its_value_never_compares() {
    let mut world = World::new(0);
    world.put("a", "1");
    let (equal, unequal) = (compare_result::EQUAL, compare_result::NOT_EQUAL);
    for target in
        [compare_target::VERSION, compare_target::CREATE, compare_target::MOD, compare_target::LEASE]
    {
        assert!(world.holds(compare(target, equal, "x", CompareOperand::Unset)), "{target}");
        assert!(!world.holds(compare(target, unequal, "x", CompareOperand::Unset)), "{target}");
    }
    for result in 0..4 {
        let value = CompareOperand::Value(b("1"));
        assert!(!world.holds(compare(compare_target::VALUE, result, "x", value)), "{result}");
    }
}

#[test]
fn a_condition_on_an_interval_must_hold_for_every_key_and_an_empty_one_is_an_absent_key() {
    let mut world = World::new(0);
    world.put("a", "1");
    world.put("b", "1");
    world.put("b", "1");
    let version = |result, operand| Compare {
        range_end: b("\0"),
        ..compare(compare_target::VERSION, result, "a", CompareOperand::Version(operand))
    };
    assert!(world.holds(version(compare_result::GREATER, 0)));
    assert!(!world.holds(version(compare_result::GREATER, 1)));
    let nothing = |result| Compare { key: b("x"), ..version(result, 0) };
    assert!(world.holds(nothing(compare_result::EQUAL)));
    assert!(!world.holds(nothing(compare_result::GREATER)));
}

#[test]
fn numbers_that_do_not_exist_compare_as_etcd_does() {
    let mut world = World::new(0);
    world.put("a", "1");
    assert!(world.holds(compare(compare_target::VERSION, 17, "a", CompareOperand::Version(9))));
    assert!(world.holds(compare(17, compare_result::EQUAL, "a", CompareOperand::Version(9))));
    assert!(!world.holds(compare(17, compare_result::LESS, "a", CompareOperand::Version(9))));
    // An operand of another kind counts as zero.
    assert!(world.holds(compare(
        compare_target::VERSION,
        compare_result::GREATER,
        "a",
        CompareOperand::Lease(9)
    )));
    let empty = compare(compare_target::VALUE, compare_result::GREATER, "a", CompareOperand::Version(9));
    assert!(world.holds(empty));
}

#[test]
fn a_range_after_a_put_in_a_txn_sees_it_and_says_the_new_revision() {
    let mut world = World::new(0);
    world.put("a", "1");
    let ops = vec![
        range_op(range("a", "")),
        put_op("a", "2"),
        range_op(range("a", "")),
        range_op(at(2, range("a", ""))),
    ];
    let response = world.txn(then(ops)).unwrap();
    assert_eq!((response.revision, response.succeeded), (3, true));
    let told: Vec<_> = response
        .responses
        .iter()
        .map(|response| match response {
            ResponseOp::Range(range) => (range.revision, values(&range.kvs).concat()),
            ResponseOp::Put(put) => (put.revision, "put".into()),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [(2, "1"), (3, "put"), (3, "2"), (3, "1")];
    assert_eq!(told, expected.map(|(revision, value)| (revision, value.to_string())));
}

#[test]
fn the_revision_a_txn_will_make_is_still_in_the_future() {
    let mut world = World::new(0);
    let ops = vec![put_op("a", "1"), range_op(at(2, range("a", "")))];
    assert_eq!(world.txn(then(ops)), Err(Error::FutureRev));
    assert_eq!(world.store.revision(), 1, "a refused transaction changes nothing");
    assert_eq!(world.store.key_count(), 0);
}

#[test]
fn a_negative_revision_inside_a_txn_is_compacted() {
    let mut world = World::new(0);
    world.put("a", "1");
    let txn = |revision| then(vec![range_op(at(revision, range("a", "")))]);
    assert_eq!(world.txn(txn(-2)), Err(Error::Compacted));
    assert!(world.txn(txn(-1)).is_ok(), "the compact revision of a store that never was is -1");
    world.compact(1).unwrap();
    assert_eq!(world.txn(txn(-1)), Err(Error::Compacted));
    assert_eq!(world.store.reader().txn_read_only(&txn(-1)), Err(Error::Compacted.into()));
}

#[test]
fn checks_see_the_state_before_the_txn() {
    let mut world = World::new(0);
    let keeps = RequestOp::Put(PutRequest { ignore_value: true, ..put("b", "") });
    assert_eq!(world.txn(then(vec![put_op("a", "1"), keeps])), Err(Error::KeyNotFound));
    let no_lease = RequestOp::Put(PutRequest { lease: 9, ..put("b", "") });
    assert_eq!(world.txn(then(vec![put_op("a", "1"), no_lease.clone()])), Err(Error::LeaseNotFound));
    assert_eq!(world.store.key_count(), 0);
    let failure = TxnRequest { failure: vec![no_lease], ..then(vec![put_op("a", "1")]) };
    assert!(world.txn(failure).is_ok(), "what will not run is not checked");
}

#[test]
fn inner_conditions_see_the_state_before_the_outer_operations() {
    let mut world = World::new(0);
    let exists = compare(compare_target::VERSION, compare_result::GREATER, "a", CompareOperand::Version(0));
    let inner = TxnRequest {
        compare: vec![exists],
        success: vec![put_op("b", "found")],
        failure: vec![put_op("b", "not found"), RequestOp::Txn(then(vec![delete_op("x", "")]))],
    };
    let response = world.txn(then(vec![put_op("a", "1"), RequestOp::Txn(inner)])).unwrap();
    assert_eq!(response.revision, 2);
    let ResponseOp::Txn(inner) = &response.responses[1] else { panic!() };
    assert_eq!((inner.succeeded, inner.revision), (false, 0), "inner answers have an empty header");
    let ResponseOp::Txn(innermost) = &inner.responses[1] else { panic!() };
    let ResponseOp::DeleteRange(deletion) = &innermost.responses[0] else { panic!() };
    assert_eq!((deletion.deleted, deletion.revision), (0, 2), "nothing deleted, but the txn has changes");
    assert_eq!(values(&world.read(&range("b", "")).unwrap().kvs), ["not found"]);
}

#[test]
fn every_change_of_a_txn_has_its_own_sub_revision() {
    let mut world = World::new(0);
    world.put("b", "0");
    // The open-ended deletion escapes the duplicate check and deletes what was just put.
    let ops = vec![put_op("a", "1"), put_op("b", "1"), delete_op("a", "\0")];
    let (_, events) = world.apply(Step::Txn(then(ops))).unwrap();
    let events = events.unwrap();
    let told: Vec<_> =
        events.events.iter().map(|event| (event.kind, event.sub, event.kv.key.clone())).collect();
    let (put, deleted) = (EventKind::Put, EventKind::Delete);
    assert_eq!(told, [(put, 0, b("a")), (put, 1, b("b")), (deleted, 2, b("a")), (deleted, 3, b("b"))]);
    assert_eq!(world.store.key_count(), 0);
    world.assert_rebuilds();
}

#[test]
fn a_txn_that_changes_nothing_makes_no_revision() {
    let mut world = World::new(0);
    world.put("a", "1");
    let inner = RequestOp::Txn(then(vec![range_op(range("a", ""))]));
    let (answer, events) = world.apply(Step::Txn(then(vec![inner, delete_op("x", "")]))).unwrap();
    let Answer::Txn(answer) = answer else { panic!() };
    assert_eq!((answer.revision, events), (2, None));
}

#[test]
fn a_txn_that_nests_too_deep_is_refused_whole() {
    let mut world = World::new(0);
    let mut request = then(vec![put_op("a", "1")]);
    for _ in 1..TXN_DEPTH_MAX {
        request = then(vec![RequestOp::Txn(request)]);
    }
    assert!(world.txn(request.clone()).is_ok());
    assert_eq!(world.txn(then(vec![RequestOp::Txn(request)])), Err(Error::TooManyOps));
    assert_eq!(world.store.revision(), 2);
}

#[test]
fn an_operation_that_is_not_set_is_refused_before_anything_runs() {
    let mut world = World::new(0);
    assert_eq!(world.txn(then(vec![put_op("a", "1"), RequestOp::Unset])), Err(Error::KeyNotFound));
    assert_eq!(world.store.key_count(), 0);
    assert_eq!(
        world.store.reader().txn_read_only(&then(vec![put_op("a", "1")])),
        Err(Error::KeyNotFound.into())
    );
}

#[test]
fn the_keys_of_a_lease_go_in_order_under_one_revision() {
    let mut world = World::new(0);
    for key in ["a", "b", "c"] {
        world.put(key, "");
    }
    let mut rows = WriteBatch::new();
    let mut txn = world.store.begin(&mut rows);
    txn.delete_keys([b("c"), b("gone"), b("a")]).unwrap();
    let events = txn.commit().unwrap();
    let told: Vec<_> = events.events.iter().map(|event| (event.sub, event.kv.key.clone())).collect();
    assert_eq!((events.revision, told), (5, vec![(0, b("a")), (1, b("c"))]));
    let mut none = WriteBatch::new();
    let mut txn = world.store.begin(&mut none);
    txn.delete_keys([b("gone")]).unwrap();
    assert_eq!(txn.commit(), None);
    assert!(none.is_empty());
}

#[test]
fn keys_and_values_do_not_hold_on_to_the_entry_they_came_in() {
    let mut world = World::new(1 << 20);
    let entry = b("..key..value..");
    let inside = |bytes: &Bytes| entry.as_ptr_range().contains(&bytes.as_ptr());
    let request = PutRequest { key: entry.slice(2..5), value: entry.slice(7..12), ..PutRequest::default() };
    let (_, events) = world.apply(Step::Put(request)).unwrap();
    let kv = &events.unwrap().events[0].kv;
    assert_eq!((&kv.key[..], &kv.value[..]), (&b"key"[..], &b"value"[..]));
    assert!(!inside(&kv.key) && !inside(&kv.value));
    let kv = world.read(&range("key", "")).unwrap().kvs.remove(0);
    assert!(!inside(&kv.key) && !inside(&kv.value));
}

/// An engine that loses its rows.
struct Broken(MemoryEngine);

impl Engine for Broken {
    fn get(&self, _: Family, _: &[u8]) -> Result<Option<Bytes>, crate::env::EngineError> {
        Err(crate::env::EngineError("gone".into()))
    }
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> crate::env::ScanStep,
    ) -> Result<(), crate::env::EngineError> {
        self.0.scan(family, from, to, visit)
    }
    fn write(&self, batch: &WriteBatch) -> Result<(), crate::env::EngineError> {
        self.0.write(batch)
    }
    fn flush(&self) -> Result<(), crate::env::EngineError> {
        self.0.flush()
    }
    fn usage(&self) -> crate::env::EngineUsage {
        self.0.usage()
    }
}

#[test]
fn a_store_that_was_interrupted_inside_a_command_answers_nothing_more() {
    let engine = Arc::new(Broken(MemoryEngine::new()));
    let mut store = Store::open(engine, 1, -1, Options { value_cache_bytes: 0 }).unwrap();
    let mut rows = WriteBatch::new();
    store.apply_put(put("a", "1"), &lease_exists, &mut rows).unwrap();
    store.stored(2);
    let reader = store.reader();
    assert!(matches!(reader.range(&range("a", "")), Err(Failure::Fatal(_))), "the value left memory");
    assert!(reader.range(&RangeRequest { keys_only: true, ..range("a", "") }).is_ok());
    let needs_value = RequestOp::DeleteRange(DeleteRangeRequest { prev_kv: true, ..delete("a", "") });
    let half_way = then(vec![put_op("b", "1"), needs_value]);
    assert!(matches!(store.apply_txn(&half_way, &lease_exists, &mut rows), Err(Failure::Fatal(_))));
    // b was put and not committed: nobody may see it.
    assert!(matches!(
        reader.range(&RangeRequest { keys_only: true, ..range("b", "") }),
        Err(Failure::Fatal(_))
    ));
    assert!(matches!(store.apply_put(put("c", "1"), &lease_exists, &mut rows), Err(Failure::Fatal(_))));
}
