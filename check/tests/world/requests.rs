//! What clients ask for, and how their answers get lost.

use bytes::Bytes;
use folkmoot_check::history::*;
use rand::RngExt;

use super::*;

impl World {
    pub(super) fn key(&mut self) -> Bytes {
        format!("k{:02}", self.rng.random_range(0..self.config.keys)).into()
    }

    pub(super) fn value(&mut self) -> Bytes {
        self.values += 1;
        format!("v{}", self.values).into()
    }

    pub(super) fn key_range(&mut self) -> KeyRange {
        match self.rng.random_range(0..6) {
            0 => KeyRange::prefix("k"),
            1 => KeyRange::Span(self.key(), self.key()),
            2 => KeyRange::From(self.key()),
            _ => KeyRange::One(self.key()),
        }
    }

    pub(super) fn some_lease(&mut self) -> LeaseId {
        if !self.config.leases || self.granted.is_empty() || self.chance(60) {
            return 0;
        }
        let from = self.granted.len().saturating_sub(6);
        self.granted[self.rng.random_range(from..self.granted.len())]
    }

    pub(super) fn put(&mut self) -> PutRequest {
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

    pub(super) fn range(&mut self) -> RangeRequest {
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

    pub(super) fn delete(&mut self) -> DeleteRequest {
        let range =
            if self.chance(80) { KeyRange::One(self.key()) } else { KeyRange::Span(self.key(), self.key()) };
        DeleteRequest { range, prev_kv: self.chance(30) }
    }

    pub(super) fn txn(&mut self) -> TxnRequest {
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

    pub(super) fn ready(&mut self, client: u64) {
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

    pub(super) fn submit(&mut self, client: u64, request: Request) {
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
}
