//! Leases at work: renewals and questions from clients of every member, and expiry, which is the
//! leader's alone.

use super::lease_desk::{Ask, Asker, Wish};
use super::message::{LeaseAsk, LeaseTell, Message};
use super::reads::Waiter;
use super::{Node, Output, Reply};
use crate::codec;
use crate::error::Error;
use crate::lease::{CHECKPOINTS_PER_ENTRY_MAX, RenewOutcome};
use crate::limits;
use crate::mutant::mutant;
use crate::raft::Role;
use crate::types::{LeaseId, LogIndex, MemberId};

/// Requests in one message to the leader.
const ASKS_PER_MESSAGE: usize = 10_000;

impl Node {
    /// Sends what waits to the leader, or works on it as the leader.
    pub(super) fn forward_lease_asks(&mut self, out: &mut Vec<Output>) {
        if !self.lease_desk.has_queued() {
            return;
        }
        let now = self.now;
        if self.owner.role() == Role::Leader {
            for (request, ask) in self.lease_desk.take_for_here() {
                self.wait_for_leadership(Asker::Here(request), ask.id, ask.wish == Wish::Renew);
            }
        } else if let Some(leader) = self.owner.leader() {
            let boot = self.config.boot;
            for asks in self.lease_desk.take_for_leader(now).chunks(ASKS_PER_MESSAGE) {
                let message = Message::LeaseAsk { boot, asks: asks.to_vec() };
                out.push(Output::Send { to: leader, message: message.encode() });
            }
        }
    }

    fn wait_for_leadership(&mut self, asker: Asker, id: LeaseId, renew: bool) {
        let waiter = if renew { Waiter::Renew(asker, id) } else { Waiter::TimeToLive(asker, id) };
        if mutant!("keepalives_need_no_quorum") {
            let applied = self.machine.applied().index;
            self.reads.push_confirmed(self.now, applied, waiter);
        } else {
            self.reads.push(self.now, waiter);
        }
    }

    /// Another member's clients ask. Without leadership there is no answer: they ask again.
    pub(super) fn lease_asked(&mut self, from: MemberId, boot: u64, asks: Vec<LeaseAsk>) {
        if self.owner.role() == Role::Leader {
            for LeaseAsk { request, renew, id } in asks {
                self.wait_for_leadership(Asker::There { member: from, boot, request }, id, renew);
            }
        }
    }

    /// The leader's answers. Those of an earlier leader count no more: the present one was asked too.
    pub(super) fn lease_told(&mut self, from: MemberId, boot: u64, tells: Vec<LeaseTell>) {
        if boot != self.config.boot || self.owner.leader() != Some(from) {
            return;
        }
        for LeaseTell { request, ttl, granted_ttl, applied } in tells {
            // The keys of a lease are read here, so here must be applied what the leader had.
            let waiter = Waiter::Told { request, ttl, granted_ttl };
            self.reads.push_confirmed(self.now, applied, waiter);
        }
    }

    /// Leadership is confirmed and what was committed is applied: renews.
    pub(super) fn renew(&mut self, asker: Asker, id: LeaseId) {
        match self.deadlines.renew(self.now, self.machine.leases(), id) {
            RenewOutcome::Renewed { ttl, clear_checkpoint } => {
                if !clear_checkpoint {
                    return self.tell(asker, ttl, ttl);
                }
                // The next leader would count from the checkpoint: the renewal is not
                // acknowledged before it is gone.
                let waiting = self.clearing.entry(id).or_default();
                waiting.push(asker);
                if waiting.len() == 1 {
                    let command = codec::lease::checkpoint(&[(id, 0)]);
                    if !self.owner.propose(vec![self.proposals.own_entry(&command)]) {
                        let waiting = self.clearing.remove(&id);
                        waiting.into_iter().flatten().for_each(|asker| self.cannot_tell(asker));
                    }
                }
            }
            RenewOutcome::NotFound => self.tell(asker, 0, 0),
            RenewOutcome::Expiring => self.parked_renewals.entry(id).or_default().push(asker),
            RenewOutcome::NotLeader => self.cannot_tell(asker),
        }
    }

    /// The same for a question.
    pub(super) fn time_to_live(&mut self, asker: Asker, id: LeaseId) {
        match (self.machine.leases().get(id), self.deadlines.term()) {
            (None, _) => self.tell(asker, -1, 0),
            (Some(_), None) => self.cannot_tell(asker),
            (Some(lease), Some(_)) => {
                let granted = lease.granted_ttl;
                let left = self.deadlines.remaining(self.now, self.machine.leases(), id);
                self.tell(asker, left.unwrap_or(-1), granted);
            }
        }
    }

    /// Renewals that waited for the end of their lease: it ended, or leadership did.
    pub(super) fn unpark_renewals(&mut self, id: LeaseId) {
        for asker in self.parked_renewals.remove(&id).into_iter().flatten() {
            self.tell(asker, 0, 0);
        }
    }

    /// A checkpoint was stored or cleared: renewals that waited for that go on.
    pub(super) fn checkpointed(&mut self, id: LeaseId) {
        for asker in self.clearing.remove(&id).into_iter().flatten() {
            self.renew(asker, id);
        }
    }

    /// This member does not lead any more.
    pub(super) fn stop_leasing(&mut self) {
        if mutant!("an_old_leader_ends_leases") {
            let due = self.deadlines.due(self.now, self.machine.leases(), limits::LEASE_REVOKE_IDS_MAX);
            let leases = self.machine.leases();
            let granted: Vec<_> =
                due.iter().filter_map(|id| Some((*id, leases.get(*id)?.granted_at))).collect();
            self.own_commands.push(codec::lease::expire(self.owner.term(), &granted));
        }
        self.deadlines.demote();
        self.upkeep.hold_expiry = false;
        let waiting = std::mem::take(&mut self.parked_renewals).into_values();
        let clearing = std::mem::take(&mut self.clearing).into_values();
        for asker in waiting.chain(clearing).flatten() {
            self.cannot_tell(asker);
        }
    }

    /// No answer from this member: its own clients' requests go to the next leader, other members
    /// ask again by themselves.
    fn cannot_tell(&mut self, asker: Asker) {
        if let Asker::Here(request) = asker {
            self.lease_desk.ask_again(request);
        }
    }

    fn tell(&mut self, asker: Asker, ttl: i64, granted_ttl: i64) {
        match asker {
            Asker::Here(request) => self.answer_lease_ask(request, ttl, granted_ttl),
            Asker::There { member, boot, request } => {
                let applied = self.machine.applied().index;
                let tell = LeaseTell { request, ttl, granted_ttl, applied };
                self.lease_tells.entry((member, boot)).or_default().push(tell);
            }
        }
    }

    /// Answers a client of this member, unless that was done before.
    pub(super) fn answer_lease_ask(&mut self, request: u64, ttl: i64, granted_ttl: i64) {
        let Some(Ask { slot, id, wish, .. }) = self.lease_desk.finish(request) else { return };
        let revision = self.machine.store().revision();
        let reply = match wish {
            Wish::Renew => Reply::LeaseRenewed { ttl, revision },
            Wish::TimeToLive { keys } => {
                let lease = self.machine.leases().get(id).filter(|_| keys);
                let keys = lease.map_or_else(Vec::new, |lease| lease.keys().iter().cloned().collect());
                Reply::LeaseTimeToLive { ttl, granted_ttl, keys, revision }
            }
        };
        self.replies.push((slot, Ok(reply)));
    }

    /// Sends the answers for other members' clients.
    pub(super) fn send_lease_tells(&mut self, out: &mut Vec<Output>) {
        if self.corrupt {
            // What a wrong state says is not to be told; they ask again.
            self.lease_tells.clear();
        }
        for ((to, boot), tells) in std::mem::take(&mut self.lease_tells) {
            let message = Message::LeaseTell { boot, tells };
            out.push(Output::Send { to, message: message.encode() });
        }
    }

    /// Gives up on requests that nobody answers.
    pub(super) fn look_through_lease_asks(&mut self) {
        let error = match self.owner.leader() {
            None => Error::NoLeader,
            Some(_) => Error::Timeout,
        };
        for slot in self.lease_desk.look_through(self.now, self.config.give_up_after()) {
            self.replies.push((slot, Err(error)));
        }
    }

    /// Whether this member may say that a lease's time is up.
    pub(super) fn may_expire(&self) -> bool {
        self.deadlines.term() == Some(self.owner.term())
            && self.owner.role() == Role::Leader
            && self.owner.transferring_to().is_none()
            && !self.upkeep.hold_expiry
    }

    /// Proposes the end of leases whose time is up, if this member may still say so.
    pub(super) fn expire_leases(&mut self) {
        let now = self.now;
        if self.stalled {
            self.stalled = false;
            if self.deadlines.term().is_some() {
                self.reads.push(now, Waiter::Lessor);
                self.upkeep.hold_expiry = true;
            }
        }
        if !self.may_expire() {
            return;
        }
        let due = self.deadlines.due(now, self.machine.leases(), limits::LEASE_REVOKE_IDS_MAX);
        if due.is_empty() {
            return;
        }
        let leases = self.machine.leases();
        let granted: Vec<(LeaseId, LogIndex)> =
            due.iter().filter_map(|id| Some((*id, leases.get(*id)?.granted_at))).collect();
        let command = codec::lease::expire(self.owner.term(), &granted);
        if !self.owner.propose(vec![self.proposals.own_entry(&command)]) {
            self.deadlines.unmark(now, &due);
        }
    }

    /// Stores how much time long leases have left, so that the next leader need not give them all
    /// of it again. Called once a second.
    pub(super) fn checkpoint_leases(&mut self) {
        let now = self.now;
        if !self.config.lease_checkpoints || self.deadlines.term() != Some(self.owner.term()) {
            return;
        }
        let left = self.deadlines.checkpoints(now, self.machine.leases(), CHECKPOINTS_PER_ENTRY_MAX);
        if !left.is_empty() {
            let command = codec::lease::checkpoint(&left);
            self.owner.propose(vec![self.proposals.own_entry(&command)]);
        }
    }
}
