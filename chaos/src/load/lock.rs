//! A client that competes for a lock by the usual recipe and uses a guarded resource while it holds
//! it: one key per contender, each on its contender's lease, and the live key with the smallest create
//! revision holds. That revision is the fencing token.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use folkmoot_check::history as h;
use rand::RngExt;

use super::session::Session;
use super::{Context, LOCK_PREFIX, Recorded};

/// Seconds; the least that members grant at default timeouts.
const TTL_SECONDS: i64 = 2;
/// Locks that clients compete for.
const LOCK_COUNT: usize = 2;
/// Pause between two looks at who holds the lock.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How often a lease is renewed.
const RENEW_EVERY: Duration = Duration::from_millis(600);
/// Longest wait for a lock.
const WAIT_PATIENCE: Duration = Duration::from_secs(8);

/// Resources that remember the largest token they saw and refuse smaller ones. They are not part of
/// the store: fencing is what protects them from it.
#[derive(Clone, Default)]
pub struct Fences(Arc<Mutex<FenceState>>);

#[derive(Default)]
struct FenceState {
    largest: BTreeMap<Bytes, h::Revision>,
    uses: Vec<h::FenceUse>,
}

impl Fences {
    fn use_it(&self, session: &Session, resource: &Bytes, token: h::Revision) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let largest = state.largest.entry(resource.clone()).or_default();
        let accepted = token >= *largest;
        *largest = token.max(*largest);
        let (client, at) = (session.client, session.clock.now());
        state.uses.push(h::FenceUse { resource: resource.clone(), client, token, at, accepted });
    }

    /// All uses so far, in order.
    pub fn take(&self) -> Vec<h::FenceUse> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).uses)
    }
}

struct Contender {
    session: Session,
    holds: Vec<h::LockHold>,
    lease: h::LeaseId,
    /// By this moment of its own clock the client can no longer be sure of its lease.
    sure_until: h::Nanos,
    renewed: h::Nanos,
}

/// Works until told to stop.
pub async fn run(session: Session, context: Context, fences: Fences) -> Recorded {
    let mut contender = Contender { session, holds: Vec::new(), lease: 0, sure_until: 0, renewed: 0 };
    let mut count = 0;
    while !context.is_over() {
        count += 1;
        contender.compete(&context, &fences, count).await;
    }
    Recorded { operations: contender.session.operations, holds: contender.holds, ..Recorded::default() }
}

impl Contender {
    async fn compete(&mut self, context: &Context, fences: &Fences, count: i64) {
        self.lease = context.lease_id(self.session.client, count);
        if !self.grant().await {
            return;
        }
        let lock = format!("{LOCK_PREFIX}{}/", self.session.rng.random_range(0..LOCK_COUNT));
        let key = Bytes::from(format!("{lock}{:x}", self.lease));
        let contenders = h::KeyRange::prefix(lock.clone());
        if self.queue_up(&key).await
            && let Some((token, revision)) = self.wait_for_turn(context, &contenders, &key).await
        {
            let acquired = self.session.clock.now();
            if acquired < self.sure_until {
                let released = self.use_resource(context, fences, &Bytes::from(lock), token).await;
                self.holds.push(h::LockHold {
                    client: self.session.client,
                    contenders,
                    key: key.clone(),
                    token,
                    acquired_revision: revision,
                    acquired,
                    released: Some(released),
                });
            }
        }
        // Now and then a client just goes away and its lease has to end.
        if self.session.rng.random_bool(0.7) {
            self.session.call(h::Request::LeaseRevoke { id: self.lease }).await;
        }
    }

    /// A lease that was granted or renewed lives for its time from when that was *asked*, at least.
    fn sure_from(&mut self, asked: h::Nanos, ttl: i64) {
        let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
        self.sure_until = asked + u64::try_from(ttl.as_nanos()).unwrap_or(0);
        self.renewed = asked;
    }

    async fn grant(&mut self) -> bool {
        let asked = self.session.clock.now();
        let request = h::Request::LeaseGrant { id: self.lease, ttl: TTL_SECONDS };
        match self.session.call(request).await {
            Some(h::Reply { body: h::ReplyBody::LeaseGrant { ttl, .. }, .. }) => {
                self.sure_from(asked, ttl);
                true
            }
            _ => false,
        }
    }

    /// Renews the lease if it is time; false if it is gone.
    async fn renew(&mut self) -> bool {
        let asked = self.session.clock.now();
        if u128::from(asked - self.renewed) < RENEW_EVERY.as_nanos() {
            return true;
        }
        match self.session.call(h::Request::LeaseKeepAlive { id: self.lease }).await {
            Some(h::Reply { body: h::ReplyBody::LeaseKeepAlive { ttl }, .. }) if ttl > 0 => {
                self.sure_from(asked, ttl);
                true
            }
            Some(_) => false,
            // Not known; the lease may live on.
            None => asked < self.sure_until,
        }
    }

    async fn queue_up(&mut self, key: &Bytes) -> bool {
        let range = h::KeyRange::One(key.clone());
        let put = h::PutRequest { key: key.clone(), lease: self.lease, ..Default::default() };
        let absent =
            h::Compare { range: range.clone(), op: h::CompareOp::Equal, target: h::CompareTarget::Create(0) };
        let txn = h::TxnRequest {
            compare: vec![absent],
            success: vec![h::OpRequest::Put(put)],
            failure: vec![h::OpRequest::Range(h::RangeRequest::new(range))],
        };
        self.session.call(h::Request::Txn(txn)).await.is_some()
    }

    /// Waits until no key before the own one is left; returns the token and the revision at which
    /// that was so.
    async fn wait_for_turn(
        &mut self,
        context: &Context,
        contenders: &h::KeyRange,
        key: &Bytes,
    ) -> Option<(h::Revision, h::Revision)> {
        let deadline = tokio::time::Instant::now() + WAIT_PATIENCE;
        while tokio::time::Instant::now() < deadline && self.renew().await {
            let read = h::Request::Range(h::RangeRequest::new(contenders.clone()));
            if let Some(reply) = self.session.call(read).await
                && let h::ReplyBody::Range(found) = reply.body
            {
                let own = found.kvs.iter().find(|kv| kv.key == *key)?.create_revision;
                if found.kvs.iter().all(|kv| kv.create_revision >= own) {
                    return Some((own, reply.revision));
                }
            }
            if context.sleep(LOOK_PAUSE).await {
                return None;
            }
        }
        None
    }

    /// Uses the resource for a while; returns when the client stopped to believe that it holds the
    /// lock.
    async fn use_resource(
        &mut self,
        context: &Context,
        fences: &Fences,
        resource: &Bytes,
        token: h::Revision,
    ) -> h::Nanos {
        let uses = self.session.rng.random_range(2..12);
        for _ in 0..uses {
            let alive = self.renew().await;
            let now = self.session.clock.now();
            if !alive || now >= self.sure_until {
                return now.min(self.sure_until);
            }
            fences.use_it(&self.session, resource, token);
            if context.sleep(Duration::from_millis(self.session.rng.random_range(5..60))).await {
                break;
            }
        }
        // A client that sleeps too long and goes on as if nothing had happened: this is what the
        // fence is for. It knows better as soon as it looks at its clock.
        if self.session.rng.random_bool(0.1) && !context.is_over() {
            let asleep = Duration::from_millis(self.session.rng.random_range(500..4000));
            context.sleep(asleep).await;
            fences.use_it(&self.session, resource, token);
        }
        self.session.clock.now().min(self.sure_until)
    }
}
