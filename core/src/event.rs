//! What a command changed, as the room that keeps keys tells it to the rooms that watch them.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Failure;
use crate::types::{KeyValue, LeaseId, Revision};

/// Whether a key was written or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// The key was put.
    Put,
    /// The key was deleted, by a client or with its lease.
    Delete,
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// Position inside the command, from 0.
    pub sub: u32,
    /// The key as it is now; after a delete only `key` and `mod_revision` are set.
    pub kv: KeyValue,
    /// The version that this change superseded; `None` for a put that created the key.
    pub prev: Option<PrevVersion>,
}

/// The version of a key before a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrevVersion {
    /// Where that version stands in the history.
    pub revision: Revision,
    /// Its `create_revision`.
    pub create_revision: i64,
    /// Its `version`.
    pub version: i64,
    /// Its lease.
    pub lease: Option<LeaseId>,
    /// Its value if it was in memory; otherwise the engine has it under `revision`.
    pub value: Option<Bytes>,
}

/// All changes of one main revision, in order of their sub revision. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventBatch {
    /// The main revision.
    pub revision: i64,
    /// The changes.
    pub events: Vec<Event>,
}

impl EventBatch {
    /// Roughly what the batch holds in memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.events
            .iter()
            .map(|event| {
                let prev = event.prev.as_ref().and_then(|prev| prev.value.as_ref());
                128 + event.kv.key.len() + event.kv.value.len() + prev.map_or(0, Bytes::len)
            })
            .sum()
    }
}

/// The stored history, for watchers that are older than what is in memory.
///
/// Implemented by the key store's reader; tests of the watch room have a slow twin.
pub trait History: Send + Sync {
    /// The batches of the main revisions `from..to` in order, at most `revisions_max` of them and
    /// about `bytes_max` bytes, whole revisions only. Everything below `to` must be stored.
    ///
    /// # Errors
    /// `Compacted` when `from` is below the compacted revision; `Timeout` while the rows are being
    /// replaced by a snapshot's: to be asked again after [`crate::watch::Hub::reset`].
    fn batches(
        &self,
        from: i64,
        to: i64,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<EventBatch>>, Failure>;

    /// The record that a change superseded, `None` if compaction removed it (etcd then sends no
    /// `prev_kv`).
    ///
    /// # Errors
    /// `Timeout` as for [`Self::batches`].
    fn prev_kv(&self, event: &Event) -> Result<Option<KeyValue>, Failure>;
}
