//! A lease of our own that is kept alive while something is held with it.
//!
//! Invariant: when [`Session::lost`] returns, the lease may have ended at the server, and with it
//! whatever was held. It never returns before the time to live has passed without an answer, or
//! the server has said that the lease is gone.

use std::time::Duration;

use folkmoot_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::Client;
use crate::failure::{Failure, Result};

/// A stream that starts one lease's time again and again.
pub struct KeepAlive {
    lease: i64,
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    responses: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAlive {
    /// Opens the stream.
    pub async fn open(client: &Client, lease: i64) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(1);
        // Servers may answer only after the first message, so it must already be on its way.
        let first = LeaseKeepAliveRequest { id: lease };
        requests.send(first).await.expect("the receiver is at hand");
        let responses = client.lease().lease_keep_alive(ReceiverStream::new(receiver)).await?.into_inner();
        let mut stream = Self { lease, requests, responses };
        stream.next().await?;
        Ok(stream)
    }

    async fn next(&mut self) -> Result<LeaseKeepAliveResponse> {
        let response = self.responses.message().await?;
        response.ok_or_else(|| Failure::new("the server closed the keep-alive stream"))
    }

    /// Starts the lease's time again; a time to live of 0 in the answer means that it is gone.
    pub async fn renew(&mut self) -> Result<LeaseKeepAliveResponse> {
        let request = LeaseKeepAliveRequest { id: self.lease };
        if self.requests.send(request).await.is_err() {
            return Err(Failure::new("the server closed the keep-alive stream"));
        }
        self.next().await
    }

    /// How long to wait before the next time: a third, so that one lost message does no harm.
    pub fn pause(ttl_seconds: i64) -> Duration {
        Duration::from_millis(ttl_seconds.max(1).unsigned_abs().saturating_mul(1000) / 3)
    }
}

/// A granted lease and the task that keeps it alive.
pub struct Session {
    client: Client,
    lease: i64,
    lost: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Session {
    /// Grants a lease of this many seconds and keeps it alive from then on.
    pub async fn open(client: &Client, ttl_seconds: i64) -> Result<Self> {
        let asked = Instant::now();
        let request = LeaseGrantRequest { ttl: ttl_seconds, id: 0 };
        let granted = client.answer(client.lease().lease_grant(request)).await?;
        let (is_lost, lost) = watch::channel(false);
        let lease = granted.id;
        let keeper = Keeper { client: client.clone(), lease, ttl_seconds: granted.ttl, confirmed: asked };
        let task = tokio::spawn(async move {
            keeper.run().await;
            // Nobody may be listening any more.
            let _ = is_lost.send(true);
        });
        Ok(Self { client: client.clone(), lease, lost, task })
    }

    /// The lease.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Returns when the lease can no longer be counted on.
    pub async fn lost(&self) {
        // An error means that the task is gone, and then nobody keeps the lease alive.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }

    /// Whether [`Session::lost`] would return at once.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Ends the lease at once. A lost one ends by itself, if it has not ended yet.
    pub async fn close(self) -> Result<()> {
        self.task.abort();
        if self.is_lost() {
            return Ok(());
        }
        let request = LeaseRevokeRequest { id: self.lease };
        self.client.answer(self.client.lease().lease_revoke(request)).await?;
        Ok(())
    }
}

struct Keeper {
    client: Client,
    lease: i64,
    ttl_seconds: i64,
    /// When the last request that was answered had been sent. The server counts from a later
    /// moment, so counting from here errs on the safe side.
    confirmed: Instant,
}

impl Keeper {
    /// Returns when the lease is gone or may be.
    async fn run(mut self) {
        let mut stream = None;
        loop {
            let pause = KeepAlive::pause(self.ttl_seconds);
            tokio::time::sleep(pause).await;
            let deadline = self.confirmed + Duration::from_secs(self.ttl_seconds.max(0).unsigned_abs());
            let asked = Instant::now();
            match tokio::time::timeout_at(deadline.min(asked + pause), self.renew(&mut stream)).await {
                Ok(Ok(0)) => return,
                Ok(Ok(ttl_seconds)) => {
                    self.ttl_seconds = ttl_seconds;
                    self.confirmed = asked;
                }
                // The next round opens the stream again, until the lease's time is over.
                Ok(Err(_)) | Err(_) if Instant::now() < deadline => stream = None,
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    async fn renew(&self, stream: &mut Option<KeepAlive>) -> Result<i64> {
        let stream = match stream {
            Some(stream) => stream,
            None => stream.insert(KeepAlive::open(&self.client, self.lease).await?),
        };
        Ok(stream.renew().await?.ttl.max(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_kept_alive_three_times_in_its_time() {
        assert_eq!(KeepAlive::pause(60), Duration::from_secs(20));
        assert_eq!(KeepAlive::pause(0), Duration::from_millis(333));
        assert_eq!(KeepAlive::pause(-1), Duration::from_millis(333));
    }
}
