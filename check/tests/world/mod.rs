//! A small world in virtual time: an honest store (or one with a planted [`Bug`]), lagging
//! members, clients that lose answers, leases, watches that break, locks. It records a
//! [`History`] as a recorder should.

#![allow(dead_code)]

pub mod store;

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
            moments: seed % 2 == 0,
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
        self.config.bug == bug && self.chance(15)
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

    fn key(&mut self) -> Bytes {
        format!("k{:02}", self.rng.random_range(0..self.config.keys)).into()
    }

    fn value(&mut self) -> Bytes {
        self.values += 1;
        format!("v{}", self.values).into()
    }

    fn key_range(&mut self) -> KeyRange {
        match self.rng.random_range(0..6) {
            0 => KeyRange::prefix("k"),
            1 => KeyRange::Span(self.key(), self.key()),
            2 => KeyRange::From(self.key()),
            _ => KeyRange::One(self.key()),
        }
    }

    fn some_lease(&mut self) -> LeaseId {
        if !self.config.leases || self.granted.is_empty() || self.chance(60) {
            return 0;
        }
        let from = self.granted.len().saturating_sub(6);
        self.granted[self.rng.random_range(from..self.granted.len())]
    }

    fn put(&mut self) -> PutRequest {
        let (ignore_value, ignore_lease) = (self.chance(3), self.chance(3));
        PutRequest {
            key: self.key(),
            value: if ignore_value { Bytes::new() } else { self.value() },
            lease: if ignore_lease { 0 } else { self.some_lease() },
            prev_kv: self.chance(30),
            ignore_value,
            ignore_lease,
        }
    }

    fn range(&mut self) -> RangeRequest {
        let past = self.chance(15) && self.revision > 1;
        RangeRequest {
            range: self.key_range(),
            limit: if self.chance(20) { self.rng.random_range(1..4) } else { 0 },
            revision: if past { self.rng.random_range(1..=self.revision + 2) } else { 0 },
            serializable: self.chance(30),
            count_only: self.chance(5),
            keys_only: self.chance(5),
        }
    }

    fn delete(&mut self) -> DeleteRequest {
        let range =
            if self.chance(80) { KeyRange::One(self.key()) } else { KeyRange::Span(self.key(), self.key()) };
        DeleteRequest { range, prev_kv: self.chance(30) }
    }

    fn txn(&mut self) -> TxnRequest {
        let key = self.key();
        let seen = self.keys.0.get(&key).cloned();
        let known = seen.filter(|_| self.chance(70)).unwrap_or_default();
        let target = match self.rng.random_range(0..5) {
            0 => CompareTarget::Version(known.version),
            1 => CompareTarget::Create(known.create_revision),
            2 => CompareTarget::Mod(known.mod_revision),
            3 => CompareTarget::Lease(known.lease),
            _ => CompareTarget::Value(known.value),
        };
        let op = [CompareOp::Equal, CompareOp::NotEqual, CompareOp::Greater, CompareOp::Less]
            [if self.chance(70) { 0 } else { self.rng.random_range(0..4) }];
        let compare = vec![Compare { range: KeyRange::One(key.clone()), op, target }];
        let mut success = vec![OpRequest::Put(PutRequest { key: key.clone(), ..self.put() })];
        if self.chance(50) {
            let other = self.put();
            if other.key != key {
                success.push(OpRequest::Put(other));
            }
        }
        if self.chance(30) {
            success.push(OpRequest::Range(self.range()));
        }
        let failure = match self.rng.random_range(0..3) {
            0 => vec![],
            1 => vec![OpRequest::Range(self.range())],
            _ => vec![OpRequest::Delete(self.delete()), OpRequest::Range(self.range())],
        };
        TxnRequest { compare, success, failure }
    }

    fn ready(&mut self, client: u64) {
        if self.locks.contains_key(&client) {
            self.lock_ready(client);
            return;
        }
        let leases = if self.config.leases { 25 } else { 0 };
        let request = match self.rng.random_range(0..75 + leases) {
            0..25 => Request::Put(self.put()),
            25..32 => Request::Delete(self.delete()),
            32..57 => Request::Range(self.range()),
            57..74 => Request::Txn(self.txn()),
            74 if self.config.compactions && self.revision > 5 => {
                let near = self.revision.saturating_sub(self.rng.random_range(0..12)).max(1);
                Request::Compact { revision: near }
            }
            74 => Request::Range(self.range()),
            75..81 => {
                let id = self.granted.len() as LeaseId + 1000;
                self.granted.push(id);
                Request::LeaseGrant { id, ttl: self.rng.random_range(1..4) }
            }
            number => match self.some_lease() {
                0 => Request::Range(self.range()),
                id if number < 94 => Request::LeaseKeepAlive { id },
                id if number < 97 => Request::LeaseTimeToLive { id, keys: false },
                id => Request::LeaseRevoke { id },
            },
        };
        self.submit(client, request);
    }

    fn submit(&mut self, client: u64, request: Request) {
        let number = self.history.operations.len();
        let member = self.rng.random_range(1..=3);
        let mut flight = Flight { client, answered: None, outcome_lost: false };
        let way = self.rng.random_range(MS / 10..20 * MS);
        let mut completes = way + self.rng.random_range(MS / 10..20 * MS);
        let mut happens = Some(way);
        if self.chance(self.config.lost) {
            flight.outcome_lost = true;
            completes = self.rng.random_range(10 * MS..100 * MS);
            happens = match self.rng.random_range(0..3) {
                0 => None,
                1 => Some(way),
                _ => Some(completes + self.rng.random_range(0..LINGER / 2)),
            };
        } else if self.chance(3) {
            flight.answered = Some(Outcome::Refused(Refusal::Other("too many requests".into())));
            if !(self.config.bug == Bug::RefusedApplied && self.chance(50)) {
                happens = None;
            }
        }
        self.history.operations.push(Operation {
            client,
            member,
            invoked: self.now,
            completed: None,
            request,
            outcome: Outcome::Unknown,
        });
        self.flights.push(flight);
        if let Some(after) = happens {
            self.at(after, Step::Effect(number));
        }
        self.at(completes, Step::Complete(number));
    }

    fn commit(&mut self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.revision += 1;
        assert!(events.iter().all(|event| event.revision() == self.revision));
        let at = self.config.moments.then_some(self.now);
        self.changes.push(Change { revision: self.revision, events, at });
    }

    fn effect(&mut self, number: usize) {
        let operation = self.history.operations[number].clone();
        let outcome = self.execute(&operation);
        if self.config.bug == Bug::AppliedTwice && self.flights[number].outcome_lost && self.chance(50) {
            let _ = self.execute(&operation);
        }
        if self.flights[number].answered.is_none() {
            self.flights[number].answered = Some(outcome);
        }
    }

    fn execute(&mut self, operation: &Operation) -> Outcome {
        match &operation.request {
            Request::Range(range) if range.serializable => self.read_at(operation.member, range),
            Request::Range(range) => {
                if self.strikes(Bug::StaleRead) {
                    return self.read_at(operation.member, range);
                }
                let Outcome::Ok(mut reply) = self.read(range) else { return self.read(range) };
                self.spoil_read(range, &mut reply);
                Outcome::Ok(reply)
            }
            Request::Put(_) | Request::Delete(_) | Request::Txn(_) => self.write(operation),
            Request::Compact { revision } => {
                if *revision <= self.compacted {
                    return Outcome::Refused(Refusal::Compacted);
                }
                if *revision > self.revision {
                    return Outcome::Refused(Refusal::FutureRevision);
                }
                self.compacted = *revision;
                self.ok(ReplyBody::Compact)
            }
            Request::LeaseGrant { id, ttl } => {
                if self.leases.contains_key(id) {
                    return Outcome::Refused(Refusal::LeaseExists);
                }
                self.leases.insert(*id, Lease { ttl: *ttl, deadline: self.now + *ttl as Nanos * SECOND });
                self.ok(ReplyBody::LeaseGrant { id: *id, ttl: *ttl })
            }
            Request::LeaseKeepAlive { id } => {
                let blind = self.ended.contains(id) && self.strikes(Bug::RenewAfterEnd);
                let ttl = match self.leases.get_mut(id) {
                    Some(lease) => {
                        lease.deadline = self.now + lease.ttl as Nanos * SECOND;
                        lease.ttl
                    }
                    None if blind => 2,
                    None => 0,
                };
                self.ok(ReplyBody::LeaseKeepAlive { ttl })
            }
            Request::LeaseTimeToLive { id, .. } => {
                let (ttl, granted_ttl) = match self.leases.get(id) {
                    Some(lease) => ((lease.deadline.saturating_sub(self.now) / SECOND) as i64, lease.ttl),
                    None => (-1, 0),
                };
                self.ok(ReplyBody::LeaseTimeToLive { ttl, granted_ttl, keys: vec![] })
            }
            Request::LeaseRevoke { id } => {
                if self.leases.remove(id).is_none() {
                    return Outcome::Refused(Refusal::LeaseNotFound);
                }
                self.delete_leased(*id, false);
                self.ok(ReplyBody::LeaseRevoke)
            }
        }
    }

    fn ok(&self, body: ReplyBody) -> Outcome {
        Outcome::Ok(Reply { revision: self.revision, body })
    }

    fn spoil_read(&mut self, range: &RangeRequest, reply: &mut Reply) {
        let ReplyBody::Range(answer) = &mut reply.body else { return };
        if range.keys_only || answer.kvs.is_empty() {
            return;
        }
        if self.strikes(Bug::MissingKey) {
            answer.kvs.remove(0);
            answer.count -= 1;
        } else if self.strikes(Bug::OldContent) {
            let kv = &mut answer.kvs[0];
            let older = self.changes.iter().rev().flat_map(|change| &change.events).find(|event| {
                event.kv.key == kv.key
                    && event.kv.mod_revision < kv.mod_revision
                    && event.kind == EventKind::Put
            });
            if let Some(older) = older {
                *kv = older.kv.clone();
            }
        }
    }

    /// The keys as they were.
    fn past(&self, revision: Revision) -> Keys {
        let mut keys = Keys::default();
        for change in self.changes.iter().take_while(|change| change.revision <= revision) {
            change.events.iter().for_each(|event| keys.apply(event));
        }
        keys
    }

    fn read(&mut self, range: &RangeRequest) -> Outcome {
        if range.revision > self.revision {
            return Outcome::Refused(Refusal::FutureRevision);
        }
        let false_alarm = range.revision > self.compacted && self.strikes(Bug::FalseCompacted);
        if range.revision > 0 && range.revision < self.compacted || false_alarm {
            return Outcome::Refused(Refusal::Compacted);
        }
        let body =
            if range.revision > 0 { self.past(range.revision).read(range) } else { self.keys.read(range) };
        self.ok(ReplyBody::Range(body))
    }

    fn read_at(&mut self, member: MemberId, range: &RangeRequest) -> Outcome {
        let member = &self.members[member as usize - 1];
        if range.revision > member.applied {
            return Outcome::Refused(Refusal::FutureRevision);
        }
        if range.revision > 0 && range.revision < self.compacted {
            return Outcome::Refused(Refusal::Compacted);
        }
        let body =
            if range.revision > 0 { self.past(range.revision).read(range) } else { member.keys.read(range) };
        Outcome::Ok(Reply { revision: member.applied, body: ReplyBody::Range(body) })
    }

    fn write(&mut self, operation: &Operation) -> Outcome {
        let mut request = operation.request.clone();
        let original = request.clone();
        let mut reads: Vec<(usize, RangeRequest)> = Vec::new();
        if let Request::Txn(txn) = &mut request {
            let writes = txn.success.iter().chain(&txn.failure).any(|op| !matches!(op, OpRequest::Range(_)));
            let serializable = !operation.request.is_linearizable();
            if serializable && !writes {
                return self.serializable_txn(operation);
            }
            if self.strikes(Bug::WrongBranch) {
                std::mem::swap(&mut txn.success, &mut txn.failure);
            }
            let ranges = txn.success.iter().chain(&txn.failure).filter_map(|op| match op {
                OpRequest::Range(range) => Some(range.revision),
                _ => None,
            });
            // Reads of the past are refused for both branches here: a stricter store than etcd.
            for revision in ranges.filter(|revision| *revision > 0) {
                if revision > self.revision {
                    return Outcome::Refused(Refusal::FutureRevision);
                }
                if revision < self.compacted {
                    return Outcome::Refused(Refusal::Compacted);
                }
            }
            reads = txn
                .success
                .iter()
                .enumerate()
                .chain(txn.failure.iter().enumerate())
                .filter_map(|(place, op)| match op {
                    OpRequest::Range(range) if range.revision > 0 => Some((place, range.clone())),
                    _ => None,
                })
                .collect();
        }
        let missing = puts(&original).iter().any(|put| {
            let ended = self.config.bug == Bug::PutAfterEnd && self.ended.contains(&put.lease);
            put.lease != 0 && !self.leases.contains_key(&put.lease) && !ended
        });
        if missing {
            return Outcome::Refused(Refusal::LeaseNotFound);
        }
        let before = self.keys.clone();
        let (mut body, mut events) = match self.keys.run(&request, self.revision + 1) {
            Ok(result) => result,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        if let (ReplyBody::Txn(answer), Request::Txn(txn)) = (&mut body, &request) {
            let branch = if answer.succeeded { &txn.success } else { &txn.failure };
            for (place, range) in reads {
                if branch.get(place) == Some(&OpRequest::Range(range.clone())) {
                    answer.responses[place] = OpReply::Range(self.past(range.revision).read(&range));
                }
            }
            if self.config.bug == Bug::WrongBranch && request != original {
                answer.succeeded = !answer.succeeded;
            }
        }
        if self.strikes(Bug::LostWrite) && !events.is_empty() {
            self.keys = before;
            return Outcome::Ok(Reply { revision: self.revision + 1, body });
        }
        if events.len() > 1 && self.strikes(Bug::TornTxn) {
            let torn = events.pop().expect("two at least");
            match torn.prev_kv {
                Some(kv) => self.keys.0.insert(kv.key.clone(), kv),
                None => self.keys.0.remove(&torn.kv.key),
            };
        }
        if !events.is_empty() && self.revision > 2 && self.strikes(Bug::SameRevision) {
            let same = self.revision;
            for event in &mut events {
                event.kv.mod_revision = same;
                self.keys.apply(event);
            }
            self.changes.last_mut().expect("there are changes").events.extend(events);
            return Outcome::Ok(Reply { revision: same, body });
        }
        if !events.is_empty() && self.strikes(Bug::SkippedRevision) {
            self.revision += 1;
            for event in &mut events {
                event.kv.mod_revision += 1;
                self.keys.apply(event);
            }
        }
        let changed = !events.is_empty();
        self.commit(events);
        let wrong = changed && self.strikes(Bug::WrongHeader);
        Outcome::Ok(Reply { revision: self.revision - i64::from(wrong), body })
    }

    fn serializable_txn(&mut self, operation: &Operation) -> Outcome {
        let member = &self.members[operation.member as usize - 1];
        let Request::Txn(txn) = &operation.request else { unreachable!() };
        for op in txn.success.iter().chain(&txn.failure) {
            if let OpRequest::Range(range) = op {
                if range.revision > member.applied {
                    return Outcome::Refused(Refusal::FutureRevision);
                }
                if range.revision > 0 && range.revision < self.compacted {
                    return Outcome::Refused(Refusal::Compacted);
                }
            }
        }
        let mut keys = member.keys.clone();
        let (mut body, _) = keys.run(&operation.request, member.applied + 1).expect("reads only");
        if let ReplyBody::Txn(answer) = &mut body {
            let branch = if answer.succeeded { &txn.success } else { &txn.failure };
            for (op, response) in branch.iter().zip(&mut answer.responses) {
                if let OpRequest::Range(range) = op
                    && range.revision > 0
                {
                    *response = OpReply::Range(self.past(range.revision).read(range));
                }
            }
        }
        Outcome::Ok(Reply { revision: member.applied, body })
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

    fn delete_leased(&mut self, lease: LeaseId, by_time: bool) {
        self.ended.push(lease);
        let mut keys: Vec<KeyValue> = self.keys.0.values().filter(|kv| kv.lease == lease).cloned().collect();
        if by_time && keys.len() > 1 && self.strikes(Bug::LeaseLeavesKey) {
            keys.pop();
        }
        let mut events = Vec::new();
        self.keys.delete(keys, self.revision + 1, &mut events);
        self.commit(events);
    }

    fn end_leases(&mut self) {
        let now = self.now;
        let mut due: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| lease.deadline <= now).map(|(id, _)| *id).collect();
        if self.strikes(Bug::LeaseEarly) {
            let early = self.leases.iter().filter(|(_, lease)| lease.deadline > now + SECOND / 2);
            due.extend(early.map(|(id, _)| *id).next());
        }
        for id in due {
            if self.config.bug == Bug::LeaseLate
                && self.leases[&id].deadline + 4 * SECOND > now
                && id % 3 == 0
            {
                continue;
            }
            self.leases.remove(&id);
            self.delete_leased(id, true);
        }
        let wait = self.rng.random_range(20 * MS..150 * MS);
        self.at(wait, Step::Leases);
    }

    fn open_watch(&mut self) {
        let start = match self.rng.random_range(0..4) {
            0 => 0,
            1 => 1,
            2 => 2,
            _ => self.rng.random_range(2..20),
        };
        let range = if self.chance(40) { KeyRange::all() } else { self.key_range() };
        let request = WatchRequest {
            range,
            start_revision: start,
            prev_kv: self.chance(60),
            no_put: self.chance(10),
            no_delete: self.chance(10),
            fragment: self.chance(30),
        };
        let member = self.rng.random_range(0..3);
        let number = self.watches.len();
        let revision = self.members[member].applied;
        let cursor = if start == 0 { revision + 1 } else { start };
        self.watches.push(WatchState { member, cursor, running: true, next: cursor });
        self.history.watches.push(Watch {
            client: 200 + number as u64,
            member: member as u64 + 1,
            invoked: self.now,
            request,
            messages: vec![WatchMessage::Created { at: self.now, revision }],
            drained_to: None,
        });
        self.at(3 * MS, Step::Watch(number));
    }

    fn deliver(&mut self, number: usize) {
        if self.watches[number].running && self.chance(4) {
            self.history.watches[number].messages.push(WatchMessage::Ended { at: self.now });
            self.watches[number].running = false;
        } else if self.watches[number].running {
            self.deliver_batch(number);
        } else {
            self.resume(number);
        }
        let wait = self.rng.random_range(MS..80 * MS);
        self.at(wait, Step::Watch(number));
    }

    fn resume(&mut self, number: usize) {
        let member = self.rng.random_range(0..3);
        let revision = self.members[member].applied;
        let state = &mut self.watches[number];
        let start_revision = state.next;
        *state = WatchState { member, cursor: start_revision, running: true, next: start_revision };
        if self.config.bug == Bug::WatchDropsOnResume {
            self.watches[number].cursor += 1;
        }
        let at = self.now;
        let messages = &mut self.history.watches[number].messages;
        messages.push(WatchMessage::Resumed { at, member: member as u64 + 1, start_revision });
        messages.push(WatchMessage::Created { at, revision });
    }

    fn deliver_batch(&mut self, number: usize) {
        let at = self.now;
        let state = &self.watches[number];
        let applied = self.members[state.member].applied;
        let request = self.history.watches[number].request.clone();
        let false_alarm = state.cursor > 2 && self.strikes(Bug::WatchFalseCompaction);
        let state = &self.watches[number];
        if state.cursor < self.compacted || false_alarm {
            if self.config.bug == Bug::WatchSkipsCompacted {
                self.watches[number].cursor = self.compacted;
                return;
            }
            let compact_revision = if false_alarm { state.cursor - 1 } else { self.compacted };
            self.history.watches[number].messages.push(WatchMessage::Compacted { at, compact_revision });
            self.watches[number].next = state.cursor.max(compact_revision);
            self.watches[number].running = false;
            return;
        }
        if state.cursor > applied {
            let ahead = self.revision > applied && self.config.bug == Bug::WatchProgressAhead;
            let revision = if ahead { self.revision } else { applied };
            // A watch from the future is told nothing before it is reached.
            if state.cursor == applied + 1 && self.chance(50) {
                self.history.watches[number].messages.push(WatchMessage::Progress { at, revision });
            }
            return;
        }
        let cursor = state.cursor;
        let to = self.rng.random_range(cursor..=applied);
        let mut events: Vec<Event> = Vec::new();
        let mut first_of_last = 0;
        let foreign = self.strikes(Bug::WatchForeignKey);
        for change in self.changes.iter().filter(|change| (cursor..=to).contains(&change.revision)) {
            first_of_last = events.len();
            for event in &change.events {
                if request.wants(event) || (foreign && event.kind == EventKind::Put) {
                    let mut event = event.clone();
                    if !request.prev_kv || change.revision <= self.compacted {
                        event.prev_kv = None;
                    }
                    events.push(event);
                }
            }
        }
        self.spoil_events(&mut events);
        self.watches[number].cursor = to + 1;
        if events.is_empty() {
            return;
        }
        let mut messages = Vec::new();
        if request.fragment && self.chance(50) && first_of_last < events.len() {
            let at_most = events.len();
            let cut = self.rng.random_range(first_of_last..at_most);
            let rest = events.split_off(cut);
            if !events.is_empty() {
                messages.push(WatchMessage::Events { at, revision: applied, events, fragment: true });
            }
            events = rest;
        }
        if events.len() > 1 && self.strikes(Bug::WatchTorn) {
            let rest = events.split_off(events.len() - 1);
            messages.push(WatchMessage::Events { at, revision: applied, events, fragment: false });
            events = rest;
        }
        messages.push(WatchMessage::Events { at, revision: applied, events, fragment: false });
        self.history.watches[number].messages.extend(messages);
        self.watches[number].next = to + 1;
    }

    fn spoil_events(&mut self, events: &mut Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..events.len());
        if self.strikes(Bug::WatchDuplicate) {
            events.insert(index, events[index].clone());
        }
        if self.strikes(Bug::WatchDrop) {
            events.remove(index);
        }
        if index > 0 && self.strikes(Bug::WatchReorder) {
            events.swap(index - 1, index);
        }
        if let Some(event) = events.get_mut(index)
            && self.strikes(Bug::WatchPrevKv)
            && let Some(prev) = &mut event.prev_kv
        {
            prev.version += 1;
            prev.mod_revision = prev.mod_revision.max(prev.create_revision + 1);
            prev.value = "wrong".into();
        }
    }

    fn lock_ready(&mut self, client: u64) {
        let state = self.locks[&client].clone();
        let now = self.now;
        match state {
            LockState::Idle | LockState::Releasing => {
                let id = self.granted.len() as LeaseId + 1000;
                self.granted.push(id);
                self.locks.insert(client, LockState::Idle);
                self.submit(client, Request::LeaseGrant { id, ttl: 2 });
            }
            LockState::Granted { lease, .. } => {
                let key: Bytes = format!("lock/{client}-{lease}").into();
                let absent = Compare {
                    range: KeyRange::One(key.clone()),
                    op: CompareOp::Equal,
                    target: CompareTarget::Create(0),
                };
                let put = PutRequest { key, value: self.value(), lease, ..PutRequest::default() };
                let txn = TxnRequest {
                    compare: vec![absent],
                    success: vec![OpRequest::Put(put)],
                    failure: vec![OpRequest::Range(RangeRequest::new(KeyRange::prefix("lock/")))],
                };
                self.submit(client, Request::Txn(txn));
            }
            LockState::Queued { .. } => {
                self.submit(client, Request::Range(RangeRequest::new(KeyRange::prefix("lock/"))));
            }
            LockState::Holding { key, token, until, deadline, hold } => {
                self.fence(client, token);
                if now < until {
                    self.at(until - now, Step::Ready(client));
                    return;
                }
                self.history.holds[hold].released = Some(deadline.min(now));
                self.locks.insert(client, LockState::Releasing);
                self.submit(
                    client,
                    Request::Delete(DeleteRequest { range: KeyRange::One(key), prev_kv: false }),
                );
            }
        }
    }

    fn fence(&mut self, client: u64, token: Revision) {
        let accepted = token >= self.fence || (self.config.bug == Bug::FenceBlind);
        self.fence = self.fence.max(token);
        self.history.fence_uses.push(FenceUse {
            resource: "disk".into(),
            client,
            token,
            at: self.now,
            accepted,
        });
    }

    fn lock_answer(&mut self, client: u64, number: usize) {
        let operation = self.history.operations[number].clone();
        let state = self.locks[&client].clone();
        let now = self.now;
        let blind = self.config.bug == Bug::LockBlind;
        let next = match (state, operation.reply().map(|reply| (reply.revision, &reply.body))) {
            (LockState::Idle, Some((_, ReplyBody::LeaseGrant { id, ttl }))) => {
                LockState::Granted { lease: *id, deadline: operation.invoked + *ttl as Nanos * SECOND }
            }
            (LockState::Granted { lease, deadline }, Some((token, ReplyBody::Txn(txn)))) if txn.succeeded => {
                LockState::Queued { lease, deadline, key: format!("lock/{client}-{lease}").into(), token }
            }
            (
                LockState::Queued { lease, deadline, key, token },
                Some((revision, ReplyBody::Range(range))),
            ) => {
                let oldest = range.kvs.iter().min_by_key(|kv| kv.create_revision);
                if !range.kvs.iter().any(|kv| kv.key == key) || now >= deadline {
                    LockState::Idle
                } else if blind || oldest.is_some_and(|kv| kv.key == key) {
                    self.history.holds.push(LockHold {
                        client,
                        contenders: KeyRange::prefix("lock/"),
                        key: key.clone(),
                        token,
                        acquired_revision: revision,
                        acquired: now,
                        released: None,
                    });
                    let hold = self.history.holds.len() - 1;
                    // Some are paused for longer than their lease.
                    let most = if self.chance(20) { 4 * SECOND } else { SECOND };
                    let until = now + self.rng.random_range(0..most);
                    self.history.holds[hold].released = Some(deadline);
                    LockState::Holding { key, token, until, deadline, hold }
                } else {
                    LockState::Queued { lease, deadline, key, token }
                }
            }
            _ => LockState::Idle,
        };
        self.locks.insert(client, next);
        let think = self.rng.random_range(0..60 * MS);
        self.at(think, Step::Ready(client));
    }
}

fn puts(request: &Request) -> Vec<PutRequest> {
    match request {
        Request::Put(put) => vec![put.clone()],
        Request::Txn(txn) => txn
            .success
            .iter()
            .chain(&txn.failure)
            .filter_map(|op| match op {
                OpRequest::Put(put) => Some(put.clone()),
                _ => None,
            })
            .collect(),
        _ => vec![],
    }
}
