//! The live keys in memory: a counted copy-on-write B+tree.
//!
//! A [`Tree`] is a handle on a root node. Cloning it costs one reference count and gives a
//! snapshot that never changes: a change through another handle copies just the nodes on its
//! path that a snapshot still holds, and changes all others in place.
//!
//! Invariants: keys ascend; all leaves have the same depth; a node other than the root is never
//! empty; every child's `low` is at most its keys and above the keys of the child before it;
//! `count` is the number of keys below a child. A node that shrinks below a quarter is merged
//! with a neighbour if both fit into one, which keeps the depth logarithmic.

use std::sync::Arc;

use bytes::Bytes;

use super::node::{Keyed, NODE_MAX, Sorted};
use crate::types::{KeyRange, LeaseId, Revision};

const NODE_MIN: usize = NODE_MAX / 4;
/// How full [`Tree::from_sorted`] makes nodes: room for a few inserts before the first split.
const NODE_BUILT: usize = 28;

/// A live key. There are millions of these, so fields are packed: the revision is taken apart
/// and the lease is the wire number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Live {
    /// The key.
    pub key: Bytes,
    /// The value if it is in memory; otherwise the engine has it.
    pub value: Option<Bytes>,
    /// Main revision of the put that created the key.
    pub create_revision: i64,
    /// Main revision of the last put.
    pub mod_main: i64,
    /// Puts since creation.
    pub version: i64,
    /// The lease, 0 for none.
    pub lease: i64,
    /// Sub revision of the last put.
    pub mod_sub: u32,
    /// Length of the value, also while it is not in memory.
    pub value_bytes: u32,
}

const _: () = assert!(size_of::<Live>() <= 104);

impl Live {
    /// Where the version stands in the history.
    pub fn revision(&self) -> Revision {
        Revision { main: self.mod_main, sub: self.mod_sub }
    }

    /// The lease.
    pub fn lease(&self) -> Option<LeaseId> {
        LeaseId::from_wire(self.lease)
    }
}

#[derive(Clone)]
enum Node {
    Leaf(Sorted<Live>),
    Inner(Sorted<Child>),
}

#[derive(Clone)]
struct Child {
    low: Bytes,
    count: usize,
    node: Arc<Node>,
}

impl Keyed for Live {
    fn key(&self) -> &Bytes {
        &self.key
    }
}

impl Keyed for Child {
    fn key(&self) -> &Bytes {
        &self.low
    }
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(records) => records.len(),
            Self::Inner(children) => children.len(),
        }
    }

    /// The handle that a parent has on this node, which must not be empty.
    fn into_child(self) -> Child {
        let (low, count) = match &self {
            Self::Leaf(records) => (records[0].key.clone(), records.len()),
            Self::Inner(children) => {
                (children[0].low.clone(), children.iter().map(|child| child.count).sum())
            }
        };
        Child { low, count, node: Arc::new(self) }
    }
}

/// Which child may hold `key`.
fn child_at(children: &Sorted<Child>, key: &[u8]) -> usize {
    match children.search(key) {
        Ok(at) => at,
        Err(at) => at.saturating_sub(1),
    }
}

/// See the module.
#[derive(Clone)]
pub(super) struct Tree {
    root: Arc<Node>,
    len: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Sorted::default())), len: 0 }
    }
}

impl Tree {
    /// Builds a tree bottom-up from records with ascending keys.
    pub fn from_sorted(records: Vec<Live>) -> Self {
        debug_assert!(records.is_sorted_by(|a, b| a.key < b.key));
        let len = records.len();
        let mut level: Vec<Child> =
            chunks(records).map(|records| Node::Leaf(Sorted::from(records)).into_child()).collect();
        while level.len() > 1 {
            level = chunks(level).map(|children| Node::Inner(Sorted::from(children)).into_child()).collect();
        }
        match level.pop() {
            Some(child) => Self { root: child.node, len },
            None => Self::default(),
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The record of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Live> {
        let mut node = &self.root;
        loop {
            match node.as_ref() {
                Node::Leaf(records) => return records.search(key).ok().map(|at| &records[at]),
                Node::Inner(children) => node = &children[child_at(children, key)].node,
            }
        }
    }

    /// The record of a key, to change it in place. The key itself must stay.
    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut Live> {
        let mut node = &mut self.root;
        loop {
            match Arc::make_mut(node) {
                Node::Leaf(records) => return records.search(key).ok().map(|at| &mut records[at]),
                Node::Inner(children) => {
                    let at = child_at(children, key);
                    node = &mut children[at].node;
                }
            }
        }
    }

    /// Lets `change` change the record of `key` in place or, if there is none, give one to
    /// insert, which must have that key.
    pub fn upsert(&mut self, key: &[u8], change: impl FnOnce(Option<&mut Live>) -> Option<Live>) {
        let grown = upsert_in(&mut self.root, key, change);
        self.len += usize::from(grown.inserted);
        if let Some(right) = grown.split {
            let left_root = self.root.clone();
            let low = match left_root.as_ref() {
                Node::Leaf(records) => records[0].key.clone(),
                Node::Inner(children) => children[0].low.clone(),
            };
            let left = Child { low, count: self.len - right.count, node: left_root };
            self.root = Arc::new(Node::Inner(Sorted::from(vec![left, right])));
        }
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &[u8]) -> Option<Live> {
        let removed = remove_in(&mut self.root, key)?;
        self.len -= 1;
        while let Node::Inner(children) = self.root.as_ref() {
            match &children[..] {
                [] => self.root = Arc::new(Node::Leaf(Sorted::default())),
                [only] => self.root = only.node.clone(),
                _ => break,
            }
        }
        Some(removed)
    }

    /// Number of keys below `key`.
    fn rank(&self, key: &[u8]) -> usize {
        let (mut node, mut below) = (&self.root, 0);
        loop {
            match node.as_ref() {
                Node::Leaf(records) => {
                    return below + records.search(key).unwrap_or_else(|at| at);
                }
                Node::Inner(children) => {
                    let at = child_at(children, key);
                    below += children[..at].iter().map(|child| child.count).sum::<usize>();
                    node = &children[at].node;
                }
            }
        }
    }

    /// Number of keys in a range, without visiting them.
    pub fn count(&self, range: &KeyRange) -> usize {
        match range {
            KeyRange::One(key) => usize::from(self.get(key).is_some()),
            KeyRange::Span(from, to) => self.rank(to).saturating_sub(self.rank(from)),
            KeyRange::From(from) => self.len - self.rank(from),
        }
    }

    /// The records of a range in key order.
    pub fn range<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a Live> {
        let end: Option<&[u8]> = match range {
            KeyRange::One(key) | KeyRange::Span(_, key) => Some(key),
            KeyRange::From(_) => None,
        };
        let one = matches!(range, KeyRange::One(_));
        self.iter_from(range.start()).take_while(move |record| match end {
            Some(end) => record.key.as_ref() < end || (one && record.key.as_ref() == end),
            None => true,
        })
    }

    /// All records in key order.
    pub fn iter(&self) -> Iter<'_> {
        self.iter_from(&[])
    }

    fn iter_from(&self, key: &[u8]) -> Iter<'_> {
        let mut iter = Iter { path: Vec::new(), leaf: [].iter() };
        let mut node = &self.root;
        loop {
            match node.as_ref() {
                Node::Leaf(records) => {
                    let start = records.search(key).unwrap_or_else(|at| at);
                    iter.leaf = records[start..].iter();
                    return iter;
                }
                Node::Inner(children) => {
                    let at = child_at(children, key);
                    iter.path.push(children[at + 1..].iter());
                    node = &children[at].node;
                }
            }
        }
    }
}

/// Cuts a list into pieces for nodes.
fn chunks<T>(items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = items.by_ref().take(NODE_BUILT).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

struct Grown {
    inserted: bool,
    /// The upper half, if the node was split.
    split: Option<Child>,
}

fn upsert_in(
    node: &mut Arc<Node>,
    key: &[u8],
    change: impl FnOnce(Option<&mut Live>) -> Option<Live>,
) -> Grown {
    match Arc::make_mut(node) {
        Node::Leaf(records) => match records.search(key) {
            Ok(at) => {
                change(Some(&mut records[at]));
                Grown { inserted: false, split: None }
            }
            Err(at) => {
                let Some(record) = change(None) else { return Grown { inserted: false, split: None } };
                debug_assert_eq!(record.key.as_ref(), key);
                let split = records.insert(at, record).map(|upper| Node::Leaf(upper).into_child());
                Grown { inserted: true, split }
            }
        },
        Node::Inner(children) => {
            let at = child_at(children, key);
            let grown = upsert_in(&mut children[at].node, key, change);
            children[at].count += usize::from(grown.inserted);
            if grown.inserted && at == 0 && key < children[0].low.as_ref() {
                let low = match children[0].node.as_ref() {
                    Node::Leaf(records) => records[0].key.clone(),
                    Node::Inner(children) => children[0].low.clone(),
                };
                children.set_first(|child| child.low = low);
            }
            let Some(right) = grown.split else { return grown };
            children[at].count -= right.count;
            let split = children.insert(at + 1, right).map(|upper| Node::Inner(upper).into_child());
            Grown { inserted: true, split }
        }
    }
}

fn remove_in(node: &mut Arc<Node>, key: &[u8]) -> Option<Live> {
    match Arc::make_mut(node) {
        Node::Leaf(records) => records.search(key).ok().map(|at| records.remove(at)),
        Node::Inner(children) => {
            let at = child_at(children, key);
            let removed = remove_in(&mut children[at].node, key)?;
            children[at].count -= 1;
            if children[at].node.len() < NODE_MIN {
                merge(children, at);
            }
            Some(removed)
        }
    }
}

/// Merges the small child `at` with a neighbour if both fit into one node; drops it if it is
/// empty and alone.
fn merge(children: &mut Sorted<Child>, at: usize) {
    if children.len() == 1 {
        if children[0].node.len() == 0 {
            children.remove(0);
        }
        return;
    }
    let left = at.saturating_sub(1);
    if children[left].node.len() + children[left + 1].node.len() > NODE_MAX {
        return;
    }
    let right = children.remove(left + 1);
    let left = &mut children[left];
    left.count += right.count;
    match (Arc::make_mut(&mut left.node), Arc::unwrap_or_clone(right.node)) {
        (Node::Leaf(records), Node::Leaf(more)) => records.append(more),
        (Node::Inner(children), Node::Inner(more)) => children.append(more),
        _ => unreachable!("all leaves have the same depth"),
    }
}

/// Records in key order.
pub(super) struct Iter<'a> {
    /// For each inner node above the leaf, the children after the one that was taken.
    path: Vec<std::slice::Iter<'a, Child>>,
    leaf: std::slice::Iter<'a, Live>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Live;

    fn next(&mut self) -> Option<&'a Live> {
        loop {
            if let Some(record) = self.leaf.next() {
                return Some(record);
            }
            let mut node = loop {
                match self.path.last_mut()?.next() {
                    Some(child) => break &child.node,
                    None => drop(self.path.pop()),
                }
            };
            loop {
                match node.as_ref() {
                    Node::Leaf(records) => {
                        self.leaf = records.iter();
                        break;
                    }
                    Node::Inner(children) => {
                        let (first, rest) = children.split_first().expect("no inner node is empty");
                        self.path.push(rest.iter());
                        node = &first.node;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
impl Tree {
    /// Checks the invariants of the module.
    pub fn check(&self) {
        fn walk(node: &Node, root: bool) -> (usize, usize) {
            assert!(root || node.len() > 0, "an empty node");
            assert!(node.len() <= NODE_MAX, "a node of {}", node.len());
            match node {
                Node::Leaf(records) => {
                    records.check();
                    (records.len(), 0)
                }
                Node::Inner(children) => {
                    children.check();
                    let mut depth = None;
                    for (at, child) in children.iter().enumerate() {
                        let (count, below) = walk(&child.node, false);
                        assert_eq!(count, child.count);
                        assert_eq!(*depth.get_or_insert(below), below);
                        let all = Tree { root: child.node.clone(), len: count };
                        let keys: Vec<_> = all.iter().map(|record| record.key.clone()).collect();
                        assert!(child.low <= keys[0]);
                        assert!(children.get(at + 1).is_none_or(|next| *keys.last().unwrap() < next.low));
                    }
                    (children.iter().map(|child| child.count).sum(), depth.unwrap() + 1)
                }
            }
        }
        assert_eq!(walk(&self.root, true).0, self.len);
        assert!(self.iter().is_sorted_by(|a, b| a.key < b.key));
    }
}
