//! What the core thread tells everybody about the member, readable without asking it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use folkmoot_core::cluster::{Alarm, AlarmKind, Member};
use folkmoot_core::node::Status;
use folkmoot_core::types::MemberId;
use parking_lot::RwLock;
use tokio::sync::watch;

/// Written by the core thread only (and the engine's size by the storage thread); every field can
/// be read at any time. Fields may be of neighbouring moments.
pub struct Published {
    term: AtomicU64,
    leader: AtomicU64,
    committed: AtomicU64,
    applied: AtomicU64,
    sole_leader: AtomicBool,
    learner: AtomicBool,
    corrupt: AtomicBool,
    removed_self: watch::Sender<bool>,
    /// Others whose states were compared with this one's, and whether this one came out wrong.
    comparison: watch::Sender<(usize, bool)>,
    leader_since: RwLock<Instant>,
    state_hash: RwLock<(u64, u64)>,
    no_space: AtomicBool,
    lists: RwLock<Lists>,
    leadership: watch::Sender<(u64, Option<MemberId>)>,
    engine_total_bytes: AtomicU64,
    engine_live_bytes: AtomicU64,
}

#[derive(Clone)]
struct Lists {
    members: Arc<Vec<Member>>,
    alarms: Arc<Vec<Alarm>>,
    cluster_version: Arc<str>,
    removed: Arc<Vec<MemberId>>,
}

impl Published {
    /// Starts from the node's first status.
    pub fn new(status: &Status) -> Self {
        let lists = Lists {
            members: Arc::clone(&status.members),
            alarms: Arc::clone(&status.alarms),
            cluster_version: Arc::clone(&status.cluster_version),
            removed: Arc::clone(&status.removed),
        };
        let published = Self {
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            sole_leader: AtomicBool::new(false),
            learner: AtomicBool::new(false),
            corrupt: AtomicBool::new(false),
            removed_self: watch::Sender::new(false),
            comparison: watch::Sender::new((0, false)),
            leader_since: RwLock::new(Instant::now()),
            state_hash: RwLock::new((0, 0)),
            no_space: AtomicBool::new(false),
            lists: RwLock::new(lists),
            leadership: watch::Sender::new((0, None)),
            engine_total_bytes: AtomicU64::new(0),
            engine_live_bytes: AtomicU64::new(0),
        };
        published.set(status);
        published
    }

    /// Takes over a newer status.
    pub fn set(&self, status: &Status) {
        self.term.store(status.term.0, Ordering::Release);
        self.leader.store(status.leader.map_or(0, |leader| leader.0), Ordering::Release);
        self.committed.store(status.committed.0, Ordering::Release);
        self.applied.store(status.applied.0, Ordering::Release);
        self.sole_leader.store(status.sole_leader, Ordering::Release);
        self.learner.store(status.learner, Ordering::Release);
        self.corrupt.store(status.corrupt, Ordering::Release);
        let comparison = (status.compared, status.corrupt);
        self.comparison.send_if_modified(|known| std::mem::replace(known, comparison) != comparison);
        *self.state_hash.write() = (status.state_hash.0.0, status.state_hash.1);
        let lists = self.lists.read();
        let changed = !Arc::ptr_eq(&lists.members, &status.members)
            || !Arc::ptr_eq(&lists.alarms, &status.alarms)
            || !Arc::ptr_eq(&lists.cluster_version, &status.cluster_version);
        drop(lists);
        if changed {
            *self.lists.write() = Lists {
                members: Arc::clone(&status.members),
                alarms: Arc::clone(&status.alarms),
                cluster_version: Arc::clone(&status.cluster_version),
                removed: Arc::clone(&status.removed),
            };
        }
        let no_space = status.alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace);
        self.no_space.store(no_space, Ordering::Release);
        self.leadership.send_if_modified(|known| {
            let now = (status.term.0, status.leader);
            let changed = *known != now;
            if changed {
                *self.leader_since.write() = Instant::now();
            }
            *known = now;
            changed
        });
    }

    /// Takes over the size of the engine in bytes: all of it, and the part that is not garbage.
    pub fn set_engine_bytes(&self, total: u64, live: u64) {
        self.engine_total_bytes.store(total, Ordering::Relaxed);
        self.engine_live_bytes.store(live, Ordering::Relaxed);
    }

    /// Current Raft term.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// The leader as known here.
    pub fn leader(&self) -> Option<MemberId> {
        Some(MemberId(self.leader.load(Ordering::Acquire))).filter(|leader| leader.0 != 0)
    }

    /// Committed log index.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Applied log index.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Whether linearizable reads may run on the published state at once.
    pub fn sole_leader(&self) -> bool {
        self.sole_leader.load(Ordering::Acquire)
    }

    /// Whether this member is a learner.
    pub fn learner(&self) -> bool {
        self.learner.load(Ordering::Acquire)
    }

    /// Whether this member's state was found to be wrong.
    pub fn corrupt(&self) -> bool {
        self.corrupt.load(Ordering::Acquire)
    }

    /// Since when this member knows its present leader, or that there is none.
    pub fn leader_since(&self) -> Instant {
        *self.leader_since.read()
    }

    /// With how many others this member's state was compared, and whether it came out wrong; to
    /// wait for a change of.
    pub fn comparison(&self) -> watch::Receiver<(usize, bool)> {
        self.comparison.subscribe()
    }

    /// Log index and hash of the state at it.
    pub fn state_hash(&self) -> (u64, u64) {
        *self.state_hash.read()
    }

    /// Ids of members that were removed.
    pub fn removed(&self) -> Arc<Vec<MemberId>> {
        Arc::clone(&self.lists.read().removed)
    }

    /// This member was removed from the cluster.
    pub fn set_removed_self(&self) {
        self.removed_self.send_replace(true);
    }

    /// Turns true when this member was removed from the cluster.
    pub fn removed_self(&self) -> watch::Receiver<bool> {
        self.removed_self.subscribe()
    }

    /// Whether any member's space alarm is on.
    pub fn no_space(&self) -> bool {
        self.no_space.load(Ordering::Acquire)
    }

    /// The members by id.
    pub fn members(&self) -> Arc<Vec<Member>> {
        Arc::clone(&self.lists.read().members)
    }

    /// The active alarms.
    pub fn alarms(&self) -> Arc<Vec<Alarm>> {
        Arc::clone(&self.lists.read().alarms)
    }

    /// The replicated cluster version, empty while undecided.
    pub fn cluster_version(&self) -> Arc<str> {
        Arc::clone(&self.lists.read().cluster_version)
    }

    /// Term and leader, to wait for a change of.
    pub fn leadership(&self) -> watch::Receiver<(u64, Option<MemberId>)> {
        self.leadership.subscribe()
    }

    /// Bytes the engine takes, garbage included.
    pub fn engine_total_bytes(&self) -> u64 {
        self.engine_total_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the engine that are not garbage.
    pub fn engine_live_bytes(&self) -> u64 {
        self.engine_live_bytes.load(Ordering::Relaxed)
    }
}
