//! Put, range, delete, txn and compact, from a client's side.

mod common;

use common::{TestServer, assert_status, bytes, get, put, put_request};
use folkmoot_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;
use tonic::Code;

#[tokio::test]
async fn a_key_is_put_read_overwritten_and_deleted() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    assert_eq!(put(&mut kv, "a", "1").await, 2);
    assert_eq!(put(&mut kv, "a", "2").await, 3);
    let record = get(&mut kv, "a").await.expect("is there");
    assert_eq!(
        (&record.value[..], record.create_revision, record.mod_revision, record.version),
        (&b"2"[..], 2, 3, 2)
    );

    let request = pb::DeleteRangeRequest { key: bytes("a"), prev_kv: true, ..Default::default() };
    let response = kv.delete_range(request).await.unwrap().into_inner();
    assert_eq!((response.deleted, response.header.unwrap().revision), (1, 4));
    assert_eq!(&response.prev_kvs[0].value[..], b"2");
    assert_eq!(get(&mut kv, "a").await, None);
}

#[tokio::test]
async fn headers_name_cluster_member_revision_and_term() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    let header = kv.put(put_request("a", "1")).await.unwrap().into_inner().header.unwrap();
    // What etcd computes for a member with the default peer URL and token.
    assert_eq!((header.cluster_id, header.member_id), (0xcdf8_1819_4e3a_8c32, 0x8e9e_05c5_2164_694d));
    assert_eq!(header.revision, 2);
    assert!(header.raft_term >= 1);
}

#[tokio::test]
async fn a_put_gives_back_what_was_before() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    put(&mut kv, "a", "1").await;
    let request = pb::PutRequest { prev_kv: true, ..put_request("a", "2") };
    let response = kv.put(request).await.unwrap().into_inner();
    assert_eq!(&response.prev_kv.unwrap().value[..], b"1");
}

#[tokio::test]
async fn a_large_range_comes_whole_and_in_order() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    for number in 0..1000 {
        put(&mut kv, &format!("key/{number:04}"), "value").await;
    }
    let all = pb::RangeRequest { key: bytes("key/"), range_end: bytes("key0"), ..Default::default() };
    let response = kv.range(all.clone()).await.unwrap().into_inner();
    assert_eq!((response.count, response.kvs.len(), response.more), (1000, 1000, false));
    assert!(response.kvs.is_sorted_by(|a, b| a.key < b.key));

    let limited = pb::RangeRequest { limit: 10, ..all.clone() };
    let response = kv.range(limited).await.unwrap().into_inner();
    assert_eq!((response.count, response.kvs.len(), response.more), (1000, 10, true));

    let mut parts = kv.range_stream(all).await.unwrap().into_inner();
    let (mut keys, mut last) = (Vec::new(), None);
    while let Some(part) = parts.message().await.unwrap() {
        let part = part.range_response.unwrap();
        assert!(last.is_none(), "only the last part carries a header");
        keys.extend(part.kvs.into_iter().map(|kv| kv.key));
        last = part.header.map(|header| (header.revision, part.count, part.more));
    }
    assert_eq!((keys.len(), last), (1000, Some((1001, 1000, false))));
    assert!(keys.is_sorted());
}

#[tokio::test]
async fn a_range_stream_refuses_orders_and_filters_and_obeys_its_limit() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    for number in 0..30 {
        put(&mut kv, &format!("k{number:02}"), "v").await;
    }
    let all = pb::RangeRequest { key: bytes("k"), range_end: bytes("l"), ..Default::default() };
    let sorted = pb::RangeRequest { sort_order: 2, ..all.clone() };
    assert_status(
        kv.range_stream(sorted).await,
        Code::Unimplemented,
        "RangeStream does not support custom sort orders",
    );
    let filtered = pb::RangeRequest { min_mod_revision: 3, ..all.clone() };
    assert_status(
        kv.range_stream(filtered).await,
        Code::Unimplemented,
        "RangeStream does not support revision filters",
    );
    let limited = pb::RangeRequest { limit: 25, ..all };
    let mut parts = kv.range_stream(limited).await.unwrap().into_inner();
    let (mut count, mut last) = (0, None);
    while let Some(part) = parts.message().await.unwrap() {
        let part = part.range_response.unwrap();
        count += part.kvs.len();
        last = Some((part.count, part.more));
    }
    assert_eq!((count, last), (25, Some((30, true))));
}

#[tokio::test]
async fn a_txn_compares_and_takes_one_branch() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    put(&mut kv, "a", "1").await;
    let compare = pb::Compare {
        result: pb::compare::CompareResult::Equal as i32,
        target: pb::compare::CompareTarget::Value as i32,
        key: bytes("a"),
        target_union: Some(pb::compare::TargetUnion::Value(bytes("1"))),
        ..Default::default()
    };
    let op = |op| pb::RequestOp { request: Some(op) };
    let swap = pb::TxnRequest {
        compare: vec![compare],
        success: vec![
            op(Op::RequestPut(put_request("a", "2"))),
            op(Op::RequestRange(pb::RangeRequest { key: bytes("a"), ..Default::default() })),
        ],
        failure: vec![],
    };
    let response = kv.txn(swap.clone()).await.unwrap().into_inner();
    assert!(response.succeeded);
    assert_eq!(response.header.unwrap().revision, 3);
    match response.responses[1].response.clone().unwrap() {
        pb::response_op::Response::ResponseRange(range) => {
            assert_eq!(&range.kvs[0].value[..], b"2");
            let header = range.header.unwrap();
            assert_eq!((header.revision, header.cluster_id, header.raft_term), (3, 0, 0));
        }
        other => panic!("{other:?}"),
    }
    let response = kv.txn(swap).await.unwrap().into_inner();
    assert!(!response.succeeded && response.responses.is_empty());
    assert_eq!(response.header.unwrap().revision, 3);
}

#[tokio::test]
async fn a_read_only_txn_and_an_empty_one_read_the_present() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    put(&mut kv, "a", "1").await;
    let range = Op::RequestRange(pb::RangeRequest { key: bytes("a"), ..Default::default() });
    let read = pb::TxnRequest { success: vec![pb::RequestOp { request: Some(range) }], ..Default::default() };
    let response = kv.txn(read).await.unwrap().into_inner();
    assert!(response.succeeded);
    assert_eq!(response.header.unwrap().revision, 2);
    let response = kv.txn(pb::TxnRequest::default()).await.unwrap().into_inner();
    assert!(response.succeeded && response.responses.is_empty());
}

#[tokio::test]
async fn compaction_forgets_the_past_and_keeps_the_present() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    for value in ["1", "2", "3"] {
        put(&mut kv, "a", value).await;
    }
    for physical in [false, true] {
        let revision = if physical { 4 } else { 3 };
        let response = kv.compact(pb::CompactionRequest { revision, physical }).await.unwrap().into_inner();
        assert_eq!(response.header.unwrap().revision, 4);
    }
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let old = pb::RangeRequest { key: bytes("a"), revision: 2, ..Default::default() };
    assert_status(kv.range(old).await, Code::OutOfRange, compacted);
    let again = pb::CompactionRequest { revision: 4, physical: true };
    assert_status(kv.compact(again).await, Code::OutOfRange, compacted);
    let future = pb::CompactionRequest { revision: 5, physical: false };
    assert_status(
        kv.compact(future).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    assert_eq!(&get(&mut kv, "a").await.unwrap().value[..], b"3");
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let mut server = TestServer::start();
    {
        let mut kv = server.kv().await;
        for number in 0..500 {
            put(&mut kv, &format!("k{number:03}"), &format!("v{number}")).await;
        }
        let request = pb::DeleteRangeRequest { key: bytes("k499"), ..Default::default() };
        kv.delete_range(request).await.unwrap();
        kv.compact(pb::CompactionRequest { revision: 100, physical: false }).await.unwrap();
    }
    server.restart().await;
    let mut kv = server.kv().await;
    let all = pb::RangeRequest { key: bytes("k"), range_end: bytes("l"), ..Default::default() };
    let response = kv.range(all.clone()).await.unwrap().into_inner();
    assert_eq!((response.count, response.header.unwrap().revision), (499, 502));
    let record = get(&mut kv, "k007").await.unwrap();
    assert_eq!((&record.value[..], record.mod_revision), (&b"v7"[..], 9));
    let past = pb::RangeRequest { revision: 200, ..all.clone() };
    assert_eq!(kv.range(past).await.unwrap().into_inner().count, 199);
    let gone = pb::RangeRequest { revision: 99, ..all };
    assert_eq!(kv.range(gone).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(put(&mut kv, "new", "1").await, 503);
}
