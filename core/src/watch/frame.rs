//! What goes out to a client: one frame is one `WatchResponse`.
//!
//! Watchers of the same keys share their events: an [`EventSet`] is built once for a revision, a
//! group of watchers and the options that change its content, and can carry its encoded bytes.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::event::{Event, EventBatch, EventKind};
use crate::types::{KeyValue, LeaseId};

/// What a frame costs besides its events, on the wire and in the outbox.
const FRAME_OVERHEAD_BYTES: usize = 96;
/// Bytes on the wire of a response without its events: the header with four numbers, the watch
/// id and the flags.
const RESPONSE_OVERHEAD_BYTES: usize = 64;

/// One response, without the parts of the header that the hub does not know (cluster, member,
/// term).
#[derive(Clone, Debug, Default)]
pub struct WatchFrame {
    /// Which watcher; -1 for rejected creates and for progress of the whole stream.
    pub watch_id: i64,
    /// `header.revision`; 0 in a cancel by compaction, as in etcd.
    pub revision: i64,
    /// Answer to a create.
    pub created: bool,
    /// Nothing follows for this watcher.
    pub canceled: bool,
    /// Set when compaction cancelled the watcher: the smallest revision that can still be read.
    pub compact_revision: i64,
    /// Why a create was rejected.
    pub cancel_reason: String,
    /// More of the same response follows.
    pub fragment: bool,
    /// The events; none in control and progress frames.
    pub events: Option<Arc<EventSet>>,
}

impl WatchFrame {
    /// What the frame counts for in the outbox, in bytes; report the sum to
    /// [`Hub::sent`](super::Hub::sent).
    pub fn size_bytes(&self) -> usize {
        FRAME_OVERHEAD_BYTES
            + self.cancel_reason.len()
            + self.events.as_ref().map_or(0, |events| events.wire_bytes())
    }

    /// The events and what they superseded.
    pub fn events(&self) -> impl Iterator<Item = (&Event, Option<&KeyValue>)> {
        self.events.iter().flat_map(|events| events.iter())
    }
}

/// Events of one or more revisions, in order, shared by all watchers that get the same ones.
pub struct EventSet {
    picks: Vec<Pick>,
    wire_bytes: usize,
    encoded: OnceLock<Bytes>,
    fragments: OnceLock<Vec<Arc<EventSet>>>,
}

/// One event of a batch, and what it superseded if that was asked for and still exists.
#[derive(Clone, Debug)]
pub(super) struct Pick {
    pub(super) batch: Arc<EventBatch>,
    pub(super) index: u32,
    pub(super) prev: Option<Box<KeyValue>>,
}

impl Pick {
    fn event(&self) -> &Event {
        &self.batch.events[self.index as usize]
    }

    fn wire_bytes(&self) -> usize {
        event_wire_bytes(self.event(), self.prev.as_deref())
    }
}

impl EventSet {
    pub(super) fn new(picks: Vec<Pick>) -> Self {
        let wire_bytes = picks.iter().map(Pick::wire_bytes).sum();
        Self { picks, wire_bytes, encoded: OnceLock::new(), fragments: OnceLock::new() }
    }

    /// How many events there are; at least one.
    pub fn len(&self) -> usize {
        self.picks.len()
    }

    /// Whether there are no events (never).
    pub fn is_empty(&self) -> bool {
        self.picks.is_empty()
    }

    /// The events in order, each with what it superseded.
    pub fn iter(&self) -> impl Iterator<Item = (&Event, Option<&KeyValue>)> {
        self.picks.iter().map(|pick| (pick.event(), pick.prev.as_deref()))
    }

    /// Size of the `events` field of the response on the wire, in bytes.
    pub fn wire_bytes(&self) -> usize {
        self.wire_bytes
    }

    /// The encoded `events` field, made by the first caller and shared with all others.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(|| encode(self))
    }

    /// The set in pieces below `limit_bytes` a response, as etcd splits: a single event is never
    /// split, however large.
    pub(super) fn fragments(&self, limit_bytes: usize) -> &[Arc<Self>] {
        self.fragments.get_or_init(|| {
            let mut fragments = Vec::new();
            let mut picks: Vec<Pick> = Vec::new();
            let mut bytes = RESPONSE_OVERHEAD_BYTES;
            for pick in &self.picks {
                let more = pick.wire_bytes();
                if !picks.is_empty() && bytes + more >= limit_bytes {
                    fragments.push(Arc::new(Self::new(std::mem::take(&mut picks))));
                    bytes = RESPONSE_OVERHEAD_BYTES;
                }
                bytes += more;
                picks.push(pick.clone());
            }
            fragments.push(Arc::new(Self::new(picks)));
            fragments
        })
    }

    /// Whether a client that asked for fragments gets this set in pieces.
    pub(super) fn is_split(&self, limit_bytes: usize) -> bool {
        self.picks.len() > 1 && self.wire_bytes + RESPONSE_OVERHEAD_BYTES >= limit_bytes
    }
}

impl fmt::Debug for EventSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(event, _)| (event.kind, &event.kv.key, event.kv.mod_revision)))
            .finish()
    }
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// A field of this tag size one with a length in front.
fn block_bytes(length: usize) -> usize {
    1 + varint_bytes(length as u64) + length
}

fn number_bytes(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_bytes(value as u64) }
}

/// Size of a `mvccpb.KeyValue`.
fn kv_wire_bytes(kv: &KeyValue) -> usize {
    let text = |bytes: &Bytes| if bytes.is_empty() { 0 } else { block_bytes(bytes.len()) };
    text(&kv.key)
        + text(&kv.value)
        + number_bytes(kv.create_revision)
        + number_bytes(kv.mod_revision)
        + number_bytes(kv.version)
        + number_bytes(LeaseId::to_wire(kv.lease))
}

/// Size of one `mvccpb.Event` in a repeated field.
fn event_wire_bytes(event: &Event, prev: Option<&KeyValue>) -> usize {
    let kind = match event.kind {
        EventKind::Put => 0,
        EventKind::Delete => 2,
    };
    block_bytes(
        kind + block_bytes(kv_wire_bytes(&event.kv)) + prev.map_or(0, |kv| block_bytes(kv_wire_bytes(kv))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value_bytes: usize) -> Event {
        let kv = KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from(vec![b'v'; value_bytes]),
            create_revision: 2,
            mod_revision: 300,
            version: 1,
            lease: None,
        };
        Event { kind: EventKind::Put, sub: 0, kv, prev: None }
    }

    fn set(sizes: &[usize]) -> EventSet {
        let events = sizes.iter().map(|bytes| put(*bytes)).collect();
        let batch = Arc::new(EventBatch { revision: 300, events });
        let picks =
            (0..sizes.len() as u32).map(|index| Pick { batch: batch.clone(), index, prev: None }).collect();
        EventSet::new(picks)
    }

    #[test]
    fn the_wire_size_counts_tags_lengths_and_numbers() {
        // key 3, create 2, mod 3, version 2, value 2 + 10 = 22; kv in event 24; event in field 26.
        assert_eq!(event_wire_bytes(&put(10), None), 26);
        // Absent fields cost nothing: a delete has key and mod_revision only.
        let kv = KeyValue { key: Bytes::from_static(b"k"), mod_revision: 300, ..KeyValue::default() };
        let delete = Event { kind: EventKind::Delete, sub: 0, kv, prev: None };
        assert_eq!(event_wire_bytes(&delete, None), 2 + 2 + 2 + 6);
        // A negative lease takes ten bytes.
        let mut leased = put(10);
        leased.kv.lease = LeaseId::from_wire(-1);
        assert_eq!(event_wire_bytes(&leased, None), 26 + 11);
    }

    #[test]
    fn fragments_stay_below_the_limit_except_for_one_huge_event() {
        let set = set(&[100, 100, 100, 5000, 100]);
        assert!(set.is_split(500));
        let lengths: Vec<_> = set.fragments(500).iter().map(|set| set.len()).collect();
        assert_eq!(lengths, [3, 1, 1]);
        for fragment in set.fragments(500) {
            assert!(fragment.len() == 1 || fragment.wire_bytes() + RESPONSE_OVERHEAD_BYTES < 500);
        }
    }

    #[test]
    fn one_event_is_never_split() {
        assert!(!set(&[5000]).is_split(500));
    }
}
