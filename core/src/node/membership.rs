//! Membership commands on their way: from the client's member to the leader, checked there, put
//! into the log one at a time.
//!
//! Invariants: a command is proposed only after every earlier change was applied (consensus would
//! silently turn it into nothing); it goes on its way again only when the earlier way is known to
//! be closed, as in [`super::proposals`]; a leader never proposes its own removal while there is
//! somebody to lead after it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::message::Message;
use super::taken::Taken;
use super::{Node, Output, Slot};
use crate::cluster::reconfig::{self, Voter};
use crate::codec;
use crate::command::{Command, Entry, EntryBuilder, Kind};
use crate::error::{Error, Fatal};
use crate::mutant::mutant;
use crate::raft::{MembershipChange, Role};
use crate::types::{Instant64, MemberId, Term};

/// Numbers of membership commands lie apart from those of other commands.
const FIRST_REQUEST: u64 = 1 << 62;
/// How long a member must have been in touch to count as connected; etcd's value.
const CONNECTED_FOR: Duration = Duration::from_secs(5);

/// A client's command.
struct Local {
    slot: Slot,
    since: Instant64,
    command: Command,
    /// The term in which it went on its way.
    sent_in: Option<Term>,
    /// It was sent more than once in that term: a refusal says nothing about the other copies.
    copies: bool,
    /// It is to be sent once more in the same term.
    again: bool,
}

/// A command that the leader works on.
struct Ask {
    origin: MemberId,
    boot: u64,
    request: u64,
    command: Command,
}

/// Membership commands of this member's clients, and, on a leader, of everybody's.
#[derive(Default)]
pub struct Membership {
    local: BTreeMap<u64, Local>,
    asks: VecDeque<Ask>,
    /// What was taken in this term, so that nothing is taken twice.
    pub(super) taken: Taken,
    last: u64,
}

impl Membership {
    /// Takes a client's command.
    pub fn push(&mut self, now: Instant64, slot: Slot, command: Command) {
        self.last += 1;
        self.local.insert(
            FIRST_REQUEST + self.last,
            Local { slot, since: now, command, sent_in: None, copies: false, again: false },
        );
    }

    /// There is an answer for this request of this start of this member.
    pub fn finish(&mut self, request: u64) -> Option<Slot> {
        self.local.remove(&request).map(|local| local.slot)
    }

    /// A term began without what was sent on its way in earlier ones.
    pub fn term_started(&mut self, term: Term) {
        for local in self.local.values_mut() {
            if local.sent_in.is_some_and(|sent_in| sent_in < term) {
                (local.sent_in, local.copies, local.again) = (None, false, false);
            }
        }
    }

    /// Somebody did not take them.
    pub fn refused(&mut self, requests: &[u64]) {
        for request in requests {
            if let Some(local) = self.local.get_mut(request).filter(|local| !local.copies) {
                local.sent_in = None;
            }
        }
    }

    /// The leader will not have it; gives back who waits.
    pub fn rejected(&mut self, request: u64) -> Option<Slot> {
        let certain = self.local.get(&request).is_some_and(|local| !local.copies);
        if certain { self.finish(request) } else { None }
    }

    /// The leader of this term may not have got them; it takes each once.
    pub fn send_again(&mut self, term: Term) {
        for local in self.local.values_mut().filter(|local| local.sent_in == Some(term)) {
            (local.again, local.copies) = (true, true);
        }
    }

    /// Gives back who waited for `longest` or more, or everybody in flight when the state jumped.
    pub fn expire(&mut self, now: Instant64, longest: Duration) -> Vec<Slot> {
        let (old, young) = std::mem::take(&mut self.local)
            .into_iter()
            .partition(|(_, local)| now.since(local.since) >= longest);
        self.local = young;
        let old: BTreeMap<u64, Local> = old;
        old.into_values().map(|local| local.slot).collect()
    }

    /// The state jumped ahead: nobody can tell what became of the commands in flight.
    pub fn lost_track(&mut self) -> Vec<Slot> {
        let gone: Vec<_> =
            self.local.iter().filter(|(_, local)| local.sent_in.is_some()).map(|(id, _)| *id).collect();
        gone.into_iter().filter_map(|request| self.finish(request)).collect()
    }
}

/// Reads a membership command.
fn change_of(command: &Command) -> Result<MembershipChange, Fatal> {
    Ok(match command.kind {
        Kind::MemberAdd => {
            let member = codec::cluster::decode_member(command.body.clone())?;
            match member.learner {
                true => MembershipChange::AddLearner(member.id),
                false => MembershipChange::AddVoter(member.id),
            }
        }
        Kind::MemberPromote => {
            MembershipChange::AddVoter(codec::cluster::decode_member_id(command.body.clone())?)
        }
        Kind::MemberRemove => {
            MembershipChange::Remove(codec::cluster::decode_member_id(command.body.clone())?)
        }
        _ => return Err(Fatal::Entry("a command is no membership change".into())),
    })
}

impl Node {
    /// Another member's client wants a change; this member may be the leader of that term.
    pub(super) fn membership_forwarded(&mut self, from: MemberId, term: Term, payload: Bytes) {
        // What cannot be read is as good as lost on the way.
        let Ok(Entry { origin, boot, commands }) = Entry::decode(payload) else { return };
        let readable = |command: &Command| command.kind.changes_membership() && change_of(command).is_ok();
        if origin != from || !commands.iter().all(|(_, command)| readable(command)) {
            return;
        }
        let leads = self.owner.role() == Role::Leader && self.owner.term() == term;
        for (request, command) in commands {
            if !leads {
                if self.knows_what_was_taken_in(term)
                    && !self.membership.taken.contains(origin, boot, request)
                {
                    self.refuse_forwarded(from, boot, Error::NotLeader, vec![request]);
                }
            } else if self.membership.taken.take(origin, boot, request) {
                self.membership.asks.push_back(Ask { origin, boot, request, command });
            }
        }
    }

    /// Sends what waits here on its way, and as the leader works on what arrived.
    pub(super) fn change_membership(&mut self, out: &mut Vec<Output>) {
        let (me, boot, term) = (self.config.member_id, self.config.boot, self.owner.term());
        let leads = self.owner.role() == Role::Leader;
        let leader = self.owner.leader();
        if !leads {
            // Their members send them to the next leader.
            self.membership.asks.clear();
        }
        if leader.is_some() && self.now >= self.hold_forwards_until {
            for (request, local) in &mut self.membership.local {
                if local.sent_in.is_some() && !std::mem::take(&mut local.again) {
                    continue;
                }
                local.sent_in = Some(term);
                let command = local.command.clone();
                match leader {
                    Some(leader) if leader != me => {
                        let mut builder = EntryBuilder::new(me, boot);
                        builder.push(*request, &command);
                        let message = Message::Membership { term, entry: builder.finish().into() };
                        out.push(Output::Send { to: leader, message: message.encode() });
                    }
                    _ => self.membership.asks.push_back(Ask { origin: me, boot, request: *request, command }),
                }
            }
        }
        while self.owner.can_change_membership()
            && let Some(ask) = self.membership.asks.pop_front()
        {
            let Ok(change) = change_of(&ask.command) else { continue };
            if ask.origin == me && !self.membership.local.contains_key(&ask.request) {
                // Nobody waits for it any more.
                continue;
            }
            if let Err(error) = self.may_change(&ask.command, change) {
                self.reject(&ask, error);
                continue;
            }
            if change == MembershipChange::Remove(me) && !self.owner.is_sole_voter() {
                if self.hand_over().is_none() {
                    // What would be left is silent, or wrong.
                    self.reject(&ask, Error::Unhealthy);
                    continue;
                }
                // The next leader removes this one: the command finds its way there by itself.
                if ask.origin == me {
                    self.membership.asks.push_front(ask);
                } else {
                    // It comes again, perhaps to this leader, if nobody takes over.
                    self.membership.taken.give_back(ask.origin, ask.boot, ask.request);
                    self.refuse_forwarded(ask.origin, ask.boot, Error::NotLeader, vec![ask.request]);
                }
                return;
            }
            let mut builder = EntryBuilder::new(ask.origin, ask.boot);
            builder.push(ask.request, &ask.command);
            if !self.owner.propose_membership(change, builder.finish()) {
                self.membership.asks.push_front(ask);
                return;
            }
        }
    }

    fn reject(&mut self, ask: &Ask, error: Error) {
        if ask.origin != self.config.member_id {
            self.refuse_forwarded(ask.origin, ask.boot, error, vec![ask.request]);
        } else if let Some(slot) = self.membership.finish(ask.request) {
            self.replies.push((slot, Err(error)));
        }
    }

    /// Whether the leader may propose this now: what apply will check, and what only a leader can
    /// know.
    fn may_change(&self, command: &Command, change: MembershipChange) -> Result<(), Error> {
        let voters = self.voters();
        let strict = self.config.strict_reconfig;
        match (command.kind, change) {
            (Kind::MemberPromote, MembershipChange::AddVoter(id)) => {
                self.machine.check_promote(id)?;
                self.check_caught_up(id)?;
                if strict { reconfig::check_promote(&voters) } else { Ok(()) }
            }
            (_, MembershipChange::Remove(id)) => {
                if strict {
                    reconfig::check_remove(&voters, id, self.config.member_id)?;
                }
                self.machine.check_remove(id)
            }
            (_, change) => {
                let learner = matches!(change, MembershipChange::AddLearner(_));
                if strict {
                    reconfig::check_add(&voters, learner)?;
                }
                let member =
                    codec::cluster::decode_member(command.body.clone()).map_err(|_| Error::MemberBadUrls)?;
                self.machine.check_add(&member)?;
                let learners = self.machine.members().iter().filter(|member| member.learner).count();
                if learner && learners >= self.config.max_learners {
                    return Err(Error::TooManyLearners);
                }
                Ok(())
            }
        }
    }

    fn voters(&self) -> Vec<Voter> {
        let (now, me) = (self.now, self.config.member_id);
        self.machine
            .members()
            .iter()
            .filter(|member| !member.learner)
            .map(|member| Voter {
                id: member.id,
                started: !member.name.is_empty(),
                connected: member.id == me || self.contacts.in_touch_for(member.id, now) >= CONNECTED_FOR,
            })
            .collect()
    }

    /// A learner may vote when it has nine tenths of the log; etcd's rule. One that was never
    /// heard of has nothing, whatever the numbers say.
    fn check_caught_up(&self, id: MemberId) -> Result<(), Error> {
        let last = self.owner.last_index().0;
        let matched = self.owner.matched(id).filter(|_| self.contacts.is_in_touch(id, self.now));
        match matched {
            Some(matched) if matched.0 > 0 && matched.0 >= last / 10 * 9 => Ok(()),
            _ if mutant!("a_lagging_learner_is_promoted") => Ok(()),
            _ => Err(Error::LearnerNotReady),
        }
    }
}
