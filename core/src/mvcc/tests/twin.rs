//! The slow twin: a list of all versions, read by walking it. It states the rules once more, as
//! plainly as possible, and shares nothing with the store but the request types.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Answer, Step, lease_exists};
use crate::error::Error;
use crate::mvcc::*;
use crate::types::{KeyRange, KeyValue, LeaseId};

#[derive(Clone, Debug)]
pub struct Change {
    pub main: i64,
    pub key: Bytes,
    /// `None` for a deletion.
    pub kv: Option<KeyValue>,
}

#[derive(Clone, Default, Debug)]
pub struct Twin {
    pub changes: Vec<Change>,
    pub revision: i64,
    pub compact_revision: i64,
}

impl Twin {
    pub fn new() -> Self {
        Self { changes: Vec::new(), revision: 1, compact_revision: -1 }
    }

    pub fn live(&self, at: i64) -> BTreeMap<Bytes, KeyValue> {
        let mut live = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.main <= at) {
            match &change.kv {
                Some(kv) => live.insert(change.key.clone(), kv.clone()),
                None => live.remove(&change.key),
            };
        }
        live
    }

    fn written(&self) -> bool {
        self.changes.last().is_some_and(|change| change.main > self.revision)
    }

    fn now(&self) -> i64 {
        self.revision + i64::from(self.written())
    }

    fn in_range(&self, at: i64, key: &Bytes, end: &Bytes) -> Vec<KeyValue> {
        let range = KeyRange::from_wire(key.clone(), end.clone());
        self.live(at).into_values().filter(|kv| range.contains(&kv.key)).collect()
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let at = if request.revision > 0 { request.revision } else { self.now() };
        if at > self.now() {
            return Err(Error::FutureRev);
        }
        if at < self.compact_revision {
            return Err(Error::Compacted);
        }
        let mut kvs = self.in_range(at, &request.key, &request.range_end);
        let mut response =
            RangeResponse { revision: self.now(), count: kvs.len() as i64, ..Default::default() };
        if request.count_only {
            return Ok(response);
        }
        let bounds = [
            (request.max_mod_revision, request.min_mod_revision),
            (request.max_create_revision, request.min_create_revision),
        ];
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        let filtered = bounds.iter().any(|(max, min)| *max != 0 || *min != 0);
        let in_key_order = request.sort_order == 0 || (request.sort_order == 1 && request.sort_target == 0);
        if in_key_order && !filtered {
            kvs.truncate(limit.saturating_add(1));
        }
        kvs.retain(|kv| {
            [kv.mod_revision, kv.create_revision].iter().zip(bounds).all(|(revision, (max, min))| {
                (max == 0 || *revision <= max) && (min == 0 || *revision >= min)
            })
        });
        kvs.sort_by(|a, b| {
            let order = match request.sort_target {
                0 => a.key.cmp(&b.key),
                1 => a.version.cmp(&b.version),
                2 => a.create_revision.cmp(&b.create_revision),
                3 => a.mod_revision.cmp(&b.mod_revision),
                _ => a.value.cmp(&b.value),
            };
            if request.sort_order == 2 { order.reverse() } else { order }
        });
        response.more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if request.sort_target != 4 {
                    kv.lease = None;
                }
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        self.live(i64::MAX).remove(key)
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let before = self.get(&request.key);
        let main = self.revision + 1;
        let mut kv = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            create_revision: main,
            mod_revision: main,
            version: 1,
            lease: LeaseId::from_wire(request.lease),
        };
        if let Some(before) = &before {
            kv.create_revision = before.create_revision;
            kv.version = before.version + 1;
            if request.ignore_value {
                kv.value = before.value.clone();
            }
            if request.ignore_lease {
                kv.lease = before.lease;
            }
        }
        self.changes.push(Change { main, key: kv.key.clone(), kv: Some(kv) });
        PutResponse { revision: main, prev_kv: before.filter(|_| request.prev_kv) }
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let doomed = self.in_range(i64::MAX, &request.key, &request.range_end);
        for kv in &doomed {
            self.changes.push(Change { main: self.revision + 1, key: kv.key.clone(), kv: None });
        }
        DeleteRangeResponse {
            revision: self.now(),
            deleted: doomed.len() as i64,
            prev_kvs: if request.prev_kv { doomed } else { Vec::new() },
        }
    }

    fn check_lease(request: &PutRequest) -> Result<(), Error> {
        let lease = LeaseId::from_wire(request.lease);
        if lease.is_some_and(|id| !lease_exists(id)) { Err(Error::LeaseNotFound) } else { Ok(()) }
    }

    fn check_kept(&self, request: &PutRequest) -> Result<(), Error> {
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && self.get(&request.key).is_none() { Err(Error::KeyNotFound) } else { Ok(()) }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let one = |kv: &KeyValue| {
            let number = |own: i64, given: Option<i64>| own.cmp(&given.unwrap_or(0));
            let order = match (compare.target, &compare.operand) {
                (0, CompareOperand::Version(n)) => number(kv.version, Some(*n)),
                (0, _) => number(kv.version, None),
                (1, CompareOperand::CreateRevision(n)) => number(kv.create_revision, Some(*n)),
                (1, _) => number(kv.create_revision, None),
                (2, CompareOperand::ModRevision(n)) => number(kv.mod_revision, Some(*n)),
                (2, _) => number(kv.mod_revision, None),
                (3, CompareOperand::Value(value)) => kv.value.cmp(value),
                (3, _) => kv.value.cmp(&Bytes::new()),
                (4, CompareOperand::Lease(n)) => number(LeaseId::to_wire(kv.lease), Some(*n)),
                (4, _) => number(LeaseId::to_wire(kv.lease), None),
                _ => std::cmp::Ordering::Equal,
            };
            match compare.result {
                0 => order.is_eq(),
                1 => order.is_gt(),
                2 => order.is_lt(),
                3 => order.is_ne(),
                _ => true,
            }
        };
        let kvs = self.in_range(i64::MAX, &compare.key, &compare.range_end);
        match kvs.as_slice() {
            [] => compare.target != 3 && one(&KeyValue::default()),
            kvs => kvs.iter().all(one),
        }
    }

    /// The transaction with the branches that are not taken cut off.
    fn taken(&self, request: &TxnRequest) -> TxnRequest {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &request.success } else { &request.failure };
        let ops = ops
            .iter()
            .map(|op| match op {
                RequestOp::Txn(inner) => RequestOp::Txn(self.taken(inner)),
                other => other.clone(),
            })
            .collect();
        let (success, failure) = if succeeded { (ops, Vec::new()) } else { (Vec::new(), ops) };
        // The conditions are over; one that never holds stands for failure.
        let compare = if succeeded { vec![] } else { vec![Compare { target: 3, ..Default::default() }] };
        TxnRequest { compare, success, failure }
    }

    fn check_txn(&self, taken: &TxnRequest) -> Result<(), Error> {
        for op in taken.success.iter().chain(&taken.failure) {
            match op {
                RequestOp::Range(range) if range.revision == 0 => {}
                RequestOp::Range(range) if range.revision > self.revision => return Err(Error::FutureRev),
                RequestOp::Range(range) if range.revision < self.compact_revision => {
                    return Err(Error::Compacted);
                }
                RequestOp::Put(put) => {
                    self.check_kept(put)?;
                    Self::check_lease(put)?;
                }
                RequestOp::Txn(inner) => self.check_txn(inner)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, taken: &TxnRequest) -> TxnResponse {
        let responses = taken.success.iter().chain(&taken.failure).map(|op| match op {
            RequestOp::Range(range) => ResponseOp::Range(self.range(range).unwrap()),
            RequestOp::Put(put) => ResponseOp::Put(self.put(put)),
            RequestOp::DeleteRange(delete) => ResponseOp::DeleteRange(self.delete(delete)),
            RequestOp::Txn(inner) => ResponseOp::Txn(self.run(inner)),
            RequestOp::Unset => panic!("not made by these tests"),
        });
        let responses = responses.collect();
        TxnResponse { revision: 0, succeeded: taken.compare.is_empty(), responses }
    }

    pub fn apply(&mut self, step: &Step) -> Result<Answer, Error> {
        let answer = match step {
            Step::Put(request) => {
                Self::check_lease(request)?;
                self.check_kept(request)?;
                Answer::Put(self.put(request))
            }
            Step::Delete(request) => Answer::Delete(self.delete(request)),
            Step::Txn(request) => {
                let taken = self.taken(request);
                self.check_txn(&taken)?;
                let response = self.run(&taken);
                Answer::Txn(TxnResponse { revision: self.now(), ..response })
            }
            Step::Compact(revision) if *revision <= self.compact_revision => return Err(Error::Compacted),
            Step::Compact(revision) if *revision > self.revision => return Err(Error::FutureRev),
            Step::Compact(revision) => {
                self.compact_revision = *revision;
                Answer::Compact
            }
        };
        self.revision = self.now();
        Ok(answer)
    }
}
