//! Long ranges in parts, for `KV.RangeStream`.
//!
//! All parts show one revision: the one the first part saw, unless the client named another. Part
//! sizes follow etcd's: ten keys first, then twice or half as many, towards the request limit.

use bytes::{BufMut, BytesMut};
use folkmoot_core::codec;
use folkmoot_core::mvcc::RangeRequest;
use folkmoot_proto::etcdserverpb as pb;
use futures_util::stream::unfold;
use prost::Message as _;
use tonic::Status;

use super::in_background;
use crate::api::{ResponseStream, bare_header, header, status};
use crate::node::NodeHandle;

/// Keys of the first part.
const FIRST_PART_KEYS: i64 = 10;

/// Refuses what cannot be read in parts.
///
/// # Errors
/// The statuses etcd gives.
pub fn check_streamable(request: &RangeRequest) -> Result<(), Status> {
    let by_key = request.sort_target == 0 && matches!(request.sort_order, 0 | 1);
    if !by_key {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if bounds != [0; 4] {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

struct Parts {
    node: NodeHandle,
    request: RangeRequest,
    part_keys: i64,
    /// Keys that may still be sent; `None` without a limit.
    left: Option<i64>,
    sent: i64,
    first_revision: Option<i64>,
}

/// The parts of a range, one message each; the last carries header, count and `more`.
pub fn range_stream(node: NodeHandle, request: RangeRequest) -> ResponseStream<pb::RangeStreamResponse> {
    let left = (request.limit > 0).then_some(request.limit);
    let part_keys = if request.limit < 0 { i64::MAX } else { FIRST_PART_KEYS };
    let parts = Parts { node, request, part_keys, left, sent: 0, first_revision: None };
    Box::pin(unfold(Some(parts), |parts| async move {
        match parts?.next().await {
            Ok((part, rest)) => Some((Ok(part), rest)),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

impl Parts {
    async fn next(mut self) -> Result<(pb::RangeStreamResponse, Option<Self>), Status> {
        let wanted = self.left.map_or(self.part_keys, |left| left.min(self.part_keys));
        let mut request = self.request.clone();
        request.limit = if wanted == i64::MAX { 0 } else { wanted };
        let reader = self.node.reader().clone();
        let answer = in_background(move || reader.range(&request)).await;
        let answer = answer.map_err(|failure| status(self.node.failed(failure)))?;
        let revision = *self.first_revision.get_or_insert(answer.revision);
        if self.request.revision == 0 {
            self.request.revision = revision;
        }
        let part_count = answer.kvs.len() as i64;
        self.left = self.left.map(|left| left - part_count);
        let last = !answer.more || self.left == Some(0);
        let (more, count) = (answer.more, self.sent + answer.count);
        self.sent += part_count;
        let next_key = answer.kvs.last().map(|kv| {
            let mut key = BytesMut::with_capacity(kv.key.len() + 1);
            key.extend_from_slice(&kv.key);
            key.put_u8(0);
            key.freeze()
        });
        let mut response = codec::kv::range_to_wire(answer, bare_header(&self.node));
        (response.header, response.more, response.count) = (None, false, 0);
        match (last, next_key) {
            (false, Some(key)) => {
                self.request.key = key;
                self.adapt(response.encoded_len());
                Ok((pb::RangeStreamResponse { range_response: Some(response) }, Some(self)))
            }
            _ => {
                response.header = header(&self.node, revision);
                (response.more, response.count) = (more, count);
                Ok((pb::RangeStreamResponse { range_response: Some(response) }, None))
            }
        }
    }

    fn adapt(&mut self, part_bytes: usize) {
        let target = self.node.settings().config.max_request_bytes;
        if part_bytes < target / 2 {
            self.part_keys = self.part_keys.saturating_mul(2);
        } else if part_bytes > target.saturating_mul(2) {
            self.part_keys = (self.part_keys / 2).max(1);
        }
    }
}
