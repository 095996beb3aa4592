//! Commands on their way to the leader: proposed here if this member leads, else sent to who does.
//!
//! A forwarded entry is bound to the term in which it was sent: only the leader of that term puts
//! it into its log. So it is known, when a later term has begun, that what is not applied by then
//! never will be.

use bytes::Bytes;

use super::message::Message;
use super::proposals::NOBODY;
use super::{Node, Output, Slot};
use crate::codec;
use crate::command::{Command, Entry, EntryBuilder, Kind};
use crate::error::Error;
use crate::lease;
use crate::limits;
use crate::mutant::mutant;
use crate::raft::Role;
use crate::types::{MemberId, Term};

impl Node {
    /// Takes a client's command.
    pub(super) fn propose(&mut self, slot: Slot, command: Command) {
        if command.kind.changes_membership() {
            return self.membership.push(self.now, slot, command);
        }
        let command = match command.kind {
            Kind::LeaseGrant => match self.with_min_ttl(command) {
                Ok(command) => command,
                Err(error) => return self.replies.push((slot, Err(error))),
            },
            _ => command,
        };
        if let Err(error) = self.proposals.push(self.now, slot, command) {
            self.replies.push((slot, Err(error)));
        }
    }

    /// The shortest time to live follows from this member's election timeout, so it is applied
    /// before the grant enters the log.
    fn with_min_ttl(&self, command: Command) -> Result<Command, Error> {
        let (id, ttl) = codec::lease::decode_grant(command.body).map_err(|_| Error::Canceled)?;
        Ok(codec::lease::grant(id, ttl.max(lease::min_ttl(self.config.election_timeout()))))
    }

    /// Sends what waits on its way.
    pub(super) fn propose_waiting(&mut self, out: &mut Vec<Output>) {
        // While the engine is far behind, commands wait in their bounded queue.
        if self.upkeep.is_behind() {
            return;
        }
        match self.owner.role() {
            Role::Leader => self.propose_here(),
            Role::Follower | Role::Candidate => self.send_to_leader(out),
        }
    }

    fn propose_here(&mut self) {
        if self.owner.transferring_to().is_some() {
            // They wait for the next leader.
            self.drop_forwarded();
            return;
        }
        for command in std::mem::take(&mut self.own_commands) {
            self.owner.propose(vec![self.proposals.own_entry(&command)]);
        }
        if !self.forwarded.is_empty() {
            self.forwarded_bytes = 0;
            let entries = std::mem::take(&mut self.forwarded);
            let payloads = entries.iter().map(|entry| entry.to_vec()).collect();
            if !self.owner.propose(payloads) {
                entries.into_iter().for_each(|entry| self.refuse_entry(entry, Error::TooManyRequests));
            }
        }
        if !self.proposals.has_waiting() {
            return;
        }
        let (first, entries) = self.proposals.take_entries(self.owner.term());
        if !self.owner.propose(entries) {
            for slot in self.proposals.dropped_since(first) {
                self.replies.push((slot, Err(Error::TooManyRequests)));
            }
        }
    }

    fn send_to_leader(&mut self, out: &mut Vec<Output>) {
        let Some(leader) = self.owner.leader().filter(|_| self.now >= self.hold_forwards_until) else {
            return;
        };
        let term = match mutant!("forwards_are_not_bound_to_a_term") {
            true => Term(0),
            false => self.owner.term(),
        };
        let mut send = |entry: Bytes| {
            let message = Message::Forward { term, entry }.encode();
            out.push(Output::Send { to: leader, message });
        };
        for command in std::mem::take(&mut self.own_commands) {
            send(self.proposals.own_entry(&command).into());
        }
        if self.proposals.has_waiting() {
            let (_, entries) = self.proposals.take_entries(self.owner.term());
            entries.into_iter().for_each(|entry| send(entry.into()));
        }
    }

    /// What is in flight goes to the leader once more: the connection was lost and nobody can tell
    /// what arrived. The leader takes each command once.
    pub(super) fn forward_again(&mut self, out: &mut Vec<Output>) {
        if !std::mem::take(&mut self.send_again) || self.owner.role() == Role::Leader {
            return;
        }
        let Some(leader) = self.owner.leader() else { return };
        let term = self.owner.term();
        for entry in self.proposals.entries_in_flight(term) {
            let message = Message::Forward { term, entry: entry.into() }.encode();
            out.push(Output::Send { to: leader, message });
        }
        self.membership.send_again(term);
    }

    /// Another member sent commands of its clients.
    pub(super) fn commands_forwarded(&mut self, from: MemberId, term: Term, entry: Bytes) {
        // What cannot be read is as good as lost on the way; in the log it would stop everybody.
        let Ok(Entry { origin, boot, commands }) = Entry::decode(entry.clone()) else { return };
        if origin != from || commands.iter().any(|(_, command)| command.kind.changes_membership()) {
            return;
        }
        let same_term = self.owner.term() == term || mutant!("forwards_are_not_bound_to_a_term");
        let leads = self.owner.role() == Role::Leader && same_term && self.owner.transferring_to().is_none();
        if !leads {
            if self.knows_what_was_taken_in(term) {
                let was_not_taken = |request: &u64| !self.taken.contains(origin, boot, *request);
                let requests =
                    commands.into_iter().map(|(request, _)| request).filter(was_not_taken).collect();
                self.refuse_forwarded(origin, boot, Error::NotLeader, requests);
            }
            return;
        }
        if self.forwarded_bytes + entry.len() > limits::PENDING_BYTES_MAX {
            return self.refuse_entry(entry, Error::TooManyRequests);
        }
        let count = commands.len();
        let mut fresh = EntryBuilder::new(origin, boot);
        for (request, command) in commands {
            // Commands of the member itself have no number; twice does no harm there.
            let is_new = request == NOBODY
                || self.taken.take(origin, boot, request)
                || mutant!("forwards_are_taken_twice");
            if is_new {
                fresh.push(request, &command);
            }
        }
        self.forwarded_bytes += entry.len();
        if fresh.count() == count {
            self.forwarded.push(entry);
        } else if fresh.count() > 0 {
            self.forwarded.push(fresh.finish().into());
        }
    }

    /// Whether this member can say of a number that it did not take it in this term. Where it cannot,
    /// it says nothing: a copy of a message may come late, and the number may be in the log. Its
    /// member learns when a later term begins what became of it.
    pub(super) fn knows_what_was_taken_in(&self, term: Term) -> bool {
        term >= self.owner.term() && term > self.started_in || mutant!("a_late_copy_is_refused")
    }

    /// This member does not lead any more, or is about to stop leading: the commands of others go
    /// back to them.
    pub(super) fn drop_forwarded(&mut self) {
        self.forwarded_bytes = 0;
        for entry in std::mem::take(&mut self.forwarded) {
            self.refuse_entry(entry, Error::NotLeader);
        }
    }

    fn refuse_entry(&mut self, entry: Bytes, error: Error) {
        if let Ok(Entry { origin, boot, commands }) = Entry::decode(entry) {
            let requests = commands.into_iter().map(|(request, _)| request).collect();
            self.refuse_forwarded(origin, boot, error, requests);
        }
    }

    /// Tells another member that its commands did not get into the log.
    pub(super) fn refuse_forwarded(&mut self, to: MemberId, boot: u64, error: Error, requests: Vec<u64>) {
        let message = Message::Refused { boot, error, requests };
        self.refusals.push((to, message.encode()));
    }

    /// The leader did not take commands of this member's clients.
    pub(super) fn forwards_refused(&mut self, boot: u64, error: Error, requests: &[u64]) {
        if boot != self.config.boot {
            return;
        }
        if error == Error::NotLeader {
            // At once it would come to the same member again and again while nobody leads.
            self.hold_forwards_until = self.now.after(self.config.tick);
            self.proposals.refused(requests);
            self.membership.refused(requests);
            return;
        }
        let changes: Vec<_> =
            requests.iter().filter_map(|request| self.membership.rejected(*request)).collect();
        let slots = self.proposals.rejected(requests).into_iter().chain(changes);
        self.replies.extend(slots.map(|slot| (slot, Err(error))));
    }
}
