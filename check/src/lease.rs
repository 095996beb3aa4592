//! Leases: never ended early, not much too late, never renewed or used after the end.
//!
//! No client sees the moment a lease ends or is renewed, so each moment is taken at the end of
//! its interval that excuses the store. A renewal that was acknowledged happened no earlier than
//! it was asked for, so the lease lives at least until then plus its time to live. Its end
//! happened no later than somebody knew of it.
//!
//! A lease number that was granted twice is left out: nobody can say which of the two a message
//! was about.

use std::collections::{BTreeMap, HashMap};

use crate::context::{Context, puts_of};
use crate::history::{
    EventKind, LeaseId, Nanos, OpReply, OpRequest, Operation, Outcome, Refusal, ReplyBody, Request, Revision,
};
use crate::tell::{At, Text};
use crate::witness::{Cause, Timeline};
use crate::{Report, Rule};

const SECOND: Nanos = 1_000_000_000;

/// All that is known of one lease.
#[derive(Default)]
struct Life {
    /// Grants that were not refused.
    grants: usize,
    /// The acknowledged grant: operation and seconds.
    granted: Option<(usize, i64)>,
    /// Acknowledged renewals, the grant among them: operation and seconds.
    renewed: Vec<(usize, i64)>,
    /// When the lease may have been renewed: asked, and until when it can have taken effect.
    may_renew: Vec<(Nanos, Nanos)>,
    /// Asked to be revoked.
    revoked: Option<Nanos>,
    /// It was gone by then.
    gone: Option<(Nanos, Known)>,
    /// It was there at or after these times.
    there: Vec<(Nanos, Known)>,
}

/// From where something is known.
#[derive(Clone, Copy)]
enum Known {
    Operation(usize),
    Revision(Revision),
    /// Its keys are in the final state.
    FinalKeys,
}

/// Checks all leases.
pub fn check(context: &Context, timeline: &Timeline, report: &mut Report) {
    let mut leases = Leases { context, timeline, lives: BTreeMap::new(), unnamed_grants: false };
    leases.gather_grants();
    leases.gather_operations();
    leases.gather_timeline();
    for (lease, life) in &leases.lives {
        leases.after_end(*lease, life, report);
        leases.early(*lease, life, report);
        leases.late(*lease, life, report);
    }
    leases.refusals(report);
    leases.used_after_end(report);
}

struct Leases<'a> {
    context: &'a Context<'a>,
    timeline: &'a Timeline,
    lives: BTreeMap<LeaseId, Life>,
    /// Some grants of unknown outcome let the store choose the number.
    unnamed_grants: bool,
}

impl Leases<'_> {
    fn gather_grants(&mut self) {
        for (number, operation) in self.context.operations() {
            let Request::LeaseGrant { id, .. } = operation.request else { continue };
            match &operation.outcome {
                Outcome::Refused(_) => {}
                Outcome::Unknown if id == 0 => self.unnamed_grants = true,
                Outcome::Unknown => self.life(id).grants += 1,
                Outcome::Ok(reply) => {
                    let ReplyBody::LeaseGrant { id, ttl } = reply.body else { continue };
                    let effect = (operation.invoked, self.effect_until(operation));
                    let life = self.life(id);
                    life.grants += 1;
                    life.granted = Some((number, ttl));
                    life.renewed.push((number, ttl));
                    life.may_renew.push(effect);
                }
            }
        }
    }

    fn gather_operations(&mut self) {
        for (number, operation) in self.context.operations() {
            let known = Known::Operation(number);
            let by = operation.completed.unwrap_or(Nanos::MAX);
            match (&operation.request, &operation.outcome) {
                (Request::LeaseKeepAlive { id }, Outcome::Ok(reply)) => {
                    let ReplyBody::LeaseKeepAlive { ttl } = reply.body else { continue };
                    if ttl > 0 {
                        let life = self.life(*id);
                        life.renewed.push((number, ttl));
                        life.may_renew.push((operation.invoked, by));
                        life.there.push((operation.invoked, known));
                    } else {
                        self.gone(*id, operation, by, known);
                    }
                }
                (Request::LeaseKeepAlive { id }, Outcome::Unknown) => {
                    let effect = (operation.invoked, self.effect_until(operation));
                    self.life(*id).may_renew.push(effect);
                }
                (Request::LeaseTimeToLive { id, .. }, Outcome::Ok(reply)) => {
                    let ReplyBody::LeaseTimeToLive { ttl, granted_ttl, .. } = reply.body else { continue };
                    if ttl < 0 && granted_ttl == 0 {
                        self.gone(*id, operation, by, known);
                    } else if ttl > 0 {
                        self.life(*id).there.push((operation.invoked, known));
                    }
                }
                (Request::LeaseRevoke { id }, Outcome::Refused(Refusal::LeaseNotFound)) => {
                    self.gone(*id, operation, by, known);
                }
                (Request::LeaseRevoke { .. }, Outcome::Refused(_)) => {}
                (Request::LeaseRevoke { id }, outcome) => {
                    if matches!(outcome, Outcome::Ok(_)) {
                        self.gone(*id, operation, by, known);
                    }
                    let life = self.life(*id);
                    life.revoked =
                        Some(life.revoked.map_or(operation.invoked, |at| at.min(operation.invoked)));
                }
                (Request::Put(_) | Request::Txn(_), Outcome::Refused(Refusal::LeaseNotFound)) => {
                    // With more than one lease nobody can say which is missing.
                    if let [lease] = leases_of(&operation.request)[..] {
                        self.gone(lease, operation, by, known);
                    }
                }
                (Request::Put(_) | Request::Txn(_), Outcome::Ok(_)) => {
                    for lease in leases_used(operation) {
                        self.life(lease).there.push((operation.invoked, known));
                    }
                }
                _ => {}
            }
        }
    }

    fn gather_timeline(&mut self) {
        let timeline = self.timeline;
        let mut leased: HashMap<&[u8], LeaseId> = HashMap::new();
        for (revision, resolved) in timeline.iter() {
            for event in &resolved.events {
                match event.kind {
                    EventKind::Put if event.kv.lease != 0 => leased.insert(&event.kv.key, event.kv.lease),
                    _ => leased.remove(&event.kv.key[..]),
                };
            }
            let Cause::LeaseEnd(lease) = resolved.cause else { continue };
            let known = Known::Revision(revision);
            let observed = &self.context.observed;
            let gone = resolved.at.or_else(|| observed.existed_by(revision).map(|(at, _)| at));
            let there = resolved.at.or_else(|| observed.missing_at(revision));
            let life = self.life(lease);
            if let Some(at) = gone {
                life.mark_gone(at, known);
            }
            if let Some(at) = there {
                life.there.push((at, known));
            }
        }
        if timeline.has_unknown() {
            return;
        }
        let Some(at) = self.context.observed.latest_question() else { return };
        let mut remaining: Vec<LeaseId> = leased.into_values().collect();
        remaining.sort_unstable();
        remaining.dedup();
        for lease in remaining {
            self.life(lease).there.push((at, Known::FinalKeys));
        }
    }

    fn life(&mut self, lease: LeaseId) -> &mut Life {
        self.lives.entry(lease).or_default()
    }

    /// Until when an operation can have taken effect.
    fn effect_until(&self, operation: &Operation) -> Nanos {
        match (&operation.outcome, operation.completed, self.context.settings.lease.linger) {
            (Outcome::Unknown, Some(at), Some(linger)) => at.saturating_add(linger),
            (Outcome::Unknown, ..) => Nanos::MAX,
            (_, at, _) => at.unwrap_or(Nanos::MAX),
        }
    }

    /// An answer said that the lease does not exist. That means its end only if it was granted
    /// before that was asked.
    fn gone(&mut self, lease: LeaseId, operation: &Operation, by: Nanos, known: Known) {
        let operations = &self.context.history.operations;
        let life = self.lives.entry(lease).or_default();
        let granted = life.granted.and_then(|(number, _)| operations[number].completed);
        if granted.is_some_and(|granted| granted < operation.invoked) {
            life.mark_gone(by, known);
        }
    }

    /// The shortest time that `ttl` seconds of a member's clock can take.
    fn at_least(&self, ttl: i64) -> Nanos {
        let nanos = u64::try_from(ttl).unwrap_or(0).saturating_mul(SECOND);
        nanos - self.clock_error(nanos)
    }

    /// The longest.
    fn at_most(&self, ttl: i64) -> Nanos {
        let nanos = u64::try_from(ttl).unwrap_or(0).saturating_mul(SECOND);
        nanos.saturating_add(self.clock_error(nanos))
    }

    fn clock_error(&self, nanos: Nanos) -> Nanos {
        let ppm = self.context.settings.lease.clock_error_ppm.min(1_000_000);
        u64::try_from(u128::from(nanos) * u128::from(ppm) / 1_000_000).unwrap_or(nanos)
    }

    /// Renewals that were asked for when the lease was gone.
    fn after_end(&self, lease: LeaseId, life: &Life, report: &mut Report) {
        let Some((gone, known)) = life.gone.filter(|_| life.grants == 1) else { return };
        for (number, _) in &life.renewed {
            let operation = &self.context.history.operations[*number];
            if operation.invoked > gone {
                report.add(Rule::LeaseAfterEnd, || {
                    format!(
                        "lease {lease:x} was gone by {} ({}), but was renewed after that: {operation}",
                        At(gone),
                        self.tell(known)
                    )
                });
            }
        }
        for (at, known_there) in &life.there {
            let Known::Operation(number) = known_there else { continue };
            let operation = &self.context.history.operations[*number];
            if *at > gone && matches!(operation.request, Request::Put(_) | Request::Txn(_)) {
                report.add(Rule::LeaseAfterEnd, || {
                    format!(
                        "lease {lease:x} was gone by {} ({}), but was given to a key after that: {operation}",
                        At(gone),
                        self.tell(known)
                    )
                });
            }
        }
    }

    fn early(&self, lease: LeaseId, life: &Life, report: &mut Report) {
        let Some((gone, known)) = life.gone.filter(|_| life.grants == 1) else { return };
        if life.revoked.is_some_and(|revoked| revoked < gone) {
            return;
        }
        let operations = &self.context.history.operations;
        // The renewal that promises most, of those before the end.
        let promises = life.renewed.iter().filter_map(|(number, ttl)| {
            let invoked = operations[*number].invoked;
            (invoked <= gone).then(|| (invoked.saturating_add(self.at_least(*ttl)), *number))
        });
        let Some((deadline, number)) = promises.max() else { return };
        if gone < deadline {
            report.add(Rule::LeaseEarly, || {
                format!(
                    "lease {lease:x} must live until {} at least, because of {}; but it was gone by {} ({}), and \
                     nobody revoked it",
                    At(deadline),
                    operations[number],
                    At(gone),
                    self.tell(known)
                )
            });
        }
    }

    fn late(&self, lease: LeaseId, life: &Life, report: &mut Report) {
        let Some((_, ttl)) = life.granted.filter(|_| life.grants == 1) else { return };
        let settings = &self.context.settings.lease;
        let time = self.at_most(ttl).saturating_add(settings.slack);
        let mut may_renew = life.may_renew.clone();
        may_renew.sort_unstable();
        let mut latest = 0;
        for (_, until) in &mut may_renew {
            latest = latest.max(*until);
            *until = latest;
        }
        for (at, known) in &life.there {
            let before = may_renew.partition_point(|(asked, _)| asked < at);
            let Some((_, renewed)) = before.checked_sub(1).map(|index| may_renew[index]) else { continue };
            let overdue = settings.live.iter().find_map(|period| {
                let bound = renewed.max(period.from).saturating_add(time);
                // A leader that is none any more may still count time, but not in live periods.
                let answer = matches!(known, Known::Operation(_));
                (bound < *at && bound <= period.to && (!answer || *at <= period.to)).then_some(bound)
            });
            if let Some(bound) = overdue {
                report.add(Rule::LeaseLate, || {
                    format!(
                        "lease {lease:x} of {ttl}s was last renewed until {} and should have ended by {} at the \
                         latest, but was still there at {} ({})",
                        At(renewed),
                        At(bound),
                        At(*at),
                        self.tell(*known)
                    )
                });
                return;
            }
        }
    }

    fn refusals(&self, report: &mut Report) {
        for (_, operation) in self.context.operations() {
            let (Request::LeaseGrant { id, .. }, Outcome::Refused(Refusal::LeaseExists)) =
                (&operation.request, &operation.outcome)
            else {
                continue;
            };
            let granted = self.lives.get(id).is_some_and(|life| life.grants > 0);
            if !granted && !self.unnamed_grants {
                report.add(Rule::WrongRefusal, || {
                    format!("this grant was refused because the lease exists, but nobody asked for it: {operation}")
                });
            }
        }
    }

    /// Keys that were put on a lease after its end, by revisions alone.
    fn used_after_end(&self, report: &mut Report) {
        let mut ended: HashMap<LeaseId, Revision> = HashMap::new();
        for (revision, resolved) in self.timeline.iter() {
            if let Cause::LeaseEnd(lease) = resolved.cause {
                ended.entry(lease).or_insert(revision);
            }
            for event in &resolved.events {
                // A key that keeps its lease holds it already.
                let Some(end) = ended.get(&event.kv.lease) else { continue };
                let granted_again = self.lives.get(&event.kv.lease).is_some_and(|life| life.grants > 1);
                if event.kind == EventKind::Put && !granted_again && resolved.known {
                    report.add(Rule::LeaseAfterEnd, || {
                        format!(
                            "lease {:x} ended with revision {end}, but {} was put on it by {}",
                            event.kv.lease,
                            Text(&event.kv.key),
                            self.timeline.tell(revision, self.context)
                        )
                    });
                }
            }
        }
    }

    fn tell(&self, known: Known) -> String {
        match known {
            Known::Operation(number) => self.context.history.operations[number].to_string(),
            Known::FinalKeys => "its keys are still in the last state".into(),
            Known::Revision(revision) => {
                let told = self.timeline.tell(revision, self.context);
                match self.context.observed.existed_by(revision) {
                    Some((_, source)) => format!("{told}, first seen by {}", self.context.tell(source)),
                    None => told,
                }
            }
        }
    }
}

impl Life {
    fn mark_gone(&mut self, by: Nanos, known: Known) {
        if self.gone.is_none_or(|(earlier, _)| by < earlier) {
            self.gone = Some((by, known));
        }
    }
}

/// The leases that a request names.
fn leases_of(request: &Request) -> Vec<LeaseId> {
    let mut leases: Vec<LeaseId> = match request {
        Request::Put(put) => vec![put.lease],
        Request::Txn(txn) => puts_of(txn).map(|put| put.lease).collect(),
        _ => Vec::new(),
    };
    leases.retain(|lease| *lease != 0);
    leases.sort_unstable();
    leases.dedup();
    leases
}

/// The leases that an acknowledged operation gave to keys.
fn leases_used(operation: &Operation) -> Vec<LeaseId> {
    match (&operation.request, operation.reply().map(|reply| &reply.body)) {
        (Request::Put(put), _) => (put.lease != 0).then_some(put.lease).into_iter().collect(),
        (Request::Txn(txn), Some(ReplyBody::Txn(answer))) => crate::context::branch_of(txn, answer)
            .iter()
            .zip(&answer.responses)
            .filter_map(|pair| match pair {
                (OpRequest::Put(put), OpReply::Put(_)) if put.lease != 0 => Some(put.lease),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}
