//! The service Lease.

use folkmoot_core::codec;
use folkmoot_core::node::Reply;
use folkmoot_core::types::LeaseId;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::lease_server;
use tonic::{Request, Response, Status, Streaming};

use super::header::{header, header_now};
use super::queue::{ResponseStream, respond_in_order};
use super::{quota, status};
use crate::node::NodeHandle;

/// See the module.
pub struct Lease {
    node: NodeHandle,
}

impl Lease {
    /// The service on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { node }
    }
}

/// An id for a lease whose client did not choose one: positive, and unlikely to be in use.
pub fn random_lease_id() -> i64 {
    let id = (rand::random::<u64>() >> 1) as i64;
    id.max(1)
}

/// Grants a lease; gives its id, its time to live and the revision.
pub async fn grant(
    node: &NodeHandle,
    id: i64,
    ttl: i64,
) -> Result<(LeaseId, i64, i64), crate::node::CallError> {
    quota::check(node, quota::LEASE_COST_BYTES).await?;
    let id = if id == 0 { random_lease_id() } else { id };
    match node.propose(codec::lease::grant(id, ttl)).await? {
        Reply::LeaseGrant { id, ttl, revision } => Ok((id, ttl, revision)),
        other => unreachable!("a grant is answered as one, not {other:?}"),
    }
}

async fn keep_alive(
    node: &NodeHandle,
    request: pb::LeaseKeepAliveRequest,
) -> Result<pb::LeaseKeepAliveResponse, Status> {
    // Read before the renewal, so that it is not newer than a revoke that overtakes it.
    let header = header_now(node);
    let ttl = match LeaseId::from_wire(request.id) {
        Some(id) => node.lease_renew(id).await.map_err(status)?,
        None => 0,
    };
    Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl })
}

#[tonic::async_trait]
impl lease_server::Lease for Lease {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let pb::LeaseGrantRequest { ttl, id } = request.into_inner();
        let (id, ttl, revision) = grant(&self.node, id, ttl).await.map_err(status)?;
        Ok(Response::new(pb::LeaseGrantResponse {
            header: header(&self.node, revision),
            id: id.get(),
            ttl,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let command = codec::lease::revoke(request.into_inner().id);
        match self.node.propose(command).await.map_err(status)? {
            Reply::LeaseRevoke { revision } => {
                Ok(Response::new(pb::LeaseRevokeResponse { header: header(&self.node, revision) }))
            }
            other => unreachable!("a revoke is answered as one, not {other:?}"),
        }
    }

    type LeaseKeepAliveStream = ResponseStream<pb::LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let node = self.node.clone();
        Ok(Response::new(respond_in_order(&self.node, request.into_inner(), move |request| {
            let node = node.clone();
            async move { keep_alive(&node, request).await }
        })))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let (ttl, granted_ttl, keys, revision) = match LeaseId::from_wire(id) {
            Some(lease) => {
                let info = self.node.lease_time_to_live(lease, keys).await.map_err(status)?;
                (info.ttl, info.granted_ttl, info.keys, info.revision)
            }
            None => (-1, 0, Vec::new(), self.node.reader().revision()),
        };
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header: header(&self.node, revision),
            id,
            ttl,
            granted_ttl,
            keys,
        }))
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let (ids, revision) = self.node.lease_list().await.map_err(status)?;
        Ok(Response::new(pb::LeaseLeasesResponse {
            header: header(&self.node, revision),
            leases: ids.into_iter().map(|id| pb::LeaseStatus { id: id.get() }).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_ids_that_the_server_chooses_are_positive() {
        assert!((0..1000).all(|_| random_lease_id() > 0));
    }
}
