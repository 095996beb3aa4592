//! A small world in virtual time: an honest store (or one with a planted [`Bug`]), lagging
//! members, clients that lose answers, leases, watches that break, locks. It records a
//! [`History`] as a recorder should.

#![allow(dead_code)]

mod effects;
mod locks;
mod requests;
pub mod store;
mod watches;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use bytes::Bytes;
use folkmoot_check::history::*;
use folkmoot_check::{LeaseSettings, LivePeriod, Settings};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use store::Keys;

pub const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MS;
/// A change's effect may come this much after its client gave up.
const LINGER: Nanos = 2 * SECOND;

/// What is wrong with the store, now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    None,
    /// A write is acknowledged and never happens.
    LostWrite,
    /// A current read is answered by a lagging member.
    StaleRead,
    /// A read shows a key's old content.
    OldContent,
    /// A read leaves a key out.
    MissingKey,
    /// A transaction stops half way.
    TornTxn,
    /// A write happens twice.
    AppliedTwice,
    /// A refused write happens.
    RefusedApplied,
    /// A condition is evaluated wrongly.
    WrongBranch,
    /// A write does not move the revision.
    SameRevision,
    /// A revision is left out.
    SkippedRevision,
    /// The answer says an older revision than the write made.
    WrongHeader,
    /// An answer comes before the write happens.
    EarlyAnswer,
    /// A lease ends before its time.
    LeaseEarly,
    /// A lease ends long after its time.
    LeaseLate,
    /// The end of a lease leaves a key.
    LeaseLeavesKey,
    /// A lease that ended is renewed.
    RenewAfterEnd,
    /// A key is put on a lease that ended.
    PutAfterEnd,
    WatchDuplicate,
    WatchDrop,
    WatchReorder,
    WatchTorn,
    WatchPrevKv,
    WatchProgressAhead,
    WatchForeignKey,
    WatchSkipsCompacted,
    WatchFalseCompaction,
    WatchDropsOnResume,
    FalseCompacted,
    LockBlind,
    FenceBlind,
}

/// How a world is.
#[derive(Clone)]
pub struct Config {
    pub seed: u64,
    pub bug: Bug,
    pub operations: usize,
    pub clients: u64,
    pub lockers: u64,
    pub watches: usize,
    pub keys: u32,
    /// Outcomes are lost in so many of 100 operations.
    pub lost: u32,
    pub leases: bool,
    pub compactions: bool,
    /// Write down when changes took effect.
    pub moments: bool,
    pub truth: bool,
}

impl Config {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            bug: Bug::None,
            operations: 600,
            clients: 6,
            lockers: 3,
            watches: 6,
            keys: 12,
            lost: 10,
            leases: true,
            compactions: true,
            moments: seed.is_multiple_of(2),
            truth: true,
        }
    }

    pub fn settings(&self) -> Settings {
        let live = vec![LivePeriod { from: 0, to: Nanos::MAX }];
        let lease = LeaseSettings { live, slack: SECOND, linger: Some(LINGER), ..LeaseSettings::default() };
        Settings { lease, ..Settings::default() }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Ready(u64),
    Effect(usize),
    Complete(usize),
    Apply(usize),
    Leases,
    Watch(usize),
}

struct Lease {
    ttl: i64,
    deadline: Nanos,
}

struct Flight {
    client: u64,
    answered: Option<Outcome>,
    outcome_lost: bool,
}

struct Member {
    keys: Keys,
    applied: Revision,
}

struct WatchState {
    member: usize,
    /// The store's cursor.
    cursor: Revision,
    running: bool,
    /// The client's cursor.
    next: Revision,
}

#[derive(Clone)]
enum LockState {
    Idle,
    Granted { lease: LeaseId, deadline: Nanos },
    Queued { lease: LeaseId, deadline: Nanos, key: Bytes, token: Revision },
    Holding { key: Bytes, token: Revision, until: Nanos, deadline: Nanos, hold: usize },
    Releasing,
}

pub struct World {
    config: Config,
    rng: ChaCha8Rng,
    now: Nanos,
    queue: BinaryHeap<Reverse<(Nanos, u64, Step)>>,
    sequence: u64,
    keys: Keys,
    revision: Revision,
    compacted: Revision,
    changes: Vec<Change>,
    members: Vec<Member>,
    leases: BTreeMap<LeaseId, Lease>,
    ended: Vec<LeaseId>,
    granted: Vec<LeaseId>,
    flights: Vec<Flight>,
    watches: Vec<WatchState>,
    locks: HashMap<u64, LockState>,
    fence: Revision,
    history: History,
    values: u64,
}

/// Runs a world to its end.
pub fn run(config: &Config) -> History {
    World::new(config.clone()).run()
}

impl World {
    fn new(config: Config) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            now: SECOND,
            queue: BinaryHeap::new(),
            sequence: 0,
            keys: Keys::default(),
            revision: 1,
            compacted: 0,
            changes: Vec::new(),
            members: (0..3).map(|_| Member { keys: Keys::default(), applied: 1 }).collect(),
            leases: BTreeMap::new(),
            ended: Vec::new(),
            granted: Vec::new(),
            flights: Vec::new(),
            watches: Vec::new(),
            locks: HashMap::new(),
            fence: 0,
            history: History::default(),
            values: 0,
            config,
        }
    }

    fn at(&mut self, after: Nanos, step: Step) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + after, self.sequence, step)));
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// Whether the bug strikes here.
    fn strikes(&mut self, bug: Bug) -> bool {
        // Some have few chances.
        let percent = match bug {
            Bug::LeaseLeavesKey | Bug::RenewAfterEnd => 100,
            Bug::FalseCompacted => 50,
            _ => 15,
        };
        self.config.bug == bug && self.chance(percent)
    }

    fn run(mut self) -> History {
        for client in 1..=self.config.clients {
            self.at(client * MS, Step::Ready(client));
        }
        for locker in 1..=self.config.lockers {
            self.locks.insert(100 + locker, LockState::Idle);
            self.at(locker * MS, Step::Ready(100 + locker));
        }
        for member in 0..3 {
            self.at(5 * MS, Step::Apply(member));
        }
        for _ in 0..self.config.watches {
            self.open_watch();
        }
        self.at(50 * MS, Step::Leases);
        while let Some(Reverse((at, _, step))) = self.queue.pop() {
            self.now = at;
            match step {
                Step::Ready(client) if self.history.operations.len() < self.config.operations => {
                    self.ready(client)
                }
                Step::Ready(_) => {}
                Step::Effect(number) => self.effect(number),
                Step::Complete(number) => self.complete(number),
                // These go on for ever; they stop with the clients.
                _ if self.queue.iter().all(|Reverse((_, _, step))| {
                    !matches!(step, Step::Ready(_) | Step::Effect(_) | Step::Complete(_))
                }) => {}
                Step::Apply(member) => self.apply(member),
                Step::Leases => self.end_leases(),
                Step::Watch(number) => self.deliver(number),
            }
        }
        self.finish()
    }

    fn finish(mut self) -> History {
        self.now += 10 * MS;
        let current = self.revision;
        for member in 0..3 {
            self.catch_up(member, current);
        }
        for number in 0..self.watches.len() {
            self.now += MS;
            while self.watches[number].running && self.watches[number].cursor <= current {
                self.deliver_batch(number);
            }
            if self.watches[number].running {
                self.history.watches[number].drained_to = Some(current);
            }
        }
        // Somebody looks at everything once more.
        let mut last = RangeRequest::new(KeyRange::all());
        last.limit = 0;
        let body = ReplyBody::Range(self.keys.read(&last));
        self.history.operations.push(Operation {
            client: 999,
            member: 1,
            invoked: self.now,
            completed: Some(self.now + MS),
            request: Request::Range(last),
            outcome: Outcome::Ok(Reply { revision: current, body }),
        });
        if self.config.truth {
            self.history.truth = Some(self.changes);
        }
        self.history
    }

    fn complete(&mut self, number: usize) {
        let now = self.now;
        let operation = &mut self.history.operations[number];
        operation.completed = Some(now);
        let flight = &mut self.flights[number];
        if !flight.outcome_lost {
            operation.outcome = flight.answered.take().expect("it happened");
        }
        let client = flight.client;
        if self.config.bug == Bug::EarlyAnswer && !self.flights[number].outcome_lost && self.chance(10) {
            // The clocks of the record say that the answer was there before the deed.
            let invoked = self.history.operations[number].invoked;
            self.history.operations[number].completed = Some(invoked + 1);
        }
        if self.locks.contains_key(&client) {
            self.lock_answer(client, number);
        } else {
            let think = self.rng.random_range(0..30 * MS);
            self.at(think, Step::Ready(client));
        }
    }

    fn catch_up(&mut self, member: usize, to: Revision) {
        let member = &mut self.members[member];
        let from = member.applied;
        for change in self.changes.iter().skip_while(|change| change.revision <= from) {
            if change.revision > to {
                break;
            }
            change.events.iter().for_each(|event| member.keys.apply(event));
        }
        member.applied = member.applied.max(to);
    }

    fn apply(&mut self, member: usize) {
        let applied = self.members[member].applied;
        let to = self.rng.random_range(applied..=self.revision);
        self.catch_up(member, to);
        let wait = self.rng.random_range(MS..60 * MS);
        self.at(wait, Step::Apply(member));
    }
}
