//! Key ranges that can be asked which of them contain a key.
//!
//! A treap (a search tree kept in balance by random priorities) ordered by start and end; every
//! node also knows the farthest end below it, so that a search skips subtrees that end before the
//! key. Finding the `k` ranges around a key among `n` takes about `k + log n` steps.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const NIL: u32 = u32::MAX;

/// Where a range ends. `Open` is behind every key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum End {
    /// Below this key.
    Before(Bytes),
    /// Nowhere.
    Open,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end.as_ref(),
            Self::Open => true,
        }
    }
}

struct Node {
    start: Bytes,
    end: End,
    /// The farthest end in the subtree.
    reach: End,
    /// What the range stands for.
    group: u32,
    priority: u64,
    left: u32,
    right: u32,
}

/// See the module.
pub(super) struct Intervals {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
    /// Nodes made so far; with the seed it gives priorities that clients cannot foresee.
    made: u64,
    seed: u64,
}

impl Intervals {
    pub(super) fn new(seed: u64) -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NIL, made: 0, seed }
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    /// The group of exactly this range.
    pub(super) fn get(&self, start: &[u8], end: &End) -> Option<u32> {
        let mut at = self.root;
        while at != NIL {
            let node = self.node(at);
            at = match (start, end).cmp(&(node.start.as_ref(), &node.end)) {
                std::cmp::Ordering::Less => node.left,
                std::cmp::Ordering::Greater => node.right,
                std::cmp::Ordering::Equal => return Some(node.group),
            };
        }
        None
    }

    /// Adds a range that is not there yet.
    pub(super) fn insert(&mut self, start: Bytes, end: End, group: u32) {
        self.made += 1;
        let priority = xxh3_64_with_seed(&self.made.to_le_bytes(), self.seed);
        let node = Node { start, reach: end.clone(), end, group, priority, left: NIL, right: NIL };
        let at = match self.free.pop() {
            Some(at) => {
                *self.node_mut(at) = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        let (left, right) = self.split(self.root, at);
        let left = self.merge(left, at);
        self.root = self.merge(left, right);
    }

    /// Removes a range; absent is fine.
    pub(super) fn remove(&mut self, start: &[u8], end: &End) {
        self.root = self.remove_below(self.root, start, end);
    }

    /// Adds the groups of all ranges that contain the key to `out`.
    pub(super) fn containing(&self, key: &[u8], out: &mut Vec<u32>) {
        self.visit(self.root, key, out);
    }

    fn visit(&self, at: u32, key: &[u8], out: &mut Vec<u32>) {
        if at == NIL || !self.node(at).reach.is_after(key) {
            return;
        }
        let node = self.node(at);
        self.visit(node.left, key, out);
        if node.start.as_ref() <= key {
            if node.end.is_after(key) {
                out.push(node.group);
            }
            self.visit(node.right, key, out);
        }
    }

    /// Computes the reach of a node whose children changed.
    fn settle(&mut self, at: u32) {
        let node = self.node(at);
        let children = [node.left, node.right].into_iter().filter(|child| *child != NIL);
        let reach = children.map(|child| &self.node(child).reach).fold(&node.end, Ord::max).clone();
        self.node_mut(at).reach = reach;
    }

    /// The parts of a subtree before and after node `pivot`, which is not in it.
    fn split(&mut self, at: u32, pivot: u32) -> (u32, u32) {
        if at == NIL {
            return (NIL, NIL);
        }
        let (node, pivot_node) = (self.node(at), self.node(pivot));
        if (&node.start, &node.end) < (&pivot_node.start, &pivot_node.end) {
            let (near, far) = self.split(node.right, pivot);
            self.node_mut(at).right = near;
            self.settle(at);
            (at, far)
        } else {
            let (far, near) = self.split(node.left, pivot);
            self.node_mut(at).left = near;
            self.settle(at);
            (far, at)
        }
    }

    /// Joins two subtrees, all of the first before all of the second.
    fn merge(&mut self, first: u32, second: u32) -> u32 {
        if first == NIL || second == NIL {
            return first.min(second);
        }
        if self.node(first).priority >= self.node(second).priority {
            let right = self.merge(self.node(first).right, second);
            self.node_mut(first).right = right;
            self.settle(first);
            first
        } else {
            let left = self.merge(first, self.node(second).left);
            self.node_mut(second).left = left;
            self.settle(second);
            second
        }
    }

    fn remove_below(&mut self, at: u32, start: &[u8], end: &End) -> u32 {
        if at == NIL {
            return NIL;
        }
        let node = self.node(at);
        let (left, right) = (node.left, node.right);
        match (start, end).cmp(&(node.start.as_ref(), &node.end)) {
            std::cmp::Ordering::Less => {
                let left = self.remove_below(left, start, end);
                self.node_mut(at).left = left;
            }
            std::cmp::Ordering::Greater => {
                let right = self.remove_below(right, start, end);
                self.node_mut(at).right = right;
            }
            std::cmp::Ordering::Equal => {
                // Let go of the keys' memory.
                let node = self.node_mut(at);
                node.start = Bytes::new();
                node.end = End::Open;
                node.reach = End::Open;
                self.free.push(at);
                return self.merge(left, right);
            }
        }
        self.settle(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn end(byte: Option<u8>) -> End {
        byte.map_or(End::Open, |byte| End::Before(Bytes::from(vec![byte])))
    }

    impl Intervals {
        fn depth(&self, at: u32) -> usize {
            if at == NIL {
                return 0;
            }
            1 + self.depth(self.node(at).left).max(self.depth(self.node(at).right))
        }
    }

    proptest! {
        #[test]
        fn ranges_around_a_key_are_those_a_scan_finds(
            steps in prop::collection::vec((any::<bool>(), 0u8..20, prop::option::of(0u8..24)), 1..120)
        ) {
            let mut intervals = Intervals::new(7);
            let mut twin: BTreeMap<(u8, Option<u8>), u32> = BTreeMap::new();
            for (group, (add, start, to)) in steps.into_iter().enumerate() {
                let present = twin.get(&(start, to)).copied();
                prop_assert_eq!(intervals.get(&[start], &end(to)), present);
                if add && present.is_none() {
                    intervals.insert(Bytes::from(vec![start]), end(to), group as u32);
                    twin.insert((start, to), group as u32);
                } else if !add {
                    intervals.remove(&[start], &end(to));
                    twin.remove(&(start, to));
                }
                for key in 0..26u8 {
                    let mut found = Vec::new();
                    intervals.containing(&[key], &mut found);
                    found.sort_unstable();
                    let mut expected: Vec<_> = twin
                        .iter()
                        .filter(|((start, to), _)| *start <= key && to.is_none_or(|to| key < to))
                        .map(|(_, group)| *group)
                        .collect();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }

    #[test]
    fn ranges_added_in_order_do_not_make_a_list_of_the_tree() {
        let mut intervals = Intervals::new(1);
        for number in 0..20_000u32 {
            let start = Bytes::copy_from_slice(&number.to_be_bytes());
            let to = End::Before(Bytes::copy_from_slice(&(number + 1).to_be_bytes()));
            intervals.insert(start, to, number);
        }
        assert!(intervals.depth(intervals.root) < 64);
        for number in 0..20_000u32 {
            let mut found = Vec::new();
            intervals.containing(&number.to_be_bytes(), &mut found);
            assert_eq!(found, [number]);
            let to = End::Before(Bytes::copy_from_slice(&(number + 1).to_be_bytes()));
            intervals.remove(&number.to_be_bytes(), &to);
        }
        assert_eq!(intervals.root, NIL);
        assert_eq!(intervals.free.len(), intervals.nodes.len());
    }
}
