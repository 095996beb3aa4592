//! Configuration against real servers.

#![cfg(feature = "config")]

mod support;

use std::time::Duration;

use folkmoot_client::recipes::config::{ConfigEvent, ConfigWatch, Source};
use folkmoot_client::{Client, ErrorKind};
use futures_util::StreamExt as _;
use serde::Deserialize;
use support::{Proxy, Way, soon};

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Gateway {
    timeout_ms: u64,
    #[serde(default)]
    upstreams: Vec<String>,
}

async fn changed<T>(
    watch: &mut ConfigWatch<T>,
    what: &str,
) -> folkmoot_client::recipes::config::ConfigChange<T> {
    match soon(what, watch.next()).await.unwrap() {
        ConfigEvent::Changed(change) => change,
        ConfigEvent::Rejected(rejection) => panic!("{rejection:?}"),
    }
}

on_each! {
    async fn cf_4_a_configuration_is_a_stream_too(server) {
        let client = server.client().await;
        client.config("gw").publish().set("timeout_ms", "1").commit().await.unwrap();
        let watch = client.config("gw").typed::<Gateway>().open().await.unwrap();
        let mut events = watch.clone().into_stream();
        for wanted in 1..4 {
            let event = soon("a change", events.next()).await.unwrap().unwrap();
            let ConfigEvent::Changed(change) = event else { panic!("{event:?}") };
            assert_eq!(change.new.timeout_ms, wanted);
            client.put("config/gw/items/timeout_ms", (wanted + 1).to_string()).await.unwrap();
        }
    }

    async fn cf_4_cf_5_changes_are_followed_and_bad_ones_refused(server) {
        let client = server.client().await;
        let config = client.config("gw");
        let nothing = config.typed::<Gateway>().open().await.unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::InvalidConfig);
        config.publish().set("timeout_ms", "500").set("upstreams.yaml", "- a\n- b\n").commit().await.unwrap();
        let check = |_: Option<&Gateway>, new: &Gateway| match new.timeout_ms {
            0 => Err("a timeout is not zero"),
            _ => Ok(()),
        };
        let mut watch = config.typed::<Gateway>().validate(check).open().await.unwrap();
        let first = changed(&mut watch, "the first").await;
        assert_eq!(*first.new, Gateway { timeout_ms: 500, upstreams: vec!["a".into(), "b".into()] });
        assert!(first.old.is_none() && first.source == Source::Live);
        client.put("config/gw/items/timeout_ms", "600").await.unwrap();
        let second = changed(&mut watch, "the second").await;
        assert_eq!((second.new.timeout_ms, second.changed_paths), (600, vec!["timeout_ms".to_owned()]));
        assert_eq!(second.old.unwrap().timeout_ms, 500);
        for (bad, kind) in [("zero", ErrorKind::InvalidConfig), ("0", ErrorKind::Rejected)] {
            client.put("config/gw/items/timeout_ms", bad).await.unwrap();
            let ConfigEvent::Rejected(rejection) = soon("a refusal", watch.next()).await.unwrap() else { panic!() };
            assert_eq!(rejection.error.kind(), kind, "{:?}", rejection.error);
            assert_eq!(watch.current().timeout_ms, 600);
        }
        // The same once more is no news; what comes after it is the next news.
        client.put("config/gw/items/timeout_ms", "600").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.put("config/gw/items/timeout_ms", "700").await.unwrap();
        assert_eq!(changed(&mut watch, "the third").await.new.timeout_ms, 700);
    }

    async fn cf_2_a_reader_never_sees_half_a_publication(server) {
        let client = server.client().await;
        let config = client.config("flip");
        let publish = |value: usize| {
            (0..50).fold(config.publish(), |publish, n| publish.set(format!("k{n:02}"), value.to_string()))
        };
        publish(0).commit().await.unwrap();
        type All = std::collections::BTreeMap<String, usize>;
        let mut watch = config.typed::<All>().debounce(Duration::from_millis(1)).open().await.unwrap();
        for value in 1..=60 {
            publish(value).commit().await.unwrap();
        }
        loop {
            let change = changed(&mut watch, "the last").await;
            let first = change.new["k00"];
            assert!(change.new.len() == 50 && change.new.values().all(|value| *value == first));
            if first == 60 {
                break;
            }
        }
    }

    async fn cf_2_a_publication_on_old_ground_is_refused(server) {
        let config = server.client().await.config("gw");
        config.publish().set("a", "1").commit().await.unwrap();
        let (items, revision) = config.items().await.unwrap();
        assert_eq!(items, [("a".to_owned(), "1".into())]);
        config.publish().set("a", "2").based_on(revision).commit().await.unwrap();
        let error = config.publish().set("a", "3").based_on(revision).commit().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(config.get("a").await.unwrap().unwrap(), "2");
        assert_eq!(config.publish().set("a.json", "{").commit().await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    }

    async fn cf_6_the_disk_helps_while_the_store_is_away(server) {
        let proxy = Proxy::start(&server).await;
        let direct = server.client().await;
        let dir = tempfile::tempdir().unwrap();
        direct.config("gw").publish().set("timeout_ms", "500").commit().await.unwrap();
        let client = support::client(&proxy.endpoint()).await;
        let open = async |client: &Client| {
            let typed = client.config("gw").typed::<Gateway>().cache_dir(dir.path());
            typed.initial_timeout(Duration::from_millis(500)).open().await
        };
        open(&client).await.unwrap();
        proxy.set(Way::Cut);
        direct.config("gw").publish().set("timeout_ms", "600").commit().await.unwrap();
        let fresh = Client::builder().endpoints([proxy.endpoint()]).connect_lazy().unwrap();
        let mut watch = open(&fresh).await.unwrap();
        let first = changed(&mut watch, "the cached one").await;
        assert_eq!((first.new.timeout_ms, first.source), (500, Source::DiskCache));
        let uncached = fresh.config("gw").typed::<Gateway>().initial_timeout(Duration::from_millis(100));
        assert_eq!(uncached.open().await.unwrap_err().kind(), ErrorKind::Unavailable);
        proxy.set(Way::Open);
        let live = changed(&mut watch, "the live one").await;
        assert_eq!((live.new.timeout_ms, live.source), (600, Source::Live));
    }

    async fn cf_9_a_namespace_lies_over_another(server) {
        let client = server.client().await;
        client.config("base").publish().set("timeout_ms", "1").set("upstreams.json", "[\"x\"]").commit().await.unwrap();
        client.config("gw").publish().set("timeout_ms", "2").commit().await.unwrap();
        let mut watch = client.config("gw").typed::<Gateway>().extends("base").open().await.unwrap();
        let first = changed(&mut watch, "the first").await;
        assert_eq!(*first.new, Gateway { timeout_ms: 2, upstreams: vec!["x".into()] });
        client.config("gw").publish().remove("timeout_ms").commit().await.unwrap();
        assert_eq!(changed(&mut watch, "what is below").await.new.timeout_ms, 1);
        client.config("base").publish().set("timeout_ms", "3").commit().await.unwrap();
        assert_eq!(changed(&mut watch, "a change below").await.new.timeout_ms, 3);
    }

    async fn cf_10_too_much_is_refused(server) {
        let client = server.client().await;
        let config = client.config("gw");
        let large = config.publish().set("a.txt", vec![b'a'; (1 << 20) + 1]);
        assert_eq!(large.commit().await.unwrap_err().kind(), ErrorKind::InvalidArgument);
        let many = (0..129).fold(config.publish(), |publish, n| publish.set(format!("k{n}"), "1"));
        assert_eq!(many.commit().await.unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(config.publish().commit().await.unwrap_err().kind(), ErrorKind::InvalidArgument);
        for namespace in ["", "a/b", "..", ".x"] {
            let publish = client.config(namespace).publish().set("a", "1");
            assert_eq!(publish.commit().await.unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }
}
