//! A client that takes locks by the usual recipe and uses a guarded resource with the token.
//!
//! The lock's key hangs on a lease. The client believes to hold the lock only while its own clock
//! says that the lease cannot be over, with a margin for clocks that disagree.

use bytes::Bytes;
use folkmoot_check::history::{
    Compare, CompareOp, CompareTarget, DeleteRequest, FenceUse, KeyRange, LockHold, OpReply, OpRequest,
    PutRequest, RangeReply, RangeRequest, ReplyBody, Request, Revision, TxnRequest,
};

use super::PATIENCE;
use crate::network::HostAt;
use crate::random::Random;
use crate::sometimes::Situation;
use crate::time::{MS, Nanos, SEC};
use crate::world::{Answer, World};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Granting,
    Entering,
    Waiting,
    Holding,
    Releasing,
    Revoking,
    Forgetting,
}

/// See the module.
pub struct LockClient {
    random: Random,
    number: u64,
    locks: u64,
    name: u64,
    lease: i64,
    ttl: i64,
    /// When the lease may be over, as far as the client knows.
    deadline: Nanos,
    asked_at: Nanos,
    token: Revision,
    waited: bool,
    renewing: bool,
    /// Place of the hold in the history.
    hold: usize,
    hold_until: Nanos,
    state: State,
    member: Option<HostAt>,
}

/// Locks that clients fight over.
const LOCKS: u64 = 2;

impl LockClient {
    /// Client `number`.
    pub fn new(random: Random, number: u64) -> Self {
        Self {
            random,
            number,
            locks: 0,
            name: 0,
            lease: 0,
            ttl: 0,
            deadline: 0,
            asked_at: 0,
            token: 0,
            waited: false,
            renewing: false,
            hold: 0,
            hold_until: 0,
            state: State::Idle,
            member: None,
        }
    }

    fn prefix(&self) -> String {
        format!("lock{}/", self.name)
    }

    fn key(&self) -> Bytes {
        Bytes::from(format!("{}{:x}", self.prefix(), self.lease))
    }

    fn call(&mut self, at: usize, request: Request, world: &mut World) {
        let member = world.choose_member(&mut self.random, self.member);
        self.member = Some(member);
        self.asked_at = world.now;
        world.call(at, member, request, PATIENCE);
    }

    pub(super) fn wakes(&mut self, at: usize, world: &mut World) {
        match self.state {
            State::Idle | State::Forgetting if world.is_closing() => self.state = State::Idle,
            State::Idle | State::Forgetting => {
                self.locks += 1;
                self.name = self.random.below(LOCKS);
                self.lease = (self.number as i64 + 1) << 20 | self.locks as i64;
                self.state = State::Granting;
                let ttl = self.random.between(2, 6) as i64;
                self.call(at, Request::LeaseGrant { id: self.lease, ttl }, world);
            }
            State::Entering => self.enter(at, world),
            State::Waiting => self.look(at, world),
            State::Holding => self.use_or_release(at, world),
            State::Granting | State::Releasing | State::Revoking => {}
        }
    }

    fn enter(&mut self, at: usize, world: &mut World) {
        let key = self.key();
        let put = PutRequest {
            key: key.clone(),
            value: Bytes::from(format!("{}.{}", self.number, self.locks)),
            lease: self.lease,
            ..PutRequest::default()
        };
        let txn = TxnRequest {
            compare: vec![Compare {
                range: KeyRange::One(key.clone()),
                op: CompareOp::Equal,
                target: CompareTarget::Create(0),
            }],
            success: vec![
                OpRequest::Put(put),
                OpRequest::Range(RangeRequest::new(KeyRange::prefix(self.prefix()))),
            ],
            failure: vec![OpRequest::Range(RangeRequest::new(KeyRange::prefix(self.prefix())))],
        };
        self.call(at, Request::Txn(txn), world);
    }

    fn look(&mut self, at: usize, world: &mut World) {
        if world.now >= self.deadline {
            return self.revoke(at, world);
        }
        self.waited = true;
        // The lease must live while the client waits.
        self.renewing = self.random.one_in(3);
        if self.renewing {
            return self.call(at, Request::LeaseKeepAlive { id: self.lease }, world);
        }
        let range = RangeRequest::new(KeyRange::prefix(self.prefix()));
        self.call(at, Request::Range(range), world);
    }

    /// Looks at all contenders; the smallest create revision holds the lock.
    fn judge(&mut self, at: usize, range: &RangeReply, revision: Revision, world: &mut World) {
        let key = self.key();
        let Some(own) = range.kvs.iter().find(|kv| kv.key == key) else { return self.revoke(at, world) };
        let first = range.kvs.iter().map(|kv| kv.create_revision).min();
        if first != Some(own.create_revision) {
            self.state = State::Waiting;
            return world.wake_client(at, self.random.between(20 * MS, 300 * MS));
        }
        if world.now >= self.deadline {
            return self.revoke(at, world);
        }
        self.token = own.create_revision;
        self.state = State::Holding;
        world.met(Situation::LockTaken);
        if self.waited {
            world.met(Situation::LockWaited);
        }
        self.hold = world.history.holds.len();
        world.history.holds.push(LockHold {
            client: self.number,
            contenders: KeyRange::prefix(self.prefix()),
            key,
            token: self.token,
            acquired_revision: revision,
            acquired: world.now,
            // Until it says otherwise; nothing of the client happens after that.
            released: Some(self.deadline),
        });
        self.hold_until = world.now + self.random.spread(10 * MS, 3 * SEC);
        world.wake_client(at, 0);
    }

    fn use_or_release(&mut self, at: usize, world: &mut World) {
        if world.now >= self.deadline {
            world.met(Situation::LockLost);
            // A client that was away does not notice in time: this is what the token is for.
            if self.random.one_in(2) {
                self.use_resource(world);
            }
            return self.revoke(at, world);
        }
        self.use_resource(world);
        if world.now >= self.hold_until {
            world.history.holds[self.hold].released = Some(world.now);
            self.state = State::Releasing;
            let delete = DeleteRequest { range: KeyRange::One(self.key()), prev_kv: false };
            return self.call(at, Request::Delete(delete), world);
        }
        if self.random.one_in(3) && self.deadline.saturating_sub(world.now) < self.ttl as u64 * SEC / 2 {
            self.renewing = true;
            return self.call(at, Request::LeaseKeepAlive { id: self.lease }, world);
        }
        world.wake_client(at, self.random.spread(5 * MS, 400 * MS));
    }

    fn use_resource(&mut self, world: &mut World) {
        let resource = Bytes::from(self.prefix());
        let uses = &mut world.history.fence_uses;
        let largest = uses
            .iter()
            .filter(|past| past.resource == resource && past.accepted)
            .map(|past| past.token)
            .max();
        let accepted = largest.is_none_or(|largest| self.token >= largest);
        uses.push(FenceUse { resource, client: self.number, token: self.token, at: world.now, accepted });
        if !accepted {
            world.met(Situation::FenceRefused);
        }
    }

    fn revoke(&mut self, at: usize, world: &mut World) {
        self.state = State::Revoking;
        self.call(at, Request::LeaseRevoke { id: self.lease }, world);
    }

    fn forget(&mut self, at: usize, world: &mut World) {
        self.state = State::Forgetting;
        let wait = self.ttl.max(2) as u64 * SEC + self.random.below(SEC);
        world.wake_client(at, wait);
    }

    /// The lease lives at least until then: counted from when the client asked, with a margin.
    fn renewed(&mut self, ttl: i64) {
        self.deadline = self.deadline.max(self.asked_at + ttl as u64 * SEC * 3 / 4);
    }

    pub(super) fn hears(&mut self, at: usize, answer: Answer, world: &mut World) {
        if matches!(answer, Answer::Lost | Answer::NotConnected) {
            self.member = None;
        }
        let reply = match &answer {
            Answer::Ok(reply) => Some((reply.revision, &reply.body)),
            _ => None,
        };
        let soon = self.random.between(MS, 50 * MS);
        if std::mem::take(&mut self.renewing) {
            if let Some((_, ReplyBody::LeaseKeepAlive { ttl })) = reply
                && *ttl > 0
            {
                self.renewed(*ttl);
                if self.state == State::Holding {
                    world.history.holds[self.hold].released = Some(self.deadline);
                }
            }
            return world.wake_client(at, soon);
        }
        match (self.state, reply) {
            (State::Granting, Some((_, ReplyBody::LeaseGrant { ttl, .. }))) => {
                self.ttl = *ttl;
                self.deadline = 0;
                self.renewed(*ttl);
                self.waited = false;
                self.state = State::Entering;
                world.wake_client(at, soon);
            }
            (State::Entering, Some((revision, ReplyBody::Txn(txn)))) => match txn.responses.last() {
                Some(OpReply::Range(range)) => {
                    let range = range.clone();
                    self.judge(at, &range, revision, world);
                }
                _ => self.revoke(at, world),
            },
            // Whether the key is there, the next attempt will see.
            (State::Entering, None) if world.now < self.deadline => world.wake_client(at, soon),
            (State::Waiting, Some((revision, ReplyBody::Range(range)))) => {
                let range = range.clone();
                self.judge(at, &range, revision, world);
            }
            (State::Waiting, None) => world.wake_client(at, soon),
            (State::Releasing, _) => self.revoke(at, world),
            (State::Revoking, Some(_)) => {
                self.state = State::Idle;
                world.wake_client(at, self.random.between(MS, 500 * MS));
            }
            (State::Granting | State::Revoking, None) => self.forget(at, world),
            _ => self.revoke(at, world),
        }
    }

    pub(super) fn is_quiet(&self) -> Result<(), String> {
        match self.state {
            State::Idle => Ok(()),
            _ => Err(format!("client {} still has a lock or a lease", self.number)),
        }
    }
}
