//! Between the client library and the messages of the protocol.
//!
//! What is printed has the shape of the messages (as etcdctl's output has), and the text of a
//! transaction becomes one; the library has types of its own. Refuses: knowing what they mean.

use folkmoot_client::{
    Compare, Delete, Event, EventKind, Get, GetResponse, Header, Is, KeyValue, Keys, Op, OpResponse, Order,
    Put, SortBy, Txn,
};
use folkmoot_proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use folkmoot_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use folkmoot_proto::etcdserverpb::request_op::Request;
use folkmoot_proto::etcdserverpb::response_op::Response;
use folkmoot_proto::etcdserverpb::{self as pb, RequestOp, ResponseHeader, ResponseOp};
use folkmoot_proto::mvccpb;

use crate::interval::Interval;

/// A single zero byte as the end of a range: there is none.
const NO_END: &[u8] = b"\0";

/// Keys of an interval.
pub fn keys(interval: &Interval) -> Keys {
    let (key, end) = (interval.key.clone(), interval.range_end.clone());
    match &end[..] {
        [] => Keys::from(key),
        NO_END => Keys::range(key..),
        _ => Keys::range(key..end),
    }
}

fn interval(key: bytes::Bytes, range_end: bytes::Bytes) -> Keys {
    keys(&Interval { key, range_end })
}

/// A read. Limits on revisions are left out: no command sets them.
pub fn get(request: pb::RangeRequest) -> Get {
    let (by, order) = (request.sort_target(), request.sort_order());
    let mut get =
        Get::new(interval(request.key, request.range_end)).limit(request.limit).at_revision(request.revision);
    let by = match by {
        SortTarget::Key => SortBy::Key,
        SortTarget::Version => SortBy::Version,
        SortTarget::Create => SortBy::Create,
        SortTarget::Mod => SortBy::Mod,
        SortTarget::Value => SortBy::Value,
    };
    get = match order {
        SortOrder::None => get,
        SortOrder::Ascend => get.sort(by, Order::Ascending),
        SortOrder::Descend => get.sort(by, Order::Descending),
    };
    if request.serializable {
        get = get.serializable();
    }
    if request.keys_only {
        get = get.keys_only();
    }
    if request.count_only {
        get = get.count_only();
    }
    get
}

/// A put.
pub fn put(request: &pb::PutRequest) -> Put {
    let mut put = Put::new(&request.key, &request.value).lease(request.lease);
    if request.prev_kv {
        put = put.prev();
    }
    if request.ignore_value {
        put = put.keep_value();
    }
    if request.ignore_lease {
        put = put.keep_lease();
    }
    put
}

/// A deletion.
pub fn delete(request: pb::DeleteRangeRequest) -> Delete {
    let delete = Delete::new(interval(request.key, request.range_end));
    if request.prev_kv { delete.prev() } else { delete }
}

/// A transaction.
pub fn txn(request: pb::TxnRequest) -> Txn {
    let mut txn = Txn::new();
    for compare in request.compare.into_iter().filter_map(condition) {
        txn = txn.when(compare);
    }
    for op in request.success.into_iter().filter_map(operation) {
        txn = txn.and_then(op);
    }
    for op in request.failure.into_iter().filter_map(operation) {
        txn = txn.or_else(op);
    }
    txn
}

fn condition(compare: pb::Compare) -> Option<Compare> {
    let is = match compare.result() {
        CompareResult::Equal => Is::Equal,
        CompareResult::NotEqual => Is::NotEqual,
        CompareResult::Greater => Is::Greater,
        CompareResult::Less => Is::Less,
    };
    let keys = interval(compare.key, compare.range_end);
    Some(match compare.target_union? {
        TargetUnion::Version(version) => Compare::version(keys, is, version),
        TargetUnion::CreateRevision(revision) => Compare::create_revision(keys, is, revision),
        TargetUnion::ModRevision(revision) => Compare::mod_revision(keys, is, revision),
        TargetUnion::Value(value) => Compare::value(keys, is, value),
        TargetUnion::Lease(lease) => Compare::lease(keys, is, lease),
    })
}

fn operation(op: RequestOp) -> Option<Op> {
    Some(match op.request? {
        Request::RequestRange(request) => get(request).into(),
        Request::RequestPut(request) => put(&request).into(),
        Request::RequestDeleteRange(request) => delete(request).into(),
        Request::RequestTxn(request) => txn(request).into(),
    })
}

/// Who answered, and when.
pub fn header(header: Header) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    })
}

/// A key and its value.
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// Keys that were read.
pub fn range_response(answer: GetResponse) -> pb::RangeResponse {
    pb::RangeResponse {
        header: header(answer.header),
        kvs: answer.kvs.into_iter().map(key_value).collect(),
        more: answer.more,
        count: answer.count,
    }
}

/// A key that was put.
pub fn put_response(answer: folkmoot_client::PutResponse) -> pb::PutResponse {
    pb::PutResponse { header: header(answer.header), prev_kv: answer.prev.map(key_value) }
}

/// Keys that were deleted.
pub fn delete_response(answer: folkmoot_client::DeleteResponse) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: header(answer.header),
        deleted: answer.deleted,
        prev_kvs: answer.prev.into_iter().map(key_value).collect(),
    }
}

/// A transaction that ran.
pub fn txn_response(answer: folkmoot_client::TxnResponse) -> pb::TxnResponse {
    let response = |answer| match answer {
        OpResponse::Get(answer) => Response::ResponseRange(range_response(answer)),
        OpResponse::Put(answer) => Response::ResponsePut(put_response(answer)),
        OpResponse::Delete(answer) => Response::ResponseDeleteRange(delete_response(answer)),
        OpResponse::Txn(answer) => Response::ResponseTxn(txn_response(answer)),
    };
    let op = |answer| ResponseOp { response: Some(response(answer)) };
    pb::TxnResponse {
        header: header(answer.header),
        succeeded: answer.succeeded,
        responses: answer.responses.into_iter().map(op).collect(),
    }
}

/// Something that happened to a key.
pub fn event(event: Event) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event { r#type: kind.into(), kv: Some(key_value(event.kv)), prev_kv: event.prev.map(key_value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static str, end: &'static str) -> Interval {
        Interval { key: key.into(), range_end: end.into() }
    }

    #[test]
    fn intervals_are_those_of_the_library() {
        assert_eq!(keys(&range("a", "")), Keys::one("a"));
        assert_eq!(keys(&range("a", "b")), Keys::range("a".."b"));
        assert_eq!(keys(&range("a", "\0")), Keys::range("a"..));
        assert_eq!(keys(&range("\0", "\0")), Keys::all());
        assert_eq!(keys(&range("a/", "a0")), Keys::prefix("a/"));
    }

    #[test]
    fn operations_without_content_are_none() {
        let request = pb::TxnRequest {
            compare: vec![pb::Compare::default()],
            success: vec![RequestOp::default()],
            ..pb::TxnRequest::default()
        };
        assert_eq!(format!("{:?}", txn(request)), format!("{:?}", Txn::new()));
    }
}
