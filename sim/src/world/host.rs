//! A member as a process on a machine: what it has on disk, and what runs while it is up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use folkmoot_core::apply::meta::Applied;
use folkmoot_core::cluster::Member;
use folkmoot_core::env::{Engine, EngineError};
use folkmoot_core::error::Fatal;
use folkmoot_core::mvcc::{GcState, gc};
use folkmoot_core::node::{Bootstrap, Input, Node, NodeConfig, SnapshotId, bootstrap};
use folkmoot_core::types::{Instant64, LogIndex, MemberId};
use folkmoot_core::wal::Identity;
use folkmoot_core::watch::{Hub, HubConfig};

use super::disks::{LogBusy, LogJob, StorageBusy, StorageJob};
use super::hub::HubInput;
use super::snapshots::Copied;
use super::{CLUSTER, Happening, Life, World};
use crate::disk::{LogWriter, Rows, SimDisk, SimEngine};
use crate::ledger::{LogChange, LogView, Stamp};
use crate::network::HostAt;
use crate::random::Random;
use crate::sometimes::Situation;
use crate::time::{Clock, MS, Nanos, SEC, US};

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The process is killed; the system keeps what it has in memory.
    Kill,
    /// The machine loses power.
    PowerCut,
}

/// What is wrong with a member's disk.
#[derive(Clone, Default, Debug)]
pub struct DiskTrouble {
    /// Everything takes that many times as long.
    pub slow: u64,
    /// Syncs do not end before this.
    pub stuck_until: Nanos,
    /// The next write of the log fails.
    pub fail_write: bool,
    /// The next sync of the log fails.
    pub fail_sync: bool,
}

/// See the module.
pub struct Host {
    pub id: MemberId,
    pub clock: Clock,
    pub disk: SimDisk,
    pub engine: Arc<SimEngine>,
    pub boot: u64,
    pub life: Life,
    pub running: Option<Box<Running>>,
    /// The process stands still until then.
    pub paused_until: Nanos,
    /// Turns take that much longer.
    pub sluggish: Nanos,
    pub trouble: DiskTrouble,
    /// The process ends in the middle of its next outputs.
    pub armed: Option<Stop>,
    /// Power goes while the next log write is being synced, and stays away for so long.
    pub cut_in_sync: Option<Nanos>,
    /// Why the process ended by itself, if it did.
    pub fatal: Option<String>,
    /// Its log is damaged, so that it may refuse to start, or may have lost something.
    pub flipped: bool,
    /// Nobody starts it again: it was removed, or is not there yet.
    pub gone: bool,
    /// Its log cannot be read any more.
    pub damaged: bool,
    /// Its state is wrong.
    pub spoiled: bool,
    /// It lost its disk and came back under its old id.
    pub wiped: bool,
    /// Number of its disk.
    pub incarnation: u64,
    /// What is on the disk of the log for certain.
    pub durable: LogView,
    /// The same of disks that are gone: what was promised with them counted when it was promised.
    pub lost: Vec<LogView>,
}

/// What runs while the process is up.
pub struct Running {
    pub node: Node,
    pub hub: Hub,
    pub inbox: Vec<Input>,
    pub turn_at: Nanos,
    pub wakeup: Instant64,
    /// The log as the core believes it to be.
    pub written: LogView,
    pub log: LogWriter,
    pub log_jobs: Vec<LogJob>,
    pub log_busy: Option<LogBusy>,
    /// Written to the log and not synced.
    pub unsynced: Vec<LogChange>,
    pub storage_jobs: VecDeque<StorageJob>,
    pub storage_busy: Option<StorageBusy>,
    pub stored: (LogIndex, i64),
    pub walk: Option<GcState>,
    pub compact_revision: i64,
    pub garbage_planned: bool,
    pub hub_inputs: Vec<HubInput>,
    pub hub_at: Nanos,
    /// Calls that wait for an answer of the core.
    pub waiting: BTreeSet<u64>,
    /// Copies of the engine made for others.
    pub copies: BTreeMap<SnapshotId, Copied>,
    /// Snapshots that arrived and wait.
    pub staged: BTreeMap<SnapshotId, Rows>,
    /// What was last looked at of the node.
    pub seen: Seen,
}

/// What was last looked at of a node.
#[derive(Default)]
pub struct Seen {
    pub committed: LogIndex,
    pub leads: bool,
    pub voters: Vec<MemberId>,
    /// What was applied when they became the voters.
    pub voters_since: LogIndex,
    pub earlier_voters: Vec<MemberId>,
    pub state: (LogIndex, u64),
    pub corrupt: bool,
    /// Index of the newest snapshot that arrived.
    pub snapshot: LogIndex,
}

impl Host {
    /// What the member has applied, as it says.
    pub fn applied(&self) -> LogIndex {
        self.running.as_ref().map_or(LogIndex(0), |running| running.node.status().applied)
    }

    /// Whether it should still know after a restart who the voters are: its log says that the change
    /// was committed, or has nothing more to write.
    pub fn remembers_voters(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let written = running.log_busy.is_none() && running.log_jobs.is_empty();
            written || running.seen.voters_since.0 <= self.durable.commit()
        })
    }

    /// Who belongs to the cluster, as the member says.
    pub fn status_members(&self) -> Arc<Vec<Member>> {
        self.running.as_ref().map(|running| Arc::clone(&running.node.status().members)).unwrap_or_default()
    }

    /// Whether the member has, or had on a disk that is gone since, this entry durably.
    pub fn held(&self, index: u64, stamp: Stamp) -> bool {
        self.durable.holds(index, stamp) || self.lost.iter().any(|lost| lost.holds(index, stamp))
    }

    /// Whether the member believes to lead.
    pub fn leads(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.node.status().leader == Some(self.id))
    }
}

impl World {
    /// Sets up the first members and starts them.
    pub(super) fn found_cluster(&mut self) {
        let members: Vec<Member> =
            (1..=self.plan.members as u64).map(|id| member(MemberId(id), false)).collect();
        for first in members.clone() {
            let engine = Arc::new(SimEngine::default());
            let cluster = Bootstrap { cluster_id: CLUSTER, members: members.clone() };
            bootstrap(engine.as_ref(), &cluster).expect("the model's engine does not fail");
            engine.flush().expect("the model's engine does not fail");
            let at = self.add_host(first.id, engine);
            self.start(at);
        }
    }

    /// A machine for a member, not started.
    pub fn add_host(&mut self, id: MemberId, engine: Arc<SimEngine>) -> HostAt {
        let local = self.machine.between(SEC, 1_000_000 * SEC);
        self.hosts.push(Host {
            id,
            clock: Clock::new(local),
            disk: SimDisk::new(),
            engine,
            boot: 0,
            life: 0,
            running: None,
            paused_until: 0,
            sluggish: 0,
            trouble: DiskTrouble { slow: 1, ..DiskTrouble::default() },
            armed: None,
            cut_in_sync: None,
            fatal: None,
            flipped: false,
            gone: false,
            damaged: false,
            spoiled: false,
            wiped: false,
            incarnation: id.0 * 1000 + 7,
            durable: LogView::default(),
            lost: Vec::new(),
        });
        self.hosts.len() - 1
    }

    /// Starts a member that is down.
    pub fn start(&mut self, at: HostAt) {
        let seed = self.plan.seed;
        let host = &mut self.hosts[at];
        host.life += 1;
        host.boot += 1;
        host.fatal = None;
        let nonces = Random::new(seed, "nonce", host.id.0 << 32 | host.boot);
        let applied = match Applied::load(host.engine.as_ref()) {
            Ok(Some(applied)) => applied,
            other => return self.start_refused(at, format!("the engine holds no position: {other:?}")),
        };
        let identity = Identity { cluster_id: CLUSTER, member_id: host.id };
        let kept = self.plan.kept_entries as u64;
        let discard = LogIndex(applied.index.0.saturating_sub(kept));
        let opened = LogWriter::open(&mut host.disk, identity, discard, self.plan.segment_bytes, nonces);
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return self.start_refused(at, error),
        };
        let view = LogView::recovered(
            opened.recovered.start,
            &opened.recovered.entries,
            opened.recovered.hard_state.commit,
        );
        let lost = (!host.flipped && !host.wiped).then(|| missing(&host.durable, &view)).flatten();
        let replayed = view.last() > applied.index.0;
        host.durable = view.clone();
        let mut config = NodeConfig::new(CLUSTER, host.id, host.boot, seed);
        self.plan.tune(&mut config);
        let engine: Arc<dyn Engine> = host.engine.clone();
        let node = match Node::new(config, engine, opened.recovered) {
            Ok(node) => node,
            Err(fatal) => return self.start_refused(at, fatal.to_string()),
        };
        let seen = Seen {
            committed: node.status().committed,
            voters: node.conf_state().voters.clone(),
            ..Seen::default()
        };
        let hub_config = HubConfig {
            ring_bytes: self.plan.ring_bytes,
            outbox_bytes: self.plan.outbox_bytes,
            catch_up_revisions: 100,
            progress_interval: std::time::Duration::from_secs(2),
            ..HubConfig::default()
        };
        let hub = Hub::new(hub_config, Arc::new(node.reader()), applied.revision, applied.compact_revision);
        let walk = gc::load(host.engine.as_ref())
            .ok()
            .and_then(|state| gc::plan(state, applied.compact_revision, applied.revision));
        host.running = Some(Box::new(Running {
            node,
            hub,
            inbox: Vec::new(),
            turn_at: Nanos::MAX,
            wakeup: Instant64(0),
            written: view,
            log: opened.writer,
            log_jobs: Vec::new(),
            log_busy: None,
            unsynced: Vec::new(),
            storage_jobs: VecDeque::new(),
            storage_busy: None,
            stored: (applied.index, applied.revision),
            walk,
            compact_revision: applied.compact_revision,
            garbage_planned: false,
            hub_inputs: Vec::new(),
            hub_at: Nanos::MAX,
            waiting: BTreeSet::new(),
            copies: BTreeMap::new(),
            staged: BTreeMap::new(),
            seen,
        }));
        for (met, situation) in [
            (opened.torn, Situation::TornTail),
            (opened.rewritten, Situation::TailRewritten),
            (replayed, Situation::ReplayedAfterCrash),
        ] {
            if met {
                self.met(situation);
            }
        }
        if let Some(text) = lost {
            self.fail("durability", text);
        }
        let (id, boot) = (self.hosts[at].id, self.hosts[at].boot);
        self.note(|| format!("member {id} starts, boot {boot}, applied {}", applied.index));
        self.schedule_turn(at, self.now + 10 * US);
        self.plan_garbage(at);
        let life = self.hosts[at].life;
        self.queue.push(self.now + 100 * MS, Happening::Announce(at, life));
    }

    /// A member does not start.
    fn start_refused(&mut self, at: HostAt, error: String) {
        let host = &mut self.hosts[at];
        let id = host.id;
        host.fatal = Some(error.clone());
        let flipped = host.flipped;
        self.note(|| format!("member {id} refuses to start: {error}"));
        if flipped {
            self.met(Situation::DamageRefused);
        } else {
            self.fail("start", format!("member {id} refuses to start: {error}"));
        }
    }

    /// A member's process ends.
    pub fn crash(&mut self, at: HostAt, stop: Stop) {
        let Some(running) = self.hosts[at].running.take() else { return };
        self.counts.crashes += 1;
        self.last_crash = self.now;
        let host = &mut self.hosts[at];
        host.life += 1;
        host.armed = None;
        host.cut_in_sync = None;
        host.paused_until = 0;
        let leads = running.node.status().leader == Some(host.id);
        let mut met = Vec::new();
        if !running.copies.is_empty() || !running.staged.is_empty() {
            met.push(Situation::SnapshotInterrupted);
        }
        if leads && !running.waiting.is_empty() {
            met.push(Situation::LeaderCrashedWithWaiters);
        }
        if running.log_busy.is_some() {
            met.push(Situation::CrashBeforeSync);
        }
        if running.walk.is_some() {
            met.push(Situation::CrashDuringGarbage);
        }
        if stop == Stop::PowerCut && host.disk.cut_power(&mut self.machine) > 0 {
            met.push(Situation::SectorsLost);
        }
        let unflushed = host.engine.unflushed();
        let kept = self.machine.below(unflushed as u64 + 1) as usize;
        if kept < unflushed {
            met.push(Situation::EngineRolledBack);
        }
        host.engine.crash(kept);
        let id = host.id;
        for situation in met {
            self.met(situation);
        }
        self.note(|| format!("member {id} ends: {stop:?}, {kept} of {unflushed} engine batches kept"));
        if self.hosts.iter().all(|host| host.running.is_none()) {
            self.met(Situation::AllDown);
        } else if self.hosts.iter().filter(|host| host.running.is_some()).count() * 2 <= self.hosts.len() {
            self.met(Situation::MinorityUp);
        }
        self.network.forget_held(at);
        if stop == Stop::Kill && self.plan.ends_are_noticed {
            self.close_connections(at);
        }
        self.drop_connections(at, running.waiting);
    }

    /// The system of a process that ended closes its connections to the other members.
    fn close_connections(&mut self, of: HostAt) {
        for to in (0..self.hosts.len()).filter(|to| *to != of) {
            if let Some(arrival) = self.network.close(self.now, of, to) {
                let life = self.hosts[to].life;
                self.queue.push(arrival, Happening::Ended(to, life, of));
            }
        }
    }

    /// A member's transport tells it that the connection to another was lost.
    pub(super) fn end_is_noticed(&mut self, at: HostAt, life: Life, other: HostAt) {
        if self.hosts[at].life == life && self.hosts[at].running.is_some() {
            self.met(Situation::EndNoticed);
            self.give(at, Input::PeerLost { peer: self.hosts[other].id });
        }
    }

    /// A member's process ends by itself, because a disk failed or its core said so.
    /// Unless the simulator itself made the disk fail, that is a finding.
    pub fn stops(&mut self, at: HostAt, what: &str, fatal: &Fatal) {
        self.ends_by_itself(at, what, fatal, false);
    }

    /// The same because of a fault of the disk.
    pub(super) fn disk_fails(&mut self, at: HostAt, what: &str) {
        let fatal = Fatal::Engine(EngineError(what.to_owned()));
        self.ends_by_itself(at, "log", &fatal, true);
    }

    fn ends_by_itself(&mut self, at: HostAt, what: &str, fatal: &Fatal, excused: bool) {
        let host = &mut self.hosts[at];
        // With an empty disk under its old id it must not go on.
        let excused = excused || host.wiped;
        if host.wiped {
            self.sometimes.met(Situation::LostLogRefused);
        }
        let id = host.id;
        host.fatal = Some(format!("{what}: {fatal}"));
        self.note(|| format!("member {id} stops: {what}: {fatal}"));
        self.crash(at, Stop::Kill);
        if !excused {
            self.fail("fatal", format!("member {id} stops without a reason: {what}: {fatal}"));
        }
    }

    /// Ends a member and starts it after a while.
    pub fn restart(&mut self, at: HostAt, stop: Stop, down: Nanos) {
        self.crash(at, stop);
        let life = self.hosts[at].life;
        self.queue.push(self.now + down, Happening::Start(at, life));
    }

    /// Everything that is wrong with a member is mended, and it runs again.
    pub(super) fn mend(&mut self, at: HostAt) {
        let host = &mut self.hosts[at];
        host.trouble = DiskTrouble { slow: 1, ..DiskTrouble::default() };
        host.disk.capacity = usize::MAX;
        host.sluggish = 0;
        host.armed = None;
        host.cut_in_sync = None;
        host.paused_until = host.paused_until.min(self.now);
        let (gone, life, down) = (host.gone, host.life, host.running.is_none());
        if down && !gone {
            self.queue.push(self.now + 10 * MS, Happening::Start(at, life));
        }
    }
}

/// What a log has lost that was on the disk for certain.
fn missing(durable: &LogView, found: &LogView) -> Option<String> {
    let last = durable.last();
    let stamp = durable.get(last)?;
    // A later leader's entries, perhaps fewer, may stand in its place although nobody was told that
    // they are durable: what was not synced may be lost, and may be there.
    let replaced = found.get(found.last()).is_some_and(|other| other.term > stamp.term);
    (!found.holds(last, stamp) && !replaced).then(|| {
        format!("a synced log entry is gone after a restart; index={last} found_last={}", found.last())
    })
}

/// A member with the addresses that its id gives it.
pub fn member(id: MemberId, learner: bool) -> Member {
    Member {
        id,
        name: format!("m{}", id.0),
        peer_urls: vec![format!("http://m{}:2380", id.0)],
        client_urls: Vec::new(),
        learner,
        incarnation: 0,
    }
}
