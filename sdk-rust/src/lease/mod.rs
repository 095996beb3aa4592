//! Leases: what keys can hang on, so that they go when nobody renews it.

pub(crate) mod keeper;

use std::time::Duration;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::lease_client::LeaseClient;
use tonic::transport::Channel;

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::Header;
use crate::runtime;
use crate::transport::{Call, Core};

fn stub(channel: Channel) -> LeaseClient<Channel> {
    LeaseClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: i64,
    /// How long it lives without being renewed; the store may give more than was asked for.
    pub ttl: Duration,
}

/// What is left of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTtl {
    /// Who answered, and when.
    pub header: Header,
    /// How long it lives without being renewed.
    pub granted: Duration,
    /// What of it is left, in whole seconds.
    pub remaining: Duration,
    /// The keys that hang on it, if asked for.
    pub keys: Vec<Bytes>,
}

/// Revokes; a lease that is gone is as good as revoked.
pub(crate) async fn revoke(core: &Core, lease: i64, timeout: Option<Duration>) -> Result<bool> {
    let message = pb::LeaseRevokeRequest { id: lease };
    let rpc = |channel, request| async move { stub(channel).lease_revoke(request).await };
    let answer: Result<pb::LeaseRevokeResponse> =
        core.unary(Call::idempotent().timeout(timeout), message, rpc).await;
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::LeaseNotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) async fn grant(core: &Core, ttl: Duration, id: i64) -> Result<Lease> {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let seconds = i64::try_from(seconds).map_err(|_| Error::invalid("a lease cannot live that long"))?;
    let message = pb::LeaseGrantRequest { ttl: seconds, id };
    let rpc = |channel, request| async move { stub(channel).lease_grant(request).await };
    // A grant whose answer was lost leaves a lease that nobody renews, and that ends by itself.
    let call = if id == 0 { Call::idempotent() } else { Call::once() };
    let answer: pb::LeaseGrantResponse = core.unary(call, message, rpc).await?;
    if !answer.error.is_empty() {
        return Err(Error::internal(answer.error));
    }
    Ok(Lease { id: answer.id, ttl: Duration::from_secs(answer.ttl.max(0).unsigned_abs()) })
}

impl Client {
    /// Grants a lease. Nobody renews it: for that there are sessions.
    ///
    /// # Cancel safety
    /// If the future is dropped a lease may be left that ends by itself.
    pub async fn lease_grant(&self, ttl: Duration) -> Result<Lease> {
        grant(&*self.core()?, ttl, 0).await
    }

    /// Grants a lease with an id of the caller's.
    ///
    /// # Cancel safety
    /// As [`Client::lease_grant`].
    pub async fn lease_grant_as(&self, id: i64, ttl: Duration) -> Result<Lease> {
        grant(&*self.core()?, ttl, id).await
    }

    /// Ends a lease and deletes its keys. Answers whether there was one.
    ///
    /// # Cancel safety
    /// If the future is dropped the lease may be revoked or not.
    pub async fn lease_revoke(&self, id: i64) -> Result<bool> {
        revoke(&*self.core()?, id, None).await
    }

    /// What is left of a lease; with `keys` also what hangs on it. `None` if it does not exist.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn lease_ttl(&self, id: i64, keys: bool) -> Result<Option<LeaseTtl>> {
        let message = pb::LeaseTimeToLiveRequest { id, keys };
        let rpc = |channel, request| async move { stub(channel).lease_time_to_live(request).await };
        let answer: pb::LeaseTimeToLiveResponse = self.core()?.unary(Call::read(), message, rpc).await?;
        if answer.ttl < 0 && answer.granted_ttl == 0 {
            return Ok(None);
        }
        let seconds = |seconds: i64| Duration::from_secs(seconds.max(0).unsigned_abs());
        Ok(Some(LeaseTtl {
            header: answer.header.into(),
            granted: seconds(answer.granted_ttl),
            remaining: seconds(answer.ttl),
            keys: answer.keys.into_iter().map(|key| self.keys().strip(key)).collect(),
        }))
    }

    /// The ids of all leases that the answering member knows.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn leases(&self) -> Result<Vec<i64>> {
        let rpc = |channel, request| async move { stub(channel).lease_leases(request).await };
        let answer: pb::LeaseLeasesResponse =
            self.core()?.unary(Call::read(), pb::LeaseLeasesRequest {}, rpc).await?;
        Ok(answer.leases.into_iter().map(|lease| lease.id).collect())
    }

    /// Renews a lease once. A lease without time left is [`LeaseNotFound`](ErrorKind::LeaseNotFound).
    /// Sessions do this by themselves.
    ///
    /// # Cancel safety
    /// If the future is dropped the lease may be renewed or not.
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<Lease> {
        let core = self.core()?;
        let timeout = core.options.request_timeout;
        let attempt = async {
            let mut avoid = None;
            let mut renewed = false;
            loop {
                let (index, link) = core.pick(avoid);
                match keeper::single(&core, link.channel.clone(), id).await {
                    Ok(Some(answer)) if answer.ttl > 0 => {
                        core.succeeded(index);
                        return Ok(Lease { id, ttl: Duration::from_secs(answer.ttl.unsigned_abs()) });
                    }
                    Ok(Some(_)) => {
                        let text = format!("the lease does not exist lease={id:x}");
                        return Err(Error::new(ErrorKind::LeaseNotFound, text).at(&link.name));
                    }
                    Ok(None) => {}
                    Err(status) => {
                        use crate::transport::status::{self, Fault};
                        match status::fault(&status) {
                            Fault::Refused => return Err(status::error(status, &link.name)),
                            Fault::Token if renewed => return Err(status::error(status, &link.name)),
                            Fault::Token => {
                                renewed = true;
                                core.renew_current_token().await?;
                            }
                            _ => core.failed(index),
                        }
                    }
                }
                avoid = Some(index);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let late = || Error::new(ErrorKind::DeadlineExceeded, "no member renewed the lease in time");
        // The timer is made inside, because it too needs the runtime.
        let limited = async { tokio::time::timeout(timeout, attempt).await };
        runtime::within(&core.handle, limited).await.unwrap_or_else(|_| Err(late()))
    }
}
