//! Client commands on their way into the log, and who waits for them.
//!
//! Invariant: every slot that was taken is given back exactly once: with the answer when its
//! command is applied, or as lost when a later term began without it.

use std::collections::VecDeque;

use super::Slot;
use crate::command::{Command, EntryBuilder};
use crate::error::Error;
use crate::limits;
use crate::types::{MemberId, Term};

/// The number that commands of the member itself carry: nobody waits for them.
pub const NOBODY: u64 = u64::MAX;

struct InFlight {
    slot: Slot,
    term: Term,
    bytes: usize,
}

/// See the module.
pub struct Proposals {
    origin: MemberId,
    boot: u64,
    waiting: VecDeque<(Slot, Command)>,
    in_flight: VecDeque<Option<InFlight>>,
    first_request: u64,
    pending_count: usize,
    pending_bytes: usize,
}

impl Proposals {
    /// Nothing pending.
    pub fn new(origin: MemberId, boot: u64) -> Self {
        Self {
            origin,
            boot,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            first_request: 0,
            pending_count: 0,
            pending_bytes: 0,
        }
    }

    /// Takes a command.
    ///
    /// # Errors
    /// `TooManyRequests` when too many or too large ones are pending.
    pub fn push(&mut self, slot: Slot, command: Command) -> Result<(), Error> {
        if self.pending_count >= limits::PENDING_COMMANDS_MAX
            || self.pending_bytes + command.body.len() > limits::PENDING_BYTES_MAX
        {
            return Err(Error::TooManyRequests);
        }
        self.pending_count += 1;
        self.pending_bytes += command.body.len();
        self.waiting.push_back((slot, command));
        Ok(())
    }

    /// Whether commands wait to be proposed.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Groups everything that waits into entries and counts it as in flight in `term`. The
    /// returned number is the first request in them, for [`Self::dropped_since`].
    pub fn take_entries(&mut self, term: Term) -> (u64, Vec<Vec<u8>>) {
        let first = self.first_request + self.in_flight.len() as u64;
        let mut entries = Vec::new();
        let mut builder = EntryBuilder::new(self.origin, self.boot);
        while let Some((slot, command)) = self.waiting.pop_front() {
            let full = builder.count() >= limits::ENTRY_COMMANDS_MAX
                || builder.size_bytes() + command.body.len() > limits::ENTRY_BYTES_TARGET;
            if full && builder.count() > 0 {
                let next = EntryBuilder::new(self.origin, self.boot);
                entries.push(std::mem::replace(&mut builder, next).finish());
            }
            builder.push(self.first_request + self.in_flight.len() as u64, &command);
            self.in_flight.push_back(Some(InFlight { slot, term, bytes: command.body.len() }));
        }
        if builder.count() > 0 {
            entries.push(builder.finish());
        }
        (first, entries)
    }

    /// An entry with one command of the member itself.
    pub fn own_entry(&self, command: &Command) -> Vec<u8> {
        let mut builder = EntryBuilder::new(self.origin, self.boot);
        builder.push(NOBODY, command);
        builder.finish()
    }

    /// The requests from this number on were not appended to any log; gives back who waits.
    pub fn dropped_since(&mut self, first: u64) -> Vec<Slot> {
        let keep = (first - self.first_request) as usize;
        let gone: Vec<_> = self.in_flight.drain(keep..).flatten().collect();
        gone.into_iter().map(|request| self.release(&request)).collect()
    }

    /// A command of `origin` and `boot` was applied; gives back who waits for it here.
    pub fn applied(&mut self, origin: MemberId, boot: u64, request: u64) -> Option<Slot> {
        if origin != self.origin || boot != self.boot || request == NOBODY {
            return None;
        }
        let position = usize::try_from(request.checked_sub(self.first_request)?).ok()?;
        let request = self.in_flight.get_mut(position)?.take()?;
        self.trim();
        Some(self.release(&request))
    }

    /// A leader's first entry of `term` was applied: what was proposed in earlier terms and has
    /// not been applied by now never will be. Gives back who waits for it.
    pub fn term_started(&mut self, term: Term) -> Vec<Slot> {
        let mut lost = Vec::new();
        for position in 0..self.in_flight.len() {
            if self.in_flight[position].as_ref().is_some_and(|request| request.term < term) {
                let request = self.in_flight[position].take().expect("looked at above");
                lost.push(self.release(&request));
            }
        }
        self.trim();
        lost
    }

    fn trim(&mut self) {
        while matches!(self.in_flight.front(), Some(None)) {
            self.in_flight.pop_front();
            self.first_request += 1;
        }
    }

    fn release(&mut self, request: &InFlight) -> Slot {
        self.pending_count -= 1;
        self.pending_bytes -= request.bytes;
        request.slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Entry, Kind};
    use bytes::Bytes;

    const ME: MemberId = MemberId(1);

    fn put(bytes: usize) -> Command {
        Command { kind: Kind::Put, body: Bytes::from(vec![0; bytes]) }
    }

    fn requests(entries: Vec<Vec<u8>>) -> Vec<Vec<u64>> {
        entries
            .into_iter()
            .map(|entry| Entry::decode(entry.into()).unwrap().commands.iter().map(|(r, _)| *r).collect())
            .collect()
    }

    #[test]
    fn commands_share_entries_up_to_the_target_size() {
        let mut proposals = Proposals::new(ME, 1);
        for slot in 0..3 {
            proposals.push(Slot(slot), put(30_000)).unwrap();
        }
        proposals.push(Slot(3), put(200_000)).unwrap();
        let (first, entries) = proposals.take_entries(Term(1));
        assert_eq!((first, requests(entries)), (0, vec![vec![0, 1], vec![2], vec![3]]));
    }

    #[test]
    fn an_answer_finds_its_slot_once_and_only_for_this_start_of_this_member() {
        let mut proposals = Proposals::new(ME, 2);
        proposals.push(Slot(10), put(1)).unwrap();
        proposals.push(Slot(11), put(1)).unwrap();
        proposals.take_entries(Term(1));
        assert_eq!(proposals.applied(ME, 1, 0), None);
        assert_eq!(proposals.applied(MemberId(2), 2, 0), None);
        assert_eq!(proposals.applied(ME, 2, 1), Some(Slot(11)));
        assert_eq!(proposals.applied(ME, 2, 1), None);
        assert_eq!(proposals.applied(ME, 2, 0), Some(Slot(10)));
        assert_eq!(proposals.applied(ME, 2, 0), None);
        assert_eq!((proposals.pending_count, proposals.pending_bytes), (0, 0));
    }

    #[test]
    fn what_an_earlier_term_left_behind_is_given_back_as_lost() {
        let mut proposals = Proposals::new(ME, 1);
        proposals.push(Slot(1), put(1)).unwrap();
        proposals.take_entries(Term(1));
        proposals.push(Slot(2), put(1)).unwrap();
        proposals.take_entries(Term(3));
        assert_eq!(proposals.term_started(Term(3)), vec![Slot(1)]);
        assert_eq!(proposals.applied(ME, 1, 1), Some(Slot(2)));
    }

    #[test]
    fn a_refused_proposal_gives_all_its_slots_back() {
        let mut proposals = Proposals::new(ME, 1);
        proposals.push(Slot(1), put(1)).unwrap();
        proposals.take_entries(Term(1));
        proposals.push(Slot(2), put(1)).unwrap();
        let (first, _) = proposals.take_entries(Term(1));
        assert_eq!(proposals.dropped_since(first), vec![Slot(2)]);
        proposals.push(Slot(3), put(1)).unwrap();
        let (again, _) = proposals.take_entries(Term(1));
        assert_eq!(again, first);
    }

    #[test]
    fn a_full_queue_refuses_more() {
        let mut proposals = Proposals::new(ME, 1);
        proposals.push(Slot(1), put(limits::PENDING_BYTES_MAX)).unwrap();
        assert_eq!(proposals.push(Slot(2), put(1)), Err(Error::TooManyRequests));
    }
}
