//! The registry against real servers.

#![allow(clippy::print_stderr)]

mod support;

use std::time::Duration;

use folkmoot_client::recipes::registry::{
    Health, Instance, OnConflict, Outcome, Policy, RegistrationEvent, ServiceEvent,
};
use folkmoot_client::{Client, ErrorKind, Put};
use futures_util::StreamExt as _;
use support::{Proxy, Way, eventually, soon};

on_each! {
    async fn r_1_an_instance_is_registered_once_and_found(server) {
        let client = server.client().await;
        let registry = client.registry("prod");
        let instance = || Instance::new("gw", "10.0.0.1:80").id("one").zone("a");
        let registration = registry.register(instance()).open().await.unwrap();
        let found = registry.resolve("gw").await.unwrap();
        assert_eq!((found.len(), found[0].addr(), found[0].zone.as_str()), (1, "10.0.0.1:80".into(), "a"));
        let error = registry.register(instance()).open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyRegistered);
        let second = registry.register(instance()).on_conflict(OnConflict::Suffix).open().await.unwrap();
        assert!(second.id().starts_with("one-"));
        second.deregister().await.unwrap();
        let mut registration = registration;
        let third = registry.register(instance()).on_conflict(OnConflict::Takeover).open().await.unwrap();
        assert_eq!(soon("the conflict", registration.event()).await, Some(RegistrationEvent::Conflict));
        third.deregister().await.unwrap();
        assert!(registry.resolve("gw").await.unwrap().is_empty());
        assert!(client.leases().await.unwrap().len() <= 1, "at most the one that lost is left for its time");
    }

    async fn r_2_a_lost_session_and_a_deleted_key_are_made_good(server) {
        let client = server.client().await;
        let registry = client.registry("prod");
        let mut registration = registry.register(Instance::new("gw", "h:1").id("one")).open().await.unwrap();
        let key = "services/prod/gw/one";
        let lease = client.get(key).await.unwrap().kvs[0].lease;
        client.lease_revoke(lease).await.unwrap();
        let event = soon("the second session", async {
            loop {
                // The deletion by the lease may be seen before the loss of the session.
                if let Some(RegistrationEvent::Reregistered { epoch }) = registration.event().await {
                    break epoch;
                }
            }
        }).await;
        assert_eq!(event, 2);
        let kv = client.get(key).await.unwrap().kvs[0].clone();
        assert_ne!(kv.lease, lease);
        client.delete(key).await.unwrap();
        eventually("the key", async || (client.get(key).await.unwrap().count == 1).then_some(())).await;
        registration.deregister().await.unwrap();
        assert_eq!(client.get(key).await.unwrap().count, 0);
    }

    async fn r_2_what_was_compacted_away_before_it_was_seen_is_read(server) {
        let direct = server.client().await;
        let way = Proxy::start(&server).await;
        let client = folkmoot_client::Client::connect([way.endpoint()]).await.unwrap();
        let instance = Instance::new("gw", "h:1").id("one");
        let registration =
            client.registry("prod").register(instance).ttl(Duration::from_secs(60)).open().await.unwrap();
        let key = "services/prod/gw/one";
        // Twice: what was read the first time is where the next watch begins.
        for _ in 0..2 {
            way.set(Way::Cut);
            way.drop_connections().await;
            let kv = direct.get(key).await.unwrap().kvs[0].clone();
            let draining = String::from_utf8(kv.value.to_vec()).unwrap().replace("\"UP\"", "\"MAINTENANCE\"");
            direct.put_with(Put::new(key, draining).lease(kv.lease)).await.unwrap();
            let revision = direct.put("other", "").await.unwrap().header.revision;
            direct.compact(revision, false).await.unwrap();
            way.set(Way::Open);
            // Heeded: what the process says from now on is written, and only then.
            eventually("the store", async || client.get(key).await.ok()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            registration.set_health(Health::Up);
            eventually("the health", async || {
                let kv = direct.get(key).await.unwrap().kvs[0].clone();
                (kv.mod_revision > revision && kv.value.windows(4).any(|part| part == b"\"UP\"")).then_some(())
            })
            .await;
        }
        way.set(Way::Cut);
        way.drop_connections().await;
        direct.delete(key).await.unwrap();
        let revision = direct.put("other", "").await.unwrap().header.revision;
        direct.compact(revision, false).await.unwrap();
        way.set(Way::Open);
        eventually("the key", async || (direct.get(key).await.unwrap().count == 1).then_some(())).await;
        registration.deregister().await.unwrap();
    }

    async fn r_4_r_5_subscribers_see_registration_draining_and_end(server) {
        let client = server.client().await;
        let registry = client.registry("prod");
        client.put("services/prod/gw/foreign", r#"{"Op":0,"Addr":"h:9"}"#).await.unwrap();
        client.put("services/prod/gw/nonsense", "x").await.unwrap();
        let mut subscription = registry.subscribe("gw").await.unwrap();
        let ServiceEvent::Snapshot { instances, .. } = subscription.next().await.unwrap() else { panic!() };
        assert_eq!((instances.len(), instances[0].addr()), (1, "h:9".into()));
        assert_eq!(subscription.skipped(), 1);
        let registration = registry.register(Instance::new("gw", "h:1").id("one")).open().await.unwrap();
        let mut delta = async |what: &str| loop {
            match soon(what, subscription.next()).await.unwrap() {
                ServiceEvent::Delta { added, updated, removed, resync, .. } => {
                    assert!(!resync);
                    break (added, updated, removed);
                }
                ServiceEvent::Stale | ServiceEvent::Fresh => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(delta("the instance").await.0[0].id, "one");
        registration.drain(Duration::from_millis(10)).await.unwrap();
        assert_eq!(delta("the draining").await.1[0].health, Health::Draining);
        registration.deregister().await.unwrap();
        assert_eq!(delta("the end").await.2[0].id, "one");
    }

    async fn r_4_an_operator_drains_and_the_process_keeps_it_so(server) {
        let client = server.client().await;
        let registry = client.registry("prod");
        // Its health check, which says that all is well, does not end a draining.
        let mut registration = registry
            .register(Instance::new("gw", "h:1").id("one"))
            .health(async || Health::Up)
            .await
            .unwrap();
        let health = async |wanted: Health| {
            eventually("the health", async || {
                let instances = registry.resolve("gw").await.unwrap();
                instances.iter().any(|one| one.id == "one" && one.health == wanted).then_some(())
            })
            .await;
        };
        client.registry("prod").set_health("gw", "one", Health::Draining).await.unwrap();
        health(Health::Draining).await;
        // The record is put anew, and says the same: nothing that this process wrote knew of it before.
        let key = "services/prod/gw/one";
        let lease = client.get(key).await.unwrap().kvs[0].lease;
        client.lease_revoke(lease).await.unwrap();
        let event = soon("the new registration", registration.event()).await;
        assert_eq!(event, Some(RegistrationEvent::Reregistered { epoch: 2 }));
        health(Health::Draining).await;
        assert_ne!(client.get(key).await.unwrap().kvs[0].lease, lease);
        registry.set_health("gw", "one", Health::Up).await.unwrap();
        health(Health::Up).await;
        // What the process says itself comes later and counts.
        registration.set_health(Health::Degraded);
        health(Health::Degraded).await;
        registration.deregister().await.unwrap();
        let none = registry.set_health("gw", "one", Health::Up).await.unwrap_err();
        assert_eq!(none.kind(), ErrorKind::NotFound, "{none}");
        client.put(key, r#"{"Op":0,"Addr":"h:9","Metadata":"text"}"#).await.unwrap();
        let foreign = registry.set_health("gw", "one", Health::Up).await.unwrap_err();
        assert_eq!(foreign.kind(), ErrorKind::FailedPrecondition, "{foreign}");
    }

    async fn r_4_the_time_to_drain_begins_when_it_is_in_the_registry(server) {
        let proxy = Proxy::start(&server).await;
        let direct = server.client().await;
        let client = support::client(&proxy.endpoint()).await;
        let registration =
            client.registry("prod").register(Instance::new("gw", "h:1").id("one")).open().await.unwrap();
        proxy.set(Way::Cut);
        let draining = tokio::spawn(async move { registration.drain(Duration::from_secs(60)).await });
        proxy.set(Way::Open);
        eventually("the draining", async || {
            let instances = direct.registry("prod").resolve("gw").await.unwrap();
            (instances[0].health == Health::Draining).then_some(())
        })
        .await;
        assert!(!draining.is_finished(), "clients have had no time");
        draining.abort();
        eventually("the end of what was dropped", async || {
            direct.registry("prod").resolve("gw").await.unwrap().is_empty().then_some(())
        })
        .await;
    }

    async fn r_5_a_subscription_is_a_stream_too(server) {
        let client = server.client().await;
        let registry = client.registry("prod");
        let mut events = registry.subscribe("gw").await.unwrap().into_stream();
        let first = soon("the list", events.next()).await.unwrap().unwrap();
        assert!(matches!(first, ServiceEvent::Snapshot { instances, .. } if instances.is_empty()));
        let registration = registry.register(Instance::new("gw", "h:1").id("one")).open().await.unwrap();
        loop {
            if let ServiceEvent::Delta { added, .. } = soon("the instance", events.next()).await.unwrap().unwrap() {
                assert_eq!(added[0].id, "one");
                break;
            }
        }
        registration.deregister().await.unwrap();
    }

    async fn r_5_the_last_known_instances_stay_while_the_store_is_away(server) {
        let proxy = Proxy::start(&server).await;
        let direct = server.client().await;
        let client = support::client(&proxy.endpoint()).await;
        let one = direct.registry("prod").register(Instance::new("gw", "h:1").id("one")).open().await.unwrap();
        let balancer = client.registry("prod").balancer("gw", Policy::RoundRobin).await.unwrap();
        let mut subscription = client.registry("prod").subscribe("gw").await.unwrap();
        subscription.next().await.unwrap();
        proxy.set(Way::Cut);
        while soon("staleness", subscription.next()).await.unwrap() != ServiceEvent::Stale {}
        assert_eq!(balancer.pick().unwrap().addr(), "h:1");
        let two = direct.registry("prod").register(Instance::new("gw", "h:2").id("two")).open().await.unwrap();
        one.deregister().await.unwrap();
        // The history in between is gone, so that only the difference can be told.
        let revision = direct.get("x").await.unwrap().header.revision;
        direct.compact(revision, true).await.unwrap();
        assert_eq!(balancer.pick().unwrap().addr(), "h:1");
        proxy.set(Way::Open);
        loop {
            if let ServiceEvent::Delta { added, removed, .. } = soon("the difference", subscription.next()).await.unwrap() {
                assert!(added.iter().any(|instance| instance.id == "two") || removed.iter().any(|instance| instance.id == "one"));
                break;
            }
        }
        eventually("the other instance", async || {
            balancer.pick().is_ok_and(|pick| pick.addr() == "h:2").then_some(())
        }).await;
        two.deregister().await.unwrap();
    }

    async fn r_5_a_balancer_whose_right_is_taken_away_goes_on_when_it_is_given_back(server) {
        let root = server.client().await;
        if let Err(error) = root.auth().user_add("root", Some("secret")).await {
            assert!(error.message().contains("not supported yet"), "{error}");
            eprintln!("skipped: {error}");
            continue;
        }
        root.auth().role_add("root").await.unwrap();
        root.auth().user_grant_role("root", "root").await.unwrap();
        let known = Client::builder().endpoints([server.endpoint()]).auth("root", "secret").connect().await.unwrap();
        let one = known.registry("prod").register(Instance::new("gw", "h:1").id("one")).open().await.unwrap();
        let proxy = Proxy::start(&server).await;
        let client = support::client(&proxy.endpoint()).await;
        let balancer = client.registry("prod").balancer("gw", Policy::RoundRobin).await.unwrap();
        root.auth().enable().await.unwrap();
        eventually("the login", async || known.get("k").await.ok()).await;
        // Rights count when a watch begins, so it has to begin anew; asked for more than once, it was refused.
        let before = proxy.requests();
        proxy.drop_connections().await;
        eventually("refusals", async || (proxy.requests() >= before + 3).then_some(())).await;
        let two = known.registry("prod").register(Instance::new("gw", "h:2").id("two")).open().await.unwrap();
        one.deregister().await.unwrap();
        assert_eq!(balancer.pick().unwrap().addr(), "h:1", "the last known one");
        known.auth().disable().await.unwrap();
        eventually("the other instance", async || {
            balancer.pick().is_ok_and(|pick| pick.addr() == "h:2").then_some(())
        }).await;
        two.deregister().await.unwrap();
    }

    async fn lb_6_picks_are_spread_and_failing_instances_left_out(server) {
        let client = server.client().await;
        let registry = client.registry("prod");
        let none = registry.balancer("gw", Policy::P2c).await.unwrap();
        let error = none.pick().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoInstances);
        let mut registrations = Vec::new();
        for n in 0..3 {
            let instance = Instance::new("gw", format!("h{n}:1")).id(format!("{n}"));
            registrations.push(registry.register(instance).open().await.unwrap());
        }
        let balancer = registry.balancer("gw", Policy::RoundRobin).await.unwrap();
        let mut picked: Vec<String> = (0..3).map(|_| balancer.pick().unwrap().addr()).collect();
        picked.sort();
        assert_eq!(picked, ["h0:1", "h1:1", "h2:1"]);
        for _ in 0..15 {
            let pick = balancer.pick().unwrap();
            let outcome = if pick.addr() == "h1:1" { Outcome::Failure } else { Outcome::Success };
            pick.done_with(outcome, Duration::from_millis(1));
        }
        assert!((0..10).all(|_| balancer.pick().unwrap().addr() != "h1:1"));
        registrations[0].set_health(Health::Down);
        eventually("one left", async || {
            (0..4).all(|_| balancer.pick().unwrap().addr() == "h2:1").then_some(())
        }).await;
    }

    async fn r_4_an_operator_drains_the_instance_of_another_process(server) {
        let (client, operator) = (server.client().await, server.client().await);
        let mut registration = client.registry("prod").register(Instance::new("gw", "h:1").id("one").zone("a")).open().await.unwrap();
        let key = "services/prod/gw/one";
        let before = client.get(key).await.unwrap().kvs[0].clone();
        let registry = operator.registry("prod");
        registry.set_health("gw", "one", Health::Draining).await.unwrap();
        let after = client.get(key).await.unwrap().kvs[0].clone();
        assert_eq!((after.lease, after.create_revision), (before.lease, before.create_revision));
        let found = registry.resolve("gw").await.unwrap();
        assert_eq!((found.len(), found[0].health, found[0].zone.as_str()), (1, Health::Draining, "a"));
        // The same again changes nothing.
        registry.set_health("gw", "one", Health::Draining).await.unwrap();
        assert_eq!(client.get(key).await.unwrap().kvs[0].mod_revision, after.mod_revision);
        // The owner still has it: it may change it again and take it out.
        registration.set_health(Health::Degraded);
        eventually("the owner's word", async || {
            (registry.resolve("gw").await.unwrap()[0].health == Health::Degraded).then_some(())
        }).await;
        let mut events = registration.events();
        registration.deregister().await.unwrap();
        assert_eq!(soon("the end", events.next()).await, None, "no conflict was seen");
        assert_eq!(client.get(key).await.unwrap().count, 0);
        let error = registry.set_health("gw", "one", Health::Up).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        for (service, id) in [("gw", ""), ("gw", "a/b"), ("a/b", "one")] {
            let error = registry.set_health(service, id, Health::Up).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        client.put(key, "x").await.unwrap();
        let error = registry.set_health("gw", "one", Health::Up).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    }

    async fn a_senseless_instance_is_refused(server) {
        let registry = server.client().await.registry("prod");
        for instance in [Instance::new("", "h:1"), Instance::new("a/b", "h:1"), Instance::new("a", "")] {
            assert_eq!(registry.register(instance).open().await.unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        assert_eq!(registry.resolve("a/b").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
