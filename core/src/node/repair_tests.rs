//! Stories of members whose states are wrong, and of their repair.

use std::time::Duration;

use super::cluster_tests::{SECOND, consent, ok, same_everywhere, settled, tight};
use super::world::World;
use super::*;
use crate::cluster::{Alarm, AlarmKind};
use crate::codec;

#[test]
fn a_member_whose_state_is_wrong_stops_answering_and_is_repaired_with_consent() {
    let (mut world, leader) = settled();
    let wrong = (leader + 1) % 3;
    world.hosts[wrong].node.as_mut().unwrap().spoil_state();
    world.put(leader, "a", "1", 0);
    world.pass(3 * SECOND);
    let node = world.hosts[wrong].node();
    assert!(node.status().corrupt);
    let id = world.hosts[wrong].id;
    let alarm = Alarm { member: id, kind: AlarmKind::Corrupt };
    assert_eq!(world.hosts[leader].node().status().alarms.as_slice(), &[alarm]);
    let read = world.ask(wrong, |slot| Input::ReadIndex { slot });
    assert_eq!(world.answer(wrong, read), Some(&Err(Error::Corrupt)));
    world.pass(5 * SECOND);
    assert_eq!(world.hosts[wrong].installed, 0, "nobody has consented");
    world.command(leader, codec::cluster::alarm(&consent(id)));
    world.pass(5 * SECOND);
    assert_eq!(world.hosts[wrong].installed, 1);
    assert!(!world.hosts[wrong].node().status().corrupt);
    world.put(leader, "b", "1", 0);
    world.pass(2 * SECOND);
    same_everywhere(&world);
    assert!(world.hosts[leader].node().status().alarms.is_empty());
}

#[test]
fn a_member_whose_state_is_wrong_still_votes_for_the_next_leader() {
    let (mut world, leader) = settled();
    let wrong = (leader + 1) % 3;
    world.hosts[wrong].node.as_mut().unwrap().spoil_state();
    world.put(leader, "a", "1", 0);
    world.pass(3 * SECOND);
    assert!(world.hosts[wrong].node().status().corrupt);
    world.crash(leader);
    world.pass(5 * SECOND);
    let next = (leader + 2) % 3;
    assert_eq!(world.leader(), Some(next));
    assert_eq!(world.hosts[wrong].node().status().leader, Some(world.hosts[next].id));
    // Until somebody has turned the alarm off, nobody takes writes.
    let slot = world.put(next, "b", "1", 0);
    world.pass(SECOND);
    assert_eq!(world.answer(next, slot), Some(&Err(Error::Corrupt)));
    // Without anybody to lead it says so.
    world.crash(next);
    world.pass(5 * SECOND);
    assert_eq!(world.hosts[wrong].node().status().leader, None);
}

#[test]
fn what_only_a_wrong_member_has_in_its_log_is_not_lost_with_the_leader() {
    let (mut world, leader) = settled();
    let (wrong, third) = ((leader + 1) % 3, (leader + 2) % 3);
    world.hosts[wrong].node.as_mut().unwrap().spoil_state();
    world.put(leader, "a", "1", 0);
    world.pass(3 * SECOND);
    assert!(world.hosts[wrong].node().status().corrupt);
    let wrong_id = world.hosts[wrong].id;
    world.command(leader, codec::cluster::alarm(&consent(wrong_id)));
    world.cut = vec![world.hosts[third].id];
    let slot = world.put(leader, "b", "1", 0);
    ok(world.answer(leader, slot));
    world.crash(leader);
    world.cut.clear();
    // The third has too little of the log to be elected, and the other one too little sense to lead.
    world.pass(15 * SECOND);
    assert_eq!(world.leader(), Some(third));
    assert_eq!(world.get(third, "b").as_deref(), Some("1"));
    let slot = world.put(third, "c", "1", 0);
    ok(world.answer(third, slot));
    world.start(leader);
    world.pass(5 * SECOND);
    assert_eq!(world.hosts[wrong].installed, 1);
    same_everywhere(&world);
}

#[test]
fn a_snapshot_that_left_before_its_sender_was_doubted_is_not_installed() {
    let (mut world, leader) = settled();
    let (lagging, right) = ((leader + 1) % 3, (leader + 2) % 3);
    world.cut = vec![world.hosts[lagging].id];
    world.pass(SECOND);
    for number in 0..30 {
        world.put(leader, &format!("k{number}"), "1", 0);
    }
    world.hosts[leader].node.as_mut().unwrap().spoil_state();
    world.put(leader, "a", "1", 0);
    world.hold_parcels = true;
    world.cut.clear();
    world.pass(Duration::from_millis(400));
    assert_eq!(world.hosts[leader].parcels.len(), 1, "it is on its way");
    world.pass(3 * SECOND);
    assert!(world.hosts[leader].node.as_mut().unwrap().state_is_in_dispute());
    world.hold_parcels = false;
    world.pass(6 * SECOND);
    assert_eq!(world.hosts[lagging].installed, 0);
    assert!(!world.hosts[right].node().status().corrupt, "the one that is right was outvoted");
}

#[test]
fn a_leader_does_not_leave_the_cluster_to_a_member_whose_state_is_wrong() {
    let (mut world, leader) = settled();
    let (wrong, third) = ((leader + 1) % 3, (leader + 2) % 3);
    world.hosts[wrong].node.as_mut().unwrap().spoil_state();
    world.put(leader, "a", "1", 0);
    world.pass(3 * SECOND);
    assert!(world.hosts[wrong].node().status().corrupt);
    world.crash(third);
    world.pass(6 * SECOND);
    let third_id = world.hosts[third].id;
    let slot = world.command(leader, codec::cluster::member_remove(third_id));
    world.pass(6 * SECOND);
    ok(world.answer(leader, slot));
    let leader_id = world.hosts[leader].id;
    let slot = world.command(leader, codec::cluster::member_remove(leader_id));
    world.pass(10 * SECOND);
    assert_eq!(world.answer(leader, slot), Some(&Err(Error::Unhealthy)));
    assert!(!world.hosts[leader].removed);
    assert_eq!(world.leader(), Some(leader));
}

#[test]
fn a_leader_whose_state_is_wrong_hands_over_and_repairs_itself_if_it_may() {
    let mut world = World::new(3);
    world.tune = |config| {
        tight(config);
        config.auto_repair = true;
    };
    for at in 0..3 {
        world.crash(at);
        world.start(at);
    }
    let leader = world.elect();
    world.pass(SECOND);
    world.hosts[leader].node.as_mut().unwrap().spoil_state();
    world.put(leader, "a", "1", 0);
    world.pass(10 * SECOND);
    assert_eq!(world.hosts[leader].installed, 1);
    assert!(world.hosts[leader].node().status().alarms.is_empty());
    world.elect();
    world.pass(2 * SECOND);
    same_everywhere(&world);
}

/// A cluster of three in which one member's state is wrong and an operator has just consented to have it
/// replaced: who leads, whose state is wrong, and who is neither.
fn about_to_repair(world: &mut World, leader: usize, delay: Duration) -> (usize, usize) {
    let (wrong, third) = ((leader + 1) % 3, (leader + 2) % 3);
    world.hosts[wrong].node.as_mut().unwrap().spoil_state();
    world.put(leader, "a", "1", 0);
    world.pass(3 * SECOND);
    assert!(world.hosts[wrong].node().status().corrupt);
    world.pass(delay);
    let wrong_id = world.hosts[wrong].id;
    world.command(leader, codec::cluster::alarm(&consent(wrong_id)));
    (wrong, third)
}

#[test]
fn a_repair_asks_no_next_leader_for_what_it_cannot_commit() {
    for offset in 0..25 {
        let (mut world, leader) = settled();
        let (wrong, third) = about_to_repair(&mut world, leader, Duration::from_millis(40 * offset));
        // Both have the entry; that it is committed, they do not hear from this leader any more.
        let ids = [world.hosts[wrong].id, world.hosts[third].id];
        world.stuck = ids.to_vec();
        world.put(leader, "b", "1", 0);
        world.cut = vec![world.hosts[leader].id];
        world.stuck.clear();
        world.sync(wrong);
        world.sync(third);
        world.crash(leader);
        world.pass(20 * SECOND);
        let slot = world.put(third, "c", "2", 0);
        world.pass(10 * SECOND);
        assert!(matches!(world.answer(third, slot), Some(Ok(_))), "after {offset}");
        assert_eq!(world.hosts[wrong].installed, 1, "after {offset}");
        let copies = world.hosts[third].copies.keys().last().copied();
        assert!(copies < Some(crate::node::SnapshotId(5)), "a copy for each question: {copies:?}");
    }
}

#[test]
fn a_repair_that_begins_before_an_answer_has_arrived_holds_up_nothing() {
    for offset in 0..25 {
        let (mut world, leader) = settled();
        let (wrong, third) = about_to_repair(&mut world, leader, Duration::ZERO);
        world.crash(third);
        world.pass(Duration::from_millis(40 * offset));
        // The entry arrives, and the answer is lost with the connection.
        let id = world.hosts[wrong].id;
        world.stuck = vec![id];
        let slot = world.put(leader, "b", "1", 0);
        world.cut = vec![id];
        world.stuck.clear();
        world.sync(wrong);
        world.pass(Duration::from_millis(100 + 15 * offset));
        world.cut.clear();
        world.pass(20 * SECOND);
        assert!(matches!(world.answer(leader, slot), Some(Ok(_))), "after {offset}");
        assert_eq!(world.hosts[wrong].installed, 1, "after {offset}");
    }
}

#[test]
fn a_repair_that_a_leader_in_dispute_cannot_help_holds_up_nothing() {
    let (mut world, leader) = settled();
    let (wrong, third) = about_to_repair(&mut world, leader, Duration::ZERO);
    // Who comes back has forgotten that the third agreed, and cannot tell who of two is wrong.
    world.crash(third);
    world.crash(leader);
    world.start(leader);
    assert_eq!(world.elect(), leader);
    world.pass(3 * SECOND);
    assert!(world.hosts[leader].node.as_mut().unwrap().state_is_in_dispute());
    let slot = world.put(leader, "b", "1", 0);
    world.pass(3 * SECOND);
    assert!(matches!(world.answer(leader, slot), Some(Ok(_))), "{:?}", world.answer(leader, slot));
    assert_eq!((world.hosts[wrong].installed, world.hosts[leader].copies.len()), (0, 0));
    world.start(third);
    world.pass(5 * SECOND);
    assert_eq!(world.hosts[wrong].installed, 1);
    same_everywhere(&world);
}

#[test]
fn a_repair_whose_snapshot_does_not_arrive_holds_up_nothing() {
    let (mut world, leader) = settled();
    let (wrong, third) = about_to_repair(&mut world, leader, Duration::ZERO);
    world.hosts[leader].snapshots_arrive = false;
    world.crash(third);
    world.pass(3 * SECOND);
    let slot = world.put(leader, "b", "1", 0);
    world.pass(3 * SECOND);
    assert!(matches!(world.answer(leader, slot), Some(Ok(_))), "{:?}", world.answer(leader, slot));
    world.hosts[leader].snapshots_arrive = true;
    world.pass(5 * SECOND);
    assert_eq!(world.hosts[wrong].installed, 1);
}

#[test]
fn a_repair_whose_snapshot_does_not_arrive_holds_up_nothing_however_slow_heartbeats_are() {
    for offset in [0, 3, 7] {
        let mut world = World::new(3);
        world.tune = |config| {
            tight(config);
            config.tick = SECOND;
            config.election_ticks = 5;
            config.request_timeout = 15 * SECOND;
        };
        for at in 0..3 {
            world.crash(at);
            world.start(at);
            world.pass(offset * Duration::from_millis(20));
        }
        let leader = world.elect();
        world.pass(15 * SECOND);
        let (wrong, third) = ((leader + 1) % 3, (leader + 2) % 3);
        world.hosts[wrong].node.as_mut().unwrap().spoil_state();
        world.put(leader, "a", "1", 0);
        world.pass(15 * SECOND);
        assert!(world.hosts[wrong].node().status().corrupt);
        world.hosts[leader].snapshots_arrive = false;
        let wrong_id = world.hosts[wrong].id;
        world.command(leader, codec::cluster::alarm(&consent(wrong_id)));
        world.pass(2 * SECOND);
        world.crash(third);
        world.pass(5 * SECOND);
        for round in 0..10 {
            let slot = world.put(leader, "b", "1", 0);
            world.pass(Duration::from_millis(200));
            assert!(matches!(world.answer(leader, slot), Some(Ok(_))), "offset {offset}, round {round}");
            world.pass(round * Duration::from_millis(130));
        }
    }
}

#[test]
fn members_whose_states_are_wrong_do_not_pass_leadership_to_and_fro() {
    let mut world = World::new(5);
    world.tune = |config| {
        tight(config);
        config.auto_repair = true;
    };
    for at in 0..5 {
        world.crash(at);
        world.start(at);
    }
    let leader = world.elect();
    world.pass(2 * SECOND);
    // Of equals the first is the next leader.
    if leader != 0 {
        world.ask(leader, |slot| Input::TransferLeader { slot, target: MemberId(1) });
        world.pass(2 * SECOND);
    }
    assert_eq!(world.leader(), Some(0));
    for at in [0, 1] {
        world.hosts[at].node.as_mut().unwrap().spoil_state();
    }
    world.put(0, "a", "1", 0);
    let term = world.hosts[2].node().status().term;
    world.pass(20 * SECOND);
    let status = world.hosts[2].node().status();
    assert!(status.term.0 < term.0 + 10, "leaders of {} terms", status.term.0 - term.0);
    assert_eq!([0, 1].map(|at| world.hosts[at].installed), [1, 1]);
    same_everywhere(&world);
}
