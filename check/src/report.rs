//! What checkers report.

use std::fmt;

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

/// What was found: the first violations in full, all of them counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    violations: Vec<Violation>,
    total: u64,
    cap: usize,
}

impl Report {
    /// An empty report that keeps at most `cap` violations of each rule.
    pub fn new(cap: usize) -> Self {
        Self { violations: Vec::new(), total: 0, cap }
    }

    /// Nothing was found.
    pub fn is_ok(&self) -> bool {
        self.total == 0
    }

    /// The violations kept, in the order found.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How many were found, kept or not.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether a violation of `rule` was found.
    pub fn has(&self, rule: Rule) -> bool {
        self.violations.iter().any(|violation| violation.rule == rule)
    }

    /// Adds what another checker found.
    pub fn merge(&mut self, other: Self) {
        let kept = other.violations.len() as u64;
        for violation in other.violations {
            self.push(violation);
        }
        self.total += other.total - kept;
    }

    /// Adds a violation.
    pub fn push(&mut self, violation: Violation) {
        self.add(violation.rule, || violation.text);
    }

    /// Adds a violation whose text is made only if it is kept.
    pub fn add(&mut self, rule: Rule, text: impl FnOnce() -> String) {
        self.total += 1;
        if self.violations.iter().filter(|violation| violation.rule == rule).count() < self.cap {
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
        writeln!(f, "{} violations, {} shown", self.total, self.violations.len())
    }
}
