//! The service KV.

use folkmoot_core::codec;
use folkmoot_core::command::{Command, Kind};
use folkmoot_core::error::Error;
use folkmoot_core::mvcc::validate;
use folkmoot_core::node::Reply;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::kv_server;
use tonic::{Request, Response, Status};

use super::header::{bare_header, header};
use super::queue::ResponseStream;
use super::{quota, status};
use crate::http::Received;
use crate::node::{CallError, NodeHandle};
use crate::read;

/// See the module.
pub struct Kv {
    node: NodeHandle,
}

impl Kv {
    /// The service on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { node }
    }

    /// Reads keys.
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        let request = codec::kv::range_from_wire(request);
        validate::check_range(&request).map_err(status)?;
        self.start_read(request.serializable).await.map_err(status)?;
        let response = read::range(&self.node, request).await.map_err(status)?;
        Ok(codec::kv::range_to_wire(response, bare_header(&self.node)))
    }

    /// Writes a key.
    pub async fn put(&self, request: Received<pb::PutRequest>) -> Result<pb::PutResponse, Status> {
        let put = codec::kv::put_from_wire(request.message);
        quota::check(&self.node, validate::quota_cost_put(&put)).await.map_err(status)?;
        validate::check_put(&put).map_err(status)?;
        match self.propose(Kind::Put, request.encoded).await.map_err(status)? {
            Reply::Put(response) => Ok(codec::kv::put_to_wire(response, bare_header(&self.node))),
            other => unreachable!("a put is answered as one, not {other:?}"),
        }
    }

    /// Deletes keys.
    pub async fn delete_range(
        &self,
        request: Received<pb::DeleteRangeRequest>,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        validate::check_delete_range(&codec::kv::delete_range_from_wire(request.message)).map_err(status)?;
        match self.propose(Kind::DeleteRange, request.encoded).await.map_err(status)? {
            Reply::DeleteRange(response) => {
                Ok(codec::kv::delete_range_to_wire(response, bare_header(&self.node)))
            }
            other => unreachable!("a deletion is answered as one, not {other:?}"),
        }
    }

    /// Runs a transaction.
    pub async fn txn(&self, request: Received<pb::TxnRequest>) -> Result<pb::TxnResponse, Status> {
        let txn = codec::kv::txn_from_wire(request.message);
        quota::check(&self.node, validate::quota_cost_txn(&txn)).await.map_err(status)?;
        validate::check_txn(&txn, self.node.settings().config.max_txn_ops).map_err(status)?;
        let response = if validate::is_read_only(&txn) {
            self.start_read(validate::is_serializable(&txn)).await.map_err(status)?;
            read::txn(&self.node, txn).await.map_err(status)?
        } else {
            match self.propose(Kind::Txn, request.encoded).await.map_err(status)? {
                Reply::Txn(response) => response,
                other => unreachable!("a transaction is answered as one, not {other:?}"),
            }
        };
        Ok(codec::kv::txn_to_wire(response, bare_header(&self.node)))
    }

    async fn compact(&self, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, CallError> {
        let encoded = Received::from_message(request).encoded;
        let result = self.propose(Kind::Compact, encoded).await;
        if request.physical {
            match result {
                Ok(_) => self.node.storage().garbage_collected(request.revision).await?,
                // etcd, too, lets a refused compaction wait for the one that runs.
                Err(CallError::Answer(Error::Compacted)) => self.node.storage().garbage_idle().await?,
                Err(_) => {}
            }
        }
        match result? {
            Reply::Compact { revision } => {
                Ok(pb::CompactionResponse { header: header(&self.node, revision) })
            }
            other => unreachable!("a compaction is answered as one, not {other:?}"),
        }
    }

    async fn start_read(&self, serializable: bool) -> Result<(), CallError> {
        if serializable {
            return Ok(());
        }
        if self.node.status().learner() {
            return Err(Error::NotSupportedForLearner.into());
        }
        self.node.read_index().await
    }

    async fn propose(&self, kind: Kind, body: bytes::Bytes) -> Result<Reply, CallError> {
        if body.len() > self.node.settings().config.max_request_bytes {
            return Err(Error::RequestTooLarge.into());
        }
        self.node.propose(Command { kind, body }).await
    }
}

#[tonic::async_trait]
impl kv_server::Kv for Kv {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        Kv::range(self, request.into_inner()).await.map(Response::new)
    }

    type RangeStreamStream = ResponseStream<pb::RangeStreamResponse>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let request = codec::kv::range_from_wire(request.into_inner());
        validate::check_range(&request).map_err(status)?;
        read::check_streamable(&request)?;
        self.start_read(request.serializable).await.map_err(status)?;
        Ok(Response::new(read::range_stream(self.node.clone(), request)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        Kv::put(self, Received::from_message(request.into_inner())).await.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Kv::delete_range(self, Received::from_message(request.into_inner())).await.map(Response::new)
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Kv::txn(self, Received::from_message(request.into_inner())).await.map(Response::new)
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Kv::compact(self, request.into_inner()).await.map(Response::new).map_err(status)
    }
}
