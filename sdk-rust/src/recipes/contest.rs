//! Standing in line: what Mutex and Election have in common.
//!
//! Everybody puts a key of their own under a name; the one that came to be first has its turn. Each
//! waits for exactly one predecessor. The whole contest runs on this crate's own threads, so that a
//! caller that goes away at any moment leaves nothing behind: what was won and not delivered is
//! given back, what was put and not won is deleted.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{
    Compare, Delete, EventKind, Get, GetResponse, Is, KeyValue, Keys, Order, Put, SortBy, Txn, TxnResponse,
};
use crate::session::{LostReason, Session, WeakSession};
use crate::watch::Watcher;

/// How long a request whose answer was lost may still arrive: longer than a kernel goes on sending
/// for a socket that was closed.
const SWEEP: Duration = Duration::from_secs(300);

/// Whose turn it is, as one transaction saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Ours.
    Mine,
    /// We wait for this key.
    After { key: Bytes, lease: i64 },
    /// Our key is gone.
    Gone,
}

/// Reads the turn from whether our key stands and who came to be last before us.
pub(crate) fn turn(stands: bool, predecessor: Option<&KeyValue>) -> Turn {
    match (stands, predecessor) {
        (false, _) => Turn::Gone,
        (true, None) => Turn::Mine,
        (true, Some(kv)) => Turn::After { key: kv.key.clone(), lease: kv.lease },
    }
}

/// A key of ours in the line.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub session: Session,
    pub name: String,
    pub key: Bytes,
    /// When the key came to be: our place, and later the fencing token.
    pub created: i64,
    /// Up to where the store was read.
    pub seen: i64,
    /// Whether an attempt to put the key may still be on its way.
    pub doubtful: bool,
}

/// All keys of the line.
pub(crate) fn prefix(name: &str) -> String {
    format!("{name}/")
}

/// The key of a session in the line.
pub(crate) fn key_of(name: &str, lease: i64) -> Bytes {
    format!("{name}/{lease:x}").into()
}

/// The first in the line.
pub(crate) fn first(name: &str) -> Get {
    Get::prefix(prefix(name)).sort(SortBy::Create, Order::Ascending).limit(1)
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.ends_with('/') {
        return Err(Error::invalid(format!(
            "a name is not empty and does not end with a slash name={name:?}"
        )));
    }
    Ok(())
}

/// Whether to go on trying while the session lives.
fn is_passing(error: &Error) -> bool {
    error.is_retryable() || error.kind() == ErrorKind::Ambiguous || error.kind() == ErrorKind::Cancelled
}

/// Does a guarded transaction until it is answered, for as long as the session lives.
async fn persist(session: &Session, txn: &Txn) -> Result<TxnResponse> {
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
fn or_lost(session: &Session, error: Error) -> Error {
    if error.kind() != ErrorKind::LeaseNotFound {
        return error;
    }
    session.vital().lose(LostReason::LeaseGone);
    session.check().err().unwrap_or(error)
}

impl Place {
    fn stands(&self) -> Compare {
        Compare::create_revision(self.key.clone(), Is::Equal, self.created)
    }

    /// Deletes the key, if it is still this one. Answers whether it was.
    pub async fn leave(&self) -> Result<bool> {
        let txn = Txn::new().when(self.stands()).and_then(Delete::new(self.key.clone()));
        let answer = persist(&self.session, &txn).await?;
        if self.doubtful {
            sweep(&self.session, &self.name, answer.header.revision);
        }
        Ok(answer.succeeded)
    }

    /// Who is before us. With none, this is also the proof that it is our turn: both were read at
    /// one revision.
    async fn look(&mut self) -> Result<Turn> {
        let predecessor = Get::prefix(prefix(&self.name))
            .max_create_revision(self.created - 1)
            .sort(SortBy::Create, Order::Descending)
            .limit(1);
        let txn = Txn::new().when(self.stands()).and_then(predecessor.clone()).or_else(predecessor);
        let answer = persist(&self.session, &txn).await?;
        self.seen = answer.header.revision;
        Ok(turn(answer.succeeded, answer.get(0).and_then(|get| get.first())))
    }

    /// Replaces what an earlier contest of this session says in the key that this one has found. If the key
    /// is gone or says something newer, whoever waits for the turn sees that.
    async fn say(&mut self, modified: i64, value: &Bytes) -> Result<()> {
        let same = Compare::mod_revision(self.key.clone(), Is::Equal, modified);
        let put = Put::new(&self.key, value).lease(self.session.lease());
        let txn = Txn::new().when(self.stands()).when(same).and_then(put);
        persist(&self.session, &txn).await.map(drop)
    }

    fn gone(&self) -> Error {
        let key = String::from_utf8_lossy(&self.key).into_owned();
        Error::new(
            ErrorKind::NotHeld,
            format!("the key in the line was deleted by somebody else key={key:?}"),
        )
    }

    /// Waits until the key is deleted, and for nothing else.
    pub async fn deleted(&self) -> Result<()> {
        let mut place = self.clone();
        loop {
            let mut watcher = place.watch(&place.key)?;
            match until_deleted(&mut watcher).await {
                Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => {}
                end => return end,
            }
            let answer = read_key(&place.session, &place.key).await?;
            if answer.first().is_none_or(|kv| kv.create_revision != place.created) {
                return Ok(());
            }
            // It stands; what was compacted away is of no interest.
            place.seen = answer.header.revision;
        }
    }

    fn watch(&self, key: &Bytes) -> Result<Watcher> {
        let keys = Keys::from(key.clone());
        self.session.client().watch(keys).no_puts().open_at(self.seen + 1)
    }

    /// Waits for our turn. `ahead` is the lease of who held the place when we got in line: that one, too,
    /// may be gone before we look for the first time.
    async fn wait(&mut self, lock_delay: Duration, mut ahead: Option<i64>) -> Result<()> {
        let mut own: Option<Watcher> = None;
        let session = self.session.clone();
        loop {
            let key = match (self.look().await?, ahead) {
                (Turn::Gone, _) => return Err(self.gone()),
                (Turn::Mine, Some(lease)) if !lock_delay.is_zero() => {
                    self.honour(lock_delay, lease).await?;
                    ahead = None;
                    continue;
                }
                (Turn::Mine, _) => return session.check(),
                (Turn::After { key, lease }, _) => {
                    ahead = Some(lease);
                    key
                }
            };
            let mut predecessor = self.watch(&key)?;
            let own_key = match &mut own {
                Some(own_key) => own_key,
                None => own.insert(self.watch(&self.key)?),
            };
            tokio::select! {
                biased;
                why = session.lost() => return Err(why),
                end = until_deleted(own_key) => match end {
                    Ok(()) => return Err(self.gone()),
                    Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => own = None,
                    Err(error) => return Err(error),
                },
                end = until_deleted(&mut predecessor) => match end {
                    Ok(()) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => {}
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Gives a predecessor that was lost, rather than left, some time to notice it.
    async fn honour(&self, lock_delay: Duration, lease: i64) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            self.session.check()?;
            match self.session.client().lease_ttl(lease, false).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => break,
                Err(error) if is_passing(&error) => backoff.wait().await,
                Err(error) => return Err(error),
            }
        }
        tokio::time::sleep(lock_delay).await;
        Ok(())
    }
}

/// Waits for a deletion.
async fn until_deleted(watcher: &mut Watcher) -> Result<()> {
    while let Some(batch) = watcher.next().await {
        if batch?.events.iter().any(|event| event.kind == EventKind::Delete) {
            return Ok(());
        }
    }
    Err(Error::closed("the watch"))
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
        if kv.value != terms.value {
            place.say(kv.mod_revision, &terms.value).await?;
        }
        return Ok(Some((place, ahead)));
    }
}

/// Deletes our key in the line, whichever it is, and also if it comes later.
pub(crate) async fn withdraw(session: &Session, name: &str) {
    let key = key_of(name, session.lease());
    let outcome = delete_own(session, &key).await;
    if let Ok(revision) = &outcome {
        sweep(session, name, *revision);
    }
    tracing::debug!(?outcome, name, "a place in a line was withdrawn");
}

/// Deletes the key if it is ours. Answers up to where the store was read.
///
/// Each request names the key's revision: one that a member held up for long must not delete the key of a
/// later contest.
async fn delete_own(session: &Session, key: &Bytes) -> Result<i64> {
    loop {
        let answer = read_key(session, key).await?;
        let Some(kv) = answer.first().filter(|kv| kv.lease == session.lease()) else {
            return Ok(answer.header.revision);
        };
        let stands = Compare::create_revision(key.clone(), Is::Equal, kv.create_revision);
        let answer = persist(session, &Txn::new().when(stands).and_then(Delete::new(key.clone()))).await?;
        if answer.succeeded {
            return Ok(answer.header.revision);
        }
    }
}

/// Reads a key. That the store does not answer for a while does not mean that the key is gone; that the
/// session is lost does, and whoever waits for this hears of that, too.
async fn read_key(session: &Session, key: &Bytes) -> Result<GetResponse> {
    let mut backoff = Backoff::default();
    loop {
        session.check()?;
        match session.client().get(Get::new(key.clone())).await {
            Err(error) if is_passing(&error) => backoff.wait().await,
            answer => return answer,
        }
    }
}

/// Has our key deleted, should it come after this revision and outside of any contest: from a request
/// to put it whose answer was lost, and which a member or the network held up for longer than it took
/// to clean up.
pub(crate) fn sweep(session: &Session, name: &str, from: i64) {
    let until = Instant::now() + SWEEP;
    if session.begin_sweep(name, until) {
        let sweeper = Sweeper {
            session: session.downgrade(),
            client: session.client().clone(),
            name: name.to_owned(),
            key: key_of(name, session.lease()),
            lease: session.lease(),
        };
        let vital = session.vital().clone();
        session.core().handle.spawn(async move {
            tokio::select! {
                // With the session the store deletes the key.
                _ = vital.lost() => {}
                () = sweeper.over() => {}
                outcome = sweeper.run(from) => {
                    tracing::debug!(?outcome, name = sweeper.name, "a line is not swept any more");
                }
            }
        });
    }
}

/// Deletes a key of ours that nobody wants, for a while. Does not keep the session.
struct Sweeper {
    session: WeakSession,
    client: crate::client::Client,
    name: String,
    key: Bytes,
    lease: i64,
}

impl Sweeper {
    /// Waits until it is swept for no longer.
    async fn over(&self) {
        while let Some(until) = self.session.sweep_until(&self.name) {
            tokio::time::sleep_until(until).await;
        }
    }

    async fn run(&self, mut from: i64) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let mut watcher =
                self.client.watch(Keys::from(self.key.clone())).no_deletes().open_at(from + 1)?;
            let error = loop {
                match watcher.next().await {
                    Some(Ok(batch)) => {
                        backoff.reset();
                        if let Some(event) = batch.events.last() {
                            self.tidy(&event.kv).await?;
                        }
                    }
                    Some(Err(error)) => break error,
                    None => return Err(Error::closed("the watch")),
                }
            };
            if !matches!(error.kind(), ErrorKind::Compacted { .. }) {
                return Err(error);
            }
            let answer = self.client.get(Get::new(self.key.clone())).await;
            match answer {
                Ok(answer) => {
                    if let Some(kv) = answer.first() {
                        self.tidy(kv).await?;
                    }
                    from = answer.header.revision;
                }
                Err(error) if is_passing(&error) => backoff.wait().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes the key, unless a contest has it or had it.
    async fn tidy(&self, kv: &KeyValue) -> Result<()> {
        let Some(gate) = self.session.upgrade().map(|session| session.gate(&self.name)) else {
            return Ok(());
        };
        if kv.lease != self.lease {
            return Ok(());
        }
        // A contest takes over a key that it finds, and leaves none behind. The session is not kept while
        // this waits: a lock that was forgotten lasts as long as the session.
        let _alone = gate.lock_owned().await;
        let Some(session) = self.session.upgrade() else { return Ok(()) };
        let stands = Compare::create_revision(self.key.clone(), Is::Equal, kv.create_revision);
        let txn = Txn::new().when(stands).and_then(Delete::new(self.key.clone()));
        let late = persist(&session, &txn).await?.succeeded;
        if late {
            tracing::warn!(name = self.name, "a late request put a key into a line; it was deleted");
        }
        Ok(())
    }
}

/// A number that grows with every holder, to be shown to whatever must not be touched by an old one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FencingToken {
    /// The cluster; after a restore from a backup numbers may begin again, under another one.
    pub cluster_id: u64,
    /// The number. A resource keeps the largest it saw and refuses smaller ones.
    pub revision: i64,
    /// The key that proves it.
    pub key: Bytes,
}

impl Place {
    pub fn token(&self) -> FencingToken {
        FencingToken {
            cluster_id: self.session.client().cluster_id(),
            revision: self.created,
            key: self.key.clone(),
        }
    }

    /// A condition that holds only while this is ours.
    pub fn fence(&self) -> Compare {
        self.stands()
    }

    /// Waits until it is ours no more, and tells why.
    pub async fn lost(&self) -> Error {
        tokio::select! {
            biased;
            why = self.session.lost() => why,
            end = self.deleted() => match end {
                Ok(()) => self.gone(),
                Err(error) => error,
            },
        }
    }

    /// Refuses without asking the store if the session is over.
    pub fn check(&self) -> Result<()> {
        self.session.check()
    }
}

/// A transaction that is refused when the lock or leadership is lost.
#[derive(Debug)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct FencedTxn {
    place: Place,
    txn: Txn,
    kind: ErrorKind,
}

impl FencedTxn {
    pub(crate) fn new(place: &Place, kind: ErrorKind) -> Self {
        Self { place: place.clone(), txn: Txn::new(), kind }
    }

    /// One more condition that must hold.
    pub fn when(mut self, compare: Compare) -> Self {
        self.txn = self.txn.when(compare);
        self
    }

    /// One more operation for when all conditions hold.
    pub fn and_then(mut self, op: impl Into<crate::kv::Op>) -> Self {
        self.txn = self.txn.and_then(op);
        self
    }

    /// One more operation for when a condition of the caller's does not hold.
    pub fn or_else(mut self, op: impl Into<crate::kv::Op>) -> Self {
        self.txn = self.txn.or_else(op);
        self
    }

    /// Puts.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.and_then(Put::new(key, value))
    }

    /// Deletes.
    pub fn delete(self, keys: impl Into<Keys>) -> Self {
        self.and_then(Delete::new(keys))
    }

    /// Does it, if the lock or leadership is still ours: refused here if the session is over, and
    /// by the store if the key is gone.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be applied or not.
    pub async fn commit(self) -> Result<TxnResponse> {
        self.place.check()?;
        let client = self.place.session.client();
        let fence = Txn::new().when(self.place.fence());
        // With conditions of the caller's own, it must show which of the two was refused.
        let nested = !self.txn.compare.is_empty() || !self.txn.failure.is_empty();
        let txn = if nested { fence.and_then(self.txn) } else { Txn { success: self.txn.success, ..fence } };
        let answer = client.commit(txn).await?;
        if !answer.succeeded {
            let text = format!("refused by the fencing token={}", self.place.created);
            return Err(Error::new(self.kind, text));
        }
        if !nested {
            return Ok(answer);
        }
        match answer.responses.into_iter().next() {
            Some(crate::kv::OpResponse::Txn(inner)) => Ok(TxnResponse { header: answer.header, ..inner }),
            _ => Err(Error::internal("a transaction within was not answered")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m_5_a_turn_needs_our_key_and_nobody_before_it() {
        let other = KeyValue { key: "n/a".into(), lease: 3, ..KeyValue::default() };
        assert_eq!(turn(true, None), Turn::Mine);
        assert_eq!(turn(true, Some(&other)), Turn::After { key: "n/a".into(), lease: 3 });
        assert_eq!(turn(false, None), Turn::Gone, "being first with a key that is gone is nothing");
        assert_eq!(turn(false, Some(&other)), Turn::Gone);
    }

    #[test]
    fn keys_are_those_of_other_clients() {
        assert_eq!(key_of("my/lock", 0x2040_a202_0154_e105), "my/lock/2040a2020154e105");
        assert_eq!(key_of("my/lock", 0xab), "my/lock/ab");
    }

    #[test]
    fn a_name_that_would_make_an_odd_key_is_refused() {
        assert!(check_name("a").is_ok());
        assert_eq!(check_name("").unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(check_name("a/").unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
