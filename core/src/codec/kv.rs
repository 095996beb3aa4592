//! Requests and answers of the key store, to and from the wire, and as commands in the log.
//!
//! Bodies of commands are the wire messages. Decoding copies nothing: keys and values are slices
//! of the command's bytes. The decoder refuses messages that nest about a hundred deep, so the
//! conversions, which recurse as deep as the message, are bounded.

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use prost::Message as _;

use super::event::key_value_to_wire;
use crate::command::{Command, Kind};
use crate::error::Fatal;
use crate::mvcc::{
    Compare, CompareOperand, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse,
};

fn unreadable(what: &str) -> Fatal {
    Fatal::Entry(format!("a {what} command cannot be decoded"))
}

/// A put as a command.
pub fn put(request: &pb::PutRequest) -> Command {
    Command { kind: Kind::Put, body: request.encode_to_vec().into() }
}

/// A deletion as a command.
pub fn delete_range(request: &pb::DeleteRangeRequest) -> Command {
    Command { kind: Kind::DeleteRange, body: request.encode_to_vec().into() }
}

/// A transaction as a command.
pub fn txn(request: &pb::TxnRequest) -> Command {
    Command { kind: Kind::Txn, body: request.encode_to_vec().into() }
}

/// A compaction as a command.
pub fn compact(request: &pb::CompactionRequest) -> Command {
    Command { kind: Kind::Compact, body: request.encode_to_vec().into() }
}

/// Reads a put.
pub fn decode_put(body: Bytes) -> Result<PutRequest, Fatal> {
    pb::PutRequest::decode(body).map(put_from_wire).map_err(|_| unreadable("put"))
}

/// Reads a deletion.
pub fn decode_delete_range(body: Bytes) -> Result<DeleteRangeRequest, Fatal> {
    pb::DeleteRangeRequest::decode(body).map(delete_range_from_wire).map_err(|_| unreadable("delete range"))
}

/// Reads a transaction.
pub fn decode_txn(body: Bytes) -> Result<TxnRequest, Fatal> {
    pb::TxnRequest::decode(body).map(txn_from_wire).map_err(|_| unreadable("txn"))
}

/// Reads a compaction: its revision. Whether the client waits for the rows to go concerns the
/// member that took the request alone.
pub fn decode_compact(body: Bytes) -> Result<i64, Fatal> {
    Ok(pb::CompactionRequest::decode(body).map_err(|_| unreadable("compaction"))?.revision)
}

/// A range from the wire.
pub fn range_from_wire(request: pb::RangeRequest) -> RangeRequest {
    RangeRequest {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order: request.sort_order,
        sort_target: request.sort_target,
        serializable: request.serializable,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    }
}

/// A put from the wire.
pub fn put_from_wire(request: pb::PutRequest) -> PutRequest {
    PutRequest {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

/// A deletion from the wire.
pub fn delete_range_from_wire(request: pb::DeleteRangeRequest) -> DeleteRangeRequest {
    DeleteRangeRequest { key: request.key, range_end: request.range_end, prev_kv: request.prev_kv }
}

/// A transaction from the wire.
pub fn txn_from_wire(request: pb::TxnRequest) -> TxnRequest {
    TxnRequest {
        compare: request.compare.into_iter().map(compare_from_wire).collect(),
        success: request.success.into_iter().map(op_from_wire).collect(),
        failure: request.failure.into_iter().map(op_from_wire).collect(),
    }
}

fn compare_from_wire(compare: pb::Compare) -> Compare {
    use pb::compare::TargetUnion;
    Compare {
        result: compare.result,
        target: compare.target,
        key: compare.key,
        range_end: compare.range_end,
        operand: match compare.target_union {
            None => CompareOperand::Unset,
            Some(TargetUnion::Version(number)) => CompareOperand::Version(number),
            Some(TargetUnion::CreateRevision(number)) => CompareOperand::CreateRevision(number),
            Some(TargetUnion::ModRevision(number)) => CompareOperand::ModRevision(number),
            Some(TargetUnion::Value(value)) => CompareOperand::Value(value),
            Some(TargetUnion::Lease(number)) => CompareOperand::Lease(number),
        },
    }
}

fn op_from_wire(op: pb::RequestOp) -> RequestOp {
    use pb::request_op::Request;
    match op.request {
        None => RequestOp::Unset,
        Some(Request::RequestRange(request)) => RequestOp::Range(range_from_wire(request)),
        Some(Request::RequestPut(request)) => RequestOp::Put(put_from_wire(request)),
        Some(Request::RequestDeleteRange(request)) => RequestOp::DeleteRange(delete_range_from_wire(request)),
        Some(Request::RequestTxn(request)) => RequestOp::Txn(txn_from_wire(request)),
    }
}

/// A range's answer for the wire; the header's revision is the answer's.
pub fn range_to_wire(response: RangeResponse, header: pb::ResponseHeader) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(pb::ResponseHeader { revision: response.revision, ..header }),
        kvs: response.kvs.into_iter().map(key_value_to_wire).collect(),
        more: response.more,
        count: response.count,
    }
}

/// A put's answer for the wire; the header's revision is the answer's.
pub fn put_to_wire(response: PutResponse, header: pb::ResponseHeader) -> pb::PutResponse {
    pb::PutResponse {
        header: Some(pb::ResponseHeader { revision: response.revision, ..header }),
        prev_kv: response.prev_kv.map(key_value_to_wire),
    }
}

/// A deletion's answer for the wire; the header's revision is the answer's.
pub fn delete_range_to_wire(
    response: DeleteRangeResponse,
    header: pb::ResponseHeader,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(pb::ResponseHeader { revision: response.revision, ..header }),
        deleted: response.deleted,
        prev_kvs: response.prev_kvs.into_iter().map(key_value_to_wire).collect(),
    }
}

/// A transaction's answer for the wire; the header's revision is the answer's. The answers inside
/// have headers with nothing but their revision, which for inner transactions is 0.
pub fn txn_to_wire(response: TxnResponse, header: pb::ResponseHeader) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(pb::ResponseHeader { revision: response.revision, ..header }),
        succeeded: response.succeeded,
        responses: response.responses.into_iter().map(response_op_to_wire).collect(),
    }
}

fn response_op_to_wire(response: ResponseOp) -> pb::ResponseOp {
    use pb::response_op::Response;
    let none = pb::ResponseHeader::default();
    let response = match response {
        ResponseOp::Range(response) => Response::ResponseRange(range_to_wire(response, none)),
        ResponseOp::Put(response) => Response::ResponsePut(put_to_wire(response, none)),
        ResponseOp::DeleteRange(response) => {
            Response::ResponseDeleteRange(delete_range_to_wire(response, none))
        }
        ResponseOp::Txn(response) => Response::ResponseTxn(txn_to_wire(response, none)),
    };
    pb::ResponseOp { response: Some(response) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> pb::TxnRequest {
        let mut request = pb::TxnRequest::default();
        for _ in 0..depth {
            let inner = pb::request_op::Request::RequestTxn(request);
            request = pb::TxnRequest {
                success: vec![pb::RequestOp { request: Some(inner) }],
                ..pb::TxnRequest::default()
            };
        }
        request
    }

    #[test]
    fn a_put_is_read_without_copying_its_bytes() {
        let request = pb::PutRequest {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"some value"),
            lease: 7,
            prev_kv: true,
            ignore_value: true,
            ignore_lease: true,
        };
        let body = put(&request).body;
        let inside = body.as_ptr_range();
        let read = decode_put(body.clone()).unwrap();
        assert!(inside.contains(&read.key.as_ptr()) && inside.contains(&read.value.as_ptr()));
        assert_eq!((&read.key[..], &read.value[..], read.lease), (&b"key"[..], &b"some value"[..], 7));
        assert!(read.prev_kv && read.ignore_value && read.ignore_lease);
    }

    #[test]
    fn numbers_that_do_not_exist_survive_the_conversion() {
        let range = pb::RangeRequest { sort_order: 9, sort_target: -1, ..pb::RangeRequest::default() };
        let read = range_from_wire(range);
        assert_eq!((read.sort_order, read.sort_target), (9, -1));
        let compare = pb::Compare { result: 17, target: 5, ..pb::Compare::default() };
        let request = pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp { request: None }],
            failure: Vec::new(),
        };
        let read = decode_txn(txn(&request).body).unwrap();
        assert_eq!((read.compare[0].result, read.compare[0].target), (17, 5));
        assert_eq!(read.compare[0].operand, CompareOperand::Unset);
        assert_eq!(read.success, [RequestOp::Unset]);
    }

    #[test]
    fn a_compare_with_a_range_end_has_it_in_field_64() {
        let compare = pb::Compare { range_end: Bytes::from_static(b"z"), ..pb::Compare::default() };
        assert_eq!(compare.encode_to_vec(), b"\x82\x04\x01z");
    }

    #[test]
    fn a_txn_that_nests_too_deep_is_refused_by_the_decoder() {
        assert!(decode_txn(txn(&nested(20)).body).is_ok());
        assert!(decode_txn(txn(&nested(200)).body).is_err());
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        let body = Bytes::from_static(b"\xff\xff\xff");
        assert!(decode_put(body.clone()).is_err());
        assert!(decode_delete_range(body.clone()).is_err());
        assert!(decode_txn(body.clone()).is_err());
        assert!(decode_compact(body).is_err());
    }

    #[test]
    fn inner_answers_have_only_a_revision_in_their_header() {
        let header = pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 0, raft_term: 3 };
        let inner = TxnResponse { revision: 0, succeeded: true, responses: Vec::new() };
        let put = PutResponse { revision: 8, prev_kv: None };
        let response = TxnResponse {
            revision: 8,
            succeeded: true,
            responses: vec![ResponseOp::Put(put), ResponseOp::Txn(inner)],
        };
        let wire = txn_to_wire(response, header);
        assert_eq!(wire.header, Some(pb::ResponseHeader { revision: 8, ..header }));
        let only_revision = pb::ResponseHeader { revision: 8, ..pb::ResponseHeader::default() };
        match wire.responses[0].response.clone().unwrap() {
            pb::response_op::Response::ResponsePut(put) => assert_eq!(put.header, Some(only_revision)),
            other => panic!("{other:?}"),
        }
        match wire.responses[1].response.clone().unwrap() {
            pb::response_op::Response::ResponseTxn(inner) => {
                assert_eq!(inner.header, Some(pb::ResponseHeader::default()));
            }
            other => panic!("{other:?}"),
        }
    }
}
