//! The thread that owns the [`Node`]: gives it what comes in, carries out what it wants.
//!
//! It never blocks on anything but its own inbox: no disk, no socket, no lock that is held for
//! longer than a push. Queues to the other threads are bounded by the core's own accounts
//! (`limits::PENDING_BYTES_MAX`, `limits::UNSTORED_BYTES_MAX`), not by the channels.

use std::sync::Arc;

use crossbeam_channel::Sender;
use folkmoot_core::cluster::Member;
use folkmoot_core::error::{Error, Fatal};
use folkmoot_core::node::{Input, Node, Output, Reply, Slot, Status};

use super::clock;
use super::inbox::Inbox;
use super::published::Published;
use super::slots::{Port, port_of};
use super::storage_thread::StorageHandle;
use super::wal_thread::WalJob;
use crate::peer::{Peers, SnapshotDesk};
use crate::tasks::Fate;
use crate::watch::HubHandle;

/// Inputs that are worked on together. More wait for the next turn, so that one turn stays short.
const INPUTS_PER_TURN_MAX: usize = 4096;

/// See the module.
pub struct CoreThread {
    /// The member.
    pub node: Node,
    /// Where work comes from.
    pub inbox: Arc<Inbox>,
    /// Who waits, one for each runtime.
    pub ports: Vec<Arc<Port>>,
    /// What everybody may read.
    pub published: Arc<Published>,
    /// The log's thread.
    pub wal: Sender<WalJob>,
    /// The engine's thread.
    pub storage: StorageHandle,
    /// The watch hub's thread.
    pub hub: HubHandle,
    /// The other members.
    pub peers: Peers,
    /// Snapshots by number.
    pub snapshots: Arc<SnapshotDesk>,
    /// The members that [`Self::peers`] was last told.
    pub known_members: Option<Arc<Vec<Member>>>,
    /// Told when the member cannot go on.
    pub fate: Fate,
}

impl CoreThread {
    /// Works until the inbox is closed or the member failed.
    pub fn run(mut self) {
        // Of ordinary priority on purpose. A core thread that interrupts the runtimes at every
        // request finds fewer of them to work on together, which costs more than the wait.
        let mut inputs = Vec::new();
        let mut outputs = Vec::new();
        let mut answers: Vec<Vec<(Slot, Result<Reply, Error>)>> =
            self.ports.iter().map(|_| Vec::new()).collect();
        loop {
            let wakeup = self.node.next_wakeup(clock::now());
            if !self.inbox.take(clock::to_instant(wakeup), &mut inputs) {
                return;
            }
            let mut rest = inputs.drain(..).peekable();
            loop {
                let now = clock::now();
                if now >= wakeup {
                    self.node.step(now, Input::Tick);
                }
                for input in rest.by_ref().take(INPUTS_PER_TURN_MAX) {
                    self.node.step(now, input);
                }
                self.node.drain(now, &mut outputs);
                if let Err(fatal) = self.carry_out(&mut outputs, &mut answers) {
                    self.fate.fail("core", &fatal);
                    return;
                }
                if rest.peek().is_none() {
                    break;
                }
            }
        }
    }

    fn carry_out(
        &mut self,
        outputs: &mut Vec<Output>,
        answers: &mut [Vec<(Slot, Result<Reply, Error>)>],
    ) -> Result<(), Fatal> {
        let mut compacted = None;
        let mut events = Vec::new();
        let mut status = None;
        for output in outputs.drain(..) {
            match output {
                Output::Wal(write) => self.send_to_wal(WalJob::Write(write)),
                Output::PurgeLog { up_to } => self.send_to_wal(WalJob::Purge { up_to }),
                Output::Store(write) => self.storage.store(write),
                Output::Flush => self.storage.flush_and_report(),
                Output::Reply { slot, result } => answers[port_of(slot)].push((slot, result)),
                Output::Events(batch) => events.push(batch),
                Output::Compacted { revision } => compacted = Some(revision),
                Output::Send { to, message } => self.peers.send(to, message),
                Output::MakeSnapshot { id } => self.storage.make_snapshot(id),
                Output::SendSnapshot { to, id, message } => {
                    self.peers.send_snapshot(to, id, message, &self.inbox);
                }
                Output::DropSnapshot { id } => self.snapshots.drop_copy(id),
                Output::InstallSnapshot { staged, index } => self.storage.install_snapshot(staged, index),
                Output::DiscardSnapshot { staged } => self.snapshots.discard(staged),
                Output::Restored { revision, compact_revision } => {
                    // Nothing was published for a while; what comes now is newer.
                    self.hub.restored(revision, compact_revision);
                }
                Output::Removed => {
                    tracing::warn!("this member has been removed from the cluster");
                    self.published.set_removed_self();
                }
                Output::Status(new) => status = Some(new),
                Output::Fatal(fatal) => return Err(fatal),
            }
        }
        if !events.is_empty() {
            self.hub.publish(&mut events);
        }
        if let Some(revision) = compacted {
            // After the events: they may be newer, and none is older than what may be read.
            self.hub.compacted(revision);
            // Only now: the rows that carry the new compacted revision are queued before it.
            self.storage.collect_garbage(revision);
        }
        if let Some(status) = status {
            self.follow_status(&status);
        }
        // Last, so that who is answered finds everything else in place.
        for (port, answers) in self.ports.iter().zip(answers) {
            if !answers.is_empty() {
                port.post(answers);
            }
        }
        Ok(())
    }

    fn follow_status(&mut self, status: &Status) {
        let known = self.known_members.replace(Arc::clone(&status.members));
        if known.is_none_or(|known| !Arc::ptr_eq(&known, &status.members)) && !status.members.is_empty() {
            self.peers.set_members(status);
        }
        if status.corrupt && !self.published.corrupt() {
            tracing::error!(
                "applied-index" = status.state_hash.0.0,
                "the state of this member differs from the others'; it stops serving until it is repaired: \
                 turn its CORRUPT alarm off to let it take the leader's state"
            );
            self.hub.end_all();
        }
        self.published.set(status);
    }

    fn send_to_wal(&self, job: WalJob) {
        // The log's thread ends early only when it failed, and has told so.
        let _ = self.wal.send(job);
    }
}
