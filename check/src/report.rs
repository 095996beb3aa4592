//! What checkers report.

use std::collections::BTreeMap;
use std::fmt;

use crate::context::{Context, claimed};
use crate::history::{Outcome, WatchMessage};
use crate::witness::{Cause, Timeline};

/// The promise that was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// The history contradicts itself before any store is asked: an answer of another kind than
    /// its request, a completion before the invocation. The recorder is wrong.
    Recording,
    /// The committed changes do not follow each other without gap and repetition from revision 2.
    RevisionSequence,
    /// Two acknowledged writes claim one revision.
    RevisionClaimedTwice,
    /// An answer differs from the reference model's at its revision.
    WrongReply,
    /// An operation claims an older revision than was acknowledged before it began, or a write
    /// one that is not newer.
    StaleRevision,
    /// An operation claims a revision that the store had not reached.
    FutureRevision,
    /// A change took effect after it was acknowledged or seen, or before it was asked for.
    OutsideInterval,
    /// A committed change that no operation and no end of a lease explains.
    UnexplainedChange,
    /// An operation that was refused took effect.
    RefusedTookEffect,
    /// A refusal whose reason is untrue.
    WrongRefusal,
    /// A change is not what the acknowledged operation of its revision does, for example only a
    /// part of a transaction.
    TornChange,
    /// An acknowledged write is missing in the committed changes.
    LostWrite,
    /// A watch delivered an older revision after a newer one, or events of one revision in
    /// another order than they were made.
    WatchOrder,
    /// A watch delivered an event twice.
    WatchDuplicate,
    /// A watch left out an event between its start and what it delivered, or said it delivered.
    WatchGap,
    /// A watch delivered a part of a revision.
    WatchTorn,
    /// A watch delivered something that did not happen so, or outside of its range, filters or
    /// start.
    WatchWrongEvent,
    /// An event's previous value is wrong or missing.
    WatchPrevKv,
    /// A progress message, or a header, was ahead of undelivered events.
    WatchProgress,
    /// A watch was cancelled for a compaction that did not concern it or did not happen, or went
    /// on after that.
    WatchCompaction,
    /// A lease ended before its time.
    LeaseEarly,
    /// A lease was alive long after its time.
    LeaseLate,
    /// A lease was renewed or used after its end.
    LeaseAfterEnd,
    /// A guarded resource accepted an older token after a newer one.
    FenceOrder,
    /// A client believed to hold a lock that it did not hold.
    LockExclusion,
    /// A client saw the revision of one member go back.
    SessionOrder,
    /// Two different contents of one key at one revision.
    ContentDiffers,
    /// Two members in different states after the same log entry.
    StateHash,
}

/// One broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// What happened, with the operations involved, for people.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// How much was judged. A report without violations on next to nothing proves next to nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Operations in the history.
    pub operations: u64,
    /// Answered.
    pub answered: u64,
    /// Answered and changed something.
    pub writes: u64,
    /// Of unknown outcome.
    pub unknown: u64,
    /// Of unknown outcome, and certainly took effect.
    pub unknown_took_effect: u64,
    /// Changes made by the end of a lease.
    pub lease_ends: u64,
    /// Revisions.
    pub revisions: u64,
    /// Revisions whose changes are not known in full, so that they could not be judged.
    pub doubtful_revisions: u64,
    /// Events that watches delivered.
    pub watch_events: u64,
    /// Times a watch was resumed.
    pub watch_resumes: u64,
    /// Watches cancelled by compaction.
    pub watch_compactions: u64,
    /// Times a client held a lock.
    pub holds: u64,
}

impl Counts {
    /// Adds another history's.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.answered += other.answered;
        self.writes += other.writes;
        self.unknown += other.unknown;
        self.unknown_took_effect += other.unknown_took_effect;
        self.lease_ends += other.lease_ends;
        self.revisions += other.revisions;
        self.doubtful_revisions += other.doubtful_revisions;
        self.watch_events += other.watch_events;
        self.watch_resumes += other.watch_resumes;
        self.watch_compactions += other.watch_compactions;
        self.holds += other.holds;
    }
}

/// Counts what was judged.
pub(crate) fn count(context: &Context, timeline: &Timeline) -> Counts {
    let mut counts = Counts { holds: context.history.holds.len() as u64, ..Counts::default() };
    for operation in &context.history.operations {
        counts.operations += 1;
        match &operation.outcome {
            Outcome::Ok(reply) => {
                counts.answered += 1;
                counts.writes += u64::from(claimed(reply).is_some());
            }
            Outcome::Unknown => counts.unknown += 1,
            Outcome::Refused(_) => {}
        }
    }
    for (_, resolved) in timeline.iter() {
        counts.revisions += 1;
        counts.doubtful_revisions += u64::from(!resolved.known);
        match resolved.cause {
            Cause::Operation(number) => {
                let unknown = context.history.operations[number].outcome == Outcome::Unknown;
                counts.unknown_took_effect += u64::from(unknown);
            }
            Cause::LeaseEnd(_) => counts.lease_ends += 1,
            Cause::Several | Cause::Nothing => {}
        }
    }
    for message in context.history.watches.iter().flat_map(|watch| &watch.messages) {
        match message {
            WatchMessage::Events { events, .. } => counts.watch_events += events.len() as u64,
            WatchMessage::Resumed { .. } => counts.watch_resumes += 1,
            WatchMessage::Compacted { .. } => counts.watch_compactions += 1,
            _ => {}
        }
    }
    counts
}

/// What was found: the first violations in full, all of them counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    violations: Vec<Violation>,
    found: BTreeMap<Rule, u64>,
    cap: u64,
    /// How much was judged.
    pub counts: Counts,
}

impl Report {
    /// An empty report that keeps at most `cap` violations of each rule.
    pub fn new(cap: u64) -> Self {
        Self { violations: Vec::new(), found: BTreeMap::new(), cap, counts: Counts::default() }
    }

    /// Nothing was found.
    pub fn is_ok(&self) -> bool {
        self.found.is_empty()
    }

    /// The violations kept, in the order found.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How many were found of each rule, kept or not.
    pub fn found(&self) -> &BTreeMap<Rule, u64> {
        &self.found
    }

    /// How many were found, kept or not.
    pub fn total(&self) -> u64 {
        self.found.values().sum()
    }

    /// Whether a violation of `rule` was found.
    pub fn has(&self, rule: Rule) -> bool {
        self.found.contains_key(&rule)
    }

    /// Adds what was found in another history.
    pub fn merge(&mut self, other: Self) {
        self.counts.add(&other.counts);
        let mut beyond = other.found;
        for violation in other.violations {
            if let Some(count) = beyond.get_mut(&violation.rule) {
                *count = count.saturating_sub(1);
            }
            self.push(violation);
        }
        for (rule, count) in beyond.into_iter().filter(|(_, count)| *count > 0) {
            *self.found.entry(rule).or_default() += count;
        }
    }

    /// Adds a violation.
    pub fn push(&mut self, violation: Violation) {
        self.add(violation.rule, || violation.text);
    }

    /// Adds a violation whose text is made only if it is kept.
    pub fn add(&mut self, rule: Rule, text: impl FnOnce() -> String) {
        let found = self.found.entry(rule).or_default();
        *found += 1;
        if *found <= self.cap {
            self.violations.push(Violation { rule, text: text() });
        }
    }
}

impl Default for Report {
    /// Keeps 20 of each rule.
    fn default() -> Self {
        Self::new(20)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ok() {
            return f.write_str("no violation\n");
        }
        for violation in &self.violations {
            writeln!(f, "{violation}\n")?;
        }
        writeln!(f, "{} violations, {} shown: {:?}", self.total(), self.violations.len(), self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_reports_adds_what_was_not_kept() {
        let (mut a, mut b) = (Report::new(2), Report::new(2));
        for report in [&mut a, &mut b] {
            for _ in 0..5 {
                report.add(Rule::LostWrite, || "lost".into());
            }
        }
        b.add(Rule::WatchGap, || "gap".into());
        a.merge(b);
        assert_eq!((a.total(), a.violations().len()), (11, 3));
        assert!(a.has(Rule::WatchGap) && !a.is_ok());
        assert!(a.to_string().contains("LostWrite: 10"));
    }
}
