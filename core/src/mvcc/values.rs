//! Which values stay in memory beside the index.
//!
//! A value is kept until its row is in the engine, and then first in, first out while all values
//! together take more than a budget. A value that was overwritten or deleted frees its share at
//! once; its place in the queue is dropped later.

use std::collections::VecDeque;

use bytes::Bytes;

use super::index::{Live, Tree};
use crate::types::Revision;

/// What a value in memory costs above its bytes: allocation, counts, its place in the queue.
const VALUE_OVERHEAD_BYTES: usize = 64;

/// The account and the queue.
pub(super) struct Values {
    bytes_max: usize,
    bytes: usize,
    count: usize,
    /// Stored versions whose value may still be in memory, oldest first.
    queue: VecDeque<(Bytes, Revision)>,
}

impl Values {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, count: 0, queue: VecDeque::new() }
    }

    /// Bytes that values in memory take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A value came into the index. Empty ones cost nothing and stay.
    pub fn added(&mut self, value_bytes: usize) {
        if value_bytes > 0 {
            self.bytes += value_bytes + VALUE_OVERHEAD_BYTES;
            self.count += 1;
        }
    }

    /// A record left the index or is about to get another value.
    pub fn removed(&mut self, value: Option<&Bytes>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.bytes -= value.len() + VALUE_OVERHEAD_BYTES;
            self.count -= 1;
        }
    }

    /// The row of this version is in the engine, so its value may go.
    pub fn stored(&mut self, tree: &mut Tree, key: Bytes, revision: Revision) {
        self.queue.push_back((key, revision));
        while self.bytes > self.bytes_max
            && let Some((key, revision)) = self.queue.pop_front()
        {
            self.evict(tree, &key, revision);
        }
        // Keys that are overwritten again and again would fill the queue with versions that are
        // gone. Two looks for each new one keep it within a small multiple of the values.
        for _ in 0..2 {
            if self.queue.len() > 2 * self.count + 1024
                && let Some((key, revision)) = self.queue.pop_front()
                && tree.get(&key).is_some_and(|live| live.revision() == revision)
            {
                self.queue.push_back((key, revision));
            }
        }
    }

    fn evict(&mut self, tree: &mut Tree, key: &[u8], revision: Revision) {
        let has_value = |live: &Live| {
            live.revision() == revision && live.value.as_ref().is_some_and(|value| !value.is_empty())
        };
        // Looked up first, because access to change would copy nodes that readers hold.
        if tree.get(key).is_some_and(has_value)
            && let Some(live) = tree.get_mut(key)
        {
            let value = live.value.take();
            self.removed(value.as_ref());
        }
    }

    #[cfg(test)]
    pub fn check(&self, tree: &Tree) {
        let values = || tree.iter().filter_map(|live| live.value.as_ref()).filter(|value| !value.is_empty());
        assert_eq!(self.count, values().count());
        assert_eq!(self.bytes, values().map(|value| value.len() + VALUE_OVERHEAD_BYTES).sum::<usize>());
    }

    #[cfg(test)]
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }
}
