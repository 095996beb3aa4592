//! Which forwarded commands a leader has taken in its term, so that a message that comes twice is
//! taken once, and a member that is not sure whether its message arrived may send it again.
//!
//! Invariant: a number that was taken is never taken again in the same term.

use std::collections::BTreeMap;

use crate::types::MemberId;

/// Gaps that are remembered for one member. Below, everything counts as taken: a command that
/// is not is lost, as on the way, and its client gets no answer in time.
const RANGES_MAX: usize = 1024;

#[derive(Default)]
struct Numbers {
    /// First and last number of each range, apart from each other.
    ranges: BTreeMap<u64, u64>,
}

impl Numbers {
    fn take(&mut self, number: u64) -> bool {
        let before = self.ranges.range(..=number).next_back().map(|(first, last)| (*first, *last));
        let (first, extends) = match before {
            Some((_, last)) if number <= last => return false,
            Some((first, last)) if last.checked_add(1) == Some(number) => (first, true),
            _ => (number, false),
        };
        if !extends && self.ranges.len() >= RANGES_MAX {
            // The two oldest become one.
            if let Some((_, _)) = self.ranges.pop_first()
                && let Some((_, last)) = self.ranges.pop_first()
            {
                if number <= last {
                    self.ranges.insert(0, last);
                    return false;
                }
                self.ranges.insert(0, last);
            }
        }
        let last = match number.checked_add(1).and_then(|next| self.ranges.remove(&next)) {
            Some(last) => last,
            None => number,
        };
        self.ranges.insert(first, last);
        true
    }
}

/// See the module.
#[derive(Default)]
pub struct Taken {
    by_start: BTreeMap<(MemberId, u64), Numbers>,
}

impl Taken {
    /// Whether this number of this start of a member is new; from now on it is not.
    pub fn take(&mut self, origin: MemberId, boot: u64, number: u64) -> bool {
        if !self.by_start.contains_key(&(origin, boot)) {
            // An earlier start of the member sends nothing any more that its clients wait for.
            self.by_start.retain(|(member, known), _| *member != origin || *known > boot);
        }
        self.by_start.entry((origin, boot)).or_default().take(number)
    }

    /// Whether this number was taken.
    pub fn contains(&self, origin: MemberId, boot: u64, number: u64) -> bool {
        let Some(numbers) = self.by_start.get(&(origin, boot)) else { return false };
        numbers.ranges.range(..=number).next_back().is_some_and(|(_, last)| number <= *last)
    }

    /// The number was refused, so it may come again. Only for a number that certainly did nothing.
    pub fn give_back(&mut self, origin: MemberId, boot: u64, number: u64) {
        let Some(numbers) = self.by_start.get_mut(&(origin, boot)) else { return };
        let Some((first, last)) = numbers.ranges.range(..=number).next_back().map(|(a, b)| (*a, *b)) else {
            return;
        };
        if number > last {
            return;
        }
        numbers.ranges.remove(&first);
        if first < number {
            numbers.ranges.insert(first, number - 1);
        }
        if number < last {
            numbers.ranges.insert(number + 1, last);
        }
    }

    /// Another term: what was sent in this one is bound to it.
    pub fn clear(&mut self) {
        self.by_start.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_taken_once(numbers in prop::collection::vec(0u64..60, 0..200)) {
            let mut taken = Taken::default();
            let mut twin = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(taken.contains(MemberId(1), 1, number), twin.contains(&number));
                prop_assert_eq!(taken.take(MemberId(1), 1, number), twin.insert(number));
            }
        }
    }

    #[test]
    fn too_many_gaps_are_forgotten_on_the_safe_side() {
        let mut taken = Taken::default();
        for number in 0..3 * RANGES_MAX as u64 {
            assert!(taken.take(MemberId(1), 1, number * 2 + 1));
        }
        assert!(!taken.take(MemberId(1), 1, 1));
        assert!(!taken.take(MemberId(1), 1, 2), "below the forgotten gaps everything counts as taken");
        assert!(taken.take(MemberId(1), 1, 6 * RANGES_MAX as u64 + 9));
        let last = taken.by_start[&(MemberId(1), 1)].ranges.len();
        assert!(last <= RANGES_MAX);
    }

    #[test]
    fn a_number_that_was_given_back_is_taken_again() {
        let mut taken = Taken::default();
        for number in 1..=5 {
            assert!(taken.take(MemberId(1), 1, number));
        }
        for number in [3, 1, 5, 9] {
            taken.give_back(MemberId(1), 1, number);
        }
        let again: Vec<bool> = (1..=5).map(|number| taken.take(MemberId(1), 1, number)).collect();
        assert_eq!(again, [true, false, true, false, true]);
    }

    #[test]
    fn starts_of_members_are_told_apart() {
        let mut taken = Taken::default();
        assert!(
            taken.take(MemberId(1), 1, 5) && taken.take(MemberId(2), 1, 5) && taken.take(MemberId(1), 2, 5)
        );
        assert!(!taken.take(MemberId(1), 2, 5));
        taken.clear();
        assert!(taken.take(MemberId(1), 2, 5));
    }
}
