//! Renewals of leases and questions about them that this member took from its clients: answered
//! here if it leads, else sent to the leader in batches, again and again until somebody answers.
//! Asking twice does no harm.
//!
//! Invariant: every slot is given back exactly once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Slot;
use super::message::LeaseAsk;
use crate::types::{Instant64, LeaseId, MemberId};

/// How long the leader has to answer before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Who asked the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    /// A client of this member, by the desk's number.
    Here(u64),
    /// Another member, with the start and the number that it gave.
    There {
        /// Which member.
        member: MemberId,
        /// Which start of it.
        boot: u64,
        /// Its number.
        request: u64,
    },
}

/// One request of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Who waits.
    pub slot: Slot,
    /// Which lease.
    pub id: LeaseId,
    /// What is wanted.
    pub wish: Wish,
    since: Instant64,
    state: State,
}

/// What is wanted of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// To live on.
    Renew,
    /// Its remaining time, and its keys if so.
    TimeToLive {
        /// Whether the keys are wanted too.
        keys: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// On [`LeaseDesk::queued`].
    Queued,
    /// This member works on it, as the leader.
    Here,
    /// The leader was asked.
    Sent(Instant64),
}

/// See the module.
#[derive(Default)]
pub struct LeaseDesk {
    asks: BTreeMap<u64, Ask>,
    queued: Vec<u64>,
    last: u64,
}

impl LeaseDesk {
    /// Takes a request.
    pub fn push(&mut self, now: Instant64, slot: Slot, id: LeaseId, wish: Wish) {
        self.last += 1;
        self.asks.insert(self.last, Ask { slot, id, wish, since: now, state: State::Queued });
        self.queued.push(self.last);
    }

    /// Whether something has to be done here or sent.
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// What this member, as the leader, has to work on from now.
    pub fn take_for_here(&mut self) -> Vec<(u64, Ask)> {
        let mut taken = Vec::with_capacity(self.queued.len());
        for request in self.queued.drain(..) {
            if let Some(ask) = self.asks.get_mut(&request) {
                ask.state = State::Here;
                taken.push((request, *ask));
            }
        }
        taken
    }

    /// What the leader is to be asked now.
    pub fn take_for_leader(&mut self, now: Instant64) -> Vec<LeaseAsk> {
        let mut taken = Vec::with_capacity(self.queued.len());
        for request in self.queued.drain(..) {
            if let Some(ask) = self.asks.get_mut(&request) {
                ask.state = State::Sent(now);
                taken.push(LeaseAsk { request, renew: ask.wish == Wish::Renew, id: ask.id });
            }
        }
        taken
    }

    /// Work here ended without an answer, because this member does not lead any more.
    pub fn ask_again(&mut self, request: u64) {
        if let Some(ask) = self.asks.get_mut(&request)
            && ask.state != State::Queued
        {
            ask.state = State::Queued;
            self.queued.push(request);
        }
    }

    /// Another leader: whoever was asked may never answer.
    pub fn leader_changed(&mut self) {
        self.queue(|state| matches!(state, State::Sent(_)));
    }

    /// Asks again where the answer takes long, and gives back who waited for `longest` or more.
    pub fn look_through(&mut self, now: Instant64, longest: Duration) -> Vec<Slot> {
        self.queue(|state| matches!(state, State::Sent(at) if now.since(at) >= ASK_AGAIN));
        let mut gone = Vec::new();
        while let Some(oldest) = self.asks.first_entry()
            && now.since(oldest.get().since) >= longest
        {
            gone.push(oldest.remove().slot);
        }
        gone
    }

    fn queue(&mut self, again: impl Fn(State) -> bool) {
        for (request, ask) in &mut self.asks {
            if again(ask.state) {
                ask.state = State::Queued;
                self.queued.push(*request);
            }
        }
    }

    /// There is an answer: who gets it. `None` for one that was answered before.
    pub fn finish(&mut self, request: u64) -> Option<Ask> {
        self.asks.remove(&request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: i64) -> LeaseId {
        LeaseId::from_wire(number).expect("not zero")
    }

    #[test]
    fn a_request_is_sent_again_until_it_is_answered_once() {
        let mut desk = LeaseDesk::default();
        desk.push(Instant64(0), Slot(1), id(7), Wish::Renew);
        let first = desk.take_for_leader(Instant64(0));
        assert_eq!(first.len(), 1);
        assert!(!desk.has_queued());
        let later = Instant64(0).after(ASK_AGAIN);
        assert_eq!(desk.look_through(later, Duration::from_secs(7)), vec![]);
        assert_eq!(desk.take_for_leader(later), first);
        desk.leader_changed();
        assert_eq!(desk.take_for_here().len(), 1);
        assert_eq!(desk.finish(first[0].request).map(|ask| ask.slot), Some(Slot(1)));
        assert_eq!(desk.finish(first[0].request), None);
        desk.ask_again(first[0].request);
        assert!(!desk.has_queued());
    }

    #[test]
    fn a_request_that_nobody_answers_is_given_back() {
        let mut desk = LeaseDesk::default();
        desk.push(Instant64(0), Slot(1), id(7), Wish::Renew);
        desk.push(Instant64(5), Slot(2), id(7), Wish::TimeToLive { keys: true });
        desk.take_for_leader(Instant64(5));
        assert_eq!(desk.look_through(Instant64(10), Duration::from_nanos(10)), vec![Slot(1)]);
        assert_eq!(desk.look_through(Instant64(15), Duration::from_nanos(10)), vec![Slot(2)]);
    }
}
