//! The figures that recipes are measured by: cancels, long lines, round trips, many subscribers and
//! many leases. Counts are asserted; times are only printed.

// Figures are for people who look at the log.
#![allow(clippy::print_stderr)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use folkmoot_client::recipes::registry::{Instance, ServiceEvent};
use folkmoot_client::{Client, Get, Put, Session, Txn};
use support::{Proxy, eventually, soon};

const CANCELS: usize = 1000;
const SUBSCRIBERS: usize = 1000;
const LEASES: usize = 1000;
/// How many leases share a stream (S-2b).
const LEASES_PER_STREAM: usize = 64;

async fn session(client: &Client) -> Session {
    client.session().ttl(Duration::from_secs(60)).open().await.unwrap()
}

async fn count(client: &Client, prefix: &str) -> i64 {
    client.get(Get::prefix(prefix).count_only()).await.unwrap().count
}

async fn waiters(client: &Client, prefix: &str, expected: i64) {
    eventually("the waiters", async || (count(client, prefix).await == expected).then_some(())).await;
}

/// How many sessions stand in line; `SDK_TEST_WAITERS=10000` is the full size, for a release build.
fn line_length() -> usize {
    let wanted = std::env::var("SDK_TEST_WAITERS").ok();
    wanted.map_or(300, |text| text.parse().expect("SDK_TEST_WAITERS is a number"))
}

/// Puts so many keys in line under one lease, as other clients' waiters would.
async fn stand_in_line(client: &Client, session: &Session, name: &str, from: usize, to: usize) {
    const KEYS_PER_TXN: usize = 100;
    for begin in (from..to).step_by(KEYS_PER_TXN) {
        let keys = begin..to.min(begin + KEYS_PER_TXN);
        let txn = keys.fold(Txn::new(), |txn, n| {
            txn.and_then(Put::new(format!("{name}/w{n:05}"), "").lease(session.lease()))
        });
        client.commit(txn).await.unwrap();
    }
}

/// Waits until clients have sent what they had to send.
async fn quiet(proxy: &Proxy) {
    let sent = || (proxy.requests(), proxy.messages());
    eventually("the quiet", async || {
        let before = sent();
        tokio::time::sleep(Duration::from_millis(200)).await;
        (sent() == before).then_some(())
    })
    .await;
}

on_each! {
    async fn m_4_a_thousand_cancelled_locks_leave_no_key_and_no_holder(server) {
        let client = server.client().await;
        let (held, waiting) = (session(&client).await, session(&client).await);
        let mut granted = 0;
        // Half of them in line behind a holder, half of them while it is free.
        let holder = held.mutex("m").lock().await.unwrap();
        for _ in 0..CANCELS / 2 {
            let pause = Duration::from_micros(rand::random_range(0..5000));
            assert!(tokio::time::timeout(pause, async { waiting.mutex("m").lock().await }).await.is_err());
        }
        waiters(&client, "m/", 1).await;
        assert!(holder.unlock().await.unwrap());
        for _ in 0..CANCELS / 2 {
            let pause = Duration::from_micros(rand::random_range(0..4000));
            let lock = tokio::time::timeout(pause, async { waiting.mutex("m").lock().await }).await;
            granted += usize::from(lock.is_ok());
        }
        eprintln!("{granted} of {} were granted before they were cancelled", CANCELS / 2);
        // The sessions live on, so that no key goes because a lease ends.
        waiters(&client, "m/", 0).await;
        waiting.check().unwrap();
        assert!(soon("the lock", held.mutex("m").lock()).await.unwrap().unlock().await.unwrap());
    }

    async fn e_1_a_thousand_cancelled_campaigns_leave_no_key_and_no_leader(server) {
        let client = server.client().await;
        let (held, waiting) = (session(&client).await, session(&client).await);
        let mut granted = 0;
        let leader = held.election("e").campaign("leader").await.unwrap();
        for n in 0..CANCELS / 2 {
            let pause = Duration::from_micros(rand::random_range(0..5000));
            let campaign = async { waiting.election("e").campaign(n.to_string()).await };
            assert!(tokio::time::timeout(pause, campaign).await.is_err());
        }
        waiters(&client, "e/", 1).await;
        assert!(leader.resign().await.unwrap());
        for n in 0..CANCELS / 2 {
            let pause = Duration::from_micros(rand::random_range(0..4000));
            let campaign = async { waiting.election("e").campaign(n.to_string()).await };
            granted += usize::from(tokio::time::timeout(pause, campaign).await.is_ok());
        }
        eprintln!("{granted} of {} were granted before they were cancelled", CANCELS / 2);
        waiters(&client, "e/", 0).await;
        waiting.check().unwrap();
        assert!(client.leader("e").await.unwrap().is_none());
        let next = soon("the next", held.election("e").campaign("next")).await.unwrap();
        assert_eq!(client.leader("e").await.unwrap().unwrap().value, "next");
        assert!(next.resign().await.unwrap());
    }

    async fn m_2_a_long_line_is_served_in_the_order_of_create_revisions(server) {
        let client = server.client().await;
        let length = line_length();
        let holder = session(&client).await.mutex("m").lock().await.unwrap();
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for _ in 0..length {
            let (session, order) = (session(&client).await, order.clone());
            tasks.push(tokio::spawn(async move {
                let guard = session.mutex("m").lock().await.unwrap();
                order.lock().push(guard.token().revision);
                assert!(guard.unlock().await.unwrap());
                session.close().await.unwrap();
            }));
        }
        waiters(&client, "m/", length as i64 + 1).await;
        let line = client.get(Get::prefix("m/")).await.unwrap();
        let mut expected: Vec<i64> = line.kvs.iter().map(|kv| kv.create_revision).collect();
        expected.sort_unstable();
        let begun = Instant::now();
        assert!(holder.unlock().await.unwrap());
        for task in tasks {
            soon("the turn", task).await.unwrap();
        }
        eprintln!("{length} hand-overs took {:?}", begun.elapsed());
        assert_eq!(*order.lock(), expected[1..], "each had it in its turn");
        assert_eq!(count(&client, "m/").await, 0);
    }

    async fn m_3_the_work_of_a_hand_over_does_not_grow_with_the_line(server) {
        let direct = server.client().await;
        let proxy = Proxy::start(&server).await;
        let client = support::client(&proxy.endpoint()).await;
        let rest = session(&direct).await;
        let (one, two) = (session(&client).await, session(&client).await);
        let mut works = Vec::new();
        let mut behind = 0;
        for length in [100, 10_000] {
            // A line of its own for each length: the two are in front, the others behind.
            let name = format!("m{length}");
            let holder = one.mutex(&name).lock().await.unwrap();
            let own = two.clone();
            let other = name.clone();
            let lock = tokio::spawn(async move { own.mutex(&other).lock().await });
            let prefix = format!("{name}/");
            waiters(&direct, &prefix, 2).await;
            stand_in_line(&direct, &rest, &name, behind, behind + length).await;
            behind += length;
            waiters(&direct, &prefix, length as i64 + 2).await;
            let before = (proxy.carried(), proxy.requests(), proxy.messages());
            assert!(holder.unlock().await.unwrap());
            let guard = soon("the lock", lock).await.unwrap().unwrap();
            let work = (proxy.carried() - before.0, proxy.requests() - before.1, proxy.messages() - before.2);
            eprintln!("{length} in line: {} bytes, {} requests, {} messages", work.0, work.1, work.2);
            works.push(work);
            assert!(guard.unlock().await.unwrap());
        }
        let [few, many] = works[..] else { unreachable!("two lengths") };
        assert!(few.0 > 0 && few.1 > 0, "the hand-over went through the proxy");
        assert!(many.0 <= few.0 * 2, "bytes grow with the line");
        assert!(many.1 <= few.1 * 2 && many.2 <= few.2 * 2, "requests grow with the line");
    }

    async fn m_2_a_lock_that_is_free_costs_two_requests_and_its_release_one(server) {
        let proxy = Proxy::start(&server).await;
        let client = support::client(&proxy.endpoint()).await;
        let session = session(&client).await;
        // The streams of keepalives and watches are there once and shared: a holder's watch of its own
        // key is a message on one of them, for which nobody waits.
        let _watcher = client.watch("else").open().await.unwrap();
        quiet(&proxy).await;
        for _ in 0..10 {
            let before = proxy.requests();
            let guard = session.mutex("m").lock().await.unwrap();
            let held = proxy.requests();
            assert!((1..=2).contains(&(held - before)), "{} requests for a lock", held - before);
            assert!(guard.unlock().await.unwrap());
            assert_eq!(proxy.requests() - held, 1, "one request for the release");
        }
    }

    async fn r_5_a_thousand_subscribers_are_told_of_a_change_without_another_list(server) {
        let direct = server.client().await;
        let proxy = Proxy::start(&server).await;
        let client = support::client(&proxy.endpoint()).await;
        let registry = client.registry("prod");
        let before = proxy.requests();
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..SUBSCRIBERS {
            let mut subscription = registry.subscribe("gw").await.unwrap();
            let ServiceEvent::Snapshot { instances, .. } = subscription.next().await.unwrap() else { panic!() };
            assert!(instances.is_empty());
            let told = told.clone();
            tokio::spawn(async move {
                while let Ok(event) = subscription.next().await {
                    if let ServiceEvent::Delta { added, resync, .. } = event {
                        let fine = !resync && added.len() == 1 && added[0].id == "one";
                        let _ = told.send((fine, Instant::now()));
                    }
                }
            });
        }
        assert!(proxy.requests() - before >= SUBSCRIBERS as u64, "each made its list");
        // All watches are there before the change, so that none of their beginnings is counted.
        quiet(&proxy).await;
        let asked = proxy.requests();
        let begun = Instant::now();
        let registration = direct.registry("prod").register(Instance::new("gw", "h:1").id("one")).open().await.unwrap();
        let mut times = Vec::new();
        while times.len() < SUBSCRIBERS {
            let (fine, at) = soon("the change", tells.recv()).await.unwrap();
            assert!(fine, "exactly the instance that was added");
            times.push(at.duration_since(begun));
        }
        times.sort_unstable();
        eprintln!("told after: median {:?}, p99 {:?}", times[SUBSCRIBERS / 2], times[SUBSCRIBERS * 99 / 100]);
        assert_eq!(proxy.requests(), asked, "nobody asked for anything");
        registration.deregister().await.unwrap();
    }

    async fn s_2b_a_thousand_leases_are_kept_on_streams_of_sixty_four(server) {
        let proxy = Proxy::start(&server).await;
        let client = support::client(&proxy.endpoint()).await;
        let before = proxy.requests();
        let mut sessions = Vec::new();
        for _ in 0..LEASES {
            sessions.push(client.session().ttl(Duration::from_secs(9)).open().await.unwrap());
        }
        // A renewal that is overdue is repeated on a stream of its own, which a slow machine may see.
        let streams = proxy.requests() - before - LEASES as u64;
        let expected = LEASES.div_ceil(LEASES_PER_STREAM) as u64;
        eprintln!("{LEASES} leases on {streams} streams");
        assert!((expected..=expected * 2).contains(&streams), "{streams} streams instead of {expected}");
        // Each is renewed four times, which takes longer than it lives without.
        let sent = proxy.messages();
        eventually("the renewals", async || (proxy.messages() - sent >= 4 * LEASES as u64).then_some(())).await;
        assert!(sessions.iter().all(|session| session.check().is_ok()));
        assert!(proxy.requests() - before - LEASES as u64 <= expected * 2, "renewals begin no streams");
    }
}
