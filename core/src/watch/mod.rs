//! Watches: who wants to hear of which keys, and what has been told to them so far.
//!
//! A [`Hub`] is a plain struct with one owner (a thread in the server, the simulator in tests).
//! The owner tells it in revision order what was applied, what clients of watch streams ask, and
//! what the transport took; it takes [`WatchFrame`]s out. One frame becomes one `WatchResponse`.
//!
//! A watcher is *live* when everything up to the hub's revision is in its stream's outbox, and a
//! *cursor* otherwise: it then remembers only the next revision it has to see, and reads from
//! there, out of the ring of recent events or from the stored [`History`](crate::event::History),
//! when its stream has room. A full outbox turns a live watcher into a cursor. Nothing is dropped
//! and nothing waits for a slow client.
//!
//! Invariants:
//! - every frame of a stream goes through its one outbox, in order: `created`, events, progress,
//!   cancels. Progress is queued only for live watchers, so it never overtakes an event;
//! - the only condition for delivery is `revision >= next` of the watcher;
//! - a cursor below the compacted revision is cancelled, it never jumps;
//! - all events of one revision that a watcher wants are in one frame (or in one run of fragments
//!   if it asked for them);
//! - memory is bounded: the ring by bytes and by what the engine has not stored yet, each outbox
//!   and all of them together by bytes, a watcher by a small constant.
//!
//! The room refuses to check permissions, to build wire messages and to know the time other than
//! as an argument.

mod catch_up;
mod frame;
mod groups;
mod hub;
mod intervals;
mod ring;
mod streams;
mod watchers;

#[cfg(test)]
mod checker;
#[cfg(test)]
mod hub_tests;
#[cfg(test)]
mod model;
#[cfg(test)]
mod story_tests;
#[cfg(test)]
mod twin_tests;

use std::time::Duration;

use bytes::Bytes;

use crate::limits;

pub use frame::{EventSet, WatchFrame};
pub use hub::{Hub, HubStats};

/// One client's watch stream, as numbered by the hub's owner. Never reused while open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// What the operator decides about watches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HubConfig {
    /// Recent events kept in memory, in bytes. Events that the engine has not stored yet are kept
    /// above this.
    pub ring_bytes: usize,
    /// Frames of one stream that its transport has not taken, in bytes. One response may go over.
    pub outbox_bytes: usize,
    /// The same of all streams together. Above it a stream gets new events only when everything
    /// that it had was taken.
    pub outboxes_bytes: usize,
    /// Revisions that one catch-up response may cover.
    pub catch_up_revisions: i64,
    /// Responses of this size are split for clients that asked for fragments.
    pub fragment_bytes: usize,
    /// Time between progress notifications; each stream adds up to a tenth.
    pub progress_interval: Duration,
    /// Random; keeps clients from choosing keys that collide in the hub's tables. Does not change
    /// what is delivered.
    pub hash_seed: u64,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            ring_bytes: limits::WATCH_RING_BYTES,
            outbox_bytes: limits::WATCH_OUTBOX_BYTES,
            outboxes_bytes: 256 << 20,
            catch_up_revisions: limits::WATCH_CATCH_UP_REVISIONS,
            fragment_bytes: limits::REQUEST_BYTES_MAX_DEFAULT + limits::REQUEST_OVERHEAD_BYTES,
            progress_interval: Duration::from_secs(600),
            hash_seed: 0,
        }
    }
}

/// A client's request for a watcher, field by field as on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CreateRequest {
    /// First key; empty means the smallest key, one zero byte.
    pub key: Bytes,
    /// End of the range as for a range read; empty for one key.
    pub range_end: Bytes,
    /// First revision wanted, 0 for "after now".
    pub start_revision: i64,
    /// The client's choice of an id, 0 to get one.
    pub watch_id: i64,
    /// Send what each event superseded.
    pub prev_kv: bool,
    /// Send progress from time to time while nothing happens.
    pub progress_notify: bool,
    /// Split large responses.
    pub fragment: bool,
    /// Wire numbers of event types that are not wanted: 0 puts, 1 deletes; others are ignored.
    pub filters: Vec<i32>,
}
