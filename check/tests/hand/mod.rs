//! Histories by hand, and what is said of them.

#![allow(dead_code)]

use folkmoot_check::history::*;
use folkmoot_check::{Report, Rule, Settings, check};

pub const SECOND: Nanos = 1_000_000_000;

pub fn kv(key: &str, value: &str, create: Revision, modified: Revision, version: i64) -> KeyValue {
    KeyValue {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        create_revision: create,
        mod_revision: modified,
        version,
        lease: 0,
    }
}

pub fn operation(times: (Nanos, Nanos), request: Request, outcome: Outcome) -> Operation {
    Operation { client: 1, member: 1, invoked: times.0, completed: Some(times.1), request, outcome }
}

pub fn ok(revision: Revision, body: ReplyBody) -> Outcome {
    Outcome::Ok(Reply { revision, body })
}

pub fn put_request(key: &str, value: &str, lease: LeaseId) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..PutRequest::default() }
}

/// A put without an answer.
pub fn lost_put(times: (Nanos, Nanos), key: &str, value: &str) -> Operation {
    operation(times, Request::Put(put_request(key, value, 0)), Outcome::Unknown)
}

pub fn put(times: (Nanos, Nanos), key: &str, value: &str, revision: Revision) -> Operation {
    put_on(times, key, value, 0, revision)
}

pub fn put_on(
    times: (Nanos, Nanos),
    key: &str,
    value: &str,
    lease: LeaseId,
    revision: Revision,
) -> Operation {
    let request = Request::Put(put_request(key, value, lease));
    operation(times, request, ok(revision, ReplyBody::Put(PutReply::default())))
}

pub fn delete(times: (Nanos, Nanos), key: &str, deleted: i64, revision: Revision) -> Operation {
    let request = DeleteRequest { range: KeyRange::one(key.to_owned()), prev_kv: false };
    let reply = DeleteReply { deleted, prev_kvs: vec![] };
    operation(times, Request::Delete(request), ok(revision, ReplyBody::Delete(reply)))
}

pub fn get(times: (Nanos, Nanos), key: &str, found: &[KeyValue], revision: Revision) -> Operation {
    let request = RangeRequest::new(KeyRange::one(key.to_owned()));
    let reply = RangeReply { kvs: found.to_vec(), count: found.len() as i64, more: false };
    operation(times, Request::Range(request), ok(revision, ReplyBody::Range(reply)))
}

pub fn serializable(mut operation: Operation) -> Operation {
    if let Request::Range(range) = &mut operation.request {
        range.serializable = true;
    }
    operation
}

pub fn at_revision(mut operation: Operation, revision: Revision) -> Operation {
    if let Request::Range(range) = &mut operation.request {
        range.revision = revision;
    }
    operation
}

pub fn history(operations: Vec<Operation>) -> History {
    History { operations, ..History::default() }
}

pub fn change(revision: Revision, events: Vec<Event>) -> Change {
    Change { revision, events, at: None }
}

pub fn put_event(kv: KeyValue) -> Event {
    Event { kind: EventKind::Put, kv, prev_kv: None }
}

pub fn delete_event(key: &str, revision: Revision) -> Event {
    let kv = KeyValue { key: key.to_owned().into(), mod_revision: revision, ..KeyValue::default() };
    Event { kind: EventKind::Delete, kv, prev_kv: None }
}

pub fn judge(history: &History) -> Report {
    check(history, &Settings::default())
}

#[track_caller]
pub fn fine(history: &History) {
    let report = judge(history);
    assert!(report.is_ok(), "{report}");
}

/// The fault is told under `rule`, in words that hold all of `words`.
#[track_caller]
pub fn told(history: &History, rule: Rule, words: &[&str]) {
    let report = judge(history);
    let mut of_rule = report.violations().iter().filter(|violation| violation.rule == rule);
    let found = of_rule.any(|violation| words.iter().all(|word| violation.text.contains(word)));
    assert!(found, "{rule:?} is not told with {words:?}\n{report}");
}
