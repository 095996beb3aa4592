//! Clusters that lose members, stores that are replaced, processes that are stopped or forked.

mod support;

use std::sync::Arc;
use std::time::Duration;

use folkmoot_client::{Client, ErrorKind, EventKind, Get, Keys, LostReason, Put, SessionState};
use futures_util::StreamExt as _;
use rustix::process::Signal;
use support::{Proxy, Server, Way, eventually, soon};

on_each! {
    async fn c_5_another_cluster_behind_the_endpoint_is_a_reset(server) {
        let client = server.client().await;
        let session = client.session().open().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        let mut watcher = client.watch("k").open().await.unwrap();
        let mut observer = client.observe("e").await.unwrap();
        observer.next().await.unwrap();
        server.wipe();
        let reset = eventually("a reset", async || {
            client.get("k").await.err().filter(|error| error.kind() == ErrorKind::ClusterReset)
                .or_else(|| session.check().err())
        }).await;
        assert!(matches!(reset.kind(), ErrorKind::ClusterReset | ErrorKind::SessionLost), "{reset}");
        let lost = soon("the loss", session.lost()).await;
        assert_eq!(lost.kind(), ErrorKind::SessionLost);
        eventually("the state", async || match session.state() {
            SessionState::Lost(LostReason::ClusterReset | LostReason::LeaseGone) => Some(()),
            _ => None,
        }).await;
        assert_eq!(guard.txn().put("d", "").commit().await.unwrap_err().kind(), ErrorKind::SessionLost);
        let end = soon("the end of the watch", watcher.next()).await.unwrap().unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ClusterReset, "{end}");
        // Views go on with the new store.
        let other = client.session().open().await.unwrap();
        let lead = other.election("e").campaign("new").await.unwrap();
        loop {
            if let folkmoot_client::LeaderEvent::Elected(leader) = soon("the leader", observer.next()).await.unwrap() {
                assert_eq!(leader.token, lead.token().revision);
                break;
            }
        }
    }

    async fn s_7_a_stopped_store_that_comes_back_in_time_costs_nothing(server) {
        let client = server.client().await;
        let session = client.session().ttl(Duration::from_secs(8)).open().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        server.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_secs(4)).await;
        server.signal(Signal::CONT);
        tokio::time::sleep(Duration::from_secs(5)).await;
        session.check().unwrap();
        guard.txn().put("d", "").commit().await.unwrap();
        assert!(guard.unlock().await.unwrap());
    }

    async fn m_4_a_lock_that_is_dropped_on_a_bad_connection_leaves_nothing(server) {
        let proxy = Proxy::start(&server).await;
        let direct = server.client().await;
        let client = support::client(&proxy.endpoint()).await;
        let session = client.session().ttl(Duration::from_secs(10)).open().await.unwrap();
        for n in 0..40 {
            let pause = Duration::from_micros(rand::random_range(0..8000));
            let lock = tokio::time::timeout(pause, async { session.mutex("m").lock().await });
            if n % 4 == 0 {
                let (lock, ()) = tokio::join!(lock, proxy.drop_connections());
                drop(lock);
            } else {
                drop(lock.await);
            }
        }
        eventually("an empty line", async || {
            let line = folkmoot_client::Get::prefix("m/").count_only();
            (direct.get(line).await.unwrap().count == 0).then_some(())
        }).await;
        session.check().unwrap();
    }
}

/// Two ways to one server, both of which keep what they are given, and a client of both.
async fn two_ways(server: &Server) -> ([Proxy; 2], Client) {
    let ways = [Proxy::start(server).await, Proxy::start(server).await];
    let client = Client::builder()
        .endpoints(ways.iter().map(Proxy::endpoint))
        // The first attempt has half of it.
        .request_timeout(Duration::from_secs(6))
        .connect()
        .await
        .unwrap();
    // Both connections are made.
    for _ in 0..4 {
        client.get("ready").await.unwrap();
    }
    (ways, client)
}

/// Lets the request about this key that is made now be kept on one way, and its repetition pass on the
/// other. The way that keeps. Other requests may be kept as well, such as keepalives.
async fn lose_the_first(ways: &[Proxy; 2], before: [usize; 2], key: &str) -> usize {
    let keeps =
        eventually("a request", async || (0..2).find(|n| ways[*n].holds(before[*n], key.as_bytes()))).await;
    ways[1 - keeps].set(Way::Open);
    keeps
}

fn hold(ways: &[Proxy; 2]) -> [usize; 2] {
    ways.iter().for_each(|way| way.set(Way::Hold));
    [ways[0].held(), ways[1].held()]
}

/// Waits for so many changes of a line: whether each was a put.
async fn changes(watcher: &mut folkmoot_client::Watcher, count: usize) -> Vec<bool> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let batch = soon("a change of the line", watcher.next()).await.unwrap().unwrap();
        seen.extend(batch.events.iter().map(|event| event.kind == EventKind::Put));
    }
    seen
}

on_each! {
    async fn m_4_a_request_that_arrives_after_the_unlock_leaves_no_key(server) {
        let direct = server.client().await;
        let (ways, client) = two_ways(&server).await;
        let session = client.session().ttl(Duration::from_secs(60)).open().await.unwrap();
        let mut line = direct.watch(Keys::prefix("m/")).open().await.unwrap();
        let before = hold(&ways);
        let own = session.clone();
        let lock = tokio::spawn(async move { own.mutex("m").lock().await });
        let keeps = lose_the_first(&ways, before, "m/").await;
        let guard = soon("the lock", lock).await.unwrap().unwrap();
        assert!(guard.unlock().await.unwrap());
        ways[keeps].set(Way::Open);
        assert_eq!(changes(&mut line, 4).await, [true, false, true, false], "put late, and deleted again");
        session.check().unwrap();
        // The session goes on to use the line.
        session.mutex("m").lock().await.unwrap().unlock().await.unwrap();
    }

    async fn m_4_a_line_is_swept_again_after_the_store_has_refused_it(server) {
        let direct = server.client().await;
        let auth = direct.auth();
        if let Err(error) = auth.user_add("root", Some("secret")).await {
            assert!(error.message().contains("not supported yet"), "{error}");
            continue;
        }
        auth.role_add("root").await.unwrap();
        auth.user_grant_role("root", "root").await.unwrap();
        let (ways, client) = two_ways(&server).await;
        let session = client.session().ttl(Duration::from_secs(60)).open().await.unwrap();
        let mut line = direct.watch(Keys::prefix("m/")).open().await.unwrap();
        let before = hold(&ways);
        let own = session.clone();
        let lock = tokio::spawn(async move { own.mutex("m").lock().await });
        let keeps = lose_the_first(&ways, before, "m/").await;
        assert!(soon("the lock", lock).await.unwrap().unwrap().unlock().await.unwrap());
        ways[keeps].set(Way::Open);
        assert_eq!(changes(&mut line, 4).await, [true, false, true, false], "put late, and deleted again");
        auth.enable().await.unwrap();
        let asked = || ways.iter().map(Proxy::requests).sum::<u64>();
        let before = asked();
        for way in &ways {
            way.drop_connections().await;
        }
        // Keepalives are not refused, and asked for once.
        eventually("attempts", async || (asked() >= before + 4).then_some(())).await;
        let root = Client::builder().endpoints([server.endpoint()]).auth("root", "secret");
        root.connect().await.unwrap().auth().disable().await.unwrap();
        let late = format!("m/{:x}", session.lease());
        direct.put_with(Put::new(&late, "").lease(session.lease())).await.unwrap();
        eventually("the deletion", async || (direct.get(&late).await.unwrap().count == 0).then_some(())).await;
        session.check().unwrap();
    }

    async fn m_7_a_late_attempt_to_lock_leaves_no_key(server) {
        let direct = server.client().await;
        let (ways, client) = two_ways(&server).await;
        let session = client.session().ttl(Duration::from_secs(60)).open().await.unwrap();
        let other = direct.session().open().await.unwrap();
        let held = other.mutex("m").lock().await.unwrap();
        let mut line = direct.watch(Keys::prefix("m/")).open().await.unwrap();
        let before = hold(&ways);
        let own = session.clone();
        let lock = tokio::spawn(async move { own.mutex("m").try_lock().await });
        let keeps = lose_the_first(&ways, before, "m/").await;
        let refused = soon("the refusal", lock).await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        held.unlock().await.unwrap();
        ways[keeps].set(Way::Open);
        assert_eq!(changes(&mut line, 3).await, [false, true, false], "unlocked, put late, deleted again");
    }

    async fn m_4_a_late_request_does_no_harm_to_the_next_contest_of_the_session(server) {
        let (ways, client) = two_ways(&server).await;
        let session = client.session().ttl(Duration::from_secs(60)).open().await.unwrap();
        let before = hold(&ways);
        let own = session.clone();
        let lock = tokio::spawn(async move { own.mutex("m").lock().await });
        let keeps = lose_the_first(&ways, before, "m/").await;
        assert!(soon("the lock", lock).await.unwrap().unwrap().unlock().await.unwrap());
        let guard = session.mutex("m").lock().await.unwrap();
        ways[keeps].set(Way::Open);
        // Passes on both ways, so that what was kept has arrived.
        for _ in 0..20 {
            guard.txn().put("d", "").commit().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(guard.unlock().await.unwrap());
    }

    async fn e_3_an_old_proclamation_that_arrives_late_replaces_no_newer_one(server) {
        let direct = server.client().await;
        let (ways, client) = two_ways(&server).await;
        let session = client.session().ttl(Duration::from_secs(60)).open().await.unwrap();
        let lead = Arc::new(session.election("e").campaign("0").await.unwrap());
        let before = hold(&ways);
        let own = lead.clone();
        let first = tokio::spawn(async move { own.proclaim("1").await });
        let keeps = lose_the_first(&ways, before, &format!("e/{:x}", session.lease())).await;
        soon("the first", first).await.unwrap().unwrap();
        lead.proclaim("2").await.unwrap();
        ways[keeps].set(Way::Open);
        let held = ways[keeps].held();
        assert!(held > before[keeps]);
        for n in 3..23 {
            assert_eq!(direct.leader("e").await.unwrap().unwrap().value, (n - 1).to_string());
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(direct.leader("e").await.unwrap().unwrap().value, (n - 1).to_string());
            lead.proclaim(n.to_string()).await.unwrap();
        }
        // Somebody else changed it: adopted, and then replaced.
        direct.put_with(Put::new(lead.key(), "x").lease(session.lease())).await.unwrap();
        lead.proclaim("y").await.unwrap();
        assert_eq!(direct.leader("e").await.unwrap().unwrap().value, "y");
        direct.delete(lead.key().clone()).await.unwrap();
        assert_eq!(lead.proclaim("z").await.unwrap_err().kind(), ErrorKind::NotLeader);
    }

    async fn s_2b_w_7_keepalives_and_watches_leave_a_way_that_has_become_silent(server) {
        let direct = server.client().await;
        let (ways, client) = two_ways(&server).await;
        // On the same stream, and for long in no hurry.
        let long = client.session().ttl(Duration::from_secs(600)).open().await.unwrap();
        let session = client.session().ttl(Duration::from_secs(9)).open().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        let mut watcher = client.watch("k").open().await.unwrap();
        direct.put("k", "-1").await.unwrap();
        soon("the first event", watcher.next()).await.unwrap().unwrap();
        // One of the two is the way on which the streams are.
        for (silent, way) in ways.iter().enumerate() {
            way.set(Way::BlackHole);
            direct.put("k", silent.to_string()).await.unwrap();
            let batch = soon("an event on the other way", watcher.next()).await.unwrap().unwrap();
            assert_eq!(batch.events[0].kv.value, silent.to_string());
            // Longer than the session lives without keepalives.
            tokio::time::sleep(Duration::from_secs(10)).await;
            session.check().expect("kept on the other way");
            long.check().expect("kept as well");
            way.drop_connections().await;
        }
        guard.txn().put("d", "").commit().await.unwrap();
    }

    async fn m_9_a_lost_holder_is_given_its_delay_and_one_that_unlocks_is_not(server) {
        let client = server.client().await;
        let delay = Duration::from_secs(2);
        let open = async || client.session().open().await.unwrap();
        let (left, waiting) = (open().await, open().await);
        let waits = async || {
            eventually("the waiter", async || {
                (client.get(Get::prefix("m/").count_only()).await.unwrap().count == 2).then_some(())
            })
            .await;
        };
        let ask = |delay| {
            let own = waiting.clone();
            tokio::spawn(async move { own.mutex("m").lock_delay(delay).lock().await })
        };
        let guard = left.mutex("m").lock().await.unwrap();
        let lock = ask(Duration::from_secs(3600));
        waits().await;
        guard.unlock().await.unwrap();
        soon("the lock", lock).await.unwrap().unwrap().unlock().await.unwrap();
        // Also of who goes before the next in line has seen more than that it must wait.
        for delay in [delay].into_iter().chain([Duration::from_millis(300); 10]) {
            let lost = open().await;
            let guard = lost.mutex("m").lock().await.unwrap();
            let lock = ask(delay);
            waits().await;
            let begun = std::time::Instant::now();
            client.lease_revoke(lost.lease()).await.unwrap();
            let next = soon("the lock", lock).await.unwrap().unwrap();
            assert!(begun.elapsed() >= delay, "after the delay and not before");
            next.unlock().await.unwrap();
            drop(guard);
        }
    }
}

/// The child process of the test below: holds a lock, says so, and after its pause tries to write.
#[test]
fn paused_child() {
    let Ok(endpoint) = std::env::var("SDK_TEST_PAUSED") else { return };
    futures_executor::block_on(async {
        let client = Client::connect([endpoint]).await.unwrap();
        let session = client.session().ttl(Duration::from_secs(2)).allow_short_ttl().open().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        client.put("child", "holds").await.unwrap();
        // Writes again and again, with a check before each, until it is refused.
        let error = loop {
            if let Err(error) = guard.check() {
                break error;
            }
            if let Err(error) = guard.txn().put("data", "child").commit().await {
                break error;
            }
        };
        client.put("child", error.code()).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn s_5_s_9_a_paused_process_does_no_harm_when_it_goes_on() {
    for kind in support::kinds() {
        let server = Server::start(kind);
        let client = server.client().await;
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "paused_child", "--nocapture"])
            .env("SDK_TEST_PAUSED", server.endpoint())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        eventually("the child's lock", async || {
            let state = client.get("child").await.unwrap();
            state.first().is_some_and(|kv| kv.value == "holds").then_some(())
        })
        .await;
        let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        let session = client.session().open().await.unwrap();
        let guard = soon("the lock", session.mutex("m").lock()).await.unwrap();
        guard.txn().put("data", "ours").commit().await.unwrap();
        rustix::process::kill_process(pid, Signal::CONT).unwrap();
        let code = eventually("the child's refusal", async || {
            let kv = client.get("child").await.unwrap().kvs[0].clone();
            (kv.value != "holds").then(|| kv.value_text().into_owned())
        })
        .await;
        assert!(matches!(code.as_str(), "SESSION_LOST" | "NOT_HELD"), "{code}");
        assert_eq!(client.get("data").await.unwrap().first().unwrap().value, "ours");
        child.wait().unwrap();
        guard.unlock().await.unwrap();
    }
}

/// The parent of a fork, in a process of its own with few threads.
#[test]
fn forking_child() {
    let Ok(endpoint) = std::env::var("SDK_TEST_FORK") else { return };
    let block_on = |future: std::pin::Pin<Box<dyn Future<Output = ()>>>| futures_executor::block_on(future);
    let (client, session, guard, mut watcher) = futures_executor::block_on(async {
        let client = Client::connect([endpoint]).await.unwrap();
        let session = client.session().open().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        let watcher = client.watch("k").open().await.unwrap();
        (client, session, guard, watcher)
    });
    // SAFETY: the child uses nothing of its parent's but this crate, and ends without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            block_on(Box::pin(async move {
                assert_eq!(session.check().unwrap_err().kind(), ErrorKind::Forked);
                assert_eq!(guard.check().unwrap_err().kind(), ErrorKind::Forked);
                let refused = guard.txn().put("d", "").commit().await.unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Forked);
                let end = watcher.next().await.unwrap().unwrap_err();
                assert_eq!(end.kind(), ErrorKind::Forked);
                drop(guard);
                drop(session);
                // The client itself begins afresh.
                client.put("fork", "child").await.unwrap();
                let own = client.session().open().await.unwrap();
                assert_eq!(own.mutex("m").try_lock().await.unwrap_err().kind(), ErrorKind::WouldBlock);
                own.close().await.unwrap();
            }));
        }));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(outcome.is_err())) }
    }
    let mut status = 0;
    // SAFETY: waits for the child above.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the child failed");
    block_on(Box::pin(async move {
        session.check().unwrap();
        guard.txn().put("fork", "parent").commit().await.unwrap();
        assert!(guard.unlock().await.unwrap(), "the child left it alone");
        drop(watcher);
        session.close().await.unwrap();
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn s_12_a_fork_leaves_the_parent_alone() {
    for kind in support::kinds() {
        let server = Server::start(kind);
        let client = server.client().await;
        let me = std::env::current_exe().unwrap();
        let endpoint = server.endpoint();
        let run = tokio::task::spawn_blocking(move || {
            std::process::Command::new(me)
                .args(["--exact", "forking_child", "--nocapture", "--test-threads=1"])
                .env("SDK_TEST_FORK", endpoint)
                .output()
                .unwrap()
        });
        let output = soon("the end of the fork", run).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(client.get("fork").await.unwrap().first().unwrap().value, "parent");
    }
}
