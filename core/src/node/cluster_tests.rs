//! Stories of several members: forwarding, snapshots, membership, leases over leaders, handing over.

use std::time::Duration;

use super::message::LeaseTell;
use super::world::{World, revision};
use super::*;
use crate::cluster::Member;
use crate::codec;

pub(super) const SECOND: Duration = Duration::from_secs(1);

fn named(world: &mut World, at: usize) {
    let member = Member {
        id: world.hosts[at].id,
        name: format!("m{}", world.hosts[at].id),
        peer_urls: vec![],
        client_urls: vec![],
        learner: false,
        incarnation: 0,
    };
    world.command(at, codec::cluster::publish(&member));
}

/// Three members that have published themselves and have been in touch for a while.
pub(super) fn settled() -> (World, usize) {
    let mut world = World::new(3);
    world.tune = tight;
    for at in 0..3 {
        world.crash(at);
        world.start(at);
    }
    let leader = world.elect();
    for at in 0..3 {
        named(&mut world, at);
    }
    world.pass(6 * SECOND);
    (world, leader)
}

/// Little of the log is kept, so that a short story needs snapshots.
pub(super) fn tight(config: &mut NodeConfig) {
    config.kept_entries = 8;
}

fn add(id: u64, learner: bool) -> Command {
    codec::cluster::member_add(&Member {
        id: MemberId(id),
        name: String::new(),
        peer_urls: vec![format!("http://m{id}:2380")],
        client_urls: vec![],
        learner,
        incarnation: 0,
    })
}

pub(super) fn ok(answer: Option<&Result<Reply, Error>>) -> &Reply {
    match answer {
        Some(Ok(reply)) => reply,
        other => panic!("not answered well: {other:?}"),
    }
}

/// What an operator says to have a wrong member's state replaced.
pub(super) fn consent(wrong: MemberId) -> folkmoot_proto::etcdserverpb::AlarmRequest {
    folkmoot_proto::etcdserverpb::AlarmRequest { action: 2, member_id: wrong.0, alarm: 2 }
}

pub(super) fn same_everywhere(world: &World) {
    let states: Vec<_> = world
        .hosts
        .iter()
        .filter_map(|host| host.node.as_ref().filter(|_| !host.removed))
        .map(|node| (node.applied_index(), node.chain_hash(), node.conf_state().clone()))
        .collect();
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "{states:?}");
}

#[test]
fn a_follower_takes_writes_and_answers_them_after_it_applied_them_itself() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = (leader + 1) % 3;
    let slot = world.put(follower, "a", "1", 0);
    world.pass(Duration::from_millis(300));
    assert_eq!(revision(world.answer(follower, slot)), 2);
    assert_eq!(world.get(follower, "a").as_deref(), Some("1"));
}

#[test]
fn a_write_survives_the_loss_of_the_leader_that_it_was_sent_to() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = (leader + 1) % 3;
    world.cut = vec![world.hosts[leader].id];
    let slot = world.put(follower, "a", "1", 0);
    world.pass(5 * SECOND);
    assert_eq!(revision(world.answer(follower, slot)), 2);
    world.cut.clear();
    world.pass(2 * SECOND);
    same_everywhere(&world);
}

#[test]
fn a_write_without_any_leader_is_given_back_in_the_end() {
    let mut world = World::new(3);
    let leader = world.elect();
    let other = (leader + 1) % 3;
    world.crash(leader);
    world.crash((leader + 2) % 3);
    world.pass(3 * SECOND);
    let write = world.put(other, "a", "1", 0);
    let read = world.ask(other, |slot| Input::ReadIndex { slot });
    let id = LeaseId::from_wire(5).unwrap();
    let renew = world.ask(other, |slot| Input::LeaseRenew { slot, id });
    world.pass(6 * SECOND);
    assert_eq!(world.answer(other, write), None);
    world.pass(3 * SECOND);
    assert_eq!(world.answer(other, write), Some(&Err(Error::Timeout)));
    assert_eq!(world.answer(other, read), Some(&Err(Error::Timeout)));
    assert_eq!(world.answer(other, renew), Some(&Err(Error::NoLeader)));
}

#[test]
fn a_forward_from_an_earlier_term_is_not_taken() {
    let mut world = World::new(3);
    let leader = world.elect();
    let from = world.hosts[(leader + 1) % 3].id;
    let mut builder = crate::command::EntryBuilder::new(from, 1);
    builder.push(77, &codec::lease::revoke(5));
    let entry = builder.finish();
    let term = Term(world.hosts[leader].node().status().term.0 - 1);
    let before = world.hosts[leader].node().applied_index();
    let message = Message::Forward { term, entry: entry.into() }.encode();
    world.hosts[leader].node.as_mut().unwrap().step(world.now, Input::Peer { from, message });
    world.run();
    world.pass(Duration::from_millis(200));
    assert_eq!(world.hosts[leader].node().applied_index(), before);
}

#[test]
fn strange_messages_of_peers_are_dropped() {
    let mut world = World::new(3);
    let leader = world.elect();
    let from = world.hosts[(leader + 1) % 3].id;
    let term = world.hosts[leader].node().status().term;
    let strange = [
        Bytes::new(),
        Bytes::from_static(b"\xff"),
        Message::Forward { term, entry: Bytes::from_static(b"junk") }.encode(),
        Message::Membership { term, entry: Bytes::from_static(b"junk") }.encode(),
        Message::Raft(Bytes::from_static(b"\x08\x63")).encode(),
        Message::LeaseAsk { boot: 9, asks: vec![] }.encode(),
        Message::LeaseTell { boot: 9, tells: vec![] }.encode(),
        Message::LeaseTell {
            boot: world.hosts[leader].boot,
            tells: vec![LeaseTell { request: 1, ttl: 1, granted_ttl: 1, applied: LogIndex(u64::MAX) }],
        }
        .encode(),
        Message::Refused { boot: 1, error: Error::NotLeader, requests: vec![0, u64::MAX, 1 << 62] }.encode(),
    ];
    for message in strange {
        world.hosts[leader].node.as_mut().unwrap().step(world.now, Input::Peer { from, message });
    }
    world.run();
    let slot = world.put(leader, "a", "1", 0);
    assert_eq!(revision(world.answer(leader, slot)), 2);
    let read = world.ask(leader, |slot| Input::ReadIndex { slot });
    assert!(matches!(world.answer(leader, read), Some(Ok(_))));
}

#[test]
fn a_sole_voter_tells_its_learner_nothing_of_a_term_that_it_could_forget() {
    let mut world = World::new(1);
    named(&mut world, 0);
    world.command(0, add(2, true));
    let learner = world.join(2);
    world.pass(2 * SECOND);
    same_everywhere(&world);
    let before = world.hosts[learner].node().status().term;
    // It leads soon after a restart, but its disk does not answer.
    world.crash(0);
    world.stuck = vec![MemberId(1)];
    world.start(0);
    world.put(0, "a", "forgotten", 0);
    world.pass(3 * SECOND);
    assert_eq!(world.leader(), Some(0));
    assert_eq!(world.hosts[learner].node().status().term, before);
    // A power cut takes the term with it: the next start leads in the same one, with other entries.
    world.crash(0);
    world.stuck.clear();
    world.start(0);
    world.put(0, "a", "kept", 0);
    world.pass(3 * SECOND);
    same_everywhere(&world);
    assert_eq!(world.get(learner, "a").as_deref(), Some("kept"));
}

#[test]
fn a_follower_that_lags_too_far_gets_a_snapshot_and_goes_on_from_it() {
    let (mut world, leader) = settled();
    let behind = (leader + 1) % 3;
    world.crash(behind);
    for n in 0..50 {
        world.put(leader, &format!("k{n}"), "v", 0);
    }
    world.start(behind);
    world.pass(3 * SECOND);
    assert_eq!(world.hosts[behind].installed, 1);
    assert_eq!(world.get(behind, "k49").as_deref(), Some("v"));
    world.put(leader, "after", "x", 0);
    world.pass(SECOND);
    same_everywhere(&world);
    // What it got is durable: it comes back from its own disk.
    world.crash(behind);
    world.start(behind);
    world.pass(2 * SECOND);
    assert_eq!(world.hosts[behind].installed, 1);
    assert_eq!(world.get(behind, "after").as_deref(), Some("x"));
    world.pass(20 * SECOND);
    assert!(world.hosts.iter().all(|host| host.copies.is_empty()), "copies are dropped when idle");
}

#[test]
fn a_power_cut_right_after_a_snapshot_was_put_in_place_loses_nothing() {
    let (mut world, leader) = settled();
    let behind = (leader + 1) % 3;
    world.crash(behind);
    for n in 0..50 {
        world.put(leader, &format!("k{n}"), "v", 0);
    }
    world.start(behind);
    // The rows are put in place, the log behind them is not started anew.
    world.hold_log = true;
    for _ in 0..100 {
        world.pass(Duration::from_millis(100));
        for at in 0..3 {
            if at != behind {
                world.sync(at);
            }
        }
        if world.hosts[behind].installed == 1 {
            break;
        }
    }
    assert_eq!(world.hosts[behind].installed, 1);
    world.crash(behind);
    world.hold_log = false;
    for at in 0..3 {
        world.sync_if_running(at);
    }
    world.start(behind);
    world.pass(3 * SECOND);
    assert_eq!(world.get(behind, "k49").as_deref(), Some("v"));
    world.put(leader, "after", "x", 0);
    world.pass(SECOND);
    same_everywhere(&world);
}

#[test]
fn a_snapshot_that_does_not_arrive_is_sent_again() {
    let (mut world, leader) = settled();
    let behind = (leader + 1) % 3;
    world.crash(behind);
    for n in 0..50 {
        world.put(leader, &format!("k{n}"), "v", 0);
    }
    world.hosts[leader].snapshots_arrive = false;
    world.start(behind);
    world.pass(3 * SECOND);
    assert_eq!(world.hosts[behind].installed, 0);
    world.hosts[leader].snapshots_arrive = true;
    world.pass(3 * SECOND);
    assert_eq!(world.hosts[behind].installed, 1);
    same_everywhere(&world);
}

#[test]
fn a_restarted_leader_still_serves_a_follower_that_lags_a_little() {
    let mut world = World::new(3);
    let leader = world.elect();
    let behind = (leader + 1) % 3;
    world.crash(behind);
    for n in 0..20 {
        world.put(leader, &format!("k{n}"), "v", 0);
    }
    world.pass(limits::TIME_BETWEEN_FLUSHES + SECOND);
    for at in [leader, (leader + 2) % 3] {
        world.crash(at);
        world.start(at);
    }
    world.start(behind);
    world.elect();
    world.pass(3 * SECOND);
    same_everywhere(&world);
    assert_eq!(world.get(behind, "k19").as_deref(), Some("v"));
    assert_eq!(world.hosts[behind].installed, 0);
}

#[test]
fn a_new_member_joins_as_a_learner_is_promoted_and_counts() {
    let (mut world, leader) = settled();
    let slot = world.command((leader + 1) % 3, add(4, true));
    world.pass(SECOND);
    assert!(
        matches!(ok(world.answer((leader + 1) % 3, slot)), Reply::Members(members) if members.len() == 4)
    );
    let early = world.command(leader, codec::cluster::member_promote(MemberId(4)));
    assert_eq!(world.answer(leader, early), Some(&Err(Error::LearnerNotReady)));
    let second = world.command(leader, add(5, true));
    assert_eq!(world.answer(leader, second), Some(&Err(Error::TooManyLearners)));
    let fourth = world.join(4);
    world.pass(3 * SECOND);
    assert_eq!(world.hosts[fourth].installed, 1, "with nothing, only a snapshot tells who is there");
    assert!(world.hosts[fourth].node().status().learner);
    let again = world.command(leader, add(4, false));
    assert_eq!(world.answer(leader, again), Some(&Err(Error::MemberExist)));
    named(&mut world, fourth);
    let promote = world.command(fourth, codec::cluster::member_promote(MemberId(4)));
    world.pass(SECOND);
    assert!(matches!(ok(world.answer(fourth, promote)), Reply::Members(_)));
    assert!(!world.hosts[fourth].node().status().learner);
    let twice = world.command(leader, codec::cluster::member_promote(MemberId(4)));
    assert_eq!(world.answer(leader, twice), Some(&Err(Error::MemberNotLearner)));
    same_everywhere(&world);
    // Three of four: two are not enough, three are.
    world.crash((leader + 1) % 3);
    let slot = world.put(leader, "a", "1", 0);
    world.pass(SECOND);
    assert!(revision(world.answer(leader, slot)) > 1);
}

#[test]
fn changes_that_two_members_are_asked_for_at_once_are_both_answered() {
    let (mut world, leader) = settled();
    let (other, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let third_id = world.hosts[third].id;
    let (one, two) = (Slot(1001), Slot(1002));
    let now = world.now;
    let propose = |slot, command| Input::Propose { slot, command };
    world.hosts[leader].node.as_mut().unwrap().step(now, propose(one, add(4, true)));
    world.hosts[other]
        .node
        .as_mut()
        .unwrap()
        .step(now, propose(two, codec::cluster::member_remove(third_id)));
    world.run();
    world.pass(5 * SECOND);
    ok(world.answer(leader, one));
    ok(world.answer(other, two));
}

#[test]
fn a_member_that_is_removed_stops_and_its_id_never_comes_back() {
    let (mut world, leader) = settled();
    let gone = (leader + 1) % 3;
    let id = world.hosts[gone].id;
    let slot = world.command(leader, codec::cluster::member_remove(id));
    world.pass(SECOND);
    assert!(matches!(ok(world.answer(leader, slot)), Reply::Members(members) if members.len() == 2));
    let unknown = world.command(leader, codec::cluster::member_remove(id));
    assert_eq!(world.answer(leader, unknown), Some(&Err(Error::MemberNotFound)));
    world.crash(gone);
    let back = world.command(leader, add(id.0, false));
    assert_eq!(world.answer(leader, back), Some(&Err(Error::MemberNotFound)));
    let slot = world.put(leader, "a", "1", 0);
    world.pass(SECOND);
    assert!(revision(world.answer(leader, slot)) > 1);
}

#[test]
fn a_leader_that_is_to_be_removed_hands_over_first_and_the_others_go_on_at_once() {
    let (mut world, leader) = settled();
    let id = world.hosts[leader].id;
    let asked = (leader + 1) % 3;
    let slot = world.command(asked, codec::cluster::member_remove(id));
    world.pass(SECOND);
    assert!(matches!(ok(world.answer(asked, slot)), Reply::Members(members) if members.len() == 2));
    assert_ne!(world.leader(), Some(leader));
    let slot = world.put(asked, "a", "1", 0);
    world.pass(Duration::from_millis(500));
    assert!(revision(world.answer(asked, slot)) > 1);
}

#[test]
fn a_leader_that_is_asked_to_remove_itself_does_so_too() {
    let (mut world, leader) = settled();
    let id = world.hosts[leader].id;
    let slot = world.command(leader, codec::cluster::member_remove(id));
    world.pass(2 * SECOND);
    assert!(matches!(ok(world.answer(leader, slot)), Reply::Members(members) if members.len() == 2));
    assert!(world.hosts[leader].removed);
    assert_ne!(world.leader(), Some(leader));
}

#[test]
fn the_last_voter_stays() {
    let mut world = World::new(1);
    named(&mut world, 0);
    let slot = world.command(0, codec::cluster::member_remove(MemberId(1)));
    assert_eq!(world.answer(0, slot), Some(&Err(Error::MemberNotEnoughStarted)));
    let slot = world.put(0, "a", "1", 0);
    assert_eq!(revision(world.answer(0, slot)), 2);
}

#[test]
fn changes_that_would_risk_the_quorum_are_refused() {
    let mut world = World::new(3);
    let leader = world.elect();
    for at in 0..3 {
        named(&mut world, at);
    }
    let early = world.command(leader, add(4, false));
    assert_eq!(world.answer(leader, early), Some(&Err(Error::Unhealthy)), "nobody was in touch for long");
    world.pass(6 * SECOND);
    world.crash((leader + 1) % 3);
    world.pass(4 * SECOND);
    let other = world.hosts[(leader + 2) % 3].id;
    let slot = world.command(leader, codec::cluster::member_remove(other));
    assert_eq!(world.answer(leader, slot), Some(&Err(Error::Unhealthy)));
    let taken = world.command(leader, codec::cluster::member_update(other, vec!["http://m1:2380".into()]));
    let expected = if other == MemberId(1) { None } else { Some(Err(Error::PeerUrlExist)) };
    assert_eq!(world.answer(leader, taken).filter(|answer| answer.is_err()).cloned(), expected);
}

#[test]
fn a_member_gets_other_peer_urls_and_keeps_everything_else() {
    let (mut world, leader) = settled();
    let other = world.hosts[(leader + 1) % 3].id;
    let slot = world.command(leader, codec::cluster::member_update(other, vec!["http://new:1".into()]));
    world.pass(SECOND);
    let Reply::Members(members) = ok(world.answer(leader, slot)) else { panic!("another answer") };
    let member = members.iter().find(|member| member.id == other).unwrap();
    assert_eq!((member.peer_urls[0].as_str(), member.name.is_empty()), ("http://new:1", false));
    let slot = world.command(leader, codec::cluster::member_update(MemberId(99), vec![]));
    assert_eq!(world.answer(leader, slot), Some(&Err(Error::MemberNotFound)));
}

#[test]
fn a_keepalive_at_a_follower_reaches_the_leader_and_the_lease_outlives_it() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = (leader + 1) % 3;
    let slot = world.command(follower, codec::lease::grant(7, 5));
    world.pass(Duration::from_millis(300));
    assert!(matches!(ok(world.answer(follower, slot)), Reply::LeaseGrant { ttl: 5, .. }));
    world.put(follower, "a", "1", 7);
    let id = LeaseId::from_wire(7).unwrap();
    for _ in 0..4 {
        world.pass(3 * SECOND);
        let slot = world.ask(follower, |slot| Input::LeaseRenew { slot, id });
        world.pass(Duration::from_millis(300));
        assert!(matches!(ok(world.answer(follower, slot)), Reply::LeaseRenewed { ttl: 5, .. }));
    }
    let slot = world.ask(follower, |slot| Input::LeaseTimeToLive { slot, id, keys: true });
    world.pass(Duration::from_millis(300));
    match ok(world.answer(follower, slot)) {
        Reply::LeaseTimeToLive { ttl: 4, granted_ttl: 5, keys, .. } => assert_eq!(keys.len(), 1),
        other => panic!("{other:?}"),
    }
    // The next leader gives the full time again, and ends the lease after that.
    world.crash(leader);
    world.elect();
    world.pass(4 * SECOND);
    assert_eq!(world.get(follower, "a").as_deref(), Some("1"));
    world.pass(4 * SECOND);
    assert_eq!(world.get(follower, "a"), None);
}

#[test]
fn a_keepalive_survives_the_loss_of_the_leader() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = (leader + 1) % 3;
    world.command(leader, codec::lease::grant(7, 60));
    world.pass(SECOND);
    world.crash(leader);
    let id = LeaseId::from_wire(7).unwrap();
    let slot = world.ask(follower, |slot| Input::LeaseRenew { slot, id });
    world.pass(5 * SECOND);
    assert!(matches!(ok(world.answer(follower, slot)), Reply::LeaseRenewed { ttl: 60, .. }));
}

/// What a lease of 900 seconds has left after ten minutes without a keepalive, a new leader, and,
/// if so asked, a restart of everybody.
fn left_after_ten_minutes(checkpoints: bool, all_restart: bool) -> (World, i64) {
    let mut world = World::new(3);
    world.tune = if checkpoints { |config| config.lease_checkpoints = true } else { |_| {} };
    for at in 0..3 {
        world.crash(at);
        world.start(at);
    }
    let leader = world.elect();
    world.command(leader, codec::lease::grant(7, 900));
    world.pass(600 * SECOND);
    world.crash(leader);
    if all_restart {
        for at in 0..3 {
            world.crash(at);
            world.start(at);
        }
    }
    let leader = world.elect();
    world.pass(SECOND);
    let left = time_left(&mut world, leader);
    (world, left)
}

fn time_left(world: &mut World, at: usize) -> i64 {
    let id = LeaseId::from_wire(7).unwrap();
    let slot = world.ask(at, |slot| Input::LeaseTimeToLive { slot, id, keys: false });
    world.pass(SECOND);
    match ok(world.answer(at, slot)) {
        Reply::LeaseTimeToLive { ttl, granted_ttl: 900, .. } => *ttl,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_checkpoint_keeps_a_lease_from_starting_anew_under_the_next_leader() {
    let (_, without) = left_after_ten_minutes(false, false);
    assert!((880..=900).contains(&without), "{without} s left: without checkpoints it starts anew");
    // The last checkpoint is at most five minutes old.
    for all_restart in [false, true] {
        let (_, with) = left_after_ten_minutes(true, all_restart);
        assert!((290..=600).contains(&with), "{with} s left");
    }
}

#[test]
fn a_keepalive_after_a_checkpoint_counts_for_the_leader_after_that() {
    let (mut world, _) = left_after_ten_minutes(true, true);
    let leader = world.leader().unwrap();
    let id = LeaseId::from_wire(7).unwrap();
    let slot = world.ask(leader, |slot| Input::LeaseRenew { slot, id });
    world.pass(SECOND);
    assert!(matches!(ok(world.answer(leader, slot)), Reply::LeaseRenewed { ttl: 900, .. }));
    world.crash(leader);
    let leader = world.elect();
    world.pass(SECOND);
    let left = time_left(&mut world, leader);
    assert!((880..=900).contains(&left), "{left} s left");
}

#[test]
fn a_leader_that_stops_hands_over_and_writes_go_on_within_half_a_second() {
    let mut world = World::new(3);
    let leader = world.elect();
    world.pass(SECOND);
    let slot = world.ask(leader, |slot| Input::StepDown { slot });
    world.pass(Duration::from_millis(100));
    assert_eq!(ok(world.answer(leader, slot)), &Reply::Transferred);
    let next = world.leader().unwrap();
    assert_ne!(next, leader);
    let slot = world.put(next, "a", "1", 0);
    world.pass(Duration::from_millis(100));
    assert_eq!(revision(world.answer(next, slot)), 2);
    let nothing = world.ask(leader, |slot| Input::StepDown { slot });
    assert_eq!(ok(world.answer(leader, nothing)), &Reply::Transferred);
}

#[test]
fn a_leader_that_stops_passes_over_who_does_not_take_over() {
    for consented in [false, true] {
        let (mut world, mut leader) = settled();
        // Of equals the first is asked first.
        if leader == 0 {
            world.ask(leader, |slot| Input::TransferLeader { slot, target: MemberId(2) });
            world.pass(SECOND);
            leader = 1;
        }
        assert_eq!(world.leader(), Some(leader));
        world.hosts[0].node.as_mut().unwrap().spoil_state();
        world.hosts[leader].snapshots_arrive = false;
        world.put(leader, "a", "1", 0);
        world.pass(3 * SECOND);
        assert!(world.hosts[0].node().status().corrupt);
        if consented {
            world.command(leader, codec::cluster::alarm(&consent(MemberId(1))));
            world.pass(Duration::from_millis(100));
            assert!(world.hosts[leader].node().status().alarms.is_empty());
        }
        let remove = codec::cluster::member_remove(world.hosts[leader].id);
        let slot = match consented {
            false => world.ask(leader, |slot| Input::StepDown { slot }),
            true => world.command(leader, remove),
        };
        let time = if consented { 3 * SECOND } else { Duration::from_millis(200) };
        world.pass(time);
        ok(world.answer(leader, slot));
        assert_eq!(world.leader(), Some(3 - leader));
    }
}

#[test]
fn a_leader_whose_disk_is_stuck_gives_leadership_away() {
    let mut world = World::new(3);
    let leader = world.elect();
    world.stuck = vec![world.hosts[leader].id];
    let slot = world.put(leader, "a", "1", 0);
    world.pass(5 * SECOND);
    let next = world.leader().unwrap();
    assert_ne!(next, leader);
    let other = world.put(next, "b", "1", 0);
    world.pass(SECOND);
    assert!(revision(world.answer(next, other)) > 1);
    assert_eq!(world.answer(leader, slot), None, "it could not apply without its disk");
    world.stuck.clear();
    world.sync(leader);
    world.pass(2 * SECOND);
    assert!(revision(world.answer(leader, slot)) > 1);
    same_everywhere(&world);
}
