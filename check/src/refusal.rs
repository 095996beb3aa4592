//! Refusals that say something about the store must be true.
//!
//! Refusals about leases are judged with the leases.

use crate::context::Context;
use crate::history::{Nanos, OpRequest, Outcome, Refusal, Request, Revision, TxnRequest};
use crate::{Report, Rule};

/// The compactions that were asked for and not refused.
pub struct Compactions {
    /// `(asked, largest revision until then)`, in order of time.
    asked: Vec<(Nanos, Revision)>,
    /// Others may compact too.
    others: bool,
}

impl Compactions {
    /// Collects them.
    pub fn new(context: &Context) -> Self {
        let mut asked: Vec<(Nanos, Revision)> = context
            .operations()
            .filter_map(|(_, operation)| match (&operation.request, &operation.outcome) {
                (_, Outcome::Refused(_)) => None,
                (Request::Compact { revision }, _) => Some((operation.invoked, *revision)),
                _ => None,
            })
            .collect();
        asked.sort_unstable();
        let mut max = 0;
        for (_, revision) in &mut asked {
            max = max.max(*revision);
            *revision = max;
        }
        Self { asked, others: context.settings.other_compactions }
    }

    /// The largest revision that may have been compacted to before `at`; 0 for none.
    pub fn reach(&self, at: Nanos) -> Revision {
        if self.others {
            return Revision::MAX;
        }
        let count = self.asked.partition_point(|(asked, _)| *asked < at);
        count.checked_sub(1).and_then(|index| self.asked.get(index)).map_or(0, |(_, revision)| *revision)
    }
}

/// Checks the refusals of all operations.
pub fn check(context: &Context, compactions: &Compactions, report: &mut Report) {
    for (_, operation) in context.operations() {
        let Outcome::Refused(refusal) = &operation.outcome else { continue };
        let reach = compactions.reach(operation.completed.unwrap_or(Nanos::MAX));
        let floor = context.observed.floor(operation.invoked);
        let true_enough = match (refusal, &operation.request) {
            (Refusal::Compacted, Request::Range(range)) => range.revision > 0 && range.revision < reach,
            // Inside a transaction a negative revision counts as compacted.
            (Refusal::Compacted, Request::Txn(txn)) => {
                reads(txn).any(|revision| revision < 0 || revision > 0 && revision < reach)
            }
            (Refusal::Compacted, Request::Compact { revision }) => *revision <= reach.max(0),
            (Refusal::FutureRevision, Request::Range(range)) => range.serializable || range.revision > floor,
            (Refusal::FutureRevision, Request::Txn(txn)) => {
                !operation.request.is_linearizable() || reads(txn).any(|revision| revision > floor)
            }
            (Refusal::FutureRevision, Request::Compact { revision }) => *revision > floor,
            _ => true,
        };
        if !true_enough {
            report.add(Rule::WrongRefusal, || {
                format!(
                    "this refusal is untrue; no compaction beyond revision {reach} was asked for until then, and \
                     revision {floor} was known when it was asked: {operation}"
                )
            });
        }
    }
}

fn reads(txn: &TxnRequest) -> impl Iterator<Item = Revision> {
    txn.success.iter().chain(&txn.failure).filter_map(|op| match op {
        OpRequest::Range(range) => Some(range.revision),
        OpRequest::Put(_) | OpRequest::Delete(_) => None,
    })
}
