//! Connections to members, and the few calls that everybody here needs.

use std::net::SocketAddr;
use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A member that is asked for its state answers at once or not at all.
const ASK_PATIENCE: Duration = Duration::from_millis(500);
/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);

/// A connection to one member that is made when it is first used, and again after it broke.
pub fn channel(to: SocketAddr) -> Channel {
    // Windows stay small, so that a client that reads slowly is felt by the member.
    Endpoint::from(http_uri(to)).connect_timeout(CONNECT_PATIENCE).tcp_nodelay(true).connect_lazy()
}

fn http_uri(to: SocketAddr) -> tonic::transport::Uri {
    // A socket address is a valid authority, so the default is never taken.
    format!("http://{to}").parse().unwrap_or_default()
}

/// Waits for an answer no longer than this.
pub async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(patience, call).await {
        Ok(result) => result.map(tonic::Response::into_inner),
        Err(_) => Err(Status::new(Code::DeadlineExceeded, "no answer in time")),
    }
}

/// The state of a member, as it sees it.
pub async fn status(to: SocketAddr) -> Result<pb::StatusResponse, Status> {
    let mut client = MaintenanceClient::new(channel(to));
    within(ASK_PATIENCE, client.status(pb::StatusRequest {})).await
}

/// A linearizable read of a key that nobody writes; works only with a leader and a quorum.
pub async fn barrier(to: SocketAddr, patience: Duration) -> Result<pb::RangeResponse, Status> {
    let request = pb::RangeRequest { key: "barrier".into(), ..Default::default() };
    within(patience, KvClient::new(channel(to)).range(request)).await
}

/// Hash of a member's history up to a revision.
pub async fn hash_kv(to: SocketAddr, revision: i64) -> Result<pb::HashKvResponse, Status> {
    let mut client = MaintenanceClient::new(channel(to));
    within(Duration::from_secs(10), client.hash_kv(pb::HashKvRequest { revision })).await
}

/// Asks the leader to hand over. Only the leader can do it.
pub async fn move_leader(leader: SocketAddr, target: u64, patience: Duration) -> Result<(), Status> {
    let request = pb::MoveLeaderRequest { target_id: target };
    within(patience, MaintenanceClient::new(channel(leader)).move_leader(request)).await.map(|_| ())
}

/// A client for the service of members.
pub fn members(to: SocketAddr) -> ClusterClient<Channel> {
    ClusterClient::new(channel(to))
}
