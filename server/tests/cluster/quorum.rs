//! Members that have lost the majority, and clients that need a leader.

use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;
use tonic::{Code, Request};

use crate::common::{assert_status, bytes, put_request, watch_key};
use crate::support::{Cluster, eventually};

const NO_LEADER: &str = "etcdserver: no leader";

/// Three members of which only the returned one is left, which knows that there is no leader.
async fn lonely() -> (Cluster, usize) {
    let mut cluster = Cluster::start(3);
    let left = cluster.leader().await;
    cluster.put(left, "a", "1").await;
    cluster.lose((left + 1) % 3).await;
    cluster.lose((left + 2) % 3).await;
    eventually("no leader", async || (cluster.status(left).await.leader == 0).then_some(())).await;
    (cluster, left)
}

fn needing_a_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().expect("is ASCII"));
    request
}

/// What plain HTTP answers, status line and body.
async fn http_get(cluster: &Cluster, at: usize, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = cluster.server(at).client_addr();
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("is text");
    answer
}

#[tokio::test]
async fn without_a_majority_what_needs_one_times_out_and_the_rest_is_served() {
    let (mut cluster, left) = lonely().await;
    let (mut kv, mut again, mut lease) =
        (cluster.kv(left).await, cluster.kv(left).await, cluster.lease(left).await);
    let range = pb::RangeRequest { key: bytes("a"), ..Default::default() };
    let keep = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 5 }]);
    // Not a voter: it may be added after all, and would have to be started then.
    let add = cluster.add(left, "http://127.0.0.1:1", true);
    let ready = http_get(&cluster, left, "/readyz");
    let keepalive = async {
        let mut answers = lease.lease_keep_alive(keep).await.unwrap().into_inner();
        answers.message().await
    };
    let (put, read, keepalive, add, ready) =
        tokio::join!(kv.put(put_request("a", "2")), again.range(range), keepalive, add, ready);
    assert_status(put, Code::DeadlineExceeded, "context deadline exceeded");
    assert_status(read, Code::Unavailable, "etcdserver: request timed out");
    assert_status(keepalive, Code::Unavailable, NO_LEADER);
    assert_status(add, Code::DeadlineExceeded, "context deadline exceeded");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("[-]linearizable_read failed"), "{ready}");

    assert_eq!(cluster.read(left, "a", true).await.unwrap().as_deref(), Some("1"));
    assert_eq!(cluster.members(left).await.len(), 3);
    cluster.lease(left).await.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap();
    let status = cluster.status(left).await;
    assert_eq!((status.leader, status.errors), (0, vec![NO_LEADER.to_owned()]));
    let health = http_get(&cluster, left, "/health").await;
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("RAFT NO LEADER"), "{health}");
    for path in ["/livez", "/health?serializable=true"] {
        let live = http_get(&cluster, left, path).await;
        assert!(live.starts_with("HTTP/1.1 200"), "{path} {live}");
    }

    // What could not be decided may be decided now; what comes later counts.
    cluster.start_again(&[(left + 1) % 3]);
    cluster.put(left, "a", "3").await;
    assert_eq!(cluster.get(left, "a").await.as_deref(), Some("3"));
    let ready = http_get(&cluster, left, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
}

#[tokio::test]
async fn a_client_that_needs_a_leader_is_told_at_once_that_there_is_none() {
    let (cluster, left) = lonely().await;
    let serializable = pb::RangeRequest { key: bytes("a"), serializable: true, ..Default::default() };
    let refused = cluster.kv(left).await.range(needing_a_leader(serializable)).await;
    assert_status(refused, Code::Unavailable, NO_LEADER);
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watch_key("a"))),
    };
    let requests = needing_a_leader(tokio_stream::iter([create]));
    let refused = cluster.watch(left).await.watch(requests).await;
    assert_eq!(refused.expect_err("is refused").message(), NO_LEADER);
}

#[tokio::test]
async fn a_watch_that_needs_a_leader_ends_when_there_is_none_for_a_while_and_others_go_on() {
    let mut cluster = Cluster::start(3);
    let left = cluster.leader().await;
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watch_key("a"))),
    };
    let open = |needs: bool, client: folkmoot_proto::etcdserverpb::watch_client::WatchClient<_>| {
        let (requests, receiver) = tokio::sync::mpsc::channel(4);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let request = if needs { needing_a_leader(stream) } else { Request::new(stream) };
        let mut client = client;
        async move { (requests, client.watch(request).await.unwrap().into_inner()) }
    };
    let (needy_requests, mut needy) = open(true, cluster.watch(left).await).await;
    let (patient_requests, mut patient) = open(false, cluster.watch(left).await).await;
    for requests in [&needy_requests, &patient_requests] {
        requests.send(create.clone()).await.unwrap();
    }
    assert!(needy.message().await.unwrap().unwrap().created);
    assert!(patient.message().await.unwrap().unwrap().created);
    let others = [(left + 1) % 3, (left + 2) % 3];
    for at in others {
        cluster.lose(at).await;
    }
    let ended = tokio::time::timeout(Duration::from_secs(60), needy.message()).await.expect("it ends");
    assert_status(ended, Code::Unavailable, NO_LEADER);
    cluster.start_again(&others);
    cluster.put(left, "a", "1").await;
    assert_eq!(patient.message().await.unwrap().unwrap().events.len(), 1);
}
