//! What clients must not send: each gets the specified answer, and the server keeps serving.

mod common;

use ::bytes::{BufMut as _, Bytes, BytesMut};
use common::{TestServer, assert_status, bytes, get, put_request};
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_server::{Server, StartError};
use pb::request_op::Request as Op;
use prost::Message as _;
use tonic::Code;
use tonic::metadata::MetadataValue;

/// What came back of a call: the status and its message.
#[derive(PartialEq, Eq, Debug)]
struct Ended {
    status: String,
    message: String,
}

/// A gRPC message with its prefix.
fn framed(message: &[u8]) -> Bytes {
    let mut buf = BytesMut::new();
    buf.put_u8(0);
    buf.put_u32(u32::try_from(message.len()).unwrap());
    buf.put_slice(message);
    buf.freeze()
}

/// Sends bytes as the body of a call, in frames of this size, over HTTP/2 without a gRPC library.
async fn call(
    server: &TestServer,
    path: &str,
    headers: &[(&str, &[u8])],
    body: Bytes,
    frame_bytes: usize,
) -> Ended {
    let stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{}{path}", server.addr()))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, http::HeaderValue::from_bytes(value).unwrap());
    }
    let (response, mut send) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let mut rest = body;
    while !rest.is_empty() {
        let frame = rest.split_to(frame_bytes.min(rest.len()));
        if send.send_data(frame, false).is_err() {
            break;
        }
    }
    // Watch streams are answered while the client's side is open.
    if !path.ends_with("/Watch") {
        let _ = send.send_data(Bytes::new(), true);
    }
    let response = response.await.unwrap();
    let text = |headers: &http::HeaderMap, name: &str| {
        headers.get(name).map(|value| value.to_str().unwrap().replace("%20", " "))
    };
    let mut ended = text(response.headers(), "grpc-status")
        .map(|status| (status, text(response.headers(), "grpc-message").unwrap_or_default()));
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    if let Some(trailers) = body.trailers().await.unwrap() {
        let status = text(&trailers, "grpc-status").unwrap();
        ended = Some((status, text(&trailers, "grpc-message").unwrap_or_default()));
    }
    let (status, message) = ended.expect("every call ends with a status");
    Ended { status, message }
}

fn op(op: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(op) }
}

fn put_op(key: &str) -> pb::RequestOp {
    op(Op::RequestPut(put_request(key, "1")))
}

#[tokio::test]
async fn a_request_above_the_request_limit_is_too_large_and_one_at_the_limit_is_not() {
    let server = TestServer::start_with(|config| config.max_request_bytes = 10_000);
    let mut kv = server.kv().await;
    let mut request = put_request("k", "");
    let overhead = {
        request.value = vec![b'x'; 9000].into();
        request.encoded_len() - 9000
    };
    request.value = vec![b'x'; 10_000 - overhead].into();
    assert_eq!(request.encoded_len(), 10_000);
    kv.put(request.clone()).await.unwrap();
    request.value = vec![b'x'; 10_001 - overhead].into();
    let too_large = "etcdserver: request is too large";
    assert_status(kv.put(request.clone()).await, Code::InvalidArgument, too_large);
    let txn = pb::TxnRequest { success: vec![op(Op::RequestPut(request))], ..Default::default() };
    assert_status(kv.txn(txn).await, Code::InvalidArgument, too_large);
    let key = vec![b'k'; 10_001].into();
    let delete = pb::DeleteRangeRequest { key, ..Default::default() };
    assert_status(kv.delete_range(delete).await, Code::InvalidArgument, too_large);
    server.assert_serves().await;
}

#[tokio::test]
async fn a_message_above_the_receive_limit_is_refused_in_grpcs_words_on_every_kind_of_call() {
    let server = TestServer::start();
    let limit = 1_572_864 + 524_288;
    let refused = Ended {
        status: "8".into(),
        message: format!("grpc: received message larger than max ({} vs. {limit})", limit + 1),
    };
    let message = framed(&vec![0; limit + 1]);
    for path in [
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/Compact",
        "/etcdserverpb.KV/RangeStream",
        "/etcdserverpb.Lease/LeaseGrant",
        "/etcdserverpb.Lease/LeaseKeepAlive",
        "/etcdserverpb.Watch/Watch",
        "/v3lockpb.Lock/Lock",
    ] {
        // The prefix alone tells; the rest need not even be sent.
        let ended = call(&server, path, &[], message.slice(..100), 16_384).await;
        assert_eq!(ended, refused, "{path}");
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn bytes_that_are_no_message_end_the_call_with_an_internal_error() {
    let server = TestServer::start();
    for path in [
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/Txn",
        "/etcdserverpb.KV/DeleteRange",
        "/etcdserverpb.KV/Compact",
        "/etcdserverpb.Lease/LeaseGrant",
        "/etcdserverpb.Lease/LeaseKeepAlive",
        "/etcdserverpb.Watch/Watch",
        "/etcdserverpb.Maintenance/HashKV",
        "/etcdserverpb.Cluster/MemberAdd",
        "/v3lockpb.Lock/Lock",
        "/v3electionpb.Election/Campaign",
    ] {
        // Field 1 with wire type 7, which does not exist; and a field that ends too early.
        for garbage in [&b"\x0f\xff\xff"[..], b"\x0a\x7f"] {
            let ended = call(&server, path, &[], framed(garbage), 16_384).await;
            assert_eq!(ended.status, "13", "{path}: {ended:?}");
            assert!(ended.message.starts_with("grpc: error unmarshalling request: "), "{path}: {ended:?}");
        }
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn a_body_cut_short_or_missing_ends_the_call() {
    let server = TestServer::start();
    let put = framed(&put_request("a", "1").encode_to_vec());
    for length in [0, 1, 4, 5, put.len() - 1] {
        let ended = call(&server, "/etcdserverpb.KV/Put", &[], put.slice(..length), 16_384).await;
        assert_eq!(ended.status, "13", "{length}: {ended:?}");
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn a_message_may_come_in_frames_of_any_size() {
    let server = TestServer::start();
    let put = framed(&put_request("a", &"v".repeat(100)).encode_to_vec());
    for frame_bytes in [1, 3, 5, 7, 50] {
        let ended = call(&server, "/etcdserverpb.KV/Put", &[], put.clone(), frame_bytes).await;
        assert_eq!(ended, Ended { status: "0".into(), message: String::new() }, "{frame_bytes}");
    }
}

#[tokio::test]
async fn compressed_messages_are_refused() {
    let server = TestServer::start();
    let mut message = framed(&put_request("a", "1").encode_to_vec()).to_vec();
    message[0] = 1;
    let headers: [(&str, &[u8]); 1] = [("grpc-encoding", b"gzip")];
    for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.KV/Compact"] {
        let ended = call(&server, path, &headers, message.clone().into(), 16_384).await;
        assert_eq!(ended.status, "12", "{path}: {ended:?}");
    }
    message[0] = 9;
    let ended = call(&server, "/etcdserverpb.KV/Put", &[], message.into(), 16_384).await;
    assert_eq!(ended.status, "13", "{ended:?}");
    server.assert_serves().await;
}

#[tokio::test]
async fn unknown_services_and_methods_are_unimplemented_by_name() {
    let server = TestServer::start();
    let unknown = [
        ("/etcdserverpb.KV/Nothing", "unknown method Nothing for service etcdserverpb.KV"),
        ("/etcdserverpb.Watch/Nothing", "unknown method Nothing for service etcdserverpb.Watch"),
        ("/nobody.Nothing/Do", "unknown service nobody.Nothing"),
    ];
    for (path, message) in unknown {
        let ended = call(&server, path, &[], framed(b""), 16_384).await;
        assert_eq!(ended, Ended { status: "12".into(), message: message.into() });
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn metadata_that_is_not_utf8_is_refused_where_etcd_looks_at_it() {
    let server = TestServer::start();
    let put = framed(&put_request("a", "1").encode_to_vec());
    let headers: [(&str, &[u8]); 1] = [("client-api-version", b"3.\xff")];
    for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch"] {
        let ended = call(&server, path, &headers, put.clone(), 16_384).await;
        let message = "etcdserver: invalid client api version".to_owned();
        assert_eq!(ended, Ended { status: "3".into(), message }, "{path}");
    }
    // Nobody reads these.
    let headers: [(&str, &[u8]); 2] = [("token", b"\xff\xfe"), ("x-anything", b"\xff")];
    assert_eq!(call(&server, "/etcdserverpb.KV/Put", &headers, put, 16_384).await.status, "0");
    server.assert_serves().await;
}

#[tokio::test]
async fn a_call_whose_time_is_up_is_not_carried_out() {
    let server = TestServer::start();
    let put = framed(&put_request("late", "x").encode_to_vec());
    let headers: [(&str, &[u8]); 1] = [("grpc-timeout", b"0n")];
    let ended = call(&server, "/etcdserverpb.KV/Put", &headers, put.clone(), 16_384).await;
    assert_eq!(ended, Ended { status: "4".into(), message: "context deadline exceeded".into() });
    let headers: [(&str, &[u8]); 1] = [("grpc-timeout", b"soon")];
    assert_eq!(call(&server, "/etcdserverpb.KV/Put", &headers, put, 16_384).await.status, "13");
    assert_eq!(get(&mut server.kv().await, "late").await, None);
    server.assert_serves().await;
}

#[tokio::test]
async fn requiring_a_leader_is_fine_while_there_is_one() {
    let server = TestServer::start();
    let mut request = tonic::Request::new(put_request("a", "1"));
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    server.kv().await.put(request).await.unwrap();
}

#[tokio::test]
async fn empty_keys_are_refused_everywhere() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    let empty_key = "etcdserver: key is not provided";
    assert_status(kv.put(put_request("", "1")).await, Code::InvalidArgument, empty_key);
    assert_status(kv.range(pb::RangeRequest::default()).await, Code::InvalidArgument, empty_key);
    assert_status(kv.range_stream(pb::RangeRequest::default()).await, Code::InvalidArgument, empty_key);
    assert_status(kv.delete_range(pb::DeleteRangeRequest::default()).await, Code::InvalidArgument, empty_key);
    let compare = pb::TxnRequest { compare: vec![pb::Compare::default()], ..Default::default() };
    assert_status(kv.txn(compare).await, Code::InvalidArgument, empty_key);
    for failure in [
        put_op(""),
        op(Op::RequestRange(pb::RangeRequest::default())),
        op(Op::RequestDeleteRange(pb::DeleteRangeRequest::default())),
    ] {
        let txn = pb::TxnRequest { failure: vec![failure], ..Default::default() };
        assert_status(kv.txn(txn).await, Code::InvalidArgument, empty_key);
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn fields_that_contradict_each_other_are_refused() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    let value = pb::PutRequest { ignore_value: true, ..put_request("a", "1") };
    assert_status(kv.put(value).await, Code::InvalidArgument, "etcdserver: value is provided");
    let lease = pb::PutRequest { ignore_lease: true, lease: 5, ..put_request("a", "1") };
    assert_status(kv.put(lease).await, Code::InvalidArgument, "etcdserver: lease is provided");
    for absent in [
        pb::PutRequest { ignore_value: true, ..put_request("a", "") },
        pb::PutRequest { ignore_lease: true, ..put_request("a", "1") },
    ] {
        assert_status(kv.put(absent).await, Code::InvalidArgument, "etcdserver: key not found");
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn enum_numbers_that_do_not_exist_are_refused_or_mean_what_they_mean_in_etcd() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    let invalid = "etcdserver: invalid sort option";
    for (sort_order, sort_target) in [(3, 0), (-1, 0), (0, 5), (0, -1), (i32::MAX, i32::MIN)] {
        let range = pb::RangeRequest { key: bytes("a"), sort_order, sort_target, ..Default::default() };
        assert_status(kv.range(range).await, Code::InvalidArgument, invalid);
    }
    // An unknown operator holds, an unknown target is equal.
    common::put(&mut kv, "a", "1").await;
    for (result, target, expected) in [(9, 0, true), (-1, 3, true), (0, 9, true), (3, 9, false)] {
        let compare = pb::Compare { result, target, key: bytes("a"), ..Default::default() };
        let txn = pb::TxnRequest { compare: vec![compare], ..Default::default() };
        assert_eq!(kv.txn(txn).await.unwrap().into_inner().succeeded, expected, "{result} {target}");
    }
    // Unknown filters of a watcher are ignored.
    let mut watcher = server.watcher().await;
    let created =
        watcher.create(pb::WatchCreateRequest { filters: vec![7, -1], ..common::watch_key("a") }).await;
    assert!(created.created && !created.canceled);
    let alarm = pb::AlarmRequest { action: 1, member_id: 1, alarm: 99 };
    assert_eq!(server.maintenance().await.alarm(alarm).await.unwrap().into_inner().alarms, []);
    server.assert_serves().await;
}

#[tokio::test]
async fn deeply_nested_and_wide_txns_have_too_many_operations() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    let nested = |depth: usize| {
        let mut txn = pb::TxnRequest { success: vec![put_op("deep")], ..Default::default() };
        for _ in 1..depth {
            txn = pb::TxnRequest { success: vec![op(Op::RequestTxn(txn))], ..Default::default() };
        }
        txn
    };
    kv.txn(nested(16)).await.unwrap();
    let too_many = "etcdserver: too many operations in txn request";
    for depth in [17, 40, 60, 1000] {
        assert_status(kv.txn(nested(depth)).await, Code::InvalidArgument, too_many);
    }
    let wide = |count: usize| pb::TxnRequest {
        success: (0..count).map(|number| put_op(&format!("w{number}"))).collect(),
        ..Default::default()
    };
    kv.txn(wide(128)).await.unwrap();
    assert_status(kv.txn(wide(129)).await, Code::InvalidArgument, too_many);
    server.assert_serves().await;
}

#[tokio::test]
async fn txns_that_touch_a_key_twice_or_do_nothing_are_refused() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    let duplicate = "etcdserver: duplicate key given in txn request";
    let delete = op(Op::RequestDeleteRange(pb::DeleteRangeRequest { key: bytes("a"), ..Default::default() }));
    for success in
        [vec![put_op("a"), put_op("a")], vec![put_op("a"), delete.clone()], vec![delete, put_op("a")]]
    {
        let txn = pb::TxnRequest { success, ..Default::default() };
        assert_status(kv.txn(txn).await, Code::InvalidArgument, duplicate);
    }
    let nothing = pb::TxnRequest { failure: vec![pb::RequestOp { request: None }], ..Default::default() };
    assert_status(kv.txn(nothing).await, Code::InvalidArgument, "etcdserver: key not found");
    server.assert_serves().await;
}

#[tokio::test]
async fn revisions_out_of_bounds_get_etcds_answers() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    common::put(&mut kv, "a", "1").await;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let future = "etcdserver: mvcc: required revision is a future revision";
    let range = |revision| pb::RangeRequest { key: bytes("a"), revision, ..Default::default() };
    // Below zero means now, except in a transaction.
    assert_eq!(kv.range(range(-5)).await.unwrap().into_inner().count, 1);
    assert_eq!(kv.range(range(i64::MIN)).await.unwrap().into_inner().count, 1);
    let txn = |revision| pb::TxnRequest {
        success: vec![op(Op::RequestRange(range(revision)))],
        ..Default::default()
    };
    assert_status(kv.txn(txn(-5)).await, Code::OutOfRange, compacted);
    for revision in [3, i64::MAX] {
        assert_status(kv.range(range(revision)).await, Code::OutOfRange, future);
        assert_status(kv.txn(txn(revision)).await, Code::OutOfRange, future);
        let compact = pb::CompactionRequest { revision, physical: false };
        assert_status(kv.compact(compact).await, Code::OutOfRange, future);
    }
    for revision in [-1, i64::MIN] {
        let compact = pb::CompactionRequest { revision, physical: true };
        assert_status(kv.compact(compact).await, Code::OutOfRange, compacted);
    }
    // A store that was never compacted can be compacted to nothing, once.
    kv.compact(pb::CompactionRequest { revision: 0, physical: true }).await.unwrap();
    let again = pb::CompactionRequest { revision: 0, physical: false };
    assert_status(kv.compact(again).await, Code::OutOfRange, compacted);
    server.assert_serves().await;
}

#[tokio::test]
async fn extreme_limits_and_inverted_ranges_find_nothing_or_everything() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    for key in ["a", "b", "c"] {
        common::put(&mut kv, key, "1").await;
    }
    let range = pb::RangeRequest { key: bytes("a"), range_end: bytes("z"), ..Default::default() };
    for (limit, keys) in [(i64::MIN, 3), (-1, 3), (i64::MAX, 3), (2, 2)] {
        let answer = kv.range(pb::RangeRequest { limit, ..range.clone() }).await.unwrap().into_inner();
        assert_eq!((answer.kvs.len(), answer.count), (keys, 3), "{limit}");
    }
    let inverted = pb::RangeRequest { key: bytes("z"), range_end: bytes("a"), ..Default::default() };
    assert_eq!(kv.range(inverted).await.unwrap().into_inner().count, 0);
    let delete = pb::DeleteRangeRequest { key: bytes("z"), range_end: bytes("a"), prev_kv: true };
    assert_eq!(kv.delete_range(delete).await.unwrap().into_inner().deleted, 0);
    server.assert_serves().await;
}

#[tokio::test]
async fn a_client_that_breaks_http2_loses_only_its_own_connection() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = TestServer::start();
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // Closed by the server; whether with an answer or a reset does not matter.
        let _ = stream.read_to_end(&mut answer).await;
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let server = TestServer::start();
    let second = Server::start(server.config());
    match second {
        Err(StartError::Storage(error)) => {
            let text = error.to_string();
            assert!(text.contains("in use by another process"), "{text}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("two servers on one directory"),
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn a_directory_with_other_things_in_it_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let error = Server::start(folkmoot_server::Config::alone_in(dir.path())).err().expect("is refused");
    assert!(error.to_string().contains("letter.txt"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
