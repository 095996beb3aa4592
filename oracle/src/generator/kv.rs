//! Puts, ranges, deletions, transactions, compactions, hashes.

use std::collections::BTreeSet;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use pb::compare::TargetUnion;
use pb::request_op::Request as Op;
use rand::RngExt;

use super::Generator;
use super::universe::Universe;
use crate::request::{COMPACTED, CURRENT, Request, WRITTEN, op};

/// Nested transactions go this deep.
const DEPTH_MAX: u32 = 3;

impl Generator {
    fn put_request(&mut self) -> pb::PutRequest {
        let key = self.universe.key(&mut self.rng);
        let value = self.universe.value(&mut self.rng);
        let lease = match self.rng.random_range(0..20) {
            0..15 => 0,
            15..19 => self.universe.lease(&mut self.rng),
            _ => 4711,
        };
        let mut put =
            pb::PutRequest { key, value, lease, prev_kv: self.rng.random_bool(0.4), ..Default::default() };
        if self.once_in(12) {
            put.ignore_value = true;
            if !self.once_in(5) {
                put.value = Bytes::new();
            }
        }
        if self.once_in(12) {
            put.ignore_lease = true;
            if !self.once_in(5) {
                put.lease = 0;
            }
        }
        put
    }

    pub(super) fn put(&mut self) {
        let mut put = self.put_request();
        if self.once_in(3000) {
            // Between the limit for requests and the limit for messages.
            put.value = vec![b'x'; 1_600_000].into();
        }
        self.script.push(Request::Put(put));
    }

    /// Mostly 0, which means now; else around the current or the compacted revision.
    pub(super) fn revision(&mut self) -> i64 {
        match self.rng.random_range(0..20) {
            0..14 => 0,
            14..17 => CURRENT - self.rng.random_range(0..12),
            17 => COMPACTED + self.rng.random_range(-1..=2),
            18 => self.pick(&[CURRENT + 1, CURRENT + 100, i64::MAX]),
            _ => self.pick(&[-1, 1, 2, i64::MIN]),
        }
    }

    fn filter(&mut self) -> i64 {
        match self.rng.random_range(0..24) {
            0..3 => CURRENT - self.rng.random_range(0..16),
            3 => self.pick(&[-1, 1, i64::MAX, i64::MIN]),
            _ => 0,
        }
    }

    fn range_request(&mut self) -> pb::RangeRequest {
        let key = self.universe.key(&mut self.rng);
        let range_end = self.universe.range_end(&mut self.rng, &key);
        let mut range = pb::RangeRequest { key, range_end, ..Default::default() };
        if self.once_in(3) {
            (range.key, range.range_end) = Universe::everything();
        }
        range.limit = match self.rng.random_range(0..10) {
            0..6 => 0,
            6..9 => self.rng.random_range(1..5),
            _ => self.pick(&[-1, i64::MAX, i64::MIN, 100]),
        };
        range.revision = self.revision();
        if self.once_in(3) {
            range.sort_order = self.rng.random_range(0..3);
            range.sort_target = self.rng.random_range(0..5);
        }
        range.serializable = self.once_in(4);
        range.keys_only = self.once_in(6);
        range.count_only = self.once_in(10);
        if self.once_in(3) {
            range.min_mod_revision = self.filter();
            range.max_mod_revision = self.filter();
            range.min_create_revision = self.filter();
            range.max_create_revision = self.filter();
        }
        range
    }

    pub(super) fn range(&mut self) {
        let mut range = self.range_request();
        if self.once_in(60) {
            // An unknown target with a known order makes etcd 3.4 fall over, and inside transactions
            // 3.4 goes on where newer etcd refuses, so only this much can be compared.
            range.sort_order = self.pick(&[3, -1, 99]);
            range.sort_target = self.pick(&[0, 2, 5, -1]);
        }
        self.script.push(Request::Range(range));
    }

    pub(super) fn delete_range(&mut self) {
        let key = self.universe.key(&mut self.rng);
        // A wide deletion empties the small universe, so most hit one key.
        let range_end =
            if self.once_in(3) { self.universe.range_end(&mut self.rng, &key) } else { Bytes::new() };
        let prev_kv = self.rng.random_bool(0.5);
        self.script.push(Request::DeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv }));
    }

    pub(super) fn compact(&mut self) {
        let revision = match self.rng.random_range(0..12) {
            0..8 => CURRENT - self.rng.random_range(0..20),
            8 => CURRENT,
            9 => COMPACTED + self.rng.random_range(-1..=1),
            10 => CURRENT + self.rng.random_range(1..3),
            _ => self.pick(&[0, -1, 1, i64::MAX, i64::MIN]),
        };
        let physical = self.rng.random_bool(0.7);
        self.script.push(Request::Compact(pb::CompactionRequest { revision, physical }));
    }

    pub(super) fn hash(&mut self) {
        let revision = match self.rng.random_range(0..5) {
            0..2 => 0,
            2 => CURRENT - self.rng.random_range(0..8),
            3 => COMPACTED + self.rng.random_range(-1..=2),
            _ => self.pick(&[-1, CURRENT + 1]),
        };
        self.script.push(Request::HashKv(pb::HashKvRequest { revision }));
    }

    pub(super) fn txn(&mut self) {
        let mut txn = self.txn_request(1);
        if self.once_in(200) {
            // One more than allowed, and exactly as many.
            let count = self.pick(&[128, 129]);
            let range = op(Op::RequestRange(pb::RangeRequest { key: "a".into(), ..Default::default() }));
            txn.success = vec![range; count];
        }
        if may_delete_unnoticed(&txn, false) {
            keep_nothing(&mut txn);
        }
        self.script.push(Request::Txn(txn));
    }

    fn txn_request(&mut self, depth: u32) -> pb::TxnRequest {
        let compare_count = self.pick(&[0, 0, 1, 1, 1, 2]);
        let compare = (0..compare_count).map(|_| self.compare()).collect();
        let success_count = self.rng.random_range(0..4);
        let success = self.ops(success_count, depth);
        let failure_count = self.rng.random_range(0..4);
        let failure = self.ops(failure_count, depth);
        pb::TxnRequest { compare, success, failure }
    }

    fn ops(&mut self, count: usize, depth: u32) -> Vec<pb::RequestOp> {
        let mut ops = Vec::new();
        let mut written = BTreeSet::new();
        for _ in 0..count {
            let request = match self.rng.random_range(0..40) {
                0..14 => Op::RequestRange(self.range_request()),
                14..28 => {
                    let mut put = self.put_request();
                    // A key written twice refuses the whole transaction, so that is kept rare.
                    for _ in 0..8 {
                        if written.insert(put.key.clone()) || self.once_in(60) {
                            break;
                        }
                        put.key = self.universe.key(&mut self.rng);
                    }
                    Op::RequestPut(put)
                }
                28..34 => {
                    let mut key = self.universe.key(&mut self.rng);
                    let range_end = if self.once_in(3) {
                        self.universe.range_end(&mut self.rng, &key)
                    } else {
                        Bytes::new()
                    };
                    for _ in 0..8 {
                        if !written.contains(&key) || self.once_in(60) {
                            break;
                        }
                        key = self.universe.key(&mut self.rng);
                    }
                    let prev_kv = self.rng.random_bool(0.5);
                    Op::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv })
                }
                34..39 if depth < DEPTH_MAX => Op::RequestTxn(self.txn_request(depth + 1)),
                39 if self.once_in(5) => {
                    ops.push(pb::RequestOp { request: None });
                    continue;
                }
                _ => Op::RequestRange(pb::RangeRequest {
                    key: self.universe.key(&mut self.rng),
                    ..Default::default()
                }),
            };
            ops.push(op(request));
        }
        ops
    }

    fn compare(&mut self) -> pb::Compare {
        let key = self.universe.key(&mut self.rng);
        let range_end =
            if self.once_in(4) { self.universe.range_end(&mut self.rng, &key) } else { Bytes::new() };
        let target = self.rng.random_range(0..5);
        // The field usually fits the target, sometimes it is another one or none.
        let field = if self.once_in(12) { self.rng.random_range(0..6) } else { target };
        let revision = self.pick(&[WRITTEN, WRITTEN, WRITTEN - 1, 0, 0, CURRENT, CURRENT - 3, -1]);
        let target_union = match field {
            0 => Some(TargetUnion::Version(self.rng.random_range(0..4))),
            1 => Some(TargetUnion::CreateRevision(revision)),
            2 => Some(TargetUnion::ModRevision(revision)),
            3 => Some(TargetUnion::Value(self.universe.value(&mut self.rng))),
            4 => Some(TargetUnion::Lease(if self.rng.random() {
                0
            } else {
                self.universe.lease(&mut self.rng)
            })),
            _ => None,
        };
        let target = if self.once_in(40) { self.pick(&[5, -1, 99]) } else { target };
        let result = if self.once_in(40) { self.pick(&[4, -1, 99]) } else { self.rng.random_range(0..4) };
        pb::Compare { result, target, key, range_end, target_union }
    }
}

/// Whether a deletion in the transaction can hide from etcd's check for keys that are written twice:
/// it does not understand the open end `\0`, and does not compare deletions in nested transactions
/// with everything.
fn may_delete_unnoticed(txn: &pb::TxnRequest, nested: bool) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Op::RequestDeleteRange(delete)) => nested || delete.range_end == b"\0"[..],
        Some(Op::RequestTxn(inner)) => may_delete_unnoticed(inner, true),
        _ => false,
    })
}

/// Takes back all `ignore_value` and `ignore_lease`: on a key that the same transaction deletes first,
/// they make etcd fall over.
fn keep_nothing(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Op::RequestPut(put)) => {
                put.ignore_value = false;
                put.ignore_lease = false;
            }
            Some(Op::RequestTxn(inner)) => keep_nothing(inner),
            _ => {}
        }
    }
}
