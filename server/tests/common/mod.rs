//! A real server in this process, on a free port and a directory of its own, and clients for it.
#![allow(dead_code)]

use folkmoot_proto::etcdserverpb::auth_client::AuthClient;
use folkmoot_proto::etcdserverpb::cluster_client::ClusterClient;
use folkmoot_proto::etcdserverpb::kv_client::KvClient;
use folkmoot_proto::etcdserverpb::lease_client::LeaseClient;
use folkmoot_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use folkmoot_proto::etcdserverpb::watch_client::WatchClient;
use folkmoot_proto::etcdserverpb::{self as pb, PutRequest, RangeRequest};
use folkmoot_proto::v3electionpb::election_client::ElectionClient;
use folkmoot_proto::v3lockpb::lock_client::LockClient;
use folkmoot_server::{Config, Server};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

pub struct TestServer {
    pub server: Option<Server>,
    config: Config,
    _dir: TempDir,
}

impl TestServer {
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config::alone_in(dir.path().join("member"));
        // Elections of a lone member take as long as its timeout.
        config.heartbeat_ms = 10;
        config.election_ms = 100;
        change(&mut config);
        let server = Server::start(config.clone()).expect("the server starts");
        Self { server: Some(server), config, _dir: dir }
    }

    pub fn config(&self) -> Config {
        self.config.clone()
    }

    pub fn addr(&self) -> std::net::SocketAddr {
        self.server.as_ref().expect("runs").client_addr()
    }

    pub async fn stop(&mut self) {
        let server = self.server.take().expect("runs");
        tokio::task::spawn_blocking(|| server.shutdown()).await.expect("no panic").expect("no failure");
    }

    pub fn start_again(&mut self) {
        self.server = Some(Server::start(self.config.clone()).expect("the server starts again"));
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again();
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.addr())).expect("an address");
        endpoint.connect().await.expect("a connection")
    }

    pub async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await).max_decoding_message_size(usize::MAX)
    }

    pub async fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel().await)
    }

    pub async fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel().await)
    }

    pub async fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel().await)
    }

    pub async fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel().await)
    }

    pub async fn lock(&self) -> LockClient<Channel> {
        LockClient::new(self.channel().await)
    }

    pub async fn election(&self) -> ElectionClient<Channel> {
        ElectionClient::new(self.channel().await)
    }

    pub async fn watcher(&self) -> Watcher {
        Watcher::open(self.channel().await).await
    }

    /// Shows that the server still answers.
    pub async fn assert_serves(&self) {
        let mut kv = self.kv().await;
        let revision = put(&mut kv, "still", "alive").await;
        let got = get(&mut kv, "still").await.expect("is there");
        assert_eq!((&got.value[..], got.mod_revision), (&b"alive"[..], revision));
    }
}

/// A watch stream and the way to ask it things.
pub struct Watcher {
    pub requests: tokio::sync::mpsc::Sender<pb::WatchRequest>,
    pub responses: Streaming<pb::WatchResponse>,
}

impl Watcher {
    pub async fn open(channel: Channel) -> Self {
        let (requests, receiver) = tokio::sync::mpsc::channel(16);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let responses = client.watch(stream).await.expect("a stream").into_inner();
        Self { requests, responses }
    }

    pub async fn ask(&self, request: pb::watch_request::RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.expect("the stream is open");
    }

    pub async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(pb::watch_request::RequestUnion::CreateRequest(create)).await;
        self.next().await
    }

    pub async fn next(&mut self) -> pb::WatchResponse {
        self.responses.message().await.expect("no error").expect("a response")
    }
}

pub fn watch_key(key: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: bytes(key), ..Default::default() }
}

pub fn bytes(text: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(text.as_bytes())
}

pub fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub async fn put(kv: &mut KvClient<Channel>, key: &str, value: &str) -> i64 {
    let response = kv.put(put_request(key, value)).await.expect("the put succeeds").into_inner();
    response.header.expect("a header").revision
}

pub async fn get(kv: &mut KvClient<Channel>, key: &str) -> Option<folkmoot_proto::mvccpb::KeyValue> {
    let request = RangeRequest { key: bytes(key), ..Default::default() };
    let response = kv.range(request).await.expect("the range succeeds").into_inner();
    assert_eq!(response.count, response.kvs.len() as i64);
    response.kvs.into_iter().next()
}

#[track_caller]
pub fn assert_status<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, message: &str) {
    let status = result.expect_err("is refused");
    assert_eq!((status.code(), status.message()), (code, message));
}
