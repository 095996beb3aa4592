//! Many clients at once, clients that go away, and a server that stops under them.

mod common;

use std::collections::BTreeMap;

use common::{TestServer, bytes, get, put, put_request, watch_key};
use folkmoot_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;
use tonic::Code;

#[tokio::test]
async fn increments_of_many_clients_are_all_counted() {
    const CLIENTS: usize = 16;
    const INCREMENTS: usize = 25;
    let server = TestServer::start();
    put(&mut server.kv().await, "counter", "0").await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let mut kv = server.kv().await;
        clients.spawn(async move {
            for _ in 0..INCREMENTS {
                loop {
                    let now = get(&mut kv, "counter").await.expect("is there");
                    let next: usize = std::str::from_utf8(&now.value).unwrap().parse::<usize>().unwrap() + 1;
                    let unchanged = pb::Compare {
                        target: pb::compare::CompareTarget::Mod as i32,
                        key: bytes("counter"),
                        target_union: Some(pb::compare::TargetUnion::ModRevision(now.mod_revision)),
                        ..Default::default()
                    };
                    let write = Op::RequestPut(put_request("counter", &next.to_string()));
                    let txn = pb::TxnRequest {
                        compare: vec![unchanged],
                        success: vec![pb::RequestOp { request: Some(write) }],
                        ..Default::default()
                    };
                    if kv.txn(txn).await.unwrap().into_inner().succeeded {
                        break;
                    }
                }
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let counter = get(&mut server.kv().await, "counter").await.unwrap();
    assert_eq!(counter.value, bytes(&(CLIENTS * INCREMENTS).to_string()));
    assert_eq!(counter.version as usize, CLIENTS * INCREMENTS + 1);
}

#[tokio::test]
async fn watchers_of_many_streams_on_all_runtimes_hear_the_same() {
    let server = TestServer::start_with(|config| config.runtime_threads = 3);
    let mut watchers = Vec::new();
    for _ in 0..30 {
        let mut watcher = server.watcher().await;
        watcher.create(watch_key("a")).await;
        watchers.push(watcher);
    }
    let mut kv = server.kv().await;
    for number in 0..20 {
        put(&mut kv, "a", &number.to_string()).await;
    }
    for watcher in &mut watchers {
        let mut revisions = Vec::new();
        while revisions.len() < 20 {
            let response = watcher.next().await;
            revisions.extend(response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
        }
        assert_eq!(revisions, (2..22).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn clients_that_go_away_in_the_middle_leave_nothing_behind_that_hurts() {
    let server = TestServer::start();
    for _ in 0..20 {
        let mut kv = server.kv().await;
        let mut watcher = server.watcher().await;
        watcher.create(watch_key("a")).await;
        let calls: Vec<_> = (0..20)
            .map(|number| {
                let mut kv = kv.clone();
                tokio::spawn(async move { kv.put(put_request(&format!("k{number}"), "v")).await })
            })
            .collect();
        kv.put(put_request("a", "1")).await.unwrap();
        for call in &calls {
            call.abort();
        }
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn a_stop_under_load_loses_nothing_that_was_acknowledged() {
    let mut server = TestServer::start();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        let mut kv = server.kv().await;
        let stopped = stopped.clone();
        clients.spawn(async move {
            let mut acknowledged = BTreeMap::new();
            for number in 0.. {
                let key = format!("c{client}/{number:06}");
                match kv.put(put_request(&key, &key)).await {
                    Ok(response) => {
                        acknowledged.insert(key, response.into_inner().header.unwrap().revision);
                    }
                    Err(status) => {
                        assert!(*stopped.borrow(), "refused before the stop: {status}");
                        assert!(
                            matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled),
                            "{status}"
                        );
                        return acknowledged;
                    }
                }
            }
            unreachable!("the server stops");
        });
    }
    let mut kv = server.kv().await;
    while get(&mut kv, "c0/000100").await.is_none() {
        tokio::task::yield_now().await;
    }
    drop(kv);
    stop.send_replace(true);
    server.stop().await;
    let mut acknowledged = BTreeMap::new();
    while let Some(ended) = clients.join_next().await {
        acknowledged.extend(ended.unwrap());
    }
    assert!(acknowledged.len() > 100);
    server.start_again();
    let mut kv = server.kv().await;
    let all = pb::RangeRequest { key: bytes("c"), range_end: bytes("d"), ..Default::default() };
    let found: BTreeMap<_, _> = kv
        .range(all)
        .await
        .unwrap()
        .into_inner()
        .kvs
        .into_iter()
        .map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision))
        .collect();
    for (key, revision) in acknowledged {
        assert_eq!(found.get(&key), Some(&revision), "{key}");
    }
}

#[tokio::test]
async fn a_range_far_larger_than_a_message_of_requests_comes_whole() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    let value = "x".repeat(1_000_000);
    for number in 0..40 {
        put(&mut kv, &format!("big/{number:02}"), &value).await;
    }
    let all = pb::RangeRequest { key: bytes("big/"), range_end: bytes("big0"), ..Default::default() };
    let answer = kv.range(all).await.unwrap().into_inner();
    assert_eq!(answer.kvs.len(), 40);
    assert!(answer.kvs.iter().all(|kv| kv.value.len() == 1_000_000));
}

#[tokio::test]
async fn large_values_of_many_clients_wait_for_room_and_are_all_written() {
    const CLIENTS: usize = 120;
    let server = TestServer::start();
    let value = "x".repeat(1 << 20);
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let mut kv = server.kv().await;
        let request = put_request(&format!("large/{number}"), &value);
        clients.spawn(async move { kv.put(request).await });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap().expect("is not refused");
    }
    let all = pb::RangeRequest {
        key: bytes("large/"),
        range_end: bytes("large0"),
        count_only: true,
        ..Default::default()
    };
    assert_eq!(server.kv().await.range(all).await.unwrap().into_inner().count as usize, CLIENTS);
}

#[tokio::test]
async fn a_place_in_the_queue_of_a_lock_goes_with_the_time_of_who_asked_for_it() {
    let server = TestServer::start();
    let ask = |millis: &str| {
        let lock = folkmoot_proto::v3lockpb::LockRequest { name: bytes("queue"), lease: 0 };
        let mut request = tonic::Request::new(lock);
        request.metadata_mut().insert("grpc-timeout", millis.parse().unwrap());
        request
    };
    server.lock().await.lock(ask("60S")).await.expect("nobody holds it");
    server.lock().await.lock(ask("1S")).await.expect_err("is held");
    // The key of the second is removed behind its answer: wait for the deletion, not for time.
    let mut watcher = server.watcher().await;
    watcher
        .create(pb::WatchCreateRequest {
            key: bytes("queue/"),
            range_end: bytes("queue0"),
            start_revision: 2,
            ..Default::default()
        })
        .await;
    loop {
        let response = watcher.next().await;
        if response
            .events
            .iter()
            .any(|event| event.r#type == folkmoot_proto::mvccpb::event::EventType::Delete as i32)
        {
            break;
        }
    }
}
