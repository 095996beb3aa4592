//! Sessions: a lease that is kept alive, and the certainty whether it is.
//!
//! # What it guarantees
//! While [`Session::check`] says yes, the store has not ended the lease, and no other process has
//! got what is held through it. The session is lost *here* before it can end *there*: its deadline
//! counts from the moment at which the last acknowledged keepalive was sent, on a clock that goes
//! on while the machine sleeps. Lost is final.
//!
//! # What it does not
//! A process that is stopped between a check and its next step does not know that time has passed.
//! What must not happen twice needs a fencing token: [`Guard::txn`](crate::Guard::txn) for writes
//! to the store, [`Guard::token`](crate::Guard::token) for everything else.

mod vital;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;

pub(crate) use self::vital::Vital;
pub use self::vital::{LostReason, SessionState};
use crate::client::Client;
use crate::clock::BootInstant;
use crate::error::{Error, Result};
use crate::lease;
use crate::lease::keeper::{self, Kept};
use crate::transport::Core;

const TTL_DEFAULT: Duration = Duration::from_secs(15);
const TTL_MIN: Duration = Duration::from_secs(5);
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// How a session is opened.
#[derive(Clone, Debug)]
#[must_use = "there is no session until it is opened"]
pub struct SessionBuilder {
    client: Client,
    ttl: Duration,
    short: bool,
}

impl Client {
    /// Prepares a session.
    pub fn session(&self) -> SessionBuilder {
        SessionBuilder { client: self.clone(), ttl: TTL_DEFAULT, short: false }
    }
}

impl SessionBuilder {
    /// How long it survives without contact to the store: 15 s if not said, at least 5 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Allows less than 5 s; a short hiccup of the store or of this machine then ends the session.
    pub fn allow_short_ttl(mut self) -> Self {
        self.short = true;
        self
    }

    /// Opens it.
    ///
    /// # Cancel safety
    /// If the future is dropped a lease may be left that ends by itself.
    pub async fn open(self) -> Result<Session> {
        let Self { client, ttl, short } = self;
        if ttl < TTL_MIN && !short {
            return Err(Error::invalid(format!(
                "a session of less than 5 s ends at every hiccup; allow_short_ttl() permits it ttl={ttl:?}"
            )));
        }
        if ttl.is_zero() || ttl > TTL_MAX {
            return Err(Error::invalid(format!("a session lives between 1 s and a day ttl={ttl:?}")));
        }
        let core = client.core()?;
        // Of several attempts only one may have been answered, and the first was sent first.
        let sent = BootInstant::now();
        let lease = lease::grant(&core, ttl, 0).await?;
        let vital = Arc::new(Vital::new(lease.id, lease.ttl, sent));
        let kept = keeper::keep(&core, &vital);
        let inner = Inner {
            client,
            core,
            vital,
            kept: Mutex::new(Some(kept)),
            gates: Mutex::default(),
            forgotten: Mutex::default(),
            sweeps: Mutex::default(),
        };
        Ok(Session { inner: Arc::new(inner) })
    }
}

#[derive(Debug)]
struct Inner {
    client: Client,
    core: Arc<Core>,
    vital: Arc<Vital>,
    kept: Mutex<Option<Kept>>,
    /// Tasks of one session would otherwise share each other's locks, because the key is the same.
    gates: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Of locks and leaderships that last as long as the session.
    forgotten: Mutex<Vec<OwnedMutexGuard<()>>>,
    /// Lines that are swept, and until when.
    sweeps: Mutex<HashMap<String, Instant>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A child must not end what is its parent's.
        if self.core.is_foreign() || self.vital.is_over() || self.kept.lock().take().is_none() {
            return;
        }
        self.vital.close();
        let (core, lease, ttl) = (self.core.clone(), self.vital.lease, self.vital.ttl);
        self.core.handle.spawn(async move {
            let outcome = lease::revoke(&core, lease, Some(ttl.min(CLOSE_MAX))).await;
            tracing::debug!(lease, ?outcome, "a dropped session was revoked");
        });
    }
}

/// A lease that is kept alive in the background. Clones are the same session; when the last one is
/// dropped without [`Session::close`] it is revoked in the background.
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
}

impl Session {
    /// The id of its lease.
    pub fn lease(&self) -> i64 {
        self.inner.vital.lease
    }

    /// How long it survives without contact.
    pub fn ttl(&self) -> Duration {
        self.inner.vital.ttl
    }

    /// The client it was opened with.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// How it is, as far as was noticed. [`Session::check`] is sure.
    pub fn state(&self) -> SessionState {
        self.inner.vital.state()
    }

    /// Refuses if the session is over, without asking the store. To be called right before whatever
    /// relies on it.
    pub fn check(&self) -> Result<()> {
        self.inner.vital.check(BootInstant::now())
    }

    /// What is surely left if no keepalive is acknowledged from now on.
    pub fn remaining(&self) -> Duration {
        self.inner.vital.deadline().since(BootInstant::now())
    }

    /// Waits for the end of the session and tells why.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn lost(&self) -> Error {
        if self.inner.core.is_foreign() {
            return Error::forked();
        }
        self.inner.vital.lost().await
    }

    /// Follows the state. Intermediate states may be left out, the last one never.
    pub fn watch_state(&self) -> StateWatch {
        StateWatch { states: self.inner.vital.states(), begun: false }
    }

    /// Stops renewing and leaves the lease to its time.
    pub fn detach(self) {
        if self.inner.core.is_foreign() {
            return;
        }
        drop(self.inner.kept.lock().take());
        self.inner.vital.close();
    }

    /// Ends the session: revokes the lease, and with it everything that is held. Waits for the
    /// store for five seconds at most; later the lease ends by itself.
    ///
    /// # Cancel safety
    /// If the future is dropped the session is over here, and the lease may be left to its time.
    pub async fn close(self) -> Result<()> {
        if self.inner.core.is_foreign() {
            return Err(Error::forked());
        }
        let kept = self.inner.kept.lock().take();
        if kept.is_none() || self.inner.vital.is_over() {
            return Ok(());
        }
        self.inner.vital.close();
        drop(kept);
        let timeout = self.inner.vital.ttl.min(CLOSE_MAX);
        lease::revoke(&self.inner.core, self.inner.vital.lease, Some(timeout)).await.map(drop)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    pub(crate) fn vital(&self) -> &Arc<Vital> {
        &self.inner.vital
    }

    /// A handle that does not keep the session.
    pub(crate) fn downgrade(&self) -> WeakSession {
        WeakSession(Arc::downgrade(&self.inner))
    }

    /// Notes until when the line of this name is to be swept. Answers whether nobody sweeps it yet.
    pub(crate) fn begin_sweep(&self, name: &str, until: Instant) -> bool {
        self.inner.sweeps.lock().insert(name.to_owned(), until).is_none()
    }

    /// Keeps a gate closed for as long as the session lasts.
    pub(crate) fn keep_gate(&self, gate: OwnedMutexGuard<()>) {
        self.inner.forgotten.lock().push(gate);
    }

    /// The gate that lets one task of this session at a time contend for a name.
    pub(crate) fn gate(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.inner.gates.lock();
        // Those that nobody waits at are forgotten.
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        gates.entry(name.to_owned()).or_default().clone()
    }
}

/// A session that may be gone.
#[derive(Clone, Debug)]
pub(crate) struct WeakSession(Weak<Inner>);

impl WeakSession {
    pub fn upgrade(&self) -> Option<Session> {
        self.0.upgrade().map(|inner| Session { inner })
    }

    /// Until when the line of this name is to be swept. If that is over, it is forgotten.
    pub fn sweep_until(&self, name: &str) -> Option<Instant> {
        let inner = self.0.upgrade()?;
        let mut sweeps = inner.sweeps.lock();
        let until = sweeps.get(name).copied().filter(|until| *until > Instant::now());
        if until.is_none() {
            sweeps.remove(name);
        }
        until
    }
}

/// Follows the state of a session.
#[derive(Debug)]
pub struct StateWatch {
    states: watch::Receiver<SessionState>,
    begun: bool,
}

impl StateWatch {
    /// The present state at first, then each change; `None` after the final one.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn next(&mut self) -> Option<SessionState> {
        if self.begun {
            if self.states.borrow().is_final() && !self.states.has_changed().unwrap_or(false) {
                return None;
            }
            self.states.changed().await.ok()?;
        }
        self.begun = true;
        Some(*self.states.borrow_and_update())
    }
}
