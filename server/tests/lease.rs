//! Leases, from a client's side.

mod common;

use common::{TestServer, assert_status, bytes, get, put_request, watch_key};
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::mvccpb::event::EventType;
use tonic::Code;

const NOT_FOUND: &str = "etcdserver: requested lease not found";

fn grant(id: i64, ttl: i64) -> pb::LeaseGrantRequest {
    pb::LeaseGrantRequest { ttl, id }
}

#[tokio::test]
async fn a_lease_is_granted_looked_at_and_revoked_with_its_keys() {
    let server = TestServer::start();
    let (mut lease, mut kv) = (server.lease().await, server.kv().await);
    let granted = lease.lease_grant(grant(0, 60)).await.unwrap().into_inner();
    assert!(granted.id > 0 && granted.ttl == 60 && granted.error.is_empty());
    assert_eq!(granted.header.unwrap().revision, 1);
    for key in ["b", "a"] {
        kv.put(pb::PutRequest { lease: granted.id, ..put_request(key, "1") }).await.unwrap();
    }
    let look = pb::LeaseTimeToLiveRequest { id: granted.id, keys: true };
    let info = lease.lease_time_to_live(look).await.unwrap().into_inner();
    assert!((58..=60).contains(&info.ttl), "{info:?}");
    assert_eq!((info.granted_ttl, info.id), (60, granted.id));
    let mut keys = info.keys;
    keys.sort();
    assert_eq!(keys, [bytes("a"), bytes("b")]);
    let all = lease.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner();
    assert_eq!(all.leases, [pb::LeaseStatus { id: granted.id }]);

    let revoked = lease.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }).await.unwrap().into_inner();
    assert_eq!(revoked.header.unwrap().revision, 4);
    assert_eq!(get(&mut kv, "a").await, None);
    assert_status(
        lease.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }).await,
        Code::NotFound,
        NOT_FOUND,
    );
    let info = lease.lease_time_to_live(look).await.unwrap().into_inner();
    assert_eq!((info.ttl, info.granted_ttl), (-1, 0));
}

#[tokio::test]
async fn keepalives_are_answered_in_order_and_unknown_leases_have_no_time() {
    let server = TestServer::start();
    let mut lease = server.lease().await;
    lease.lease_grant(grant(5, 60)).await.unwrap();
    let requests = [5, 6, 0, 5].map(|id| pb::LeaseKeepAliveRequest { id });
    let mut answers = lease.lease_keep_alive(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(answer.header.is_some());
        seen.push((answer.id, answer.ttl));
    }
    assert_eq!(seen, [(5, 60), (6, 0), (0, 0), (5, 60)]);
}

#[tokio::test]
async fn a_lease_that_is_not_kept_alive_ends_and_takes_its_keys() {
    let server = TestServer::start();
    let (mut lease, mut kv, mut watcher) = (server.lease().await, server.kv().await, server.watcher().await);
    let granted = lease.lease_grant(grant(9, 1)).await.unwrap().into_inner();
    kv.put(pb::PutRequest { lease: granted.id, ..put_request("a", "1") }).await.unwrap();
    watcher.create(watch_key("a")).await;
    let response = watcher.next().await;
    assert_eq!(response.events[0].r#type(), EventType::Delete);
    let all = lease.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner();
    assert!(all.leases.is_empty());
}

#[tokio::test]
async fn bounds_of_leases_are_etcds() {
    let server = TestServer::start();
    let (mut lease, mut kv) = (server.lease().await, server.kv().await);
    assert_status(
        lease.lease_grant(grant(1, 9_000_000_001)).await,
        Code::OutOfRange,
        "etcdserver: too large lease TTL",
    );
    lease.lease_grant(grant(1, 9_000_000_000)).await.unwrap();
    assert_status(
        lease.lease_grant(grant(1, 60)).await,
        Code::FailedPrecondition,
        "etcdserver: lease already exists",
    );
    // Short and negative times are raised, negative ids are legal.
    for (id, ttl) in [(-3, 0), (-4, -60)] {
        let granted = lease.lease_grant(grant(id, ttl)).await.unwrap().into_inner();
        assert_eq!((granted.id, granted.ttl), (id, 1));
    }
    assert_status(
        kv.put(pb::PutRequest { lease: 77, ..put_request("a", "1") }).await,
        Code::NotFound,
        NOT_FOUND,
    );
    assert_status(lease.lease_revoke(pb::LeaseRevokeRequest { id: 0 }).await, Code::NotFound, NOT_FOUND);
    server.assert_serves().await;
}

#[tokio::test]
async fn the_shortest_lease_follows_the_election_timeout() {
    let server = TestServer::start_with(|config| (config.heartbeat_ms, config.election_ms) = (100, 1000));
    let granted = server.lease().await.lease_grant(grant(1, 1)).await.unwrap().into_inner();
    assert_eq!(granted.ttl, 2);
}

#[tokio::test]
async fn leases_survive_a_restart() {
    let mut server = TestServer::start();
    {
        let (mut lease, mut kv) = (server.lease().await, server.kv().await);
        lease.lease_grant(grant(42, 600)).await.unwrap();
        kv.put(pb::PutRequest { lease: 42, ..put_request("a", "1") }).await.unwrap();
    }
    server.restart().await;
    let (mut lease, mut kv) = (server.lease().await, server.kv().await);
    let look = pb::LeaseTimeToLiveRequest { id: 42, keys: true };
    let info = lease.lease_time_to_live(look).await.unwrap().into_inner();
    assert_eq!((info.granted_ttl, info.keys), (600, vec![bytes("a")]));
    lease.lease_revoke(pb::LeaseRevokeRequest { id: 42 }).await.unwrap();
    assert_eq!(get(&mut kv, "a").await, None);
}
