//! gRPC's own health service: one service name, the empty one, that serves from the start.

use folkmoot_core::error::Error;
use folkmoot_proto::health::health_check_response::ServingStatus;
use folkmoot_proto::health::{HealthCheckRequest, HealthCheckResponse, health_server};
use futures_util::StreamExt as _;
use futures_util::stream;
use tonic::{Request, Response, Status};

use super::queue::ResponseStream;
use super::status;
use crate::node::NodeHandle;

/// See the module.
pub struct Health {
    node: NodeHandle,
}

impl Health {
    /// The service on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { node }
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.into_inner().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving as i32 }))
    }

    type WatchStream = ResponseStream<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = request.into_inner().service.is_empty();
        let serving = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        let now = stream::once(async move { Ok(HealthCheckResponse { status: serving as i32 }) });
        let mut stopping = self.node.stopping();
        // The status changes only once more, when the server stops and the stream ends.
        let end = stream::once(async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
            Err(status(Error::Stopped))
        });
        Ok(Response::new(now.chain(end).boxed()))
    }
}
