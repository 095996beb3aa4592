//! A client that watches: from now, from the past, from the future; it resumes at another member
//! when its stream breaks, and sometimes reads slowly.

use folkmoot_check::history::{KeyRange, Revision, Watch, WatchMessage, WatchRequest};
use folkmoot_core::watch::WatchFrame;

use super::wire;
use crate::network::HostAt;
use crate::random::Random;
use crate::sometimes::Situation;
use crate::time::{MS, Nanos, SEC};
use crate::world::{Happening, HubInput, World};

/// One watch of the client.
struct Watching {
    /// Place in the history.
    place: usize,
    /// First revision not seen yet; 0 for "after now".
    next: Revision,
    from_past: bool,
    /// Up to where everything was delivered, as progress said.
    progress: Revision,
    /// Its number on the stream; a new one each time it is asked for.
    id: i64,
    /// The hub has answered. What the whole stream is told before that is not about this watch.
    is_created: bool,
    /// From where it was asked for the last time.
    asked_from: Revision,
}

/// See the module.
pub struct WatchClient {
    random: Random,
    stream: Option<(u64, HostAt)>,
    watches: Vec<Watching>,
    member: Option<HostAt>,
    opened_at: Nanos,
    last_id: i64,
}

/// Watches of one client.
const WATCHES_MAX: u64 = 4;

impl WatchClient {
    /// A client without watches yet.
    pub fn new(random: Random) -> Self {
        Self { random, stream: None, watches: Vec::new(), member: None, opened_at: 0, last_id: 0 }
    }

    pub(super) fn wakes(&mut self, at: usize, world: &mut World) {
        let member = self.member;
        match self.stream {
            None => {
                let member = world.choose_member(&mut self.random, member);
                self.member = Some(member);
                let stream = world.open_stream(at, member);
                self.stream = Some((stream, member));
                self.opened_at = world.now;
                for number in 0..self.watches.len() {
                    self.resume(number, world);
                }
            }
            Some((stream, _)) => match self.random.below(10) {
                0..4 => world.watch_ask(stream, HubInput::Progress(stream)),
                4 if !world.is_closing() && world.now > self.opened_at + 2 * SEC => {
                    // The client hangs up and comes again.
                    world.close_stream(stream);
                    self.ended(world);
                }
                _ if !world.is_closing() && (self.watches.len() as u64) < WATCHES_MAX => {
                    self.begin(at, world)
                }
                _ => {}
            },
        }
        let pause = if world.is_closing() { 200 * MS } else { self.random.wait(SEC).max(20 * MS) };
        world.queue.push(world.now + pause, Happening::Client(at));
    }

    /// A new watch.
    fn begin(&mut self, at: usize, world: &mut World) {
        let Some((stream, member)) = self.stream else { return };
        let range = match self.random.below(6) {
            0 => KeyRange::all(),
            1 => KeyRange::prefix("wide0/"),
            2 => KeyRange::prefix("lease/"),
            3 => KeyRange::One(format!("hot/{}", self.random.below(world.plan.hot_keys)).into()),
            4 => KeyRange::prefix("wide1/3"),
            _ => KeyRange::prefix("hot/"),
        };
        let revision = world.ledger.revision();
        let start = match self.random.below(4) {
            0 => revision + self.random.below(40) as i64,
            1 if revision > 3 => (revision - self.random.below(300.min(revision as u64 - 2)) as i64).max(1),
            _ => 0,
        };
        if start > revision {
            world.met(Situation::WatchFuture);
        }
        let mut request = WatchRequest::new(range, start);
        request.prev_kv = self.random.one_in(3);
        match self.random.below(8) {
            0 => request.no_put = true,
            1 => request.no_delete = true,
            _ => {}
        }
        let place = world.history.watches.len();
        world.history.watches.push(Watch {
            client: at as u64,
            member: world.hosts[member].id.0,
            invoked: world.now,
            request: request.clone(),
            messages: Vec::new(),
            drained_to: None,
        });
        self.watches.push(Watching {
            place,
            next: start,
            from_past: start > 0 && start <= revision,
            progress: 0,
            id: 0,
            is_created: false,
            asked_from: start,
        });
        let id = self.next_id();
        if let Some(watching) = self.watches.last_mut() {
            watching.id = id;
        }
        let create = wire::create_request(&request, start, id);
        world.watch_ask(stream, HubInput::Create(stream, create));
    }

    /// A number that was not used before: the hub keeps that of a cancelled watch until its client
    /// cancels it, too.
    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    /// Asks for a watch again.
    fn resume(&mut self, number: usize, world: &mut World) {
        let Some((stream, member)) = self.stream else { return };
        let id = self.next_id();
        let watching = &mut self.watches[number];
        watching.id = id;
        watching.is_created = false;
        watching.asked_from = watching.next;
        let member = world.hosts[member].id.0;
        let watch = &mut world.history.watches[watching.place];
        watch.messages.push(WatchMessage::Resumed { at: world.now, member, start_revision: watching.next });
        let create = wire::create_request(&watch.request, watching.next, id);
        world.watch_ask(stream, HubInput::Create(stream, create));
        world.met(Situation::WatchResumed);
    }

    pub(super) fn stream_lost(&mut self, at: usize, stream: u64, world: &mut World) {
        if self.stream.is_some_and(|(own, _)| own == stream) {
            self.ended(world);
            self.member = None;
            let pause = self.random.between(MS, 300 * MS);
            world.queue.push(world.now + pause, Happening::Client(at));
        }
    }

    fn ended(&mut self, world: &mut World) {
        self.stream = None;
        for watching in &mut self.watches {
            watching.is_created = false;
            world.history.watches[watching.place].messages.push(WatchMessage::Ended { at: world.now });
        }
    }

    pub(super) fn frame(&mut self, at: usize, stream: u64, frame: WatchFrame, world: &mut World) {
        if self.stream.is_none_or(|(own, _)| own != stream) {
            return;
        }
        world.trace.mix(frame.revision as u64 ^ (frame.watch_id as u64) << 48 ^ at as u64);
        if frame.watch_id < 0 && frame.created {
            let reason = &frame.cancel_reason;
            return world.fail("watch", format!("a watch was refused: {reason}"));
        }
        // Progress of the whole stream.
        if frame.watch_id < 0 {
            for number in 0..self.watches.len() {
                if self.watches[number].is_created {
                    self.message(number, &frame, world);
                }
            }
            return;
        }
        if let Some(number) = self.watches.iter().position(|watching| watching.id == frame.watch_id) {
            self.message(number, &frame, world);
        }
        if self.random.one_in(400) && !world.is_closing() {
            let until = world.now + self.random.spread(50 * MS, 8 * SEC);
            world.met(Situation::WatchSlowReader);
            if let Some(stream) = world.streams.get_mut(&stream) {
                stream.stalled_until = until;
            }
        }
    }

    fn message(&mut self, number: usize, frame: &WatchFrame, world: &mut World) {
        let now = world.now;
        let watching = &mut self.watches[number];
        let mut met = Vec::new();
        let message = if frame.canceled {
            if frame.compact_revision == 0 {
                let reason = frame.cancel_reason.clone();
                return world.fail("watch", format!("a watch was cancelled without a cause: {reason:?}"));
            }
            met.push(Situation::WatchCompacted);
            watching.next = frame.compact_revision;
            WatchMessage::Compacted { at: now, compact_revision: frame.compact_revision }
        } else if frame.created {
            if watching.next == 0 {
                watching.next = frame.revision + 1;
            }
            watching.is_created = true;
            WatchMessage::Created { at: now, revision: frame.revision }
        } else if frame.events.is_some() {
            let events: Vec<_> = frame.events().map(|(event, prev)| wire::event(event, prev)).collect();
            if let Some(last) = events.last()
                && !frame.fragment
            {
                watching.next = watching.next.max(last.revision() + 1);
            }
            if events.iter().any(|event| event.prev_kv.is_some()) {
                met.push(Situation::WatchPrevKv);
            }
            if std::mem::take(&mut watching.from_past) {
                met.push(Situation::WatchFromPast);
            }
            WatchMessage::Events { at: now, revision: frame.revision, events, fragment: frame.fragment }
        } else {
            met.push(Situation::WatchProgress);
            watching.next = watching.next.max(frame.revision + 1);
            watching.progress = watching.progress.max(frame.revision);
            WatchMessage::Progress { at: now, revision: frame.revision }
        };
        world.history.watches[watching.place].messages.push(message);
        for situation in met {
            world.met(situation);
        }
        if frame.canceled && self.stream.is_some() {
            self.resume(number, world);
        }
    }

    /// Whether every watch has been told everything up to the end.
    pub(super) fn is_caught_up(&mut self, at: usize, world: &mut World) -> Result<(), String> {
        let revision = world.ledger.revision();
        for watching in &self.watches {
            let watch = &mut world.history.watches[watching.place];
            // A watch from the future that was not reached has nothing to tell, and is told nothing.
            if watching.is_created && watching.asked_from > revision {
                continue;
            }
            if watching.progress < revision {
                return Err(format!(
                    "client {at} was told up to revision {} of {revision} by its watch of {:?}",
                    watching.progress, watch.request.range
                ));
            }
            watch.drained_to = Some(watching.progress);
        }
        Ok(())
    }
}
