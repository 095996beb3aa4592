//! A second, independent store with etcd's rules of keys and revisions: the twin of the crate's
//! own model, and the place where bugs are planted.

use std::collections::BTreeMap;

use bytes::Bytes;
use folkmoot_check::history::*;

#[derive(Clone, Default)]
pub struct Keys(pub BTreeMap<Bytes, KeyValue>);

impl Keys {
    pub fn within(&self, range: &KeyRange) -> Vec<KeyValue> {
        match range {
            KeyRange::One(key) => self.0.get(key).cloned().into_iter().collect(),
            KeyRange::Span(from, to) if from < to => {
                self.0.range(from.clone()..to.clone()).map(|(_, kv)| kv.clone()).collect()
            }
            KeyRange::Span(..) => Vec::new(),
            KeyRange::From(from) => self.0.range(from.clone()..).map(|(_, kv)| kv.clone()).collect(),
        }
    }

    pub fn read(&self, request: &RangeRequest) -> RangeReply {
        let mut kvs = self.within(&request.range);
        let count = kvs.len() as i64;
        let more = !request.count_only && request.limit > 0 && count > request.limit;
        if request.count_only {
            kvs.clear();
        }
        if more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                kv.lease = 0;
            }
        }
        RangeReply { kvs, count, more }
    }

    pub fn apply(&mut self, event: &Event) {
        match event.kind {
            EventKind::Put => self.0.insert(event.kv.key.clone(), event.kv.clone()),
            EventKind::Delete => self.0.remove(&event.kv.key),
        };
    }

    fn put(&mut self, put: &PutRequest, revision: Revision, events: &mut Vec<Event>) -> PutReply {
        let old = self.0.get(&put.key).cloned();
        let base = old.clone().unwrap_or(KeyValue { create_revision: revision, ..KeyValue::default() });
        let kv = KeyValue {
            key: put.key.clone(),
            value: if put.ignore_value { base.value } else { put.value.clone() },
            create_revision: base.create_revision,
            mod_revision: revision,
            version: base.version + 1,
            lease: if put.ignore_lease { base.lease } else { put.lease },
        };
        let event = Event { kind: EventKind::Put, kv, prev_kv: old.clone() };
        self.apply(&event);
        events.push(event);
        PutReply { prev_kv: old.filter(|_| put.prev_kv) }
    }

    pub fn delete(&mut self, keys: Vec<KeyValue>, revision: Revision, events: &mut Vec<Event>) {
        for old in keys {
            let kv = KeyValue { key: old.key.clone(), mod_revision: revision, ..KeyValue::default() };
            let event = Event { kind: EventKind::Delete, kv, prev_kv: Some(old) };
            self.apply(&event);
            events.push(event);
        }
    }

    fn delete_range(
        &mut self,
        delete: &DeleteRequest,
        revision: Revision,
        events: &mut Vec<Event>,
    ) -> DeleteReply {
        let keys = self.within(&delete.range);
        self.delete(keys.clone(), revision, events);
        DeleteReply { deleted: keys.len() as i64, prev_kvs: if delete.prev_kv { keys } else { Vec::new() } }
    }

    fn compare(&self, compare: &Compare) -> bool {
        let kvs = self.within(&compare.range);
        let test = |kv: Option<&KeyValue>| {
            let zero = KeyValue::default();
            let own = kv.unwrap_or(&zero);
            let order = match &compare.target {
                CompareTarget::Version(given) => own.version.cmp(given),
                CompareTarget::Create(given) => own.create_revision.cmp(given),
                CompareTarget::Mod(given) => own.mod_revision.cmp(given),
                CompareTarget::Lease(given) => own.lease.cmp(given),
                CompareTarget::Value(_) if kv.is_none() => return false,
                CompareTarget::Value(given) => own.value.cmp(given),
            };
            match compare.op {
                CompareOp::Equal => order.is_eq(),
                CompareOp::NotEqual => order.is_ne(),
                CompareOp::Greater => order.is_gt(),
                CompareOp::Less => order.is_lt(),
            }
        };
        if kvs.is_empty() { test(None) } else { kvs.iter().all(|kv| test(Some(kv))) }
    }

    /// Runs a request about keys; changes take `revision`.
    pub fn run(&mut self, request: &Request, revision: Revision) -> Result<(ReplyBody, Vec<Event>), Refusal> {
        let mut events = Vec::new();
        let missing = |keys: &Self, put: &PutRequest| {
            (put.ignore_value || put.ignore_lease) && !keys.0.contains_key(&put.key)
        };
        let body = match request {
            Request::Put(put) if missing(self, put) => return Err(Refusal::KeyNotFound),
            Request::Put(put) => ReplyBody::Put(self.put(put, revision, &mut events)),
            Request::Delete(delete) => ReplyBody::Delete(self.delete_range(delete, revision, &mut events)),
            Request::Range(range) => ReplyBody::Range(self.read(range)),
            Request::Txn(txn) => {
                let succeeded = txn.compare.iter().all(|compare| self.compare(compare));
                let branch = if succeeded { &txn.success } else { &txn.failure };
                if branch.iter().any(|op| matches!(op, OpRequest::Put(put) if missing(self, put))) {
                    return Err(Refusal::KeyNotFound);
                }
                let responses = branch
                    .iter()
                    .map(|op| match op {
                        OpRequest::Put(put) => OpReply::Put(self.put(put, revision, &mut events)),
                        OpRequest::Delete(delete) => {
                            OpReply::Delete(self.delete_range(delete, revision, &mut events))
                        }
                        OpRequest::Range(range) => OpReply::Range(self.read(range)),
                    })
                    .collect();
                ReplyBody::Txn(TxnReply { succeeded, responses })
            }
            _ => unreachable!("not about keys"),
        };
        Ok((body, events))
    }
}
