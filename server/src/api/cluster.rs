//! The service Cluster: who the members are. Changing them is not built yet.

use folkmoot_core::codec;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::cluster_server;
use tonic::{Request, Response, Status};

use super::header::header;
use super::status;
use crate::node::NodeHandle;

/// See the module.
pub struct Cluster {
    node: NodeHandle,
}

impl Cluster {
    /// The service on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { node }
    }
}

fn not_built(what: &str) -> Status {
    Status::unimplemented(format!(
        "folkmoot: {what} is not supported yet: this version runs one member alone"
    ))
}

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(not_built("adding a member"))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(not_built("removing a member"))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(not_built("changing a member's peer URLs"))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.node.read_index().await.map_err(status)?;
        }
        let members = self.node.status().members();
        Ok(Response::new(pb::MemberListResponse {
            // Headers of this service carry no revision, as etcd's.
            header: header(&self.node, 0),
            members: members.iter().map(codec::cluster::member_to_wire).collect(),
        }))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(not_built("promoting a learner"))
    }
}
