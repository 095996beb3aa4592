//! Client commands on their way into the log, and who waits for them.
//!
//! A command waits until this member leads, or knows who does and has sent it there. Sent or
//! proposed it is in flight in one term: either it is applied, or a later term begins without it.
//! Then it is certain that it never took effect, and it waits again; its client notices nothing.
//!
//! Invariants: every slot that was taken is given back exactly once; a command is never in two
//! logs: it goes on its way again only when the earlier way is known to be closed.

use std::collections::VecDeque;
use std::time::Duration;

use super::Slot;
use crate::command::{Command, EntryBuilder};
use crate::error::Error;
use crate::limits;
use crate::mutant::mutant;
use crate::types::{Instant64, MemberId, Term};

/// The number that commands of the member itself carry: nobody waits for them.
pub const NOBODY: u64 = u64::MAX;

#[derive(Clone)]
struct Waiting {
    slot: Slot,
    since: Instant64,
    command: Command,
}

struct InFlight {
    waiting: Waiting,
    term: Term,
    /// It was sent more than once in this term. That one copy was refused then says nothing about
    /// the others.
    copies: bool,
}

/// See the module.
pub struct Proposals {
    origin: MemberId,
    boot: u64,
    waiting: VecDeque<Waiting>,
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
    pub fn push(&mut self, now: Instant64, slot: Slot, command: Command) -> Result<(), Error> {
        if self.pending_count >= limits::PENDING_COMMANDS_MAX
            || self.pending_bytes + command.body.len() > limits::PENDING_BYTES_MAX
        {
            return Err(Error::TooManyRequests);
        }
        self.pending_count += 1;
        self.pending_bytes += command.body.len();
        self.waiting.push_back(Waiting { slot, since: now, command });
        Ok(())
    }

    /// Whether commands wait to be sent on their way.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Groups everything that waits into entries and counts it as in flight in `term`. The
    /// returned number is the first request in them, for [`Self::dropped_since`].
    pub fn take_entries(&mut self, term: Term) -> (u64, Vec<Vec<u8>>) {
        let first = self.first_request + self.in_flight.len() as u64;
        let mut entries = Vec::new();
        let mut builder = EntryBuilder::new(self.origin, self.boot);
        while let Some(waiting) = self.waiting.pop_front() {
            let full = builder.count() >= limits::ENTRY_COMMANDS_MAX
                || builder.size_bytes() + waiting.command.body.len() > limits::ENTRY_BYTES_TARGET;
            if full && builder.count() > 0 {
                let next = EntryBuilder::new(self.origin, self.boot);
                entries.push(std::mem::replace(&mut builder, next).finish());
            }
            builder.push(self.first_request + self.in_flight.len() as u64, &waiting.command);
            self.in_flight.push_back(Some(InFlight { waiting, term, copies: false }));
        }
        if builder.count() > 0 {
            entries.push(builder.finish());
        }
        (first, entries)
    }

    /// What is in flight in `term`, as it was sent on its way, to be sent once more. From now on
    /// only a later term can tell that one of them never took effect.
    pub fn entries_in_flight(&mut self, term: Term) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        let mut builder = EntryBuilder::new(self.origin, self.boot);
        for (position, request) in self.in_flight.iter_mut().enumerate() {
            let Some(request) = request.as_mut().filter(|request| request.term == term) else { continue };
            request.copies = true;
            let bytes = builder.size_bytes() + request.waiting.command.body.len();
            if builder.count() > 0
                && (builder.count() >= limits::ENTRY_COMMANDS_MAX || bytes > limits::ENTRY_BYTES_TARGET)
            {
                let next = EntryBuilder::new(self.origin, self.boot);
                entries.push(std::mem::replace(&mut builder, next).finish());
            }
            builder.push(self.first_request + position as u64, &request.waiting.command);
        }
        if builder.count() > 0 {
            entries.push(builder.finish());
        }
        entries
    }

    /// An entry with one command of the member itself.
    pub fn own_entry(&self, command: &Command) -> Vec<u8> {
        let mut builder = EntryBuilder::new(self.origin, self.boot);
        builder.push(NOBODY, command);
        builder.finish()
    }

    /// The requests from this number on went nowhere and there is no room for them; gives back
    /// who waits.
    pub fn dropped_since(&mut self, first: u64) -> Vec<Slot> {
        let keep = (first - self.first_request) as usize;
        let gone: Vec<_> = self.in_flight.drain(keep..).flatten().collect();
        gone.into_iter().map(|request| self.release(&request.waiting)).collect()
    }

    /// The leader did not take these: they wait again.
    pub fn refused(&mut self, requests: &[u64]) {
        for request in requests.iter().rev() {
            if let Some(request) = self.take_refused(*request) {
                self.waiting.push_front(request.waiting);
            }
        }
        self.trim();
    }

    /// The leader took none of these and never will; gives back who waits.
    pub fn rejected(&mut self, requests: &[u64]) -> Vec<Slot> {
        let gone: Vec<_> = requests.iter().filter_map(|request| self.take_refused(*request)).collect();
        self.trim();
        gone.into_iter().map(|request| self.release(&request.waiting)).collect()
    }

    /// A command of `origin` and `boot` was applied; gives back who waits for it here.
    pub fn applied(&mut self, origin: MemberId, boot: u64, request: u64) -> Option<Slot> {
        if origin != self.origin || boot != self.boot || request == NOBODY {
            return None;
        }
        let request = self.take(request)?;
        self.trim();
        Some(self.release(&request.waiting))
    }

    /// A leader's first entry of `term` was applied: what was sent on its way in earlier terms and
    /// has not been applied by now never will be. It waits again.
    pub fn term_started(&mut self, term: Term) {
        for position in (0..self.in_flight.len()).rev() {
            if self.in_flight[position].as_ref().is_some_and(|request| request.term < term)
                && let Some(request) = self.in_flight[position].take()
            {
                self.waiting.push_front(request.waiting);
            }
        }
        self.trim();
    }

    /// The role changed; only a mutant does anything about it.
    pub fn leader_changed(&mut self) {
        if mutant!("retry_before_the_term_is_settled") {
            self.term_started(Term(u64::MAX));
        }
    }

    /// The state jumped ahead by a snapshot: nobody can tell any more what became of the commands
    /// in flight. Gives back who waits for them.
    pub fn lost_track(&mut self) -> Vec<Slot> {
        let gone: Vec<_> = self.in_flight.drain(..).collect();
        self.first_request += gone.len() as u64;
        gone.into_iter().flatten().map(|request| self.release(&request.waiting)).collect()
    }

    /// Gives back who has waited for `longest` or more: their commands are not sent any more, and
    /// those in flight may take effect or not.
    pub fn expire(&mut self, now: Instant64, longest: Duration) -> Vec<Slot> {
        let old = |waiting: &Waiting| now.since(waiting.since) >= longest;
        let mut gone = Vec::new();
        while self.waiting.front().is_some_and(old)
            && let Some(waiting) = self.waiting.pop_front()
        {
            gone.push(self.release(&waiting));
        }
        for position in 0..self.in_flight.len() {
            match self.in_flight[position].take_if(|request| old(&request.waiting)) {
                Some(request) => gone.push(self.release(&request.waiting)),
                // In the order in which they came, but for those that went on their way again.
                None if self.in_flight[position].is_some() => break,
                None => {}
            }
        }
        self.trim();
        gone
    }

    fn take(&mut self, request: u64) -> Option<InFlight> {
        let position = usize::try_from(request.checked_sub(self.first_request)?).ok()?;
        self.in_flight.get_mut(position)?.take()
    }

    /// Takes a command of which it is certain, by a refusal, that it is in no log.
    fn take_refused(&mut self, request: u64) -> Option<InFlight> {
        let position = usize::try_from(request.checked_sub(self.first_request)?).ok()?;
        self.in_flight.get_mut(position)?.take_if(|request| !request.copies)
    }

    fn trim(&mut self) {
        while matches!(self.in_flight.front(), Some(None)) {
            self.in_flight.pop_front();
            self.first_request += 1;
        }
    }

    fn release(&mut self, request: &Waiting) -> Slot {
        self.pending_count -= 1;
        self.pending_bytes -= request.command.body.len();
        request.slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Entry, Kind};
    use bytes::Bytes;

    const ME: MemberId = MemberId(1);
    const NOW: Instant64 = Instant64(5);

    fn put(bytes: usize) -> Command {
        Command { kind: Kind::Put, body: Bytes::from(vec![0; bytes]) }
    }

    fn requests(entries: Vec<Vec<u8>>) -> Vec<Vec<u64>> {
        entries
            .into_iter()
            .map(|entry| Entry::decode(entry.into()).unwrap().commands.iter().map(|(r, _)| *r).collect())
            .collect()
    }

    fn with(slots: std::ops::Range<u64>, boot: u64) -> Proposals {
        let mut proposals = Proposals::new(ME, boot);
        for slot in slots {
            proposals.push(NOW, Slot(slot), put(1)).unwrap();
        }
        proposals
    }

    #[test]
    fn commands_share_entries_up_to_the_target_size() {
        let mut proposals = Proposals::new(ME, 1);
        for slot in 0..3 {
            proposals.push(NOW, Slot(slot), put(30_000)).unwrap();
        }
        proposals.push(NOW, Slot(3), put(200_000)).unwrap();
        let (first, entries) = proposals.take_entries(Term(1));
        assert_eq!((first, requests(entries)), (0, vec![vec![0, 1], vec![2], vec![3]]));
    }

    #[test]
    fn an_answer_finds_its_slot_once_and_only_for_this_start_of_this_member() {
        let mut proposals = with(10..12, 2);
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
    fn what_an_earlier_term_left_behind_goes_on_its_way_again_in_order() {
        let mut proposals = with(1..3, 1);
        proposals.take_entries(Term(1));
        proposals.push(NOW, Slot(3), put(1)).unwrap();
        proposals.take_entries(Term(3));
        proposals.push(NOW, Slot(4), put(1)).unwrap();
        proposals.term_started(Term(3));
        assert_eq!(proposals.applied(ME, 1, 0), None, "the old number is not used again");
        assert_eq!(proposals.applied(ME, 1, 2), Some(Slot(3)));
        let (first, _) = proposals.take_entries(Term(3));
        let answered: Vec<_> = (first..first + 3).map(|request| proposals.applied(ME, 1, request)).collect();
        assert_eq!(answered, [Some(Slot(1)), Some(Slot(2)), Some(Slot(4))]);
        assert_eq!((proposals.pending_count, proposals.pending_bytes), (0, 0));
    }

    #[test]
    fn what_is_sent_again_has_the_numbers_that_it_had() {
        let mut proposals = with(0..3, 1);
        proposals.take_entries(Term(1));
        proposals.applied(ME, 1, 1);
        assert_eq!(requests(proposals.entries_in_flight(Term(1))), vec![vec![0, 2]]);
        assert!(proposals.entries_in_flight(Term(2)).is_empty());
    }

    #[test]
    fn a_refusal_of_one_copy_says_nothing_about_the_others() {
        let mut proposals = with(0..1, 1);
        proposals.take_entries(Term(1));
        proposals.entries_in_flight(Term(1));
        proposals.refused(&[0]);
        assert!(!proposals.has_waiting());
        assert_eq!(proposals.rejected(&[0]), vec![]);
        proposals.term_started(Term(2));
        assert!(proposals.has_waiting(), "the next term tells");
    }

    #[test]
    fn a_refused_command_waits_again_and_a_rejected_one_is_given_back() {
        let mut proposals = with(0..4, 1);
        proposals.take_entries(Term(1));
        proposals.refused(&[1, 2, 2, 99]);
        assert_eq!(proposals.rejected(&[3, 3]), vec![Slot(3)]);
        let (first, _) = proposals.take_entries(Term(1));
        assert_eq!(proposals.applied(ME, 1, first), Some(Slot(1)));
        assert_eq!(proposals.applied(ME, 1, first + 1), Some(Slot(2)));
        assert_eq!(proposals.applied(ME, 1, 0), Some(Slot(0)));
        assert_eq!(proposals.pending_count, 0);
    }

    #[test]
    fn a_proposal_without_room_gives_all_its_slots_back() {
        let mut proposals = with(1..2, 1);
        proposals.take_entries(Term(1));
        proposals.push(NOW, Slot(2), put(1)).unwrap();
        let (first, _) = proposals.take_entries(Term(1));
        assert_eq!(proposals.dropped_since(first), vec![Slot(2)]);
        proposals.push(NOW, Slot(3), put(1)).unwrap();
        let (again, _) = proposals.take_entries(Term(1));
        assert_eq!(again, first);
    }

    #[test]
    fn who_waited_too_long_is_given_back_wherever_the_command_is() {
        let mut proposals = with(1..3, 1);
        proposals.take_entries(Term(1));
        proposals.push(Instant64(10), Slot(3), put(1)).unwrap();
        assert_eq!(proposals.expire(Instant64(9), Duration::from_nanos(5)), vec![]);
        assert_eq!(proposals.expire(Instant64(10), Duration::from_nanos(5)), vec![Slot(1), Slot(2)]);
        assert_eq!(proposals.expire(Instant64(15), Duration::from_nanos(5)), vec![Slot(3)]);
        assert_eq!((proposals.pending_count, proposals.pending_bytes), (0, 0));
    }

    #[test]
    fn after_a_jump_ahead_nobody_is_promised_anything_and_numbers_go_on() {
        let mut proposals = with(1..3, 1);
        proposals.take_entries(Term(1));
        assert_eq!(proposals.lost_track(), vec![Slot(1), Slot(2)]);
        proposals.push(NOW, Slot(3), put(1)).unwrap();
        assert_eq!(proposals.take_entries(Term(1)).0, 2);
    }

    #[test]
    fn a_full_queue_refuses_more() {
        let mut proposals = Proposals::new(ME, 1);
        proposals.push(NOW, Slot(1), put(limits::PENDING_BYTES_MAX)).unwrap();
        assert_eq!(proposals.push(NOW, Slot(2), put(1)), Err(Error::TooManyRequests));
    }
}
