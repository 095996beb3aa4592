//! Watch streams, from a client's side.

mod common;

use common::{TestServer, bytes, put, watch_key};
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::mvccpb::event::EventType;
use pb::watch_request::RequestUnion;

#[tokio::test]
async fn a_watcher_hears_of_puts_and_deletes_of_its_key() {
    let server = TestServer::start();
    let (mut kv, mut watcher) = (server.kv().await, server.watcher().await);
    let created = watcher.create(pb::WatchCreateRequest { prev_kv: true, ..watch_key("a") }).await;
    assert!(created.created && !created.canceled && created.events.is_empty());
    assert_eq!((created.watch_id, created.header.unwrap().revision), (0, 1));
    put(&mut kv, "a", "1").await;
    put(&mut kv, "b", "1").await;
    kv.delete_range(pb::DeleteRangeRequest { key: bytes("a"), ..Default::default() }).await.unwrap();

    let response = watcher.next().await;
    let header = response.header.unwrap();
    assert_eq!((header.revision, header.member_id), (2, 0x8e9e_05c5_2164_694d));
    assert!(header.raft_term >= 1);
    let event = &response.events[0];
    assert_eq!((event.r#type(), event.prev_kv.is_none()), (EventType::Put, true));
    assert_eq!(&event.kv.as_ref().unwrap().value[..], b"1");

    let response = watcher.next().await;
    assert_eq!(response.header.unwrap().revision, 4);
    let event = &response.events[0];
    assert_eq!(event.r#type(), EventType::Delete);
    let gone = event.kv.as_ref().unwrap();
    assert_eq!((&gone.key[..], gone.mod_revision, gone.create_revision, gone.version), (&b"a"[..], 4, 0, 0));
    assert_eq!(&event.prev_kv.as_ref().unwrap().value[..], b"1");
}

#[tokio::test]
async fn history_is_replayed_from_the_start_revision() {
    let server = TestServer::start();
    let (mut kv, mut watcher) = (server.kv().await, server.watcher().await);
    for number in 0..20 {
        put(&mut kv, &format!("a{number}"), "1").await;
    }
    let request = pb::WatchCreateRequest {
        key: bytes("a"),
        range_end: bytes("b"),
        start_revision: 2,
        ..Default::default()
    };
    watcher.create(request).await;
    let mut revisions = Vec::new();
    while revisions.len() < 20 {
        let response = watcher.next().await;
        revisions.extend(response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    assert_eq!(revisions, (2..22).collect::<Vec<_>>());
    put(&mut kv, "a", "live").await;
    assert_eq!(watcher.next().await.header.unwrap().revision, 22);
}

#[tokio::test]
async fn a_txn_is_one_response_with_all_its_events_in_order() {
    let server = TestServer::start();
    let (mut kv, mut watcher) = (server.kv().await, server.watcher().await);
    watcher.create(pb::WatchCreateRequest { range_end: bytes("z"), ..watch_key("a") }).await;
    let puts = ["c", "a", "b"].map(|key| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(common::put_request(key, "1"))),
    });
    kv.txn(pb::TxnRequest { success: puts.to_vec(), ..Default::default() }).await.unwrap();
    let response = watcher.next().await;
    let keys: Vec<_> = response.events.iter().map(|event| event.kv.as_ref().unwrap().key.clone()).collect();
    assert_eq!(keys, [bytes("c"), bytes("a"), bytes("b")]);
}

#[tokio::test]
async fn a_cancelled_watcher_is_told_so_and_hears_nothing_more() {
    let server = TestServer::start();
    let (mut kv, mut watcher) = (server.kv().await, server.watcher().await);
    let first = watcher.create(watch_key("a")).await.watch_id;
    let second = watcher.create(watch_key("a")).await.watch_id;
    assert_eq!((first, second), (0, 1));
    // Nothing is said about an id that does not exist.
    watcher.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 77 })).await;
    watcher.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: first })).await;
    let response = watcher.next().await;
    assert!(response.canceled && response.cancel_reason.is_empty());
    assert_eq!(response.watch_id, first);
    put(&mut kv, "a", "1").await;
    assert_eq!(watcher.next().await.watch_id, second);
}

#[tokio::test]
async fn progress_is_told_when_asked_and_only_while_there_are_watchers() {
    let server = TestServer::start();
    let (mut kv, mut watcher) = (server.kv().await, server.watcher().await);
    let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
    // No answer: there is no watcher yet.
    watcher.ask(progress.clone()).await;
    let created = watcher.create(watch_key("a")).await;
    assert!(created.created);
    put(&mut kv, "b", "1").await;
    watcher.ask(progress).await;
    let response = watcher.next().await;
    assert_eq!((response.watch_id, response.header.unwrap().revision), (-1, 2));
    assert!(response.events.is_empty());
}

#[tokio::test]
async fn a_watcher_below_the_compacted_revision_is_cancelled_with_it() {
    let server = TestServer::start();
    let (mut kv, mut watcher) = (server.kv().await, server.watcher().await);
    for value in ["1", "2", "3"] {
        put(&mut kv, "a", value).await;
    }
    kv.compact(pb::CompactionRequest { revision: 4, physical: true }).await.unwrap();
    let created = watcher.create(pb::WatchCreateRequest { start_revision: 2, ..watch_key("a") }).await;
    assert!(created.created && !created.canceled);
    let response = watcher.next().await;
    assert!(response.canceled && response.cancel_reason.is_empty());
    assert_eq!((response.compact_revision, response.header.unwrap().revision), (4, 0));
}

#[tokio::test]
async fn the_stream_goes_on_after_the_client_closed_its_side() {
    let server = TestServer::start();
    let (mut kv, mut watcher) = (server.kv().await, server.watcher().await);
    watcher.create(watch_key("a")).await;
    let common::Watcher { requests, mut responses } = watcher;
    drop(requests);
    put(&mut kv, "a", "1").await;
    let response = responses.message().await.unwrap().expect("a response");
    assert_eq!(response.events.len(), 1);
}

#[tokio::test]
async fn rejected_watchers_carry_etcds_reasons_and_the_stream_goes_on() {
    let server = TestServer::start();
    let mut watcher = server.watcher().await;
    let taken = pb::WatchCreateRequest { watch_id: 7, ..watch_key("a") };
    assert_eq!(watcher.create(taken.clone()).await.watch_id, 7);
    let inverted = pb::WatchCreateRequest { range_end: bytes("a"), ..watch_key("b") };
    let negative = pb::WatchCreateRequest { start_revision: -1, ..watch_key("a") };
    let rejections = [
        (inverted, "mvcc: watcher range is empty"),
        (negative, "etcdserver: mvcc: required revision has been compacted"),
        (taken, "mvcc: duplicate watch ID provided on the WatchStream"),
    ];
    for (request, reason) in rejections {
        let response = watcher.create(request).await;
        assert!(response.created && response.canceled);
        assert_eq!((response.watch_id, response.cancel_reason.as_str()), (-1, reason));
        assert_eq!(response.header.unwrap().revision, 1);
    }
    assert_eq!(watcher.create(watch_key("a")).await.watch_id, 0);
}

#[tokio::test]
async fn a_slow_reader_misses_nothing() {
    let server = TestServer::start();
    let (mut kv, mut watcher) = (server.kv().await, server.watcher().await);
    watcher.create(watch_key("a")).await;
    let value = "x".repeat(100_000);
    for _ in 0..100 {
        put(&mut kv, "a", &value).await;
    }
    let mut revisions = Vec::new();
    while revisions.len() < 100 {
        let response = watcher.next().await;
        revisions.extend(response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
    }
    assert_eq!(revisions, (2..102).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_large_revision_comes_in_fragments_if_asked_for_and_else_whole() {
    let server = TestServer::start_with(|config| config.max_request_bytes = 600_000);
    let mut kv = server.kv().await;
    let value = "x".repeat(290_000);
    let puts = ["a", "b"].map(|key| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(common::put_request(key, &value))),
    });
    let txn = pb::TxnRequest { success: puts.to_vec(), ..Default::default() };
    kv.txn(txn.clone()).await.unwrap();
    let range = pb::WatchCreateRequest { range_end: bytes("c"), prev_kv: true, ..watch_key("a") };
    let (mut whole, mut pieces) = (server.watcher().await, server.watcher().await);
    whole.create(range.clone()).await;
    pieces.create(pb::WatchCreateRequest { fragment: true, ..range }).await;
    kv.txn(txn).await.unwrap();
    let response = whole.next().await;
    assert_eq!((response.events.len(), response.fragment), (2, false));
    for more in [true, false] {
        let response = pieces.next().await;
        assert_eq!((response.events.len(), response.fragment), (1, more));
        assert_eq!(response.header.unwrap().revision, 3);
    }
}

#[tokio::test]
async fn periodic_progress_comes_while_nothing_happens() {
    let server = TestServer::start_with(|config| {
        config.watch_progress_notify_interval = std::time::Duration::from_millis(100);
    });
    let mut watcher = server.watcher().await;
    watcher.create(pb::WatchCreateRequest { progress_notify: true, ..watch_key("a") }).await;
    let response = watcher.next().await;
    assert_eq!((response.watch_id, response.header.unwrap().revision), (0, 1));
    assert!(response.events.is_empty() && !response.created && !response.canceled);
}

#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let mut server = TestServer::start();
    let mut watcher = server.watcher().await;
    watcher.create(watch_key("a")).await;
    let (status, ()) = tokio::join!(watcher.responses.message(), server.stop());
    let status = status.expect_err("the stream ends");
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: server stopped"));
}
