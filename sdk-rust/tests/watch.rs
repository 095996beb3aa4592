//! Watches against real servers and bad connections.

mod support;

use std::time::Duration;

use folkmoot_client::{Client, ErrorKind, EventKind, Get, Keys, Put, Txn, WhenFull};
use futures_util::StreamExt as _;
use support::{Proxy, Way, eventually, soon};

/// Puts `count` transactions of three keys each.
async fn write(client: Client, count: usize) -> i64 {
    let mut last = 0;
    for n in 0..count {
        let txn = ["k/a", "k/b", "k/c"]
            .iter()
            .fold(Txn::new(), |txn, key| txn.and_then(Put::new(key, n.to_string())));
        last = client.commit(txn).await.expect("the server is reached directly").header.revision;
    }
    last
}

on_each! {
    async fn w_1_everything_after_the_opening_is_delivered(server) {
        let client = server.client().await;
        client.put("k", "before").await.unwrap();
        let mut watcher = client.watch("k").prev().open().await.unwrap();
        client.put("other", "").await.unwrap();
        let put = client.put("k", "1").await.unwrap();
        let batch = soon("the put", watcher.next()).await.unwrap().unwrap();
        assert_eq!(batch.revision, put.header.revision);
        assert_eq!(batch.events[0].kv.value, "1");
        assert_eq!(batch.events[0].prev.as_ref().unwrap().value, "before");
        client.delete("k").await.unwrap();
        let batch = soon("the deletion", watcher.next()).await.unwrap().unwrap();
        assert_eq!(batch.events[0].kind, EventKind::Delete);
    }

    async fn w_3_w_4_dropped_connections_make_no_gap_and_no_duplicate(server) {
        let proxy = Proxy::start(&server).await;
        let writer = server.client().await;
        let client = support::client(&proxy.endpoint()).await;
        let mut watcher = client.watch(Keys::prefix("k/")).open().await.unwrap();
        let count = 400;
        let writing = tokio::spawn(write(writer, count));
        let mut revisions = Vec::new();
        while revisions.len() < count {
            let batch = soon("the next batch", watcher.next()).await.unwrap().unwrap();
            assert_eq!(batch.events.len(), 3, "a revision is whole");
            assert!(batch.events.iter().all(|event| event.kv.mod_revision == batch.revision));
            revisions.push(batch.revision);
            if revisions.len() % 50 == 10 {
                proxy.drop_connections().await;
            }
        }
        assert!(revisions.is_sorted_by(|a, b| a < b));
        assert_eq!(revisions.last(), Some(&writing.await.unwrap()));
    }

    async fn w_2_a_restart_of_the_store_is_survived(server) {
        let client = server.client().await;
        let mut watcher = client.watch("k").open().await.unwrap();
        client.put("k", "1").await.unwrap();
        assert_eq!(soon("the first", watcher.next()).await.unwrap().unwrap().events[0].kv.value, "1");
        server.restart();
        eventually("a put", async || client.put("k", "2").await.ok()).await;
        assert_eq!(soon("the second", watcher.next()).await.unwrap().unwrap().events[0].kv.value, "2");
    }

    async fn w_6_a_compacted_start_is_said(server) {
        let client = server.client().await;
        let first = client.put("k", "1").await.unwrap().header.revision;
        let second = client.put("k", "2").await.unwrap().header.revision;
        client.compact(second, true).await.unwrap();
        let mut watcher = client.watch("k").from_revision(first).open().await.unwrap();
        let error = soon("the error", watcher.next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Compacted { compact_revision: second });
        assert!(watcher.next().await.is_none());
        // Others on the same stream go on.
        let mut other = client.watch("k").open().await.unwrap();
        client.put("k", "3").await.unwrap();
        assert!(soon("an event", other.next()).await.unwrap().is_ok());
    }

    async fn w_8_a_slow_consumer_loses_nothing_and_holds_nobody_up(server) {
        let client = server.client().await;
        let mut slow = client.watch(Keys::prefix("k/")).buffer(4, 1 << 20).open().await.unwrap();
        let failing = client.watch(Keys::prefix("k/")).buffer(4, 1 << 20).when_full(WhenFull::Fail);
        let mut failing = failing.open().await.unwrap();
        let mut quick = client.watch(Keys::prefix("k/")).open().await.unwrap();
        write(client.clone(), 100).await;
        for _ in 0..100 {
            soon("the quick one", quick.next()).await.unwrap().unwrap();
        }
        let mut last = 0;
        for _ in 0..100 {
            let batch = soon("the slow one", slow.next()).await.unwrap().unwrap();
            assert!(batch.revision > last && batch.events.len() == 3);
            last = batch.revision;
        }
        for _ in 0..4 {
            failing.next().await.unwrap().unwrap();
        }
        let error = soon("the overflow", failing.next()).await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Overflow { .. }), "{error}");
    }

    async fn w_9_watches_share_streams_and_leave_none_behind(server) {
        let client = server.client().await;
        let mut watchers = Vec::new();
        for n in 0..250 {
            watchers.push(client.watch(format!("w/{n}")).open().await.unwrap());
        }
        assert_eq!(client.watch_stream_count(), 2);
        client.put("w/0", "").await.unwrap();
        client.put("w/249", "").await.unwrap();
        soon("the first", watchers[0].next()).await.unwrap().unwrap();
        soon("the last", watchers[249].next()).await.unwrap().unwrap();
        drop(watchers);
        eventually("no streams", async || (client.watch_stream_count() == 0).then_some(())).await;
    }

    async fn a_dropped_next_loses_nothing(server) {
        let client = server.client().await;
        let mut watcher = client.watch(Keys::prefix("k/")).open().await.unwrap();
        let writing = tokio::spawn(write(client.clone(), 300));
        let mut count = 0;
        while count < 300 {
            let pause = Duration::from_micros(rand::random_range(0..2000));
            if let Ok(batch) = tokio::time::timeout(pause, watcher.next()).await {
                batch.unwrap().unwrap();
                count += 1;
            }
        }
        let last = writing.await.unwrap();
        assert_eq!(client.get(Get::new("k/a")).await.unwrap().first().unwrap().mod_revision, last);
    }

    async fn a_senseless_watch_is_refused(server) {
        let client = server.client().await;
        assert_eq!(
            client.watch("k").from_revision(0).open().await.unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
        let mut empty = client.watch(Keys::range("b".."a")).from_revision(1).open().await.unwrap();
        let error = soon("the refusal", empty.next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }

    async fn w_7_a_black_hole_is_left(server) {
        let proxy = Proxy::start(&server).await;
        let direct = server.client().await;
        let client = support::client(&proxy.endpoint()).await;
        let mut watcher = client.watch("k").open().await.unwrap();
        direct.put("k", "1").await.unwrap();
        soon("the first", watcher.next()).await.unwrap().unwrap();
        proxy.set(Way::BlackHole);
        direct.put("k", "2").await.unwrap();
        // The ping goes unanswered; what was swallowed meanwhile does not come back by itself.
        let waiting = tokio::spawn(async move { watcher.next().await });
        tokio::time::sleep(Duration::from_secs(17)).await;
        proxy.set(Way::Open);
        let batch = soon("the second", waiting).await.unwrap().unwrap().unwrap();
        assert_eq!(batch.events[0].kv.value, "2");
    }
}
