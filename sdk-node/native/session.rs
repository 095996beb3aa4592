//! Sessions, locks, elections.

use folkmoot_bridge as bridge;
use napi::bindgen_prelude::*;
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;

use super::call::{buffer, bytes, call, fail, in_millis, maybe_millis, millis, text, weak};
use super::kv::{Token, TxnIn, TxnOut};
use super::stream::stream;

fn state(state: bridge::SessionStateRecord) -> &'static str {
    match state {
        bridge::SessionStateRecord::Active => "active",
        bridge::SessionStateRecord::Suspended => "suspended",
        bridge::SessionStateRecord::Expired => "expired",
        bridge::SessionStateRecord::LeaseGone => "lease-gone",
        bridge::SessionStateRecord::ClusterReset => "cluster-reset",
        bridge::SessionStateRecord::Closed => "closed",
    }
}

stream!(StateStream(StateStream) -> String, |now| state(now).to_owned());

#[napi]
pub struct Session(pub(crate) bridge::Session);

#[napi]
impl Session {
    #[napi]
    pub fn lease(&self) -> Result<BigInt> {
        Ok(self.0.lease().map_err(fail)?.into())
    }

    #[napi]
    pub fn ttl_ms(&self) -> Result<f64> {
        Ok(in_millis(self.0.ttl().map_err(fail)?))
    }

    #[napi]
    pub fn state(&self) -> Result<&'static str> {
        Ok(state(self.0.state().map_err(fail)?))
    }

    #[napi]
    pub fn check(&self) -> Result<()> {
        self.0.check().map_err(fail)
    }

    #[napi]
    pub fn remaining_ms(&self) -> Result<f64> {
        Ok(in_millis(self.0.remaining().map_err(fail)?))
    }

    #[napi]
    pub fn watch_state(&self) -> Result<StateStream> {
        Ok(StateStream(self.0.watch_state().map_err(fail)?))
    }

    #[napi]
    pub fn detach(&self) -> Result<()> {
        self.0.detach().map_err(fail)
    }

    #[napi]
    pub fn end<'e>(&self, env: &'e Env) -> Result<PromiseRaw<'e, ()>> {
        let session = self.0.clone();
        call(env, None, async move { session.end().await }, |()| ())
    }

    #[napi]
    pub fn mutex(&self, name: String, owner: Buffer, lock_delay_ms: f64) -> Result<Mutex> {
        let options = bridge::MutexOptions { owner: bytes(&owner), lock_delay: millis(lock_delay_ms)? };
        Ok(Mutex(self.0.mutex(name, options).map_err(fail)?))
    }

    #[napi]
    pub fn election(&self, name: String) -> Result<Election> {
        Ok(Election(self.0.election(name).map_err(fail)?))
    }
}

#[napi(object)]
pub struct Contender {
    pub key: Buffer,
    pub owner: Buffer,
    pub lease: BigInt,
    pub revision: BigInt,
}

#[napi]
pub struct Mutex(bridge::Mutex);

#[napi]
impl Mutex {
    #[napi]
    pub fn lock<'e>(
        &self,
        env: &'e Env,
        timeout_ms: Option<f64>,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Guard>> {
        let (mutex, timeout) = (self.0.clone(), maybe_millis(timeout_ms)?);
        call(env, cancel, async move { mutex.lock(timeout).await }, Guard)
    }

    #[napi]
    pub fn try_lock<'e>(&self, env: &'e Env, cancel: Option<u32>) -> Result<PromiseRaw<'e, Guard>> {
        let mutex = self.0.clone();
        call(env, cancel, async move { mutex.try_lock().await }, Guard)
    }

    #[napi]
    pub fn contenders<'e>(
        &self,
        env: &'e Env,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Vec<Contender>>> {
        fn contenders(found: Vec<bridge::ContenderRecord>) -> Vec<Contender> {
            let contender = |one: bridge::ContenderRecord| Contender {
                key: buffer(&one.key),
                owner: buffer(&one.owner),
                lease: one.lease.into(),
                revision: one.revision.into(),
            };
            found.into_iter().map(contender).collect()
        }
        let mutex = self.0.clone();
        call(env, cancel, async move { mutex.contenders().await }, contenders)
    }
}

#[napi]
pub struct Guard(bridge::Guard);

#[napi]
impl Guard {
    #[napi]
    pub fn token(&self) -> Result<Token> {
        Ok(self.0.token().map_err(fail)?.into())
    }

    #[napi]
    pub fn check(&self) -> Result<()> {
        self.0.check().map_err(fail)
    }

    #[napi]
    pub fn commit<'e>(
        &self,
        env: &'e Env,
        txn: TxnIn,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, TxnOut>> {
        let (guard, txn) = (self.0.clone(), bridge::TxnRecord::try_from(&txn)?);
        call(env, cancel, async move { guard.commit(txn).await }, TxnOut::from)
    }

    #[napi]
    pub fn unlock<'e>(&self, env: &'e Env) -> Result<PromiseRaw<'e, bool>> {
        let guard = self.0.clone();
        call(env, None, async move { guard.unlock().await }, |held| held)
    }

    #[napi]
    pub fn detach(&self) -> Result<()> {
        self.0.detach().map_err(fail)
    }
}

/// Calls back once with why something held was lost; never if it was given back. Does not hold it.
macro_rules! on_lost {
    ($held:expr, $callback:expr) => {{
        let callback = weak(&$callback)?;
        let lost = $held.watch_lost().map_err(fail)?;
        bridge::runtime().map_err(fail)?.spawn(async move {
            if let Ok(Some(why)) = lost.wait().await {
                callback.call(text(&why), ThreadsafeFunctionCallMode::NonBlocking);
            }
        });
        Ok(())
    }};
}

#[napi]
impl Guard {
    #[napi]
    pub fn on_lost(&self, callback: Function<String, ()>) -> Result<()> {
        on_lost!(self.0, callback)
    }
}

#[napi(object)]
pub struct Leader {
    pub key: Buffer,
    pub value: Buffer,
    pub token: BigInt,
    pub revision: BigInt,
}

impl From<bridge::LeaderRecord> for Leader {
    fn from(leader: bridge::LeaderRecord) -> Self {
        Self {
            key: buffer(&leader.key),
            value: buffer(&leader.value),
            token: leader.token.into(),
            revision: leader.revision.into(),
        }
    }
}

pub fn leader(found: Option<bridge::LeaderRecord>) -> Option<Leader> {
    found.map(Into::into)
}

#[napi(object, object_from_js = false)]
pub struct LeaderEvent {
    /// `elected`, `updated` or `vacant`.
    pub kind: &'static str,
    pub leader: Option<Leader>,
    pub revision: BigInt,
}

impl From<bridge::LeaderEventRecord> for LeaderEvent {
    fn from(event: bridge::LeaderEventRecord) -> Self {
        let of = |kind, leader: bridge::LeaderRecord| {
            let revision = leader.revision.into();
            Self { kind, leader: Some(leader.into()), revision }
        };
        match event {
            bridge::LeaderEventRecord::Elected(leader) => of("elected", leader),
            bridge::LeaderEventRecord::Updated(leader) => of("updated", leader),
            bridge::LeaderEventRecord::Vacant(revision) => {
                Self { kind: "vacant", leader: None, revision: revision.into() }
            }
        }
    }
}

stream!(LeaderStream(LeaderStream) -> LeaderEvent, LeaderEvent::from);

#[napi]
pub struct Election(bridge::Election);

#[napi]
impl Election {
    #[napi]
    pub fn campaign<'e>(
        &self,
        env: &'e Env,
        value: Buffer,
        timeout_ms: Option<f64>,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Leadership>> {
        let (election, value, timeout) = (self.0.clone(), bytes(&value), maybe_millis(timeout_ms)?);
        call(env, cancel, async move { election.campaign(value, timeout).await }, Leadership)
    }

    #[napi]
    pub fn leader<'e>(&self, env: &'e Env, cancel: Option<u32>) -> Result<PromiseRaw<'e, Option<Leader>>> {
        let election = self.0.clone();
        call(env, cancel, async move { election.leader().await }, leader)
    }

    #[napi]
    pub fn observe<'e>(&self, env: &'e Env, cancel: Option<u32>) -> Result<PromiseRaw<'e, LeaderStream>> {
        let election = self.0.clone();
        call(env, cancel, async move { election.observe().await }, LeaderStream)
    }
}

#[napi]
pub struct Leadership(bridge::Leadership);

#[napi]
impl Leadership {
    #[napi]
    pub fn token(&self) -> Result<Token> {
        Ok(self.0.token().map_err(fail)?.into())
    }

    #[napi]
    pub fn check(&self) -> Result<()> {
        self.0.check().map_err(fail)
    }

    #[napi]
    pub fn commit<'e>(
        &self,
        env: &'e Env,
        txn: TxnIn,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, TxnOut>> {
        let (leadership, txn) = (self.0.clone(), bridge::TxnRecord::try_from(&txn)?);
        call(env, cancel, async move { leadership.commit(txn).await }, TxnOut::from)
    }

    #[napi]
    pub fn proclaim<'e>(
        &self,
        env: &'e Env,
        value: Buffer,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, ()>> {
        let (leadership, value) = (self.0.clone(), bytes(&value));
        call(env, cancel, async move { leadership.proclaim(value).await }, |()| ())
    }

    #[napi]
    pub fn resign<'e>(&self, env: &'e Env) -> Result<PromiseRaw<'e, bool>> {
        let leadership = self.0.clone();
        call(env, None, async move { leadership.resign().await }, |held| held)
    }

    #[napi]
    pub fn on_lost(&self, callback: Function<String, ()>) -> Result<()> {
        on_lost!(self.0, callback)
    }
}
