//! Ranges: etcd's answers in the odd cases.

use super::*;
use crate::mvcc::request::{sort_order, sort_target};

/// a=3 (rev 2), b=1 (rev 3), c=2 (rev 4, lease 1), a=9 (rev 5): so a has version 2, create 2, mod 5.
fn world() -> World {
    let mut world = World::new(1 << 20);
    world.put("a", "3");
    world.put("b", "1");
    world.apply(Step::Put(PutRequest { lease: 1, ..put("c", "2") })).unwrap();
    world.put("a", "9");
    world
}

fn all() -> RangeRequest {
    range("\0", "\0")
}

#[test]
fn a_new_store_is_at_revision_one_and_its_first_write_makes_two() {
    let mut world = World::new(0);
    assert_eq!((world.store.revision(), world.store.compact_revision()), (1, -1));
    assert_eq!(world.read(&all()).unwrap(), RangeResponse { revision: 1, ..RangeResponse::default() });
    assert_eq!(world.put("a", ""), 2);
}

#[test]
fn a_range_end_of_one_zero_byte_means_all_keys_from_there_and_a_longer_one_is_a_bound() {
    let world = world();
    assert_eq!(keys(&world.read(&range("b", "\0")).unwrap().kvs), ["b", "c"]);
    assert_eq!(world.read(&range("b", "\0\0")).unwrap().count, 0);
    assert_eq!(keys(&world.read(&range("a", "c")).unwrap().kvs), ["a", "b"]);
    assert_eq!(world.read(&range("c", "a")).unwrap().count, 0, "an inverted interval is empty");
    assert_eq!(world.read(&range("a\0", "")).unwrap().count, 0);
}

#[test]
fn a_read_of_the_past_carries_the_current_revision() {
    let world = world();
    let response = world.read(&at(4, range("a", ""))).unwrap();
    assert_eq!((response.revision, response.kvs[0].value.as_ref()), (5, b"3".as_slice()));
    assert_eq!(world.read(&at(6, all())), Err(Error::FutureRev));
}

#[test]
fn a_negative_revision_reads_the_current_state() {
    let world = world();
    assert_eq!(world.read(&at(-3, all())), world.read(&all()));
}

#[test]
fn the_compacted_revision_itself_can_be_read() {
    let mut world = world();
    world.compact(4).unwrap();
    assert_eq!(values(&world.read(&at(4, all())).unwrap().kvs), ["3", "1", "2"]);
    assert_eq!(world.read(&at(3, all())), Err(Error::Compacted));
}

#[test]
fn compacting_to_zero_succeeds_once_on_a_store_that_never_was() {
    let mut world = world();
    assert_eq!(world.compact(-1), Err(Error::Compacted));
    assert_eq!(world.compact(0), Ok(()));
    assert_eq!(world.compact(0), Err(Error::Compacted));
    assert_eq!(world.compact(6), Err(Error::FutureRev));
    assert_eq!(world.compact(5), Ok(()));
    assert_eq!(world.store.revision(), 5, "compaction makes no revision");
}

#[test]
fn the_count_ignores_limit_and_revision_bounds_and_more_does_not() {
    let world = world();
    let response = world.read(&RangeRequest { limit: 2, ..all() }).unwrap();
    assert_eq!((keys(&response.kvs), response.more, response.count), (vec!["a".into(), "b".into()], true, 3));
    let response = world.read(&RangeRequest { limit: 2, max_mod_revision: 4, ..all() }).unwrap();
    assert_eq!(
        (keys(&response.kvs), response.more, response.count),
        (vec!["b".into(), "c".into()], false, 3)
    );
    let response = world.read(&RangeRequest { limit: 3, ..all() }).unwrap();
    assert!(!response.more);
    let response = world.read(&RangeRequest { limit: i64::MAX, ..all() }).unwrap();
    assert_eq!(response.kvs.len(), 3);
}

#[test]
fn revision_bounds_are_inclusive_and_negative_ones_count() {
    let world = world();
    let found = |request: RangeRequest| keys(&world.read(&request).unwrap().kvs);
    assert_eq!(found(RangeRequest { min_mod_revision: 4, max_mod_revision: 4, ..all() }), ["c"]);
    assert_eq!(found(RangeRequest { min_create_revision: 2, max_create_revision: 3, ..all() }), ["a", "b"]);
    assert_eq!(found(RangeRequest { max_mod_revision: -1, ..all() }), Vec::<String>::new());
    assert_eq!(found(RangeRequest { min_mod_revision: -1, ..all() }), ["a", "b", "c"]);
}

#[test]
fn counting_alone_ignores_everything_else() {
    let world = world();
    let request = RangeRequest { count_only: true, limit: 1, max_mod_revision: 3, keys_only: true, ..all() };
    let expected = RangeResponse { revision: 5, kvs: Vec::new(), more: false, count: 3 };
    assert_eq!(world.read(&request).unwrap(), expected);
    assert_eq!(world.read(&at(2, request)).unwrap(), RangeResponse { count: 1, ..expected });
}

#[test]
fn sorting_goes_by_each_target_in_each_direction() {
    let world = world();
    let sorted = |sort_target, sort_order| {
        keys(&world.read(&RangeRequest { sort_target, sort_order, ..all() }).unwrap().kvs).concat()
    };
    assert_eq!(sorted(sort_target::KEY, sort_order::DESCEND), "cba");
    assert_eq!(sorted(sort_target::VERSION, sort_order::ASCEND), "bca");
    assert_eq!(sorted(sort_target::CREATE, sort_order::DESCEND), "cba");
    assert_eq!(sorted(sort_target::MOD, sort_order::ASCEND), "bca");
    assert_eq!(sorted(sort_target::MOD, sort_order::DESCEND), "acb");
    assert_eq!(sorted(sort_target::VALUE, sort_order::ASCEND), "bca");
    assert_eq!(sorted(sort_target::VALUE, sort_order::DESCEND), "acb");
}

#[test]
fn without_an_order_the_first_keys_are_cut_before_they_are_sorted_by_another_target() {
    let mut world = World::new(0);
    for (key, value) in [("a", "4"), ("b", "3"), ("c", "2"), ("d", "1")] {
        world.put(key, value);
    }
    let request = RangeRequest { limit: 2, sort_target: sort_target::VALUE, ..all() };
    // The limit and one more in key order are a, b, c; sorted by value c, b, a; cut to c, b.
    let response = world.read(&request).unwrap();
    assert_eq!((keys(&response.kvs), response.more), (vec!["c".into(), "b".into()], true));
    let response = world.read(&RangeRequest { sort_order: sort_order::ASCEND, ..request }).unwrap();
    assert_eq!(keys(&response.kvs), ["d", "c"], "with an order everything is sorted first");
}

#[test]
fn keys_only_drops_the_lease_too_unless_sorted_by_value() {
    let world = world();
    let request = RangeRequest { keys_only: true, ..range("c", "") };
    let kv = world.read(&request).unwrap().kvs.remove(0);
    assert_eq!((kv.value.len(), kv.lease, kv.mod_revision, kv.version), (0, None, 4, 1));
    let kv = world.read(&RangeRequest { sort_target: sort_target::VALUE, ..request }).unwrap().kvs.remove(0);
    assert_eq!((kv.value.len(), kv.lease), (0, LeaseId::from_wire(1)));
}

#[test]
fn an_absent_key_is_an_empty_answer() {
    let response = world().read(&range("x", "")).unwrap();
    assert_eq!(response, RangeResponse { revision: 5, ..RangeResponse::default() });
}

#[test]
fn the_past_is_the_same_before_and_after_its_rows_are_stored() {
    let mut world = world();
    world.delete("b", "");
    world.put("b", "again");
    let past =
        |world: &World| -> Vec<_> { (1..=7).map(|revision| world.read(&at(revision, all()))).collect() };
    let before = past(&world);
    for _ in 0..6 {
        world.store_batches(1);
        assert_eq!(past(&world), before);
    }
    assert_eq!(values(&before[4].as_ref().unwrap().kvs), ["9", "1", "2"]);
    assert_eq!(values(&before[5].as_ref().unwrap().kvs), ["9", "2"]);
    assert_eq!(values(&before[6].as_ref().unwrap().kvs), ["9", "again", "2"]);
}

#[test]
fn keys_with_many_versions_are_read_at_any_of_them() {
    let mut world = World::new(0);
    for version in 0..40 {
        for key in ["a", "a\0", "b"] {
            world.put(key, &version.to_string());
        }
    }
    world.store_all();
    for revision in 2..=121 {
        let expected = (revision - 2) / 3;
        let kvs = world.read(&at(revision, all())).unwrap().kvs;
        assert_eq!(kvs[0].value, b(&expected.to_string()));
        assert_eq!(kvs[0].version, expected + 1);
        assert_eq!(kvs.len() as i64, (revision - 1).min(3));
    }
}

#[test]
fn a_store_refuses_rows_that_are_newer_than_it_is() {
    let mut world = world();
    world.store_all();
    let engine: Arc<dyn Engine> = world.engine.clone();
    let open =
        |revision, compact| Store::open(engine.clone(), revision, compact, Options::default()).map(|_| ());
    assert_eq!(open(5, -1), Ok(()));
    assert!(open(4, -1).unwrap_err().to_string().contains("row_revision=5"));
    assert!(open(5, 6).is_err());
}

#[test]
fn a_new_member_of_an_old_store_does_not_go_back_when_its_last_tombstone_is_gone() {
    let mut world = World::new(0);
    world.put("a", "1");
    world.delete("a", "");
    world.compact(3).unwrap();
    world.put("b", "1");
    world.delete("b", "");
    world.compact(5).unwrap();
    world.store_all();
    world.collect_all_garbage();
    world.engine.flush().unwrap();
    world.crash();
    assert_eq!((world.store.revision(), world.store.compact_revision()), (5, 5));
    assert_eq!(world.rows(Family::Rev), 1, "the tombstone at the compact revision stays");
    assert_eq!(world.put("c", ""), 6);
    world.compact(6).unwrap();
    world.store_all();
    world.collect_all_garbage();
    assert_eq!(world.rows(Family::Rev), 1, "and goes at the next compaction");
    world.assert_rebuilds();
}

#[test]
fn leased_keys_are_visited_in_order() {
    let mut world = world();
    world.apply(Step::Put(PutRequest { lease: 2, ..put("a", "") })).unwrap();
    let mut seen = Vec::new();
    world.store.for_each_leased(|lease, key| seen.push((lease.get(), key.clone())));
    assert_eq!(seen, [(2, b("a")), (1, b("c"))]);
}
