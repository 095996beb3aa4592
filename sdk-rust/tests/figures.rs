//! Promises that are numbers: many cancellations, a long line, round trips, many subscribers.

// Figures are printed for whoever wants to see them: `cargo test --test figures -- --nocapture`.
#![allow(clippy::print_stderr)]

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use folkmoot_client::recipes::registry::{Instance, ServiceEvent};
use folkmoot_client::{Client, Get, Guard, Session};
use support::{Kind, Proxy, Server, eventually, soon};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Cancellations of a lock, and as many of a campaign.
const CANCELS: usize = 1000;
/// Who stands in the long line.
const WAITERS: usize = 10_000;
/// Hand-overs that are measured, in so many rounds.
const HAND_OVERS: u64 = 10;
const ROUNDS: usize = 5;
const SUBSCRIBERS: usize = 1000;

async fn nobody_waits(client: &Client, prefix: &str) {
    eventually("the end of the line", async || {
        (client.get(Get::prefix(prefix).count_only()).await.unwrap().count == 0).then_some(())
    })
    .await;
}

/// Sessions that send no keepalive while the test runs.
async fn sessions(client: &Client, count: usize) -> Vec<Session> {
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let client = client.clone();
        opening.spawn(async move { client.session().ttl(Duration::from_secs(7200)).open().await });
    }
    opening.join_all().await.into_iter().map(|session| session.expect("the store is there")).collect()
}

/// A line for one mutex. Whoever holds it comes out of the channel.
async fn line(client: &Client, count: usize) -> mpsc::UnboundedReceiver<Guard> {
    let (holders, next) = mpsc::unbounded_channel();
    let mut done = 0;
    while done < count {
        let some = sessions(client, 64.min(count - done)).await;
        done += some.len();
        for session in some {
            let holders = holders.clone();
            tokio::spawn(async move {
                let guard = session.mutex("line").lock().await.expect("nobody disturbs it");
                drop(holders.send(guard));
            });
        }
    }
    eventually("the line", async || {
        let keys = client.get(Get::prefix("line/").count_only()).await.ok()?.count;
        (keys == count as i64).then_some(())
    })
    .await;
    next
}

/// Bytes per hand-over, and the create revisions of the holders in their turn.
async fn hand_over(proxy: &Proxy, next: &mut mpsc::UnboundedReceiver<Guard>) -> (u64, Vec<i64>) {
    let mut turns = Vec::new();
    let mut holder = soon("the first holder", next.recv()).await.expect("there is one");
    let mut least = u64::MAX;
    // The least of some rounds: the last of the line may still be told that they wait.
    for _ in 0..ROUNDS {
        let before = proxy.carried();
        for _ in 0..HAND_OVERS {
            turns.push(holder.token().revision);
            holder.unlock().await.unwrap();
            holder = soon("the next holder", next.recv()).await.expect("there is one");
        }
        least = least.min((proxy.carried() - before) / HAND_OVERS);
    }
    turns.push(holder.token().revision);
    (least, turns)
}

/// Calls of each method that have reached etcd so far; streams are not among them. Not those that it has
/// answered: it may count one only after the client has had the answer.
fn calls_by_method(server: &Server) -> BTreeMap<String, u64> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let mut counts = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains("grpc_type=\"unary\"")) {
        let Some(labels) = line.strip_prefix("grpc_server_started_total") else { continue };
        let method = labels.split("grpc_method=\"").nth(1).and_then(|rest| rest.split('"').next());
        let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
        if let (Some(method), Some(count)) = (method, count) {
            *counts.entry(method.to_owned()).or_default() += count as u64;
        }
    }
    assert!(!counts.is_empty(), "etcd counts its calls");
    counts
}

/// All of them.
fn calls(server: &Server) -> u64 {
    calls_by_method(server).values().sum()
}

on_each! {
    async fn m_4_a_thousand_cancelled_locks_leave_nobody(server) {
        let client = server.client().await;
        let session = client.session().open().await.unwrap();
        let other = client.session().open().await.unwrap();
        for n in 0..CANCELS {
            // Held by the other now and then, so that some wait and some are granted as they give up.
            let holder = match n % 4 {
                0 => Some(soon("the lock", other.mutex("m").lock()).await.unwrap()),
                _ => None,
            };
            let pause = Duration::from_micros(rand::random_range(0..4000));
            drop(tokio::time::timeout(pause, async { session.mutex("m").lock().await }).await);
            if let Some(holder) = holder {
                holder.unlock().await.unwrap();
            }
        }
        nobody_waits(&client, "m/").await;
        soon("the lock", session.mutex("m").lock()).await.unwrap().unlock().await.unwrap();
    }

    async fn e_1_a_thousand_cancelled_campaigns_leave_nobody(server) {
        let client = server.client().await;
        let session = client.session().open().await.unwrap();
        let other = client.session().open().await.unwrap();
        for n in 0..CANCELS {
            let leader = match n % 4 {
                0 => Some(soon("the leadership", other.election("e").campaign("other")).await.unwrap()),
                _ => None,
            };
            let pause = Duration::from_micros(rand::random_range(0..4000));
            drop(tokio::time::timeout(pause, async { session.election("e").campaign("v").await }).await);
            if let Some(leader) = leader {
                leader.resign().await.unwrap();
            }
        }
        nobody_waits(&client, "e/").await;
        soon("the leadership", session.election("e").campaign("v")).await.unwrap().resign().await.unwrap();
    }

    async fn m_2_a_hand_over_costs_the_same_in_a_line_of_ten_thousand(server) {
        let direct = server.client().await;
        let mut costs = Vec::new();
        // etcd reads its whole history again and again for so many watches that begin in the past; ten
        // thousand take it minutes and gigabytes.
        let longest = if server.kind == Kind::Etcd { WAITERS / 10 } else { WAITERS };
        for waiters in [100, longest] {
            let proxy = Proxy::start(&server).await;
            let client = support::client(&proxy.endpoint()).await;
            let mut next = line(&client, waiters).await;
            // A store with ten thousand new watches may need a while.
            let keys = eventually("the keys", async || direct.get(Get::prefix("line/")).await.ok()).await;
            let mut line: Vec<i64> = keys.kvs.iter().map(|kv| kv.create_revision).collect();
            line.sort_unstable();
            let (bytes, turns) = hand_over(&proxy, &mut next).await;
            assert_eq!(turns, line[..turns.len()], "first come, first served");
            eprintln!("{waiters} waiters: {bytes} bytes a hand-over");
            costs.push(bytes);
            proxy.set(support::Way::Cut);
            // The next line begins with nobody.
            if waiters < longest {
                let mut revoking = JoinSet::new();
                for lease in keys.kvs.iter().map(|kv| kv.lease) {
                    let direct = direct.clone();
                    revoking.spawn(async move { direct.lease_revoke(lease).await });
                }
                // Some were revoked by those who had their turn.
                drop(revoking.join_all().await);
                nobody_waits(&direct, "line/").await;
            }
        }
        assert!(costs[1] <= costs[0] * 2, "{costs:?}");
    }

    async fn m_2_an_uncontended_lock_is_two_calls_and_unlocking_one(server) {
        if server.kind != Kind::Etcd {
            // The same client makes the same calls, and it is etcd that counts them.
            continue;
        }
        let client = server.client().await;
        let session = client.session().open().await.unwrap();
        session.mutex("warm").lock().await.unwrap().unlock().await.unwrap();
        let begun = calls(&server);
        let guard = session.mutex("m").lock().await.unwrap();
        let locked = calls(&server);
        guard.unlock().await.unwrap();
        let unlocked = calls(&server);
        assert!((1..=2).contains(&(locked - begun)), "{}", locked - begun);
        assert_eq!(unlocked - locked, 1);
    }

    async fn r_5_a_thousand_subscribers_hear_of_a_change_without_a_list(server) {
        let client = server.client().await;
        let registry = client.registry("prod");
        let first = registry.register(Instance::new("gw", "h:1").id("one")).open().await.unwrap();
        let (told, mut tellings) = mpsc::unbounded_channel();
        let ready = Arc::new(tokio::sync::Semaphore::new(0));
        let mut following = JoinSet::new();
        for _ in 0..SUBSCRIBERS {
            let (registry, told, ready) = (registry.clone(), told.clone(), ready.clone());
            following.spawn(async move {
                let mut subscription = registry.subscribe("gw").await.unwrap();
                loop {
                    match subscription.next().await.unwrap() {
                        ServiceEvent::Snapshot { .. } => ready.add_permits(1),
                        ServiceEvent::Delta { added, resync, .. } => {
                            assert!(!resync, "a change is told as a change");
                            if added.iter().any(|instance| instance.id == "two") {
                                told.send(Instant::now()).unwrap();
                                return;
                            }
                        }
                        ServiceEvent::Stale | ServiceEvent::Fresh => {}
                    }
                }
            });
        }
        drop(soon("the subscribers", ready.acquire_many(SUBSCRIBERS as u32)).await.unwrap());
        let before = (server.kind == Kind::Etcd).then(|| calls_by_method(&server));
        let begun = Instant::now();
        let second = registry.register(Instance::new("gw", "h:2").id("two")).open().await.unwrap();
        let mut times = Vec::new();
        for _ in 0..SUBSCRIBERS {
            times.push(soon("a telling", tellings.recv()).await.unwrap() - begun);
        }
        times.sort_unstable();
        eprintln!("{SUBSCRIBERS} subscribers: p50 {:?}, p99 {:?}", times[SUBSCRIBERS / 2], times[SUBSCRIBERS * 99 / 100]);
        if let Some(before) = before {
            let mut made = calls_by_method(&server);
            made.iter_mut().for_each(|(method, count)| *count -= before.get(method).unwrap_or(&0));
            made.retain(|_, count| *count > 0);
            assert!(made.values().sum::<u64>() < 20, "a lease, a record, and no thousand lists: {made:?}");
        }
        following.join_all().await;
        second.deregister().await.unwrap();
        first.deregister().await.unwrap();
    }
}
