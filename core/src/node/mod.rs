//! One member: wires consensus, state and leases together. The server and the simulator both run
//! this and nothing else.
//!
//! Refuses: files, sockets, clocks, threads; everything comes in by [`Node::step`] and goes out
//! by [`Node::drain`].
//! Invariants: compacted ≤ revision; flushed ≤ stored ≤ applied ≤ committed ≤ last index; a
//! client is answered "done" only after its command was applied, which raft allows only when it
//! is durable here and on a quorum; an answer is given once.

mod bootstrap;
mod config;
mod io;
mod proposals;
mod reads;
mod upkeep;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use bootstrap::{Bootstrap, bootstrap, is_bootstrapped};
pub use config::NodeConfig;
pub use io::{Input, Output, Reply, Slot, Status, StoreWrite, WalWrite};

use crate::apply::{Effect, Machine};
use crate::codec;
use crate::command::{Command, Kind};
use crate::env::Engine;
use crate::error::{Error, Fatal};
use crate::lease::{self, Deadlines, RenewOutcome};
use crate::limits;
use crate::mvcc::{self, Reader};
use crate::raft::{Drained, Owner, OwnerConfig, Refused, Role};
use crate::types::{Instant64, LeaseId, LogIndex, MemberId, Term};
use crate::wal::Recovered;
use proposals::Proposals;
use reads::{Reads, Waiter};
use upkeep::Upkeep;

/// See the module.
pub struct Node {
    config: NodeConfig,
    owner: Owner,
    machine: Machine,
    proposals: Proposals,
    reads: Reads,
    deadlines: Deadlines,
    /// Keepalives of leases whose expiry is proposed: answered when the revoke is applied.
    parked_renewals: BTreeMap<LeaseId, Vec<Slot>>,
    transfer: Option<(Slot, MemberId)>,
    upkeep: Upkeep,
    role: (Role, Term, Option<MemberId>),
    next_tick: Instant64,
    /// This member stood still for longer than an election timeout: it may have been replaced
    /// without knowing, so it ends no lease before leadership is confirmed again.
    stalled: bool,
    drained: Drained,
    effects: Vec<Effect>,
    replies: Vec<(Slot, Result<Reply, Error>)>,
    status: Status,
    failed: Option<Fatal>,
    stopped: bool,
}

impl Node {
    /// Starts a member from what its engine and its log hold. The engine must have been
    /// [`bootstrap`]ped once.
    ///
    /// # Errors
    /// `Damaged` when engine and log do not fit together; nothing was changed then.
    pub fn new(config: NodeConfig, engine: Arc<dyn Engine>, recovered: Recovered) -> Result<Self, Fatal> {
        let machine = Machine::load(engine, mvcc::Options { value_cache_bytes: config.value_cache_bytes })?;
        let applied = machine.applied().clone();
        if applied.cluster_id != config.cluster_id {
            return Err(Fatal::Damaged(format!(
                "the rows belong to another cluster; found={} expected={}",
                applied.cluster_id, config.cluster_id
            )));
        }
        let owner_config = OwnerConfig {
            id: config.member_id,
            election_ticks: config.election_ticks,
            heartbeat_ticks: config.heartbeat_ticks,
            boot: config.boot,
            seed: config.seed,
        };
        let owner = Owner::new(owner_config, (applied.index, applied.term), &applied.conf_state, recovered)?;
        let status = Status {
            term: owner.term(),
            leader: owner.leader(),
            committed: owner.committed(),
            applied: applied.index,
            sole_leader: false,
            learner: applied.conf_state.learners.contains(&config.member_id),
            members: Arc::new(machine.members().list()),
            alarms: Arc::new(machine.alarms().list(None)),
            cluster_version: machine.cluster_version().into(),
        };
        Ok(Self {
            proposals: Proposals::new(config.member_id, config.boot),
            reads: Reads::default(),
            deadlines: Deadlines::new(),
            parked_renewals: BTreeMap::new(),
            transfer: None,
            upkeep: Upkeep::new(applied.index),
            role: (owner.role(), owner.term(), owner.leader()),
            next_tick: Instant64(0),
            stalled: false,
            drained: Drained::default(),
            effects: Vec::new(),
            replies: Vec::new(),
            status,
            failed: None,
            stopped: false,
            config,
            owner,
            machine,
        })
    }

    /// A handle for reads on other threads.
    pub fn reader(&self) -> Reader {
        self.machine.store().reader()
    }

    /// The last status given out.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The chain hash and the revision it belongs to; equal on all members at equal revisions.
    pub fn chain_hash(&self) -> (i64, u64) {
        (self.machine.applied().revision, self.machine.applied().chain_hash)
    }

    /// When the next [`Input::Tick`] is due at the latest.
    pub fn next_wakeup(&self, now: Instant64) -> Instant64 {
        if self.owner.has_more() && !self.stopped {
            return now;
        }
        [self.deadlines.next_wakeup(now), self.reads.retry_at()]
            .into_iter()
            .flatten()
            .fold(self.next_tick, Instant64::min)
    }

    /// Takes one input. Its consequences come out of the next [`Self::drain`].
    pub fn step(&mut self, now: Instant64, input: Input) {
        match input {
            Input::Tick => {}
            Input::Propose { slot, command } => self.propose(slot, command),
            Input::ReadIndex { slot } => self.reads.push(Waiter::Read(slot)),
            Input::LeaseRenew { slot, id } => self.reads.push(Waiter::Renew(slot, id)),
            Input::LeaseTimeToLive { slot, id, keys } => {
                self.reads.push(Waiter::TimeToLive(slot, id, keys));
            }
            Input::LeaseList { slot } => {
                let ids = self.deadlines.sorted_by_expiry(self.machine.leases());
                let revision = self.machine.store().revision();
                self.replies.push((slot, Ok(Reply::LeaseList { ids, revision })));
            }
            Input::TransferLeader { slot, target } => self.transfer_leader(slot, target),
            Input::WalDone { number } => self.owner.wal_done(number, &mut self.drained),
            Input::Stored { index, revision } => {
                self.upkeep.stored(index);
                self.machine.store_mut().stored(revision);
            }
            Input::Flushed { index } => self.upkeep.flushed(now, index),
            Input::Peer { from, message } => {
                // Anything else that cannot be used is as good as lost on the way.
                if self.owner.peer_message(from, &message) == Err(Refused::LogLost) {
                    self.failed.get_or_insert(Fatal::Raft(format!(
                        "{}; remove the member from the cluster and add it again with an empty data directory",
                        Refused::LogLost
                    )));
                }
            }
        }
    }

    /// Works on everything that was given since the last call and says what to do about it.
    pub fn drain(&mut self, now: Instant64, out: &mut Vec<Output>) {
        if self.stopped {
            return;
        }
        if let Err(fatal) = self.work(now, out) {
            self.failed.get_or_insert(fatal);
        }
        if let Some(fatal) = self.failed.take() {
            // Nothing that is not carried out yet may be: the state behind it is in doubt.
            out.clear();
            out.push(Output::Fatal(fatal));
            self.stopped = true;
        }
    }

    fn work(&mut self, now: Instant64, out: &mut Vec<Output>) -> Result<(), Fatal> {
        self.tick(now);
        self.expire_leases(now);
        self.propose_waiting();
        self.reads.start(now, |round| self.owner.read_index(round));
        self.owner.drain(&mut self.drained)?;
        self.follow_role();
        self.emit_consensus(out);
        self.apply(now, out)?;
        self.serve_waiters(now);
        out.extend(self.replies.drain(..).map(|(slot, result)| Output::Reply { slot, result }));
        self.upkeep.plan(now, out);
        self.publish_status(out);
        Ok(())
    }

    fn tick(&mut self, now: Instant64) {
        if now < self.next_tick {
            return;
        }
        let first = self.next_tick == Instant64(0);
        // However long the pause was, it is one tick: counting the missed ones would make a
        // member that was only paused start an election against a healthy leader.
        if !first {
            self.stalled |= now.since(self.next_tick) > self.config.election_timeout();
            self.owner.tick();
        }
        self.next_tick = now.after(self.config.tick);
    }

    fn propose(&mut self, slot: Slot, command: Command) {
        let command = match command.kind {
            Kind::LeaseGrant => match self.with_min_ttl(command) {
                Ok(command) => command,
                Err(error) => return self.replies.push((slot, Err(error))),
            },
            _ => command,
        };
        if let Err(error) = self.proposals.push(slot, command) {
            self.replies.push((slot, Err(error)));
        }
    }

    /// The shortest time to live follows from this member's election timeout, so it is applied
    /// before the grant enters the log.
    fn with_min_ttl(&self, command: Command) -> Result<Command, Error> {
        let (id, ttl) = codec::lease::decode_grant(command.body).map_err(|_| Error::Canceled)?;
        Ok(codec::lease::grant(id, ttl.max(lease::min_ttl(self.config.election_timeout()))))
    }

    fn propose_waiting(&mut self) {
        // While the engine is far behind, commands wait in their bounded queue.
        if self.owner.role() != Role::Leader || !self.proposals.has_waiting() || self.upkeep.is_behind() {
            return;
        }
        let (first, entries) = self.proposals.take_entries(self.owner.term());
        if !self.owner.propose(entries) {
            for slot in self.proposals.dropped_since(first) {
                self.replies.push((slot, Err(Error::TooManyRequests)));
            }
        }
    }

    fn expire_leases(&mut self, now: Instant64) {
        if self.stalled {
            self.stalled = false;
            if self.deadlines.term().is_some() {
                self.reads.push(Waiter::Lessor);
                self.upkeep.hold_expiry = true;
            }
        }
        if self.upkeep.hold_expiry || self.deadlines.term() != Some(self.owner.term()) {
            return;
        }
        let due = self.deadlines.due(now, self.machine.leases(), limits::LEASE_REVOKE_IDS_MAX);
        if due.is_empty() {
            return;
        }
        let leases = self.machine.leases();
        let granted: Vec<_> = due.iter().filter_map(|id| Some((*id, leases.get(*id)?.granted_at))).collect();
        let command = codec::lease::expire(self.owner.term(), &granted);
        if !self.owner.propose(vec![self.proposals.own_entry(&command)]) {
            self.deadlines.unmark(now, &due);
        }
    }

    /// Reacts to a change of role, term or leader.
    fn follow_role(&mut self) {
        let role = (self.owner.role(), self.owner.term(), self.owner.leader());
        if role == self.role {
            return;
        }
        let (_, old_term, old_leader) = self.role;
        self.role = role;
        if old_term != role.1 || old_leader != role.2 {
            for waiter in self.reads.abort_round() {
                self.refuse(waiter, Error::LeaderChanged);
            }
        }
        if role.0 != Role::Leader || old_term != role.1 {
            self.deadlines.demote();
            self.upkeep.hold_expiry = false;
            for slot in std::mem::take(&mut self.parked_renewals).into_values().flatten() {
                self.replies.push((slot, Err(Error::LeaderChanged)));
            }
        }
        if let Some((slot, target)) = self.transfer
            && role.2 == Some(target)
        {
            self.transfer = None;
            self.replies.push((slot, Ok(Reply::Transferred)));
        }
    }

    fn refuse(&mut self, waiter: Waiter, error: Error) {
        match waiter {
            Waiter::Read(slot) | Waiter::Renew(slot, _) | Waiter::TimeToLive(slot, ..) => {
                self.replies.push((slot, Err(error)));
            }
            // The lessor asks again when it leads again.
            Waiter::Lessor => {}
        }
    }

    fn emit_consensus(&mut self, out: &mut Vec<Output>) {
        for (to, message) in self.drained.messages.drain(..) {
            out.push(Output::Send { to, message });
        }
        if let Some((number, batch, sync)) = self.drained.wal.take() {
            self.upkeep.logged(batch.bytes.len());
            out.push(Output::Wal(WalWrite { number, batch, sync }));
        }
        for (round, index) in self.drained.reads.drain(..) {
            self.reads.confirm(round, index);
        }
    }

    fn apply(&mut self, now: Instant64, out: &mut Vec<Output>) -> Result<(), Fatal> {
        let committed = std::mem::take(&mut self.drained.committed);
        let Some(last) = committed.last().map(|entry| entry.index) else { return Ok(()) };
        for entry in committed {
            self.machine.apply(entry, &mut self.effects)?;
            if self.machine.rows_bytes() >= limits::APPLY_BYTES_BUDGET {
                self.emit_rows(out);
            }
            self.follow_effects(now, out);
        }
        self.emit_rows(out);
        self.owner.applied(last);
        Ok(())
    }

    fn emit_rows(&mut self, out: &mut Vec<Output>) {
        let applied = self.machine.applied();
        let (index, revision) = (applied.index, applied.revision);
        let batch = self.machine.take_rows();
        self.upkeep.handed_out(index, batch.size_bytes());
        out.push(Output::Store(StoreWrite { index, revision, batch }));
    }

    fn follow_effects(&mut self, now: Instant64, out: &mut Vec<Output>) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Answer { origin, boot, request, result } => {
                    if let Some(slot) = self.proposals.applied(origin, boot, request) {
                        self.replies.push((slot, result));
                    }
                }
                Effect::Events(batch) => out.push(Output::Events(batch)),
                Effect::Compacted(revision) => out.push(Output::Compacted { revision }),
                Effect::LeaseGranted(id) => {
                    if let Some(lease) = self.machine.leases().get(id) {
                        self.deadlines.granted(now, id, lease.granted_ttl);
                    }
                }
                Effect::LeaseRevoked(id) => {
                    self.deadlines.revoked(id);
                    let revision = self.machine.store().revision();
                    for slot in self.parked_renewals.remove(&id).into_iter().flatten() {
                        self.replies.push((slot, Ok(Reply::LeaseRenewed { ttl: 0, revision })));
                    }
                }
                Effect::ClusterChanged => {
                    self.status.members = Arc::new(self.machine.members().list());
                    self.status.alarms = Arc::new(self.machine.alarms().list(None));
                    self.status.cluster_version = self.machine.cluster_version().into();
                    self.upkeep.status_changed = true;
                }
                Effect::TermStarted(term) => {
                    for slot in self.proposals.term_started(term) {
                        self.replies.push((slot, Err(Error::LeaderChanged)));
                    }
                    if self.owner.role() == Role::Leader && self.owner.term() == term {
                        self.deadlines.promote(now, term, self.config.election_timeout());
                    }
                }
            }
        }
    }

    fn serve_waiters(&mut self, now: Instant64) {
        for waiter in self.reads.ready(self.machine.applied().index) {
            match waiter {
                Waiter::Read(slot) => {
                    let applied = self.machine.applied().index;
                    self.replies.push((slot, Ok(Reply::ReadIndex { applied })));
                }
                Waiter::Renew(slot, id) => self.renew(now, slot, id),
                Waiter::TimeToLive(slot, id, keys) => self.time_to_live(now, slot, id, keys),
                Waiter::Lessor => self.upkeep.hold_expiry = false,
            }
        }
    }

    fn renew(&mut self, now: Instant64, slot: Slot, id: LeaseId) {
        let revision = self.machine.store().revision();
        let reply = match self.deadlines.renew(now, self.machine.leases(), id) {
            RenewOutcome::Renewed { ttl, clear_checkpoint } => {
                if clear_checkpoint {
                    let command = codec::lease::checkpoint(&[(id, 0)]);
                    self.owner.propose(vec![self.proposals.own_entry(&command)]);
                }
                Ok(Reply::LeaseRenewed { ttl, revision })
            }
            RenewOutcome::NotFound => Ok(Reply::LeaseRenewed { ttl: 0, revision }),
            RenewOutcome::Expiring => {
                self.parked_renewals.entry(id).or_default().push(slot);
                return;
            }
            RenewOutcome::NotLeader => Err(Error::NotPrimaryLessor),
        };
        self.replies.push((slot, reply));
    }

    fn time_to_live(&mut self, now: Instant64, slot: Slot, id: LeaseId, keys: bool) {
        let revision = self.machine.store().revision();
        let reply = match (self.machine.leases().get(id), self.deadlines.term()) {
            (None, _) => Ok(Reply::LeaseTimeToLive { ttl: -1, granted_ttl: 0, keys: Vec::new(), revision }),
            (Some(_), None) => Err(Error::LeaderChanged),
            (Some(lease), Some(_)) => Ok(Reply::LeaseTimeToLive {
                ttl: self.deadlines.remaining(now, self.machine.leases(), id).unwrap_or(-1),
                granted_ttl: lease.granted_ttl,
                keys: if keys { lease.keys().iter().cloned().collect() } else { Vec::new() },
                revision,
            }),
        };
        self.replies.push((slot, reply));
    }

    fn transfer_leader(&mut self, slot: Slot, target: MemberId) {
        let refused = if self.owner.role() != Role::Leader {
            Some(Error::NotLeader)
        } else if !self.owner.is_voter(target) {
            Some(Error::BadLeaderTransferee)
        } else {
            None
        };
        if let Some(error) = refused {
            self.replies.push((slot, Err(error)));
        } else if target == self.config.member_id {
            self.replies.push((slot, Ok(Reply::Transferred)));
        } else if let Some((earlier, _)) = self.transfer.replace((slot, target)) {
            self.replies.push((earlier, Err(Error::LeaderTransferTimeout)));
            self.owner.transfer_leader(target);
        } else {
            self.owner.transfer_leader(target);
        }
    }

    fn publish_status(&mut self, out: &mut Vec<Output>) {
        let (term, leader) = (self.owner.term(), self.owner.leader());
        let (committed, applied) = (self.owner.committed(), self.machine.applied().index);
        let sole_leader = self.owner.is_sole_voter() && self.owner.has_committed_in_term()
            // What was committed before this term is applied too once an entry of it is.
            && self.machine.applied().term == term;
        let changed = std::mem::take(&mut self.upkeep.status_changed)
            || (term, leader, committed, applied, sole_leader)
                != (
                    self.status.term,
                    self.status.leader,
                    self.status.committed,
                    self.status.applied,
                    self.status.sole_leader,
                );
        if changed {
            (self.status.term, self.status.leader) = (term, leader);
            (self.status.committed, self.status.applied) = (committed, applied);
            self.status.sole_leader = sole_leader;
            out.push(Output::Status(self.status.clone()));
        }
    }

    /// The index up to which everything is applied.
    pub fn applied_index(&self) -> LogIndex {
        self.machine.applied().index
    }
}
