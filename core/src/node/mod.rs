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
mod contacts;
mod forward;
mod integrity;
mod io;
mod leading;
mod lease;
mod lease_desk;
mod membership;
mod message;
mod proposals;
mod reads;
mod repair;
mod snapshots;
mod taken;
mod upkeep;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use bootstrap::{Bootstrap, begin_anew, bootstrap, is_bootstrapped};
use bytes::Bytes;
pub use config::NodeConfig;
pub use io::{Input, Output, Reply, Slot, SnapshotId, Status, StoreWrite, WalWrite};

use crate::apply::meta::load_installed;
pub use crate::apply::meta::mark_installed;
use crate::apply::{Effect, Machine};
use crate::command::Command;
use crate::env::Engine;
use crate::error::{Error, Fatal};
use crate::lease::Deadlines;
use crate::limits;
use crate::mutant::mutant;
use crate::mvcc::{self, Reader};
use crate::raft::{Drained, MembershipChange, Owner, OwnerConfig, Refused, Role, StartPoint};
use crate::types::{Instant64, LeaseId, LogIndex, MemberId, Term};
use crate::wal::{LogPoint, Recovered};
use contacts::Contacts;
use integrity::Integrity;
use leading::{DiskWatch, Transfer};
use lease_desk::{Asker, LeaseDesk, Wish};
use membership::Membership;
use message::{LeaseTell, Message};
use proposals::Proposals;
use reads::{Reads, Waiter};
use snapshots::Snapshots;
use taken::Taken;
use upkeep::Upkeep;

/// See the module.
pub struct Node {
    config: NodeConfig,
    owner: Owner,
    machine: Machine,
    /// The time of the input or drain that is being worked on.
    now: Instant64,
    proposals: Proposals,
    /// Entries of other members' clients, to be proposed here.
    forwarded: Vec<Bytes>,
    forwarded_bytes: usize,
    taken: Taken,
    /// The term in which this member started. What an earlier start of it took in that term is not
    /// known any more.
    started_in: Term,
    /// The leader may not have got everything: what is in flight goes there again at a tick.
    send_again: bool,
    /// The leader has just refused commands: the next try waits for a tick.
    hold_forwards_until: Instant64,
    /// Answers for members whose commands did not get into the log.
    refusals: Vec<(MemberId, Bytes)>,
    /// Commands of this member itself for a leader elsewhere, or here.
    own_commands: Vec<Command>,
    membership: Membership,
    reads: Reads,
    lease_desk: LeaseDesk,
    lease_tells: BTreeMap<(MemberId, u64), Vec<LeaseTell>>,
    deadlines: Deadlines,
    /// Keepalives of leases whose expiry is proposed: answered when the revoke is applied.
    parked_renewals: BTreeMap<LeaseId, Vec<Asker>>,
    /// Keepalives of leases whose checkpoint is being cleared.
    clearing: BTreeMap<LeaseId, Vec<Asker>>,
    transfer: Option<Transfer>,
    /// Who was asked in this term to take leadership over.
    asked_to_lead: BTreeSet<MemberId>,
    disk: DiskWatch,
    unfit_since: Option<Instant64>,
    /// Since when no leader is known.
    leaderless_since: Option<Instant64>,
    contacts: Contacts,
    integrity: Integrity,
    /// This member's state is wrong: it answers nothing.
    corrupt: bool,
    repairing: bool,
    undecided_since: Option<Instant64>,
    snapshots: Snapshots,
    to_drop: Vec<SnapshotId>,
    to_discard: Vec<SnapshotId>,
    /// A snapshot was put in place; revision and compacted revision for the watch hub.
    restored: Option<(i64, i64)>,
    /// This member was removed from the cluster.
    removed: bool,
    upkeep: Upkeep,
    /// The revision of the last rows given out.
    stored_revision: i64,
    role: (Role, Term, Option<MemberId>),
    next_tick: Instant64,
    next_second: Instant64,
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
        let installed = load_installed(engine.as_ref())?;
        let machine = Machine::load(engine, mvcc::Options { value_cache_bytes: config.value_cache_bytes })?;
        let applied = machine.applied().clone();
        if applied.cluster_id != config.cluster_id {
            return Err(Fatal::Damaged(format!(
                "the rows belong to another cluster; found={} expected={}",
                applied.cluster_id, config.cluster_id
            )));
        }
        check_members(&machine)?;
        let owner_config = OwnerConfig {
            id: config.member_id,
            election_ticks: config.election_ticks,
            heartbeat_ticks: config.heartbeat_ticks,
            boot: config.boot,
            seed: config.seed,
            kept_entries: config.kept_entries,
            kept_bytes: config.kept_bytes,
        };
        let start = StartPoint {
            applied: LogPoint { index: applied.index, term: applied.term },
            conf_state: applied.conf_state.clone(),
            installed,
        };
        let owner = Owner::new(owner_config, &start, recovered)?;
        let started_in = owner.term();
        let mut integrity = Integrity::default();
        integrity.applied(applied.index, applied.chain_hash);
        let status = Status {
            term: owner.term(),
            leader: owner.leader(),
            committed: owner.committed(),
            applied: applied.index,
            sole_leader: false,
            learner: applied.conf_state.learners.contains(&config.member_id),
            corrupt: false,
            compared: 0,
            state_hash: (applied.index, applied.chain_hash),
            removed: Arc::new(machine.members().removed()),
            members: Arc::new(machine.members().list()),
            alarms: Arc::new(machine.alarms().list(None)),
            cluster_version: machine.cluster_version().into(),
        };
        Ok(Self {
            now: Instant64(0),
            proposals: Proposals::new(config.member_id, config.boot),
            forwarded: Vec::new(),
            forwarded_bytes: 0,
            taken: Taken::default(),
            started_in,
            send_again: false,
            hold_forwards_until: Instant64(0),
            refusals: Vec::new(),
            own_commands: Vec::new(),
            membership: Membership::default(),
            reads: Reads::default(),
            lease_desk: LeaseDesk::default(),
            lease_tells: BTreeMap::new(),
            deadlines: Deadlines::new(),
            parked_renewals: BTreeMap::new(),
            clearing: BTreeMap::new(),
            transfer: None,
            asked_to_lead: BTreeSet::new(),
            disk: DiskWatch::default(),
            unfit_since: None,
            leaderless_since: None,
            contacts: Contacts::default(),
            integrity,
            corrupt: false,
            repairing: false,
            undecided_since: None,
            snapshots: Snapshots::default(),
            to_drop: Vec::new(),
            to_discard: Vec::new(),
            restored: None,
            removed: machine.members().was_removed(config.member_id),
            upkeep: Upkeep::new(applied.index),
            stored_revision: applied.revision,
            role: (owner.role(), owner.term(), owner.leader()),
            next_tick: Instant64(0),
            next_second: Instant64(0),
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

    /// The revision, and the hash over everything that was applied; equal on all members at equal
    /// log indexes.
    pub fn chain_hash(&self) -> (i64, u64) {
        (self.machine.applied().revision, self.machine.applied().chain_hash)
    }

    /// The index up to which everything is applied.
    pub fn applied_index(&self) -> LogIndex {
        self.machine.applied().index
    }

    /// Who takes part in consensus, as the rows say.
    pub fn conf_state(&self) -> &crate::raft::ConfState {
        &self.machine.applied().conf_state
    }

    /// Spoils this member's state as a flipped bit in memory would; for tests of detection.
    #[doc(hidden)]
    pub fn spoil_state(&mut self) {
        self.machine.spoil();
    }

    /// When the next [`Input::Tick`] is due at the latest.
    pub fn next_wakeup(&self, now: Instant64) -> Instant64 {
        if self.stopped {
            return Instant64(u64::MAX);
        }
        if self.owner.has_more() {
            return now;
        }
        let expiry = match self.may_expire() {
            true => self.deadlines.next_wakeup(now),
            false => None,
        };
        [expiry, self.reads.retry_at()].into_iter().flatten().fold(self.next_tick, Instant64::min)
    }

    /// Takes one input. Its consequences come out of the next [`Self::drain`].
    pub fn step(&mut self, now: Instant64, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => {}
            Input::Propose { slot, .. }
            | Input::ReadIndex { slot }
            | Input::LeaseRenew { slot, .. }
            | Input::LeaseTimeToLive { slot, .. }
                if self.corrupt =>
            {
                self.replies.push((slot, Err(Error::Corrupt)));
            }
            Input::Propose { slot, command } => self.propose(slot, command),
            Input::ReadIndex { slot } => self.reads.push(self.now, Waiter::Read(slot)),
            Input::LeaseRenew { slot, id } => self.lease_desk.push(self.now, slot, id, Wish::Renew),
            Input::LeaseTimeToLive { slot, id, keys } => {
                self.lease_desk.push(self.now, slot, id, Wish::TimeToLive { keys });
            }
            Input::LeaseList { slot } => {
                let ids = self.deadlines.sorted_by_expiry(self.machine.leases());
                let revision = self.machine.store().revision();
                self.replies.push((slot, Ok(Reply::LeaseList { ids, revision })));
            }
            Input::TransferLeader { slot, target } => self.transfer_leader(slot, target),
            Input::StepDown { slot } => self.step_down(slot),
            Input::WalDone { number } => {
                self.disk.done(number);
                self.owner.wal_done(number, &mut self.drained);
            }
            Input::Stored { index, revision } => {
                self.upkeep.stored(index);
                self.machine.store_mut().stored(revision);
            }
            Input::Flushed { index } => self.upkeep.flushed(self.now, index),
            Input::Peer { from, message } => self.hear(from, message),
            Input::PeerUnreachable { peer } => self.unreachable(peer),
            Input::PeerLost { peer } => {
                self.contacts.lost(peer);
                self.unreachable(peer);
            }
            Input::SnapshotMade { .. }
            | Input::SnapshotNotMade { .. }
            | Input::SnapshotSent { .. }
            | Input::SnapshotArrived { .. }
            | Input::SnapshotInstalled { .. } => self.snapshot_input(input),
        }
    }

    /// Works on everything that was given since the last call and says what to do about it.
    pub fn drain(&mut self, now: Instant64, out: &mut Vec<Output>) {
        if self.stopped {
            return;
        }
        self.now = self.now.max(now);
        if let Err(fatal) = self.work(out) {
            self.failed.get_or_insert(fatal);
        }
        if let Some(fatal) = self.failed.take() {
            // Nothing that is not carried out yet may be: the state behind it is in doubt.
            out.clear();
            out.push(Output::Fatal(fatal));
            self.stopped = true;
        }
    }

    fn work(&mut self, out: &mut Vec<Output>) -> Result<(), Fatal> {
        if let Some((revision, compact_revision)) = self.restored.take() {
            out.push(Output::Restored { revision, compact_revision });
        }
        self.tick(out);
        self.expire_leases();
        self.propose_waiting(out);
        self.change_membership(out);
        self.forward_lease_asks(out);
        let now = self.now;
        self.reads.start(now, |round| self.owner.read_index(round));
        self.owner.drain(&mut self.drained)?;
        self.follow_role();
        self.emit_consensus(out);
        self.apply(out)?;
        if let Some(point) = self.drained.install.take() {
            self.install_snapshot(point, out)?;
        }
        self.serve_waiters();
        self.send_lease_tells(out);
        self.plan_snapshots(out);
        let corrupt = self.corrupt;
        out.extend(self.replies.drain(..).map(|(slot, result)| match result {
            // What a wrong state says is not to be told.
            Ok(_) if corrupt => Output::Reply { slot, result: Err(Error::Corrupt) },
            result => Output::Reply { slot, result },
        }));
        self.upkeep.plan(self.now, &self.config, self.owner.log_needed_after(), out);
        self.publish_status(out);
        Ok(())
    }

    fn tick(&mut self, out: &mut Vec<Output>) {
        if self.now < self.next_tick {
            return;
        }
        let first = self.next_tick == Instant64(0);
        self.leaderless_since = match self.owner.leader() {
            Some(_) => None,
            None => self.leaderless_since.or(Some(self.now)),
        };
        // However long the pause was, it is one tick: counting the missed ones would make a
        // member that was only paused start an election against a healthy leader.
        if !first {
            self.stalled |= self.now.since(self.next_tick) > self.config.election_timeout();
            match self.may_campaign() {
                _ if self.removed => {}
                true => self.owner.tick(),
                false => self.owner.tick_without_campaign(),
            }
        }
        self.next_tick = self.now.after(self.config.tick);
        self.give_way();
        self.follow_transfer();
        self.give_up_on_requests();
        self.forward_again(out);
        if self.now >= self.next_second {
            self.next_second = self.now.after(std::time::Duration::from_secs(1));
            self.checkpoint_leases();
            self.compare_states(out);
        }
    }

    /// Lets go of requests that have waited too long; the server has answered them by itself.
    fn give_up_on_requests(&mut self) {
        let (now, longest) = (self.now, self.config.give_up_after());
        let commands = self.proposals.expire(now, longest);
        let changes = self.membership.expire(now, longest);
        let reads = self.reads.expire(now, longest);
        let expired = commands.into_iter().chain(changes).chain(reads);
        self.replies.extend(expired.map(|slot| (slot, Err(Error::Timeout))));
        self.look_through_lease_asks();
    }

    fn unreachable(&mut self, peer: MemberId) {
        self.owner.unreachable(peer);
        self.send_again |= self.owner.leader() == Some(peer);
    }

    fn hear(&mut self, from: MemberId, message: Bytes) {
        self.contacts.heard(from, self.now);
        match Message::decode(message) {
            Some(Message::Raft(message)) => self.hear_raft(from, &message),
            Some(Message::Forward { term, entry }) => self.commands_forwarded(from, term, entry),
            Some(Message::Membership { term, entry }) => self.membership_forwarded(from, term, entry),
            Some(Message::Refused { boot, error, requests }) => self.forwards_refused(boot, error, &requests),
            Some(Message::LeaseAsk { boot, asks }) => self.lease_asked(from, boot, asks),
            Some(Message::LeaseTell { boot, tells }) => self.lease_told(from, boot, tells),
            Some(Message::Hash { index, hash }) => self.integrity.heard(from, index, hash),
            Some(Message::NoSnapshot { term, copies }) => self.snapshot_refused(from, term, copies),
            None => {}
        }
    }

    fn hear_raft(&mut self, from: MemberId, message: &[u8]) {
        if self.removed {
            return;
        }
        // Anything else that cannot be used is as good as lost on the way.
        let is_fit = self.is_fit();
        if self.owner.peer_message(from, message, is_fit) == Err(Refused::LogLost) {
            self.failed.get_or_insert(Fatal::Raft(format!(
                "{}; remove the member from the cluster and add it again with an empty data directory",
                Refused::LogLost
            )));
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
            self.reads.abort_round();
            self.lease_desk.leader_changed();
            self.proposals.leader_changed();
            self.hold_forwards_until = Instant64(0);
        }
        if role.0 != Role::Leader || old_term != role.1 {
            self.stop_leasing();
            self.drop_forwarded();
        }
        if old_term != role.1 {
            self.taken.clear();
            self.asked_to_lead.clear();
            self.membership.taken.clear();
        }
        self.follow_transfer();
    }

    fn emit_consensus(&mut self, out: &mut Vec<Output>) {
        out.extend(self.refusals.drain(..).map(|(to, message)| Output::Send { to, message }));
        for (to, message) in self.drained.messages.drain(..) {
            out.push(Output::Send { to, message: Message::Raft(message).encode() });
        }
        if let Some((number, batch, sync)) = self.drained.wal.take() {
            self.upkeep.logged(batch.bytes.len());
            if sync {
                self.disk.given_out(number, self.now);
            }
            out.push(Output::Wal(WalWrite { number, batch, sync }));
        }
        for (round, index) in self.drained.reads.drain(..) {
            self.reads.confirm(round, index);
        }
    }

    fn apply(&mut self, out: &mut Vec<Output>) -> Result<(), Fatal> {
        let committed = std::mem::take(&mut self.drained.committed);
        let Some(last) = committed.last().map(|entry| entry.index) else { return Ok(()) };
        for entry in committed {
            let index = entry.index;
            self.machine.apply(entry, &mut self.effects)?;
            self.integrity.applied(index, self.machine.applied().chain_hash);
            if self.machine.rows_bytes() >= limits::APPLY_BYTES_BUDGET {
                self.emit_rows(out);
            }
            self.follow_effects(out)?;
        }
        self.emit_rows(out);
        self.owner.applied(last);
        Ok(())
    }

    fn emit_rows(&mut self, out: &mut Vec<Output>) {
        let applied = self.machine.applied();
        let (index, revision) = (applied.index, applied.revision);
        let batch = self.machine.take_rows();
        if mutant!("the_position_is_written_before_its_rows") {
            let mut position = crate::env::WriteBatch::new();
            self.machine.applied().write(&mut position);
            out.push(Output::Store(StoreWrite { index, revision: self.stored_revision, batch: position }));
        }
        self.stored_revision = revision;
        self.upkeep.handed_out(index, batch.size_bytes());
        out.push(Output::Store(StoreWrite { index, revision, batch }));
    }

    fn follow_effects(&mut self, out: &mut Vec<Output>) -> Result<(), Fatal> {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Answer { origin, boot, request, result } => {
                    let own = origin == self.config.member_id && boot == self.config.boot;
                    let waits = self.proposals.applied(origin, boot, request);
                    let waits = waits.or_else(|| own.then(|| self.membership.finish(request)).flatten());
                    if let Some(slot) = waits {
                        self.replies.push((slot, result));
                    }
                }
                Effect::Events(batch) => out.push(Output::Events(batch)),
                Effect::Compacted(revision) => out.push(Output::Compacted { revision }),
                Effect::LeaseGranted(id) => {
                    if let Some(lease) = self.machine.leases().get(id) {
                        self.deadlines.granted(self.now, id, lease.granted_ttl);
                    }
                }
                Effect::LeaseCheckpointed(id) => self.checkpointed(id),
                Effect::LeaseRevoked(id) => {
                    self.deadlines.revoked(id);
                    self.unpark_renewals(id);
                }
                Effect::ClusterChanged => self.cluster_changed(),
                Effect::AlarmOff(alarm) => self.alarm_cleared(alarm),
                Effect::MembershipChanged(change, expected) => {
                    self.owner.apply_membership(change, &expected)?;
                    if let MembershipChange::Remove(id) = change {
                        self.contacts.lost(id);
                        if id == self.config.member_id {
                            self.removed = true;
                            out.push(Output::Removed);
                        }
                    }
                }
                Effect::TermStarted(term) => {
                    self.proposals.term_started(term);
                    self.membership.term_started(term);
                    // Who leads with a wrong state does not know the leases.
                    if self.owner.role() == Role::Leader && self.owner.term() == term && !self.corrupt {
                        self.deadlines.promote(self.now, term, self.config.election_timeout());
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes over what everybody may know about members and alarms.
    fn cluster_changed(&mut self) {
        self.status.members = Arc::new(self.machine.members().list());
        self.status.removed = Arc::new(self.machine.members().removed());
        self.status.alarms = Arc::new(self.machine.alarms().list(None));
        self.status.cluster_version = self.machine.cluster_version().into();
        self.status.learner = self.machine.applied().conf_state.learners.contains(&self.config.member_id);
        self.upkeep.status_changed = true;
    }

    fn serve_waiters(&mut self) {
        if self.owner.is_installing() {
            // The keys are closed.
            return;
        }
        for waiter in self.reads.ready(self.machine.applied().index) {
            match waiter {
                Waiter::Read(slot) => {
                    let applied = self.machine.applied().index;
                    self.replies.push((slot, Ok(Reply::ReadIndex { applied })));
                }
                Waiter::Renew(asker, id) => self.renew(asker, id),
                Waiter::TimeToLive(asker, id) => self.time_to_live(asker, id),
                Waiter::Told { request, ttl, granted_ttl } => {
                    self.answer_lease_ask(request, ttl, granted_ttl);
                }
                Waiter::Lessor => self.upkeep.hold_expiry = false,
            }
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
            self.status.corrupt = self.corrupt;
            self.status.compared = self.integrity.compared_count();
            self.status.state_hash = (applied, self.machine.applied().chain_hash);
            out.push(Output::Status(self.status.clone()));
        }
    }
}

/// One fact in two places would be two facts: who votes must be who the member rows say.
fn check_members(machine: &Machine) -> Result<(), Fatal> {
    let ids = |learner: bool| -> Vec<MemberId> {
        machine.members().iter().filter(|member| member.learner == learner).map(|member| member.id).collect()
    };
    let conf_state = &machine.applied().conf_state;
    if ids(false) != conf_state.voters || ids(true) != conf_state.learners {
        return Err(Fatal::Damaged(format!(
            "member rows and voters disagree; voters={:?} learners={:?} members={:?}",
            conf_state.voters,
            conf_state.learners,
            machine.members().list()
        )));
    }
    Ok(())
}
