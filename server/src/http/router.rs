//! Which service answers a request.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use folkmoot_core::error::Error;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::auth_server::AuthServer;
use folkmoot_proto::etcdserverpb::cluster_server::ClusterServer;
use folkmoot_proto::etcdserverpb::kv_server::KvServer;
use folkmoot_proto::etcdserverpb::lease_server::LeaseServer;
use folkmoot_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use folkmoot_proto::health::health_server::HealthServer;
use folkmoot_proto::v3electionpb::election_server::ElectionServer;
use folkmoot_proto::v3lockpb::lock_server::LockServer;
use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use prost::Message;
use tonic::Status;
use tower::Service as _;

use super::body::{Answer, ResponseBody};
use super::unary::{self, Received, failed, receive};
use super::{deadline, plain, reworded};
use crate::api;
use crate::node::NodeHandle;
use crate::read::in_background;

/// Answers of this size are encoded on a thread for long work.
const LARGE_ANSWER_BYTES: usize = 1 << 20;

/// The services of one runtime. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    services: Arc<Services>,
}

struct Services {
    node: NodeHandle,
    kv: Arc<api::Kv>,
    kv_server: KvServer<api::Kv>,
    watch: api::Watch,
    lease: LeaseServer<api::Lease>,
    cluster: ClusterServer<api::Cluster>,
    maintenance: MaintenanceServer<api::Maintenance>,
    auth: AuthServer<api::Auth>,
    lock: LockServer<api::Lock>,
    election: ElectionServer<api::Election>,
    health: HealthServer<api::Health>,
    receive_bytes_max: usize,
    slow: Duration,
}

impl Router {
    /// The services on this runtime's handle.
    pub fn new(node: NodeHandle) -> Self {
        let config = &node.settings().config;
        let limit = config.max_request_bytes + folkmoot_core::limits::REQUEST_OVERHEAD_BYTES;
        let slow = config.warning_unary_request_duration;
        let kv = Arc::new(api::Kv::new(node.clone()));
        let of = NodeHandle::clone;
        let services = Services {
            kv_server: KvServer::from_arc(Arc::clone(&kv)).max_decoding_message_size(limit),
            kv,
            watch: api::Watch::new(of(&node)),
            lease: LeaseServer::new(api::Lease::new(of(&node))).max_decoding_message_size(limit),
            cluster: ClusterServer::new(api::Cluster::new(of(&node))).max_decoding_message_size(limit),
            maintenance: MaintenanceServer::new(api::Maintenance::new(of(&node)))
                .max_decoding_message_size(limit),
            auth: AuthServer::new(api::Auth::new(of(&node))).max_decoding_message_size(limit),
            lock: LockServer::new(api::Lock::new(of(&node))).max_decoding_message_size(limit),
            election: ElectionServer::new(api::Election::new(of(&node))).max_decoding_message_size(limit),
            health: HealthServer::new(api::Health::new(of(&node))).max_decoding_message_size(limit),
            receive_bytes_max: limit,
            slow: if slow.is_zero() { Duration::from_millis(300) } else { slow },
            node,
        };
        Self { services: Arc::new(services) }
    }
}

impl hyper::service::Service<Request<Incoming>> for Router {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let services = Arc::clone(&self.services);
        Box::pin(async move { Ok(services.answer(request).await) })
    }
}

impl Services {
    async fn answer(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let exceeded = || failed(Status::deadline_exceeded("context deadline exceeded"));
        match deadline::time_left(request.headers()) {
            Ok(None) => self.dispatch(request).await,
            Ok(Some(Duration::ZERO)) => exceeded(),
            Ok(Some(left)) => {
                tokio::time::timeout(left, self.dispatch(request)).await.unwrap_or_else(|_| exceeded())
            }
            Err(status) => failed(status),
        }
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        if !is_grpc(request.headers()) {
            let (head, _) = request.into_parts();
            return plain::answer(&self.node, &head.method, &head.uri).await;
        }
        if let Err(status) = api::check_call(&self.node, request.uri().path(), request.headers()) {
            return failed(status);
        }
        let started = Instant::now();
        let uri = request.uri().clone();
        let response = match uri.path() {
            "/etcdserverpb.KV/Put" => self.unary(request, |message| self.kv.put(message)).await,
            "/etcdserverpb.KV/Range" => {
                self.unary(request, |range: Received<pb::RangeRequest>| self.kv.range(range.message)).await
            }
            "/etcdserverpb.KV/Txn" => self.unary(request, |message| self.kv.txn(message)).await,
            "/etcdserverpb.KV/DeleteRange" => {
                self.unary(request, |message| self.kv.delete_range(message)).await
            }
            _ => self.by_tonic(request).await,
        };
        // A streaming call is not timed: it has only begun here.
        let took = started.elapsed();
        if took >= self.slow {
            tracing::warn!("response type" = uri.path(), "time spent" = format!("{took:?}"), "request stats");
        }
        response
    }

    async fn unary<Q, A, F>(
        &self,
        request: Request<Incoming>,
        call: impl FnOnce(Received<Q>) -> F,
    ) -> Response<ResponseBody>
    where
        Q: Message + Default,
        A: Message + 'static,
        F: Future<Output = Result<A, Status>>,
    {
        let mut body = request.into_body();
        let answer = match receive(&mut body, self.receive_bytes_max).await {
            Ok(message) => call(message).await,
            Err(status) => Err(status),
        };
        match answer {
            Ok(answer) => unary::ok(frame(answer).await),
            Err(status) => failed(status),
        }
    }

    async fn by_tonic(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let needs_leader = api::requires_leader(request.headers());
        let path = request.uri().path();
        let (service, method) = path.get(1..).and_then(|path| path.rsplit_once('/')).unwrap_or((path, ""));
        let (service, method) = (service.to_owned(), method.to_owned());
        let result = match service.as_str() {
            "etcdserverpb.KV" => self.kv_server.clone().call(request).await,
            "etcdserverpb.Watch" if method == "Watch" => Ok(self.watch(request).await),
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            "etcdserverpb.Auth" => self.auth.clone().call(request).await,
            "v3lockpb.Lock" => self.lock.clone().call(request).await,
            "v3electionpb.Election" => self.election.clone().call(request).await,
            "grpc.health.v1.Health" => self.health.clone().call(request).await,
            "etcdserverpb.Watch" => Ok(Status::unimplemented("").into_http()),
            _ => return failed(Status::unimplemented(format!("unknown service {service}"))),
        };
        let Ok(response) = result;
        reworded(response, &service, &method).map(|body| match needs_leader {
            true => ResponseBody::until(body, self.leader_lost()),
            false => ResponseBody::Tonic(body),
        })
    }

    /// Waits until this member has been without a leader for a while.
    fn leader_lost(&self) -> impl Future<Output = Status> + Send + 'static {
        let mut leaderless = self.node.leaderless();
        async move {
            if leaderless.wait_for(|leaderless| *leaderless).await.is_err() {
                // The server is going down and ends its streams by itself.
                std::future::pending::<()>().await;
            }
            api::status(Error::NoLeader)
        }
    }

    async fn watch(&self, request: Request<Incoming>) -> Response<tonic::body::Body> {
        let mut grpc = tonic::server::Grpc::new(api::WatchCodec)
            .apply_max_message_size_config(Some(self.receive_bytes_max), None);
        grpc.streaming(self.watch.clone(), request).await
    }
}

async fn frame<A: Message + 'static>(answer: A) -> bytes::Bytes {
    if answer.encoded_len() < LARGE_ANSWER_BYTES {
        return unary::frame_message(&answer);
    }
    in_background(move || unary::frame_message(&answer)).await
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
