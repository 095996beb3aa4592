//! Revisions that no acknowledged write claims, in a history without ground truth.
//!
//! What was seen of such a revision (a key that says it was changed there, an event of a watch)
//! is its evidence. If just one write of unknown outcome, or just one lease, can have made what
//! was seen, it did. If several can, what they may have touched becomes uncertain. If none can,
//! the revision has no right to exist.

use std::collections::HashMap;

use super::candidates::{depends_on, same_changes, writes};
use super::judge::kvs_of;
use super::{Cause, Replay, Resolved};
use crate::context::Context;
use crate::history::{
    Change, Event, EventKind, KeyValue, LeaseId, OpReply, OpRequest, Reply, ReplyBody, Request, Revision,
};
use crate::history::{Operation, WatchMessage};

/// What was seen of the revisions that nobody claims.
#[derive(Debug, Default)]
pub struct Evidence {
    seen: HashMap<Revision, Vec<Event>>,
}

impl Evidence {
    /// Collects what the history saw of the revisions that are `wanted`.
    pub fn collect(context: &Context, wanted: impl Fn(Revision) -> bool) -> Self {
        let mut evidence = Self::default();
        let add_kv = |kv: &KeyValue, evidence: &mut Self| {
            if wanted(kv.mod_revision) {
                evidence.add(Event { kind: EventKind::Put, kv: kv.clone(), prev_kv: None });
            }
        };
        for (_, operation, reply) in context.answered() {
            if !shows_values(operation, &reply.body) {
                continue;
            }
            for kv in kvs_of(&reply.body) {
                add_kv(kv, &mut evidence);
            }
        }
        for message in context.history.watches.iter().flat_map(|watch| &watch.messages) {
            let WatchMessage::Events { events, .. } = message else { continue };
            for event in events {
                if let Some(prev) = &event.prev_kv {
                    add_kv(prev, &mut evidence);
                }
                if wanted(event.revision()) {
                    evidence.add(Event { prev_kv: None, ..event.clone() });
                }
            }
        }
        evidence
    }

    fn add(&mut self, event: Event) {
        let events = self.seen.entry(event.revision()).or_default();
        // The first that is seen of a key counts; a second that differs is told by the check of
        // contents.
        if !events.iter().any(|seen| seen.kv.key == event.kv.key) {
            events.push(event);
        }
    }
}

/// Reads of keys only show no values.
fn shows_values(operation: &Operation, body: &ReplyBody) -> bool {
    match (&operation.request, body) {
        (Request::Range(range), _) => !range.keys_only,
        (Request::Txn(txn), ReplyBody::Txn(answer)) => {
            !crate::context::branch_of(txn, answer).iter().zip(&answer.responses).any(|(op, response)| {
                matches!((op, response), (OpRequest::Range(range), OpReply::Range(_)) if range.keys_only)
            })
        }
        _ => true,
    }
}

/// Something that can have made the change of a hole.
enum Maker {
    Operation(usize),
    Lease(LeaseId),
}

impl Replay<'_> {
    /// A revision that nobody claims and no ground truth describes.
    pub(super) fn step_hole(&mut self, revision: Revision) -> Resolved {
        let seen = self.evidence.seen.remove(&revision).unwrap_or_default();
        let mut makers: Vec<(Maker, Option<Vec<Event>>)> = Vec::new();
        for number in self.suspects(&seen, revision) {
            makers.push((Maker::Operation(number), self.certain_plan(number, revision)));
        }
        if seen.iter().all(|event| event.kind == EventKind::Delete) {
            let leases: Vec<LeaseId> = self.model.leases().collect();
            for lease in leases {
                let plan = self.model.plan_lease_end(lease, revision);
                if contains_all(&plan, &seen) {
                    makers.push((Maker::Lease(lease), Some(plan)));
                }
            }
        }
        let certain = match makers.as_slice() {
            // With doubts a key's lease may be another than the model's.
            [] if self.model.has_doubts() => None,
            [] => {
                let change = Change { revision, events: seen.clone(), at: None };
                self.tell_unexplained(&change, revision);
                None
            }
            // An uncertain key may hang on a lease whose end is missing among the makers.
            [_] if self.model.has_doubts() && seen.iter().all(|event| event.kind == EventKind::Delete) => {
                None
            }
            [(maker, plan)] => plan.clone().map(|plan| {
                let cause = match maker {
                    Maker::Operation(number) => {
                        self.placed[*number] = true;
                        Cause::Operation(*number)
                    }
                    Maker::Lease(lease) => Cause::LeaseEnd(*lease),
                };
                (cause, plan)
            }),
            [(_, first), rest @ ..] => first.clone().and_then(|first| {
                let agree =
                    rest.iter().all(|(_, plan)| plan.as_ref().is_some_and(|plan| same_changes(plan, &first)));
                agree.then_some((Cause::Several, first))
            }),
        };
        if let Some((cause, mut events)) = certain {
            self.apply(&mut events);
            return Resolved { events, at: None, cause, known: true, prev_known: !self.model.has_doubts() };
        }
        for (maker, plan) in makers {
            for event in plan.into_iter().flatten() {
                self.model.doubt(event.kv.key);
            }
            if let Maker::Operation(number) = maker {
                self.doubt_all(&self.context.history.operations[number].request);
            }
        }
        let mut events = seen;
        self.apply(&mut events);
        Resolved { events, at: None, cause: Cause::Several, known: false, prev_known: false }
    }

    /// An acknowledged write that depends on uncertain keys. Its answer says which branch of a
    /// transaction ran; what it writes stays uncertain.
    pub(super) fn step_in_doubt(
        &mut self,
        number: usize,
        operation: &Operation,
        reply: &Reply,
        revision: Revision,
    ) -> Resolved {
        let plan = match (&operation.request, &reply.body) {
            (Request::Txn(txn), ReplyBody::Txn(answer)) => {
                self.model.plan_branch(txn, answer.succeeded, revision)
            }
            _ => self.model.plan(&operation.request, revision),
        };
        let mut events = Vec::new();
        match plan {
            Ok(plan) => {
                events = plan.events;
                self.apply(&mut events);
                for event in events.iter().filter(|event| event.kind == EventKind::Put) {
                    self.model.doubt(event.kv.key.clone());
                }
            }
            // A refusal, too, depends on uncertain keys.
            Err(_) => self.doubt_all(&operation.request),
        }
        Resolved { events, at: None, cause: Cause::Operation(number), known: false, prev_known: false }
    }

    /// Makes every key uncertain that the request may write.
    fn doubt_all(&mut self, request: &Request) {
        let (puts, deletes) = writes(request);
        let live = deletes.iter().flat_map(|range| self.model.range(range)).map(|kv| kv.key.clone());
        for key in puts.into_iter().chain(live.collect::<Vec<_>>()) {
            self.model.doubt(key);
        }
    }

    /// The unknown operations that can have changed something at `revision`, of which `seen` is a
    /// part.
    fn suspects(&self, seen: &[Event], revision: Revision) -> Vec<usize> {
        let fits = |operation: &Operation, number: usize| {
            !self.placed[number]
                && self.context.observed.floor(operation.invoked) < revision
                && match self.certain_plan(number, revision) {
                    Some(plan) => !plan.is_empty() && contains_all(&plan, seen),
                    None => true,
                }
        };
        if !seen.is_empty() {
            let found = self.candidates.explain(seen, fits);
            return found.into_iter().map(|number| number as usize).collect();
        }
        let operations = &self.context.history.operations;
        let all = self.candidates.all().iter().map(|number| *number as usize);
        all.filter(|number| fits(&operations[*number], *number)).collect()
    }

    /// What the operation would change, `None` if that hangs on uncertain keys. A refusal changes
    /// nothing.
    fn certain_plan(&self, number: usize, revision: Revision) -> Option<Vec<Event>> {
        let request = &self.context.history.operations[number].request;
        if self.model.has_doubts()
            && depends_on(request).iter().any(|range| self.model.doubts(range).next().is_some())
        {
            return None;
        }
        Some(self.model.plan(request, revision).map_or_else(|_| Vec::new(), |plan| plan.events))
    }
}

fn contains_all(plan: &[Event], seen: &[Event]) -> bool {
    seen.iter().all(|event| plan.iter().any(|planned| planned.kind == event.kind && planned.kv == event.kv))
}
