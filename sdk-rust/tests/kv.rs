//! Keys, transactions, leases and errors against real servers.

#![allow(clippy::print_stderr)]

mod support;

use std::time::Duration;

use folkmoot_client::{Client, Compare, Delete, ErrorKind, Get, Is, Keys, Order, Put, SortBy, Txn};
use support::{Proxy, Way, eventually, soon};

on_each! {
    async fn a_value_that_was_put_is_read_back(server) {
        let client = server.client().await;
        let put = client.put("a", "1").await.unwrap();
        let got = client.get("a").await.unwrap();
        assert_eq!(got.first().unwrap().value, "1");
        assert_eq!(got.first().unwrap().mod_revision, put.header.revision);
        let prev = client.put_with(Put::new("a", "2").prev()).await.unwrap().prev.unwrap();
        assert_eq!(prev.value, "1");
        let old = client.get(Get::new("a").at_revision(put.header.revision)).await.unwrap();
        assert_eq!(old.first().unwrap().value, "1");
        assert_eq!(client.delete("a").await.unwrap().deleted, 1);
        assert!(client.get("a").await.unwrap().first().is_none());
    }

    async fn ranges_are_limited_sorted_and_counted(server) {
        let client = server.client().await;
        for key in ["p/a", "p/c", "p/b", "q"] {
            client.put(key, "").await.unwrap();
        }
        let newest = Get::prefix("p/").sort(SortBy::Create, Order::Descending).limit(1);
        let answer = client.get(newest).await.unwrap();
        assert_eq!((answer.first().unwrap().key_text().as_ref(), answer.more, answer.count), ("p/b", true, 3));
        let some = client.get(Keys::range("p/b".."q")).await.unwrap();
        assert_eq!(some.kvs.len(), 2);
        assert_eq!(client.get(Get::new(Keys::all()).count_only()).await.unwrap().count, 4);
        assert_eq!(client.delete(Delete::prefix("p/").prev()).await.unwrap().prev.len(), 3);
    }

    async fn a_transaction_does_one_of_two_lists(server) {
        let client = server.client().await;
        let take = || client.txn().when(Compare::absent("n")).put("n", "mine").or_else(Get::new("n"));
        assert!(take().commit().await.unwrap().succeeded);
        let second = take().commit().await.unwrap();
        assert!(!second.succeeded);
        assert_eq!(second.get(0).unwrap().first().unwrap().value, "mine");
        let nested = Txn::new().and_then(Put::new("in", "1"));
        let answer = client.txn().when(Compare::value("n", Is::Equal, "mine")).and_then(nested).commit().await;
        assert!(answer.unwrap().succeeded);
        assert_eq!(client.get("in").await.unwrap().count, 1);
    }

    async fn a_namespace_hides_itself(server) {
        let client = server.client().await;
        let inside = client.namespace("t/");
        inside.put("k", "v").await.unwrap();
        client.put("u", "outside").await.unwrap();
        assert_eq!(client.get("t/k").await.unwrap().count, 1);
        let all = inside.get(Keys::all()).await.unwrap();
        assert_eq!(all.kvs.len(), 1);
        assert_eq!(all.kvs[0].key, "k");
        let txn = inside.txn().when(Compare::exists("k")).delete(Keys::all()).commit().await.unwrap();
        assert!(txn.succeeded);
        assert_eq!(client.get(Keys::all()).await.unwrap().count, 1);
    }

    async fn a_lease_takes_its_keys_with_it(server) {
        let client = server.client().await;
        let lease = client.lease_grant(Duration::from_secs(60)).await.unwrap();
        client.put_with(Put::new("l", "").lease(lease.id)).await.unwrap();
        let left = client.lease_ttl(lease.id, true).await.unwrap().unwrap();
        assert_eq!((left.granted, left.keys), (Duration::from_secs(60), vec!["l".into()]));
        assert!(client.leases().await.unwrap().contains(&lease.id));
        assert_eq!(client.lease_keep_alive_once(lease.id).await.unwrap().ttl, Duration::from_secs(60));
        assert!(client.lease_revoke(lease.id).await.unwrap());
        assert!(!client.lease_revoke(lease.id).await.unwrap());
        assert_eq!(client.get("l").await.unwrap().count, 0);
        assert!(client.lease_ttl(lease.id, false).await.unwrap().is_none());
        let gone = client.lease_keep_alive_once(lease.id).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::LeaseNotFound);
    }

    async fn c_8_refusals_have_their_kinds(server) {
        let client = server.client().await;
        let error = client.put("", "v").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.endpoint(), Some(server.endpoint().as_str()));
        let error = client.put_with(Put::new("k", "v").lease(12345)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LeaseNotFound);
        let many = (0..200).fold(Txn::new(), |txn, n| txn.and_then(Put::new(format!("k{n}"), "")));
        assert_eq!(client.commit(many).await.unwrap_err().kind(), ErrorKind::TooManyOps);
        let revision = client.put("k", "1").await.unwrap().header.revision;
        client.put("k", "2").await.unwrap();
        client.compact(revision + 1, true).await.unwrap();
        let error = client.get(Get::new("k").at_revision(revision)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");
    }

    async fn c_3_a_write_whose_answer_is_lost_is_ambiguous_and_a_read_is_repeated(server) {
        let proxy = Proxy::start(&server).await;
        let client = support::client(&proxy.endpoint()).await;
        proxy.set(Way::BlackHole);
        let lost = tokio::spawn({
            let client = client.clone();
            async move { client.put("k", "v").await }
        });
        let read = tokio::spawn({
            let client = client.clone();
            async move { client.get("k").await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.set(Way::Cut);
        let error = soon("the end of the put", lost).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Ambiguous, "{error}");
        assert!(error.maybe_applied() && !error.is_retryable());
        proxy.set(Way::Open);
        soon("the read", read).await.unwrap().unwrap();
    }

    async fn c_3_a_write_that_was_not_sent_is_sent_later(server) {
        let proxy = Proxy::start(&server).await;
        let client = support::client(&proxy.endpoint()).await;
        server.kill();
        proxy.set(Way::Cut);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let put = tokio::spawn({
            let client = client.clone();
            async move { client.put("k", "v").await }
        });
        server.restart();
        proxy.set(Way::Open);
        match soon("the put", put).await.unwrap() {
            Ok(_) => assert_eq!(client.get("k").await.unwrap().count, 1),
            // The proxy takes a connection and closes it, which may look like a lost answer.
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Ambiguous), "{error}"),
        }
    }

    async fn c_2_a_dead_endpoint_does_not_matter(server) {
        let dead = "http://127.0.0.1:1".to_owned();
        let client = Client::connect([dead, server.endpoint()]).await.unwrap();
        for n in 0..20 {
            soon("an answer", client.put("k", n.to_string())).await.unwrap();
        }
    }

    async fn c_3_a_silent_endpoint_does_not_use_up_the_time_of_a_read(server) {
        let proxy = Proxy::start(&server).await;
        let client = Client::connect([proxy.endpoint(), server.endpoint()]).await.unwrap();
        for _ in 0..4 {
            client.get("k").await.unwrap();
        }
        proxy.set(Way::BlackHole);
        for _ in 0..4 {
            client.get("k").await.expect("the other endpoint answers in time");
        }
    }

    async fn auth_is_used_and_tokens_are_renewed(server) {
        let root = server.client().await;
        let auth = root.auth();
        if let Err(error) = auth.user_add("root", Some("secret")).await {
            assert!(error.message().contains("not supported yet"), "{error}");
            eprintln!("skipped: {error}");
            continue;
        }
        auth.role_add("root").await.unwrap();
        auth.user_grant_role("root", "root").await.unwrap();
        auth.enable().await.unwrap();
        let wrong = Client::builder().endpoints([server.endpoint()]).auth("root", "wrong").connect().await;
        assert_eq!(wrong.unwrap_err().kind(), ErrorKind::AuthFailed);
        assert_eq!(root.get("k").await.unwrap_err().kind(), ErrorKind::AuthFailed);
        let client =
            Client::builder().endpoints([server.endpoint()]).auth("root", "secret").connect().await.unwrap();
        client.put("k", "1").await.unwrap();
        // Tokens live in memory, so a restart makes them unknown.
        server.restart();
        eventually("a put with a new token", async || client.put("k", "2").await.ok()).await;
        let mut watcher = client.watch("k").open().await.unwrap();
        server.restart();
        eventually("another", async || client.put("k", "3").await.ok()).await;
        use futures_util::StreamExt as _;
        let batch = soon("the event", watcher.next()).await.unwrap().unwrap();
        assert_eq!(batch.events[0].kv.value, "3");
        client.auth().disable().await.unwrap();
    }

    async fn a_member_tells_about_itself(server) {
        let client = server.client().await;
        let endpoint = server.endpoint();
        let status = client.status(&endpoint).await.unwrap();
        assert_eq!(status.leader, status.header.member_id);
        assert_eq!(client.members().await.unwrap().len(), 1);
        assert!(client.alarms().await.unwrap().is_empty());
        client.put("k", "v").await.unwrap();
        assert_ne!(client.hash_kv(&endpoint, 0).await.unwrap().hash, 0);
        use futures_util::StreamExt as _;
        let mut pieces = client.snapshot(&endpoint).await.unwrap();
        let mut bytes = 0;
        while let Some(piece) = pieces.next().await {
            bytes += piece.unwrap().len();
        }
        assert!(bytes > 32);
        client.defragment(&endpoint).await.unwrap();
        assert_eq!(client.status("http://127.0.0.1:9").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    async fn a_closed_client_says_so(server) {
        let client = server.client().await;
        let mut watcher = client.watch("k").open().await.unwrap();
        client.close();
        assert_eq!(client.get("k").await.unwrap_err().kind(), ErrorKind::Closed);
        use futures_util::StreamExt as _;
        let end = soon("the end of the watch", watcher.next()).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), ErrorKind::Closed);
        assert!(watcher.next().await.is_none());
    }
}

#[test]
fn no_runtime_of_the_caller_is_needed() {
    for kind in support::kinds() {
        let server = support::Server::start(kind);
        futures_executor::block_on(async {
            let client = Client::connect([server.endpoint()]).await.unwrap();
            client.put("k", "v").await.unwrap();
            let session = client.session().open().await.unwrap();
            let guard = session.mutex("m").lock().await.unwrap();
            guard.unlock().await.unwrap();
            session.close().await.unwrap();
        });
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_named() {
    let client = Client::builder()
        .endpoints(["127.0.0.1:1"])
        .request_timeout(Duration::from_millis(300))
        .connect()
        .await;
    let error = client.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(!error.maybe_applied());
    assert_eq!(error.endpoint(), Some("http://127.0.0.1:1"));
    assert!(error.to_string().contains("refused"), "{error}");
}
