//! Learners: what they serve, and how they become voters.

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::watch_client::WatchClient;
use tonic::Code;

use crate::common::{assert_status, bytes, put_request, watch_key};
use crate::support::{Cluster, Place, eventually, free_port, peer_url};

const NOT_FOR_LEARNERS: &str = "etcdserver: rpc not supported for learner";
const NOT_READY: &str = "etcdserver: can only promote a learner member which is in sync with leader";

#[tokio::test]
async fn a_learner_is_promoted_once_it_has_caught_up() {
    let mut cluster = Cluster::start(3);
    for number in 0..30 {
        cluster.put(0, &format!("k{number}"), "v").await;
    }
    let follower = cluster.follower().await;
    let port = free_port();
    let response = cluster.add(follower, &peer_url(port), true).await.unwrap();
    let added = response.member.expect("the member");
    assert!(added.is_learner && added.name.is_empty() && added.client_urls.is_empty());
    assert_eq!(response.header.expect("a header").revision, 0);
    assert_eq!(response.members.iter().filter(|member| member.is_learner).count(), 1);
    // It has not even started.
    for at in 0..3 {
        assert_status(cluster.promote(at, added.id).await, Code::FailedPrecondition, NOT_READY);
    }
    let second = cluster.add(follower, &peer_url(free_port()), true).await;
    assert_status(second, Code::FailedPrecondition, "etcdserver: too many learner members in cluster");

    let config = cluster.joiner(port);
    cluster.places.push(Place { config, server: None });
    cluster.start_again(&[3]);
    assert_eq!(cluster.id(3), added.id);
    assert!(cluster.status(3).await.is_learner);
    cluster.wait_for_value(3, "k29", "v").await;
    let members = eventually("the promotion", async || match cluster.promote(follower, added.id).await {
        Ok(response) => {
            assert_eq!(response.header.expect("a header").revision, 0);
            Some(response.members)
        }
        Err(status) => {
            assert_eq!(status.message(), NOT_READY);
            None
        }
    })
    .await;
    assert!(members.iter().all(|member| !member.is_learner));
    let again = cluster.promote(follower, added.id).await;
    assert_status(again, Code::FailedPrecondition, "etcdserver: can only promote a learner member");
    eventually("the end of learning", async || (!cluster.status(3).await.is_learner).then_some(())).await;
    assert_eq!(cluster.get(3, "k0").await.as_deref(), Some("v"));
    cluster.put(3, "a", "1").await;
    let members = cluster.wait_for_members(4).await;
    let promoted = members.iter().find(|member| member.id == added.id).expect("is listed");
    assert_eq!(promoted.name, "m3");
}

#[tokio::test]
async fn a_learner_serves_serializable_ranges_its_status_and_snapshots_and_nothing_else() {
    let mut cluster = Cluster::start(1);
    cluster.put(0, "a", "1").await;
    let learner = cluster.join(0, true).await;
    cluster.wait_for_value(learner, "a", "1").await;
    let refused = |status: tonic::Status| {
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, NOT_FOR_LEARNERS));
    };
    refused(cluster.read(learner, "a", false).await.unwrap_err());
    let mut kv = cluster.kv(learner).await;
    refused(kv.put(put_request("a", "2")).await.unwrap_err());
    let delete = pb::DeleteRangeRequest { key: bytes("a"), ..Default::default() };
    refused(kv.delete_range(delete).await.unwrap_err());
    refused(kv.txn(pb::TxnRequest::default()).await.unwrap_err());
    refused(kv.compact(pb::CompactionRequest { revision: 1, physical: false }).await.unwrap_err());
    let mut lease = cluster.lease(learner).await;
    refused(lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap_err());
    refused(lease.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap_err());
    let list = pb::MemberListRequest { linearizable: false };
    refused(cluster.cluster(learner).await.member_list(list).await.unwrap_err());
    let mut maintenance = cluster.maintenance(learner).await;
    refused(maintenance.alarm(pb::AlarmRequest::default()).await.unwrap_err());
    refused(maintenance.move_leader(pb::MoveLeaderRequest { target_id: 1 }).await.unwrap_err());
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watch_key("a"))),
    };
    let mut watch = WatchClient::new(cluster.channel(learner).await);
    refused(watch.watch(tokio_stream::iter([create])).await.unwrap_err());

    let status = cluster.status(learner).await;
    assert_eq!((status.is_learner, status.leader), (true, cluster.id(0)));
    let mut parts = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    assert!(parts.message().await.unwrap().is_some());
    // The only voter does not need it.
    cluster.lose(learner).await;
    cluster.put(0, "a", "2").await;
    cluster.start_again(&[learner]);
    cluster.wait_for_value(learner, "a", "2").await;
}

#[tokio::test]
async fn a_learner_is_removed_like_anybody_else() {
    let mut cluster = Cluster::start(1);
    let learner = cluster.join(0, true).await;
    let id = cluster.id(learner);
    assert_eq!(cluster.remove(0, id).await.unwrap().members.len(), 1);
    cluster.server(learner).removed().await;
    cluster.stop(learner).await;
    cluster.put(0, "a", "1").await;
}
