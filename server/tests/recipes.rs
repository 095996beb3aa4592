//! The services Lock and Election, from a client's side.

mod common;

use common::{TestServer, assert_status, bytes, get};
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest,
};
use folkmoot_proto::v3lockpb::{LockRequest, UnlockRequest};
use tonic::Code;

async fn lease(server: &TestServer, id: i64) -> i64 {
    let request = pb::LeaseGrantRequest { ttl: 60, id };
    server.lease().await.lease_grant(request).await.unwrap().into_inner().id
}

#[tokio::test]
async fn a_lock_is_held_by_one_and_passed_on() {
    let server = TestServer::start();
    let (one, two) = (lease(&server, 0x11).await, lease(&server, 0x22).await);
    let mut lock = server.lock().await;
    let request = |lease| LockRequest { name: bytes("l"), lease };
    let held = lock.lock(request(one)).await.unwrap().into_inner();
    assert_eq!(held.key, bytes("l/11"));
    // Whoever has it may ask again.
    assert_eq!(lock.lock(request(one)).await.unwrap().into_inner().key, held.key);

    let mut other = server.lock().await;
    let waiting = tokio::spawn(async move { other.lock(request(two)).await });
    let mut kv = server.kv().await;
    while get(&mut kv, "l/22").await.is_none() {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    lock.unlock(UnlockRequest { key: held.key }).await.unwrap();
    let passed = waiting.await.unwrap().unwrap().into_inner();
    assert_eq!(passed.key, bytes("l/22"));
    assert!(passed.header.unwrap().revision >= 4);
    // Unlocking what is not locked is fine.
    lock.unlock(UnlockRequest { key: bytes("nothing") }).await.unwrap();
}

#[tokio::test]
async fn whoever_stops_waiting_for_a_lock_leaves_the_line() {
    let server = TestServer::start();
    let (one, two) = (lease(&server, 1).await, lease(&server, 2).await);
    let mut lock = server.lock().await;
    lock.lock(LockRequest { name: bytes("l"), lease: one }).await.unwrap();
    let mut other = server.lock().await;
    let waiting = tokio::spawn(async move { other.lock(LockRequest { name: bytes("l"), lease: two }).await });
    let mut kv = server.kv().await;
    while get(&mut kv, "l/2").await.is_none() {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    while get(&mut kv, "l/2").await.is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn errors_of_lock_and_election_lose_their_code() {
    let server = TestServer::start();
    let (mut lock, mut election) = (server.lock().await, server.election().await);
    assert_status(
        lock.lock(LockRequest { name: bytes("l"), lease: 77 }).await,
        Code::Unknown,
        "etcdserver: requested lease not found",
    );
    assert_status(
        lock.unlock(UnlockRequest { key: bytes("") }).await,
        Code::Unknown,
        "etcdserver: key is not provided",
    );
    assert_status(
        election.leader(LeaderRequest { name: bytes("e") }).await,
        Code::Unknown,
        "election: no leader",
    );
    let missing = "\"leader\" field must be provided";
    assert_status(election.proclaim(ProclaimRequest::default()).await, Code::Unknown, missing);
    assert_status(election.resign(ResignRequest::default()).await, Code::Unknown, missing);
    let leader = LeaderKey { name: bytes("e"), key: bytes("e/1"), rev: 5, lease: 1 };
    let proclaim = ProclaimRequest { leader: Some(leader), value: bytes("v") };
    assert_status(election.proclaim(proclaim).await, Code::Unknown, "election: not leader");
}

#[tokio::test]
async fn a_lock_without_a_lease_gets_one_of_a_minute() {
    let server = TestServer::start();
    let held =
        server.lock().await.lock(LockRequest { name: bytes("l"), lease: 0 }).await.unwrap().into_inner();
    let all = server.lease().await.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner();
    assert_eq!(held.key, bytes(&format!("l/{:x}", all.leases[0].id)));
}

#[tokio::test]
async fn leadership_is_won_proclaimed_observed_and_resigned() {
    let server = TestServer::start();
    let (one, two) = (lease(&server, 1).await, lease(&server, 2).await);
    let mut election = server.election().await;
    let campaign = |lease, value: &str| CampaignRequest { name: bytes("e"), lease, value: bytes(value) };
    let observe = LeaderRequest { name: bytes("e") };
    let mut observed = election.observe(observe.clone()).await.unwrap().into_inner();

    let won = election.campaign(campaign(one, "first")).await.unwrap().into_inner();
    let leader = won.leader.unwrap();
    assert_eq!((&leader.key[..], leader.lease, leader.rev), (&b"e/1"[..], one, won.header.unwrap().revision));
    let seen = observed.message().await.unwrap().unwrap();
    assert_eq!(seen.kv.unwrap().value, bytes("first"));

    let proclaim = ProclaimRequest { leader: Some(leader.clone()), value: bytes("second") };
    election.proclaim(proclaim).await.unwrap();
    let seen = observed.message().await.unwrap().unwrap();
    assert_eq!(seen.kv.unwrap().value, bytes("second"));
    let now = election.leader(observe).await.unwrap().into_inner();
    assert_eq!(now.kv.unwrap().value, bytes("second"));

    let mut other = server.election().await;
    let waiting = tokio::spawn(async move { other.campaign(campaign(two, "third")).await });
    let mut kv = server.kv().await;
    while get(&mut kv, "e/2").await.is_none() {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    election.resign(ResignRequest { leader: Some(leader) }).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().into_inner().leader.unwrap().key, bytes("e/2"));
    let seen = observed.message().await.unwrap().unwrap();
    assert_eq!(seen.kv.unwrap().value, bytes("third"));
}
