//! Linearizable reads: who waits for a read-index round, and for which applied index.
//!
//! All who wait share one round (Raft thesis §6.4). A round that gets no answer is tried again
//! under a new number; an answer to an old number is ignored, so that a late one can never pass
//! for a newer confirmation.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Slot;
use super::lease_desk::Asker;
use crate::mutant::mutant;
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
    Renew(Asker, LeaseId),
    /// The remaining time of a lease.
    TimeToLive(Asker, LeaseId),
    /// The leader has told the remaining and the granted time of a lease.
    Told {
        /// Who waits, on this member.
        request: u64,
        /// Remaining seconds.
        ttl: i64,
        /// Granted seconds.
        granted_ttl: i64,
    },
    /// Lease expiry after this member stood still for an election timeout.
    Lessor,
}

struct Round {
    number: ReadRound,
    sent_at: Instant64,
    /// With the time since when.
    waiters: Vec<(Instant64, Waiter)>,
}

/// See the module.
#[derive(Default)]
pub struct Reads {
    /// With the time since when.
    waiting: Vec<(Instant64, Waiter)>,
    round: Option<Round>,
    /// By the index that must be applied first: one that never is holds up nobody else.
    confirmed: BTreeMap<LogIndex, Vec<(Instant64, Waiter)>>,
    last_number: u64,
}

impl Reads {
    /// Somebody wants to read.
    pub fn push(&mut self, now: Instant64, waiter: Waiter) {
        self.waiting.push((now, waiter));
    }

    /// Somebody waits for an index only.
    pub fn push_confirmed(&mut self, now: Instant64, index: LogIndex, waiter: Waiter) {
        self.confirmed.entry(index).or_default().push((now, waiter));
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
        let any = mutant!("late_answers_confirm_later_rounds");
        if let Some(round) = self.round.take_if(|round| round.number == number || any) {
            self.confirmed.entry(index).or_default().extend(round.waiters);
        }
    }

    /// Those whose index is applied, in the order of these.
    pub fn ready(&mut self, applied: LogIndex) -> Vec<Waiter> {
        let mut ready = Vec::new();
        while let Some(first) = self.confirmed.first_entry()
            && (*first.key() <= applied || mutant!("reads_do_not_wait_for_apply"))
        {
            ready.extend(first.remove().into_iter().map(|(_, waiter)| waiter));
        }
        ready
    }

    /// Leadership changed: the round under way may be answered by nobody. Whoever was in it waits
    /// for the next one, which has another number.
    pub fn abort_round(&mut self) {
        if let Some(round) = &mut self.round {
            self.waiting.append(&mut round.waiters);
            self.round = None;
        }
    }

    /// Gives up on reads that have waited for `longest` or more, and forgets what was told so long ago:
    /// whoever wanted to know it has been given up, too.
    pub fn expire(&mut self, now: Instant64, longest: Duration) -> Vec<Slot> {
        let mut gone = Vec::new();
        let rounds = self.round.iter_mut().map(|round| &mut round.waiters);
        let confirmed = self.confirmed.values_mut();
        for waiters in rounds.chain(confirmed).chain([&mut self.waiting]) {
            waiters.retain(|(since, waiter)| match waiter {
                _ if now.since(*since) < longest => true,
                Waiter::Read(slot) => {
                    gone.push(*slot);
                    false
                }
                Waiter::Told { .. } => false,
                Waiter::Renew(..) | Waiter::TimeToLive(..) | Waiter::Lessor => true,
            });
        }
        self.confirmed.retain(|_, waiters| !waiters.is_empty());
        gone
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
        reads.push(Instant64(0), Waiter::Read(Slot(1)));
        reads.push(Instant64(0), Waiter::Read(Slot(2)));
        reads.start(Instant64(0), |_| true);
        reads.push(Instant64(0), Waiter::Read(Slot(3)));
        reads.start(Instant64(1), |_| panic!("one round at a time"));
        reads.confirm(ReadRound(1), LogIndex(5));
        assert_eq!(reads.ready(LogIndex(4)), vec![]);
        assert_eq!(reads.ready(LogIndex(5)), vec![Waiter::Read(Slot(1)), Waiter::Read(Slot(2))]);
    }

    #[test]
    fn a_late_answer_to_an_old_attempt_is_ignored() {
        let mut reads = Reads::default();
        reads.push(Instant64(0), Waiter::Read(Slot(1)));
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
        reads.push(Instant64(0), Waiter::Read(Slot(1)));
        reads.start(Instant64(0), |_| false);
        reads.start(Instant64(1), |_| true);
        reads.abort_round();
        reads.confirm(ReadRound(2), LogIndex(0));
        assert_eq!(reads.ready(LogIndex(9)), vec![]);
        reads.start(Instant64(2), |_| true);
        reads.confirm(ReadRound(3), LogIndex(0));
        assert_eq!(reads.ready(LogIndex(9)), vec![Waiter::Read(Slot(1))]);
    }

    #[test]
    fn an_index_that_nobody_ever_has_holds_up_nobody_else_and_is_forgotten() {
        let longest = Duration::from_nanos(10);
        let mut reads = Reads::default();
        let told = Waiter::Told { request: 1, ttl: 1, granted_ttl: 1 };
        reads.push_confirmed(Instant64(0), LogIndex(u64::MAX), told);
        reads.push(Instant64(0), Waiter::Read(Slot(1)));
        reads.start(Instant64(0), |_| true);
        reads.confirm(ReadRound(1), LogIndex(5));
        assert_eq!(reads.ready(LogIndex(5)), vec![Waiter::Read(Slot(1))]);
        assert_eq!(reads.expire(Instant64(10), longest), vec![]);
        assert!(reads.confirmed.is_empty());
    }

    #[test]
    fn a_read_that_waited_too_long_is_given_up_wherever_it_is() {
        let longest = Duration::from_nanos(10);
        let mut reads = Reads::default();
        reads.push(Instant64(0), Waiter::Read(Slot(1)));
        reads.start(Instant64(0), |_| true);
        reads.confirm(ReadRound(1), LogIndex(9));
        reads.push(Instant64(5), Waiter::Read(Slot(2)));
        reads.push(Instant64(0), Waiter::Lessor);
        assert_eq!(reads.expire(Instant64(9), longest), vec![]);
        assert_eq!(reads.expire(Instant64(10), longest), vec![Slot(1)]);
        assert_eq!(reads.expire(Instant64(15), longest), vec![Slot(2)]);
    }
}
