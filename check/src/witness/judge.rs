//! Answers against the model at the revision they claim.

use bytes::Bytes;

use super::Replay;
use super::candidates::depends_on;
use crate::context::{Context, branch_of, claimed};
use crate::history::{
    KeyRange, KeyValue, LeaseId, OpReply, OpRequest, Operation, RangeReply, RangeRequest, Reply, ReplyBody,
    Request, Revision,
};
use crate::tell::Text;
use crate::{Report, Rule};

/// The answers that are judged after the change of a revision: all that made no change, and the
/// reads of the past.
pub struct Judgements {
    /// Largest revision first, so that the next is taken from the end.
    todo: Vec<(Revision, u32, Part)>,
}

/// What of an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// All of it but reads of the past.
    Whole,
    /// The range itself, which reads the past.
    Past,
    /// A range that reads the past, by its place in the transaction.
    PastIn(u16),
}

impl Judgements {
    /// Finds out at which revision each answer is judged.
    pub fn schedule(context: &Context, report: &mut Report) -> Self {
        let mut todo = Vec::new();
        for (number, operation, reply) in context.answered() {
            let Ok(number) = u32::try_from(number) else { break };
            if reply.revision < 1 || reply.revision > context.last {
                // The check of real time tells.
                continue;
            }
            let mut past = |range: &RangeRequest, part: Part| {
                if range.revision > reply.revision {
                    report.add(Rule::FutureRevision, || {
                        format!(
                            "a read at a revision that the store had not reached was answered: {operation}"
                        )
                    });
                } else if range.revision > 0 {
                    todo.push((range.revision, number, part));
                }
                range.revision > 0
            };
            match (&operation.request, &reply.body) {
                (Request::Range(range), _) if past(range, Part::Past) => continue,
                (Request::Txn(txn), ReplyBody::Txn(answer)) => {
                    for (place, op) in (0..).zip(branch_of(txn, answer)) {
                        if let OpRequest::Range(range) = op {
                            past(range, Part::PastIn(place));
                        }
                    }
                }
                (Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. }, _)
                | (Request::Compact { .. } | Request::LeaseGrant { .. }, _) => continue,
                _ => {}
            }
            if claimed(reply).is_none() {
                todo.push((reply.revision, number, Part::Whole));
            }
        }
        todo.sort_unstable_by(|a, b| b.cmp(a));
        Self { todo }
    }

    /// Judges what claims `revision`, which was just applied.
    pub fn judge(&mut self, revision: Revision, replay: &mut Replay) {
        while let Some((_, number, part)) = self.todo.pop_if(|(due, ..)| *due <= revision) {
            let operation = &replay.context.history.operations[number as usize];
            let Some(reply) = operation.reply() else { continue };
            match (part, &operation.request, &reply.body) {
                (Part::Past, Request::Range(range), ReplyBody::Range(answer)) => {
                    past(replay, operation, range, answer, revision);
                }
                (Part::PastIn(place), Request::Txn(txn), ReplyBody::Txn(answer)) => {
                    let op = branch_of(txn, answer).get(usize::from(place));
                    if let (Some(OpRequest::Range(range)), Some(OpReply::Range(answer))) =
                        (op, answer.responses.get(usize::from(place)))
                    {
                        past(replay, operation, range, answer, revision);
                    }
                }
                (_, Request::LeaseRevoke { id }, _) => revoked(replay, operation, *id, revision),
                _ => whole(replay, operation, reply, revision),
            }
        }
    }
}

fn whole(replay: &mut Replay, operation: &Operation, reply: &Reply, revision: Revision) {
    if replay.model.has_doubts() && replay.dispel_doubts(operation, reply) {
        return;
    }
    match replay.model.plan(&operation.request, revision + 1) {
        Ok(plan) => {
            if differs(&operation.request, &plan.body, &reply.body) {
                tell_difference(replay, operation, &plan.body, revision);
            }
        }
        Err(refusal) => replay.report.add(Rule::WrongReply, || {
            format!("a store that keeps its promises refuses this ({refusal}), but: {operation}")
        }),
    }
}

fn past(
    replay: &mut Replay,
    operation: &Operation,
    request: &RangeRequest,
    answer: &RangeReply,
    revision: Revision,
) {
    if replay.model.has_doubts() && replay.dispel_doubts_of_range(request, answer) {
        return;
    }
    let expected = replay.model.read(request);
    if expected != *answer {
        tell_difference(replay, operation, &ReplyBody::Range(expected), revision);
    }
}

fn revoked(replay: &mut Replay, operation: &Operation, lease: LeaseId, revision: Revision) {
    let Some(keys) = replay.model.keys_of(lease) else { return };
    if replay.model.has_doubts() || !granted_once(replay.context, lease) {
        return;
    }
    replay.report.add(Rule::WrongReply, || {
        let keys: Vec<String> = keys.iter().take(6).map(|key| Text(key).to_string()).collect();
        format!(
            "a lease was revoked, but at revision {revision} of the answer it still has the keys {}: {operation}",
            keys.join(" ")
        )
    });
}

/// Whether the lease was granted, or asked for, at most once. A number used again may have keys
/// again.
fn granted_once(context: &Context, lease: LeaseId) -> bool {
    let grants =
        context.operations().filter(|(_, operation)| match (&operation.request, operation.reply()) {
            (Request::LeaseGrant { .. }, Some(Reply { body: ReplyBody::LeaseGrant { id, .. }, .. })) => {
                *id == lease
            }
            (Request::LeaseGrant { id, .. }, _) => *id == lease,
            _ => false,
        });
    grants.take(2).count() < 2
}

/// Whether `actual` is another answer than `expected`. Reads of the past inside a transaction are
/// judged elsewhere.
pub fn differs(request: &Request, expected: &ReplyBody, actual: &ReplyBody) -> bool {
    let (Request::Txn(txn), ReplyBody::Txn(expected), ReplyBody::Txn(actual)) = (request, expected, actual)
    else {
        return expected != actual;
    };
    if expected.succeeded != actual.succeeded || expected.responses.len() != actual.responses.len() {
        return true;
    }
    let answers = expected.responses.iter().zip(&actual.responses);
    branch_of(txn, actual).iter().zip(answers).any(|(op, (expected, actual))| {
        !matches!(op, OpRequest::Range(range) if range.revision > 0) && expected != actual
    })
}

/// Reports an answer that is not the model's, with the last change of the first key in question.
pub fn tell_difference(replay: &mut Replay, operation: &Operation, expected: &ReplyBody, revision: Revision) {
    let (context, timeline) = (replay.context, &replay.timeline);
    replay.report.add(Rule::WrongReply, || {
        let actual = operation.reply().map(|reply| &reply.body);
        let key = first_difference(expected, actual)
            .or_else(|| depends_on(&operation.request).into_iter().map(|range| range.start().clone()).next());
        let history = key.and_then(|key| {
            // The index by key is built after the replay.
            let changed = (2..=revision).rev().find(|revision| {
                timeline
                    .get(*revision)
                    .is_some_and(|resolved| resolved.events.iter().any(|event| event.kv.key == key))
            });
            Some(format!("; the last change of {} is {}", Text(&key), timeline.tell(changed?, context)))
        });
        format!(
            "the answer is not the store's at revision {revision}. Expected: {expected}. Got: {operation}{}",
            history.unwrap_or_default()
        )
    });
}

fn first_difference(expected: &ReplyBody, actual: Option<&ReplyBody>) -> Option<Bytes> {
    let (expected, actual) = (kvs_of(expected), kvs_of(actual?));
    let differing = expected.iter().find(|kv| !actual.contains(kv));
    differing.or_else(|| actual.iter().find(|kv| !expected.contains(kv))).map(|kv| kv.key.clone())
}

/// All keys in an answer.
pub fn kvs_of(body: &ReplyBody) -> Vec<&KeyValue> {
    fn of_put(put: &crate::history::PutReply) -> Vec<&KeyValue> {
        put.prev_kv.iter().collect()
    }
    match body {
        ReplyBody::Put(put) => of_put(put),
        ReplyBody::Delete(delete) => delete.prev_kvs.iter().collect(),
        ReplyBody::Range(range) => range.kvs.iter().collect(),
        ReplyBody::Txn(txn) => txn
            .responses
            .iter()
            .flat_map(|response| match response {
                OpReply::Put(put) => of_put(put),
                OpReply::Delete(delete) => delete.prev_kvs.iter().collect(),
                OpReply::Range(range) => range.kvs.iter().collect(),
            })
            .collect(),
        _ => Vec::new(),
    }
}

impl Replay<'_> {
    /// Learns about uncertain keys what an answer says of them. Returns whether some that the
    /// answer depends on stay uncertain, so that it cannot be judged.
    pub(super) fn dispel_doubts(&mut self, operation: &Operation, reply: &Reply) -> bool {
        match (&operation.request, &reply.body) {
            (Request::Range(range), ReplyBody::Range(answer)) => {
                return self.dispel_doubts_of_range(range, answer);
            }
            (Request::Put(put), ReplyBody::Put(answer)) if put.prev_kv => {
                self.learn(&KeyRange::One(put.key.clone()), answer.prev_kv.as_slice());
            }
            (Request::Delete(delete), ReplyBody::Delete(answer)) if delete.prev_kv => {
                self.learn(&delete.range, &answer.prev_kvs);
            }
            _ => {}
        }
        depends_on(&operation.request).iter().any(|range| self.model.doubts(range).next().is_some())
    }

    /// As [`Self::dispel_doubts`] for one range.
    pub(super) fn dispel_doubts_of_range(&mut self, request: &RangeRequest, answer: &RangeReply) -> bool {
        if !request.keys_only && !request.count_only {
            if answer.more {
                for kv in &answer.kvs {
                    self.learn(&KeyRange::One(kv.key.clone()), std::slice::from_ref(kv));
                }
            } else {
                self.learn(&request.range, &answer.kvs);
            }
        }
        self.model.doubts(&request.range).next().is_some()
    }

    /// `kvs` is all that the range holds.
    fn learn(&mut self, range: &KeyRange, kvs: &[KeyValue]) {
        let doubts: Vec<Bytes> = self.model.doubts(range).cloned().collect();
        for key in doubts {
            self.model.set(&key, kvs.iter().find(|kv| kv.key == key).cloned());
        }
    }
}
