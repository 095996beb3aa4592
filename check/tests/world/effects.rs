//! What the store does with a request, and the bugs of that.

use folkmoot_check::history::*;
use rand::RngExt;

use super::*;

impl World {
    pub(super) fn commit(&mut self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.revision += 1;
        assert!(events.iter().all(|event| event.revision() == self.revision));
        let at = self.config.moments.then_some(self.now);
        self.changes.push(Change { revision: self.revision, events, at });
    }

    pub(super) fn effect(&mut self, number: usize) {
        let operation = self.history.operations[number].clone();
        let outcome = self.execute(&operation);
        if self.config.bug == Bug::AppliedTwice && self.flights[number].outcome_lost && self.chance(50) {
            let _ = self.execute(&operation);
        }
        if self.flights[number].answered.is_none() {
            self.flights[number].answered = Some(outcome);
        }
    }

    pub(super) fn execute(&mut self, operation: &Operation) -> Outcome {
        match &operation.request {
            Request::Range(range) if range.serializable => self.read_at(operation.member, range),
            Request::Range(range) => {
                if self.strikes(Bug::StaleRead) {
                    return self.read_at(operation.member, range);
                }
                let Outcome::Ok(mut reply) = self.read(range) else { return self.read(range) };
                self.spoil_read(range, &mut reply);
                Outcome::Ok(reply)
            }
            Request::Put(_) | Request::Delete(_) | Request::Txn(_) => self.write(operation),
            Request::Compact { revision } => {
                if *revision <= self.compacted {
                    return Outcome::Refused(Refusal::Compacted);
                }
                if *revision > self.revision {
                    return Outcome::Refused(Refusal::FutureRevision);
                }
                self.compacted = *revision;
                self.ok(ReplyBody::Compact)
            }
            Request::LeaseGrant { id, ttl } => {
                if self.leases.contains_key(id) {
                    return Outcome::Refused(Refusal::LeaseExists);
                }
                self.leases.insert(*id, Lease { ttl: *ttl, deadline: self.now + *ttl as Nanos * SECOND });
                self.ok(ReplyBody::LeaseGrant { id: *id, ttl: *ttl })
            }
            Request::LeaseKeepAlive { id } => {
                let blind = self.ended.contains(id) && self.strikes(Bug::RenewAfterEnd);
                let ttl = match self.leases.get_mut(id) {
                    Some(lease) => {
                        lease.deadline = self.now + lease.ttl as Nanos * SECOND;
                        lease.ttl
                    }
                    None if blind => 2,
                    None => 0,
                };
                self.ok(ReplyBody::LeaseKeepAlive { ttl })
            }
            Request::LeaseTimeToLive { id, .. } => {
                let (ttl, granted_ttl) = match self.leases.get(id) {
                    Some(lease) => ((lease.deadline.saturating_sub(self.now) / SECOND) as i64, lease.ttl),
                    None => (-1, 0),
                };
                self.ok(ReplyBody::LeaseTimeToLive { ttl, granted_ttl, keys: vec![] })
            }
            Request::LeaseRevoke { id } => {
                if self.leases.remove(id).is_none() {
                    return Outcome::Refused(Refusal::LeaseNotFound);
                }
                self.delete_leased(*id, false);
                self.ok(ReplyBody::LeaseRevoke)
            }
        }
    }

    pub(super) fn ok(&self, body: ReplyBody) -> Outcome {
        Outcome::Ok(Reply { revision: self.revision, body })
    }

    pub(super) fn spoil_read(&mut self, range: &RangeRequest, reply: &mut Reply) {
        let ReplyBody::Range(answer) = &mut reply.body else { return };
        if range.keys_only || answer.kvs.is_empty() {
            return;
        }
        if self.strikes(Bug::MissingKey) {
            answer.kvs.remove(0);
            answer.count -= 1;
        } else if self.strikes(Bug::OldContent) {
            let kv = &mut answer.kvs[0];
            let older = self.changes.iter().rev().flat_map(|change| &change.events).find(|event| {
                event.kv.key == kv.key
                    && event.kv.mod_revision < kv.mod_revision
                    && event.kind == EventKind::Put
            });
            if let Some(older) = older {
                *kv = older.kv.clone();
            }
        }
    }

    /// The keys as they were.
    pub(super) fn past(&self, revision: Revision) -> Keys {
        let mut keys = Keys::default();
        for change in self.changes.iter().take_while(|change| change.revision <= revision) {
            change.events.iter().for_each(|event| keys.apply(event));
        }
        keys
    }

    pub(super) fn read(&mut self, range: &RangeRequest) -> Outcome {
        if range.revision > self.revision {
            return Outcome::Refused(Refusal::FutureRevision);
        }
        let false_alarm = range.revision > self.compacted && self.strikes(Bug::FalseCompacted);
        if range.revision > 0 && range.revision < self.compacted || false_alarm {
            return Outcome::Refused(Refusal::Compacted);
        }
        let body =
            if range.revision > 0 { self.past(range.revision).read(range) } else { self.keys.read(range) };
        self.ok(ReplyBody::Range(body))
    }

    pub(super) fn read_at(&mut self, member: MemberId, range: &RangeRequest) -> Outcome {
        let member = &self.members[member as usize - 1];
        if range.revision > member.applied {
            return Outcome::Refused(Refusal::FutureRevision);
        }
        if range.revision > 0 && range.revision < self.compacted {
            return Outcome::Refused(Refusal::Compacted);
        }
        let body =
            if range.revision > 0 { self.past(range.revision).read(range) } else { member.keys.read(range) };
        Outcome::Ok(Reply { revision: member.applied, body: ReplyBody::Range(body) })
    }

    pub(super) fn write(&mut self, operation: &Operation) -> Outcome {
        let mut request = operation.request.clone();
        let original = request.clone();
        let mut reads: Vec<(usize, RangeRequest)> = Vec::new();
        if let Request::Txn(txn) = &mut request {
            let writes = txn.success.iter().chain(&txn.failure).any(|op| !matches!(op, OpRequest::Range(_)));
            let serializable = !operation.request.is_linearizable();
            if serializable && !writes {
                return self.serializable_txn(operation);
            }
            if self.strikes(Bug::WrongBranch) {
                std::mem::swap(&mut txn.success, &mut txn.failure);
            }
            let ranges = txn.success.iter().chain(&txn.failure).filter_map(|op| match op {
                OpRequest::Range(range) => Some(range.revision),
                _ => None,
            });
            // Reads of the past are refused for both branches here: a stricter store than etcd.
            for revision in ranges.filter(|revision| *revision > 0) {
                if revision > self.revision {
                    return Outcome::Refused(Refusal::FutureRevision);
                }
                if revision < self.compacted {
                    return Outcome::Refused(Refusal::Compacted);
                }
            }
            reads = txn
                .success
                .iter()
                .enumerate()
                .chain(txn.failure.iter().enumerate())
                .filter_map(|(place, op)| match op {
                    OpRequest::Range(range) if range.revision > 0 => Some((place, range.clone())),
                    _ => None,
                })
                .collect();
        }
        let missing = puts(&original).iter().any(|put| {
            let ended = self.config.bug == Bug::PutAfterEnd && self.ended.contains(&put.lease);
            put.lease != 0 && !self.leases.contains_key(&put.lease) && !ended
        });
        if missing {
            return Outcome::Refused(Refusal::LeaseNotFound);
        }
        let before = self.keys.clone();
        let (mut body, mut events) = match self.keys.run(&request, self.revision + 1) {
            Ok(result) => result,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        if let (ReplyBody::Txn(answer), Request::Txn(txn)) = (&mut body, &request) {
            let branch = if answer.succeeded { &txn.success } else { &txn.failure };
            for (place, range) in reads {
                if branch.get(place) == Some(&OpRequest::Range(range.clone())) {
                    answer.responses[place] = OpReply::Range(self.past(range.revision).read(&range));
                }
            }
            if self.config.bug == Bug::WrongBranch && request != original {
                answer.succeeded = !answer.succeeded;
            }
        }
        if self.strikes(Bug::LostWrite) && !events.is_empty() {
            self.keys = before;
            return Outcome::Ok(Reply { revision: self.revision + 1, body });
        }
        if events.len() > 1 && self.strikes(Bug::TornTxn) {
            let torn = events.pop().expect("two at least");
            match torn.prev_kv {
                Some(kv) => self.keys.0.insert(kv.key.clone(), kv),
                None => self.keys.0.remove(&torn.kv.key),
            };
        }
        if !events.is_empty() && self.revision > 2 && self.strikes(Bug::SameRevision) {
            let same = self.revision;
            for event in &mut events {
                event.kv.mod_revision = same;
                self.keys.apply(event);
            }
            self.changes.last_mut().expect("there are changes").events.extend(events);
            return Outcome::Ok(Reply { revision: same, body });
        }
        if !events.is_empty() && self.strikes(Bug::SkippedRevision) {
            self.revision += 1;
            for event in &mut events {
                event.kv.mod_revision += 1;
                self.keys.apply(event);
            }
        }
        let changed = !events.is_empty();
        self.commit(events);
        let wrong = changed && self.strikes(Bug::WrongHeader);
        Outcome::Ok(Reply { revision: self.revision - i64::from(wrong), body })
    }

    pub(super) fn serializable_txn(&mut self, operation: &Operation) -> Outcome {
        let member = &self.members[operation.member as usize - 1];
        let Request::Txn(txn) = &operation.request else { unreachable!() };
        for op in txn.success.iter().chain(&txn.failure) {
            if let OpRequest::Range(range) = op {
                if range.revision > member.applied {
                    return Outcome::Refused(Refusal::FutureRevision);
                }
                if range.revision > 0 && range.revision < self.compacted {
                    return Outcome::Refused(Refusal::Compacted);
                }
            }
        }
        let mut keys = member.keys.clone();
        let (mut body, _) = keys.run(&operation.request, member.applied + 1).expect("reads only");
        if let ReplyBody::Txn(answer) = &mut body {
            let branch = if answer.succeeded { &txn.success } else { &txn.failure };
            for (op, response) in branch.iter().zip(&mut answer.responses) {
                if let OpRequest::Range(range) = op
                    && range.revision > 0
                {
                    *response = OpReply::Range(self.past(range.revision).read(range));
                }
            }
        }
        Outcome::Ok(Reply { revision: member.applied, body })
    }

    pub(super) fn delete_leased(&mut self, lease: LeaseId, by_time: bool) {
        self.ended.push(lease);
        let mut keys: Vec<KeyValue> = self.keys.0.values().filter(|kv| kv.lease == lease).cloned().collect();
        if by_time && keys.len() > 1 && self.strikes(Bug::LeaseLeavesKey) {
            keys.pop();
        }
        let mut events = Vec::new();
        self.keys.delete(keys, self.revision + 1, &mut events);
        self.commit(events);
    }

    pub(super) fn end_leases(&mut self) {
        let now = self.now;
        let mut due: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| lease.deadline <= now).map(|(id, _)| *id).collect();
        if self.strikes(Bug::LeaseEarly) {
            let early = self.leases.iter().filter(|(_, lease)| lease.deadline > now + SECOND / 2);
            due.extend(early.map(|(id, _)| *id).next());
        }
        for id in due {
            if self.config.bug == Bug::LeaseLate
                && self.leases[&id].deadline + 4 * SECOND > now
                && id % 3 == 0
            {
                continue;
            }
            self.leases.remove(&id);
            self.delete_leased(id, true);
        }
        let wait = self.rng.random_range(20 * MS..150 * MS);
        self.at(wait, Step::Leases);
    }
}

fn puts(request: &Request) -> Vec<PutRequest> {
    match request {
        Request::Put(put) => vec![put.clone()],
        Request::Txn(txn) => txn
            .success
            .iter()
            .chain(&txn.failure)
            .filter_map(|op| match op {
                OpRequest::Put(put) => Some(put.clone()),
                _ => None,
            })
            .collect(),
        _ => vec![],
    }
}
