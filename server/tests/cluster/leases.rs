//! Leases in a cluster: whoever is asked, and over changes of the leader.

use std::time::{Duration, Instant};

use folkmoot_proto::etcdserverpb as pb;
use tonic::Code;

use crate::common::{assert_status, bytes, put_request};
use crate::support::{Cluster, eventually};

async fn grant(cluster: &Cluster, at: usize, id: i64, ttl: i64) -> i64 {
    let request = pb::LeaseGrantRequest { ttl, id };
    cluster.lease(at).await.lease_grant(request).await.unwrap().into_inner().ttl
}

async fn put_with_lease(cluster: &Cluster, at: usize, key: &str, lease: i64) {
    let request = pb::PutRequest { lease, ..put_request(key, "1") };
    cluster.kv(at).await.put(request).await.unwrap();
}

async fn look(cluster: &Cluster, at: usize, id: i64) -> pb::LeaseTimeToLiveResponse {
    let request = pb::LeaseTimeToLiveRequest { id, keys: true };
    cluster.lease(at).await.lease_time_to_live(request).await.unwrap().into_inner()
}

/// Prolongs a lease once; its time, 0 if there is no such lease.
async fn keep(cluster: &Cluster, at: usize, id: i64) -> i64 {
    let requests = tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
    let mut answers = cluster.lease(at).await.lease_keep_alive(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().expect("an answer").ttl
}

#[tokio::test]
async fn a_lease_is_granted_looked_at_kept_and_revoked_at_any_member() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    assert_eq!(grant(&cluster, one, 7, 60).await, 60);
    put_with_lease(&cluster, two, "a", 7).await;
    put_with_lease(&cluster, leader, "b", 7).await;
    for at in 0..3 {
        let info = look(&cluster, at, 7).await;
        assert_eq!(info.header.as_ref().expect("a header").member_id, cluster.id(at));
        assert!((50..=60).contains(&info.ttl), "{info:?}");
        let mut keys = info.keys.clone();
        keys.sort();
        assert_eq!((info.granted_ttl, keys), (60, vec![bytes("a"), bytes("b")]));
        assert_eq!(keep(&cluster, at, 7).await, 60);
        assert_eq!(keep(&cluster, at, 8).await, 0);
        assert_eq!(look(&cluster, at, 8).await.ttl, -1);
        let all = cluster.lease(at).await.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap();
        assert_eq!(all.into_inner().leases, [pb::LeaseStatus { id: 7 }]);
    }
    let again = cluster.lease(two).await.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 7 }).await;
    assert_status(again, Code::FailedPrecondition, "etcdserver: lease already exists");
    cluster.lease(two).await.lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await.unwrap();
    for at in 0..3 {
        assert_eq!(cluster.get(at, "a").await, None);
        assert_eq!(cluster.get(at, "b").await, None);
        assert_eq!(look(&cluster, at, 7).await.ttl, -1);
    }
    let gone = cluster.lease(one).await.lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await;
    assert_status(gone, Code::NotFound, "etcdserver: requested lease not found");
}

#[tokio::test]
async fn a_lease_survives_the_loss_of_the_leader_and_ends_after_it() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    let kept = 5;
    grant(&cluster, one, kept, 3).await;
    put_with_lease(&cluster, one, "kept", kept).await;
    let asked = Instant::now();
    grant(&cluster, one, 6, 3).await;
    put_with_lease(&cluster, one, "left", 6).await;
    cluster.lose(leader).await;
    // Renewals wait through the election.
    assert_eq!(keep(&cluster, two, kept).await, 3);
    let gone_after = eventually("the end of the lease", async || {
        assert_eq!(keep(&cluster, one, kept).await, 3);
        let gone = cluster.get(two, "left").await.is_none();
        gone.then(|| asked.elapsed())
    })
    .await;
    assert!(gone_after >= Duration::from_secs(3), "{gone_after:?}");
    assert_eq!(cluster.get(two, "kept").await.as_deref(), Some("1"));
    assert_eq!(look(&cluster, one, 6).await.ttl, -1);
    cluster.start_again(&[leader]);
    // Who was away ends nothing by itself, and has what the others decided.
    assert_eq!(cluster.get(leader, "left").await, None);
    assert_eq!(keep(&cluster, leader, kept).await, 3);
    eventually("the end of the other lease", async || {
        cluster.get(leader, "kept").await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_lease_is_not_shortened_by_moving_leadership() {
    let cluster = Cluster::start(3);
    grant(&cluster, 0, 9, 4).await;
    put_with_lease(&cluster, 1, "a", 9).await;
    let granted = Instant::now();
    for _ in 0..3 {
        let leader = cluster.leader().await;
        // It may have moved by itself.
        let _ = cluster.move_leader(leader, cluster.id((leader + 1) % 3)).await;
        let info = look(&cluster, leader, 9).await;
        assert!(info.ttl >= 1 || granted.elapsed() > Duration::from_secs(3), "{info:?}");
    }
    let gone_after =
        eventually("the end", async || cluster.get(0, "a").await.is_none().then(|| granted.elapsed())).await;
    assert!(gone_after >= Duration::from_secs(4), "{gone_after:?}");
}
