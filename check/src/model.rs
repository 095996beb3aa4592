//! The reference: the smallest store that has etcd's rules of keys and revisions.
//!
//! A request is first planned, which changes nothing and tells what would be answered and
//! changed; events are applied in a second step, because committed events are known where
//! requests are not. It knows which keys hang on which lease, but no lease's time.
//!
//! Keys can be *uncertain*: then something happened to them that nobody saw. What is answered
//! about them is no proof of anything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use bytes::Bytes;

use crate::history::{
    Compare, CompareOp, CompareTarget, DeleteReply, DeleteRequest, Event, EventKind, KeyRange, KeyValue,
    LeaseId, OpReply, OpRequest, PutReply, PutRequest, RangeReply, RangeRequest, Refusal, ReplyBody, Request,
    Revision, TxnReply, TxnRequest,
};

/// The state after one revision.
#[derive(Clone, Debug, Default)]
pub struct Model {
    keys: BTreeMap<Bytes, KeyValue>,
    leased: HashMap<LeaseId, BTreeSet<Bytes>>,
    uncertain: BTreeSet<Bytes>,
}

/// What a request would be answered and would change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The answer. Reads of the past are answered with nothing; they are judged at their own
    /// revision.
    pub body: ReplyBody,
    /// The changes, with the previous key of each.
    pub events: Vec<Event>,
}

/// The bounds of a range for a `BTreeMap`, `None` if it is empty.
pub fn bounds(range: &KeyRange) -> Option<(Bound<&Bytes>, Bound<&Bytes>)> {
    match range {
        KeyRange::One(key) => Some((Bound::Included(key), Bound::Included(key))),
        KeyRange::Span(from, to) => (from < to).then_some((Bound::Included(from), Bound::Excluded(to))),
        KeyRange::From(from) => Some((Bound::Included(from), Bound::Unbounded)),
    }
}

impl Model {
    /// An empty store, at revision 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// A key.
    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)
    }

    /// The keys of a range, ascending.
    pub fn range<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a KeyValue> + use<'a> {
        bounds(range).into_iter().flat_map(|bounds| self.keys.range::<Bytes, _>(bounds)).map(|(_, kv)| kv)
    }

    /// The keys that hang on a lease, ascending.
    pub fn keys_of(&self, lease: LeaseId) -> Option<&BTreeSet<Bytes>> {
        self.leased.get(&lease)
    }

    /// The leases that have keys.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.leased.keys().copied()
    }

    /// Makes the changes.
    pub fn apply(&mut self, events: &[Event]) {
        for event in events {
            let kv = (event.kind == EventKind::Put).then(|| event.kv.clone());
            self.set(&event.kv.key, kv);
        }
    }

    /// Puts one key into a known state.
    pub fn set(&mut self, key: &Bytes, kv: Option<KeyValue>) {
        if !self.uncertain.is_empty() {
            self.uncertain.remove(key);
        }
        let lease = kv.as_ref().map_or(0, |kv| kv.lease);
        let before = match kv {
            Some(kv) => self.keys.insert(key.clone(), kv),
            None => self.keys.remove(key),
        };
        let lease_before = before.map_or(0, |kv| kv.lease);
        if lease_before == lease {
            return;
        }
        if let Some(keys) = self.leased.get_mut(&lease_before) {
            keys.remove(key);
            if keys.is_empty() {
                self.leased.remove(&lease_before);
            }
        }
        if lease != 0 {
            self.leased.entry(lease).or_default().insert(key.clone());
        }
    }

    /// Marks a key as uncertain.
    pub fn doubt(&mut self, key: Bytes) {
        self.uncertain.insert(key);
    }

    /// Whether any key is uncertain.
    pub fn has_doubts(&self) -> bool {
        !self.uncertain.is_empty()
    }

    /// The uncertain keys of a range.
    pub fn doubts<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a Bytes> + use<'a> {
        bounds(range).into_iter().flat_map(|bounds| self.uncertain.range::<Bytes, _>(bounds))
    }

    /// The deletes that the end of `lease` makes.
    pub fn plan_lease_end(&self, lease: LeaseId, revision: Revision) -> Vec<Event> {
        let keys = self.leased.get(&lease).into_iter().flatten();
        keys.map(|key| deleted(self.keys.get(key), key, revision)).collect()
    }

    /// What `request` would do now if its changes, if any, become `revision`. Requests that are
    /// not about keys change nothing here.
    ///
    /// # Errors
    /// The store refuses the request.
    pub fn plan(&self, request: &Request, revision: Revision) -> Result<Plan, Refusal> {
        let mut view = View { base: self, changed: BTreeMap::new(), events: Vec::new(), revision };
        let body = match request {
            Request::Put(put) => ReplyBody::Put(view.put(put)?),
            Request::Delete(delete) => ReplyBody::Delete(view.delete(delete)),
            Request::Range(range) => ReplyBody::Range(view.range_reply(range)),
            Request::Txn(txn) => {
                let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
                ReplyBody::Txn(view.branch(txn, succeeded)?)
            }
            Request::Compact { .. } => ReplyBody::Compact,
            Request::LeaseGrant { id, ttl } => ReplyBody::LeaseGrant { id: *id, ttl: *ttl },
            Request::LeaseRevoke { id } => {
                view.events = self.plan_lease_end(*id, revision);
                ReplyBody::LeaseRevoke
            }
            Request::LeaseKeepAlive { .. } => ReplyBody::LeaseKeepAlive { ttl: 0 },
            Request::LeaseTimeToLive { .. } => {
                ReplyBody::LeaseTimeToLive { ttl: 0, granted_ttl: 0, keys: Vec::new() }
            }
        };
        Ok(Plan { body, events: view.events })
    }

    /// As [`Self::plan`] for a transaction of which only the branch that ran is known.
    ///
    /// # Errors
    /// The store refuses the request.
    pub fn plan_branch(
        &self,
        txn: &TxnRequest,
        succeeded: bool,
        revision: Revision,
    ) -> Result<Plan, Refusal> {
        let mut view = View { base: self, changed: BTreeMap::new(), events: Vec::new(), revision };
        let body = ReplyBody::Txn(view.branch(txn, succeeded)?);
        Ok(Plan { body, events: view.events })
    }

    /// The answer to a read of the current state.
    pub fn read(&self, request: &RangeRequest) -> RangeReply {
        let kvs: Vec<&KeyValue> = self.range(&request.range).collect();
        range_reply(request, &kvs)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut keys = self.range(&compare.range).peekable();
        if keys.peek().is_none() {
            return holds_for(compare, None);
        }
        keys.all(|kv| holds_for(compare, Some(kv)))
    }
}

fn holds_for(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let number = |own: i64, given: i64| match compare.op {
        CompareOp::Equal => own == given,
        CompareOp::NotEqual => own != given,
        CompareOp::Greater => own > given,
        CompareOp::Less => own < given,
    };
    match &compare.target {
        CompareTarget::Version(given) => number(kv.map_or(0, |kv| kv.version), *given),
        CompareTarget::Create(given) => number(kv.map_or(0, |kv| kv.create_revision), *given),
        CompareTarget::Mod(given) => number(kv.map_or(0, |kv| kv.mod_revision), *given),
        CompareTarget::Lease(given) => number(kv.map_or(0, |kv| kv.lease), *given),
        CompareTarget::Value(given) => kv.is_some_and(|kv| match compare.op {
            CompareOp::Equal => kv.value == *given,
            CompareOp::NotEqual => kv.value != *given,
            CompareOp::Greater => kv.value > *given,
            CompareOp::Less => kv.value < *given,
        }),
    }
}

fn deleted(before: Option<&KeyValue>, key: &Bytes, revision: Revision) -> Event {
    Event {
        kind: EventKind::Delete,
        kv: KeyValue { key: key.clone(), mod_revision: revision, ..KeyValue::default() },
        prev_kv: before.cloned(),
    }
}

fn range_reply(request: &RangeRequest, kvs: &[&KeyValue]) -> RangeReply {
    let count = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
    if request.count_only {
        return RangeReply { kvs: Vec::new(), count, more: false };
    }
    let limit = match usize::try_from(request.limit) {
        Ok(0) | Err(_) => kvs.len(),
        Ok(limit) => limit,
    };
    let copy = |kv: &&KeyValue| {
        let mut kv = (*kv).clone();
        if request.keys_only {
            kv.value = Bytes::new();
            kv.lease = 0;
        }
        kv
    };
    RangeReply { kvs: kvs.iter().take(limit).map(copy).collect(), count, more: kvs.len() > limit }
}

/// The state inside a request: the base and what the request changed so far.
struct View<'a> {
    base: &'a Model,
    changed: BTreeMap<Bytes, Option<KeyValue>>,
    events: Vec<Event>,
    revision: Revision,
}

impl View<'_> {
    fn get(&self, key: &Bytes) -> Option<&KeyValue> {
        match self.changed.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.base.get(key),
        }
    }

    fn range(&self, range: &KeyRange) -> Vec<KeyValue> {
        let unchanged = self.base.range(range).filter(|kv| !self.changed.contains_key(&kv.key));
        let changed = self.changed.values().flatten().filter(|kv| range.contains(&kv.key));
        let mut kvs: Vec<KeyValue> = unchanged.chain(changed).cloned().collect();
        if !self.changed.is_empty() {
            kvs.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        }
        kvs
    }

    fn range_reply(&self, request: &RangeRequest) -> RangeReply {
        if request.revision > 0 {
            return RangeReply::default();
        }
        if self.changed.is_empty() {
            return self.base.read(request);
        }
        let kvs = self.range(&request.range);
        range_reply(request, &kvs.iter().collect::<Vec<_>>())
    }

    fn put(&mut self, put: &PutRequest) -> Result<PutReply, Refusal> {
        let before = self.get(&put.key).cloned();
        if before.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(Refusal::KeyNotFound);
        }
        let old = before.as_ref();
        let kv = KeyValue {
            key: put.key.clone(),
            value: if put.ignore_value { old.map(|kv| kv.value.clone()) } else { None }
                .unwrap_or_else(|| put.value.clone()),
            create_revision: old.map_or(self.revision, |kv| kv.create_revision),
            mod_revision: self.revision,
            version: old.map_or(0, |kv| kv.version) + 1,
            lease: if put.ignore_lease { old.map_or(0, |kv| kv.lease) } else { put.lease },
        };
        self.changed.insert(put.key.clone(), Some(kv.clone()));
        let prev_kv = if put.prev_kv { before.clone() } else { None };
        self.events.push(Event { kind: EventKind::Put, kv, prev_kv: before });
        Ok(PutReply { prev_kv })
    }

    fn delete(&mut self, request: &DeleteRequest) -> DeleteReply {
        let gone = self.range(&request.range);
        for kv in &gone {
            self.changed.insert(kv.key.clone(), None);
            self.events.push(deleted(Some(kv), &kv.key, self.revision));
        }
        let deleted = i64::try_from(gone.len()).unwrap_or(i64::MAX);
        DeleteReply { deleted, prev_kvs: if request.prev_kv { gone } else { Vec::new() } }
    }

    fn branch(&mut self, txn: &TxnRequest, succeeded: bool) -> Result<TxnReply, Refusal> {
        let ops = if succeeded { &txn.success } else { &txn.failure };
        // etcd checks every operation on the state before the transaction.
        for op in ops {
            if let OpRequest::Put(put) = op
                && (put.ignore_value || put.ignore_lease)
                && self.base.get(&put.key).is_none()
            {
                return Err(Refusal::KeyNotFound);
            }
        }
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(match op {
                OpRequest::Put(put) => OpReply::Put(self.put(put)?),
                OpRequest::Delete(delete) => OpReply::Delete(self.delete(delete)),
                OpRequest::Range(range) => OpReply::Range(self.range_reply(range)),
            });
        }
        Ok(TxnReply { succeeded, responses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Request {
        Request::Put(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() })
    }

    fn run(model: &mut Model, request: &Request, revision: Revision) -> ReplyBody {
        let plan = model.plan(request, revision).unwrap();
        model.apply(&plan.events);
        plan.body
    }

    #[test]
    fn versions_count_from_creation_and_start_again_after_a_delete() {
        let mut model = Model::new();
        run(&mut model, &put("a", "1"), 2);
        run(&mut model, &put("a", "2"), 3);
        let kv = model.get(b"a").unwrap();
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
        run(&mut model, &Request::Delete(DeleteRequest { range: KeyRange::one("a"), prev_kv: false }), 4);
        run(&mut model, &put("a", "3"), 5);
        let kv = model.get(b"a").unwrap();
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
    }

    #[test]
    fn a_transaction_reads_its_own_writes_and_compares_the_state_before() {
        let mut model = Model::new();
        run(&mut model, &put("a", "1"), 2);
        let txn = TxnRequest {
            compare: vec![Compare {
                range: KeyRange::one("b"),
                op: CompareOp::Equal,
                target: CompareTarget::Create(0),
            }],
            success: vec![
                OpRequest::Put(PutRequest { key: "b".into(), value: "2".into(), ..PutRequest::default() }),
                OpRequest::Delete(DeleteRequest { range: KeyRange::one("a"), prev_kv: true }),
                OpRequest::Range(RangeRequest::new(KeyRange::all())),
            ],
            failure: vec![],
        };
        let ReplyBody::Txn(reply) = run(&mut model, &Request::Txn(txn.clone()), 3) else { panic!() };
        assert!(reply.succeeded);
        let OpReply::Range(range) = &reply.responses[2] else { panic!() };
        assert_eq!(range.kvs.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"b"]);
        let ReplyBody::Txn(reply) = run(&mut model, &Request::Txn(txn), 4) else { panic!() };
        assert!(!reply.succeeded && reply.responses.is_empty());
    }

    #[test]
    fn a_comparison_of_an_absent_keys_value_is_false_and_of_its_numbers_is_zero() {
        let model = Model::new();
        let compare = |op, target| Compare { range: KeyRange::one("a"), op, target };
        assert!(!model.holds(&compare(CompareOp::NotEqual, CompareTarget::Value("x".into()))));
        assert!(model.holds(&compare(CompareOp::Equal, CompareTarget::Version(0))));
        assert!(model.holds(&compare(CompareOp::Less, CompareTarget::Mod(1))));
    }

    #[test]
    fn the_end_of_a_lease_deletes_its_keys_in_order() {
        let mut model = Model::new();
        for (key, lease, revision) in [("b", 7, 2), ("a", 7, 3), ("c", 8, 4)] {
            let put = PutRequest { key: key.into(), lease, ..PutRequest::default() };
            run(&mut model, &Request::Put(put), revision);
        }
        // A put without a lease takes its key off.
        run(&mut model, &put("c", "x"), 5);
        assert!(model.keys_of(8).is_none());
        let events = model.plan_lease_end(7, 6);
        assert_eq!(events.iter().map(|event| &event.kv.key[..]).collect::<Vec<_>>(), [b"a", b"b"]);
        model.apply(&events);
        assert!(model.keys_of(7).is_none() && model.get(b"a").is_none() && model.get(b"c").is_some());
    }

    #[test]
    fn a_limit_cuts_keys_but_not_the_count() {
        let mut model = Model::new();
        for (index, key) in ["a", "b", "c"].into_iter().enumerate() {
            run(&mut model, &put(key, "v"), index as i64 + 2);
        }
        let reply = model.read(&RangeRequest { limit: 2, ..RangeRequest::new(KeyRange::all()) });
        assert_eq!((reply.kvs.len(), reply.count, reply.more), (2, 3, true));
        let reply = model.read(&RangeRequest { limit: 3, ..RangeRequest::new(KeyRange::all()) });
        assert!(!reply.more);
        let reply = model.read(&RangeRequest { count_only: true, ..RangeRequest::new(KeyRange::all()) });
        assert_eq!((reply.kvs.len(), reply.count), (0, 3));
    }
}
