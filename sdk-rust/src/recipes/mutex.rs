//! A lock across processes.
//!
//! # What it guarantees
//! - One holder at a time, in the order in which they asked (by the revision of their keys); this
//!   includes tasks of one process that share a session.
//! - A holder's [`token`](Guard::token) is larger than every earlier holder's.
//! - A transaction of [`Guard::txn`] is applied only while the lock is held: the store itself
//!   compares the token.
//! - Nobody else gets the lock before this session knows that it is lost. If the process dies or
//!   is cut off, the lock is free after the session's time.
//! - A call to `lock` that is dropped, at any moment, leaves no key behind.
//!
//! # What it does not
//! A process that is stopped (or swapped out, or suspended) right after a check goes on later
//! without knowing that it holds nothing any more. Work that must not be done twice goes through
//! [`Guard::txn`] or shows the token to whoever does the work; the lock alone cannot prevent it.
//!
//! Each waiter has the key `<name>/<lease in hex>`, with an empty value, as Go's `concurrency.Mutex`
//! and `etcdctl lock` have: they queue up together.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use super::contest::{self, Held, Terms};
use super::fence::{FencedTxn, FencingToken};
use super::{place, sweep};
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Compare, Get, Is, Keys, Order, Put, SortBy, Txn};
use crate::session::Session;

/// A lock by name. Makes nothing by itself.
#[derive(Clone, Debug)]
pub struct Mutex {
    session: Session,
    name: String,
    terms: Terms,
}

/// Somebody who holds a lock or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender {
    /// The key in the line.
    pub key: Bytes,
    /// What it says about itself.
    pub owner: Bytes,
    /// The lease of its session.
    pub lease: i64,
    /// Its place; the first one's is its token.
    pub revision: i64,
}

impl Session {
    /// The lock of this name.
    pub fn mutex(&self, name: impl Into<String>) -> Mutex {
        Mutex { session: self.clone(), name: name.into(), terms: Terms::default() }
    }
}

impl Mutex {
    /// What this contender says about itself to whoever looks at the line.
    pub fn owner(mut self, owner: impl AsRef<[u8]>) -> Self {
        self.terms.value = Bytes::copy_from_slice(owner.as_ref());
        self
    }

    /// Waits so long after a holder that was lost, rather than unlocked, before taking its place: a
    /// grace for work that is not fenced.
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.terms.lock_delay = delay;
        self
    }

    /// Waits for the lock, for as long as it takes or the session lasts.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the line, in the background; a lock that was won
    /// at that very moment is released.
    pub async fn lock(&self) -> Result<Guard> {
        contest::contend(&self.session, &self.name, self.terms.clone()).await.map(Guard)
    }

    /// Takes the lock if nobody has it or waits for it, else refuses with
    /// [`WouldBlock`](ErrorKind::WouldBlock). One round trip; others in the line are not disturbed.
    ///
    /// # Cancel safety
    /// As [`Mutex::lock`].
    pub async fn try_lock(&self) -> Result<Guard> {
        place::check_name(&self.name)?;
        self.session.check()?;
        let busy = || Error::new(ErrorKind::WouldBlock, format!("the lock is taken name={:?}", self.name));
        let gate = self.session.gate(&self.name).try_lock_owned().map_err(|_| busy())?;
        let key = place::key_of(&self.name, self.session.lease());
        let line = Keys::prefix(place::prefix(&self.name));
        let txn = Txn::new()
            .when(Compare::create_revision(line, Is::Equal, 0))
            .and_then(Put::new(&key, &self.terms.value).lease(self.session.lease()))
            .or_else(Get::new(key.clone()))
            .or_else(place::first(&self.name));
        let (session, name, value) = (self.session.clone(), self.name.clone(), self.terms.value.clone());
        // On our own threads, so that a caller that goes away does not leave the key behind.
        let taking = async move {
            let doubts = session.core().doubts();
            let answer = match session.client().commit_idempotent(txn).await {
                Ok(answer) => answer,
                Err(error) => {
                    if error.maybe_applied() || session.core().doubts() != doubts {
                        sweep::withdraw(&session, &name).await;
                    }
                    drop(gate);
                    return Err(contest::or_lost(&session, error));
                }
            };
            // A key of ours that is there already is an earlier attempt: of this very call, which found
            // nobody, or one that came late for a lock that was given up, and then stands behind others.
            let read = |n| (!answer.succeeded).then(|| answer.get(n)?.first()).flatten();
            let own = read(0).filter(|kv| kv.lease == session.lease());
            let is_first = own.is_some() && own.map(|kv| &kv.key) == read(1).map(|kv| &kv.key);
            // What that one says of its owner is not what this one does.
            let stale = own.filter(|kv| kv.value != value).map(|kv| kv.mod_revision);
            let own = own.map(|kv| kv.create_revision);
            let created = if answer.succeeded { Some(answer.header.revision) } else { own };
            let (seen, doubtful) = (answer.header.revision, session.core().doubts() != doubts);
            let Some(created) = created else {
                if doubtful {
                    // An earlier attempt may find the lock free yet.
                    sweep::sweep(&session, &name, seen);
                }
                return Ok(None);
            };
            let mut place = place::Place { session, name, key, created, seen, doubtful };
            if !answer.succeeded && !is_first {
                place.leave().await?;
                return Ok(None);
            }
            if let Some(modified) = stale
                && let Err(error) = place.say(modified, &value).await
            {
                let left = place.leave().await;
                tracing::debug!(?left, "a lock could not be taken over");
                return Err(error);
            }
            let held = Held::new(place, gate);
            held.place().check()?;
            Ok(Some(held))
        };
        let taken = self.session.core().handle.spawn(taking).await;
        let taken = taken.map_err(|error| Error::internal(format!("an attempt ended: {error}")))?;
        taken?.map(Guard).ok_or_else(busy)
    }

    /// Holds the lock while the work runs; the work is dropped when the lock is lost.
    ///
    /// # Cancel safety
    /// As [`Mutex::lock`]; the work is dropped with the future.
    pub async fn run<T, F: Future<Output = T>>(&self, work: impl FnOnce(FencingToken) -> F) -> Result<T> {
        let guard = self.lock().await?;
        let done = tokio::select! {
            biased;
            why = guard.lost() => return Err(why),
            done = work(guard.token()) => done,
        };
        guard.unlock().await?;
        Ok(done)
    }

    /// The holder and those who wait, in their order.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn contenders(&self) -> Result<Vec<Contender>> {
        place::check_name(&self.name)?;
        let line = Get::prefix(place::prefix(&self.name)).sort(SortBy::Create, Order::Ascending);
        let answer = self.session.client().get(line).await?;
        let contender = |kv: crate::kv::KeyValue| Contender {
            key: kv.key,
            owner: kv.value,
            lease: kv.lease,
            revision: kv.create_revision,
        };
        Ok(answer.kvs.into_iter().map(contender).collect())
    }
}

/// A lock that is held. Dropping it unlocks in the background.
#[derive(Debug)]
#[must_use = "a guard that is dropped unlocks"]
pub struct Guard(Held);

impl Guard {
    /// What proves to others that this holder is the latest.
    pub fn token(&self) -> FencingToken {
        self.0.place().token()
    }

    /// The key in the store.
    pub fn key(&self) -> &Bytes {
        &self.0.place().key
    }

    /// Refuses if the session is over, without asking the store.
    pub fn check(&self) -> Result<()> {
        self.0.place().check()
    }

    /// A transaction that is applied only while the lock is held.
    pub fn txn(&self) -> FencedTxn {
        FencedTxn::new(self.0.place(), ErrorKind::NotHeld)
    }

    /// Waits until the lock is lost, because the session ended or somebody deleted the key, and
    /// tells why.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn lost(&self) -> Error {
        self.0.place().lost().await
    }

    /// As [`Guard::lost`], for whoever cannot borrow the guard while waiting. An unlock counts as a
    /// loss here, because the key is deleted.
    pub fn watch_lost(&self) -> impl Future<Output = Error> + Send + use<> {
        let place = self.0.place().clone();
        async move { place.lost().await }
    }

    /// Unlocks and waits for the store. Answers whether the lock was still held; a newer holder is
    /// never disturbed.
    ///
    /// # Cancel safety
    /// The lock is released in the background if the future is dropped.
    pub async fn unlock(self) -> Result<bool> {
        self.0.release().await
    }

    /// Keeps the lock until the session ends.
    pub fn forget(self) {
        self.0.forget();
    }
}
