//! Three members, of which one at a time goes away.

#![allow(clippy::print_stderr)]

mod support;

use std::time::Duration;

use folkmoot_client::{Client, Keys};
use futures_util::StreamExt as _;
use support::{Cluster, Proxy, eventually, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s_7_w_3_the_loss_of_the_leader_costs_neither_a_lock_nor_an_event() {
    for kind in support::kinds() {
        eprintln!("against {kind:?}");
        let mut cluster = Cluster::start(kind);
        let client = Client::builder()
            .endpoints(cluster.endpoints())
            .request_timeout(Duration::from_secs(20))
            .connect()
            .await
            .unwrap();
        eventually("a leader", async || client.get("ready").await.ok()).await;
        let session = client.session().ttl(Duration::from_secs(15)).open().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        let waiting = client.session().ttl(Duration::from_secs(15)).open().await.unwrap();
        let own = waiting.clone();
        let waiter = tokio::spawn(async move { own.mutex("m").lock().await });
        let mut watcher = client.watch(Keys::prefix("k/")).open().await.unwrap();
        let writer = client.clone();
        let writing = tokio::spawn(async move {
            let mut revisions = Vec::new();
            for n in 0..300 {
                // A write whose end is not known may have been applied; the watch will tell.
                if let Ok(put) = writer.put("k/a", n.to_string()).await {
                    revisions.push(put.header.revision);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            revisions
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = eventually("the leader", async || {
            for (index, endpoint) in cluster.endpoints().iter().enumerate() {
                let status = client.status(endpoint).await.ok()?;
                if status.leader == status.header.member_id {
                    return Some(index);
                }
            }
            None
        })
        .await;
        cluster.kill(leader);
        let acknowledged = soon("the writes", writing).await.unwrap();
        let last = *acknowledged.last().expect("some were acknowledged");
        let mut seen = Vec::new();
        while seen.last() < Some(&last) {
            seen.push(soon("the events", watcher.next()).await.unwrap().unwrap().revision);
        }
        assert!(seen.is_sorted_by(|a, b| a < b));
        assert!(acknowledged.iter().all(|revision| seen.binary_search(revision).is_ok()), "no gap");
        session.check().expect("the session is kept");
        guard.txn().put("d", "").commit().await.expect("the lock is kept");
        assert!(!waiter.is_finished(), "the waiter keeps its place");
        cluster.restart(leader);
        guard.unlock().await.unwrap();
        let next = soon("the waiter's turn", waiter).await.unwrap().unwrap();
        next.unlock().await.unwrap();
    }
}

/// The member that leads, by its place and its id.
async fn leader(client: &Client, cluster: &Cluster) -> (usize, u64) {
    eventually("the leader", async || {
        for (index, endpoint) in cluster.endpoints().iter().enumerate() {
            let status = client.status(endpoint).await.ok()?;
            if status.leader == status.header.member_id {
                return Some((index, status.leader));
            }
        }
        None
    })
    .await
}

async fn connect(endpoints: Vec<String>) -> Client {
    let timeout = Duration::from_secs(20);
    let client = Client::builder().endpoints(endpoints).request_timeout(timeout).connect().await.unwrap();
    eventually("a leader", async || client.get("ready").await.ok()).await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_6_a_stream_leaves_a_member_that_has_no_leader() {
    for kind in support::kinds() {
        eprintln!("against {kind:?}");
        let mut cluster = Cluster::start(kind);
        let direct = connect(cluster.endpoints()).await;
        let proxy = Proxy::start(cluster.member(0)).await;
        let client = connect(vec![proxy.endpoint()]).await;
        let mut watcher = client.watch("k").open().await.unwrap();
        let first = direct.put("k", "1").await.unwrap().header.revision;
        assert_eq!(soon("the first event", watcher.next()).await.unwrap().unwrap().revision, first);
        let before = proxy.requests();
        cluster.kill(1);
        cluster.kill(2);
        // The connection stays: only the end of the stream makes the client ask again.
        eventually("another attempt", async || (proxy.requests() > before).then_some(())).await;
        cluster.restart(1);
        let second = eventually("a write", async || direct.put("k", "2").await.ok()).await.header.revision;
        // Writes whose end was not known may have come before the one that was acknowledged.
        loop {
            let batch = soon("the event", watcher.next()).await.unwrap().unwrap();
            assert!(batch.revision > first && batch.revision <= second);
            if batch.revision == second {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s_7_another_leader_by_request_costs_neither_a_lock_nor_an_event() {
    for kind in support::kinds() {
        eprintln!("against {kind:?}");
        let cluster = Cluster::start(kind);
        let client = connect(cluster.endpoints()).await;
        let session = client.session().ttl(Duration::from_secs(15)).open().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        let mut watcher = client.watch("k").open().await.unwrap();
        for n in 0..3 {
            let (index, old) = leader(&client, &cluster).await;
            let next = (index + 1) % 3;
            let wanted = client.status(&cluster.endpoints()[next]).await.unwrap().header.member_id;
            client.move_leader(&cluster.endpoints()[index], wanted).await.unwrap();
            eventually("the new leader", async || {
                let status = client.status(&cluster.endpoints()[next]).await.ok()?;
                (status.leader == wanted && status.leader != old).then_some(())
            })
            .await;
            let revision = eventually("a write", async || client.put("k", n.to_string()).await.ok())
                .await
                .header
                .revision;
            while soon("the event", watcher.next()).await.unwrap().unwrap().revision < revision {}
            guard.txn().put("d", "").commit().await.expect("the lock is kept");
        }
        assert!(guard.unlock().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_1_all_members_are_replaced_under_a_client_that_was_told_of_one() {
    for kind in support::kinds() {
        eprintln!("against {kind:?}");
        let mut cluster = Cluster::start(kind);
        let first = cluster.endpoints();
        connect(first.clone()).await;
        let client = Client::builder()
            .endpoints([&cluster.endpoints()[0]])
            .auto_sync(Duration::from_secs(1))
            .request_timeout(Duration::from_secs(20))
            .connect()
            .await
            .unwrap();
        let session = client.session().ttl(Duration::from_secs(30)).open().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        let mut watcher = client.watch("k").open().await.unwrap();
        for index in 0..3 {
            // Of a member that it was not told of it has learned from the others.
            let others = cluster.endpoints();
            for endpoint in &others {
                eventually("a member that was learned", async || client.status(endpoint).await.ok()).await;
            }
            cluster.replace(&client, index).await;
            let fresh = &cluster.endpoints()[index];
            eventually("the new member", async || client.status(fresh).await.ok()).await;
            let revision = eventually("a write", async || client.put("k", index.to_string()).await.ok())
                .await
                .header
                .revision;
            while soon("the event", watcher.next()).await.unwrap().unwrap().revision < revision {}
            guard.txn().put("d", "").commit().await.expect("the lock is kept");
        }
        // Nobody who was there at first is there any more.
        let old = Client::builder().endpoints(first).request_timeout(Duration::from_secs(1));
        assert!(old.connect().await.is_err());
        assert!(guard.unlock().await.unwrap());
    }
}

#[tokio::test]
async fn c_1_members_that_are_asked_too_often_are_not_asked() {
    let often = Client::builder().endpoints(["127.0.0.1:1"]).auto_sync(Duration::from_millis(999));
    let error = often.connect_lazy().unwrap_err();
    assert!(error.to_string().contains("auto_sync=999ms"), "{error}");
}
