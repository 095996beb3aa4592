//! Between the histories' words and the wire's.

use bytes::Bytes;
use folkmoot_check::history as h;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::mvccpb;
use pb::request_op::Request as WireOp;
use pb::response_op::Response as WireReply;

/// The wire's pair.
pub fn range_to_wire(range: &h::KeyRange) -> (Bytes, Bytes) {
    match range {
        h::KeyRange::One(key) => (key.clone(), Bytes::new()),
        h::KeyRange::Span(from, to) => (from.clone(), to.clone()),
        // The wire has no empty key; one zero byte is the smallest.
        h::KeyRange::From(from) if from.is_empty() => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        h::KeyRange::From(from) => (from.clone(), Bytes::from_static(b"\0")),
    }
}

/// A put.
pub fn put_to_wire(put: &h::PutRequest) -> pb::PutRequest {
    pb::PutRequest {
        key: put.key.clone(),
        value: put.value.clone(),
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

/// A delete.
pub fn delete_to_wire(delete: &h::DeleteRequest) -> pb::DeleteRangeRequest {
    let (key, range_end) = range_to_wire(&delete.range);
    pb::DeleteRangeRequest { key, range_end, prev_kv: delete.prev_kv }
}

/// A read.
pub fn read_to_wire(read: &h::RangeRequest) -> pb::RangeRequest {
    let (key, range_end) = range_to_wire(&read.range);
    pb::RangeRequest {
        key,
        range_end,
        limit: read.limit,
        revision: read.revision,
        serializable: read.serializable,
        count_only: read.count_only,
        keys_only: read.keys_only,
        ..Default::default()
    }
}

/// A transaction.
pub fn txn_to_wire(txn: &h::TxnRequest) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compare.iter().map(compare_to_wire).collect(),
        success: txn.success.iter().map(op_to_wire).collect(),
        failure: txn.failure.iter().map(op_to_wire).collect(),
    }
}

fn compare_to_wire(compare: &h::Compare) -> pb::Compare {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let (key, range_end) = range_to_wire(&compare.range);
    let result = match compare.op {
        h::CompareOp::Equal => CompareResult::Equal,
        h::CompareOp::NotEqual => CompareResult::NotEqual,
        h::CompareOp::Greater => CompareResult::Greater,
        h::CompareOp::Less => CompareResult::Less,
    };
    let (target, union) = match &compare.target {
        h::CompareTarget::Version(version) => (CompareTarget::Version, TargetUnion::Version(*version)),
        h::CompareTarget::Create(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(*revision)),
        h::CompareTarget::Mod(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(*revision)),
        h::CompareTarget::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.clone())),
        h::CompareTarget::Lease(lease) => (CompareTarget::Lease, TargetUnion::Lease(*lease)),
    };
    pb::Compare { result: result.into(), target: target.into(), key, range_end, target_union: Some(union) }
}

fn op_to_wire(op: &h::OpRequest) -> pb::RequestOp {
    let request = match op {
        h::OpRequest::Put(put) => WireOp::RequestPut(put_to_wire(put)),
        h::OpRequest::Delete(delete) => WireOp::RequestDeleteRange(delete_to_wire(delete)),
        h::OpRequest::Range(read) => WireOp::RequestRange(read_to_wire(read)),
    };
    pb::RequestOp { request: Some(request) }
}

/// A key with its value.
pub fn kv(kv: mvccpb::KeyValue) -> h::KeyValue {
    h::KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

/// An event of a watch.
pub fn event(event: mvccpb::Event) -> h::Event {
    let kind = match event.r#type() {
        mvccpb::event::EventType::Put => h::EventKind::Put,
        mvccpb::event::EventType::Delete => h::EventKind::Delete,
    };
    h::Event { kind, kv: event.kv.map(kv).unwrap_or_default(), prev_kv: event.prev_kv.map(kv) }
}

/// Answer to a put.
pub fn put_reply(reply: pb::PutResponse) -> h::PutReply {
    h::PutReply { prev_kv: reply.prev_kv.map(kv) }
}

/// Answer to a delete.
pub fn delete_reply(reply: pb::DeleteRangeResponse) -> h::DeleteReply {
    h::DeleteReply { deleted: reply.deleted, prev_kvs: reply.prev_kvs.into_iter().map(kv).collect() }
}

/// Answer to a read.
pub fn read_reply(reply: pb::RangeResponse) -> h::RangeReply {
    h::RangeReply { kvs: reply.kvs.into_iter().map(kv).collect(), count: reply.count, more: reply.more }
}

/// Answer to a transaction. An answer that is none of ours shows as a missing one.
pub fn txn_reply(reply: pb::TxnResponse) -> h::TxnReply {
    let one = |op: pb::ResponseOp| match op.response? {
        WireReply::ResponsePut(put) => Some(h::OpReply::Put(put_reply(put))),
        WireReply::ResponseDeleteRange(delete) => Some(h::OpReply::Delete(delete_reply(delete))),
        WireReply::ResponseRange(read) => Some(h::OpReply::Range(read_reply(read))),
        WireReply::ResponseTxn(_) => None,
    };
    h::TxnReply {
        succeeded: reply.succeeded,
        responses: reply.responses.into_iter().filter_map(one).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_back_from_the_wire_as_they_were() {
        for range in [h::KeyRange::one("a"), h::KeyRange::prefix("a/"), h::KeyRange::From("b".into())] {
            let (key, end) = range_to_wire(&range);
            assert_eq!(h::KeyRange::from_wire(key, end), range);
        }
    }

    #[test]
    fn every_key_is_asked_for_by_the_smallest_one() {
        let (key, end) = range_to_wire(&h::KeyRange::all());
        assert_eq!((key.as_ref(), end.as_ref()), (&b"\0"[..], &b"\0"[..]));
    }
}
