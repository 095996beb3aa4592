//! The load: concurrent clients, and the record of everything they did and saw.
//!
//! Clients never judge. They work while faults happen, take part in draining when those are over, and
//! hand over their records.

pub mod convert;
mod kv;
mod lease;
mod lock;
pub mod session;
pub mod watching;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use folkmoot_check::history as h;
use rand::RngExt;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use session::{Clock, Session};
use watching::{WatchPlan, follow};

/// Keys that everybody reads, writes and watches.
pub const KEY_PREFIX: &str = "kv/";
/// How many there are.
pub const KEY_COUNT: usize = 12;
/// Keys that hang on leases.
const LEASE_PREFIX: &str = "lease/";
/// Keys of contenders for locks.
const LOCK_PREFIX: &str = "lock/";

/// One of the keys that everybody uses.
pub fn key(index: usize) -> Bytes {
    format!("{KEY_PREFIX}{index:02}").into()
}

/// The key some places after another.
fn key_after(of: &Bytes, places: usize) -> Bytes {
    (0..KEY_COUNT).find(|index| key(*index) == *of).map_or_else(Bytes::new, |index| key(index + places))
}

/// How much of each kind.
#[derive(Clone, Copy, Debug)]
pub struct LoadConfig {
    /// Clients that read and write.
    pub kv_clients: usize,
    /// Clients that keep leases.
    pub lease_clients: usize,
    /// Clients that compete for locks.
    pub lock_clients: usize,
    /// Clients that watch.
    pub watch_clients: usize,
    /// Do what etcd 3.4 is known to get wrong: ask watches for progress (announced before events,
    /// etcd issue 15220), watch from exactly the compacted revision (its deletes are lost, 18089),
    /// ask for the keys before (left out of the first events of a watch that is created while they
    /// happen), and keep leases while leaders are held (an old leader ends them, 15247).
    pub etcd_bugs: bool,
}

impl Default for LoadConfig {
    fn default() -> LoadConfig {
        LoadConfig { kv_clients: 6, lease_clients: 2, lock_clients: 3, watch_clients: 4, etcd_bugs: true }
    }
}

/// What the clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Work.
    Work,
    /// No new work; watches go on until they have seen something newer than this revision.
    Drain(h::Revision),
    /// Stop. What is missing up to this revision, if one is given, is lost.
    Over(Option<h::Revision>),
}

/// What all clients share.
#[derive(Clone)]
pub struct Context {
    phase: watch::Receiver<Phase>,
    observed: Arc<AtomicI64>,
    compacted: Arc<AtomicI64>,
}

impl Context {
    /// For a client that works alone.
    pub fn standalone(phase: Phase) -> (watch::Sender<Phase>, Context) {
        let sender = watch::Sender::new(phase);
        let phase = sender.subscribe();
        (sender, Context { phase, observed: Arc::default(), compacted: Arc::default() })
    }

    /// What to do now. When whoever tells is gone, it is over.
    fn phase(&self) -> Phase {
        match self.phase.has_changed() {
            Ok(_) => *self.phase.borrow(),
            Err(_) => match *self.phase.borrow() {
                Phase::Work => Phase::Over(None),
                Phase::Drain(revision) => Phase::Over(Some(revision)),
                over => over,
            },
        }
    }

    /// No new work.
    fn is_over(&self) -> bool {
        self.phase() != Phase::Work
    }

    /// Sleeps, but not beyond the end of the work; true if that has come.
    async fn sleep(&self, time: Duration) -> bool {
        let mut phase = self.phase.clone();
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            // An error means that it is over, too.
            _ = phase.wait_for(|phase| *phase != Phase::Work) => {}
        }
        self.is_over()
    }

    /// Revisions from here on can be read.
    fn compacted(&self) -> h::Revision {
        self.compacted.load(Ordering::SeqCst)
    }

    /// An id that no other client asks for.
    fn lease_id(&self, client: h::ClientId, count: i64) -> h::LeaseId {
        (i64::try_from(client).unwrap_or(0) + 1) * 1_000_000 + count
    }
}

/// What clients did and saw.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Calls.
    pub operations: Vec<h::Operation>,
    /// Watches.
    pub watches: Vec<h::Watch>,
    /// Beliefs to hold locks.
    pub holds: Vec<h::LockHold>,
    /// Uses of guarded resources.
    pub fence_uses: Vec<h::FenceUse>,
    /// All events by the observer, in order.
    pub observed: Vec<h::Event>,
}

/// Clients at work.
pub struct Load {
    phase: watch::Sender<Phase>,
    context: Context,
    clients: JoinSet<Recorded>,
    fences: lock::Fences,
    next_client: h::ClientId,
    cluster: Arc<Cluster>,
    clock: Clock,
    seed: u64,
}

impl Load {
    /// Starts all clients.
    pub fn start(cluster: &Arc<Cluster>, config: LoadConfig, clock: Clock, seed: u64) -> Load {
        let phase = watch::Sender::new(Phase::Work);
        let context = Context {
            phase: phase.subscribe(),
            observed: Arc::new(AtomicI64::new(1)),
            compacted: Arc::new(AtomicI64::new(0)),
        };
        let mut load = Load {
            phase,
            context: context.clone(),
            clients: JoinSet::new(),
            fences: lock::Fences::default(),
            next_client: 0,
            cluster: cluster.clone(),
            clock,
            seed,
        };
        let observer = load.session();
        load.clients.spawn(observe(observer, context.clone()));
        for _ in 0..config.kv_clients {
            let session = load.session();
            load.clients.spawn(kv::run(session, context.clone()));
        }
        for _ in 0..config.lease_clients {
            let session = load.session();
            load.clients.spawn(lease::run(session, context.clone()));
        }
        for _ in 0..config.lock_clients {
            let session = load.session();
            load.clients.spawn(lock::run(session, context.clone(), load.fences.clone()));
        }
        for index in 0..config.watch_clients {
            let session = load.session();
            load.clients.spawn(watch_keys(session, context.clone(), index, config.etcd_bugs));
        }
        load
    }

    /// One more client, for whoever wants to do something that must be in the history.
    pub fn session(&mut self) -> Session {
        let client = self.next_client;
        self.next_client += 1;
        Session::new(self.cluster.clone(), client, self.clock, self.seed)
    }

    /// Everything up to this revision was seen by the observer, so nothing of it gets lost if it is
    /// compacted.
    pub fn observed(&self) -> impl Fn() -> h::Revision + Send + Sync + 'static {
        let observed = self.context.observed.clone();
        move || observed.load(Ordering::SeqCst)
    }

    /// Tells the clients about a compaction, so that their reads of old revisions mostly succeed.
    pub fn note_compaction(&self) -> impl Fn(h::Revision) + Send + Sync + 'static {
        let compacted = self.context.compacted.clone();
        move |revision| {
            compacted.fetch_max(revision, Ordering::SeqCst);
        }
    }

    /// Ends the work. Watches go on, and wait for something newer than anything.
    pub fn end_work(&self) {
        self.phase.send_replace(Phase::Drain(h::Revision::MAX));
    }

    /// Waits until all watches have seen something newer than this revision, and no longer than this
    /// time; without a revision nothing is waited for.
    pub async fn finish(mut self, to: Option<h::Revision>, patience: Duration) -> Result<Recorded, String> {
        self.phase.send_replace(to.map_or(Phase::Over(None), Phase::Drain));
        let mut all = Recorded::default();
        let mut take = |result: Result<Recorded, tokio::task::JoinError>| -> Result<(), String> {
            let recorded = result.map_err(|e| format!("a client failed: {e}"))?;
            all.operations.extend(recorded.operations);
            all.watches.extend(recorded.watches);
            all.holds.extend(recorded.holds);
            all.observed.extend(recorded.observed);
            Ok(())
        };
        let drained = async {
            while let Some(result) = self.clients.join_next().await {
                take(result)?;
            }
            Ok::<(), String>(())
        };
        if let Ok(result) = tokio::time::timeout(patience, drained).await {
            result?;
        } else {
            self.phase.send_replace(Phase::Over(to));
            while let Some(result) = self.clients.join_next().await {
                take(result)?;
            }
        }
        all.fence_uses = self.fences.take();
        Ok(all)
    }
}

/// Sees everything from the first revision on.
async fn observe(mut session: Session, context: Context) -> Recorded {
    session.give_up_faith();
    let plan = WatchPlan {
        request: h::WatchRequest::new(h::KeyRange::all(), 1),
        pause: Duration::ZERO,
        progress: false,
        from_compacted: true,
        restless: None,
        lifetime: None,
    };
    let mut events: Vec<h::Event> = Vec::new();
    let watch = follow(&mut session, &context, &plan, |event| {
        context.observed.fetch_max(event.revision(), Ordering::SeqCst);
        events.push(event.clone());
    })
    .await;
    Recorded { watches: vec![watch], observed: events, ..Recorded::default() }
}

/// One long watch, or short ones after each other.
async fn watch_keys(mut session: Session, context: Context, index: usize, etcd_bugs: bool) -> Recorded {
    let mut recorded = Recorded::default();
    let ms = Duration::from_millis;
    let shared =
        h::WatchRequest { prev_kv: etcd_bugs, ..h::WatchRequest::new(h::KeyRange::prefix(KEY_PREFIX), 0) };
    let long = |request, pause, restless| WatchPlan {
        request,
        pause,
        progress: etcd_bugs,
        from_compacted: etcd_bugs,
        restless,
        lifetime: None,
    };
    match index % 4 {
        0 => {
            let plan = long(shared, Duration::ZERO, None);
            recorded.watches.push(follow(&mut session, &context, &plan, |_| {}).await);
        }
        1 => {
            session.give_up_faith();
            let plan = long(shared, Duration::ZERO, Some(ms(1200)));
            recorded.watches.push(follow(&mut session, &context, &plan, |_| {}).await);
        }
        2 => {
            let request = h::WatchRequest { start_revision: 1, prev_kv: false, ..shared };
            let plan = long(request, ms(150), None);
            recorded.watches.push(follow(&mut session, &context, &plan, |_| {}).await);
        }
        _ => {
            while !context.is_over() {
                let request = short_request(&mut session, &context, &shared, etcd_bugs);
                let lifetime = Some(ms(session.rng.random_range(100..900)));
                let plan = WatchPlan { lifetime, ..long(request, Duration::ZERO, None) };
                recorded.watches.push(follow(&mut session, &context, &plan, |_| {}).await);
                session.turn_elsewhere();
            }
        }
    }
    recorded
}

/// A watch from somewhere in the past, with any filter.
fn short_request(
    session: &mut Session,
    context: &Context,
    shared: &h::WatchRequest,
    etcd_bugs: bool,
) -> h::WatchRequest {
    let observed = context.observed.load(Ordering::SeqCst);
    let oldest = (context.compacted() + i64::from(!etcd_bugs)).max(1).min(observed);
    let start_revision = match session.rng.random_range(0..8) {
        0 => 0,
        // Most of this is compacted sooner or later.
        1..3 => session.rng.random_range(1..=observed),
        3..6 => session.rng.random_range(oldest..=observed),
        _ => observed + session.rng.random_range(0..50),
    };
    let range = match session.rng.random_bool(0.5) {
        true => h::KeyRange::One(key(session.rng.random_range(0..KEY_COUNT))),
        false => shared.range.clone(),
    };
    let (no_put, no_delete) = (session.rng.random_ratio(1, 5), session.rng.random_ratio(1, 5));
    h::WatchRequest { range, start_revision, no_put, no_delete: no_delete && !no_put, ..shared.clone() }
}
