//! What all tasks of the transport hold together.
//!
//! The lock of [`State`] is held for look-ups only: never across a wait, and never while the owner
//! is called.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use folkmoot_core::types::MemberId;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::sleep;

use crate::config::{Identity, PeerConfig};
use crate::event::{Event, Flow, PeerMember};
use crate::handshake::{ClusterInfo, Hello, ProbeAnswer, Refusal, Welcome};
use crate::outbox::Outbox;
use crate::roster::Roster;
use crate::snapshot::{Outgoing, Slot};
use crate::tasks::Tasks;
use crate::warnings::Warnings;

/// What a connection between members is for. Each pair has one of each and each direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Purpose {
    Messages,
    Snapshot,
}

/// Another member, and our way to it.
pub(crate) struct Peer {
    pub id: MemberId,
    pub target: Mutex<PeerMember>,
    pub outbox: Mutex<Outbox>,
    /// The outbox has something.
    pub filled: Notify,
    /// The target changed.
    pub retargeted: Notify,
    /// Dialling is worth a try now.
    pub nudge: Notify,
    /// It is no member any more.
    pub gone: Notify,
    left: AtomicBool,
    pub problem: Mutex<Problem>,
}

/// Why a peer is not connected.
#[derive(Default)]
pub(crate) struct Problem {
    pub text: Option<String>,
    /// What the owner was told last.
    told: Option<Refusal>,
    told_removed: bool,
}

impl Peer {
    pub fn new(target: PeerMember) -> Self {
        Self {
            id: target.id,
            target: Mutex::new(target),
            outbox: Mutex::default(),
            filled: Notify::new(),
            retargeted: Notify::new(),
            nudge: Notify::new(),
            gone: Notify::new(),
            left: AtomicBool::new(false),
            problem: Mutex::default(),
        }
    }

    pub fn connected(&self) -> Option<Instant> {
        self.outbox.lock().since()
    }

    /// It is no member any more.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Release);
        self.gone.notify_one();
        self.filled.notify_one();
    }

    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }
}

/// A connection from another member, in the register.
pub(crate) struct Inbound {
    hello: Hello,
    serial: u64,
    current: Arc<AtomicBool>,
    close: oneshot::Sender<Option<Refusal>>,
}

impl Inbound {
    /// Ends the connection: with a refusal for its dialler, or because a newer one replaces it.
    fn end(self, refusal: Option<Refusal>) {
        self.current.store(false, Ordering::Release);
        // The connection may have ended by itself.
        let _ = self.close.send(refusal);
    }
}

/// A connection's place in the register, for as long as it lives.
pub(crate) struct Registered {
    shared: Arc<Shared>,
    key: (MemberId, Purpose),
    serial: u64,
    current: Arc<AtomicBool>,
    /// Says that the connection has to end, and why.
    pub close: oneshot::Receiver<Option<Refusal>>,
}

impl Registered {
    /// Turns false at the moment when the connection has to end.
    pub fn current(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.current)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if state.inbound.get(&self.key).is_some_and(|inbound| inbound.serial == self.serial) {
            state.inbound.remove(&self.key);
        }
    }
}

pub(crate) struct State {
    pub roster: Roster,
    pub peers: HashMap<MemberId, Arc<Peer>>,
    inbound: HashMap<(MemberId, Purpose), Inbound>,
    /// The snapshot that is being sent to each member.
    pub outgoing: HashMap<MemberId, Outgoing>,
    /// What has arrived of the snapshot of each member.
    pub slots: HashMap<MemberId, Arc<tokio::sync::Mutex<Slot>>>,
    serial: u64,
}

impl State {
    pub fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Ends the connections that the roster allows no more.
    pub fn end_refused(&mut self) {
        let roster = &self.roster;
        for (_, inbound) in self.inbound.extract_if(|_, inbound| roster.check(&inbound.hello).is_err()) {
            let refusal = roster.check(&inbound.hello).err();
            inbound.end(refusal);
        }
    }
}

type OnEvent = dyn Fn(Event) -> Flow + Send + Sync;
type Provider = dyn Fn() -> ClusterInfo + Send + Sync;

pub(crate) struct Shared {
    pub config: PeerConfig,
    pub me: Identity,
    pub tasks: Tasks,
    pub warnings: Warnings,
    pub state: Mutex<State>,
    /// Connections that have not said who they are.
    pub handshakes: Arc<Semaphore>,
    pub snapshots_sent: Semaphore,
    unreachable: Mutex<BTreeSet<MemberId>>,
    unreachable_changed: Notify,
    on_event: Box<OnEvent>,
    cluster_info: Box<Provider>,
}

impl Shared {
    pub fn new(
        config: PeerConfig,
        me: Identity,
        runtime: Handle,
        on_event: Box<OnEvent>,
        cluster_info: Box<Provider>,
    ) -> Self {
        let state = State {
            roster: Roster::new(me),
            peers: HashMap::new(),
            inbound: HashMap::new(),
            outgoing: HashMap::new(),
            slots: HashMap::new(),
            serial: 0,
        };
        Self {
            me,
            tasks: Tasks::new(runtime),
            warnings: Warnings::new(config.warning_interval),
            state: Mutex::new(state),
            handshakes: Arc::new(Semaphore::new(config.handshakes_max)),
            snapshots_sent: Semaphore::new(config.snapshots_sent_at_once),
            unreachable: Mutex::default(),
            unreachable_changed: Notify::new(),
            on_event,
            cluster_info,
            config,
        }
    }

    pub fn emit(&self, event: Event) -> Flow {
        (self.on_event)(event)
    }

    pub fn cluster_info(&self) -> ClusterInfo {
        (self.cluster_info)()
    }

    pub fn peer(&self, id: MemberId) -> Option<Arc<Peer>> {
        self.state.lock().peers.get(&id).cloned()
    }

    pub fn hello(&self, to: MemberId) -> Hello {
        Hello {
            cluster: self.me.cluster,
            from: self.me.member,
            to,
            boot: self.me.boot,
            incarnation: self.me.incarnation,
            nonce: rand::random(),
        }
    }

    pub fn welcome(&self) -> Welcome {
        Welcome {
            cluster: self.me.cluster,
            member: self.me.member,
            boot: self.me.boot,
            incarnation: self.me.incarnation,
            nonce: rand::random(),
        }
    }

    pub fn probe_answer(&self) -> ProbeAnswer {
        ProbeAnswer {
            cluster_id: self.me.cluster,
            member: self.me.member,
            incarnation: self.me.incarnation,
            boot: self.me.boot,
        }
    }

    /// Admits a connection of another member, in place of its older one.
    pub fn register(self: &Arc<Self>, hello: &Hello, purpose: Purpose) -> Result<Registered, Refusal> {
        let mut state = self.state.lock();
        state.roster.check(hello)?;
        state.roster.saw(hello);
        // What an older process of the member still has in flight must not mix with this one's.
        state.end_refused();
        let (serial, key) = (state.next_serial(), (hello.from, purpose));
        let (close, closed) = oneshot::channel();
        let current = Arc::new(AtomicBool::new(true));
        let inbound = Inbound { hello: *hello, serial, current: Arc::clone(&current), close };
        if let Some(older) = state.inbound.insert(key, inbound) {
            older.end(None);
        }
        // Whoever reaches us can probably be reached.
        if let Some(peer) = state.peers.get(&hello.from)
            && peer.connected().is_none()
        {
            peer.nudge.notify_one();
        }
        drop(state);
        Ok(Registered { shared: Arc::clone(self), key, serial, current, close: closed })
    }

    /// The owner will be told soon that messages to this peer are lost.
    pub fn report_unreachable(&self, peer: MemberId) {
        if self.unreachable.lock().insert(peer) {
            self.unreachable_changed.notify_one();
        }
    }

    /// Tells the owner of unreachable peers, each at most once in an interval.
    pub async fn tell_unreachable(self: Arc<Self>) {
        loop {
            self.unreachable_changed.notified().await;
            // Taken out first: the owner may send again while it is told.
            let lost = std::mem::take(&mut *self.unreachable.lock());
            for peer in lost {
                self.emit(Event::Unreachable { peer });
            }
            sleep(self.config.unreachable_interval).await;
        }
    }

    /// A peer refused us, or we refused the one that answered in its place.
    pub fn note_refusal(&self, peer: &Peer, refusal: &Refusal) {
        let event = {
            let mut problem = peer.problem.lock();
            // It checks the cluster first: who says "removed" belongs to ours.
            if *refusal == (Refusal::Removed { member: self.me.member }) {
                let told = std::mem::replace(&mut problem.told_removed, true);
                (!told).then_some(Event::Removed { by: peer.id })
            } else if problem.told.as_ref() != Some(refusal) {
                problem.told = Some(refusal.clone());
                Some(Event::Refused { by: peer.id, refusal: refusal.clone() })
            } else {
                None
            }
        };
        if let Some(event) = event {
            self.emit(event);
        }
    }

    /// A connection to the peer was made.
    pub fn clear_problem(&self, peer: &Peer) {
        *peer.problem.lock() = Problem::default();
    }
}
