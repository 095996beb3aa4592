//! Linearizable reads: who waits for a read-index round, and for which applied index.
//!
//! All who wait share one round (Raft thesis §6.4). A round that gets no answer is tried again
//! under a new number; an answer to an old number is ignored, so that a late one can never pass
//! for a newer confirmation.

use std::collections::VecDeque;
use std::time::Duration;

use super::Slot;
use crate::raft::ReadRound;
use crate::types::{Instant64, LeaseId, LogIndex};

/// How long a round may take before the next is tried; etcd's value.
pub const ROUND_RETRY: Duration = Duration::from_millis(500);

/// Something that needs confirmed leadership and an applied index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiter {
    /// A read.
    Read(Slot),
    /// A keepalive.
    Renew(Slot, LeaseId),
    /// The remaining time of a lease, and whether its keys are wanted.
    TimeToLive(Slot, LeaseId, bool),
    /// Lease expiry after this member stood still for an election timeout.
    Lessor,
}

struct Round {
    number: ReadRound,
    sent_at: Instant64,
    waiters: Vec<Waiter>,
}

/// See the module.
#[derive(Default)]
pub struct Reads {
    waiting: Vec<Waiter>,
    round: Option<Round>,
    confirmed: VecDeque<(LogIndex, Vec<Waiter>)>,
    last_number: u64,
}

impl Reads {
    /// Somebody wants to read.
    pub fn push(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
    }

    /// Starts a round if somebody waits and none is under way, or the one under way is overdue.
    /// `start` says whether the attempt went out.
    pub fn start(&mut self, now: Instant64, start: impl FnOnce(ReadRound) -> bool) {
        if let Some(round) = &mut self.round {
            if now.since(round.sent_at) < ROUND_RETRY {
                return;
            }
            self.waiting.append(&mut round.waiters);
            self.round = None;
        }
        if self.waiting.is_empty() {
            return;
        }
        self.last_number += 1;
        let number = ReadRound(self.last_number);
        if start(number) {
            self.round = Some(Round { number, sent_at: now, waiters: std::mem::take(&mut self.waiting) });
        }
    }

    /// A round was confirmed; ignored unless it is the one under way.
    pub fn confirm(&mut self, number: ReadRound, index: LogIndex) {
        if let Some(round) = self.round.take_if(|round| round.number == number) {
            self.confirmed.push_back((index, round.waiters));
        }
    }

    /// Those whose index is applied, in the order of their rounds.
    pub fn ready(&mut self, applied: LogIndex) -> Vec<Waiter> {
        let mut ready = Vec::new();
        while self.confirmed.front().is_some_and(|(index, _)| *index <= applied) {
            ready.extend(self.confirmed.pop_front().expect("looked at above").1);
        }
        ready
    }

    /// Leadership changed: the round under way may be answered by nobody. Gives back who was in
    /// it; who only waits for the next round goes on waiting.
    pub fn abort_round(&mut self) -> Vec<Waiter> {
        self.round.take().map(|round| round.waiters).unwrap_or_default()
    }

    /// When an unanswered round is to be tried again.
    pub fn retry_at(&self) -> Option<Instant64> {
        self.round.as_ref().map(|round| round.sent_at.after(ROUND_RETRY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Instant64 = Instant64(600_000_000);

    #[test]
    fn everybody_who_waits_shares_a_round() {
        let mut reads = Reads::default();
        reads.push(Waiter::Read(Slot(1)));
        reads.push(Waiter::Read(Slot(2)));
        reads.start(Instant64(0), |_| true);
        reads.push(Waiter::Read(Slot(3)));
        reads.start(Instant64(1), |_| panic!("one round at a time"));
        reads.confirm(ReadRound(1), LogIndex(5));
        assert_eq!(reads.ready(LogIndex(4)), vec![]);
        assert_eq!(reads.ready(LogIndex(5)), vec![Waiter::Read(Slot(1)), Waiter::Read(Slot(2))]);
    }

    #[test]
    fn a_late_answer_to_an_old_attempt_is_ignored() {
        let mut reads = Reads::default();
        reads.push(Waiter::Read(Slot(1)));
        reads.start(Instant64(0), |_| true);
        reads.start(LATER, |number| {
            assert_eq!(number, ReadRound(2));
            true
        });
        reads.confirm(ReadRound(1), LogIndex(1));
        assert_eq!(reads.ready(LogIndex(9)), vec![]);
        reads.confirm(ReadRound(2), LogIndex(2));
        assert_eq!(reads.ready(LogIndex(9)), vec![Waiter::Read(Slot(1))]);
    }

    #[test]
    fn a_round_that_cannot_start_leaves_its_readers_waiting() {
        let mut reads = Reads::default();
        reads.push(Waiter::Read(Slot(1)));
        reads.start(Instant64(0), |_| false);
        reads.start(Instant64(1), |_| true);
        assert_eq!(reads.abort_round(), vec![Waiter::Read(Slot(1))]);
    }
}
