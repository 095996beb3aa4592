//! Locks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use folkmoot_client as sdk;
use parking_lot::Mutex as Lock;
use tokio::sync::watch;

use crate::edge::{Mine, Result, at_once, edge};
use crate::error::BridgeError;
use crate::kv::{TokenRecord, TxnRecord, TxnResult, fenced};
use crate::session::Session;

/// How to contend for a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MutexOptions {
    /// What this contender says about itself.
    pub owner: Bytes,
    /// How long to wait after a holder that was lost rather than unlocked.
    pub lock_delay: Duration,
}

/// Somebody who holds a lock or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContenderRecord {
    /// Its key.
    pub key: Bytes,
    /// What it says about itself.
    pub owner: Bytes,
    /// The lease of its session.
    pub lease: i64,
    /// Its place; the first one's is its token.
    pub revision: i64,
}

/// A lock by name.
#[derive(Clone, Debug)]
pub struct Mutex(Arc<Mine<sdk::Mutex>>);

impl Session {
    /// The lock of this name.
    pub fn mutex(&self, name: String, options: MutexOptions) -> Result<Mutex, BridgeError> {
        let mutex = self.sdk()?.mutex(name).owner(options.owner).lock_delay(options.lock_delay);
        Ok(Mutex(Arc::new(Mine::new(mutex))))
    }
}

/// Waits for so long at most, and leaves nothing behind.
pub(crate) async fn within<T>(
    timeout: Option<Duration>,
    what: &str,
    future: impl Future<Output = sdk::Result<T>>,
) -> Result<T> {
    match timeout {
        None => Ok(future.await?),
        Some(timeout) => match tokio::time::timeout(timeout, future).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(BridgeError::late(format!("{what} in time timeout={timeout:?}"))),
        },
    }
}

impl Mutex {
    /// Waits for the lock: at most for `timeout`, after which the error is `DEADLINE_EXCEEDED` and the place
    /// in the line is given up, or for as long as the session lasts.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the line, and a lock that was won at that very moment.
    pub async fn lock(&self, timeout: Option<Duration>) -> Result<Guard, BridgeError> {
        let mutex = self.0.get()?;
        edge(async { Ok(Guard::new(within(timeout, "the lock was not got", mutex.lock()).await?)) }).await
    }

    /// Takes the lock if nobody has it or waits for it, else `WOULD_BLOCK`.
    ///
    /// # Cancel safety
    /// As [`Mutex::lock`].
    pub async fn try_lock(&self) -> Result<Guard, BridgeError> {
        let mutex = self.0.get()?;
        edge(async { Ok(Guard::new(mutex.try_lock().await?)) }).await
    }

    /// The holder and those who wait, in their order.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn contenders(&self) -> Result<Vec<ContenderRecord>, BridgeError> {
        let mutex = self.0.get()?;
        edge(async {
            let contender = |contender: sdk::Contender| ContenderRecord {
                key: contender.key,
                owner: contender.owner,
                lease: contender.lease,
                revision: contender.revision,
            };
            Ok(mutex.contenders().await?.into_iter().map(contender).collect())
        })
        .await
    }
}

type Lost = Pin<Box<dyn Future<Output = sdk::Error> + Send>>;

/// Waits for the loss of something held, without holding it.
pub struct LostWatch(Mine<(watch::Receiver<bool>, Option<Lost>)>);

impl std::fmt::Debug for LostWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LostWatch")
    }
}

impl LostWatch {
    pub(crate) fn new(
        over: watch::Receiver<bool>,
        lost: Option<impl Future<Output = sdk::Error> + Send + 'static>,
    ) -> Self {
        Self(Mine::new((over, lost.map(|lost| Box::pin(lost) as Lost))))
    }

    /// The answer says why it was lost, or is `None` if it was given back.
    pub async fn wait(mut self) -> Result<Option<BridgeError>, BridgeError> {
        let (over, lost) = self.0.get_mut()?;
        let Some(lost) = lost else { return Ok(None) };
        edge(async {
            tokio::select! {
                biased;
                // An error: it was dropped, and so given back.
                _ = over.wait_for(|over| *over) => Ok(None),
                why = lost => Ok(Some(why.into())),
            }
        })
        .await
    }
}

#[derive(Debug)]
struct Held {
    guard: Lock<Option<sdk::Guard>>,
    token: TokenRecord,
    /// Whether it was given back by its owner: then nobody waits for a loss any more.
    over: watch::Sender<bool>,
}

/// A lock that is held. It is released when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Mine<Held>>);

impl Guard {
    fn new(guard: sdk::Guard) -> Self {
        let token = guard.token().into();
        let held = Held { guard: Lock::new(Some(guard)), token, over: watch::Sender::new(false) };
        Self(Arc::new(Mine::new(held)))
    }

    fn with<T>(&self, work: impl FnOnce(&sdk::Guard) -> Result<T>) -> Result<T> {
        let held = self.0.get()?;
        at_once(|| match &*held.guard.lock() {
            Some(guard) => work(guard),
            None => Err(BridgeError::new(sdk::ErrorKind::NotHeld, "the lock was released by its holder")),
        })
    }

    /// What proves to others that this holder is the latest.
    pub fn token(&self) -> Result<TokenRecord, BridgeError> {
        Ok(self.0.get()?.token.clone())
    }

    /// Refuses if the lock was released or the session is over, without asking the store.
    pub fn check(&self) -> Result<(), BridgeError> {
        self.with(|guard| Ok(guard.check()?))
    }

    /// Does a transaction that is applied only while the lock is held, else `NOT_HELD`.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be applied or not.
    pub async fn commit(&self, txn: TxnRecord) -> Result<TxnResult, BridgeError> {
        let txn = self.with(|guard| Ok(fenced(guard.txn(), txn)))?;
        edge(async { Ok(txn.commit().await?.into()) }).await
    }

    /// Waits until the lock is lost; the answer says why, or is `None` if it was released by its holder.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn lost(&self) -> Result<Option<BridgeError>, BridgeError> {
        let held = self.0.get()?;
        let mut over = held.over.subscribe();
        let lost = held.guard.lock().as_ref().map(sdk::Guard::watch_lost);
        let Some(lost) = lost else { return Ok(None) };
        edge(async {
            tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => Ok(None),
                why = lost => Ok(Some(why.into())),
            }
        })
        .await
    }

    /// The same as a value that does not hold the lock: for listeners in the background, which must not
    /// keep it from being released when its holder forgets it.
    pub fn watch_lost(&self) -> Result<LostWatch, BridgeError> {
        let held = self.0.get()?;
        let lost = held.guard.lock().as_ref().map(sdk::Guard::watch_lost);
        Ok(LostWatch::new(held.over.subscribe(), lost))
    }

    /// Releases the lock and waits for the store. Answers whether it was still held; once it is released the
    /// answer is no.
    ///
    /// # Cancel safety
    /// The lock is released in the background if the future is dropped.
    pub async fn unlock(&self) -> Result<bool, BridgeError> {
        let held = self.0.get()?;
        edge(async {
            let guard = held.guard.lock().take();
            held.over.send_replace(true);
            match guard {
                Some(guard) => Ok(guard.unlock().await?),
                None => Ok(false),
            }
        })
        .await
    }

    /// Keeps the lock until the session ends, whatever happens to this value.
    pub fn detach(&self) -> Result<(), BridgeError> {
        let held = self.0.get()?;
        at_once(|| {
            if let Some(guard) = held.guard.lock().take() {
                guard.forget();
            }
            held.over.send_replace(true);
            Ok(())
        })
    }
}
