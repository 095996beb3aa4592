//! Stories of members in one thread: a log in memory that forgets unsynced writes, an engine that
//! forgets unflushed rows, messages that arrive when the story says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use prost::Message as _;

use super::*;
use crate::cluster::Member;
use crate::env::{Engine, MemoryEngine};
use crate::mvcc::RangeRequest;
use crate::types::ClusterId;
use crate::wal::{HardState, LogEntry, LogPoint, Record, WalBatch, records};

const CLUSTER: ClusterId = ClusterId(0xc1);

/// A log that holds what was synced.
#[derive(Clone, Default)]
struct Log {
    entries: Vec<LogEntry>,
    hard_state: HardState,
    start: LogPoint,
}

impl Log {
    fn append(&mut self, batch: &WalBatch) {
        for record in records(&batch.bytes) {
            match record.unwrap() {
                Record::Entry { point, kind, data } => {
                    self.entries.retain(|entry| entry.index < point.index);
                    self.entries.push(LogEntry {
                        index: point.index,
                        term: point.term,
                        kind,
                        data: Bytes::copy_from_slice(data),
                    });
                }
                Record::HardState(state) => self.hard_state = state,
                Record::Reset(_) => panic!("no snapshots in these stories"),
            }
        }
    }

    fn purge(&mut self, up_to: LogIndex) {
        if let Some(last) = self.entries.iter().rfind(|entry| entry.index <= up_to) {
            self.start = LogPoint { index: last.index, term: last.term };
        }
        self.entries.retain(|entry| entry.index > up_to);
    }

    fn recovered(&self) -> Recovered {
        Recovered {
            start: self.start,
            entries: self.entries.clone(),
            hard_state: self.hard_state,
            tail: None,
            chain: crate::wal::Chain::default(),
        }
    }
}

struct Host {
    id: MemberId,
    node: Option<Node>,
    engine: Arc<MemoryEngine>,
    log: Log,
    boot: u64,
    /// Log writes that were given out and are not durable.
    unsynced: Vec<WalWrite>,
    last_stored: LogIndex,
    replies: BTreeMap<Slot, Result<Reply, Error>>,
    events: Vec<i64>,
    outbox: Vec<(MemberId, Bytes)>,
}

/// Members that hear each other unless cut off.
struct World {
    hosts: Vec<Host>,
    now: Instant64,
    next_slot: u64,
    hold_log: bool,
    cut: Vec<MemberId>,
}

impl World {
    fn new(count: u64) -> Self {
        let members: Vec<Member> = (1..=count)
            .map(|id| Member {
                id: MemberId(id),
                name: String::new(),
                peer_urls: vec![format!("http://m{id}:2380")],
                client_urls: vec![],
                learner: false,
            })
            .collect();
        let hosts = (1..=count)
            .map(|id| {
                let engine = Arc::new(MemoryEngine::new());
                bootstrap(engine.as_ref(), &Bootstrap { cluster_id: CLUSTER, members: members.clone() })
                    .unwrap();
                engine.flush().unwrap();
                Host {
                    id: MemberId(id),
                    node: None,
                    engine,
                    log: Log::default(),
                    boot: 0,
                    unsynced: vec![],
                    last_stored: LogIndex(0),
                    replies: BTreeMap::new(),
                    events: vec![],
                    outbox: vec![],
                }
            })
            .collect();
        let mut world = Self { hosts, now: Instant64(1), next_slot: 0, hold_log: false, cut: vec![] };
        for id in 0..count as usize {
            world.start(id);
        }
        world
    }

    /// Power cut: what was not synced or flushed is gone.
    fn crash(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.node = None;
        host.unsynced.clear();
        host.outbox.clear();
        host.engine.crash();
    }

    fn start(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.boot += 1;
        let config = NodeConfig::new(CLUSTER, host.id, host.boot, 42);
        let node = Node::new(config, host.engine.clone() as Arc<dyn Engine>, host.log.recovered()).unwrap();
        host.last_stored = node.applied_index();
        host.node = Some(node);
        self.run();
    }

    /// Carries out outputs and messages until nothing moves.
    fn run(&mut self) {
        loop {
            let mut moved = false;
            for at in 0..self.hosts.len() {
                moved |= self.drain(at);
            }
            let mut mail = Vec::new();
            for host in &mut self.hosts {
                let from = host.id;
                mail.extend(host.outbox.drain(..).map(|(to, message)| (from, to, message)));
            }
            for (from, to, message) in mail {
                if self.cut.contains(&from) || self.cut.contains(&to) {
                    continue;
                }
                let host = &mut self.hosts[to.0 as usize - 1];
                if let Some(node) = &mut host.node {
                    node.step(self.now, Input::Peer { from, message });
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn drain(&mut self, at: usize) -> bool {
        let (now, hold_log) = (self.now, self.hold_log);
        let host = &mut self.hosts[at];
        let Some(node) = &mut host.node else { return false };
        let mut out = Vec::new();
        node.drain(now, &mut out);
        let moved = !out.is_empty();
        for output in out {
            match output {
                Output::Wal(write) if hold_log => host.unsynced.push(write),
                Output::Wal(write) => {
                    host.log.append(&write.batch);
                    node.step(now, Input::WalDone { number: write.number });
                }
                Output::Store(store) => {
                    host.engine.write(&store.batch).unwrap();
                    host.last_stored = store.index;
                    node.step(now, Input::Stored { index: store.index, revision: store.revision });
                }
                Output::Flush => {
                    host.engine.flush().unwrap();
                    node.step(now, Input::Flushed { index: host.last_stored });
                }
                Output::PurgeLog { up_to } => host.log.purge(up_to),
                Output::Reply { slot, result } => {
                    assert!(host.replies.insert(slot, result).is_none(), "answered twice: {slot:?}");
                }
                Output::Events(batch) => host.events.push(batch.revision),
                Output::Send { to, message } => host.outbox.push((to, message)),
                Output::Compacted { .. } | Output::Status(_) => {}
                Output::Fatal(fatal) => panic!("member {} stopped: {fatal}", host.id),
            }
        }
        moved
    }

    /// The log of a member becomes durable.
    fn sync(&mut self, at: usize) {
        let now = self.now;
        let host = &mut self.hosts[at];
        for write in std::mem::take(&mut host.unsynced) {
            host.log.append(&write.batch);
            host.node.as_mut().unwrap().step(now, Input::WalDone { number: write.number });
        }
        self.run();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(20)).min(end);
            for host in &mut self.hosts {
                if let Some(node) = &mut host.node {
                    node.step(self.now, Input::Tick);
                }
            }
            self.run();
        }
    }

    fn ask(&mut self, at: usize, input: impl FnOnce(Slot) -> Input) -> Slot {
        self.next_slot += 1;
        let slot = Slot(self.next_slot);
        self.hosts[at].node.as_mut().unwrap().step(self.now, input(slot));
        self.run();
        slot
    }

    fn command(&mut self, at: usize, command: Command) -> Slot {
        self.ask(at, |slot| Input::Propose { slot, command })
    }

    fn answer(&self, at: usize, slot: Slot) -> Option<&Result<Reply, Error>> {
        self.hosts[at].replies.get(&slot)
    }

    fn put(&mut self, at: usize, key: &str, value: &str, lease: i64) -> Slot {
        let body = pb::PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            lease,
            ..pb::PutRequest::default()
        };
        self.command(at, Command { kind: Kind::Put, body: body.encode_to_vec().into() })
    }

    fn get(&self, at: usize, key: &str) -> Option<String> {
        let reader = self.hosts[at].node.as_ref().unwrap().reader();
        let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..RangeRequest::default() };
        let kvs = reader.range(&request).unwrap().kvs;
        kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
    }

    fn leader(&self) -> Option<usize> {
        let leads = |host: &Host| {
            let status = host.node.as_ref()?.status();
            (status.leader == Some(host.id)).then_some(status.term)
        };
        (0..self.hosts.len())
            .filter(|at| !self.cut.contains(&self.hosts[*at].id))
            .filter_map(|at| leads(&self.hosts[at]).map(|term| (term, at)))
            .max()
            .map(|(_, at)| at)
    }

    fn elect(&mut self) -> usize {
        for _ in 0..200 {
            self.pass(Duration::from_millis(100));
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("no leader within twenty seconds");
    }
}

fn revision(answer: Option<&Result<Reply, Error>>) -> i64 {
    match answer {
        Some(Ok(Reply::Put(response))) => response.revision,
        other => panic!("not a put's answer: {other:?}"),
    }
}

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
    let before = world.hosts[0].node.as_ref().unwrap().chain_hash();
    world.hold_log = true;
    let lost = world.put(0, "k0", "new", 0);
    assert_eq!(world.answer(0, lost), None);
    world.crash(0);
    world.hold_log = false;
    world.start(0);
    assert_eq!(world.hosts[0].node.as_ref().unwrap().chain_hash(), before);
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
fn a_leader_cut_off_answers_no_read_and_its_writes_are_given_back_as_lost() {
    let mut world = World::new(3);
    let old = world.elect();
    world.put(old, "a", "1", 0);
    world.cut = vec![world.hosts[old].id];
    let write = world.put(old, "a", "lost", 0);
    let read = world.ask(old, |slot| Input::ReadIndex { slot });
    let new = world.elect();
    assert_ne!(new, old);
    world.put(new, "a", "2", 0);
    assert_eq!(world.answer(old, write), None);
    assert!(!matches!(world.answer(old, read), Some(Ok(_))), "a read was confirmed without a quorum");
    world.cut.clear();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.answer(old, write), Some(&Err(Error::LeaderChanged)));
    assert_eq!(world.get(old, "a").as_deref(), Some("2"));
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
