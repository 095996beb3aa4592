//! The sorted items of one node of the index, found with few looks at their keys.
//!
//! Keys lie anywhere in memory, so each look at one costs a cache miss, and a binary search of a
//! tree with a million keys looks at twenty. Keys in one node have much in common, though. A node
//! therefore keeps for each key its *head*, the four bytes after what all keys of the node share,
//! in one small array, and searches that; it has the start of the shared part at hand, too, and
//! looks only at those keys whose head is the same as that of the key sought, which is mostly one.

use std::cmp::Ordering;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;

/// Most items of a node.
pub(super) const NODE_MAX: usize = 32;
/// Room that is made when a node is full: doubling would leave half of it unused.
const NODE_ROOM: usize = 8;
/// Most bytes of the shared part that a node has at hand.
const PREFIX_BYTES_MAX: usize = 24;

/// Something that is sorted by a key.
pub(super) trait Keyed {
    /// The key. It must not change while the item is in a node.
    fn key(&self) -> &Bytes;
}

/// Items with ascending keys.
#[derive(Clone)]
pub(super) struct Sorted<T> {
    /// Number of bytes with which all keys start; there may be more than this.
    shared: usize,
    /// The first of them.
    prefix: [u8; PREFIX_BYTES_MAX],
    /// Of each item's key, the bytes after the shared ones, as a big-endian number, so that heads
    /// sort as the keys do. Keys that end before are filled up with zeros.
    heads: [u32; NODE_MAX + 1],
    items: Vec<T>,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { shared: 0, prefix: [0; PREFIX_BYTES_MAX], heads: [0; NODE_MAX + 1], items: Vec::new() }
    }
}

impl<T> Deref for Sorted<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

/// For changing items in place; their keys must stay.
impl<T> DerefMut for Sorted<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

fn head(key: &[u8], shared: usize) -> u32 {
    let rest = key.get(shared..).unwrap_or_default();
    match rest.first_chunk() {
        Some(four) => u32::from_be_bytes(*four),
        None => {
            let mut four = [0; 4];
            four[..rest.len()].copy_from_slice(rest);
            u32::from_be_bytes(four)
        }
    }
}

impl<T: Keyed> From<Vec<T>> for Sorted<T> {
    /// From items with ascending keys, at most [`NODE_MAX`].
    fn from(items: Vec<T>) -> Self {
        let mut sorted = Self { items, ..Self::default() };
        sorted.renew();
        sorted
    }
}

impl<T: Keyed> Sorted<T> {
    /// Finds what the keys share and their heads.
    fn renew(&mut self) {
        let (Some(first), Some(last)) = (self.items.first(), self.items.last()) else { return };
        // What the first and the last key share, all between them share, too.
        let same = first.key().iter().zip(last.key().iter()).take_while(|(a, b)| a == b).count();
        self.shared = same;
        let at_hand = same.min(PREFIX_BYTES_MAX);
        self.prefix[..at_hand].copy_from_slice(&first.key()[..at_hand]);
        for (head_of, item) in self.heads.iter_mut().zip(&self.items) {
            *head_of = head(item.key(), same);
        }
    }

    /// How `key` compares to what the keys share.
    fn compare_shared(&self, key: &[u8]) -> Ordering {
        let at_hand = self.shared.min(PREFIX_BYTES_MAX);
        let order = key[..key.len().min(at_hand)].cmp(&self.prefix[..at_hand]);
        if order.is_ne() || self.shared == at_hand {
            return order;
        }
        let Some(first) = self.items.first() else { return Ordering::Equal };
        key[at_hand..key.len().min(self.shared)].cmp(&first.key()[at_hand..self.shared])
    }

    /// The place of `key`, or the place where it belongs.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        match self.compare_shared(key) {
            Ordering::Less => return Err(0),
            Ordering::Greater => return Err(self.items.len()),
            Ordering::Equal => {}
        }
        let heads = &self.heads[..self.items.len()];
        let sought = head(key, self.shared);
        let start = heads.partition_point(|head| *head < sought);
        let alike = heads[start..].iter().take_while(|head| **head == sought).count();
        let alike = &self.items[start..start + alike];
        match alike.binary_search_by(|item| item.key().as_ref().cmp(key)) {
            Ok(at) => Ok(start + at),
            Err(at) => Err(start + at),
        }
    }

    /// Inserts an item where [`Self::search`] said; returns the upper part if the node is too
    /// full then. It is cut in the middle, or at the end if keys arrive in ascending order, so
    /// that such keys fill their nodes.
    pub fn insert(&mut self, at: usize, item: T) -> Option<Self> {
        let fits = !self.items.is_empty() && self.compare_shared(item.key()).is_eq();
        let item_head = head(item.key(), self.shared);
        if self.items.len() == self.items.capacity() {
            self.items.reserve_exact(NODE_ROOM);
        }
        self.items.insert(at, item);
        let len = self.items.len();
        if len > NODE_MAX {
            let upper = Self::from(self.items.split_off(if at + 1 == len { at } else { len / 2 }));
            self.renew();
            return Some(upper);
        }
        if fits {
            self.heads.copy_within(at..len - 1, at + 1);
            self.heads[at] = item_head;
        } else {
            self.renew();
        }
        None
    }

    /// Removes an item.
    pub fn remove(&mut self, at: usize) -> T {
        self.heads.copy_within(at + 1.., at);
        self.items.remove(at)
    }

    /// Changes the first item, whose key may become smaller.
    pub fn set_first(&mut self, change: impl FnOnce(&mut T)) {
        let Some(first) = self.items.first_mut() else { return };
        change(first);
        // The others still share what they did; look there, because the first may not.
        let first_key = self.items[0].key();
        let fits = self
            .items
            .last()
            .is_some_and(|last| first_key.get(..self.shared) == last.key().get(..self.shared));
        if fits {
            self.heads[0] = head(first_key, self.shared);
        } else {
            self.renew();
        }
    }

    /// Adds items whose keys are above all keys here. Both must fit into one node.
    pub fn append(&mut self, other: Self) {
        self.items.extend(other.items);
        self.renew();
    }
}

#[cfg(test)]
impl<T: Keyed> Sorted<T> {
    /// Checks that everything is found by its head.
    pub fn check(&self) {
        assert!(self.items.is_sorted_by(|a, b| a.key() < b.key()));
        for (at, item) in self.items.iter().enumerate() {
            assert_eq!(item.key().get(..self.shared), self.items[0].key().get(..self.shared));
            let at_hand = self.shared.min(PREFIX_BYTES_MAX);
            assert_eq!(item.key()[..at_hand], self.prefix[..at_hand]);
            assert_eq!(self.heads[at], head(item.key(), self.shared));
            assert_eq!(self.search(item.key()), Ok(at));
        }
    }
}
