//! Sessions.

use std::sync::Arc;
use std::time::Duration;

use folkmoot_client as sdk;
use folkmoot_client::session::StateWatch;

use crate::client::Client;
use crate::edge::{Mine, Result, at_once, edge};
use crate::error::BridgeError;
use crate::stream::{Cell, Source, stream};

/// How a session is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// How long it survives without contact to the store.
    pub ttl: Option<Duration>,
    /// Allows less than five seconds.
    pub allow_short_ttl: bool,
}

/// How a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionStateRecord {
    /// Keepalives are acknowledged.
    Active,
    /// The store has not been heard for a while; the lease still counts.
    Suspended,
    /// Over, because no keepalive was acknowledged in time.
    Expired,
    /// Over, because the store says that the lease is gone.
    LeaseGone,
    /// Over, because the store was replaced or restored.
    ClusterReset,
    /// Closed by its owner.
    Closed,
}

impl SessionStateRecord {
    /// Whether it is over for another reason than its owner's wish.
    pub fn is_lost(self) -> bool {
        matches!(self, Self::Expired | Self::LeaseGone | Self::ClusterReset)
    }
}

impl From<sdk::SessionState> for SessionStateRecord {
    fn from(state: sdk::SessionState) -> Self {
        use folkmoot_client::session::LostReason;
        match state {
            sdk::SessionState::Active => Self::Active,
            sdk::SessionState::Suspended => Self::Suspended,
            sdk::SessionState::Closed => Self::Closed,
            sdk::SessionState::Lost(LostReason::LeaseGone) => Self::LeaseGone,
            sdk::SessionState::Lost(LostReason::ClusterReset) => Self::ClusterReset,
            // Reasons that are added later are of this kind.
            sdk::SessionState::Lost(_) => Self::Expired,
        }
    }
}

#[derive(Debug)]
pub(crate) struct States(StateWatch);

impl Source for States {
    type Item = SessionStateRecord;
    const QUICK: bool = true;

    async fn pull(&mut self) -> Option<Result<SessionStateRecord>> {
        Some(Ok(self.0.next().await?.into()))
    }
}

stream! {
    /// The present state of a session at first, then each change; done after the final one.
    StateStream(States) -> SessionStateRecord
}

/// A lease that is kept alive in the background. When the last clone is dropped, and no lock or
/// candidacy needs it any more, it is revoked in the background.
#[derive(Clone, Debug)]
pub struct Session(Arc<Mine<sdk::Session>>);

impl Client {
    /// Opens a session.
    ///
    /// # Cancel safety
    /// If the future is dropped a lease may be left that ends by itself.
    pub async fn session(&self, options: SessionOptions) -> Result<Session, BridgeError> {
        let client = self.sdk()?;
        edge(async {
            let mut session = client.session();
            if let Some(ttl) = options.ttl {
                session = session.ttl(ttl);
            }
            if options.allow_short_ttl {
                session = session.allow_short_ttl();
            }
            Ok(Session(Arc::new(Mine::new(session.open().await?))))
        })
        .await
    }
}

impl Session {
    pub(crate) fn sdk(&self) -> Result<&sdk::Session> {
        self.0.get()
    }

    /// The id of its lease.
    pub fn lease(&self) -> Result<i64, BridgeError> {
        Ok(self.sdk()?.lease())
    }

    /// How long it survives without contact.
    pub fn ttl(&self) -> Result<Duration, BridgeError> {
        Ok(self.sdk()?.ttl())
    }

    /// How it is, as far as was noticed.
    pub fn state(&self) -> Result<SessionStateRecord, BridgeError> {
        Ok(self.sdk()?.state().into())
    }

    /// Refuses if the session is over, without asking the store.
    pub fn check(&self) -> Result<(), BridgeError> {
        let session = self.sdk()?;
        at_once(|| Ok(session.check()?))
    }

    /// What is surely left if no keepalive is acknowledged from now on.
    pub fn remaining(&self) -> Result<Duration, BridgeError> {
        Ok(self.sdk()?.remaining())
    }

    /// Follows the state.
    pub fn watch_state(&self) -> Result<StateStream, BridgeError> {
        Ok(StateStream(Cell::new(States(self.sdk()?.watch_state()))))
    }

    /// Waits for the end of the session; the answer says why.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn lost(&self) -> Result<BridgeError, BridgeError> {
        let session = self.sdk()?;
        edge(async { Ok(session.lost().await.into()) }).await
    }

    /// Stops renewing and leaves the lease to its time.
    pub fn detach(&self) -> Result<(), BridgeError> {
        let session = self.sdk()?;
        at_once(|| {
            session.clone().detach();
            Ok(())
        })
    }

    /// Ends the session and all that is held through it. Waits for the store for five seconds at most;
    /// later the lease ends by itself.
    ///
    /// # Cancel safety
    /// If the future is dropped the session is over here, and the lease may be left to its time.
    pub async fn end(&self) -> Result<(), BridgeError> {
        let session = self.sdk()?;
        edge(async { Ok(session.clone().close().await?) }).await
    }
}
