//! The watch hub of a member, and the streams from it to watch clients.

use std::collections::VecDeque;
use std::sync::Arc;

use folkmoot_core::event::EventBatch;
use folkmoot_core::watch::{CreateRequest, StreamId, WatchFrame};

use super::{Happening, Life, World};
use crate::network::HostAt;
use crate::sometimes::Situation;
use crate::time::{MS, Nanos, US};

/// Events read for lagging watchers before the queue is looked at again.
const WORK_BYTES: usize = 16 << 10;

/// Something for the hub.
#[derive(Clone, Debug)]
pub enum HubInput {
    /// Changes were applied.
    Publish(Arc<EventBatch>),
    /// History was compacted.
    Compacted(i64),
    /// The engine has everything up to here.
    Stored(i64),
    /// The keys were replaced by a snapshot's: revision and compacted revision.
    Restored(i64, i64),
    /// A client opened a stream.
    Open(u64),
    /// A client wants a watcher.
    Create(u64, CreateRequest),
    /// A client asks how far its stream is.
    Progress(u64),
    /// The transport took frames.
    Sent(u64, usize),
    /// A stream ended.
    Close(u64),
}

/// A watch stream: from the hub of one start of a member to one client.
pub struct Stream {
    /// The member.
    pub host: HostAt,
    /// Which start of it.
    pub life: Life,
    /// The client.
    pub client: usize,
    outlet: VecDeque<WatchFrame>,
    pumping: bool,
    /// The client reads nothing until then.
    pub stalled_until: Nanos,
    last_arrival: Nanos,
    lagged: bool,
}

impl World {
    /// Opens a stream of `client` to a member; the hub knows of it a moment later.
    pub fn open_stream(&mut self, client: usize, host: HostAt) -> u64 {
        self.next_stream += 1;
        let stream = self.next_stream;
        let life = self.hosts[host].life;
        self.streams.insert(
            stream,
            Stream {
                host,
                life,
                client,
                outlet: VecDeque::new(),
                pumping: false,
                stalled_until: 0,
                last_arrival: 0,
                lagged: false,
            },
        );
        self.watch_ask(stream, HubInput::Open(stream));
        stream
    }

    /// A watch client asks something on its stream.
    pub fn watch_ask(&mut self, stream: u64, input: HubInput) {
        let (low, high) = self.plan.client_latency;
        let latency = self.roads.spread(low, high);
        let Some(known) = self.streams.get_mut(&stream) else { return };
        // A connection keeps the order.
        known.last_arrival = known.last_arrival.max(self.now + latency) + 1;
        self.queue.push(known.last_arrival, Happening::WatchAsk(stream, Box::new(input)));
    }

    pub(super) fn watch_ask_arrives(&mut self, stream: u64, input: HubInput) {
        let Some(known) = self.streams.get(&stream) else { return };
        let (at, life) = (known.host, known.life);
        let host = &mut self.hosts[at];
        match &mut host.running {
            Some(running) if host.life == life => running.hub_inputs.push(input),
            _ => return self.stream_lost_soon(stream),
        }
        self.schedule_hub(at);
    }

    /// The client learns after a moment that the stream is gone.
    pub(super) fn stream_lost_soon(&mut self, stream: u64) {
        let (low, high) = self.plan.client_latency;
        let when = self.now + self.roads.spread(low, 100 * high);
        self.queue.push(when, Happening::StreamLost(stream));
    }

    pub(super) fn stream_lost(&mut self, stream: u64) {
        let Some(stream_gone) = self.streams.remove(&stream) else { return };
        self.watch_stream_lost(stream_gone.client, stream);
    }

    /// A client ends its stream.
    pub fn close_stream(&mut self, stream: u64) {
        let Some(known) = self.streams.remove(&stream) else { return };
        let host = &mut self.hosts[known.host];
        if let Some(running) = &mut host.running
            && host.life == known.life
        {
            running.hub_inputs.push(HubInput::Close(stream));
            self.schedule_hub(known.host);
        }
    }

    pub(super) fn schedule_hub(&mut self, at: HostAt) {
        let pause = self.machine.spread(5 * US, 500 * US);
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        let when = self.now + pause;
        if when < running.hub_at {
            running.hub_at = when;
            self.queue.push(when, Happening::HubTurn(at, host.life));
        }
    }

    pub(super) fn hub_turn(&mut self, at: HostAt, life: Life) {
        let now = self.now;
        let host = &mut self.hosts[at];
        if host.life != life {
            return;
        }
        let Some(running) = &mut host.running else { return };
        if running.hub_at != now {
            return;
        }
        running.hub_at = Nanos::MAX;
        if host.paused_until > now {
            running.hub_at = host.paused_until;
            self.queue.push(host.paused_until, Happening::HubTurn(at, life));
            return;
        }
        let local = host.clock.local(now);
        let hub = &mut running.hub;
        let mut result = Ok(());
        for input in running.hub_inputs.drain(..) {
            match input {
                HubInput::Publish(batch) => result = result.and(hub.publish(batch)),
                HubInput::Compacted(revision) => hub.compacted(revision),
                HubInput::Stored(revision) => hub.stored(revision),
                HubInput::Restored(revision, compact_revision) => {
                    if hub.stats().cursor_count > 0 {
                        self.sometimes.met(Situation::SnapshotInstalledWhileLagging);
                    }
                    hub.reset(revision, compact_revision);
                }
                HubInput::Open(stream) => hub.open_stream(StreamId(stream), stream, local),
                HubInput::Create(stream, request) => hub.create(StreamId(stream), request, None),
                HubInput::Progress(stream) => hub.progress_request(StreamId(stream)),
                HubInput::Sent(stream, bytes) => hub.sent(StreamId(stream), bytes),
                HubInput::Close(stream) => hub.close_stream(StreamId(stream)),
            }
        }
        hub.tick(local);
        let more = hub.work(WORK_BYTES);
        let more = result.and(more);
        let mut filled = Vec::new();
        for stream in hub.take_ready_streams() {
            let frames = hub.next_frames(stream, usize::MAX);
            if let Some(known) = self.streams.get_mut(&stream.0) {
                known.outlet.extend(frames);
                filled.push(stream.0);
            }
        }
        let lagging = hub.stats().cursor_count > 0;
        let next_tick = hub.next_tick().map(|tick| host.clock.when(tick).max(now + MS));
        for stream in filled {
            self.start_pump(stream);
        }
        for stream in self.streams.values_mut().filter(|stream| stream.host == at && stream.life == life) {
            if lagging {
                stream.lagged = true;
            } else if std::mem::take(&mut stream.lagged) {
                self.sometimes.met(Situation::WatchLagged);
            }
        }
        match more {
            Ok(true) => self.schedule_hub(at),
            Ok(false) => {
                if let Some(next) = next_tick
                    && let Some(running) = &mut self.hosts[at].running
                    && next < running.hub_at
                {
                    running.hub_at = next;
                    self.queue.push(next, Happening::HubTurn(at, life));
                }
            }
            Err(fatal) => self.stops(at, "watch", &fatal),
        }
    }

    fn start_pump(&mut self, stream: u64) {
        let pause = self.roads.spread(10 * US, 200 * US);
        let Some(known) = self.streams.get_mut(&stream) else { return };
        if !known.pumping && !known.outlet.is_empty() {
            known.pumping = true;
            self.queue.push((self.now + pause).max(known.stalled_until), Happening::Pump(stream));
        }
    }

    /// The transport takes frames and brings them to the client.
    pub(super) fn pump(&mut self, stream: u64) {
        let (low, high) = self.plan.client_latency;
        let latency = self.roads.spread(low, high);
        let Some(known) = self.streams.get_mut(&stream) else { return };
        known.pumping = false;
        let (at, life) = (known.host, known.life);
        let host = &mut self.hosts[at];
        if host.life != life {
            return self.stream_lost_soon(stream);
        }
        let paused_until = host.paused_until.max(known.stalled_until);
        if paused_until > self.now {
            known.pumping = true;
            return self.queue.push(paused_until, Happening::Pump(stream));
        }
        let frames: Vec<WatchFrame> = known.outlet.drain(..).collect();
        let bytes = frames.iter().map(WatchFrame::size_bytes).sum();
        known.last_arrival = known.last_arrival.max(self.now + latency) + 1;
        self.queue.push(known.last_arrival, Happening::Frames(stream, frames));
        if let Some(running) = &mut host.running {
            running.hub_inputs.push(HubInput::Sent(stream, bytes));
            self.schedule_hub(at);
        }
    }

    pub(super) fn frames_arrive(&mut self, stream: u64, frames: Vec<WatchFrame>) {
        let Some(known) = self.streams.get(&stream) else { return };
        let client = known.client;
        for frame in frames {
            self.watch_frame(client, stream, frame);
        }
    }
}
