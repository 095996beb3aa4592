//! The hub's costs: what is shared, what is bounded, who has to wait for whom.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::model::{Change, Store};
use super::{CreateRequest, Hub, HubConfig, StreamId, WatchFrame};
use crate::event::{Event, EventBatch, EventKind, PrevVersion};
use crate::types::{Instant64, KeyValue, Revision};

struct Bench {
    store: Arc<Store>,
    hub: Hub,
}

impl Bench {
    fn new(config: HubConfig) -> Self {
        let store = Arc::new(Store::default());
        let hub = Hub::new(config, store.clone(), 1, -1);
        Self { store, hub }
    }

    fn open(&mut self, stream: u64) {
        self.hub.open_stream(StreamId(stream), stream, Instant64(0));
    }

    fn watch(&mut self, stream: u64, key: &str, start_revision: i64) {
        let request =
            CreateRequest { key: Bytes::from(key.to_owned()), start_revision, ..CreateRequest::default() };
        self.hub.create(StreamId(stream), request, None);
    }

    fn put(&mut self, key: &str, value_bytes: usize) {
        let change = Change::Put(Bytes::from(key.to_owned()), Bytes::from(vec![b'v'; value_bytes]), None);
        let batch = self.store.apply(vec![change], false).expect("a put changes something");
        self.hub.publish(batch).unwrap();
    }

    fn take(&mut self, stream: u64) -> Vec<WatchFrame> {
        self.hub.next_frames(StreamId(stream), usize::MAX)
    }

    fn drain(&mut self, stream: u64) -> Vec<WatchFrame> {
        let mut all = Vec::new();
        loop {
            while self.hub.work(1 << 20).unwrap() {}
            let frames = self.take(stream);
            if frames.is_empty() {
                return all;
            }
            self.hub.sent(StreamId(stream), frames.iter().map(WatchFrame::size_bytes).sum());
            all.extend(frames);
        }
    }
}

#[test]
fn watchers_of_the_same_keys_share_their_events_and_the_encoded_bytes() {
    let mut bench = Bench::new(HubConfig::default());
    for stream in 0..3 {
        bench.open(stream);
        bench.watch(stream, "a", 0);
        bench.drain(stream);
    }
    assert_eq!(bench.hub.stats().group_count, 1);
    bench.put("a", 10);
    let mut encodings = 0;
    let mut sets = Vec::new();
    for stream in 0..3 {
        let frames = bench.take(stream);
        let [frame] = &frames[..] else { panic!("one frame, not {frames:?}") };
        let set = frame.events.clone().expect("an event");
        let bytes = set.encoded(|set| {
            encodings += 1;
            Bytes::from(vec![0; set.wire_bytes()])
        });
        assert_eq!(bytes.len(), set.wire_bytes());
        sets.push(set);
    }
    assert_eq!(encodings, 1);
    assert!(sets.iter().all(|set| Arc::ptr_eq(set, &sets[0])));
}

#[test]
fn cursors_at_the_same_place_share_their_events() {
    let mut bench = Bench::new(HubConfig::default());
    for _ in 0..50 {
        bench.put("a", 10);
    }
    let mut sets = Vec::new();
    for stream in 0..40 {
        bench.open(stream);
        bench.watch(stream, "a", 20);
    }
    for stream in 0..40 {
        sets.extend(bench.drain(stream).into_iter().filter_map(|frame| frame.events));
    }
    assert_eq!(sets.len(), 40);
    assert!(sets.iter().all(|set| Arc::ptr_eq(set, &sets[0])));
}

#[test]
fn a_stalled_stream_holds_no_more_than_its_outbox_and_the_ring_is_bounded() {
    let config = HubConfig { outbox_bytes: 10_000, ring_bytes: 50_000, ..HubConfig::default() };
    let mut bench = Bench::new(config);
    bench.open(1);
    bench.watch(1, "a", 0);
    for _ in 0..2_000 {
        bench.put("a", 1_000);
        bench.store.set_stored(bench.store.revision());
        bench.hub.stored(bench.store.revision());
        bench.hub.work(1 << 20).unwrap();
        let stats = bench.hub.stats();
        assert!(stats.outbox_bytes < 10_000 + 1_200 && stats.ring_bytes <= 50_000, "{stats:?}");
    }
    let revisions: Vec<_> = bench
        .drain(1)
        .iter()
        .flat_map(|frame| frame.events().map(|(event, _)| event.kv.mod_revision).collect::<Vec<_>>())
        .collect();
    assert!(revisions.into_iter().eq(2..=2_001));
}

#[test]
fn all_outboxes_together_are_bounded() {
    let config = HubConfig { outbox_bytes: 10_000, outboxes_bytes: 50_000, ..HubConfig::default() };
    let mut bench = Bench::new(config);
    for stream in 0..100 {
        bench.open(stream);
        bench.watch(stream, "a", 0);
    }
    for _ in 0..50 {
        bench.put("a", 1_000);
    }
    // The sum, and one response for each stream that had nothing.
    assert!(bench.hub.stats().outbox_bytes <= 50_000 + 100 * 1_300);
    for stream in 0..100 {
        let events: usize = bench.drain(stream).iter().map(|frame| frame.events().count()).sum();
        assert_eq!(events, 50);
    }
    assert_eq!(bench.hub.stats().cursor_count, 0);
}

#[test]
fn what_the_engine_has_not_stored_stays_in_the_ring() {
    let mut bench = Bench::new(HubConfig { ring_bytes: 1_000, ..HubConfig::default() });
    for _ in 0..20 {
        bench.put("a", 500);
    }
    assert!(bench.hub.stats().ring_bytes > 10_000);
    bench.open(1);
    // The model panics if it is asked for revisions that are not stored.
    bench.watch(1, "a", 2);
    assert_eq!(bench.drain(1).iter().map(|frame| frame.events().count()).sum::<usize>(), 20);
    bench.store.set_stored(21);
    bench.hub.stored(21);
    assert!(bench.hub.stats().ring_bytes <= 1_000);
}

#[test]
fn streams_catch_up_side_by_side() {
    let mut bench = Bench::new(HubConfig { outbox_bytes: 4_000_000, ..HubConfig::default() });
    for _ in 0..300 {
        bench.put("a", 1_000);
        bench.put("b", 10);
    }
    bench.open(1);
    bench.open(2);
    for _ in 0..20 {
        bench.watch(1, "a", 2);
    }
    bench.watch(2, "b", 2);
    // One stream wants twenty times everything; the other is served within a few shares.
    let mut budget = 0;
    while bench.take(2).iter().all(|frame| frame.events.is_none()) {
        assert!(budget < 1_500_000, "stream 2 waits for stream 1");
        bench.hub.work(50_000).unwrap();
        budget += 50_000;
    }
}

#[test]
fn a_client_that_only_asks_is_not_listened_to_any_more() {
    let mut bench = Bench::new(HubConfig { outbox_bytes: 2_000, ..HubConfig::default() });
    bench.open(1);
    let mut asked = 0;
    while bench.hub.accepts_requests(StreamId(1)) {
        bench.watch(1, "a", -1);
        asked += 1;
        assert!(asked < 100);
    }
    bench.drain(1);
    assert!(bench.hub.accepts_requests(StreamId(1)));
    assert!(!bench.hub.accepts_requests(StreamId(2)));
}

#[test]
fn cancelled_cursors_do_not_pile_up_in_a_stream_that_gets_no_turn() {
    let mut bench = Bench::new(HubConfig { outbox_bytes: 1_000, ..HubConfig::default() });
    bench.put("a", 10);
    bench.open(1);
    for watch_id in 0..1_000 {
        bench.watch(1, "a", 2);
        bench.hub.cancel(StreamId(1), watch_id);
    }
    let stream = bench.hub.streams.find(StreamId(1)).expect("open");
    assert!(bench.hub.streams.get(stream).lagging.len() < 50);
    assert_eq!(bench.hub.stats().cursor_count + bench.hub.stats().group_count, 0);
}

#[test]
fn a_version_of_the_same_command_is_not_what_an_event_superseded() {
    let mut bench = Bench::new(HubConfig::default());
    bench.open(1);
    let key = Bytes::from_static(b"a");
    let request = CreateRequest { key: key.clone(), prev_kv: true, ..CreateRequest::default() };
    bench.hub.create(StreamId(1), request, None);
    bench.drain(1);
    // One command puts the key and deletes it again; before the command it was not there.
    let kv = KeyValue { key, create_revision: 2, mod_revision: 2, version: 1, ..KeyValue::default() };
    let deleted = KeyValue { create_revision: 0, version: 0, ..kv.clone() };
    let prev = PrevVersion {
        revision: Revision { main: 2, sub: 0 },
        create_revision: 2,
        version: 1,
        lease: None,
        value: Some(Bytes::new()),
    };
    let events = vec![
        Event { kind: EventKind::Put, sub: 0, kv, prev: None },
        Event { kind: EventKind::Delete, sub: 1, kv: deleted, prev: Some(prev) },
    ];
    bench.hub.publish(Arc::new(EventBatch { revision: 2, events })).unwrap();
    let frames = bench.drain(1);
    assert_eq!(frames.len(), 1);
    assert!(frames[0].events().all(|(_, prev)| prev.is_none()));
    assert_eq!(frames[0].events().count(), 2);
}

#[test]
fn progress_is_spread_over_a_tenth_of_its_interval() {
    let interval = Duration::from_secs(600);
    let mut due = Vec::new();
    for stream in 0..50 {
        let mut bench = Bench::new(HubConfig::default());
        bench.open(stream);
        due.push(bench.hub.next_tick().expect("a stream is open").since(Instant64(0)));
    }
    assert!(due.iter().all(|due| *due >= interval && *due <= interval * 11 / 10));
    due.sort_unstable();
    due.dedup();
    assert!(due.len() > 20);
}

#[test]
fn a_stream_is_named_ready_when_it_gets_frames() {
    let mut bench = Bench::new(HubConfig::default());
    bench.open(1);
    bench.open(2);
    bench.watch(2, "a", 0);
    assert_eq!(bench.hub.take_ready_streams(), [StreamId(2)]);
    assert!(bench.hub.take_ready_streams().is_empty());
    assert!(bench.hub.has_frames(StreamId(2)));
    bench.put("a", 1);
    bench.put("a", 2);
    assert_eq!(bench.hub.take_ready_streams(), [StreamId(2)]);
    assert_eq!(bench.hub.next_frames(StreamId(2), 1).len(), 1, "at least one, however large");
    assert_eq!(bench.take(2).len(), 2);
    assert!(!bench.hub.has_frames(StreamId(2)));
}
