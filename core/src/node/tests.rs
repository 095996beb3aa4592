//! Stories of one member and of three, in one thread.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::world::{CLUSTER, Log, World, revision};
use super::*;
use crate::codec;
use crate::env::Engine;
use crate::types::ClusterId;

#[test]
fn a_sole_member_leads_at_once_and_its_first_write_has_revision_two() {
    let mut world = World::new(1);
    assert_eq!(world.leader(), Some(0));
    let slot = world.put(0, "k", "v", 0);
    assert_eq!(revision(world.answer(0, slot)), 2);
    assert!(world.hosts[0].node.as_ref().unwrap().status().sole_leader);
}

#[test]
fn a_write_is_answered_and_visible_only_after_the_log_is_durable() {
    let mut world = World::new(1);
    world.hold_log = true;
    let slot = world.put(0, "k", "v", 0);
    assert_eq!(world.answer(0, slot), None);
    assert_eq!(world.get(0, "k"), None);
    world.sync(0);
    assert_eq!(revision(world.answer(0, slot)), 2);
    assert_eq!(world.get(0, "k").as_deref(), Some("v"));
}

#[test]
fn after_a_power_cut_everything_answered_is_there_and_nothing_else_is_promised() {
    let mut world = World::new(1);
    for n in 0..50 {
        world.put(0, &format!("k{n}"), "old", 0);
    }
    world.hold_log = true;
    let lost = world.put(0, "k0", "new", 0);
    assert_eq!(world.answer(0, lost), None);
    world.crash(0);
    world.hold_log = false;
    world.start(0);
    assert_eq!(world.get(0, "k0").as_deref(), Some("old"));
    assert_eq!(world.get(0, "k49").as_deref(), Some("old"));
    let slot = world.put(0, "after", "x", 0);
    assert_eq!(revision(world.answer(0, slot)), 52);
}

#[test]
fn a_power_cut_after_a_flush_replays_only_what_the_engine_lacks() {
    let mut world = World::new(1);
    world.put(0, "a", "1", 0);
    world.pass(limits::TIME_BETWEEN_FLUSHES + Duration::from_secs(1));
    assert!(world.hosts[0].log.entries.is_empty(), "the flushed log was purged");
    world.put(0, "b", "2", 0);
    world.crash(0);
    world.start(0);
    assert_eq!(world.get(0, "a").as_deref(), Some("1"));
    assert_eq!(world.get(0, "b").as_deref(), Some("2"));
    assert_eq!(world.hosts[0].node.as_ref().unwrap().chain_hash().0, 3);
}

#[test]
fn an_engine_that_is_ahead_of_the_log_is_refused() {
    let mut world = World::new(1);
    world.put(0, "a", "1", 0);
    let host = &mut world.hosts[0];
    host.engine.flush().unwrap();
    let config = NodeConfig::new(CLUSTER, host.id, 9, 42);
    let refused = Node::new(config, host.engine.clone() as Arc<dyn Engine>, Log::default().recovered());
    let message = refused.err().unwrap().to_string();
    assert!(message.contains("lost or replaced"), "{message}");
}

#[test]
fn an_engine_of_another_cluster_is_refused() {
    let world = World::new(1);
    let host = &world.hosts[0];
    let config = NodeConfig::new(ClusterId(0xbad), host.id, 9, 42);
    let refused = Node::new(config, host.engine.clone() as Arc<dyn Engine>, host.log.recovered());
    assert!(refused.err().unwrap().to_string().contains("another cluster"));
}

fn grant(world: &mut World, at: usize, id: i64, ttl: i64) -> Result<Reply, Error> {
    let slot = world.command(at, codec::lease::grant(id, ttl));
    world.answer(at, slot).cloned().unwrap()
}

#[test]
fn a_lease_ends_with_its_keys_in_one_revision_and_not_before_its_time() {
    let mut world = World::new(1);
    let id = LeaseId::from_wire(7).unwrap();
    assert_eq!(grant(&mut world, 0, 7, 5), Ok(Reply::LeaseGrant { id, ttl: 5, revision: 1 }));
    assert_eq!(grant(&mut world, 0, 7, 5), Err(Error::LeaseExist));
    world.put(0, "b", "1", 7);
    world.put(0, "a", "1", 7);
    world.pass(Duration::from_millis(4_900));
    assert_eq!(world.get(0, "a").as_deref(), Some("1"));
    world.pass(Duration::from_millis(400));
    assert_eq!((world.get(0, "a"), world.get(0, "b")), (None, None));
    assert_eq!(world.hosts[0].events, vec![2, 3, 4]);
}

#[test]
fn a_keepalive_starts_the_time_again_and_an_unknown_lease_has_none() {
    let mut world = World::new(1);
    let id = LeaseId::from_wire(7).unwrap();
    grant(&mut world, 0, 7, 5).unwrap();
    world.put(0, "a", "1", 7);
    for _ in 0..5 {
        world.pass(Duration::from_secs(3));
        let slot = world.ask(0, |slot| Input::LeaseRenew { slot, id });
        assert!(matches!(world.answer(0, slot), Some(Ok(Reply::LeaseRenewed { ttl: 5, .. }))));
    }
    assert_eq!(world.get(0, "a").as_deref(), Some("1"));
    let id = LeaseId::from_wire(8).unwrap();
    let slot = world.ask(0, |slot| Input::LeaseRenew { slot, id });
    assert!(matches!(world.answer(0, slot), Some(Ok(Reply::LeaseRenewed { ttl: 0, .. }))));
    let slot = world.ask(0, |slot| Input::LeaseTimeToLive { slot, id, keys: true });
    assert!(matches!(
        world.answer(0, slot),
        Some(Ok(Reply::LeaseTimeToLive { ttl: -1, granted_ttl: 0, .. }))
    ));
}

#[test]
fn a_short_time_to_live_is_raised_to_one_and_a_half_election_timeouts() {
    let mut world = World::new(1);
    assert!(matches!(grant(&mut world, 0, 7, -3), Ok(Reply::LeaseGrant { ttl: 2, .. })));
    assert_eq!(grant(&mut world, 0, 8, limits::LEASE_TTL_MAX + 1), Err(Error::LeaseTtlTooLarge));
}

#[test]
fn leases_and_their_keys_survive_a_restart_with_their_full_time() {
    let mut world = World::new(1);
    grant(&mut world, 0, 7, 5).unwrap();
    world.put(0, "a", "1", 7);
    world.pass(Duration::from_secs(4));
    world.crash(0);
    world.start(0);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.get(0, "a").as_deref(), Some("1"), "the clock starts again, plus an election timeout");
    world.pass(Duration::from_secs(2));
    assert_eq!(world.get(0, "a"), None);
}

#[test]
fn a_keepalive_while_the_end_of_the_lease_is_on_its_way_waits_and_says_gone() {
    let mut world = World::new(1);
    let id = LeaseId::from_wire(7).unwrap();
    grant(&mut world, 0, 7, 2).unwrap();
    world.hold_log = true;
    world.pass(Duration::from_secs(3));
    let slot = world.ask(0, |slot| Input::LeaseRenew { slot, id });
    assert_eq!(world.answer(0, slot), None);
    world.sync(0);
    assert!(matches!(world.answer(0, slot), Some(Ok(Reply::LeaseRenewed { ttl: 0, .. }))));
}

#[test]
fn three_members_agree_and_go_on_without_any_one_of_them() {
    let mut world = World::new(3);
    let leader = world.elect();
    let slot = world.put(leader, "a", "1", 0);
    assert_eq!(revision(world.answer(leader, slot)), 2);
    world.crash(leader);
    let second = world.elect();
    assert_ne!(second, leader);
    let slot = world.put(second, "b", "2", 0);
    assert_eq!(revision(world.answer(second, slot)), 3);
    world.start(leader);
    world.pass(Duration::from_secs(3));
    let hashes: Vec<_> = world.hosts.iter().map(|host| host.node.as_ref().unwrap().chain_hash()).collect();
    assert_eq!(hashes[0].0, 3);
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

#[test]
fn a_leader_cut_off_answers_no_read_and_its_writes_go_to_the_next_leader() {
    let mut world = World::new(3);
    let old = world.elect();
    world.put(old, "a", "1", 0);
    world.cut = vec![world.hosts[old].id];
    let write = world.put(old, "a", "late", 0);
    let read = world.ask(old, |slot| Input::ReadIndex { slot });
    let new = world.elect();
    assert_ne!(new, old);
    world.put(new, "a", "2", 0);
    assert_eq!(world.answer(old, write), None);
    assert!(!matches!(world.answer(old, read), Some(Ok(_))), "a read was confirmed without a quorum");
    world.cut.clear();
    world.pass(Duration::from_secs(3));
    assert_eq!(revision(world.answer(old, write)), 4, "it came after what the next leader wrote");
    assert_eq!(world.get(new, "a").as_deref(), Some("late"));
    assert!(matches!(world.answer(old, read), Some(Ok(Reply::ReadIndex { .. }))));
}

#[test]
fn a_follower_reads_what_was_written_before_it_asked() {
    let mut world = World::new(3);
    let leader = world.elect();
    let follower = (leader + 1) % 3;
    world.put(leader, "a", "1", 0);
    let read = world.ask(follower, |slot| Input::ReadIndex { slot });
    world.pass(Duration::from_millis(200));
    assert!(matches!(world.answer(follower, read), Some(Ok(Reply::ReadIndex { .. }))));
    assert_eq!(world.get(follower, "a").as_deref(), Some("1"));
}

#[test]
fn leadership_moves_when_asked() {
    let mut world = World::new(3);
    let leader = world.elect();
    let target = world.hosts[(leader + 1) % 3].id;
    let slot = world.ask(leader, |slot| Input::TransferLeader { slot, target });
    world.pass(Duration::from_secs(1));
    assert_eq!(world.answer(leader, slot), Some(&Ok(Reply::Transferred)));
    assert_eq!(world.leader().map(|at| world.hosts[at].id), Some(target));
    let unknown = world.ask((leader + 1) % 3, |slot| Input::TransferLeader { slot, target: MemberId(99) });
    assert_eq!(world.answer((leader + 1) % 3, unknown), Some(&Err(Error::BadLeaderTransferee)));
}

#[test]
fn the_same_story_gives_the_same_state() {
    let tell = || {
        let mut world = World::new(3);
        let mut leaders = Vec::new();
        for round in 0..5 {
            let leader = world.elect();
            leaders.push(leader);
            world.put(leader, "k", &round.to_string(), 0);
            world.crash(leader);
            world.start(leader);
        }
        world.elect();
        (leaders, world.hosts[0].node.as_ref().unwrap().chain_hash())
    };
    assert_eq!(tell(), tell());
}

#[test]
fn a_message_from_a_leader_that_knows_more_of_this_log_stops_the_member() {
    let mut world = World::new(3);
    world.elect();
    let from = MemberId(2);
    let message = raft_heartbeat(from, MemberId(1), 1_000);
    let message = message::Message::Raft(message).encode();
    let node = world.hosts[0].node.as_mut().unwrap();
    node.step(world.now, Input::Peer { from, message });
    let mut out = Vec::new();
    node.drain(world.now, &mut out);
    assert!(matches!(out.as_slice(), [Output::Fatal(Fatal::Raft(_))]), "{out:?}");
}

fn raft_heartbeat(from: MemberId, to: MemberId, commit: u64) -> Bytes {
    use prost_raft::Message as _;
    use raft::eraftpb::{Message, MessageType};
    let mut message = Message { from: from.0, to: to.0, term: 1, commit, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    message.encode_to_vec().into()
}

#[test]
fn a_lease_granted_anew_under_an_old_id_outlives_the_end_of_the_old_one() {
    let mut world = World::new(1);
    grant(&mut world, 0, 7, 2).unwrap();
    world.put(0, "old", "1", 7);
    // The revoke, the new grant and the expiry of the old lease are in the log together.
    world.hold_log = true;
    let revoke = world.command(0, codec::lease::revoke(7));
    let again = world.command(0, codec::lease::grant(7, 60));
    world.pass(Duration::from_secs(4));
    world.sync(0);
    world.hold_log = false;
    assert!(matches!(world.answer(0, revoke), Some(Ok(Reply::LeaseRevoke { .. }))));
    assert!(matches!(world.answer(0, again), Some(Ok(Reply::LeaseGrant { .. }))));
    let slot = world.put(0, "new", "1", 7);
    assert!(matches!(world.answer(0, slot), Some(Ok(Reply::Put(_)))));
    assert_eq!(world.get(0, "old"), None);
}

#[test]
fn a_long_log_is_applied_in_pieces_after_a_restart() {
    let mut world = World::new(1);
    let large = "x".repeat(1 << 20);
    for n in 0..20 {
        world.put(0, &format!("k{n}"), &large, 0);
    }
    world.crash(0);
    world.start(0);
    assert_eq!(world.hosts[0].node.as_ref().unwrap().chain_hash().0, 21);
    assert_eq!(world.get(0, "k19").map(|value| value.len()), Some(1 << 20));
}
