//! Locks: who believes to hold one does, and an older token is never taken after a newer one.

use std::collections::HashMap;

use bytes::Bytes;

use crate::context::Context;
use crate::history::{EventKind, KeyRange, LockHold, Revision};
use crate::tell::{At, Text};
use crate::witness::Timeline;
use crate::{Report, Rule};

/// Checks the uses of every guarded resource, in their order.
pub fn check_fences(context: &Context, report: &mut Report) {
    let mut newest: HashMap<&Bytes, usize> = HashMap::new();
    let uses = &context.history.fence_uses;
    for (number, used) in uses.iter().enumerate() {
        if !used.accepted {
            continue;
        }
        let newest = newest.entry(&used.resource).or_insert(number);
        let before = &uses[*newest];
        if used.token > before.token {
            *newest = number;
        } else if used.token < before.token || used.client != before.client {
            report.add(Rule::FenceOrder, || {
                format!(
                    "resource {} took token {} of client {} at {} after it took token {} of client {} at {}; it \
                     must refuse tokens smaller than the largest it saw, and no two clients have the same",
                    Text(&used.resource),
                    used.token,
                    used.client,
                    At(used.at),
                    before.token,
                    before.client,
                    At(before.at)
                )
            });
        }
    }
}

/// Checks that each holder's key was the oldest of its lock when it was told so, and that tokens
/// grow from holder to holder.
///
/// Two clients may still believe at one time: when a key was deleted by somebody else, or its
/// lease ended while its client slept. That is what tokens are for. A lease that ended early is
/// told by the check of leases.
pub fn check_holds(context: &Context, timeline: &Timeline, report: &mut Report) {
    if context.history.holds.is_empty() {
        return;
    }
    let mut keys: Vec<&Bytes> = timeline.keys().collect();
    keys.sort_unstable();
    let mut locks: HashMap<&KeyRange, Vec<&LockHold>> = HashMap::new();
    for hold in &context.history.holds {
        check_hold(hold, &keys, timeline, context, report);
        locks.entry(&hold.contenders).or_default().push(hold);
    }
    let mut locks: Vec<_> = locks.into_iter().collect();
    locks.sort_unstable_by_key(|(range, _)| range.start());
    for (range, holds) in locks {
        tokens(range, &holds, report);
    }
}

fn check_hold(hold: &LockHold, keys: &[&Bytes], timeline: &Timeline, context: &Context, report: &mut Report) {
    let live = |key: &Bytes| -> Option<Revision> {
        let (revision, event) = timeline.key_at(key, hold.acquired_revision)?;
        let known = timeline.get(revision)?.known;
        (known && event.kind == EventKind::Put).then_some(event.kv.create_revision)
    };
    let uncertain = timeline
        .key_at(&hold.key, hold.acquired_revision)
        .and_then(|(revision, _)| timeline.get(revision))
        .is_some_and(|resolved| !resolved.known);
    let told = format!(
        "client {} believed at {} to hold the lock on {} with {} and token {}, from an answer of revision {}",
        hold.client,
        At(hold.acquired),
        hold.contenders,
        Text(&hold.key),
        hold.token,
        hold.acquired_revision
    );
    // In a history without ground truth a key can also be gone without anybody having seen it.
    if live(&hold.key) != Some(hold.token) && !uncertain {
        let last = timeline.key_at(&hold.key, hold.acquired_revision);
        report.add(Rule::LockExclusion, || {
            let last =
                last.map_or("it never existed".into(), |(revision, _)| timeline.tell(revision, context));
            format!("{told}, but its key was not there with that create revision: {last}")
        });
    }
    let from = keys.partition_point(|key| *key < hold.contenders.start());
    let contenders = keys[from..].iter().take_while(|key| hold.contenders.contains(key));
    for other in contenders.filter(|key| ***key != hold.key) {
        let Some(create) = live(other).filter(|create| *create < hold.token) else { continue };
        if doubtful(other, hold.acquired_revision, timeline) {
            continue;
        }
        report.add(Rule::LockExclusion, || {
            format!("{told}, but {} was older and still there, with create revision {create}", Text(other))
        });
    }
}

/// Whether something unknown can have happened to a key since its last known change.
fn doubtful(key: &Bytes, until: Revision, timeline: &Timeline) -> bool {
    let Some((changed, _)) = timeline.key_at(key, until) else { return true };
    timeline.has_unknown()
        && (changed + 1..=until).any(|r| timeline.get(r).is_none_or(|resolved| !resolved.known))
}

/// Later holders have larger tokens, and nobody has another's.
fn tokens(range: &KeyRange, holds: &[&LockHold], report: &mut Report) {
    let mut holds = holds.to_vec();
    holds.sort_by_key(|hold| (hold.acquired_revision, hold.token));
    let mut newest: Option<&LockHold> = None;
    for hold in holds {
        if let Some(before) = newest
            && (hold.token < before.token || (hold.token == before.token && hold.client != before.client))
        {
            report.add(Rule::LockExclusion, || {
                    format!(
                        "the lock on {range} went from client {} with token {} (told at revision {}) to client {} \
                         with token {} (told at revision {}); tokens only grow",
                        before.client,
                        before.token,
                        before.acquired_revision,
                        hold.client,
                        hold.token,
                        hold.acquired_revision
                    )
                });
        }
        newest = Some(hold);
    }
}
