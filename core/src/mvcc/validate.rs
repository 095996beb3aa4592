//! What is refused before a request enters the log: checks that need the request alone, in
//! etcd's order, and the costs that the quota counts.
//!
//! Nothing here recurses deeper than [`TXN_DEPTH_MAX`], and the duplicate check costs
//! O(operations × depth × log operations) however the operations nest.

use std::collections::{BTreeMap, BTreeSet};

use super::request::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::error::Error;
use crate::limits::TXN_DEPTH_MAX;

/// What a key costs above its bytes in the quota's account (etcd's).
const KEY_COST_BYTES: u64 = 256;

/// Checks a range.
pub fn check_range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if !(0..=2).contains(&request.sort_order) || !(0..=4).contains(&request.sort_target) {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Checks a put.
pub fn check_put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a deletion.
pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction; `ops_max` is `--max-txn-ops`.
pub fn check_txn(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    check_txn_at(request, ops_max, 1)?;
    Touched::of(&request.success)?;
    Touched::of(&request.failure)?;
    Ok(())
}

fn check_txn_at(request: &TxnRequest, ops_max: usize, depth: usize) -> Result<(), Error> {
    let widest = request.compare.len().max(request.success.len()).max(request.failure.len());
    if widest > ops_max || depth > TXN_DEPTH_MAX {
        return Err(Error::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match op {
            RequestOp::Unset => return Err(Error::KeyNotFound),
            RequestOp::Range(range) => check_range(range)?,
            RequestOp::Put(put) => check_put(put)?,
            RequestOp::DeleteRange(delete) => check_delete_range(delete)?,
            // Inner transactions share what this level left of the budget.
            RequestOp::Txn(inner) => check_txn_at(inner, ops_max - widest, depth + 1)?,
        }
    }
    Ok(())
}

/// Keys that a list of operations, with everything nested in it, may put and delete.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted_keys: BTreeSet<&'a [u8]>,
    /// Disjoint spans, start to end.
    deleted_spans: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Touched<'a> {
    /// Follows etcd's order, which matters: puts of an inner transaction meet this level's
    /// deletions and those of *earlier* inner transactions; this level's puts meet everything.
    /// The depth was checked before.
    fn of(ops: &'a [RequestOp]) -> Result<Self, Error> {
        let mut touched = Self::default();
        for op in ops {
            if let RequestOp::DeleteRange(delete) = op {
                touched.delete(delete);
            }
        }
        for op in ops {
            if let RequestOp::Txn(inner) = op {
                let (then, otherwise) = (Self::of(&inner.success)?, Self::of(&inner.failure)?);
                for &key in &then.puts {
                    touched.put(key)?;
                }
                // Only one of the two branches runs, so both may put the same key.
                for &key in &otherwise.puts {
                    if then.puts.contains(key) {
                        touched.refuse_deleted(key)?;
                    } else {
                        touched.put(key)?;
                    }
                }
                touched.take_deletions(then);
                touched.take_deletions(otherwise);
            }
        }
        for op in ops {
            if let RequestOp::Put(put) = op {
                touched.put(&put.key)?;
            }
        }
        Ok(touched)
    }

    fn put(&mut self, key: &'a [u8]) -> Result<(), Error> {
        self.refuse_deleted(key)?;
        if self.puts.insert(key) { Ok(()) } else { Err(Error::DuplicateKey) }
    }

    fn refuse_deleted(&self, key: &[u8]) -> Result<(), Error> {
        let span = self.deleted_spans.range(..=key).next_back();
        if self.deleted_keys.contains(key) || span.is_some_and(|(_, end)| key < *end) {
            return Err(Error::DuplicateKey);
        }
        Ok(())
    }

    fn delete(&mut self, request: &'a DeleteRangeRequest) {
        if request.range_end.is_empty() {
            self.deleted_keys.insert(&request.key);
        } else {
            self.delete_span(&request.key, &request.range_end);
        }
    }

    /// etcd takes `range_end` literally here, so an end of one zero byte, "every key from here",
    /// makes an inverted span that meets no put.
    fn delete_span(&mut self, mut start: &'a [u8], mut end: &'a [u8]) {
        if end <= start {
            return;
        }
        while let Some((&other_start, &other_end)) = self.deleted_spans.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.deleted_spans.remove(other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.deleted_spans.insert(start, end);
    }

    fn take_deletions(&mut self, other: Self) {
        self.deleted_keys.extend(other.deleted_keys);
        for (start, end) in other.deleted_spans {
            self.delete_span(start, end);
        }
    }
}

/// Whether a transaction only reads: every operation of both branches is a range. One inner
/// transaction makes it a write, even if that only reads (etcd's rule).
pub fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| matches!(op, RequestOp::Range(_)))
}

/// Whether every range of a read-only transaction is serializable. True without any operation,
/// as in etcd: a transaction of conditions alone may be stale.
pub fn is_serializable(request: &TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(op, RequestOp::Range(range) if range.serializable))
}

/// What a put costs in the quota's account, in bytes.
pub fn quota_cost_put(request: &PutRequest) -> u64 {
    KEY_COST_BYTES + request.key.len() as u64 + request.value.len() as u64
}

/// What a transaction costs in the quota's account, in bytes: its dearer branch. 0 if it puts
/// nothing.
pub fn quota_cost_txn(request: &TxnRequest) -> u64 {
    quota_cost_txn_at(request, 1)
}

fn quota_cost_txn_at(request: &TxnRequest, depth: usize) -> u64 {
    // The quota is asked before the request is checked; what is nested deeper will be refused.
    if depth > TXN_DEPTH_MAX {
        return 0;
    }
    let branch = |ops: &[RequestOp]| {
        ops.iter().fold(0u64, |sum, op| {
            sum.saturating_add(match op {
                RequestOp::Put(put) => quota_cost_put(put),
                RequestOp::Txn(inner) => quota_cost_txn_at(inner, depth + 1),
                _ => 0,
            })
        })
    };
    branch(&request.success).max(branch(&request.failure))
}
