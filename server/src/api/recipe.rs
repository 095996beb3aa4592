//! What the services Lock and Election share: a line of keys under a prefix, ordered by creation.
//!
//! Both work on ordinary keys with the ordinary calls, so that any client can do the same by
//! itself and mix with them. Errors of the calls lose their code on the way, as in etcd.

use std::sync::Arc;

use bytes::Bytes;
use folkmoot_core::error::Error;
use folkmoot_core::event::EventKind;
use folkmoot_core::watch::CreateRequest;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::mvccpb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request as Op;
use tonic::Status;

use super::Kv;
use super::status::without_code;
use crate::http::Received;
use crate::node::NodeHandle;

/// Wire number of the watch filter that leaves puts out.
const FILTER_NO_PUT: i32 = 0;

/// The calls on this member that the recipes are made of.
#[derive(Clone)]
pub struct Recipe {
    node: NodeHandle,
    kv: Arc<Kv>,
}

impl Recipe {
    /// Recipes on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { kv: Arc::new(Kv::new(node.clone())), node }
    }

    /// The member.
    pub fn node(&self) -> &NodeHandle {
        &self.node
    }

    /// Runs a transaction: `then` if the key was created at this revision (0: does not exist).
    pub async fn if_created_at(
        &self,
        key: &Bytes,
        revision: i64,
        then: Vec<Op>,
        otherwise: Vec<Op>,
    ) -> Result<pb::TxnResponse, Status> {
        let compare = pb::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Create as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::CreateRevision(revision)),
            range_end: Bytes::new(),
        };
        let ops = |ops: Vec<Op>| ops.into_iter().map(|op| pb::RequestOp { request: Some(op) }).collect();
        let request = pb::TxnRequest { compare: vec![compare], success: ops(then), failure: ops(otherwise) };
        self.kv.txn(Received::from_message(request)).await.map_err(code_lost)
    }

    /// [`Self::if_created_at`] for a key that does not exist, to stand in a line with it. The step
    /// is taken to its end even if the caller goes away in the middle: then the key that it made
    /// leaves the line at once. A key that was there before is not touched.
    pub async fn join_line(
        &self,
        key: &Bytes,
        then: Vec<Op>,
        otherwise: Vec<Op>,
    ) -> Result<(pb::TxnResponse, Option<LeaveLine>), Status> {
        let (recipe, key) = (self.clone(), key.clone());
        let step = tokio::spawn(async move {
            let joined = recipe.if_created_at(&key, 0, then, otherwise).await?;
            let made = joined.succeeded.then(|| LeaveLine::on_drop(recipe, key));
            Ok((joined, made))
        });
        step.await.map_err(|error| Status::unknown(format!("folkmoot: the request was given up: {error}")))?
    }

    /// Reads, linearizably.
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        self.kv.range(request).await.map_err(code_lost)
    }

    /// Deletes a key.
    pub async fn delete(&self, key: Bytes) -> Result<pb::DeleteRangeResponse, Status> {
        let request = pb::DeleteRangeRequest { key, ..pb::DeleteRangeRequest::default() };
        self.kv.delete_range(Received::from_message(request)).await.map_err(code_lost)
    }

    /// The lease to hang a key on: the client's, or a new one of a minute if it gave none.
    pub async fn lease(&self, lease: i64) -> Result<i64, Status> {
        const TTL_SECONDS: i64 = 60;
        if lease != 0 {
            return Ok(lease);
        }
        let (id, ..) = super::lease::grant(&self.node, 0, TTL_SECONDS).await.map_err(without_code)?;
        Ok(id.get())
    }

    /// Waits until no key under the prefix is older than `created`, one predecessor at a time: only
    /// the last in line before us is watched, so that a release wakes one waiter.
    pub async fn wait_for_turn(&self, prefix: &Bytes, created: i64) -> Result<(), Status> {
        loop {
            let last_before = pb::RangeRequest {
                limit: 1,
                sort_order: SortOrder::Descend as i32,
                sort_target: SortTarget::Create as i32,
                max_create_revision: created - 1,
                ..under(prefix)
            };
            let answer = self.range(last_before).await?;
            let Some(before) = answer.kvs.into_iter().next() else { return Ok(()) };
            let revision = answer.header.map_or(0, |header| header.revision);
            self.wait_deleted(before.key, revision).await?;
        }
    }

    /// Waits until a key is deleted at this revision or later.
    async fn wait_deleted(&self, key: Bytes, revision: i64) -> Result<(), Status> {
        let mut session = self.node.watch();
        session.create(CreateRequest {
            key,
            start_revision: revision,
            filters: vec![FILTER_NO_PUT],
            ..CreateRequest::default()
        });
        loop {
            let frame = session.next().await.ok_or_else(|| without_code(Error::Stopped))?;
            if frame.events().any(|(event, _)| event.kind == EventKind::Delete) {
                return Ok(());
            }
            if frame.canceled {
                return Err(without_code(Error::Compacted));
            }
        }
    }
}

/// Errors of the inner calls reach the client without their code, as in etcd.
fn code_lost(status: Status) -> Status {
    match status.code() {
        tonic::Code::DeadlineExceeded => status,
        _ => Status::unknown(status.message()),
    }
}

/// A range over everything under a prefix.
pub fn under(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest { key: prefix.clone(), range_end: prefix_end(prefix), ..pb::RangeRequest::default() }
}

/// The oldest key under a prefix.
pub fn first_under(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..under(prefix)
    }
}

/// The end of the interval of all keys with a prefix.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

/// The prefix of a name's line.
pub fn line_prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key of a lease in a line: its id in hex without padding, with a sign if it has one.
pub fn line_key(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// The first record of one of a transaction's ranges.
pub fn first_of(response: &pb::TxnResponse, index: usize) -> Option<mvccpb::KeyValue> {
    match response.responses.get(index)?.response.as_ref()? {
        pb::response_op::Response::ResponseRange(range) => range.kvs.first().cloned(),
        _ => None,
    }
}

/// The revision in a transaction's header.
pub fn revision_of(response: &pb::TxnResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

/// Leaves the line again, when the one who stood in it went away: deletes `key` unless told not
/// to.
pub struct LeaveLine {
    recipe: Recipe,
    key: Option<Bytes>,
}

impl LeaveLine {
    /// Deletes `key` when dropped.
    pub fn on_drop(recipe: Recipe, key: Bytes) -> Self {
        Self { recipe, key: Some(key) }
    }

    /// Stays in line.
    pub fn stay(mut self) {
        self.key = None;
    }
}

impl Drop for LeaveLine {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let recipe = self.recipe.clone();
            tokio::spawn(async move {
                if let Err(error) = recipe.delete(key).await {
                    tracing::warn!(%error, "a waiting key could not be deleted; its lease will end it");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_prefix() {
        assert_eq!(&prefix_end(b"a/")[..], b"a0");
        assert_eq!(&prefix_end(b"a\xff")[..], b"b");
        assert_eq!(&prefix_end(b"\xff\xff")[..], b"\0");
        assert_eq!(&prefix_end(b"")[..], b"\0");
    }

    #[test]
    fn keys_in_line_carry_the_lease_in_hex() {
        assert_eq!(&line_key(b"jobs/", 0x1f)[..], b"jobs/1f");
        assert_eq!(&line_key(b"jobs/", -0x1f)[..], b"jobs/-1f");
    }
}
