//! Events read back from the engine.

use super::*;
use crate::event::{Event, EventKind, History};

fn world() -> World {
    let mut world = World::new(0);
    world.put("a", "1");
    world.put("b", "1");
    world.apply(Step::Put(PutRequest { lease: 2, ..put("a", "2") })).unwrap();
    world.delete("\0", "\0");
    world.put("a", "3");
    world
}

fn told(batches: &[Arc<EventBatch>]) -> Vec<(i64, usize)> {
    batches.iter().map(|batch| (batch.revision, batch.events.len())).collect()
}

fn last(world: &World, revision: i64) -> Event {
    let batches = world.store.reader().batches(revision, revision + 1, 1, 1).unwrap();
    batches[0].events[0].clone()
}

#[test]
fn batches_are_whole_revisions_in_order_stored_or_not() {
    let mut world = world();
    for stored in 0..=5 {
        let reader = world.store.reader();
        let batches = |from, to, revisions, bytes| told(&reader.batches(from, to, revisions, bytes).unwrap());
        assert_eq!(batches(1, 7, 100, 1 << 20), [(2, 1), (3, 1), (4, 1), (5, 2), (6, 1)], "stored={stored}");
        assert_eq!(batches(4, 6, 100, 1 << 20), [(4, 1), (5, 2)]);
        assert_eq!(batches(4, 7, 2, 1 << 20), [(4, 1), (5, 2)]);
        assert_eq!(batches(5, 7, 100, 1), [(5, 2)], "at least one, and whole");
        assert_eq!(batches(7, 7, 100, 100), []);
        world.store_batches(1);
    }
}

#[test]
fn events_read_back_are_those_that_were_told_live() {
    let mut world = World::new(0);
    let steps = [
        Step::Put(put("a", "1")),
        Step::Put(PutRequest { lease: 3, ..put("a", "2") }),
        Step::Delete(delete("a", "")),
        Step::Put(put("a", "3")),
    ];
    for step in steps {
        let (_, live) = world.apply(step).unwrap();
        let live = live.unwrap();
        world.store_all();
        let read = world.store.reader().batches(live.revision, live.revision + 1, 1, 1).unwrap().remove(0);
        for (read, live) in read.events.iter().zip(&live.events) {
            assert_eq!((read.kind, read.sub, &read.kv), (live.kind, live.sub, &live.kv));
            let place =
                |event: &Event| event.prev.as_ref().map(|p| (p.revision, p.create_revision, p.version));
            assert_eq!(place(read), place(live));
            let reader = world.store.reader();
            assert_eq!(reader.prev_kv(read).unwrap(), reader.prev_kv(live).unwrap());
        }
        assert_eq!(read.events.len(), live.events.len());
    }
}

#[test]
fn the_record_before_an_event_is_found_until_it_is_compacted() {
    let mut world = world();
    let reader = world.store.reader();
    assert_eq!(reader.prev_kv(&last(&world, 2)).unwrap(), None, "created");
    assert_eq!(reader.prev_kv(&last(&world, 6)).unwrap(), None, "created again");
    let deletion = last(&world, 5);
    assert_eq!(deletion.kind, EventKind::Delete);
    let before = reader.prev_kv(&deletion).unwrap().unwrap();
    assert_eq!((before.value, before.lease, before.version), (b("2"), LeaseId::from_wire(2), 2));
    world.store_all();
    assert!(reader.prev_kv(&deletion).unwrap().is_some());
    world.compact(4).unwrap();
    assert!(reader.prev_kv(&deletion).unwrap().is_some(), "the compacted revision itself is readable");
    world.compact(5).unwrap();
    assert_eq!(reader.prev_kv(&deletion).unwrap(), None, "as soon as it is compacted");
    world.collect_all_garbage();
    assert_eq!(reader.prev_kv(&deletion).unwrap(), None);
}

#[test]
fn what_is_compacted_is_refused_and_a_watcher_of_the_compacted_revision_sees_its_deletions() {
    let mut world = world();
    world.compact(5).unwrap();
    world.store_all();
    world.collect_all_garbage();
    let reader = world.store.reader();
    assert_eq!(reader.batches(4, 7, 9, 999).unwrap_err(), Failure::Answer(Error::Compacted));
    assert_eq!(told(&reader.batches(5, 7, 9, 999).unwrap()), [(5, 2), (6, 1)]);
}
