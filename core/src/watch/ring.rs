//! The recent events, in memory.
//!
//! Invariants: the batches' revisions follow each other without a gap, from `first` on; a batch
//! that the engine has not stored is never dropped, so every revision is in the ring or stored.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::EventBatch;

/// See the module.
pub(super) struct Ring {
    batches: VecDeque<Arc<EventBatch>>,
    /// Revision of the first batch, or of the next one to come when there is none.
    first: i64,
    bytes: usize,
    bytes_max: usize,
    /// Up to this revision the engine has everything.
    stored: i64,
}

impl Ring {
    /// An empty ring; everything up to `revision` is stored.
    pub(super) fn new(bytes_max: usize, revision: i64) -> Self {
        Self { batches: VecDeque::new(), first: revision + 1, bytes: 0, bytes_max, stored: revision }
    }

    /// The first revision that is in memory (or would be).
    pub(super) fn first(&self) -> i64 {
        self.first
    }

    /// What the events take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next revision.
    pub(super) fn push(&mut self, batch: Arc<EventBatch>) {
        self.bytes += batch.size_bytes();
        self.batches.push_back(batch);
        self.trim();
    }

    /// The engine has everything up to `revision`.
    pub(super) fn stored(&mut self, revision: i64) {
        self.stored = self.stored.max(revision);
        self.trim();
    }

    fn trim(&mut self) {
        while self.bytes > self.bytes_max && self.first <= self.stored {
            let Some(batch) = self.batches.pop_front() else { break };
            self.bytes -= batch.size_bytes();
            self.first += 1;
        }
    }

    /// The batches from revision `from` on, which must be in memory: at most `revisions_max` and
    /// about `bytes_max`, at least one.
    pub(super) fn read(&self, from: i64, revisions_max: usize, bytes_max: usize) -> Vec<Arc<EventBatch>> {
        let skip = usize::try_from(from - self.first).expect("the caller checked the first revision");
        let mut bytes = 0;
        self.batches
            .iter()
            .skip(skip)
            .take(revisions_max)
            .take_while(|batch| {
                let room = bytes < bytes_max;
                bytes += batch.size_bytes();
                room
            })
            .cloned()
            .collect()
    }
}
