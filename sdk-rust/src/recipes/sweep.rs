//! Cleaning up behind requests whose answers were lost, and which may still arrive.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::contest::{persist, read_key};
use super::place::key_of;
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Compare, Delete, Get, Is, KeyValue, Keys, Txn};
use crate::session::{Session, WeakSession};

/// How long a request whose answer was lost may still arrive: longer than a kernel goes on sending
/// for a socket that was closed.
const SWEEP: Duration = Duration::from_secs(300);

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
            let error = match self.watch(&mut from, &mut backoff).await {
                Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => {
                    match self.read(&mut from).await {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
                Ok(()) => return Ok(()),
            };
            // Whatever it is, a refusal by an administrator too: it may end before this does.
            tracing::debug!(%error, name = self.name, "a line cannot be swept for the moment");
            self.client.core()?;
            backoff.wait().await;
        }
    }

    /// Tidies what comes after `from`, and moves it along. Ends well when there is nothing to sweep for.
    async fn watch(&self, from: &mut i64, backoff: &mut Backoff) -> Result<()> {
        let keys = Keys::from(self.key.clone());
        let mut watcher = self.client.watch(keys).no_deletes().open_at(*from + 1)?;
        while let Some(batch) = watcher.next().await {
            let batch = batch?;
            backoff.reset();
            if let Some(event) = batch.events.last() {
                self.tidy(&event.kv).await?;
            }
            *from = batch.revision;
        }
        Err(Error::closed("the watch"))
    }

    async fn read(&self, from: &mut i64) -> Result<()> {
        let answer = self.client.get(Get::new(self.key.clone())).await?;
        if let Some(kv) = answer.first() {
            self.tidy(kv).await?;
        }
        *from = answer.header.revision;
        Ok(())
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
