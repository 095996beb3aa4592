//! Giving leadership away: because an operator wants it, because this member stops, because its
//! disk does not answer, or because its state is wrong.

use std::collections::VecDeque;

use super::{Node, Reply, Slot};
use crate::cluster::AlarmKind;
use crate::error::Error;
use crate::mutant::mutant;
use crate::raft::Role;
use crate::types::{Instant64, MemberId};

/// Election timeouts after which others would have elected one of them, if they could.
const LEADERLESS_FOR: u32 = 4;

/// A move that somebody waits for.
pub struct Transfer {
    slot: Slot,
    target: MemberId,
    /// Whether it must be this member.
    named: bool,
    since: Instant64,
}

/// Log writes that are not durable yet, to notice a disk that has stopped.
#[derive(Default)]
pub struct DiskWatch {
    writes: VecDeque<(u64, Instant64)>,
}

impl DiskWatch {
    /// A write was given out.
    pub fn given_out(&mut self, number: u64, now: Instant64) {
        self.writes.push_back((number, now));
    }

    /// Writes up to this one are durable.
    pub fn done(&mut self, number: u64) {
        while self.writes.front().is_some_and(|(write, _)| *write <= number) {
            self.writes.pop_front();
        }
    }

    /// Since when the oldest write has been waiting.
    pub fn waiting_since(&self) -> Option<Instant64> {
        self.writes.front().map(|(_, since)| *since)
    }
}

impl Node {
    /// Moves leadership to a certain voter.
    pub(super) fn transfer_leader(&mut self, slot: Slot, target: MemberId) {
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
        } else {
            self.owner.transfer_leader(target);
            self.await_transfer(slot, target, true);
        }
    }

    /// Moves leadership to whoever is placed best, if there is any to move and anybody to take it.
    pub(super) fn step_down(&mut self, slot: Slot) {
        let leads = self.owner.role() == Role::Leader;
        match leads.then(|| self.hand_over()).flatten() {
            Some(target) => self.await_transfer(slot, target, false),
            None => self.replies.push((slot, Ok(Reply::Transferred))),
        }
    }

    /// Moves leadership to who would lead best after this member. Says to whom, if there is anybody.
    ///
    /// Whose state is known to be wrong is left out. Others may not be fit to lead for reasons that are
    /// not known here, and do not take over: each later attempt goes to the next.
    pub(super) fn hand_over(&mut self) -> Option<MemberId> {
        let wrong = self.machine.alarms().list(Some(AlarmKind::Corrupt));
        let fit = |id: MemberId| {
            self.contacts.is_in_touch(id, self.now) && wrong.iter().all(|alarm| alarm.member != id)
        };
        let successor = self.owner.best_successor(|id| fit(id) && !self.asked_to_lead.contains(&id));
        let successor = match successor {
            Some(successor) => successor,
            None => {
                self.asked_to_lead.clear();
                self.owner.best_successor(fit)?
            }
        };
        self.asked_to_lead.insert(successor);
        self.owner.transfer_leader(successor);
        Some(successor)
    }

    fn await_transfer(&mut self, slot: Slot, target: MemberId, named: bool) {
        let transfer = Transfer { slot, target, named, since: self.now };
        if let Some(earlier) = self.transfer.replace(transfer) {
            self.replies.push((earlier.slot, Err(Error::LeaderTransferTimeout)));
        }
    }

    /// Follows a move that somebody waits for. Consensus gives one up after an election timeout;
    /// it is tried again for as long as requests may take.
    pub(super) fn follow_transfer(&mut self) {
        let Some(transfer) = &self.transfer else { return };
        let leader = self.owner.leader();
        let outcome = if leader == Some(transfer.target) {
            Ok(Reply::Transferred)
        } else if self.owner.role() != Role::Leader && leader.is_some_and(|id| id != self.config.member_id) {
            // Somebody else took over: for one who wants to stop that is as good.
            if transfer.named { Err(Error::NotLeader) } else { Ok(Reply::Transferred) }
        } else if self.now.since(transfer.since) >= self.config.request_timeout {
            Err(Error::LeaderTransferTimeout)
        } else {
            if self.owner.role() == Role::Leader && self.owner.transferring_to().is_none() {
                let (named, target) = (transfer.named, transfer.target);
                if named {
                    self.owner.transfer_leader(target);
                } else if let Some(next) = self.hand_over()
                    && let Some(transfer) = &mut self.transfer
                {
                    transfer.target = next;
                }
            }
            return;
        };
        if let Some(transfer) = self.transfer.take() {
            self.replies.push((transfer.slot, outcome));
        }
    }

    /// Whether the disk has kept a log write waiting for so long that this member must not lead.
    pub(super) fn disk_is_stuck(&self) -> bool {
        self.disk.waiting_since().is_some_and(|since| self.now.since(since) >= self.config.disk_stall)
    }

    /// A leader that cannot write, or whose state is wrong, hands over; if nobody takes over within
    /// an election timeout it steps down all the same, so that the others elect. Called once a
    /// tick.
    pub(super) fn give_way(&mut self) {
        let unfit = (self.disk_is_stuck() && !mutant!("a_stuck_disk_goes_on_leading")) || self.corrupt;
        if !unfit || self.owner.role() != Role::Leader || self.owner.is_sole_voter() {
            self.unfit_since = None;
            return;
        }
        let since = *self.unfit_since.get_or_insert(self.now);
        if self.now.since(since) >= self.config.election_timeout() {
            self.owner.abdicate();
            self.unfit_since = None;
        } else if self.owner.transferring_to().is_none() {
            self.hand_over();
        }
    }

    /// Whether this member can lead for longer than it takes to hand over.
    pub(super) fn is_fit(&self) -> bool {
        !(self.disk_is_stuck() || self.corrupt)
    }

    /// A member that is not fit to lead does not ask for votes. If nobody leads for long, it does although
    /// its state is wrong: its log is not, and may be what everybody else lacks. It brings the others up
    /// to it then, and hands over.
    pub(super) fn may_campaign(&self) -> bool {
        let long = LEADERLESS_FOR * self.config.election_timeout();
        let is_last_resort =
            !self.disk_is_stuck() && self.leaderless_since.is_some_and(|since| self.now.since(since) >= long);
        self.owner.role() == Role::Leader || self.is_fit() || is_last_resort
    }
}
