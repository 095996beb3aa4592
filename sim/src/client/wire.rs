//! Requests of histories as the core's commands, and the core's answers as the histories'.

use bytes::Bytes;
use folkmoot_check::history::{
    self as h, CompareOp, CompareTarget, DeleteReply, Event, EventKind, KeyRange, OpReply, OpRequest,
    PutReply, RangeReply, Reply, ReplyBody, Request, TxnReply,
};
use folkmoot_core::command::Command;
use folkmoot_core::mvcc::{self, RangeResponse, ResponseOp};
use folkmoot_core::types::{KeyValue, LeaseId};
use folkmoot_core::watch::CreateRequest;
use folkmoot_core::{codec, node};
use folkmoot_proto::etcdserverpb as pb;

/// The wire's pair of a range.
pub fn pair(range: &KeyRange) -> (Bytes, Bytes) {
    match range {
        KeyRange::One(key) => (key.clone(), Bytes::new()),
        KeyRange::Span(from, to) => (from.clone(), to.clone()),
        KeyRange::From(from) => (from.clone(), Bytes::from_static(b"\0")),
    }
}

/// A request that goes through the log, as its command.
pub fn command(request: &Request) -> Command {
    match request {
        Request::Put(put) => codec::kv::put(&wire_put(put)),
        Request::Delete(delete) => codec::kv::delete_range(&wire_delete(delete)),
        Request::Txn(txn) => codec::kv::txn(&wire_txn(txn)),
        Request::Compact { revision } => {
            codec::kv::compact(&pb::CompactionRequest { revision: *revision, physical: false })
        }
        Request::LeaseGrant { id, ttl } => codec::lease::grant(*id, *ttl),
        Request::LeaseRevoke { id } => codec::lease::revoke(*id),
        Request::Range(_) | Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => {
            unreachable!("not a command: {request:?}")
        }
    }
}

/// A transaction as the core checks it.
pub fn core_txn(txn: &h::TxnRequest) -> mvcc::TxnRequest {
    codec::kv::txn_from_wire(wire_txn(txn))
}

/// A range as the core reads it.
pub fn core_range(range: &h::RangeRequest) -> mvcc::RangeRequest {
    codec::kv::range_from_wire(wire_range(range))
}

fn wire_put(put: &h::PutRequest) -> pb::PutRequest {
    pb::PutRequest {
        key: put.key.clone(),
        value: put.value.clone(),
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn wire_delete(delete: &h::DeleteRequest) -> pb::DeleteRangeRequest {
    let (key, range_end) = pair(&delete.range);
    pb::DeleteRangeRequest { key, range_end, prev_kv: delete.prev_kv }
}

fn wire_range(range: &h::RangeRequest) -> pb::RangeRequest {
    let (key, range_end) = pair(&range.range);
    pb::RangeRequest {
        key,
        range_end,
        limit: range.limit,
        revision: range.revision,
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        ..pb::RangeRequest::default()
    }
}

fn wire_txn(txn: &h::TxnRequest) -> pb::TxnRequest {
    let op = |op: &OpRequest| {
        let request = match op {
            OpRequest::Put(put) => pb::request_op::Request::RequestPut(wire_put(put)),
            OpRequest::Delete(delete) => pb::request_op::Request::RequestDeleteRange(wire_delete(delete)),
            OpRequest::Range(range) => pb::request_op::Request::RequestRange(wire_range(range)),
        };
        pb::RequestOp { request: Some(request) }
    };
    pb::TxnRequest {
        compare: txn.compare.iter().map(wire_compare).collect(),
        success: txn.success.iter().map(op).collect(),
        failure: txn.failure.iter().map(op).collect(),
    }
}

fn wire_compare(compare: &h::Compare) -> pb::Compare {
    use pb::compare::TargetUnion;
    let (key, range_end) = pair(&compare.range);
    let result = match compare.op {
        CompareOp::Equal => 0,
        CompareOp::Greater => 1,
        CompareOp::Less => 2,
        CompareOp::NotEqual => 3,
    };
    let (target, operand) = match &compare.target {
        CompareTarget::Version(number) => (0, TargetUnion::Version(*number)),
        CompareTarget::Create(number) => (1, TargetUnion::CreateRevision(*number)),
        CompareTarget::Mod(number) => (2, TargetUnion::ModRevision(*number)),
        CompareTarget::Value(value) => (3, TargetUnion::Value(value.clone())),
        CompareTarget::Lease(id) => (4, TargetUnion::Lease(*id)),
    };
    pb::Compare { result, target, key, range_end, target_union: Some(operand) }
}

/// A watch's request as the hub takes it.
pub fn create_request(watch: &h::WatchRequest, start_revision: i64, watch_id: i64) -> CreateRequest {
    let (key, range_end) = pair(&watch.range);
    CreateRequest {
        key,
        range_end,
        start_revision,
        watch_id,
        prev_kv: watch.prev_kv,
        progress_notify: true,
        fragment: watch.fragment,
        filters: [(0, watch.no_put), (1, watch.no_delete)]
            .iter()
            .filter(|(_, unwanted)| *unwanted)
            .map(|(number, _)| *number)
            .collect(),
    }
}

/// A key's record.
pub fn key_value(kv: KeyValue) -> h::KeyValue {
    h::KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: LeaseId::to_wire(kv.lease),
    }
}

/// An event.
pub fn event(event: &folkmoot_core::event::Event, prev: Option<&KeyValue>) -> Event {
    let kind = match event.kind {
        folkmoot_core::event::EventKind::Put => EventKind::Put,
        folkmoot_core::event::EventKind::Delete => EventKind::Delete,
    };
    Event { kind, kv: key_value(event.kv.clone()), prev_kv: prev.cloned().map(key_value) }
}

/// A range's answer.
pub fn range_reply(response: RangeResponse) -> Reply {
    Reply { revision: response.revision, body: ReplyBody::Range(range_body(response)) }
}

fn range_body(response: RangeResponse) -> RangeReply {
    RangeReply {
        kvs: response.kvs.into_iter().map(key_value).collect(),
        count: response.count,
        more: response.more,
    }
}

fn op_reply(response: ResponseOp) -> OpReply {
    match response {
        ResponseOp::Put(put) => OpReply::Put(PutReply { prev_kv: put.prev_kv.map(key_value) }),
        ResponseOp::DeleteRange(delete) => OpReply::Delete(DeleteReply {
            deleted: delete.deleted,
            prev_kvs: delete.prev_kvs.into_iter().map(key_value).collect(),
        }),
        ResponseOp::Range(range) => OpReply::Range(range_body(range)),
        ResponseOp::Txn(_) => unreachable!("no client nests transactions"),
    }
}

/// The core's answer as a client sees it; `None` for leave to read.
pub fn reply(reply: node::Reply) -> Option<Reply> {
    let (revision, body) = match reply {
        node::Reply::ReadIndex { .. } => return None,
        node::Reply::Put(put) => {
            (put.revision, ReplyBody::Put(PutReply { prev_kv: put.prev_kv.map(key_value) }))
        }
        node::Reply::DeleteRange(delete) => (
            delete.revision,
            ReplyBody::Delete(DeleteReply {
                deleted: delete.deleted,
                prev_kvs: delete.prev_kvs.into_iter().map(key_value).collect(),
            }),
        ),
        node::Reply::Txn(txn) => (
            txn.revision,
            ReplyBody::Txn(TxnReply {
                succeeded: txn.succeeded,
                responses: txn.responses.into_iter().map(op_reply).collect(),
            }),
        ),
        node::Reply::Compact { revision } => (revision, ReplyBody::Compact),
        node::Reply::LeaseGrant { id, ttl, revision } => {
            (revision, ReplyBody::LeaseGrant { id: id.get(), ttl })
        }
        node::Reply::LeaseRevoke { revision } => (revision, ReplyBody::LeaseRevoke),
        node::Reply::LeaseRenewed { ttl, revision } => (revision, ReplyBody::LeaseKeepAlive { ttl }),
        node::Reply::LeaseTimeToLive { ttl, granted_ttl, keys, revision } => {
            (revision, ReplyBody::LeaseTimeToLive { ttl, granted_ttl, keys })
        }
        other => unreachable!("no client asks for this: {other:?}"),
    };
    Some(Reply { revision, body })
}
