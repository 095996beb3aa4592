//! One leader among many candidates.
//!
//! # What it guarantees
//! - At most one leader at a time, in the order of candidacy; [`Election::campaign`] returns only
//!   after the store has confirmed it in one transaction, so nobody believes to lead whose session
//!   expired while waiting.
//! - A leader's [`token`](Leadership::token) is larger than every earlier leader's, and
//!   [`Leadership::txn`] is applied only while the leadership lasts.
//! - [`Election::observe`] shows the present leader, or that there is none; the last state is never
//!   left out, whatever fails in between.
//!
//! # What it does not
//! A leader that is stopped for longer than its session and goes on afterwards still runs its code.
//! What it does outside the store must be fenced by the token.
//!
//! Each candidate has the key `<name>/<lease in hex>` with its proposal, as Go's
//! `concurrency.Election` and `etcdctl elect` have.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

use super::contest::{self, Held, Terms};
use super::fence::{FencedTxn, FencingToken};
use super::place::{self, Place};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Compare, Get, Is, KeyValue, Put, Txn};
use crate::session::{Session, SessionState};
use crate::view::{PrefixView, ViewEvent};

/// The longest wait before one stands again who has led before.
const STAND_AGAIN: Duration = Duration::from_secs(1);

/// An election by name. Makes nothing by itself.
#[derive(Clone, Debug)]
pub struct Election {
    session: Session,
    name: String,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its key.
    pub key: Bytes,
    /// What it proclaims.
    pub value: Bytes,
    /// Its token.
    pub token: i64,
    /// When it proclaimed that.
    pub revision: i64,
}

impl From<&KeyValue> for Leader {
    fn from(kv: &KeyValue) -> Self {
        Self {
            key: kv.key.clone(),
            value: kv.value.clone(),
            token: kv.create_revision,
            revision: kv.mod_revision,
        }
    }
}

/// A change of who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderEvent {
    /// Somebody leads now.
    Elected(Leader),
    /// The same leader proclaims something else.
    Updated(Leader),
    /// Nobody leads.
    Vacant {
        /// When that was seen.
        revision: i64,
    },
}

impl Session {
    /// The election of this name.
    pub fn election(&self, name: impl Into<String>) -> Election {
        Election { session: self.clone(), name: name.into() }
    }
}

impl Client {
    /// Who leads in the election of this name.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn leader(&self, name: &str) -> Result<Option<Leader>> {
        place::check_name(name)?;
        Ok(self.get(place::first(name)).await?.first().map(Leader::from))
    }

    /// Follows who leads in the election of this name, without being a candidate.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn observe(&self, name: &str) -> Result<Observer> {
        place::check_name(name)?;
        let view = PrefixView::open(self, place::prefix(name)).await?;
        let mut observer = Observer { view, last: None, ready: VecDeque::new() };
        observer.refresh(true);
        Ok(observer)
    }
}

impl Election {
    /// Waits to be elected, for as long as it takes or the session lasts.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidacy in the background; a leadership that was won at
    /// that very moment is resigned.
    pub async fn campaign(&self, value: impl AsRef<[u8]>) -> Result<Leadership> {
        let terms = Terms { value: Bytes::copy_from_slice(value.as_ref()), ..Terms::default() };
        let held = contest::contend(&self.session, &self.name, terms).await;
        held.map(Leadership::new).map_err(not_leader)
    }

    /// Campaigns, does the work while leading, and resigns. The work is dropped when the leadership
    /// is lost, and the error says why. It is not dropped when the store is not heard for a while: that is
    /// told by [`Tenure::suspended`], and whether to stop then is the work's to say.
    ///
    /// # Cancel safety
    /// As [`Election::campaign`]; the work is dropped with the future.
    pub async fn run<T, F>(&self, value: impl AsRef<[u8]>, work: impl FnOnce(Tenure) -> F) -> Result<T>
    where
        F: Future<Output = T>,
    {
        let leadership = self.campaign(value).await?;
        let done = tokio::select! {
            biased;
            why = leadership.lost() => return Err(why),
            done = work(Tenure { place: leadership.held.place().clone() }) => done,
        };
        leadership.resign().await?;
        Ok(done)
    }

    /// As [`Election::run`], again and again: whoever has resigned, or was deposed by a deletion of its key,
    /// stands again behind the others after a short while, which differs each time. Answers only with the
    /// error that ended it; mostly that the session is over.
    ///
    /// # Cancel safety
    /// As [`Election::run`].
    pub async fn run_repeatedly<F>(&self, value: impl AsRef<[u8]>, mut work: impl FnMut(Tenure) -> F) -> Error
    where
        F: Future<Output = ()>,
    {
        let value = value.as_ref();
        let mut backoff = Backoff::new(STAND_AGAIN, STAND_AGAIN);
        loop {
            match self.run(value, &mut work).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotLeader => {}
                Err(error) => return error,
            }
            backoff.wait().await;
        }
    }

    /// Who leads.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        self.session.client().leader(&self.name).await
    }

    /// Follows who leads.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn observe(&self) -> Result<Observer> {
        self.session.client().observe(&self.name).await
    }
}

/// The time in which one leads, for the work that is done in it.
#[derive(Clone, Debug)]
pub struct Tenure {
    place: Place,
}

impl Tenure {
    /// What proves to others that this leader is the latest.
    pub fn token(&self) -> FencingToken {
        self.place.token()
    }

    /// Refuses if the session is over, without asking the store.
    pub fn check(&self) -> Result<()> {
        self.place.check()
    }

    /// A transaction that is applied only while the leadership lasts.
    pub fn txn(&self) -> FencedTxn {
        FencedTxn::new(&self.place, ErrorKind::NotLeader)
    }

    /// Waits until the store has not been heard for a while, or the session is over: the leadership still
    /// counts, but may soon be lost. Work that takes long to stop should begin to.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn suspended(&self) {
        let mut states = self.place.session.watch_state();
        while let Some(SessionState::Active) = states.next().await {}
    }
}

/// A leadership that is held. Dropping it resigns in the background.
#[derive(Debug)]
#[must_use = "a leadership that is dropped is resigned"]
pub struct Leadership {
    held: Held,
    /// When it was last proclaimed something, as far as is known.
    proclaimed: tokio::sync::Mutex<i64>,
}

impl Leadership {
    fn new(held: Held) -> Self {
        let created = held.place().created;
        Self { held, proclaimed: tokio::sync::Mutex::new(created) }
    }

    /// What proves to others that this leader is the latest.
    pub fn token(&self) -> FencingToken {
        self.held.place().token()
    }

    /// The key in the store.
    pub fn key(&self) -> &Bytes {
        &self.held.place().key
    }

    /// Refuses if the session is over, without asking the store.
    pub fn check(&self) -> Result<()> {
        self.held.place().check()
    }

    /// A transaction that is applied only while the leadership lasts.
    pub fn txn(&self) -> FencedTxn {
        FencedTxn::new(self.held.place(), ErrorKind::NotLeader)
    }

    /// Proclaims something else, without giving up the place. What was proclaimed later is never
    /// replaced by what was proclaimed before, even if the network delivers it late.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be proclaimed or not.
    pub async fn proclaim(&self, value: impl AsRef<[u8]>) -> Result<()> {
        let place = self.held.place();
        place.check()?;
        let value = value.as_ref();
        let mut proclaimed = self.proclaimed.lock().await;
        loop {
            let last = Compare::mod_revision(place.key.clone(), Is::Equal, *proclaimed);
            let put = Put::new(&place.key, value).lease(place.session.lease());
            let txn = Txn::new().when(place.fence()).when(last);
            let txn = txn.and_then(put).or_else(Get::new(place.key.clone()));
            let answer = place.session.client().commit_idempotent(txn).await?;
            if answer.succeeded {
                *proclaimed = answer.header.revision;
                return Ok(());
            }
            let own = answer.get(0).and_then(|get| get.first());
            let Some(kv) = own.filter(|kv| kv.create_revision == place.created) else {
                let text = format!("the leadership is lost token={}", place.created);
                return Err(Error::new(ErrorKind::NotLeader, text));
            };
            // An attempt whose answer was lost: of this call, or of one before it.
            *proclaimed = kv.mod_revision;
            if kv.value == value {
                return Ok(());
            }
        }
    }

    /// Waits until the leadership is lost, and tells why.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn lost(&self) -> Error {
        self.watch_lost().await
    }

    /// As [`Leadership::lost`], for whoever cannot borrow the leadership while waiting. Resigning
    /// counts as a loss here, because the key is deleted.
    pub fn watch_lost(&self) -> impl Future<Output = Error> + Send + use<> {
        let place = self.held.place().clone();
        async move { not_leader(place.lost().await) }
    }

    /// Resigns and waits for the store. Answers whether the leadership was still held.
    ///
    /// # Cancel safety
    /// It is resigned in the background if the future is dropped.
    pub async fn resign(self) -> Result<bool> {
        self.held.release().await
    }

    /// Keeps the leadership until the session ends.
    pub fn forget(self) {
        self.held.forget();
    }
}

/// What is a lock that is not held is here a leadership that is not.
fn not_leader(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotHeld => error.with_kind(ErrorKind::NotLeader),
        _ => error,
    }
}

/// Follows who leads, for ever.
#[derive(Debug)]
pub struct Observer {
    view: PrefixView,
    last: Option<Leader>,
    ready: VecDeque<LeaderEvent>,
}

/// What changed between two states, if anything did.
fn change(last: Option<&Leader>, now: Option<&Leader>, revision: i64, first: bool) -> Option<LeaderEvent> {
    match (last, now) {
        (Some(last), Some(now)) if last == now => None,
        (Some(last), Some(now)) if last.token == now.token && last.key == now.key => {
            Some(LeaderEvent::Updated(now.clone()))
        }
        (_, Some(now)) => Some(LeaderEvent::Elected(now.clone())),
        (Some(_), None) => Some(LeaderEvent::Vacant { revision }),
        (None, None) => first.then_some(LeaderEvent::Vacant { revision }),
    }
}

impl Observer {
    fn refresh(&mut self, first: bool) {
        let now = self.view.values().min_by_key(|kv| kv.create_revision).map(Leader::from);
        self.ready.extend(change(self.last.as_ref(), now.as_ref(), self.view.revision(), first));
        self.last = now;
    }

    /// The present state at first, then each change.
    ///
    /// # Cancel safety
    /// May be dropped and called again; nothing is lost.
    pub async fn next(&mut self) -> Result<LeaderEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let ViewEvent::Change(_) = self.view.next().await? {
                self.refresh(false);
            }
        }
    }

    /// The same as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<LeaderEvent>> + Send + Unpin + use<> {
        crate::stream::endless(self, |observer| Box::pin(observer.next()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(token: i64, value: &str) -> Leader {
        Leader { key: format!("e/{token}").into(), value: value.to_owned().into(), token, revision: token }
    }

    #[test]
    fn e_5_the_first_state_is_always_told() {
        let (a, b, a2) = (leader(1, "a"), leader(2, "b"), leader(1, "a2"));
        assert_eq!(change(None, None, 9, true), Some(LeaderEvent::Vacant { revision: 9 }));
        assert_eq!(change(None, None, 9, false), None);
        assert_eq!(change(None, Some(&a), 9, true), Some(LeaderEvent::Elected(a.clone())));
        assert_eq!(change(Some(&a), Some(&a), 9, false), None);
        assert_eq!(change(Some(&a), Some(&a2), 9, false), Some(LeaderEvent::Updated(a2)));
        assert_eq!(change(Some(&a), Some(&b), 9, false), Some(LeaderEvent::Elected(b)));
        assert_eq!(change(Some(&a), None, 9, false), Some(LeaderEvent::Vacant { revision: 9 }));
    }
}
