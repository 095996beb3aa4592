//! Clusters that lose members, stores that are replaced, processes that are stopped or forked.

mod support;

use std::time::Duration;

use folkmoot_client::{Client, ErrorKind, LostReason, SessionState};
use futures_util::StreamExt as _;
use rustix::process::Signal;
use support::{Proxy, Server, eventually, soon};

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
