//! The order of all changes, with the revision as its witness, and the replay of it.
//!
//! Every answer carries a revision, so nothing has to be searched: the writes are put in the
//! order of their revisions and replayed on the reference [`Model`]; an answer must be the
//! model's at the revision it claims. Only writes of unknown outcome, and the ends of leases,
//! have to be found a place: in ground truth by what they changed ([`candidates`]), without it by
//! what was seen of them ([`holes`]).

mod candidates;
mod holes;
mod judge;
mod matching;

use std::collections::HashMap;

use bytes::Bytes;

use crate::context::{Context, claimed};
use crate::history::{Change, Event, LeaseId, Nanos, Operation, Refusal, Revision};
use crate::model::{Model, Plan};
use crate::tell::{List, Text};
use crate::{Report, Rule};
use candidates::{Candidates, same_changes};
use holes::Evidence;
use judge::Judgements;
use matching::Matching;

/// All changes in their order, each with its cause.
#[derive(Debug, Default)]
pub struct Timeline {
    changes: Vec<Resolved>,
    /// Per key the revisions that changed it, with the position of the event.
    by_key: HashMap<Bytes, Vec<(Revision, u32)>>,
    /// Some revisions are not known in full.
    has_unknown: bool,
}

/// One revision.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The changes, each with the key before it.
    pub events: Vec<Event>,
    /// When it happened, if the recorder knows.
    pub at: Option<Nanos>,
    /// Why it happened.
    pub cause: Cause,
    /// `events` is all that changed. Otherwise it is what was seen of it.
    pub known: bool,
    /// The keys before are certain.
    pub prev_known: bool,
}

/// Why a change happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The operation of this number.
    Operation(usize),
    /// A lease ended, and nothing else explains it.
    LeaseEnd(LeaseId),
    /// More than one thing can have caused it.
    Several,
    /// Nothing is known to have caused it.
    Nothing,
}

impl Timeline {
    /// The largest revision.
    pub fn last(&self) -> Revision {
        i64::try_from(self.changes.len()).unwrap_or(i64::MAX - 1) + 1
    }

    /// A revision from 2 to [`Self::last`].
    pub fn get(&self, revision: Revision) -> Option<&Resolved> {
        self.changes.get(usize::try_from(revision.checked_sub(2)?).ok()?)
    }

    /// All revisions from 2 on.
    pub fn iter(&self) -> impl Iterator<Item = (Revision, &Resolved)> {
        (2..).zip(&self.changes)
    }

    /// The changes of one key at or after `from`.
    pub fn of_key_from(&self, key: &[u8], from: Revision) -> impl Iterator<Item = (Revision, &Event)> {
        let places = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        let first = places.partition_point(|(revision, _)| *revision < from);
        places[first..].iter().filter_map(|(revision, index)| {
            Some((*revision, self.get(*revision)?.events.get(*index as usize)?))
        })
    }

    /// All keys that ever changed.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.by_key.keys()
    }

    /// The last change of `key` at or before `revision`.
    pub fn key_at(&self, key: &[u8], revision: Revision) -> Option<(Revision, &Event)> {
        let places = self.by_key.get(key)?;
        let count = places.partition_point(|(changed, _)| *changed <= revision);
        let (changed, index) = *places.get(count.checked_sub(1)?)?;
        Some((changed, self.get(changed)?.events.get(index as usize)?))
    }

    /// Whether some revisions are not known in full.
    pub fn has_unknown(&self) -> bool {
        self.has_unknown
    }

    /// A change in words.
    pub fn tell(&self, revision: Revision, context: &Context) -> String {
        let Some(resolved) = self.get(revision) else { return format!("revision {revision}") };
        let events = List(&resolved.events);
        match resolved.cause {
            Cause::Operation(index) => {
                format!("revision {revision} {events} by {}", context.history.operations[index])
            }
            Cause::LeaseEnd(lease) => format!("revision {revision} {events} by the end of lease {lease:x}"),
            Cause::Several | Cause::Nothing => format!("revision {revision} {events}"),
        }
    }

    fn push(&mut self, resolved: Resolved) {
        self.has_unknown |= !resolved.known;
        self.changes.push(resolved);
    }

    /// Builds the index by key when all causes are settled.
    fn index(&mut self) {
        for (revision, resolved) in (2..).zip(&self.changes) {
            for (index, event) in (0..).zip(&resolved.events) {
                self.by_key.entry(event.kv.key.clone()).or_default().push((revision, index));
            }
        }
    }
}

/// The replay.
struct Replay<'a> {
    context: &'a Context<'a>,
    report: &'a mut Report,
    model: Model,
    timeline: Timeline,
    /// Committed changes by revision - 2, where there is ground truth.
    truth: Vec<Option<&'a Change>>,
    /// The number of the operation that claims a revision, by revision - 2.
    claims: Vec<Option<u32>>,
    candidates: Candidates<'a>,
    /// The refused writes, gathered when they are first looked for: most histories need none.
    refused: Option<Candidates<'a>>,
    matching: Matching,
    evidence: Evidence,
    /// Unknown operations that were found a place for certain.
    placed: Vec<bool>,
}

/// Replays `context`'s history and says where an answer or a change is not the model's.
pub fn replay(context: &Context, report: &mut Report) -> Timeline {
    let revisions = usize::try_from(context.last - 1).unwrap_or(0);
    let truth = place_truth(context, revisions, report);
    let claims = place_claims(context, revisions, report);
    let evidence = if context.history.truth.is_some() {
        Evidence::default()
    } else {
        Evidence::collect(context, |revision| {
            usize::try_from(revision - 2).is_ok_and(|index| claims.get(index).is_some_and(Option::is_none))
        })
    };
    let mut replay = Replay {
        context,
        report,
        model: Model::new(),
        timeline: Timeline::default(),
        truth,
        claims,
        candidates: Candidates::unknown(context),
        refused: None,
        matching: Matching::default(),
        evidence,
        placed: vec![false; context.history.operations.len()],
    };
    let mut judgements = Judgements::schedule(context, replay.report);
    judgements.judge(1, &mut replay);
    for revision in 2..=context.last {
        replay.step(revision);
        judgements.judge(revision, &mut replay);
    }
    replay.settle();
    let mut timeline = replay.timeline;
    timeline.index();
    timeline
}

fn place_truth<'a>(context: &Context<'a>, revisions: usize, report: &mut Report) -> Vec<Option<&'a Change>> {
    let mut places = vec![None; revisions];
    let mut next = 2;
    for change in context.history.truth.iter().flatten() {
        if change.revision != next {
            report.add(Rule::RevisionSequence, || {
                format!(
                    "the committed changes go from revision {} to revision {}: {change}; each changing command \
                     makes exactly one revision, the next one",
                    next - 1,
                    change.revision
                )
            });
        }
        let of_others = change.events.iter().any(|event| event.revision() != change.revision);
        if change.events.is_empty() || of_others {
            report.add(Rule::RevisionSequence, || {
                format!("a committed change is empty or holds events of another revision: {change}")
            });
        }
        next = change.revision.saturating_add(1);
        let place = usize::try_from(change.revision - 2).ok().and_then(|index| places.get_mut(index));
        if let Some(place) = place {
            place.get_or_insert(change);
        }
    }
    places
}

fn place_claims(context: &Context, revisions: usize, report: &mut Report) -> Vec<Option<u32>> {
    let mut places: Vec<Option<u32>> = vec![None; revisions];
    let operations = &context.history.operations;
    for (number, operation, reply) in context.answered() {
        let Some(revision) = claimed(reply) else { continue };
        let Some(place) = usize::try_from(revision - 2).ok().and_then(|index| places.get_mut(index)) else {
            // Above the last revision: the check of real time tells.
            continue;
        };
        match place {
            None => *place = u32::try_from(number).ok(),
            Some(first) => report.add(Rule::RevisionClaimedTwice, || {
                format!(
                    "two acknowledged writes claim revision {revision}: {}; and {operation}",
                    operations[*first as usize]
                )
            }),
        }
    }
    places
}

impl<'a> Replay<'a> {
    fn step(&mut self, revision: Revision) {
        let index = self.timeline.changes.len();
        let truth = self.truth.get(index).copied().flatten();
        let claim = self.claims.get(index).copied().flatten();
        let resolved = match (claim, truth) {
            (Some(number), _) => self.step_claimed(number as usize, truth, revision),
            (None, Some(change)) => self.step_found(change, revision),
            (None, None) if self.context.history.truth.is_some() => unknown_change(),
            (None, None) => self.step_hole(revision),
        };
        self.timeline.push(resolved);
    }

    /// Applies `events` and writes into them the keys before.
    fn apply(&mut self, events: &mut [Event]) {
        for event in events.iter_mut() {
            event.prev_kv = self.model.get(&event.kv.key).cloned();
            self.model.apply(std::slice::from_ref(event));
        }
    }

    /// A change that an acknowledged operation claims.
    fn step_claimed(&mut self, number: usize, truth: Option<&Change>, revision: Revision) -> Resolved {
        let operation = &self.context.history.operations[number];
        let Some(reply) = operation.reply() else { return unknown_change() };
        if self.model.has_doubts() && self.dispel_doubts(operation, reply) {
            return self.step_in_doubt(number, operation, reply, revision);
        }
        let mut known = true;
        let mut events = match self.plan(operation, revision) {
            Ok(plan) => {
                if judge::differs(&operation.request, &plan.body, &reply.body) {
                    judge::tell_difference(self, operation, &plan.body, revision);
                }
                plan.events
            }
            Err(refusal) => {
                self.report.add(Rule::WrongReply, || {
                    format!("a store that keeps its promises refuses this ({refusal}), but: {operation}")
                });
                known = false;
                Vec::new()
            }
        };
        if let Some(change) = truth {
            if known && !same_changes(&events, &change.events) {
                self.tell_torn(operation, &events, change);
            }
            events = change.events.clone();
            known = true;
        }
        self.apply(&mut events);
        let at = truth.and_then(|change| change.at);
        Resolved { events, at, cause: Cause::Operation(number), known, prev_known: true }
    }

    fn plan(&self, operation: &Operation, revision: Revision) -> Result<Plan, Refusal> {
        self.model.plan(&operation.request, revision)
    }

    /// A committed change that no acknowledged operation claims.
    fn step_found(&mut self, change: &'a Change, revision: Revision) -> Resolved {
        let found = self.candidates.explain(&change.events, |operation, number| {
            self.context.observed.floor(operation.invoked) < revision
                && change.at.is_none_or(|at| operation.invoked <= at)
                && !self.placed[number]
                && self.plan(operation, revision).is_ok_and(|plan| same_changes(&plan.events, &change.events))
        });
        let lease = self.lease_ended_by(&change.events, revision);
        let cause = match (found.len(), lease) {
            (0, Some(lease)) => Cause::LeaseEnd(lease),
            (0, None) => {
                self.tell_unexplained(change, revision);
                Cause::Nothing
            }
            (_, Some(_)) => Cause::Several,
            (_, None) => {
                self.matching.add(revision, found);
                Cause::Several
            }
        };
        let mut events = change.events.clone();
        self.apply(&mut events);
        Resolved { events, at: change.at, cause, known: true, prev_known: true }
    }

    /// The lease whose end makes exactly these changes.
    fn lease_ended_by(&self, events: &[Event], revision: Revision) -> Option<LeaseId> {
        let lease = self.model.get(&events.first()?.kv.key)?.lease;
        (lease != 0 && same_changes(&self.model.plan_lease_end(lease, revision), events)).then_some(lease)
    }

    /// Gives each change its unknown operation, each operation at most one change.
    fn settle(&mut self) {
        for (revision, candidates, operation) in self.matching.solve() {
            match operation {
                Some(number) => {
                    let place = usize::try_from(revision - 2)
                        .ok()
                        .and_then(|index| self.timeline.changes.get_mut(index));
                    if let Some(resolved) = place {
                        resolved.cause = Cause::Operation(number);
                    }
                }
                None => {
                    let (context, timeline) = (self.context, &self.timeline);
                    self.report.add(Rule::UnexplainedChange, || {
                        format!(
                            "{} is explained only by operations of unknown outcome that also have to explain other \
                             changes: one of them took effect twice, for example {}",
                            timeline.tell(revision, context),
                            candidates
                                .first()
                                .map_or_else(String::new, |number| context.history.operations[*number as usize].to_string())
                        )
                    });
                }
            }
        }
    }

    fn tell_torn(&mut self, operation: &Operation, expected: &[Event], change: &Change) {
        let partly = change.events.iter().any(|event| {
            expected.iter().any(|other| other.kind == event.kind && other.kv.key == event.kv.key)
        });
        if partly {
            self.report.add(Rule::TornChange, || {
                format!(
                    "an acknowledged write should have committed {}, but committed was {change}: {operation}",
                    List(expected)
                )
            });
        } else {
            self.report.add(Rule::LostWrite, || {
                format!(
                    "an acknowledged write is not in the committed changes; at its revision stands another: \
                     {change}; the write: {operation}"
                )
            });
        }
    }

    fn tell_unexplained(&mut self, change: &Change, revision: Revision) {
        let context = self.context;
        let model = &self.model;
        let refused = self.refused.get_or_insert_with(|| Candidates::refused(context));
        let refused = refused.explain(&change.events, |operation, _| {
            model
                .plan(&operation.request, revision)
                .is_ok_and(|plan| same_changes(&plan.events, &change.events))
        });
        if let Some(number) = refused.first() {
            let operation = &context.history.operations[*number as usize];
            self.report.add(Rule::RefusedTookEffect, || {
                format!(
                    "committed was {change}, and only an operation that was refused does that: {operation}"
                )
            });
            return;
        }
        self.report.add(Rule::UnexplainedChange, || {
            let before: Vec<String> = change
                .events
                .iter()
                .take(4)
                .map(|event| match model.get(&event.kv.key) {
                    Some(kv) => format!("before it {kv}"),
                    None => "before it absent".into(),
                })
                .collect();
            let first = change.events.first().and_then(|event| model.get(&event.kv.key));
            let leased = first.and_then(|kv| Some((kv.lease, model.keys_of(kv.lease)?)));
            let lease = leased.map_or_else(String::new, |(lease, keys)| {
                let keys: Vec<String> = keys.iter().take(6).map(|key| Text(key).to_string()).collect();
                format!(" (lease {lease:x} had {})", keys.join(" "))
            });
            format!(
                "committed was {change} ({}); no acknowledged operation claims this revision, no operation of \
                 unknown outcome does that to the state before it, and it is not the end of a lease with all of \
                 its keys in order{lease}",
                before.join(", ")
            )
        });
    }
}

fn unknown_change() -> Resolved {
    Resolved { events: Vec::new(), at: None, cause: Cause::Nothing, known: false, prev_known: false }
}
