//! What every checker needs to know of a history, gathered once: which operations can be used,
//! what they claim, how far the revisions go.

use std::collections::HashSet;

use crate::history::{
    History, LeaseId, OpReply, OpRequest, Operation, Outcome, Reply, ReplyBody, Request, Revision, TxnReply,
    TxnRequest,
};
use crate::observed::{Observed, Source};
use crate::tell::At;
use crate::{Report, Rule, Settings};

/// A history with what follows from it at once.
pub struct Context<'a> {
    pub history: &'a History,
    pub settings: &'a Settings,
    /// The operations that do not contradict themselves; all others are left out everywhere.
    pub usable: Vec<bool>,
    /// The largest revision the store can have reached.
    pub last: Revision,
    pub observed: Observed,
}

impl<'a> Context<'a> {
    pub fn new(history: &'a History, settings: &'a Settings, report: &mut Report) -> Self {
        let usable = history.operations.iter().map(|operation| is_usable(operation, report)).collect();
        let mut context =
            Self { history, settings, usable, last: 1, observed: Observed::new(&History::default(), 0) };
        context.last = context.last_revision();
        context.observed = Observed::new(history, context.last);
        context
    }

    /// The usable operations with their numbers.
    pub fn operations(&self) -> impl Iterator<Item = (usize, &'a Operation)> + '_ {
        self.history.operations.iter().enumerate().filter(|(index, _)| self.usable[*index])
    }

    /// The usable operations that were answered.
    pub fn answered(&self) -> impl Iterator<Item = (usize, &'a Operation, &'a Reply)> + '_ {
        self.operations().filter_map(|(index, operation)| Some((index, operation, operation.reply()?)))
    }

    /// A sighting in words.
    pub fn tell(&self, source: Source) -> String {
        match source {
            Source::Operation(index) => self.history.operations[index].to_string(),
            Source::Watch(index) => self.tell_watch(index),
        }
    }

    /// A watch in words.
    pub fn tell_watch(&self, index: usize) -> String {
        let watch = &self.history.watches[index];
        format!(
            "watch {index} of client {} on {} from revision {} asked at {}",
            watch.client,
            watch.request.range,
            watch.request.start_revision,
            At(watch.invoked)
        )
    }

    /// With ground truth its last revision. Otherwise the largest that was seen, but not more
    /// than everything that may have happened could have made: a header with a wild number
    /// creates no revisions.
    fn last_revision(&self) -> Revision {
        if let Some(truth) = &self.history.truth {
            let bound = i64::try_from(truth.len()).unwrap_or(i64::MAX).saturating_mul(2).saturating_add(1000);
            let possible = truth.iter().map(|change| change.revision).filter(|revision| *revision <= bound);
            return possible.max().unwrap_or(1).max(1);
        }
        let mut writes: Revision = 0;
        let mut leases: HashSet<LeaseId> = HashSet::new();
        for (_, operation) in self.operations() {
            // Refused ones too, so that one that happened is found as what it is.
            let may_write = match &operation.outcome {
                Outcome::Ok(reply) => claimed(reply).is_some(),
                Outcome::Unknown | Outcome::Refused(_) => {
                    matches!(operation.request, Request::Put(_) | Request::Delete(_) | Request::Txn(_))
                }
            };
            writes += Revision::from(may_write);
            match &operation.request {
                Request::Put(put) => leases.extend((put.lease != 0).then_some(put.lease)),
                Request::Txn(txn) => {
                    leases.extend(puts_of(txn).map(|put| put.lease).filter(|lease| *lease != 0))
                }
                _ => {}
            }
        }
        // A lease that is granted again ends again.
        let grants = self.operations().filter(|(_, operation)| {
            matches!(operation.request, Request::LeaseGrant { .. })
                && !matches!(operation.outcome, Outcome::Refused(_))
        });
        let ends = i64::try_from(leases.len() + grants.count()).unwrap_or(i64::MAX);
        let bound = writes.saturating_add(ends).saturating_add(1);
        let seen = Observed::new(self.history, bound).existed_up_to();
        seen.max(1)
    }
}

/// The puts of both branches.
pub fn puts_of(txn: &TxnRequest) -> impl Iterator<Item = &crate::history::PutRequest> {
    txn.success.iter().chain(&txn.failure).filter_map(|op| match op {
        OpRequest::Put(put) => Some(put),
        OpRequest::Delete(_) | OpRequest::Range(_) => None,
    })
}

/// The revision that an answer says its operation made; `None` if it changed nothing.
pub fn claimed(reply: &Reply) -> Option<Revision> {
    let changed = match &reply.body {
        ReplyBody::Put(_) => true,
        ReplyBody::Delete(delete) => delete.deleted > 0,
        ReplyBody::Txn(txn) => txn.responses.iter().any(|response| match response {
            OpReply::Put(_) => true,
            OpReply::Delete(delete) => delete.deleted > 0,
            OpReply::Range(_) => false,
        }),
        _ => false,
    };
    changed.then_some(reply.revision)
}

/// The operations of the branch that ran.
pub fn branch_of<'a>(txn: &'a TxnRequest, reply: &TxnReply) -> &'a [OpRequest] {
    if reply.succeeded { &txn.success } else { &txn.failure }
}

fn is_usable(operation: &Operation, report: &mut Report) -> bool {
    if operation.completed.is_some_and(|completed| completed < operation.invoked) {
        report.add(Rule::Recording, || format!("this operation ended before it began: {operation}"));
        return false;
    }
    let Outcome::Ok(reply) = &operation.outcome else { return true };
    if operation.completed.is_none() {
        report.add(Rule::Recording, || format!("this operation was answered but never ended: {operation}"));
        return false;
    }
    let fits = match (&operation.request, &reply.body) {
        (Request::Put(_), ReplyBody::Put(_))
        | (Request::Delete(_), ReplyBody::Delete(_))
        | (Request::Range(_), ReplyBody::Range(_))
        | (Request::Compact { .. }, ReplyBody::Compact)
        | (Request::LeaseGrant { .. }, ReplyBody::LeaseGrant { .. })
        | (Request::LeaseRevoke { .. }, ReplyBody::LeaseRevoke)
        | (Request::LeaseKeepAlive { .. }, ReplyBody::LeaseKeepAlive { .. })
        | (Request::LeaseTimeToLive { .. }, ReplyBody::LeaseTimeToLive { .. }) => true,
        (Request::Txn(txn), ReplyBody::Txn(answer)) => {
            let branch = branch_of(txn, answer);
            branch.len() == answer.responses.len()
                && branch.iter().zip(&answer.responses).all(|pair| {
                    matches!(
                        pair,
                        (OpRequest::Put(_), OpReply::Put(_))
                            | (OpRequest::Delete(_), OpReply::Delete(_))
                            | (OpRequest::Range(_), OpReply::Range(_))
                    )
                })
        }
        _ => false,
    };
    if !fits {
        report.add(Rule::Recording, || format!("the answer is not of its request's kind: {operation}"));
    }
    fits
}
