//! Standing in line: what Mutex and Election have in common.
//!
//! Everybody puts a key of their own under a name; the one that came to be first has its turn. Each
//! waits for exactly one predecessor. The whole contest runs on this crate's own threads, so that a
//! caller that goes away at any moment leaves nothing behind: what was won and not delivered is
//! given back, what was put and not won is deleted.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::place::{Place, check_name, first, key_of};
use super::sweep::withdraw;
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Compare, Get, GetResponse, Put, Txn, TxnResponse};
use crate::session::{LostReason, Session};

/// Whether to go on trying while the session lives.
pub(super) fn is_passing(error: &Error) -> bool {
    error.is_retryable() || error.kind() == ErrorKind::Ambiguous || error.kind() == ErrorKind::Cancelled
}

/// Does a guarded transaction until it is answered, for as long as the session lives.
pub(super) async fn persist(session: &Session, txn: &Txn) -> Result<TxnResponse> {
    let mut backoff = Backoff::default();
    loop {
        session.check()?;
        match session.client().commit_idempotent(txn.clone()).await {
            Err(error) if is_passing(&error) => backoff.wait().await,
            Err(error) => return Err(or_lost(session, error)),
            Ok(answer) => return Ok(answer),
        }
    }
}

/// That the lease is gone is that the session is lost, whoever hears of it first.
pub(super) fn or_lost(session: &Session, error: Error) -> Error {
    if error.kind() != ErrorKind::LeaseNotFound {
        return error;
    }
    session.vital().lose(LostReason::LeaseGone);
    session.check().err().unwrap_or(error)
}

/// Reads a key. That the store does not answer for a while does not mean that the key is gone; that the
/// session is lost does, and whoever waits for this hears of that, too.
pub(super) async fn read_key(session: &Session, key: &Bytes) -> Result<GetResponse> {
    let mut backoff = Backoff::default();
    loop {
        session.check()?;
        match session.client().get(Get::new(key.clone())).await {
            Err(error) if is_passing(&error) => backoff.wait().await,
            answer => return answer,
        }
    }
}

/// A place whose turn it is. Dropping it leaves the line in the background.
#[derive(Debug)]
pub(crate) struct Held {
    place: Option<Place>,
    /// Lets the next task of this session in, after the key is gone.
    gate: Option<OwnedMutexGuard<()>>,
}

impl Held {
    pub fn new(place: Place, gate: OwnedMutexGuard<()>) -> Self {
        Self { place: Some(place), gate: Some(gate) }
    }

    pub fn place(&self) -> &Place {
        self.place.as_ref().expect("is there until it is released")
    }

    /// Leaves the line. Answers whether we still stood in it.
    pub async fn release(mut self) -> Result<bool> {
        let place = self.place.take().expect("is there until it is released");
        let gate = self.gate.take();
        if place.session.core().is_foreign() {
            return Err(Error::forked());
        }
        let handle = place.session.core().handle.clone();
        // On our own threads: a caller that goes away does not stop it half-way.
        let leaving = handle.spawn(async move {
            let left = place.leave().await;
            drop(gate);
            left
        });
        leaving.await.map_err(|error| Error::internal(format!("a release ended: {error}")))?
    }

    /// Keeps the key in the store until the session ends, whatever happens to this value; other tasks of
    /// this session wait until then, as everybody else does.
    pub fn forget(mut self) {
        if let (Some(place), Some(gate)) = (self.place.take(), self.gate.take()) {
            place.session.keep_gate(gate);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (place, gate) = (self.place.take(), self.gate.take());
        let Some(place) = place else { return };
        if place.session.core().is_foreign() {
            // Belongs to the parent; so does the gate.
            std::mem::forget((place, gate));
            return;
        }
        let handle = place.session.core().handle.clone();
        handle.spawn(async move {
            let outcome = place.leave().await;
            tracing::debug!(?outcome, name = place.name, "a dropped guard was released");
            drop(gate);
        });
    }
}

/// How to contend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub value: Bytes,
    pub lock_delay: Duration,
}

/// Gets in line and waits for the turn.
///
/// # Cancel safety
/// If the future is dropped, the key is deleted in the background.
pub(crate) async fn contend(session: &Session, name: &str, terms: Terms) -> Result<Held> {
    check_name(name)?;
    session.check()?;
    let gate = session.gate(name);
    let gate = tokio::select! {
        biased;
        why = session.lost() => return Err(why),
        gate = gate.lock_owned() => gate,
    };
    let (deliver, delivered) = oneshot::channel();
    let contest = contest(session.clone(), name.to_owned(), terms, gate, deliver);
    session.core().handle.spawn(contest);
    delivered.await.unwrap_or_else(|_| Err(Error::internal("a contest ended without a result")))
}

async fn contest(
    session: Session,
    name: String,
    terms: Terms,
    gate: OwnedMutexGuard<()>,
    mut deliver: oneshot::Sender<Result<Held>>,
) {
    let doubts = session.core().doubts();
    let outcome = match enter(&session, &name, &terms, &mut deliver).await {
        Ok(None) => {
            // Nobody waits any more, and whether the key stands is not known.
            withdraw(&session, &name).await;
            return;
        }
        Ok(Some((mut place, ahead))) => {
            let waited = tokio::select! {
                biased;
                () = deliver.closed() => None,
                waited = place.wait(terms.lock_delay, ahead) => Some(waited),
            };
            let held = Held::new(place, gate);
            match waited {
                Some(Ok(())) => Ok(held),
                Some(Err(error)) => {
                    // With an error the caller may expect that nothing is left.
                    let released = held.release().await;
                    tracing::debug!(?released, "a place in a line was given up");
                    Err(error)
                }
                None => return,
            }
        }
        Err(error) => {
            if session.check().is_ok() && (error.maybe_applied() || session.core().doubts() != doubts) {
                withdraw(&session, &name).await;
            }
            Err(error)
        }
    };
    // What cannot be delivered is given back where it is dropped.
    let _ = deliver.send(outcome);
}

/// Puts our key. `None` if the caller went away before that was sure. With the place comes the lease of
/// who is the first in the line then, if that matters and is not ourselves.
async fn enter(
    session: &Session,
    name: &str,
    terms: &Terms,
    deliver: &mut oneshot::Sender<Result<Held>>,
) -> Result<Option<(Place, Option<i64>)>> {
    let key = key_of(name, session.lease());
    let mut txn = Txn::new()
        .when(Compare::absent(key.clone()))
        .and_then(Put::new(&key, &terms.value).lease(session.lease()))
        .and_then(Get::new(key.clone()))
        .or_else(Get::new(key.clone()));
    if !terms.lock_delay.is_zero() {
        txn = txn.and_then(first(name)).or_else(first(name));
    }
    let doubts = session.core().doubts();
    let mut backoff = Backoff::default();
    loop {
        session.check()?;
        // Not dropped half-way: what is on its way could be applied after our own cleaning up.
        let answer = match session.client().commit_idempotent(txn.clone()).await {
            Ok(answer) => answer,
            Err(error) if is_passing(&error) => {
                tokio::select! {
                    () = deliver.closed() => return Ok(None),
                    () = backoff.wait() => continue,
                }
            }
            Err(error) => return Err(or_lost(session, error)),
        };
        let at = usize::from(answer.succeeded);
        let Some(kv) = answer.get(at).and_then(|get| get.first()) else { continue };
        let ahead = answer.get(at + 1).and_then(|get| get.first()).filter(|first| first.key != key);
        let ahead = ahead.map(|first| first.lease);
        if kv.lease != session.lease() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("somebody else wrote our key in the line key={:?}", kv.key_text()),
            ));
        }
        let mut place = Place {
            session: session.clone(),
            name: name.to_owned(),
            key,
            created: kv.create_revision,
            seen: answer.header.revision,
            doubtful: session.core().doubts() != doubts,
        };
        if kv.value != terms.value
            && let Err(error) = place.say(kv.mod_revision, &terms.value).await
        {
            let left = place.leave().await;
            tracing::debug!(?left, name, "a place in a line could not be taken over");
            return Err(error);
        }
        return Ok(Some((place, ahead)));
    }
}
