//! Which values are in memory.

use super::*;

fn in_memory(world: &World) -> Vec<String> {
    let state = world.store.shared.state.read();
    state.values.check(&state.tree);
    let kept = state.tree.iter().filter(|live| live.value.as_ref().is_some_and(|value| !value.is_empty()));
    kept.map(|live| live.key.escape_ascii().to_string()).collect()
}

#[test]
fn a_value_stays_until_it_is_stored_and_then_the_oldest_go_first() {
    // Room for two values of ten bytes with what they cost beside.
    let mut world = World::new(150);
    for key in ["a", "b", "c", "d"] {
        world.put(key, "ten bytes.");
    }
    assert_eq!(in_memory(&world), ["a", "b", "c", "d"], "nothing is stored yet");
    world.store_batches(1);
    assert_eq!(in_memory(&world), ["b", "c", "d"]);
    world.store_all();
    assert_eq!(in_memory(&world), ["c", "d"]);
    assert_eq!(values(&world.read(&range("\0", "\0")).unwrap().kvs), ["ten bytes."; 4]);
}

#[test]
fn an_overwritten_or_deleted_value_frees_its_share() {
    let mut world = World::new(150);
    world.put("a", "ten bytes.");
    world.put("b", "ten bytes.");
    world.put("a", "another 10");
    world.delete("b", "");
    world.put("c", "ten bytes.");
    world.store_all();
    assert_eq!(in_memory(&world), ["a", "c"]);
    assert_eq!(world.store.value_bytes(), 148);
}

#[test]
fn empty_values_cost_nothing_and_are_known_after_a_restart() {
    let mut world = World::new(0);
    world.put("a", "");
    world.store_all();
    world.engine.flush().unwrap();
    world.crash();
    let state = world.store.shared.state.read();
    assert_eq!(state.tree.iter().next().unwrap().value, Some(Bytes::new()));
    assert_eq!(state.values.bytes(), 0);
}

#[test]
fn a_key_that_is_overwritten_for_ever_does_not_fill_the_queue() {
    let mut world = World::new(1 << 20);
    world.put("seldom", "value");
    for round in 0..10_000 {
        world.put("often", &round.to_string());
        world.store_all();
        world.log.clear();
    }
    let state = world.store.shared.state.read();
    assert!(state.values.queue_len() <= 1100, "{}", state.values.queue_len());
    drop(state);
    assert_eq!(in_memory(&world), ["often", "seldom"]);
}
