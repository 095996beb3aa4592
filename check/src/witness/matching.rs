//! Which unknown operation made which change, each at most one: a matching in a bipartite graph.
//!
//! Taking the first that fits would raise false alarms: a delete of a prefix can look like the
//! delete of one key and be missing where only it explains a change.

use std::collections::{HashMap, VecDeque};

use crate::history::Revision;

/// Changes with the operations that can have made them.
#[derive(Debug, Default)]
pub struct Matching {
    changes: Vec<(Revision, Vec<u32>)>,
}

impl Matching {
    /// Adds a change that one of `candidates` made.
    pub fn add(&mut self, revision: Revision, candidates: Vec<u32>) {
        self.changes.push((revision, candidates));
    }

    /// A largest matching: each change with its candidates and the operation it was given, if one
    /// was left for it.
    pub fn solve(&mut self) -> Vec<(Revision, Vec<u32>, Option<usize>)> {
        let changes = std::mem::take(&mut self.changes);
        let mut given: Vec<Option<u32>> = vec![None; changes.len()];
        let mut taken: HashMap<u32, usize> = HashMap::new();
        for start in 0..changes.len() {
            augment(start, &changes, &mut given, &mut taken);
        }
        let results = changes.into_iter().zip(given);
        results
            .map(|((revision, candidates), given)| (revision, candidates, given.map(|g| g as usize)))
            .collect()
    }
}

/// Finds, breadth first, a way from a change without an operation to an operation without a
/// change, and turns it around.
fn augment(
    start: usize,
    changes: &[(Revision, Vec<u32>)],
    given: &mut [Option<u32>],
    taken: &mut HashMap<u32, usize>,
) {
    let mut from: HashMap<u32, usize> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(change) = queue.pop_front() {
        for candidate in &changes[change].1 {
            if from.contains_key(candidate) {
                continue;
            }
            from.insert(*candidate, change);
            if let Some(owner) = taken.get(candidate) {
                queue.push_back(*owner);
                continue;
            }
            let mut free = *candidate;
            while let Some(change) = from.get(&free).copied() {
                taken.insert(free, change);
                match given[change].replace(free) {
                    Some(before) if change != start => free = before,
                    _ => return,
                }
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(changes: &[(Revision, &[u32])]) -> Vec<Option<usize>> {
        let mut matching = Matching::default();
        for (revision, candidates) in changes {
            matching.add(*revision, candidates.to_vec());
        }
        matching.solve().into_iter().map(|(_, _, given)| given).collect()
    }

    #[test]
    fn a_change_gives_its_operation_away_if_it_can_take_another() {
        assert_eq!(solve(&[(2, &[1, 2]), (3, &[1])]), [Some(2), Some(1)]);
        assert_eq!(solve(&[(2, &[1, 2]), (3, &[1, 3]), (4, &[1])]), [Some(2), Some(3), Some(1)]);
        assert_eq!(solve(&[(2, &[1, 2]), (3, &[2, 3]), (4, &[1])]), [Some(2), Some(3), Some(1)]);
    }

    #[test]
    fn one_operation_cannot_make_two_changes() {
        assert_eq!(solve(&[(2, &[1]), (3, &[1])]).iter().flatten().count(), 1);
    }

    #[test]
    fn a_matching_is_as_large_as_the_slow_way_finds() {
        // All graphs of three changes over three operations.
        for edges in 0u32..512 {
            let of =
                |change: u32| (0..3).filter(|op| edges >> (change * 3 + op) & 1 == 1).collect::<Vec<u32>>();
            let lists = [of(0), of(1), of(2)];
            let given = solve(&[(2, &lists[0]), (3, &lists[1]), (4, &lists[2])]);
            let best = (0..64u32)
                .filter_map(|choice| {
                    // 3 stands for none.
                    let chosen = [choice & 3, choice >> 2 & 3, choice >> 4 & 3];
                    let legal = (0..3).all(|i| {
                        chosen[i] == 3
                            || lists[i].contains(&chosen[i]) && (0..i).all(|j| chosen[j] != chosen[i])
                    });
                    legal.then(|| chosen.iter().filter(|op| **op != 3).count())
                })
                .max();
            assert_eq!(Some(given.iter().flatten().count()), best, "{lists:?}");
            for (change, op) in given.iter().enumerate() {
                assert!(op.is_none_or(|op| lists[change].contains(&(op as u32))));
            }
        }
    }
}
