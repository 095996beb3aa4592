//! Reading an interval, with etcd's answers in the odd cases.
//!
//! A read has two halves, so that the first can run under the store's lock and the second, which
//! may wait for the engine, without it: [`View::select`] picks records, [`fill`] gives them their
//! values.

use std::cmp::Ordering;
use std::collections::VecDeque;

use bytes::Bytes;

use super::index::{Live, Tree};
use super::request::{RangeRequest, RangeResponse, sort_order, sort_target};
use super::rows::{self, Version};
use super::store::Miss;
use crate::env::{Engine, Family};
use crate::error::{Error, Fatal};
use crate::types::{KeyRange, KeyValue};

/// The state that one read sees.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub engine: &'a dyn Engine,
    /// The live keys, with the changes of the running command if `written`.
    pub tree: &'a Tree,
    /// The changes in (`stored_revision`, `revision`], and those of the running command.
    pub unstored: &'a VecDeque<Version<Bytes>>,
    /// The revision before the running command.
    pub revision: i64,
    pub compact_revision: i64,
    pub stored_revision: i64,
    /// The running command has changed something.
    pub written: bool,
}

/// Picked records in the order of the answer, except where that depends on values.
pub(super) struct Selected {
    records: Vec<Live>,
    revision: i64,
    count: usize,
    more: bool,
}

impl View<'_> {
    /// The revision that answers carry.
    pub fn current(&self) -> i64 {
        self.revision + i64::from(self.written)
    }

    /// The revision that a range reads at: the current one for 0 and below.
    pub fn resolve(&self, revision: i64) -> Result<i64, Error> {
        let at = if revision <= 0 { self.current() } else { revision };
        if at > self.current() {
            return Err(Error::FutureRev);
        }
        if at < self.compact_revision {
            return Err(Error::Compacted);
        }
        Ok(at)
    }

    /// Reads an interval.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Miss> {
        fill(self.engine, request, self.select(request)?)
    }

    /// Picks the records of an interval. Asks the engine only for the past.
    pub fn select(&self, request: &RangeRequest) -> Result<Selected, Miss> {
        let at = self.resolve(request.revision)?;
        let wanted = keys_wanted(request);
        if request.range_end.is_empty() && at == self.current() {
            let found = self.tree.get(&request.key);
            let records = found.into_iter().take(wanted).collect();
            return Ok(self.selected(request, usize::from(found.is_some()), records));
        }
        let keys = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
        if at == self.current() {
            let count = self.tree.count(&keys);
            let size = count.min(wanted);
            let mut records = Vec::with_capacity(size);
            records.extend(self.tree.range(&keys).take(size));
            Ok(self.selected(request, count, records))
        } else {
            let past = self.past(&keys, at, wanted)?;
            Ok(self.selected(request, past.count, past.records.iter().collect()))
        }
    }

    fn selected(&self, request: &RangeRequest, count: usize, records: Vec<&Live>) -> Selected {
        let (records, more) = arrange(request, records);
        let records = records.into_iter().cloned().collect();
        Selected { records, revision: self.current(), count, more }
    }

    /// The value of a record.
    pub fn value(&self, live: &Live) -> Result<Bytes, Miss> {
        value(self.engine, live)
    }

    /// A record with its value.
    pub fn key_value(&self, live: &Live) -> Result<KeyValue, Miss> {
        Ok(key_value(live.clone(), self.value(live)?))
    }
}

fn key_value(live: Live, value: Bytes) -> KeyValue {
    KeyValue {
        lease: live.lease(),
        key: live.key,
        value,
        create_revision: live.create_revision,
        mod_revision: live.mod_main,
        version: live.version,
    }
}

fn value(engine: &dyn Engine, live: &Live) -> Result<Bytes, Miss> {
    if let Some(value) = &live.value {
        return Ok(value.clone());
    }
    let key = rows::rev_key(live.revision());
    let row = engine.get(Family::Rev, &key)?.ok_or(Miss::Gone)?;
    let version = rows::decode_rev(&key, &row)?;
    if version.key != live.key.as_ref() || version.tombstone {
        return Err(Fatal::Damaged(format!(
            "the row of a version holds another key; revision={} sub={} key={}",
            live.mod_main,
            live.mod_sub,
            live.key.escape_ascii()
        ))
        .into());
    }
    let start = row.len() - version.value.len();
    Ok(row.slice(start..))
}

/// How many records of the interval's start are enough. etcd reads one more than the limit to
/// learn whether there are more, and all of them if it will sort or filter; with order NONE it
/// does not take sorting into account, although it does sort by another target then.
pub(super) fn keys_wanted(request: &RangeRequest) -> usize {
    if request.count_only {
        return 0;
    }
    let as_the_index = request.sort_order == sort_order::NONE
        || (request.sort_target == sort_target::KEY && request.sort_order == sort_order::ASCEND);
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    match usize::try_from(request.limit) {
        Ok(limit) if limit > 0 && as_the_index && !filtered => limit.saturating_add(1),
        _ => usize::MAX,
    }
}

fn sorts_by_value(request: &RangeRequest) -> bool {
    request.sort_target == sort_target::VALUE
}

/// Filters, sorts and cuts. What is sorted by value is only filtered.
fn arrange<'a>(request: &RangeRequest, mut records: Vec<&'a Live>) -> (Vec<&'a Live>, bool) {
    // Zero is no bound, negative numbers are bounds.
    let at_most = |bound: i64, revision: i64| bound == 0 || revision <= bound;
    let at_least = |bound: i64, revision: i64| bound == 0 || revision >= bound;
    records.retain(|live| {
        at_most(request.max_mod_revision, live.mod_main)
            && at_least(request.min_mod_revision, live.mod_main)
            && at_most(request.max_create_revision, live.create_revision)
            && at_least(request.min_create_revision, live.create_revision)
    });
    if sorts_by_value(request) {
        return (records, false);
    }
    sort(request, &mut records, |target, a, b| match target {
        sort_target::VERSION => a.version.cmp(&b.version),
        sort_target::CREATE => a.create_revision.cmp(&b.create_revision),
        sort_target::MOD => a.mod_main.cmp(&b.mod_main),
        _ => a.key.cmp(&b.key),
    });
    let more = cut(request, &mut records);
    (records, more)
}

/// Sorts records that stand in key order. Equal ones stay in key order; etcd leaves their order
/// open.
fn sort<T>(request: &RangeRequest, records: &mut [T], compare: impl Fn(i32, &T, &T) -> Ordering) {
    let target = request.sort_target;
    match request.sort_order {
        sort_order::DESCEND if target == sort_target::KEY => records.reverse(),
        sort_order::DESCEND => records.sort_by(|a, b| compare(target, b, a)),
        sort_order::NONE | sort_order::ASCEND if target != sort_target::KEY => {
            records.sort_by(|a, b| compare(target, a, b));
        }
        _ => {}
    }
}

/// Cuts to the limit; whether anything was cut off.
fn cut<T>(request: &RangeRequest, records: &mut Vec<T>) -> bool {
    match usize::try_from(request.limit) {
        Ok(limit) if limit > 0 && records.len() > limit => {
            records.truncate(limit);
            true
        }
        _ => false,
    }
}

/// Gives picked records their values and makes the answer.
pub(super) fn fill(
    engine: &dyn Engine,
    request: &RangeRequest,
    selected: Selected,
) -> Result<RangeResponse, Miss> {
    let Selected { records, revision, count, mut more } = selected;
    let by_value = sorts_by_value(request);
    let mut kvs = Vec::with_capacity(records.len());
    for live in records {
        kvs.push(if request.keys_only && !by_value {
            // etcd answers these from its index, which does not know leases.
            KeyValue { lease: None, ..key_value(live, Bytes::new()) }
        } else {
            let value = value(engine, &live)?;
            key_value(live, value)
        });
    }
    if by_value {
        sort(request, &mut kvs, |_, a, b| a.value.cmp(&b.value));
        more = cut(request, &mut kvs);
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
            }
        }
    }
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    Ok(RangeResponse { revision, kvs, more, count })
}
