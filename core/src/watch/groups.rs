//! Groups of watchers: one for each distinct range of keys that somebody watches.
//!
//! An event is matched with groups, not with watchers, so a million watchers of one key cost one
//! match. Single keys are found by hash, ranges in a search tree.

use std::hash::{BuildHasher, Hasher};

use bytes::Bytes;
use hashbrown::HashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::types::KeyRange;

use super::intervals::{End, Intervals};

/// Index of a group; reused after the group's last watcher left.
pub(super) type GroupIndex = u32;

/// The watchers of one range.
pub(super) struct Group {
    pub(super) range: KeyRange,
    /// Never reused, ascending: tells a group from a later one at the same index.
    pub(super) serial: u64,
    /// Watchers of the group that are live, in no order that matters.
    pub(super) live: Vec<u32>,
    members_count: usize,
}

/// See the module.
pub(super) struct Groups {
    groups: Vec<Option<Group>>,
    free: Vec<GroupIndex>,
    exact: HashMap<Bytes, GroupIndex, SeededHash>,
    ranges: Intervals,
    next_serial: u64,
}

fn end_of(range: &KeyRange) -> Option<End> {
    match range {
        KeyRange::One(_) => None,
        KeyRange::Span(_, to) => Some(End::Before(to.clone())),
        KeyRange::From(_) => Some(End::Open),
    }
}

impl Groups {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            groups: Vec::new(),
            free: Vec::new(),
            exact: HashMap::with_hasher(SeededHash(seed)),
            ranges: Intervals::new(seed),
            next_serial: 0,
        }
    }

    pub(super) fn get(&self, at: GroupIndex) -> &Group {
        self.groups[at as usize].as_ref().expect("a group lives as long as its watchers")
    }

    pub(super) fn get_mut(&mut self, at: GroupIndex) -> &mut Group {
        self.groups[at as usize].as_mut().expect("a group lives as long as its watchers")
    }

    /// Groups that exist.
    pub(super) fn count(&self) -> usize {
        self.groups.len() - self.free.len()
    }

    /// The serial that the next new group gets; all existing ones are smaller.
    pub(super) fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// Counts one more watcher of a range that is not empty.
    pub(super) fn join(&mut self, range: KeyRange) -> GroupIndex {
        let end = end_of(&range);
        let known = match &end {
            None => self.exact.get(range.start()).copied(),
            Some(end) => self.ranges.get(range.start(), end),
        };
        let at = known.unwrap_or_else(|| {
            let group =
                Group { range: range.clone(), serial: self.next_serial, live: Vec::new(), members_count: 0 };
            self.next_serial += 1;
            let at = match self.free.pop() {
                Some(at) => {
                    self.groups[at as usize] = Some(group);
                    at
                }
                None => {
                    self.groups.push(Some(group));
                    (self.groups.len() - 1) as GroupIndex
                }
            };
            match end {
                None => {
                    self.exact.insert(range.start().clone(), at);
                }
                Some(end) => self.ranges.insert(range.start().clone(), end, at),
            }
            at
        });
        self.get_mut(at).members_count += 1;
        at
    }

    /// Counts one watcher less; it is not in `live` any more.
    pub(super) fn leave(&mut self, at: GroupIndex) {
        let group = self.get_mut(at);
        group.members_count -= 1;
        if group.members_count > 0 {
            return;
        }
        assert!(group.live.is_empty(), "a live watcher left its group twice");
        let range = group.range.clone();
        match end_of(&range) {
            None => {
                self.exact.remove(range.start());
            }
            Some(end) => self.ranges.remove(range.start(), &end),
        }
        self.groups[at as usize] = None;
        self.free.push(at);
    }

    /// Adds the groups that want to hear of this key to `out`.
    pub(super) fn watching(&self, key: &Bytes, out: &mut Vec<GroupIndex>) {
        out.extend(self.exact.get(key));
        self.ranges.containing(key, out);
    }
}

/// Hashes with a seed of the operator's member, so that clients cannot choose keys that collide.
#[derive(Clone)]
struct SeededHash(u64);

struct SeededHasher(u64);

impl BuildHasher for SeededHash {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(self.0)
    }
}

impl Hasher for SeededHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn watchers_of_the_same_range_are_one_group_until_the_last_one_leaves() {
        let mut groups = Groups::new(1);
        let one = groups.join(KeyRange::One(bytes("a")));
        assert_eq!(groups.join(KeyRange::One(bytes("a"))), one);
        let span = groups.join(KeyRange::Span(bytes("a"), bytes("b")));
        let all = groups.join(KeyRange::From(bytes("a")));
        let mut found = Vec::new();
        groups.watching(&bytes("a"), &mut found);
        found.sort_unstable();
        assert_eq!(found, [one, span, all]);
        groups.leave(one);
        assert_eq!(groups.count(), 3);
        let serial = groups.get(one).serial;
        groups.leave(one);
        assert_eq!(groups.count(), 2);
        let other = groups.join(KeyRange::One(bytes("z")));
        assert_eq!(other, one, "the place is used again");
        assert_ne!(groups.get(other).serial, serial);
        groups.leave(span);
        found.clear();
        groups.watching(&bytes("a"), &mut found);
        assert_eq!(found, [all]);
    }
}
