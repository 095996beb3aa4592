//! A client that holds a lease with keys on it: grants, attaches, renews for a while, and then
//! revokes or forgets it.

use bytes::Bytes;
use folkmoot_check::history::{PutRequest, ReplyBody, Request};

use super::PATIENCE;
use crate::network::HostAt;
use crate::random::Random;
use crate::sometimes::Situation;
use crate::time::{MS, SEC};
use crate::world::{Answer, World};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Granting,
    Attaching {
        left: u64,
    },
    Renewing {
        left: u64,
    },
    Asking,
    Revoking,
    /// Waiting long enough for the lease to end by itself.
    Forgetting,
}

/// See the module.
pub struct LeaseClient {
    random: Random,
    number: u64,
    leases: u64,
    lease: i64,
    ttl: i64,
    state: State,
    writes: u64,
    member: Option<HostAt>,
    /// Who led when the lease was granted.
    granted_under: Option<HostAt>,
}

impl LeaseClient {
    /// Client `number`.
    pub fn new(random: Random, number: u64) -> Self {
        Self {
            random,
            number,
            leases: 0,
            lease: 0,
            ttl: 0,
            state: State::Idle,
            writes: 0,
            member: None,
            granted_under: None,
        }
    }

    fn call(&mut self, at: usize, request: Request, world: &mut World) {
        let mut member = world.choose_member(&mut self.random, self.member);
        // One that stays with the member that leads asks it on also when it leads no more.
        if self.random.one_in(4)
            && let Some(leader) = world.leader()
        {
            member = leader;
        }
        self.member = Some(member);
        world.call(at, member, request, PATIENCE);
    }

    pub(super) fn wakes(&mut self, at: usize, world: &mut World) {
        match self.state {
            State::Idle | State::Forgetting if world.is_closing() => self.state = State::Idle,
            State::Idle | State::Forgetting => {
                if self.state == State::Forgetting
                    && self.granted_under.is_some()
                    && world.leader() != self.granted_under
                {
                    world.met(Situation::LeaseExpiredAfterLeaderChange);
                }
                self.granted_under = None;
                self.leases += 1;
                self.lease = (self.number as i64 + 1) << 20 | self.leases as i64;
                self.ttl = match self.random.below(4) {
                    0 => self.random.between(8, 20) as i64,
                    _ => self.random.between(1, 8) as i64,
                };
                self.state = State::Granting;
                self.call(at, Request::LeaseGrant { id: self.lease, ttl: self.ttl }, world);
            }
            State::Attaching { left: 0 } => {
                self.state = State::Renewing { left: self.random.below(6) };
                world.wake_client(at, self.random.below(self.ttl as u64 * SEC / 2));
            }
            State::Attaching { left } => {
                self.state = State::Attaching { left: left - 1 };
                self.writes += 1;
                let key = Bytes::from(format!("lease/{}/{}", self.number, self.random.below(4)));
                let value = Bytes::from(format!("{}.{}", self.number, self.writes));
                let put = PutRequest { key, value, lease: self.lease, ..PutRequest::default() };
                self.call(at, Request::Put(put), world);
            }
            State::Renewing { .. } if world.is_closing() => {
                self.state = State::Revoking;
                self.call(at, Request::LeaseRevoke { id: self.lease }, world);
            }
            State::Renewing { left: 0 } => match self.random.below(4) {
                0 => {
                    self.state = State::Revoking;
                    self.call(at, Request::LeaseRevoke { id: self.lease }, world);
                }
                1 => {
                    self.state = State::Asking;
                    self.call(at, Request::LeaseTimeToLive { id: self.lease, keys: true }, world);
                }
                _ => self.forget(at, world),
            },
            State::Renewing { left } => {
                self.state = State::Renewing { left: left - 1 };
                self.call(at, Request::LeaseKeepAlive { id: self.lease }, world);
            }
            State::Granting | State::Asking | State::Revoking => {}
        }
    }

    fn forget(&mut self, at: usize, world: &mut World) {
        self.state = State::Forgetting;
        let wait = self.ttl as u64 * SEC + self.random.below(3 * SEC);
        world.wake_client(at, wait);
    }

    pub(super) fn hears(&mut self, at: usize, answer: Answer, world: &mut World) {
        if matches!(answer, Answer::Lost | Answer::NotConnected) {
            self.member = None;
        }
        let body = match &answer {
            Answer::Ok(reply) => Some(&reply.body),
            _ => None,
        };
        let soon = self.random.between(MS, 50 * MS);
        match (self.state, body) {
            (State::Granting, Some(ReplyBody::LeaseGrant { ttl, .. })) => {
                world.met(Situation::LeaseGranted);
                self.ttl = *ttl;
                self.granted_under = world.leader();
                self.state = State::Attaching { left: self.random.between(1, 3) };
                world.wake_client(at, soon);
            }
            // Nobody knows whether the lease is there.
            (State::Granting, _) => self.forget(at, world),
            (State::Attaching { .. }, _) => world.wake_client(at, soon),
            (State::Renewing { .. }, Some(ReplyBody::LeaseKeepAlive { ttl })) if *ttl <= 0 => {
                world.met(Situation::LeaseGone);
                self.state = State::Idle;
                world.wake_client(at, soon);
            }
            (State::Renewing { .. }, body) => {
                if body.is_some() {
                    world.met(Situation::LeaseRenewed);
                }
                let ttl = self.ttl as u64 * SEC;
                let wait = match self.random.below(4) {
                    // Around the end, when nobody can say whether it is too late.
                    0 => self.random.between(ttl - 300 * MS, ttl + 500 * MS),
                    _ => self.random.between(ttl / 6, ttl / 3),
                };
                world.wake_client(at, wait);
            }
            (State::Revoking, Some(_)) => {
                world.met(Situation::LeaseRevoked);
                self.state = State::Idle;
                world.wake_client(at, soon);
            }
            _ => self.forget(at, world),
        }
    }

    pub(super) fn is_quiet(&self) -> Result<(), String> {
        match self.state {
            State::Idle => Ok(()),
            _ => Err(format!("client {} still has a lease", self.number)),
        }
    }
}
