//! Members in one thread, for stories: a log in memory that forgets unsynced writes, an engine that
//! forgets unflushed rows, messages that arrive when the story says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use prost::Message as _;

use super::*;
use crate::apply::meta::Applied;
use crate::cluster::Member;
use crate::command::Kind;
use crate::env::{Engine, MemoryEngine, WriteBatch};
use crate::mvcc::RangeRequest;
use crate::types::ClusterId;
use crate::wal::{HardState, LogEntry, LogPoint, Record, WalBatch, records};

pub const CLUSTER: ClusterId = ClusterId(0xc1);

/// A log that holds what was synced.
#[derive(Clone, Default)]
pub struct Log {
    pub entries: Vec<LogEntry>,
    pub hard_state: HardState,
    pub start: LogPoint,
}

impl Log {
    pub fn append(&mut self, batch: &WalBatch) {
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
                Record::Reset(point) => {
                    self.start = point;
                    self.entries.clear();
                }
            }
        }
    }

    pub fn purge(&mut self, up_to: LogIndex) {
        if let Some(last) = self.entries.iter().rfind(|entry| entry.index <= up_to) {
            self.start = LogPoint { index: last.index, term: last.term };
        }
        self.entries.retain(|entry| entry.index > up_to);
    }

    pub fn recovered(&self) -> Recovered {
        Recovered {
            start: self.start,
            entries: self.entries.clone(),
            hard_state: self.hard_state,
            tail: None,
            chain: crate::wal::Chain::default(),
        }
    }
}

pub struct Host {
    pub id: MemberId,
    pub node: Option<Node>,
    pub engine: Arc<MemoryEngine>,
    pub log: Log,
    pub boot: u64,
    /// Log writes that were given out and are not durable.
    pub unsynced: Vec<WalWrite>,
    pub last_stored: LogIndex,
    pub replies: BTreeMap<Slot, Result<Reply, Error>>,
    pub events: Vec<i64>,
    pub outbox: Vec<(MemberId, Bytes)>,
    /// Copies of the engine that were made for others.
    pub copies: BTreeMap<SnapshotId, MemoryEngine>,
    /// Snapshots that arrived.
    pub staged: BTreeMap<SnapshotId, MemoryEngine>,
    pub installed: u64,
    pub removed: bool,
    pub fatal: Option<Fatal>,
    /// Whether a snapshot that it sends arrives.
    pub snapshots_arrive: bool,
    /// Snapshots on their way to others: receiver, message, the copy and its files, which last until then.
    pub parcels: Vec<(MemberId, Bytes, SnapshotId, MemoryEngine)>,
}

impl Host {
    fn new(id: MemberId, engine: Arc<MemoryEngine>) -> Self {
        Self {
            id,
            node: None,
            engine,
            log: Log::default(),
            boot: 0,
            unsynced: vec![],
            last_stored: LogIndex(0),
            replies: BTreeMap::new(),
            events: vec![],
            outbox: vec![],
            copies: BTreeMap::new(),
            staged: BTreeMap::new(),
            installed: 0,
            removed: false,
            fatal: None,
            snapshots_arrive: true,
            parcels: vec![],
        }
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().expect("it runs")
    }
}

/// Members that hear each other unless cut off.
pub struct World {
    pub hosts: Vec<Host>,
    pub now: Instant64,
    pub next_slot: u64,
    pub hold_log: bool,
    pub cut: Vec<MemberId>,
    /// Snapshots stay on their way.
    pub hold_parcels: bool,
    /// Members whose log writes do not become durable for now.
    pub stuck: Vec<MemberId>,
    /// How the next member that starts is set up.
    pub tune: fn(&mut NodeConfig),
}

impl World {
    pub fn new(count: u64) -> Self {
        let members: Vec<Member> = (1..=count)
            .map(|id| Member {
                id: MemberId(id),
                name: String::new(),
                peer_urls: vec![format!("http://m{id}:2380")],
                client_urls: vec![],
                learner: false,
                incarnation: 0,
            })
            .collect();
        let hosts = (1..=count)
            .map(|id| {
                let engine = Arc::new(MemoryEngine::new());
                bootstrap(engine.as_ref(), &Bootstrap { cluster_id: CLUSTER, members: members.clone() })
                    .unwrap();
                engine.flush().unwrap();
                Host::new(MemberId(id), engine)
            })
            .collect();
        let mut world = Self {
            hosts,
            now: Instant64(1),
            next_slot: 0,
            hold_log: false,
            cut: vec![],
            hold_parcels: false,
            stuck: vec![],
            tune: |_| {},
        };
        for id in 0..count as usize {
            world.start(id);
        }
        world
    }

    /// Power cut: what was not synced or flushed is gone.
    pub fn crash(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.node = None;
        host.unsynced.clear();
        host.outbox.clear();
        host.engine.crash();
    }

    pub fn start(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.boot += 1;
        let mut config = NodeConfig::new(CLUSTER, host.id, host.boot, 42);
        (self.tune)(&mut config);
        let node = Node::new(config, host.engine.clone() as Arc<dyn Engine>, host.log.recovered()).unwrap();
        host.last_stored = node.applied_index();
        host.node = Some(node);
        self.run();
    }

    /// Carries out outputs and messages until nothing moves.
    pub fn run(&mut self) {
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
                let Some(host) = self.hosts.get_mut(to.0 as usize - 1) else { continue };
                if let Some(node) = &mut host.node {
                    node.step(self.now, Input::Peer { from, message });
                    moved = true;
                }
            }
            for at in 0..self.hosts.len() {
                moved |= self.carry_parcels(at);
            }
            if !moved {
                return;
            }
        }
    }

    pub fn drain(&mut self, at: usize) -> bool {
        let host = &mut self.hosts[at];
        let (now, hold_log) = (self.now, self.hold_log || self.stuck.contains(&host.id));
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
                Output::Compacted { .. } | Output::Status(_) | Output::Restored { .. } => {}
                Output::MakeSnapshot { id } => {
                    let copy = host.engine.copy();
                    let position = Applied::load(&copy).unwrap().unwrap();
                    host.copies.insert(id, copy);
                    node.step(now, Input::SnapshotMade { id, position });
                }
                Output::SendSnapshot { to, id, message } => {
                    host.parcels.push((to, message, id, host.copies[&id].copy()));
                }
                Output::DropSnapshot { id } => assert!(host.copies.remove(&id).is_some()),
                Output::InstallSnapshot { staged, index } => {
                    let rows = host.staged.remove(&staged).unwrap();
                    let mut mark = WriteBatch::new();
                    mark_installed(&mut mark, index);
                    rows.write(&mark).unwrap();
                    host.engine.replace_with(&rows);
                    host.last_stored = index;
                    host.installed += 1;
                    node.step(now, Input::SnapshotInstalled { staged });
                }
                Output::DiscardSnapshot { staged } => assert!(host.staged.remove(&staged).is_some()),
                Output::Removed => host.removed = true,
                Output::Fatal(fatal) => host.fatal = Some(fatal),
            }
        }
        moved
    }

    /// Brings the snapshots that a member sends to their receivers.
    fn carry_parcels(&mut self, at: usize) -> bool {
        if self.hold_parcels {
            return false;
        }
        let parcels = std::mem::take(&mut self.hosts[at].parcels);
        let moved = !parcels.is_empty();
        for (to, message, id, copy) in parcels {
            let host = &self.hosts[at];
            let from = host.id;
            let position = Applied::load(&copy).unwrap().unwrap();
            let arrives = host.snapshots_arrive && !self.cut.contains(&from) && !self.cut.contains(&to);
            let receiver = &mut self.hosts[to.0 as usize - 1];
            let ok = arrives && receiver.node.is_some();
            if ok {
                let staged = SnapshotId(receiver.staged.len() as u64 + 1000 * receiver.installed + 7);
                receiver.staged.insert(staged, copy);
                let input = Input::SnapshotArrived { from, message, staged, position };
                receiver.node.as_mut().unwrap().step(self.now, input);
            }
            let now = self.now;
            if let Some(node) = &mut self.hosts[at].node {
                node.step(now, Input::SnapshotSent { to, id, ok });
            }
        }
        moved
    }

    /// A new member, with nothing, that was added with this id.
    pub fn join(&mut self, id: u64) -> usize {
        assert_eq!(self.hosts.len() as u64 + 1, id, "hosts are found by their id");
        let engine = Arc::new(MemoryEngine::new());
        bootstrap(engine.as_ref(), &Bootstrap { cluster_id: CLUSTER, members: vec![] }).unwrap();
        engine.flush().unwrap();
        self.hosts.push(Host::new(MemberId(id), engine));
        self.start(id as usize - 1);
        id as usize - 1
    }

    /// [`Self::sync`] for one that may be down.
    pub fn sync_if_running(&mut self, at: usize) {
        if self.hosts[at].node.is_some() {
            self.sync(at);
        }
    }

    /// The log of a member becomes durable.
    pub fn sync(&mut self, at: usize) {
        let now = self.now;
        let host = &mut self.hosts[at];
        for write in std::mem::take(&mut host.unsynced) {
            host.log.append(&write.batch);
            host.node.as_mut().unwrap().step(now, Input::WalDone { number: write.number });
        }
        self.run();
    }

    pub fn pass(&mut self, time: Duration) {
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

    pub fn ask(&mut self, at: usize, input: impl FnOnce(Slot) -> Input) -> Slot {
        self.next_slot += 1;
        let slot = Slot(self.next_slot);
        self.hosts[at].node.as_mut().unwrap().step(self.now, input(slot));
        self.run();
        slot
    }

    pub fn command(&mut self, at: usize, command: Command) -> Slot {
        self.ask(at, |slot| Input::Propose { slot, command })
    }

    pub fn answer(&self, at: usize, slot: Slot) -> Option<&Result<Reply, Error>> {
        self.hosts[at].replies.get(&slot)
    }

    pub fn put(&mut self, at: usize, key: &str, value: &str, lease: i64) -> Slot {
        let body = pb::PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            lease,
            ..pb::PutRequest::default()
        };
        self.command(at, Command { kind: Kind::Put, body: body.encode_to_vec().into() })
    }

    pub fn get(&self, at: usize, key: &str) -> Option<String> {
        let reader = self.hosts[at].node.as_ref().unwrap().reader();
        let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..RangeRequest::default() };
        let kvs = reader.range(&request).unwrap().kvs;
        kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
    }

    pub fn leader(&self) -> Option<usize> {
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

    pub fn elect(&mut self) -> usize {
        for _ in 0..200 {
            self.pass(Duration::from_millis(100));
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("no leader within twenty seconds");
    }
}

/// The revision of a put that was answered.
pub fn revision(answer: Option<&Result<Reply, Error>>) -> i64 {
    match answer {
        Some(Ok(Reply::Put(response))) => response.revision,
        other => panic!("not a put's answer: {other:?}"),
    }
}
