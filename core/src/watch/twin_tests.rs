//! The hub under random load against a model: each watcher must get exactly the history of its
//! keys from its start on, every revision once, in order, whole; progress must never lie.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::checker::{CATCH_UP_REVISIONS, Client, Watch};
use super::model::{Change, Faults, Store};
use super::{CreateRequest, Hub, HubConfig, StreamId};
use crate::types::{Instant64, LeaseId};

fn config() -> HubConfig {
    HubConfig {
        ring_bytes: 3_000,
        outbox_bytes: 1_500,
        outboxes_bytes: 4_000,
        catch_up_revisions: CATCH_UP_REVISIONS,
        fragment_bytes: 400,
        progress_interval: Duration::from_secs(10),
        hash_seed: 5,
    }
}

struct World {
    rng: ChaCha8Rng,
    store: Arc<Store>,
    hub: Hub,
    now: Instant64,
    clients: BTreeMap<StreamId, Client>,
    next_stream: u64,
    /// Streams that were named ready, or had frames left.
    ready: BTreeSet<StreamId>,
    in_flight: Vec<(StreamId, usize)>,
    /// A compaction that the hub was not told of.
    untold: bool,
    /// Every frame that a client got.
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let store = Arc::new(Store::default());
        let mut hub = Hub::new(config(), store.clone(), 1, -1);
        hub.faults = faults;
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            store,
            hub,
            now: Instant64(0),
            clients: BTreeMap::new(),
            next_stream: 0,
            ready: BTreeSet::new(),
            in_flight: Vec::new(),
            untold: false,
            trace: Vec::new(),
        }
    }

    fn key(&mut self) -> Bytes {
        let keys: [&[u8]; 10] =
            [b"a", b"a/", b"a/1", b"a/2", b"a/2/x", b"b", b"b\0", b"c", b"\xff", b"\xff\xff"];
        Bytes::from_static(keys[self.rng.random_range(0..keys.len())])
    }

    fn changes(&mut self) -> Vec<Change> {
        let mut keys = BTreeSet::new();
        for _ in 0..self.rng.random_range(1..5) {
            keys.insert(self.key());
        }
        let mut changes = Vec::new();
        for key in keys {
            changes.push(if self.rng.random_bool(0.3) {
                Change::Delete(key)
            } else {
                let bytes = if self.rng.random_bool(0.1) { 600 } else { self.rng.random_range(0..60) };
                let lease = LeaseId::from_wire(self.rng.random_range(-1..2));
                Change::Put(key, Bytes::from(vec![self.rng.random(); bytes]), lease)
            });
        }
        changes
    }

    fn request(&mut self) -> CreateRequest {
        let (key, range_end) = match self.rng.random_range(0..6) {
            0 | 1 => (self.key(), Bytes::new()),
            2 => (Bytes::from_static(b"a/"), Bytes::from_static(b"a0")),
            3 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            4 => (self.key(), Bytes::from_static(b"\0")),
            _ => (self.key(), self.key()),
        };
        let revision = self.hub.revision();
        let start_revision = match self.rng.random_range(0..10) {
            0..4 => 0,
            4..8 => self.rng.random_range(1.max(revision - 40)..=revision),
            8 => revision + self.rng.random_range(1..6),
            _ => self.rng.random_range(-1..=revision),
        };
        let filters = match self.rng.random_range(0..8) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![7, 1, 0],
            3 => vec![9],
            _ => vec![],
        };
        CreateRequest {
            key,
            range_end,
            start_revision,
            watch_id: if self.rng.random_bool(0.2) { self.rng.random_range(1..6) } else { 0 },
            prev_kv: self.rng.random_bool(0.5),
            progress_notify: self.rng.random_bool(0.5),
            fragment: self.rng.random_bool(0.5),
            filters,
        }
    }

    fn some_stream(&mut self) -> Option<StreamId> {
        let count = self.clients.len();
        if count == 0 {
            return None;
        }
        self.clients.keys().nth(self.rng.random_range(0..count)).copied()
    }

    fn transport(&mut self, id: StreamId) -> Result<(), String> {
        let bytes_max = self.rng.random_range(1..3000);
        let frames = self.hub.next_frames(id, bytes_max);
        if !self.hub.has_frames(id) {
            self.ready.remove(&id);
        }
        for frame in frames {
            self.trace.push(format!("{id:?} {frame:?}"));
            if let Some(client) = self.clients.get_mut(&id) {
                client.receive(&frame, &self.store)?;
            }
            self.in_flight.push((id, frame.size_bytes()));
        }
        Ok(())
    }

    fn tell_compaction(&mut self) {
        if std::mem::take(&mut self.untold) {
            self.hub.compacted(self.store.compact_revision());
        }
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.random_range(0..100) {
            0..35 => {
                let changes = self.changes();
                let evicted = self.rng.random_bool(0.5);
                if let Some(batch) = self.store.apply(changes, evicted) {
                    self.hub.publish(batch).map_err(|fatal| fatal.to_string())?;
                }
            }
            35..42 => {
                let stored = self.rng.random_range(self.store.stored()..=self.store.revision());
                self.store.set_stored(stored);
                self.hub.stored(stored);
            }
            42..45 if self.clients.len() < 8 => {
                let id = StreamId(self.next_stream);
                self.next_stream += 1;
                self.hub.open_stream(id, id.0, self.now);
                let slow = self.rng.random_bool(0.5);
                self.clients.insert(id, Client { slow, ..Client::default() });
            }
            45 => {
                if let Some(id) = self.some_stream() {
                    self.hub.close_stream(id);
                    self.clients.remove(&id);
                    self.in_flight.retain(|(of, _)| *of != id);
                }
            }
            46..54 => {
                let request = self.request();
                if let Some(id) = self.some_stream() {
                    let client = self.clients.get_mut(&id).expect("chosen from them");
                    if client.ids.len() < 12 && self.hub.accepts_requests(id) {
                        client.create(request.clone());
                        self.hub.create(id, request, None);
                    }
                }
            }
            54..57 => {
                let watch_id = self.rng.random_range(0..10);
                if let Some(id) = self.some_stream() {
                    let client = self.clients.get_mut(&id).expect("chosen from them");
                    if client.ids.remove(&watch_id) {
                        client.cancels.push_back(watch_id);
                    }
                    self.hub.cancel(id, watch_id);
                }
            }
            57..63 => {
                if let Some(id) = self.some_stream() {
                    self.hub.progress_request(id);
                }
            }
            63..65 => {
                self.now = self.now.after(Duration::from_secs(self.rng.random_range(1..12)));
                self.hub.tick(self.now);
            }
            65..67 => {
                let compact = self.store.compact_revision();
                if compact < self.store.revision() {
                    let back = self.rng.random_range(0..20);
                    self.store.compact((self.store.revision() - back).max(compact + 1));
                    self.untold = true;
                }
            }
            67..70 => self.tell_compaction(),
            70 => {
                // A snapshot is installed: revisions appear that were never published.
                for _ in 0..self.rng.random_range(0..12) {
                    let changes = self.changes();
                    self.store.apply(changes, true);
                }
                self.store.set_stored(self.store.revision());
                self.untold = false;
                self.hub.reset(self.store.revision(), self.store.compact_revision());
            }
            71..78 => {
                self.hub.work(self.rng.random_range(1..4000)).map_err(|fatal| fatal.to_string())?;
            }
            78..90 => {
                self.ready.extend(self.hub.take_ready_streams());
                for id in self.ready.clone() {
                    let slow = self.clients.get(&id).is_some_and(|client| client.slow);
                    if self.rng.random_bool(if slow { 0.05 } else { 0.8 }) {
                        self.transport(id)?;
                    }
                }
            }
            _ => {
                for (id, bytes) in std::mem::take(&mut self.in_flight) {
                    self.hub.sent(id, bytes);
                }
            }
        }
        let stats = self.hub.stats();
        // A stream may go over by one response, and by answers to its requests.
        let outboxes_max = config().outboxes_bytes + self.clients.len() * 6_000;
        if stats.outbox_bytes > outboxes_max {
            return Err(format!("outboxes hold {} bytes", stats.outbox_bytes));
        }
        Ok(())
    }

    /// Everybody reads until nothing is left, told only by what the hub says.
    fn settle(&mut self) -> Result<(), String> {
        self.tell_compaction();
        for round in 0.. {
            if round > 10_000 {
                return Err("the hub does not come to rest".to_owned());
            }
            let more = self.hub.work(2_000).map_err(|fatal| fatal.to_string())?;
            self.ready.extend(self.hub.take_ready_streams());
            if !more && self.ready.is_empty() && self.in_flight.is_empty() {
                break;
            }
            for id in self.ready.clone() {
                self.transport(id)?;
            }
            for (id, bytes) in std::mem::take(&mut self.in_flight) {
                self.hub.sent(id, bytes);
            }
        }
        let stats = self.hub.stats();
        if stats.cursor_count > 0 || stats.outbox_bytes > 0 {
            return Err(format!("lost: a cursor was forgotten {stats:?}"));
        }
        for client in self.clients.values() {
            client.finish(&self.store, self.hub.revision())?;
        }
        Ok(())
    }

    /// In rest, a stream whose watchers are all in sync and started is told so.
    fn progress_after_rest(&mut self) -> Result<(), String> {
        let expected: Vec<_> = self
            .clients
            .iter()
            .map(|(id, client)| {
                let in_sync =
                    |watch: &Watch| !watch.compacted && watch.request.start_revision <= self.hub.revision();
                let answered = !client.watches.is_empty() && client.watches.values().all(in_sync);
                (*id, client.progress_count + usize::from(answered))
            })
            .collect();
        for (id, _) in &expected {
            self.hub.progress_request(*id);
        }
        self.settle()?;
        for (id, expected) in expected {
            if self.clients[&id].progress_count != expected {
                return Err(format!("progress was not answered as it should stream={id:?}"));
            }
        }
        Ok(())
    }
}

/// One random run: all frames, or what the checker found.
fn run(seed: u64, faults: Faults) -> Result<Vec<String>, String> {
    let mut world = World::new(seed, faults);
    for part in 0..4 {
        for _ in 0..300 {
            world.step()?;
        }
        world.settle()?;
        if part == 3 {
            world.progress_after_rest()?;
        }
    }
    for id in world.clients.keys().copied().collect::<Vec<_>>() {
        world.hub.close_stream(id);
    }
    let stats = world.hub.stats();
    if stats.watcher_count + stats.group_count + stats.cursor_count + stats.outbox_bytes > 0 {
        return Err(format!("something is left of closed streams {stats:?}"));
    }
    Ok(world.trace)
}

#[test]
fn every_watcher_gets_exactly_the_history_of_its_keys() {
    let mut trace = Vec::new();
    for seed in 0..150 {
        match run(seed, Faults::default()) {
            Ok(frames) => trace.extend(frames),
            Err(error) => panic!("seed={seed} {error}"),
        }
    }
    // The load must have met what it is there for.
    for (sign, at_least) in [
        ("fragment: true", 100),
        ("compact_revision: 0,", 10_000),
        ("cancel_reason: \"mvcc: duplicate", 10),
        ("cancel_reason: \"mvcc: watcher range is empty", 10),
        ("cancel_reason: \"etcdserver: mvcc: required revision has been compacted", 3),
        ("revision: 0, created: false, canceled: true", 100),
        ("watch_id: -1, revision: ", 100),
        ("events: None", 1_000),
    ] {
        let count = trace.iter().filter(|frame| frame.contains(sign)).count();
        assert!(count >= at_least, "{sign} was seen only {count} times");
    }
}

#[test]
fn the_same_seed_gives_the_same_frames() {
    let trace = |seed| {
        let mut world = World::new(seed, Faults::default());
        for _ in 0..600 {
            world.step().unwrap();
        }
        world.trace
    };
    let first = trace(3);
    assert!(first.len() > 100, "frames={}", first.len());
    assert_eq!(first, trace(3));
}

/// Runs seeds with a bug until the checker sees it.
fn seen(faults: Faults, signs: &[&str]) {
    let mut found = Vec::new();
    for seed in 0..60 {
        if let Err(error) = run(seed, faults) {
            if signs.iter().any(|sign| error.starts_with(sign)) {
                return;
            }
            found.push(error);
        }
    }
    panic!("the checker did not see it {faults:?}; it saw {found:?}");
}

#[test]
fn the_checker_sees_a_cursor_that_skips_compacted_revisions() {
    seen(Faults { cursor_skips_compacted: true, ..Faults::default() }, &["lost"]);
}

#[test]
fn the_checker_sees_progress_that_overtakes_events() {
    seen(Faults { progress_overtakes: true, ..Faults::default() }, &["progress overtook"]);
}

#[test]
fn the_checker_sees_a_watch_that_goes_back_after_a_snapshot() {
    seen(Faults { reset_goes_back: true, ..Faults::default() }, &["went back", "cancelled though"]);
}

#[test]
fn the_checker_sees_events_before_the_start_of_a_watch() {
    seen(Faults { future_gets_events: true, ..Faults::default() }, &["went back"]);
}

#[test]
fn the_checker_sees_events_dropped_by_a_full_outbox() {
    seen(Faults { full_drops_events: true, ..Faults::default() }, &["lost"]);
}

#[test]
fn the_checker_sees_events_that_come_twice() {
    seen(Faults { cursor_repeats: true, ..Faults::default() }, &["went back"]);
}
