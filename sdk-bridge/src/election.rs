//! Elections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use folkmoot_client as sdk;
use tokio::sync::{RwLock, watch};

use crate::client::Client;
use crate::edge::{Mine, Result, at_once, edge, runtime};
use crate::error::BridgeError;
use crate::kv::{TokenRecord, TxnRecord, TxnResult, fenced};
use crate::mutex::{LostWatch, within};
use crate::session::Session;
use crate::stream::{Cell, Source, stream};

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderRecord {
    /// Its key.
    pub key: Bytes,
    /// What it proclaims.
    pub value: Bytes,
    /// Its token.
    pub token: i64,
    /// When it proclaimed that.
    pub revision: i64,
}

impl From<sdk::Leader> for LeaderRecord {
    fn from(leader: sdk::Leader) -> Self {
        Self { key: leader.key, value: leader.value, token: leader.token, revision: leader.revision }
    }
}

/// A change of who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderEventRecord {
    /// Somebody leads now.
    Elected(LeaderRecord),
    /// The same leader proclaims something else.
    Updated(LeaderRecord),
    /// Nobody leads, as of this revision.
    Vacant(i64),
}

impl From<sdk::LeaderEvent> for LeaderEventRecord {
    fn from(event: sdk::LeaderEvent) -> Self {
        match event {
            sdk::LeaderEvent::Elected(leader) => Self::Elected(leader.into()),
            sdk::LeaderEvent::Updated(leader) => Self::Updated(leader.into()),
            sdk::LeaderEvent::Vacant { revision } => Self::Vacant(revision),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Leaders(sdk::Observer);

impl Source for Leaders {
    type Item = LeaderEventRecord;
    // It may be about to read the store afresh.
    const QUICK: bool = false;

    async fn pull(&mut self) -> Option<Result<LeaderEventRecord>> {
        Some(self.0.next().await.map(Into::into).map_err(Into::into))
    }
}

stream! {
    /// The present leader at first, or that there is none, then each change.
    LeaderStream(Leaders) -> LeaderEventRecord
}

impl Client {
    /// Who leads in the election of this name.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn leader(&self, name: String) -> Result<Option<LeaderRecord>, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.leader(&name).await?.map(Into::into)) }).await
    }

    /// Follows who leads, without being a candidate.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn observe(&self, name: String) -> Result<LeaderStream, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(LeaderStream(Cell::new(Leaders(client.observe(&name).await?)))) }).await
    }
}

/// An election by name.
#[derive(Clone, Debug)]
pub struct Election(Arc<Mine<sdk::Election>>);

impl Session {
    /// The election of this name.
    pub fn election(&self, name: String) -> Result<Election, BridgeError> {
        Ok(Election(Arc::new(Mine::new(self.sdk()?.election(name)))))
    }
}

impl Election {
    /// Waits to be elected: at most for `timeout`, after which the error is `DEADLINE_EXCEEDED` and the
    /// candidacy is withdrawn, or for as long as the session lasts.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidacy, and resigns a leadership that was won at that very
    /// moment.
    pub async fn campaign(&self, value: Bytes, timeout: Option<Duration>) -> Result<Leadership, BridgeError> {
        let election = self.0.get()?;
        edge(async {
            let leadership = within(timeout, "the election was not won", election.campaign(value)).await?;
            Ok(Leadership::new(leadership))
        })
        .await
    }

    /// Who leads.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn leader(&self) -> Result<Option<LeaderRecord>, BridgeError> {
        let election = self.0.get()?;
        edge(async { Ok(election.leader().await?.map(Into::into)) }).await
    }

    /// Follows who leads.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn observe(&self) -> Result<LeaderStream, BridgeError> {
        let election = self.0.get()?;
        edge(async { Ok(LeaderStream(Cell::new(Leaders(election.observe().await?)))) }).await
    }
}

#[derive(Debug)]
struct Held {
    /// Shared by proclamations; whoever resigns waits for them.
    leadership: RwLock<Option<sdk::Leadership>>,
    token: TokenRecord,
    over: watch::Sender<bool>,
}

/// A leadership that is held. It is resigned when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Leadership(Arc<Mine<Held>>);

fn resigned() -> BridgeError {
    BridgeError::new(sdk::ErrorKind::NotLeader, "the leadership was resigned by its holder")
}

impl Leadership {
    fn new(leadership: sdk::Leadership) -> Self {
        let token = leadership.token().into();
        let leadership = RwLock::new(Some(leadership));
        Self(Arc::new(Mine::new(Held { leadership, token, over: watch::Sender::new(false) })))
    }

    /// What proves to others that this leader is the latest.
    pub fn token(&self) -> Result<TokenRecord, BridgeError> {
        Ok(self.0.get()?.token.clone())
    }

    /// Refuses if it was resigned or the session is over, without asking the store.
    pub fn check(&self) -> Result<(), BridgeError> {
        let held = self.0.get()?;
        at_once(|| match held.leadership.try_read().as_deref() {
            Ok(Some(leadership)) => Ok(leadership.check()?),
            // Whoever resigns is the only one who keeps others out.
            Ok(None) | Err(_) => Err(resigned()),
        })
    }

    /// Does a transaction that is applied only while the leadership lasts, else `NOT_LEADER`.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be applied or not.
    pub async fn commit(&self, txn: TxnRecord) -> Result<TxnResult, BridgeError> {
        let held = self.0.get()?;
        edge(async {
            let fence = held.leadership.read().await.as_ref().map(sdk::Leadership::txn);
            let txn = fenced(fence.ok_or_else(resigned)?, txn);
            Ok(txn.commit().await?.into())
        })
        .await
    }

    /// Proclaims something else, without giving up the place.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be proclaimed or not.
    pub async fn proclaim(&self, value: Bytes) -> Result<(), BridgeError> {
        let held = self.0.get()?;
        edge(async {
            let leadership = held.leadership.read().await;
            Ok(leadership.as_ref().ok_or_else(resigned)?.proclaim(value).await?)
        })
        .await
    }

    /// Waits until the leadership is lost; the answer says why, or is `None` if it was resigned by its holder.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn lost(&self) -> Result<Option<BridgeError>, BridgeError> {
        let held = self.0.get()?;
        let mut over = held.over.subscribe();
        edge(async {
            let lost = held.leadership.read().await.as_ref().map(sdk::Leadership::watch_lost);
            let Some(lost) = lost else { return Ok(None) };
            tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => Ok(None),
                why = lost => Ok(Some(why.into())),
            }
        })
        .await
    }

    /// The same as a value that does not hold the leadership: for listeners in the background.
    pub fn watch_lost(&self) -> Result<LostWatch, BridgeError> {
        let held = self.0.get()?;
        // Only whoever resigns keeps others out.
        let lost =
            held.leadership.try_read().ok().and_then(|held| held.as_ref().map(sdk::Leadership::watch_lost));
        Ok(LostWatch::new(held.over.subscribe(), lost))
    }

    /// Resigns and waits for the store. Answers whether the leadership was still held; once it is resigned
    /// the answer is no.
    ///
    /// # Cancel safety
    /// It is resigned in the background if the future is dropped.
    pub async fn resign(&self) -> Result<bool, BridgeError> {
        self.0.get()?.over.send_replace(true);
        let held = self.0.clone();
        let resigning = async move {
            // Waits for a proclamation that is under way.
            let leadership = held.get()?.leadership.write().await.take();
            match leadership {
                Some(leadership) => Ok(leadership.resign().await?),
                None => Ok(false),
            }
        };
        // A caller that goes away does not stop it.
        let resigning = runtime()?.spawn(edge(resigning));
        edge(async {
            let ended =
                |error| BridgeError::new(sdk::ErrorKind::Internal, format!("a resignation ended: {error}"));
            resigning.await.map_err(ended)?
        })
        .await
    }
}
