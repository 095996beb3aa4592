//! The service Maintenance.

use folkmoot_core::cluster::AlarmKind;
use folkmoot_core::codec;
use folkmoot_core::error::Error;
use folkmoot_core::node::Reply;
use folkmoot_core::types::MemberId;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::maintenance_server;
use tonic::{Request, Response, Status};

use super::header::{header, header_now};
use super::queue::ResponseStream;
use super::{snapshot, status};
use crate::config::QUOTA_BYTES_DEFAULT;
use crate::node::{CallError, NodeHandle};
use crate::version::{ETCD_VERSION, storage_version};

/// See the module.
pub struct Maintenance {
    node: NodeHandle,
}

impl Maintenance {
    /// The service on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { node }
    }

    async fn alarm(&self, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, CallError> {
        match self.node.propose(codec::cluster::alarm(&request)).await? {
            Reply::Alarm { alarms, revision } => Ok(pb::AlarmResponse {
                header: header(&self.node, revision),
                alarms: alarms.into_iter().map(codec::cluster::alarm_to_wire).collect(),
            }),
            other => unreachable!("an alarm request is answered as one, not {other:?}"),
        }
    }

    fn status_now(&self) -> pb::StatusResponse {
        let published = self.node.status();
        let leader = published.leader();
        let mut errors = Vec::new();
        if leader.is_none() {
            errors.push(Error::NoLeader.to_string());
        }
        for alarm in published.alarms().iter() {
            let kind = match alarm.kind {
                AlarmKind::NoSpace => "NOSPACE",
                AlarmKind::Corrupt => "CORRUPT",
            };
            errors.push(format!("memberID:{} alarm:{kind} ", alarm.member.0));
        }
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        pb::StatusResponse {
            header: header_now(&self.node),
            version: ETCD_VERSION.into(),
            // Clients divide by this.
            db_size: bytes(published.engine_total_bytes()).max(1),
            leader: leader.map_or(0, |leader| leader.0),
            raft_index: published.committed(),
            raft_term: published.term(),
            raft_applied_index: published.applied(),
            errors,
            db_size_in_use: bytes(published.engine_live_bytes()),
            is_learner: published.learner(),
            storage_version: storage_version().into(),
            db_size_quota: match self.node.settings().config.quota_backend_bytes {
                0 => QUOTA_BYTES_DEFAULT,
                quota => quota,
            },
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }
    }

    async fn downgrade(&self, request: pb::DowngradeRequest) -> Result<pb::DowngradeResponse, Status> {
        use pb::downgrade_request::DowngradeAction;
        let cluster = self.node.status().cluster_version();
        let (major, minor) = major_minor(&cluster).unwrap_or_default();
        match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => {
                let target = major_minor(&request.version)
                    .ok_or_else(|| status(Error::WrongDowngradeVersionFormat))?;
                self.node.read_index().await.map_err(status)?;
                if target.0 != major || target.1.checked_add(1) != Some(minor) {
                    return Err(status(Error::InvalidDowngradeTargetVersion));
                }
            }
            Ok(DowngradeAction::Enable) => {
                return Err(Status::unimplemented("folkmoot: downgrading the cluster is not supported yet"));
            }
            // etcd answers this one well whether there was a downgrade or not.
            Ok(DowngradeAction::Cancel) => {}
            Err(_) => return Err(status(Error::UnknownMethod)),
        }
        Ok(pb::DowngradeResponse { header: header_now(&self.node), version: format!("{major}.{minor}") })
    }
}

/// Major and minor of `3.6.0` or `3.6`.
fn major_minor(version: &str) -> Option<(u64, u64)> {
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?;
    let release = version.split(['-', '+']).next()?;
    let parts: Vec<&str> = release.split('.').collect();
    match parts.as_slice() {
        [major, minor] => Some((number(major)?, number(minor)?)),
        [major, minor, patch] => number(patch).and(Some((number(major)?, number(minor)?))),
        _ => None,
    }
}

#[tonic::async_trait]
impl maintenance_server::Maintenance for Maintenance {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let request = request.into_inner();
        if pb::alarm_request::AlarmAction::try_from(request.action).is_err() {
            // etcd itself crashes on an unknown action.
            return Err(Status::invalid_argument(format!(
                "etcdserver: unknown alarm action {}",
                request.action
            )));
        }
        Maintenance::alarm(self, request).await.map(Response::new).map_err(status)
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(self.status_now()))
    }

    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        tracing::info!("starting defragment");
        snapshot::defragment(&self.node).await?;
        tracing::info!("finished defragment");
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let (hash, revision) = snapshot::hash_all(&self.node).await.map_err(status)?;
        Ok(Response::new(pb::HashResponse { header: header(&self.node, revision), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let hash = snapshot::hash_kv(&self.node, request.into_inner().revision).await.map_err(status)?;
        Ok(Response::new(pb::HashKvResponse {
            header: header(&self.node, hash.revision),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    type SnapshotStream = ResponseStream<pb::SnapshotResponse>;

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        snapshot::stream(&self.node).await.map(Response::new)
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let target = MemberId(request.into_inner().target_id);
        self.node.transfer_leader(target).await.map_err(status)?;
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Maintenance::downgrade(self, request.into_inner()).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_may_lack_the_patch() {
        assert_eq!(major_minor("3.5.0"), Some((3, 5)));
        assert_eq!(major_minor("3.5"), Some((3, 5)));
        for text in ["", "3", "3.x", "3.5.", "v3.5.0", "3.5.0.1", "+3.5"] {
            assert_eq!(major_minor(text), None, "{text:?}");
        }
    }
}
