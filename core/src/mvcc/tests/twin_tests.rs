//! The store against its slow twin, while rows are stored late, values leave memory, compaction
//! proceeds step by step and the member crashes.

use proptest::prelude::*;

use super::twin::Twin;
use super::*;
use crate::event::{EventKind, History};

#[derive(Clone, Debug)]
enum Op {
    Step(Step),
    /// Compacts so far below (or, rarely, above) the current revision.
    CompactBelow(i64),
    Read(RangeRequest),
    ReadTxn(TxnRequest),
    StoreSome(usize),
    Flush,
    Collect(usize),
    Crash,
    Rebuild,
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "b", "c", "d", "a\0", "ab"]).prop_map(b)
}

fn end() -> impl Strategy<Value = Bytes> {
    prop_oneof![5 => Just(Bytes::new()), 3 => key(), 1 => Just(b("\0")), 1 => Just(b("z"))]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "1", "2", "a long value"]).prop_map(b)
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0i64), 3 => 1i64..4, 1 => Just(9i64)]
}

fn put_request() -> impl Strategy<Value = PutRequest> {
    (key(), value(), lease(), any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete_request() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn range_request() -> impl Strategy<Value = RangeRequest> {
    let revision = prop_oneof![4 => Just(0i64), 6 => -1i64..40];
    let bound = || prop_oneof![8 => Just(0i64), 2 => -1i64..20];
    (
        (key(), end(), -1i64..4, revision),
        (0i32..3, 0i32..5, prop::bool::weighted(0.2), prop::bool::weighted(0.1)),
        (bound(), bound(), bound(), bound()),
    )
        .prop_map(
            |(
                (key, range_end, limit, revision),
                (sort_order, sort_target, keys_only, count_only),
                bounds,
            )| {
                RangeRequest {
                    key,
                    range_end,
                    limit,
                    revision,
                    sort_order,
                    sort_target,
                    serializable: false,
                    keys_only,
                    count_only,
                    min_mod_revision: bounds.0,
                    max_mod_revision: bounds.1,
                    min_create_revision: bounds.2,
                    max_create_revision: bounds.3,
                }
            },
        )
}

fn compare() -> impl Strategy<Value = Compare> {
    let operand = prop_oneof![
        Just(CompareOperand::Unset),
        (0i64..4).prop_map(CompareOperand::Version),
        (0i64..9).prop_map(CompareOperand::CreateRevision),
        (0i64..9).prop_map(CompareOperand::ModRevision),
        value().prop_map(CompareOperand::Value),
        (0i64..4).prop_map(CompareOperand::Lease),
    ];
    (0i32..5, 0i32..6, key(), end(), operand).prop_map(|(result, target, key, range_end, operand)| Compare {
        result,
        target,
        key,
        range_end,
        operand,
    })
}

fn txn_request() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        range_request().prop_map(|range| RequestOp::Range(RangeRequest {
            // Mostly readable ones, or nearly every transaction would be refused.
            revision: if range.revision > 6 { 0 } else { range.revision },
            ..range
        })),
        put_request().prop_map(RequestOp::Put),
        delete_request().prop_map(RequestOp::DeleteRange),
    ];
    let compares = || prop::collection::vec(compare(), 0..2);
    let op = leaf.prop_recursive(2, 8, 3, move |inner| {
        let ops = || prop::collection::vec(inner.clone(), 0..3);
        (compares(), ops(), ops())
            .prop_map(|(compare, success, failure)| RequestOp::Txn(TxnRequest { compare, success, failure }))
    });
    let ops = prop::collection::vec(op, 0..4);
    (prop::collection::vec(compare(), 0..2), ops.clone(), ops)
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn read_txn() -> impl Strategy<Value = TxnRequest> {
    let ops = || prop::collection::vec(range_request().prop_map(RequestOp::Range), 0..3);
    (prop::collection::vec(compare(), 0..2), ops(), ops())
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => put_request().prop_map(|request| Op::Step(Step::Put(request))),
        3 => delete_request().prop_map(|request| Op::Step(Step::Delete(request))),
        4 => txn_request().prop_map(|request| Op::Step(Step::Txn(request))),
        1 => (-1i64..8).prop_map(Op::CompactBelow),
        6 => range_request().prop_map(Op::Read),
        2 => read_txn().prop_map(Op::ReadTxn),
        3 => (1usize..4).prop_map(Op::StoreSome),
        1 => Just(Op::Flush),
        3 => (1usize..4).prop_map(Op::Collect),
        1 => Just(Op::Crash),
        1 => Just(Op::Rebuild),
    ]
}

/// Every key at every readable revision.
fn assert_same_history(world: &World, twin: &Twin) {
    let everything = range("\0", "\0");
    for revision in twin.compact_revision.max(1)..=twin.revision {
        let request = at(revision, everything.clone());
        assert_eq!(world.read(&request), twin.range(&request), "at {revision}");
    }
}

/// The stored events are the twin's changes, and `prev_kv` is the key one revision earlier.
fn assert_same_events(world: &World, twin: &Twin) {
    let reader = world.store.reader();
    let from = twin.compact_revision.max(1);
    let batches = reader.batches(from, twin.revision + 1, usize::MAX, usize::MAX).unwrap();
    let mut told = Vec::new();
    for batch in &batches {
        for (at, event) in batch.events.iter().enumerate() {
            assert!(event.sub as usize >= at, "sub revisions ascend");
            let main = batch.revision;
            assert_eq!(event.kv.mod_revision, main);
            let deleted = event.kind == EventKind::Delete;
            let kv = (!deleted).then(|| event.kv.clone());
            told.push((main, event.kv.key.clone(), kv));
            let created = !deleted && event.kv.create_revision == main;
            let known = if created || main - 1 < twin.compact_revision {
                None
            } else {
                twin.live(main - 1).remove(&event.kv.key)
            };
            assert_eq!(reader.prev_kv(event).unwrap(), known, "{event:?}");
        }
    }
    // Of the compact revision itself, what was superseded inside it may be gone.
    let expected = twin.changes.iter().filter(|change| change.main > from);
    let expected: Vec<_> =
        expected.map(|change| (change.main, change.key.clone(), change.kv.clone())).collect();
    told.retain(|(main, ..)| *main > from);
    assert_eq!(told, expected);
}

fn play(ops: Vec<Op>, value_cache_bytes: usize) {
    let mut world = World::new(value_cache_bytes);
    let mut twin = Twin::new();
    for op in ops {
        match op {
            Op::Step(step) => {
                let ours = world.apply(step.clone());
                assert_eq!(ours.map(|(answer, _)| answer), twin.apply(&step), "{step:?}");
                assert_eq!(world.store.revision(), twin.revision);
            }
            Op::CompactBelow(below) => {
                let step = Step::Compact(twin.revision - below);
                let ours = world.apply(step.clone());
                assert_eq!(ours.map(|(answer, _)| answer), twin.apply(&step), "{step:?}");
            }
            Op::Read(request) => assert_eq!(world.read(&request), twin.range(&request), "{request:?}"),
            Op::ReadTxn(request) => {
                let ours = world.store.reader().txn_read_only(&request);
                let theirs = twin.clone().apply(&Step::Txn(request.clone()));
                match (ours, theirs) {
                    (Ok(ours), Ok(theirs)) => assert_eq!(Answer::Txn(ours), theirs, "{request:?}"),
                    (Err(Failure::Answer(ours)), Err(theirs)) => assert_eq!(ours, theirs, "{request:?}"),
                    (ours, theirs) => panic!("{request:?}: {ours:?} {theirs:?}"),
                }
            }
            Op::StoreSome(count) => world.store_batches(count),
            Op::Flush => world.engine.flush().unwrap(),
            Op::Collect(rows_max) => drop(world.collect_garbage(rows_max)),
            Op::Crash => {
                world.crash();
                assert_eq!(world.store.revision(), twin.revision);
                assert_eq!(world.store.compact_revision(), twin.compact_revision);
            }
            Op::Rebuild => world.assert_rebuilds(),
        }
    }
    assert_same_history(&world, &twin);
    assert_same_events(&world, &twin);
    let hash = world.store.reader().hash_kv(0).unwrap();
    world.assert_rebuilds();
    world.collect_all_garbage();
    assert_eq!(world.store.reader().hash_kv(0).unwrap(), hash, "rows that are stored or gone change no hash");
    assert_same_history(&world, &twin);
    assert_same_events(&world, &twin);
    world.engine.flush().unwrap();
    world.crash();
    assert_same_history(&world, &twin);
    assert_no_garbage(&world, &twin);
}

/// After physical compaction the engine holds what can be read, and the tombstones of the compact
/// revision.
fn assert_no_garbage(world: &World, twin: &Twin) {
    let compacted = twin.compact_revision;
    let kept = twin.live(compacted).len()
        + twin.changes.iter().filter(|change| change.main > compacted).count()
        + twin.changes.iter().filter(|change| change.main == compacted && change.kv.is_none()).count();
    assert_eq!(world.rows(Family::Rev), kept);
    assert_eq!(world.rows(Family::Idx), kept);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_its_slow_twin(
        ops in prop::collection::vec(op(), 1..60),
        value_cache_bytes in prop::sample::select(vec![0usize, 150, 1 << 20]),
    ) {
        play(ops, value_cache_bytes);
    }
}
