//! Which member to ask next, and which to leave alone for a while. No input or output.
//!
//! A member's health is how its last calls went. Three failures of the transport in a row take it
//! out for one second, then two, four … up to thirty, unless it is the last one left.

use std::time::Duration;

use crate::clock::BootInstant;

const FAILURES_MAX: u32 = 3;
const EJECTION_FIRST: Duration = Duration::from_secs(1);
const EJECTION_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default)]
struct Slot {
    /// Failures since the last success or ejection.
    failures: u32,
    /// Ejections since the last success.
    ejections: u32,
    ejected_until: Option<BootInstant>,
    /// It is no member any more.
    retired: bool,
}

impl Slot {
    fn is_ejected(&self, now: BootInstant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }
}

/// The health of all members, and whose turn it is.
#[derive(Debug)]
pub(crate) struct Pool {
    slots: Vec<Slot>,
    turn: usize,
}

impl Pool {
    /// `turn` spreads clients that start at the same time.
    pub fn new(count: usize, turn: usize) -> Self {
        assert!(count > 0, "a client has at least one endpoint");
        Self { slots: vec![Slot::default(); count], turn: turn % count }
    }

    /// The next member in turn that is in use; `avoid` only if there is no other.
    pub fn pick(&mut self, now: BootInstant, avoid: Option<usize>) -> usize {
        let count = self.slots.len();
        let in_turn =
            (0..count).map(|step| (self.turn + step) % count).filter(|index| !self.slots[*index].retired);
        let healthy = |index: &usize| !self.slots[*index].is_ejected(now);
        let chosen = in_turn
            .clone()
            .filter(healthy)
            .find(|index| Some(*index) != avoid)
            .or_else(|| in_turn.clone().find(|index| Some(*index) != avoid && healthy(index)))
            .or_else(|| in_turn.clone().find(healthy))
            .or_else(|| in_turn.clone().min_by_key(|index| self.slots[*index].ejected_until))
            .expect("there is at least one");
        self.turn = (chosen + 1) % count;
        chosen
    }

    /// How many are in use, and those that are left alone for a while.
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.retired).count()
    }

    /// Whether each that is in use failed last.
    pub fn all_fail(&self) -> bool {
        self.slots.iter().all(|slot| slot.retired || slot.failures > 0)
    }

    /// One more, behind the others.
    pub fn add(&mut self) {
        self.slots.push(Slot::default());
    }

    /// Takes a member out for good, or back in. The last one stays.
    pub fn retire(&mut self, index: usize, retired: bool) {
        if !retired || self.len() > 1 {
            self.slots[index].retired = retired;
        }
    }

    /// It answered, with whatever.
    pub fn succeeded(&mut self, index: usize) {
        self.slots[index] = Slot { retired: self.slots[index].retired, ..Slot::default() };
    }

    /// It could not be reached, or did not answer.
    pub fn failed(&mut self, index: usize, now: BootInstant) {
        let in_use = |slot: &Slot| !slot.retired && !slot.is_ejected(now);
        let others = (0..self.slots.len()).any(|other| other != index && in_use(&self.slots[other]));
        let slot = &mut self.slots[index];
        slot.failures += 1;
        if slot.failures >= FAILURES_MAX && others {
            let time = EJECTION_FIRST.saturating_mul(1 << slot.ejections.min(10)).min(EJECTION_MAX);
            slot.ejected_until = Some(now + time);
            slot.ejections += 1;
            // One more failure after its return takes it out again.
            slot.failures = FAILURES_MAX - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn c_1_members_take_turns() {
        let mut pool = Pool::new(3, 1);
        let picks: Vec<_> = (0..5).map(|_| pool.pick(at(0), None)).collect();
        assert_eq!(picks, [1, 2, 0, 1, 2]);
    }

    #[test]
    fn c_2_three_failures_in_a_row_take_a_member_out_for_longer_each_time() {
        let mut pool = Pool::new(2, 0);
        pool.failed(0, at(0));
        pool.failed(0, at(0));
        assert_eq!(pool.pick(at(0), None), 0);
        pool.failed(0, at(0));
        assert_eq!([pool.pick(at(0), None), pool.pick(at(0), None)], [1, 1]);
        assert_eq!(pool.pick(at(1), None), 0, "it is back after a second");
        pool.failed(0, at(1));
        assert_eq!([pool.pick(at(2), None), pool.pick(at(2), None)], [1, 1], "now it is out for two");
        assert_eq!(pool.pick(at(3), None), 0);
        pool.succeeded(0);
        pool.failed(0, at(3));
        assert_eq!([pool.pick(at(3), None), pool.pick(at(3), None)], [1, 0]);
    }

    #[test]
    fn c_2_the_last_member_stays() {
        let mut pool = Pool::new(1, 0);
        (0..10).for_each(|_| pool.failed(0, at(0)));
        assert_eq!(pool.pick(at(0), None), 0);
        let mut pool = Pool::new(2, 0);
        (0..10).for_each(|_| pool.failed(0, at(0)));
        (0..10).for_each(|_| pool.failed(1, at(0)));
        assert_eq!([pool.pick(at(0), None), pool.pick(at(0), None)], [1, 1]);
    }

    #[test]
    fn c_2_ejection_lasts_at_most_thirty_seconds() {
        let mut pool = Pool::new(2, 0);
        for _ in 0..20 {
            pool.failed(0, at(0));
        }
        assert!(pool.slots[0].is_ejected(at(29)));
        assert!(!pool.slots[0].is_ejected(at(30)));
    }

    #[test]
    fn c_1_members_come_and_go_and_one_stays() {
        let mut pool = Pool::new(2, 0);
        pool.add();
        assert_eq!([0, 1, 2, 0].map(|_| pool.pick(at(0), None)), [0, 1, 2, 0]);
        pool.retire(1, true);
        pool.succeeded(1);
        assert_eq!([0; 4].map(|_| pool.pick(at(0), None)), [2, 0, 2, 0], "an answer does not bring it back");
        pool.retire(0, true);
        pool.retire(2, true);
        assert_eq!((pool.len(), pool.pick(at(0), Some(2))), (1, 2));
        (0..5).for_each(|_| pool.failed(2, at(0)));
        assert_eq!(pool.pick(at(0), None), 2, "whoever is gone is no reason to take out the last one");
        pool.retire(1, false);
        assert_eq!(pool.pick(at(0), Some(2)), 1);
    }

    #[test]
    fn all_fail_when_nobody_in_use_has_answered_since() {
        let mut pool = Pool::new(3, 0);
        pool.retire(2, true);
        (0..3).for_each(|_| pool.failed(0, at(0)));
        assert!(!pool.all_fail());
        pool.failed(1, at(0));
        assert!(pool.all_fail());
        pool.succeeded(0);
        assert!(!pool.all_fail());
    }

    #[test]
    fn the_member_that_just_failed_is_avoided_while_there_is_another() {
        let mut pool = Pool::new(2, 0);
        assert_eq!(pool.pick(at(0), Some(0)), 1);
        assert_eq!(pool.pick(at(0), Some(0)), 1);
        assert_eq!(Pool::new(1, 0).pick(at(0), Some(0)), 0);
    }
}
