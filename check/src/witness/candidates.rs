//! Which operations can have made a change, found by what they write.

use std::collections::HashMap;

use bytes::Bytes;

use crate::context::Context;
use crate::history::{
    DeleteRequest, Event, EventKind, KeyRange, OpRequest, Operation, Outcome, PutRequest, Request,
};

/// Writes by what they write.
#[derive(Debug, Default)]
pub struct Candidates<'a> {
    operations: &'a [Operation],
    /// All of them.
    all: Vec<u32>,
    /// Puts by key and value.
    puts: HashMap<(&'a [u8], &'a [u8]), Vec<u32>>,
    /// Puts that keep the value, by key.
    keeping: HashMap<&'a [u8], Vec<u32>>,
    /// Deletes of one key.
    deletes: HashMap<&'a [u8], Vec<u32>>,
    /// Deletes of more.
    wide: Vec<(&'a KeyRange, u32)>,
}

impl<'a> Candidates<'a> {
    /// The writes of unknown outcome.
    pub fn unknown(context: &Context<'a>) -> Self {
        Self::of(context, |operation| operation.outcome == Outcome::Unknown)
    }

    /// The writes that were refused.
    pub fn refused(context: &Context<'a>) -> Self {
        Self::of(context, |operation| matches!(operation.outcome, Outcome::Refused(_)))
    }

    fn of(context: &Context<'a>, chosen: impl Fn(&Operation) -> bool) -> Self {
        let mut candidates = Self { operations: &context.history.operations, ..Self::default() };
        for (number, operation) in context.operations() {
            let Ok(number) = u32::try_from(number) else { break };
            if !chosen(operation) {
                continue;
            }
            match &operation.request {
                Request::Put(put) => candidates.add_put(put, number),
                Request::Delete(delete) => candidates.add_delete(delete, number),
                Request::Txn(txn) => {
                    for op in txn.success.iter().chain(&txn.failure) {
                        match op {
                            OpRequest::Put(put) => candidates.add_put(put, number),
                            OpRequest::Delete(delete) => candidates.add_delete(delete, number),
                            OpRequest::Range(_) => {}
                        }
                    }
                }
                _ => continue,
            }
            candidates.all.push(number);
        }
        candidates
    }

    fn add_put(&mut self, put: &'a PutRequest, number: u32) {
        if put.ignore_value {
            self.keeping.entry(&put.key).or_default().push(number);
        } else {
            self.puts.entry((&put.key, &put.value)).or_default().push(number);
        }
    }

    fn add_delete(&mut self, delete: &'a DeleteRequest, number: u32) {
        match &delete.range {
            KeyRange::One(key) => self.deletes.entry(key).or_default().push(number),
            range => self.wide.push((range, number)),
        }
    }

    /// All, in the order of their numbers.
    pub fn all(&self) -> &[u32] {
        &self.all
    }

    /// Those that write `event` and pass `fits`.
    pub fn explain(&self, events: &[Event], mut fits: impl FnMut(&Operation, usize) -> bool) -> Vec<u32> {
        let Some(event) = events.first() else { return Vec::new() };
        let key: &[u8] = &event.kv.key;
        let mut found: Vec<u32> = match event.kind {
            EventKind::Put => {
                let puts = self.puts.get(&(key, &event.kv.value[..])).into_iter().flatten();
                puts.chain(self.keeping.get(key).into_iter().flatten()).copied().collect()
            }
            EventKind::Delete => {
                let wide =
                    self.wide.iter().filter(|(range, _)| range.contains(key)).map(|(_, number)| number);
                self.deletes.get(key).into_iter().flatten().chain(wide).copied().collect()
            }
        };
        found.sort_unstable();
        found.dedup();
        found.retain(|number| fits(&self.operations[*number as usize], *number as usize));
        found
    }
}

/// Whether two lists of events make the same changes in the same order; keys before are not
/// looked at.
pub fn same_changes(a: &[Event], b: &[Event]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.kind == b.kind && a.kv == b.kv)
}

/// The keys an operation may write: those it puts, and what the ranges it deletes hold.
pub fn writes(request: &Request) -> (Vec<Bytes>, Vec<KeyRange>) {
    let (mut puts, mut deletes) = (Vec::new(), Vec::new());
    match request {
        Request::Put(put) => puts.push(put.key.clone()),
        Request::Delete(delete) => deletes.push(delete.range.clone()),
        Request::Txn(txn) => {
            for op in txn.success.iter().chain(&txn.failure) {
                match op {
                    OpRequest::Put(put) => puts.push(put.key.clone()),
                    OpRequest::Delete(delete) => deletes.push(delete.range.clone()),
                    OpRequest::Range(_) => {}
                }
            }
        }
        _ => {}
    }
    (puts, deletes)
}

/// The ranges whose content decides what an operation does.
pub fn depends_on(request: &Request) -> Vec<KeyRange> {
    let (puts, mut ranges) = writes(request);
    ranges.extend(puts.into_iter().map(KeyRange::One));
    match request {
        Request::Range(range) => ranges.push(range.range.clone()),
        Request::Txn(txn) => {
            ranges.extend(txn.compare.iter().map(|compare| compare.range.clone()));
            for op in txn.success.iter().chain(&txn.failure) {
                if let OpRequest::Range(range) = op {
                    ranges.push(range.range.clone());
                }
            }
        }
        _ => {}
    }
    ranges
}
