//! Mutex and Election against real servers, other clients and sudden ends.

mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use folkmoot_client::{Client, Compare, ErrorKind, Get, Is, LeaderEvent, Put, Session, SessionState};
use futures_util::StreamExt as _;
use support::{Proxy, Way, eventually, soon};

async fn session(client: &Client) -> Session {
    client.session().ttl(Duration::from_secs(10)).open().await.unwrap()
}

async fn count(client: &Client, prefix: &str) -> i64 {
    client.get(Get::prefix(prefix).count_only()).await.unwrap().count
}

async fn waiters(client: &Client, prefix: &str, expected: i64) {
    eventually("the waiters", async || (count(client, prefix).await == expected).then_some(())).await;
}

on_each! {
    async fn m_7_a_key_that_came_late_and_is_not_first_is_no_lock(server) {
        let client = server.client().await;
        let (one, two) = (session(&client).await, session(&client).await);
        let held = one.mutex("m").lock().await.unwrap();
        // As an attempt to lock that was given up, and arrives only now.
        let late = format!("m/{:x}", two.lease());
        client.put_with(Put::new(&late, "").lease(two.lease())).await.unwrap();
        assert_eq!(two.mutex("m").try_lock().await.unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(client.get(late).await.unwrap().count, 0, "it is out of the line");
        held.unlock().await.unwrap();
        two.mutex("m").try_lock().await.unwrap().unlock().await.unwrap();
    }

    async fn m_7_trying_takes_over_an_earlier_attempts_key_with_what_it_says_itself(server) {
        let client = server.client().await;
        let session = session(&client).await;
        let late = format!("m/{:x}", session.lease());
        client.put_with(Put::new(&late, "old").lease(session.lease())).await.unwrap();
        let guard = session.mutex("m").owner("new").try_lock().await.unwrap();
        let contenders = session.mutex("m").contenders().await.unwrap();
        assert_eq!((contenders.len(), contenders[0].owner.as_ref()), (1, &b"new"[..]));
        assert!(guard.unlock().await.unwrap());
    }

    async fn m_7_trying_with_a_session_whose_lease_is_gone_says_that_it_is_lost(server) {
        let client = server.client().await;
        let session = session(&client).await;
        client.lease_revoke(session.lease()).await.unwrap();
        let error = session.mutex("m").try_lock().await.unwrap_err();
        assert_eq!(error.kind(), session.check().unwrap_err().kind(), "{error}");
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
    }

    async fn m_1_what_is_forgotten_is_held_until_the_session_ends(server) {
        let client = server.client().await;
        let (one, two) = (session(&client).await, session(&client).await);
        one.mutex("m").lock().await.unwrap().forget();
        assert_eq!(one.mutex("m").try_lock().await.unwrap_err().kind(), ErrorKind::WouldBlock);
        let own = one.clone();
        let again = tokio::spawn(async move { own.mutex("m").lock().await });
        let other = tokio::spawn(async move { two.mutex("m").lock().await });
        waiters(&client, "m/", 2).await;
        one.close().await.unwrap();
        assert_eq!(soon("the refusal", again).await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
        soon("the lock", other).await.unwrap().unwrap().unlock().await.unwrap();
    }

    async fn e_2_a_campaign_that_finds_a_key_of_its_session_proclaims_its_own_value(server) {
        let client = server.client().await;
        let session = session(&client).await;
        // As an earlier campaign that was given up, and whose request arrives only now.
        let late = format!("e/{:x}", session.lease());
        client.put_with(Put::new(&late, "old").lease(session.lease())).await.unwrap();
        let lead = session.election("e").campaign("new").await.unwrap();
        assert_eq!(client.leader("e").await.unwrap().unwrap().value, "new");
        lead.proclaim("newer").await.unwrap();
        assert_eq!(client.leader("e").await.unwrap().unwrap().value, "newer");
        assert!(lead.resign().await.unwrap());
    }

    async fn m_2_holders_take_turns_in_the_order_in_which_they_asked(server) {
        let client = server.client().await;
        let first = session(&client).await.mutex("m").lock().await.unwrap();
        let mut tasks = Vec::new();
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        for n in 0..5 {
            let (session, order) = (session(&client).await, order.clone());
            tasks.push(tokio::spawn(async move {
                let guard = session.mutex("m").lock().await.unwrap();
                order.lock().push((n, guard.token().revision));
                guard.unlock().await.unwrap();
            }));
            waiters(&client, "m/", n + 2).await;
        }
        assert!(first.unlock().await.unwrap());
        for task in tasks {
            soon("the turn", task).await.unwrap();
        }
        let order = order.lock().clone();
        assert_eq!(order.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(order.is_sorted_by(|a, b| a.1 < b.1), "tokens grow");
        assert_eq!(count(&client, "m/").await, 0);
    }

    async fn m_1_tasks_of_one_session_exclude_each_other(server) {
        let session = session(&server.client().await).await;
        let inside = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..20).map(|_| {
            let (session, inside) = (session.clone(), inside.clone());
            tokio::spawn(async move {
                let guard = session.mutex("m").lock().await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                drop(guard);
            })
        }).collect();
        for task in tasks {
            soon("the turn", task).await.unwrap();
        }
    }

    async fn m_4_a_cancelled_lock_leaves_no_waiter_key(server) {
        let client = server.client().await;
        let holder = session(&client).await.mutex("m").lock().await.unwrap();
        let waiting = session(&client).await;
        for n in 0..150 {
            let pause = Duration::from_micros(rand::random_range(0..6000));
            let lock = tokio::time::timeout(pause, async { waiting.mutex("m").lock().await }).await;
            assert!(lock.is_err(), "it is held, at try {n}");
        }
        waiters(&client, "m/", 1).await;
        holder.unlock().await.unwrap();
        // Also when it is free, so that some are granted at the moment at which they are dropped.
        for _ in 0..150 {
            let pause = Duration::from_micros(rand::random_range(0..3000));
            drop(tokio::time::timeout(pause, async { waiting.mutex("m").lock().await }).await);
        }
        waiters(&client, "m/", 0).await;
        let guard = soon("the lock", waiting.mutex("m").lock()).await.unwrap();
        assert_eq!(count(&client, "m/").await, 1);
        drop(guard);
        waiters(&client, "m/", 0).await;
    }

    async fn m_3_a_waiter_whose_key_is_deleted_is_told(server) {
        let client = server.client().await;
        let holder = session(&client).await.mutex("m").lock().await.unwrap();
        let waiting = session(&client).await;
        let lease = waiting.lease();
        let lock = tokio::spawn(async move { waiting.mutex("m").lock().await });
        waiters(&client, "m/", 2).await;
        client.delete(format!("m/{lease:x}")).await.unwrap();
        let error = soon("the error", lock).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotHeld, "{error}");
        holder.unlock().await.unwrap();
    }

    async fn m_3_a_waiter_whose_session_ends_is_no_holder_later(server) {
        let client = server.client().await;
        let holder = session(&client).await.mutex("m").lock().await.unwrap();
        let waiting = session(&client).await;
        let lease = waiting.lease();
        let lock = tokio::spawn(async move { waiting.mutex("m").lock().await });
        waiters(&client, "m/", 2).await;
        client.lease_revoke(lease).await.unwrap();
        let error = soon("the error", lock).await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SessionLost | ErrorKind::NotHeld), "{error}");
        holder.unlock().await.unwrap();
        assert_eq!(count(&client, "m/").await, 0);
    }

    async fn m_3_a_compaction_does_not_wake_a_waiter_wrongly(server) {
        let client = server.client().await;
        let holder = session(&client).await.mutex("m").lock().await.unwrap();
        let waiting = session(&client).await;
        let lock = tokio::spawn(async move { waiting.mutex("m").lock().await });
        waiters(&client, "m/", 2).await;
        let revision = client.put("x", "").await.unwrap().header.revision;
        client.compact(revision, true).await.unwrap();
        client.put("x", "").await.unwrap();
        assert!(!lock.is_finished());
        holder.unlock().await.unwrap();
        soon("the lock", lock).await.unwrap().unwrap().unlock().await.unwrap();
    }

    async fn m_6_unlocking_never_deletes_a_newer_lock(server) {
        let client = server.client().await;
        let session = session(&client).await;
        let guard = session.mutex("m").lock().await.unwrap();
        let key = guard.key().clone();
        client.delete(key.clone()).await.unwrap();
        client.put_with(Put::new(&key, "newer").lease(session.lease())).await.unwrap();
        assert!(!guard.unlock().await.unwrap(), "it was not held any more");
        assert_eq!(client.get(key).await.unwrap().first().unwrap().value, "newer");
    }

    async fn m_7_trying_takes_only_what_is_free(server) {
        let client = server.client().await;
        let (one, two) = (session(&client).await, session(&client).await);
        let guard = one.mutex("m").try_lock().await.unwrap();
        let revision = guard.token().revision;
        assert_eq!(two.mutex("m").try_lock().await.unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(one.mutex("m").try_lock().await.unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(client.get("m").await.unwrap().header.revision, revision, "trying writes nothing");
        guard.unlock().await.unwrap();
        let guard = two.mutex("m").owner("two").try_lock().await.unwrap();
        let contenders = one.mutex("m").contenders().await.unwrap();
        assert_eq!((contenders.len(), contenders[0].owner.as_ref()), (1, &b"two"[..]));
        guard.unlock().await.unwrap();
    }

    async fn m_8_a_broken_lock_is_lost(server) {
        let client = server.client().await;
        let guard = session(&client).await.mutex("m").lock().await.unwrap();
        // Whether the deletion comes before the wait or after makes no difference.
        client.delete(guard.key().clone()).await.unwrap();
        let error = soon("the loss", guard.lost()).await;
        assert_eq!(error.kind(), ErrorKind::NotHeld);
        let refused = guard.txn().put("data", "late").commit().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotHeld);
        assert_eq!(client.get("data").await.unwrap().count, 0);
    }

    async fn s_9_a_fenced_transaction_is_applied_only_by_the_holder(server) {
        let client = server.client().await;
        let guard = session(&client).await.mutex("m").lock().await.unwrap();
        guard.txn().put("data", "1").commit().await.unwrap();
        let other = guard.txn().when(Compare::value("data", Is::Equal, "2")).put("data", "3");
        let answer = other.or_else(Get::new("data")).commit().await.unwrap();
        assert!(!answer.succeeded, "the caller's own condition does not hold");
        assert_eq!(answer.get(0).unwrap().first().unwrap().value, "1");
        assert_eq!(guard.token().revision, client.get(guard.key().clone()).await.unwrap().kvs[0].create_revision);
        guard.unlock().await.unwrap();
    }

    async fn s_5_after_a_partition_a_guarded_call_fails_without_asking(server) {
        let proxy = Proxy::start(&server).await;
        let direct = server.client().await;
        let client = support::client(&proxy.endpoint()).await;
        let session = client.session().ttl(Duration::from_secs(2)).allow_short_ttl().open().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        let other = tokio::spawn({
            let session = direct.session().open().await.unwrap();
            async move { session.mutex("m").lock().await.map(|guard| (guard, session)) }
        });
        waiters(&direct, "m/", 2).await;
        proxy.set(Way::BlackHole);
        assert_eq!(soon("the loss", guard.lost()).await.kind(), ErrorKind::SessionLost);
        assert!(!other.is_finished(), "nobody else has it before we know that it is lost");
        let refused = guard.txn().put("data", "late").commit().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::SessionLost);
        let (next, _session) = soon("the next holder", other).await.unwrap().unwrap();
        assert!(next.token().revision > guard.token().revision);
        next.unlock().await.unwrap();
    }

    async fn e_1_candidates_lead_one_after_the_other(server) {
        let client = server.client().await;
        let (one, two) = (session(&client).await, session(&client).await);
        let mut observer = client.observe("e").await.unwrap();
        assert!(matches!(observer.next().await.unwrap(), LeaderEvent::Vacant { .. }));
        let first = one.election("e").campaign("one").await.unwrap();
        let campaign = tokio::spawn(async move { two.election("e").campaign("two").await.map(|lead| (lead, two)) });
        waiters(&client, "e/", 2).await;
        let LeaderEvent::Elected(leader) = soon("an election", observer.next()).await.unwrap() else { panic!() };
        assert_eq!((leader.value.as_ref(), leader.token), (&b"one"[..], first.token().revision));
        first.proclaim("one again").await.unwrap();
        let LeaderEvent::Updated(leader) = soon("an update", observer.next()).await.unwrap() else { panic!() };
        assert_eq!(leader.value, "one again");
        assert!(!campaign.is_finished());
        assert_eq!(client.leader("e").await.unwrap().unwrap().value, "one again");
        assert!(first.resign().await.unwrap());
        let (second, _two) = soon("the second", campaign).await.unwrap().unwrap();
        let LeaderEvent::Elected(leader) = soon("an election", observer.next()).await.unwrap() else { panic!() };
        assert_eq!(leader.value, "two");
        client.delete(second.key().clone()).await.unwrap();
        assert!(matches!(soon("a vacancy", observer.next()).await.unwrap(), LeaderEvent::Vacant { .. }));
        assert_eq!(second.proclaim("late").await.unwrap_err().kind(), ErrorKind::NotLeader);
        assert_eq!(second.txn().put("data", "").commit().await.unwrap_err().kind(), ErrorKind::NotLeader);
        assert_eq!(soon("the loss", second.lost()).await.kind(), ErrorKind::NotLeader);
        assert!(client.leader("e").await.unwrap().is_none());
    }

    async fn e_5_an_observer_is_a_stream_too(server) {
        let client = server.client().await;
        let mut leaders = client.observe("e").await.unwrap().into_stream();
        let first = soon("the vacancy", leaders.next()).await.unwrap().unwrap();
        assert!(matches!(first, LeaderEvent::Vacant { .. }));
        let lead = session(&client).await.election("e").campaign("one").await.unwrap();
        let LeaderEvent::Elected(leader) = soon("the leader", leaders.next()).await.unwrap().unwrap() else { panic!() };
        assert_eq!(leader.token, lead.token().revision);
        client.close();
        // An error is the last item.
        let end = soon("the error", async {
            loop {
                if let Err(error) = leaders.next().await.expect("an error comes before the end") {
                    break error;
                }
            }
        }).await;
        assert_eq!(end.kind(), ErrorKind::Closed, "{end}");
        assert!(soon("the end", leaders.next()).await.is_none());
    }

    async fn e_5_observing_survives_compaction_and_bad_connections(server) {
        let proxy = Proxy::start(&server).await;
        let direct = server.client().await;
        let client = support::client(&proxy.endpoint()).await;
        let mut observer = client.observe("e").await.unwrap();
        observer.next().await.unwrap();
        proxy.set(Way::Cut);
        let lead = session(&direct).await.election("e").campaign("a").await.unwrap();
        for n in 0..10 {
            lead.proclaim(format!("a{n}")).await.unwrap();
        }
        let revision = direct.get("e").await.unwrap().header.revision;
        direct.compact(revision, true).await.unwrap();
        proxy.set(Way::Open);
        loop {
            match soon("the leader", observer.next()).await.unwrap() {
                LeaderEvent::Elected(leader) | LeaderEvent::Updated(leader) if leader.value == "a9" => break,
                _ => {}
            }
        }
    }

    async fn e_6_work_runs_while_leading_and_is_dropped_on_loss(server) {
        let client = server.client().await;
        let session = session(&client).await;
        let done = session.election("e").run("me", |tenure| async move { tenure.token().revision }).await.unwrap();
        assert!(done > 0);
        assert_eq!(count(&client, "e/").await, 0);
        let lease = session.lease();
        let endless = tokio::spawn(async move {
            session.election("e").run("me", |_| std::future::pending::<()>()).await
        });
        waiters(&client, "e/", 1).await;
        client.delete(format!("e/{lease:x}")).await.unwrap();
        assert_eq!(soon("the loss", endless).await.unwrap().unwrap_err().kind(), ErrorKind::NotLeader);
    }

    async fn e_6_who_has_led_stands_again_behind_the_others(server) {
        let client = server.client().await;
        let (order, mut turns) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for name in ["a", "b"] {
            let (session, order) = (session(&client).await, order.clone());
            tasks.push((session.lease(), tokio::spawn(async move {
                session.election("e").run_repeatedly(name, |tenure| {
                    let order = order.clone();
                    async move {
                        // Refused in the end, when whoever reads them has seen enough.
                        if tenure.txn().put("work", name).commit().await.is_ok() {
                            let _ = order.send((name, tenure.token().revision));
                        }
                    }
                }).await
            })));
        }
        let mut seen = Vec::new();
        while !["a", "b"].iter().all(|name| seen.iter().filter(|(by, _)| by == name).count() >= 3) {
            seen.push(soon("a turn", turns.recv()).await.unwrap());
        }
        assert!(seen.is_sorted_by(|a, b| a.1 < b.1), "tokens grow: {seen:?}");
        for (lease, task) in tasks {
            client.lease_revoke(lease).await.unwrap();
            assert_eq!(soon("the end", task).await.unwrap().kind(), ErrorKind::SessionLost);
        }
    }

    async fn e_6_a_leader_hears_that_the_store_is_silent_before_it_is_lost(server) {
        let proxy = Proxy::start(&server).await;
        let client = support::client(&proxy.endpoint()).await;
        let session = session(&client).await;
        let (led, leads) = tokio::sync::oneshot::channel();
        let own = session.clone();
        let work = tokio::spawn(async move {
            own.election("e").run("me", |tenure| async move {
                // Is waited for below.
                let _ = led.send(());
                tenure.suspended().await;
                tenure.check()
            }).await
        });
        soon("the leadership", leads).await.unwrap();
        proxy.set(Way::Cut);
        eventually("the silence", async || (session.state() == SessionState::Suspended).then_some(())).await;
        proxy.set(Way::Open);
        // It still counted when the work stopped, and is resigned.
        soon("the end of the work", work).await.unwrap().unwrap().unwrap();
    }

    async fn etcdctl_queues_with_our_mutex_both_ways_round(server) {
        let Ok(version) = Command::new("etcdctl").arg("version").output() else { continue };
        assert!(version.status.success());
        let client = server.client().await;
        let etcdctl = |arguments: &[&str]| {
            let mut command = Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").args(["--endpoints", &server.endpoint()]).args(arguments);
            command.stdout(std::process::Stdio::piped()).stdin(std::process::Stdio::piped());
            command.spawn().unwrap()
        };
        let session = session(&client).await;
        let guard = session.mutex("m").lock().await.unwrap();
        // It holds the lock until it is interrupted.
        let mut other = etcdctl(&["lock", "m"]);
        waiters(&client, "m/", 2).await;
        assert_eq!(session.mutex("m").contenders().await.unwrap()[0].key, *guard.key());
        guard.unlock().await.unwrap();
        let own = session.clone();
        let lock = tokio::spawn(async move { own.mutex("m").lock().await });
        waiters(&client, "m/", 2).await;
        assert!(!lock.is_finished(), "etcdctl has it");
        let pid = rustix::process::Pid::from_raw(other.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let guard = soon("our turn", lock).await.unwrap().unwrap();
        other.wait().unwrap();
        guard.unlock().await.unwrap();

        let lead = session.election("e").campaign("ours").await.unwrap();
        let mut listening = etcdctl(&["elect", "-l", "e"]);
        let mut output = std::io::BufReader::new(listening.stdout.take().unwrap());
        let seen = tokio::task::spawn_blocking(move || {
            use std::io::BufRead as _;
            let mut lines = String::new();
            output.read_line(&mut lines).unwrap();
            output.read_line(&mut lines).unwrap();
            lines
        });
        let seen = soon("what etcdctl sees", seen).await.unwrap();
        assert_eq!(seen, format!("{}\nours\n", String::from_utf8_lossy(lead.key())));
        listening.kill().unwrap();
        listening.wait().unwrap();
    }
}
