//! Maintenance, Cluster, Auth, health and the plain HTTP endpoints.

mod common;

use common::{TestServer, assert_status, bytes, put, put_request};
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::health::HealthCheckRequest;
use folkmoot_proto::health::health_client::HealthClient;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

#[tokio::test]
async fn status_tells_who_leads_and_how_far_it_is() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    put(&mut kv, "a", "1").await;
    let status = server.maintenance().await.status(pb::StatusRequest {}).await.unwrap().into_inner();
    let header = status.header.unwrap();
    assert_eq!((header.revision, header.member_id), (2, status.leader));
    assert_eq!(status.raft_term, header.raft_term);
    assert!(status.raft_index >= status.raft_applied_index && status.raft_applied_index > 0);
    assert!(status.db_size > 0 && status.db_size >= status.db_size_in_use);
    assert_eq!((status.db_size_quota, status.is_learner), (2_147_483_648, false));
    assert!(status.errors.is_empty());
    assert_eq!(status.version, "3.6.0");
    assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
}

#[tokio::test]
async fn the_member_list_shows_what_the_member_announced() {
    let server = TestServer::start();
    let request = pb::MemberListRequest { linearizable: true };
    let list = server.cluster().await.member_list(request).await.unwrap().into_inner();
    assert_eq!(list.header.unwrap().revision, 0);
    let member = &list.members[0];
    assert_eq!((list.members.len(), member.name.as_str(), member.is_learner), (1, "default", false));
    assert_eq!(member.client_urls, [format!("http://{}", server.addr())]);
    assert_eq!(member.peer_urls, ["http://localhost:2380"]);
}

#[tokio::test]
async fn what_is_not_built_says_so() {
    let server = TestServer::start();
    let mut auth = server.auth().await;
    let status = auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("enabling authentication is not supported yet"), "{status}");

    let off = auth.auth_status(pb::AuthStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((off.enabled, off.auth_revision), (false, 1));
    assert_status(
        auth.authenticate(pb::AuthenticateRequest { name: "a".into(), password: "b".into() }).await,
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
}

#[tokio::test]
async fn alarms_are_raised_listed_and_cleared_and_the_space_alarm_stops_puts() {
    let server = TestServer::start();
    let (mut maintenance, mut kv) = (server.maintenance().await, server.kv().await);
    let alarm = |action, member_id, alarm| pb::AlarmRequest { action, member_id, alarm };
    let raised = maintenance.alarm(alarm(1, 5, 1)).await.unwrap().into_inner();
    assert_eq!(raised.alarms, [pb::AlarmMember { member_id: 5, alarm: 1 }]);
    let no_space = "etcdserver: mvcc: database space exceeded";
    assert_status(kv.put(put_request("a", "1")).await, Code::ResourceExhausted, no_space);
    let lease = pb::LeaseGrantRequest { ttl: 60, id: 0 };
    assert_status(server.lease().await.lease_grant(lease).await, Code::ResourceExhausted, no_space);
    kv.delete_range(pb::DeleteRangeRequest { key: bytes("a"), ..Default::default() }).await.unwrap();
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.errors, ["memberID:5 alarm:NOSPACE "]);
    let listed = maintenance.alarm(alarm(0, 0, 0)).await.unwrap().into_inner();
    assert_eq!(listed.alarms.len(), 1);
    let cleared = maintenance.alarm(alarm(2, 5, 1)).await.unwrap().into_inner();
    assert_eq!(cleared.alarms.len(), 1);
    assert_eq!(maintenance.alarm(alarm(2, 5, 1)).await.unwrap().into_inner().alarms, []);
    assert_eq!(maintenance.alarm(alarm(9, 0, 0)).await.unwrap_err().code(), Code::InvalidArgument);
    server.assert_serves().await;
}

#[tokio::test]
async fn a_full_store_refuses_puts_before_it_looks_at_them_and_raises_the_alarm() {
    let server = TestServer::start_with(|config| config.quota_backend_bytes = 1);
    let mut kv = server.kv().await;
    // The key is missing, too, but the quota comes first.
    assert_status(
        kv.put(pb::PutRequest::default()).await,
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
    );
    let list = pb::AlarmRequest::default();
    let alarms = server.maintenance().await.alarm(list).await.unwrap().into_inner().alarms;
    assert_eq!(
        alarms,
        [pb::AlarmMember { member_id: server.server.as_ref().unwrap().member_id(), alarm: 1 }]
    );
    // What takes no space goes on.
    kv.txn(pb::TxnRequest::default()).await.unwrap();
}

#[tokio::test]
async fn hashes_depend_on_the_content_alone() {
    let (one, two) = (TestServer::start(), TestServer::start());
    let mut hashes = Vec::new();
    for server in [&one, &two] {
        let mut kv = server.kv().await;
        put(&mut kv, "a", "1").await;
        put(&mut kv, "b", "2").await;
        let hash =
            server.maintenance().await.hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap().into_inner();
        assert_eq!((hash.hash_revision, hash.compact_revision), (3, -1));
        hashes.push(hash.hash);
    }
    assert_eq!(hashes[0], hashes[1]);
    let mut maintenance = one.maintenance().await;
    let past = maintenance.hash_kv(pb::HashKvRequest { revision: 2 }).await.unwrap().into_inner();
    assert_ne!(past.hash, hashes[0]);
    let future = maintenance.hash_kv(pb::HashKvRequest { revision: 9 }).await;
    assert_status(future, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    maintenance.hash(pb::HashRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_ends_with_the_checksum_of_its_bytes() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    for number in 0..200 {
        put(&mut kv, &format!("k{number}"), &"v".repeat(1000)).await;
    }
    let mut parts = server.maintenance().await.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut messages = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        assert!(part.header.is_none() && part.blob.len() <= 32 * 1024);
        messages.push(part);
    }
    let checksum = messages.pop().unwrap();
    let blob: Vec<u8> = messages.iter().flat_map(|part| part.blob.clone()).collect();
    assert_eq!((checksum.blob.to_vec(), checksum.remaining_bytes), (Sha256::digest(&blob).to_vec(), 0));
    let mut remaining = blob.len() as u64;
    for part in &messages {
        remaining -= part.blob.len() as u64;
        assert_eq!(part.remaining_bytes, remaining);
    }
    assert!(blob.len() > 200_000 && blob.len().is_multiple_of(512));
}

#[tokio::test]
async fn defragment_and_move_leader_answer_without_a_header() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    put(&mut kv, "a", "1").await;
    let mut maintenance = server.maintenance().await;
    assert_eq!(maintenance.defragment(pb::DefragmentRequest {}).await.unwrap().into_inner().header, None);
    let own = server.server.as_ref().unwrap().member_id();
    let to = |target_id| pb::MoveLeaderRequest { target_id };
    assert_eq!(maintenance.move_leader(to(own)).await.unwrap().into_inner().header, None);
    assert_status(
        maintenance.move_leader(to(1)).await,
        Code::FailedPrecondition,
        "etcdserver: bad leader transferee",
    );
}

#[tokio::test]
async fn a_downgrade_is_judged_but_not_begun() {
    let server = TestServer::start();
    let mut maintenance = server.maintenance().await;
    let ask = |action, version: &str| pb::DowngradeRequest { action, version: version.into() };
    let good = maintenance.downgrade(ask(0, "3.5.0")).await.unwrap().into_inner();
    assert_eq!(good.version, "3.6");
    assert_status(
        maintenance.downgrade(ask(0, "3.4.0")).await,
        Code::InvalidArgument,
        "etcdserver: invalid downgrade target version",
    );
    assert_status(
        maintenance.downgrade(ask(0, "x")).await,
        Code::InvalidArgument,
        "etcdserver: wrong downgrade target version format",
    );
    assert_eq!(maintenance.downgrade(ask(2, "")).await.unwrap().into_inner().version, "3.6");
    assert_status(maintenance.downgrade(ask(7, "")).await, Code::Unknown, "etcdserver: unknown method");
}

#[tokio::test]
async fn grpc_health_knows_the_empty_name_only() {
    let server = TestServer::start();
    let mut health = HealthClient::new(server.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.into() };
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status, 1);
    assert_eq!(health.check(ask("kv")).await.unwrap_err().code(), Code::NotFound);
    let mut watch = health.watch(ask("kv")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 3);
}

async fn http(server: &TestServer, request: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").expect("a response");
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn plain_http_on_the_same_port_tells_health_and_version() {
    let server = TestServer::start();
    let good = "{\"health\":\"true\",\"reason\":\"\"}";
    for path in ["/health", "/health?serializable=true"] {
        let (head, body) = http(&server, &format!("GET {path}")).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, good);
    }
    for path in ["/livez", "/readyz", "/readyz/linearizable_read"] {
        assert_eq!(http(&server, &format!("GET {path}")).await.1, "ok\n");
    }
    let (_, body) = http(&server, "GET /livez?verbose").await;
    assert_eq!(body, "[+]serializable_read ok\nok\n");
    let (_, body) = http(&server, "GET /version").await;
    assert_eq!(body, "{\"etcdserver\":\"3.6.0\",\"etcdcluster\":\"3.6.0\",\"storage\":\"3.6.0\"}");
    let (head, body) = http(&server, "POST /health").await;
    assert!(head.starts_with("HTTP/1.1 405") && head.to_lowercase().contains("allow: get"), "{head}");
    assert_eq!(body, "Method Not Allowed\n");
    for path in ["/", "/x", "/healthy", "/livez/nothing"] {
        let (head, body) = http(&server, &format!("GET {path}")).await;
        assert!(head.starts_with("HTTP/1.1 404"), "{head}");
        assert_eq!(body, "404 page not found\n");
    }
}

#[tokio::test]
async fn an_alarm_makes_the_health_endpoint_fail() {
    let server = TestServer::start();
    let raise = pb::AlarmRequest { action: 1, member_id: 5, alarm: 1 };
    server.maintenance().await.alarm(raise).await.unwrap();
    let (head, body) = http(&server, "GET /health").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(body, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n");
    assert!(http(&server, "GET /health?exclude=NOSPACE").await.0.starts_with("HTTP/1.1 200"));
}
