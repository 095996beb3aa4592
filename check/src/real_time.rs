//! Real time: nothing is older than what was known before it was asked for.
//!
//! With the replay, which shows that answers fit the order of the revisions, this makes the
//! history strictly serializable: a write asked for after some revision was seen is newer than
//! it, a current read asked for after it is at least as new.

use crate::context::{Context, claimed};
use crate::tell::At;
use crate::witness::Timeline;
use crate::{Report, Rule};

/// Checks the revisions of all answers against each other in time.
pub fn check(context: &Context, timeline: &Timeline, report: &mut Report) {
    for (number, operation, reply) in context.answered() {
        let write = claimed(reply).is_some();
        if reply.revision < 1 || (write && reply.revision < 2) {
            report.add(Rule::WrongReply, || format!("no revision is {}: {operation}", reply.revision));
            continue;
        }
        if reply.revision > context.last {
            let last = context.last;
            if write && context.history.truth.is_some() {
                report.add(Rule::LostWrite, || {
                    format!(
                        "an acknowledged write is not in the committed changes, which end at revision {last}: \
                         {operation}"
                    )
                });
            } else {
                report.add(Rule::FutureRevision, || {
                    format!("this answer claims a revision beyond {last}, the last there can be: {operation}")
                });
            }
            continue;
        }
        let Some((floor, source)) = context.observed.before(operation.invoked) else { continue };
        let stale = if write {
            reply.revision <= floor
        } else {
            operation.request.is_linearizable() && reply.revision < floor
        };
        if stale {
            report.add(Rule::StaleRevision, || {
                let wrong = if write {
                    "a write asked for after that got no newer revision"
                } else {
                    "a current answer asked for after that is older"
                };
                format!(
                    "revision {floor} was known by then ({}), but {wrong}: operation {number}, {operation}",
                    context.tell(source)
                )
            });
        }
    }
    moments(context, timeline, report);
}

/// Where the recorder knows when a change took effect, nobody saw it before.
fn moments(context: &Context, timeline: &Timeline, report: &mut Report) {
    for (revision, resolved) in timeline.iter() {
        let Some(at) = resolved.at else { continue };
        let Some((seen, source)) = context.observed.existed_by(revision) else { continue };
        if seen < at {
            report.add(Rule::OutsideInterval, || {
                format!(
                    "{} took effect at {}, but it, or a later revision, was seen at {} by {}",
                    timeline.tell(revision, context),
                    At(at),
                    At(seen),
                    context.tell(source)
                )
            });
        }
        if let crate::witness::Cause::Operation(number) = resolved.cause {
            let operation = &context.history.operations[number];
            if at < operation.invoked {
                report.add(Rule::OutsideInterval, || {
                    format!(
                        "revision {revision} took effect at {}, before it was asked for: {operation}",
                        At(at)
                    )
                });
            }
        }
    }
}
