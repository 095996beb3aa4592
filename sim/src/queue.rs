//! What happens when: a queue by virtual time, in the order of its making where times are equal.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::time::Nanos;

struct Item<T> {
    at: Nanos,
    sequence: u64,
    event: T,
}

impl<T> PartialEq for Item<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Item<T> {}

impl<T> PartialOrd for Item<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Item<T> {
    // The heap gives its largest; the earliest must be that.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// See the module.
pub struct Queue<T> {
    heap: BinaryHeap<Item<T>>,
    sequence: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0 }
    }
}

impl<T> Queue<T> {
    /// Something happens at `at`.
    pub fn push(&mut self, at: Nanos, event: T) {
        self.sequence += 1;
        self.heap.push(Item { at, sequence: self.sequence, event });
    }

    /// What happens next.
    pub fn pop(&mut self) -> Option<(Nanos, T)> {
        self.heap.pop().map(|item| (item.at, item.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_things_come_first_and_equal_times_in_order() {
        let mut queue = Queue::default();
        for (at, name) in [(5, "c"), (1, "a"), (5, "d"), (1, "b")] {
            queue.push(at, name);
        }
        let names: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, name)| name).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }
}
