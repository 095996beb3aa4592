//! Clients that take a lock, hold it and use what it guards.

use bytes::Bytes;
use folkmoot_check::history::*;
use rand::RngExt;

use super::*;

impl World {
    pub(super) fn lock_ready(&mut self, client: u64) {
        let state = self.locks[&client].clone();
        let now = self.now;
        match state {
            LockState::Idle | LockState::Releasing => {
                let id = self.granted.len() as LeaseId + 1000;
                self.granted.push(id);
                self.locks.insert(client, LockState::Idle);
                self.submit(client, Request::LeaseGrant { id, ttl: 2 });
            }
            LockState::Granted { lease, .. } => {
                let key: Bytes = format!("lock/{client}-{lease}").into();
                let absent = Compare {
                    range: KeyRange::One(key.clone()),
                    op: CompareOp::Equal,
                    target: CompareTarget::Create(0),
                };
                let put = PutRequest { key, value: self.value(), lease, ..PutRequest::default() };
                let txn = TxnRequest {
                    compare: vec![absent],
                    success: vec![OpRequest::Put(put)],
                    failure: vec![OpRequest::Range(RangeRequest::new(KeyRange::prefix("lock/")))],
                };
                self.submit(client, Request::Txn(txn));
            }
            LockState::Queued { .. } => {
                self.submit(client, Request::Range(RangeRequest::new(KeyRange::prefix("lock/"))));
            }
            LockState::Holding { key, token, until, deadline, hold } => {
                self.fence(client, token);
                if now < until {
                    self.at(until - now, Step::Ready(client));
                    return;
                }
                self.history.holds[hold].released = Some(deadline.min(now));
                self.locks.insert(client, LockState::Releasing);
                self.submit(
                    client,
                    Request::Delete(DeleteRequest { range: KeyRange::One(key), prev_kv: false }),
                );
            }
        }
    }

    pub(super) fn fence(&mut self, client: u64, token: Revision) {
        let accepted = token >= self.fence || (self.config.bug == Bug::FenceBlind);
        self.fence = self.fence.max(token);
        self.history.fence_uses.push(FenceUse {
            resource: "disk".into(),
            client,
            token,
            at: self.now,
            accepted,
        });
    }

    pub(super) fn lock_answer(&mut self, client: u64, number: usize) {
        let operation = self.history.operations[number].clone();
        let state = self.locks[&client].clone();
        let now = self.now;
        let blind = self.config.bug == Bug::LockBlind;
        let next = match (state, operation.reply().map(|reply| (reply.revision, &reply.body))) {
            (LockState::Idle, Some((_, ReplyBody::LeaseGrant { id, ttl }))) => {
                LockState::Granted { lease: *id, deadline: operation.invoked + *ttl as Nanos * SECOND }
            }
            (LockState::Granted { lease, deadline }, Some((token, ReplyBody::Txn(txn)))) if txn.succeeded => {
                LockState::Queued { lease, deadline, key: format!("lock/{client}-{lease}").into(), token }
            }
            (
                LockState::Queued { lease, deadline, key, token },
                Some((revision, ReplyBody::Range(range))),
            ) => {
                let oldest = range.kvs.iter().min_by_key(|kv| kv.create_revision);
                if !range.kvs.iter().any(|kv| kv.key == key) || now >= deadline {
                    LockState::Idle
                } else if blind || oldest.is_some_and(|kv| kv.key == key) {
                    self.history.holds.push(LockHold {
                        client,
                        contenders: KeyRange::prefix("lock/"),
                        key: key.clone(),
                        token,
                        acquired_revision: revision,
                        acquired: now,
                        released: None,
                    });
                    let hold = self.history.holds.len() - 1;
                    // Some are paused for longer than their lease.
                    let most = if self.chance(20) { 4 * SECOND } else { SECOND };
                    let until = now + self.rng.random_range(0..most);
                    self.history.holds[hold].released = Some(deadline);
                    LockState::Holding { key, token, until, deadline, hold }
                } else {
                    LockState::Queued { lease, deadline, key, token }
                }
            }
            _ => LockState::Idle,
        };
        self.locks.insert(client, next);
        let think = self.rng.random_range(0..60 * MS);
        self.at(think, Step::Ready(client));
    }
}
