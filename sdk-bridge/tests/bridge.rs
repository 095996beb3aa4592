//! The bridge against real servers.

#[path = "../../sdk-rust/tests/support/mod.rs"]
#[macro_use]
mod support;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use folkmoot_bridge::*;
use support::{Server, eventually, soon};

fn client(server: &Server) -> Client {
    let options = ConnectOptions {
        endpoints: vec![server.endpoint()],
        request_timeout: Some(Duration::from_secs(20)),
        ..ConnectOptions::default()
    };
    Client::create(options).expect("the options are right")
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> PutRecord {
    PutRecord { key: text(key), value: text(value), ..PutRecord::default() }
}

async fn count(client: &Client, prefix: &str) -> i64 {
    client.get(GetRecord::new(KeySet::Prefix(text(prefix)))).await.expect("reads").count
}

async fn session(client: &Client) -> Session {
    client.session(SessionOptions::default()).await.expect("opens")
}

/// The next item of a stream, by its two calls.
macro_rules! next {
    ($stream:expr) => {
        soon("an item", async {
            loop {
                if let Some(item) = $stream.take().expect("no error") {
                    break item;
                }
                assert!(!$stream.done().expect("no fork"), "the stream ended");
                $stream.ready().await.expect("no fork");
            }
        })
        .await
    };
}

on_each! {
    async fn keys_values_and_transactions(server) {
        let client = client(&server);
        client.verify().await.expect("is there");
        assert_ne!(client.cluster_id(), 0);
        let first = client.put(put("a", "1")).await.expect("puts");
        let again = client.put(PutRecord { prev: true, ..put("a", "2") }).await.expect("puts");
        assert_eq!(again.header.revision, first.header.revision + 1);
        assert_eq!(again.prev.expect("was asked for").value, "1");

        let compare = |revision| CompareRecord {
            keys: KeySet::One(text("a")),
            with: CompareWith::Equal,
            target: CompareTarget::Mod(revision),
        };
        let txn = |revision| TxnRecord {
            compares: vec![compare(revision)],
            success: vec![OpRecord::Put(put("b", "3")), OpRecord::Get(GetRecord::new(KeySet::All))],
            failure: vec![OpRecord::Delete(DeleteRecord { keys: KeySet::One(text("a")), prev: true })],
        };
        let held = client.commit(txn(again.header.revision)).await.expect("commits");
        assert!(held.succeeded);
        let OpResult::Get(all) = &held.responses[1] else { panic!("{held:?}") };
        assert_eq!(all.kvs.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b"a", b"b"]);
        let refused = client.commit(txn(1)).await.expect("commits");
        assert!(!refused.succeeded);
        let OpResult::Delete(deleted) = &refused.responses[0] else { panic!("{refused:?}") };
        assert_eq!((deleted.deleted, &deleted.prev[0].value[..]), (1, &b"2"[..]));

        let inner = client.namespace(text("in/")).expect("is open");
        inner.put(put("c", "")).await.expect("puts");
        assert_eq!(count(&client, "in/c").await, 1);
        client.compact(held.header.revision, true).await.expect("compacts");
        let old = GetRecord { revision: first.header.revision, ..GetRecord::new(KeySet::All) };
        let error = client.get(old).await.expect_err("is gone");
        assert_eq!(error.code, "COMPACTED");

        client.stop();
        assert_eq!(inner.get(GetRecord::new(KeySet::All)).await.expect_err("is closed").code, "CLOSED");
    }

    async fn a_watch_loses_nothing_under_random_cancels(server) {
        let client = client(&server);
        let stream = client.watch(WatchOptions::new(KeySet::Prefix(text("w/")))).await.expect("watches");
        let writer = client.clone();
        let writing = tokio::spawn(async move {
            for number in 0..300 {
                writer.put(put(&format!("w/{number}"), "")).await.expect("puts");
            }
        });
        let mut got = Vec::new();
        let mut turn = 0_u64;
        soon("300 events", async {
            while got.len() < 300 {
                match stream.take().expect("no error") {
                    Some(batch) => got.extend(batch.events.into_iter().map(|event| event.kv.key)),
                    None => {
                        turn += 1;
                        let patience = Duration::from_micros(turn * 7919 % 3000);
                        let _ = tokio::time::timeout(patience, stream.ready()).await;
                    }
                }
            }
        })
        .await;
        let expected: Vec<Bytes> = (0..300).map(|number| text(&format!("w/{number}"))).collect();
        assert_eq!(got, expected);
        writing.await.expect("no panic");
        stream.stop();
        assert!(stream.done().expect("no fork"));
        eventually("the stream at the store is closed", async || {
            (client.watch_stream_count() == 0).then_some(())
        })
        .await;
    }

    async fn a_lock_is_got_in_time_or_not_at_all(server) {
        let client = client(&server);
        let (a, b) = (session(&client).await, session(&client).await);
        let lock = |session: &Session| session.mutex("m/x".into(), MutexOptions::default()).expect("no fork");
        let first = lock(&a).lock(None).await.expect("locks");
        assert_eq!(lock(&b).try_lock().await.expect_err("is taken").code, "WOULD_BLOCK");
        let late = lock(&b).lock(Some(Duration::from_millis(50))).await.expect_err("is taken");
        assert_eq!((late.code.as_str(), late.retryable, late.maybe_applied), ("DEADLINE_EXCEEDED", true, false));
        eventually("the place in the line is given up", async || {
            (count(&client, "m/x/").await == 1).then_some(())
        })
        .await;

        let txn = || TxnRecord { success: vec![OpRecord::Put(put("cursor", "1"))], ..TxnRecord::default() };
        first.commit(txn()).await.expect("is held");
        let waiting = { let first = first.clone(); tokio::spawn(async move { first.lost().await }) };
        let next = { let mutex = lock(&b); tokio::spawn(async move { mutex.lock(None).await }) };
        assert!(first.unlock().await.expect("unlocks"));
        assert!(!first.unlock().await.expect("does nothing"));
        assert_eq!(soon("the end", waiting).await.expect("no panic"), Ok(None), "not lost, but released");
        assert_eq!(first.commit(txn()).await.expect_err("was released").code, "NOT_HELD");
        let second = soon("the lock", next).await.expect("no panic").expect("locks");
        let token = second.token().expect("no fork");
        assert!(token.revision > first.token().expect("no fork").revision);

        let breaking = DeleteRecord { keys: KeySet::One(token.key), prev: false };
        client.delete(breaking).await.expect("deletes");
        let why = soon("the loss", second.lost()).await.expect("no fork").expect("was lost");
        assert_eq!(why.code, "NOT_HELD");
        assert_eq!(second.commit(txn()).await.expect_err("is lost").code, "NOT_HELD");

        let third = lock(&a).lock(None).await.expect("locks");
        drop(third.clone());
        assert_eq!(count(&client, "m/x/").await, 1, "a clone is the same guard");
        drop(third);
        eventually("the dropped guard is released", async || (count(&client, "m/x/").await == 0).then_some(()))
            .await;
    }

    async fn a_lock_that_nobody_received_is_released(server) {
        let client = client(&server);
        let session = session(&client).await;
        let mutex = session.mutex("m/y".into(), MutexOptions::default()).expect("no fork");
        let mut delivered = 0;
        for turn in 0..200_u64 {
            // Spawned, as glue does: the result may be ready and never be fetched.
            let mutex = mutex.clone();
            let task = tokio::spawn(async move { mutex.lock(None).await });
            tokio::time::sleep(Duration::from_micros(turn * 7919 % 4000)).await;
            task.abort();
            delivered += u32::from(task.await.is_ok());
        }
        eventually("nothing is left", async || (count(&client, "m/y/").await == 0).then_some(())).await;
        assert!((1..200).contains(&delivered), "{delivered} of 200");
        soon("the lock", mutex.lock(None)).await.expect("is free");
    }

    async fn leaders_are_elected_and_observed(server) {
        let client = client(&server);
        let (a, b) = (session(&client).await, session(&client).await);
        let observer = client.observe("e/x".into()).await.expect("observes");
        assert!(matches!(next!(observer), LeaderEventRecord::Vacant(_)));
        let election = a.election("e/x".into()).expect("no fork");
        let leader = election.campaign(text("a"), None).await.expect("leads");
        let LeaderEventRecord::Elected(seen) = next!(observer) else { panic!("nobody was elected") };
        assert_eq!((&seen.value[..], seen.token), (&b"a"[..], leader.token().expect("no fork").revision));
        let rival = b.election("e/x".into()).expect("no fork");
        let late = rival.campaign(text("b"), Some(Duration::from_millis(50))).await.expect_err("a leads");
        assert_eq!(late.code, "DEADLINE_EXCEEDED");
        leader.proclaim(text("a2")).await.expect("leads");
        assert!(matches!(next!(observer), LeaderEventRecord::Updated(seen) if seen.value == "a2"));
        leader.check().expect("leads");
        assert!(leader.resign().await.expect("resigns"));
        assert_eq!(leader.check().expect_err("was resigned").code, "NOT_LEADER");
        assert_eq!(leader.proclaim(text("a3")).await.expect_err("was resigned").code, "NOT_LEADER");
        assert_eq!(leader.lost().await, Ok(None));
        assert!(matches!(next!(observer), LeaderEventRecord::Vacant(_)));
        drop(rival.campaign(text("b"), None).await.expect("leads"));
        assert!(matches!(next!(observer), LeaderEventRecord::Elected(seen) if seen.value == "b"));
        assert!(matches!(next!(observer), LeaderEventRecord::Vacant(_)));
    }

    async fn a_session_tells_its_state_and_its_end(server) {
        let client = client(&server);
        let session = session(&client).await;
        let states = session.watch_state().expect("no fork");
        assert_eq!(next!(states), SessionStateRecord::Active);
        session.check().expect("lives");
        assert!(client.lease_revoke(session.lease().expect("no fork")).await.expect("revokes"));
        let why = soon("the end", session.lost()).await.expect("no fork");
        assert_eq!(why.code, "SESSION_LOST");
        assert_eq!(next!(states), SessionStateRecord::LeaseGone);
        assert!(next_or_done(&states).await.is_none());
        assert_eq!(session.check().expect_err("is lost").code, "SESSION_LOST");
        let short = SessionOptions { ttl: Some(Duration::from_secs(1)), allow_short_ttl: false };
        assert_eq!(client.session(short).await.expect_err("is too short").code, "INVALID_ARGUMENT");
    }

    async fn services_register_and_are_found(server) {
        let client = client(&server);
        let registry = client.registry("prod".into(), String::new());
        let changes = registry.subscribe("users".into()).await.expect("subscribes");
        assert!(matches!(next!(changes), ServiceEventRecord::Snapshot { instances, .. } if instances.is_empty()));
        let balancer = registry.balancer("users".into(), BalancerPolicy::RoundRobin).await.expect("balances");
        assert_eq!(balancer.pick(None).expect_err("is empty").code, "NO_INSTANCES");

        let instance = || InstanceRecord {
            id: "one".into(),
            service: "users".into(),
            host: "127.0.0.1".into(),
            port: 8080,
            weight: 100,
            ..InstanceRecord::default()
        };
        let options = RegisterOptions::default();
        let registration = registry.register(instance(), options, None).await.expect("registers");
        assert_eq!(registration.id().expect("no fork"), "one");
        let ServiceEventRecord::Delta { added, .. } = next!(changes) else { panic!("nothing was added") };
        assert_eq!(added[0].addr, "127.0.0.1:8080");
        let taken = registry.register(instance(), options, None).await.expect_err("is taken");
        assert_eq!(taken.code, "ALREADY_REGISTERED");
        let pick = eventually("an instance to pick", async || balancer.pick(None).ok()).await;
        assert_eq!(pick.instance().expect("no fork").id, "one");
        pick.finish(true, None).expect("no fork");

        let draining = {
            let registration = registration.clone();
            tokio::spawn(async move { registration.drain(Duration::from_secs(3600)).await })
        };
        let ServiceEventRecord::Delta { updated, .. } = next!(changes) else { panic!("nothing changed") };
        assert_eq!(updated[0].health, HealthRecord::Draining);
        soon("the end", registration.deregister()).await.expect("deregisters");
        soon("the end of draining", draining).await.expect("no panic").expect("ends early");
        let ServiceEventRecord::Delta { removed, .. } = next!(changes) else { panic!("nothing was removed") };
        assert_eq!(removed[0].id, "one");
        registration.deregister().await.expect("does nothing");
        assert_eq!(registration.set_health(HealthRecord::Up).expect_err("is out").code, "CLOSED");

        drop(registry.register(instance(), options, None).await.expect("registers"));
        assert!(matches!(next!(changes), ServiceEventRecord::Delta { added, .. } if added.len() == 1));
        assert!(matches!(next!(changes), ServiceEventRecord::Delta { removed, .. } if removed.len() == 1));
    }

    async fn a_configuration_is_taken_if_its_check_says_so(server) {
        let client = client(&server);
        let folder = tempfile::tempdir().expect("there is room");
        let config = client.config("gw".into());
        let set = |path: &str, value: &str| vec![ConfigItem { path: path.into(), value: Some(text(value)) }];
        let base = client.config("base".into());
        base.publish(set("timeout", "10"), None).await.expect("publishes");
        let check = Arc::new(AtMost::default());
        let options = ConfigOptions {
            extends: vec!["base".into()],
            cache_dir: Some(folder.path().display().to_string()),
            ..ConfigOptions::default()
        };
        let reader = config.open(options.clone(), Some(check.clone())).await.expect("opens");
        let changes = reader.watch().expect("no fork");
        assert_eq!(timeout(next!(changes)), 10);
        config.publish(set("timeout", "500"), None).await.expect("publishes");
        assert_eq!(timeout(next!(changes)), 500);
        config.publish(set("timeout", "5000"), None).await.expect("publishes");
        let ConfigEventRecord::Rejected { error, .. } = next!(changes) else { panic!("it was taken") };
        assert_eq!(error.code, "REJECTED");
        assert!(error.message.contains("too much"), "{error}");
        let state = reader.state().expect("no fork");
        assert_eq!((attached(&state.document), state.source), (500, ConfigSource::Live));
        assert_eq!(check.asked.lock().expect("no panic")[..], [(None, 10), (Some(10), 500), (Some(500), 5000)]);
        reader.stop();
        assert_eq!(reader.current().expect_err("was stopped").code, "CLOSED");

        let refused = config.open(ConfigOptions::default(), Some(Arc::new(Never))).await.expect_err("is refused");
        assert_eq!(refused.code, "REJECTED");
        server.kill();
        let offline = ConfigOptions { initial_timeout: Some(Duration::from_millis(100)), ..options };
        let reader = config.open(offline, Some(check)).await.expect("opens from the disk");
        let state = reader.state().expect("no fork");
        assert_eq!((attached(&state.document), state.source), (500, ConfigSource::DiskCache));
    }

    async fn a_forked_child_has_a_client_and_nothing_else(server) {
        let client = client(&server);
        let session = session(&client).await;
        let mutex = session.mutex("m/f".into(), MutexOptions::default()).expect("no fork");
        let guard = mutex.lock(None).await.expect("locks");
        let watch = client.watch(WatchOptions::new(KeySet::All)).await.expect("watches");
        // SAFETY: the child uses what this crate says it may, and ends without returning from here.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let foreign = |error: Option<BridgeError>| error.is_some_and(|error| error.code == "FORKED");
            let child = || {
                let mut ok = foreign(session.check().err()) && foreign(guard.check().err());
                ok &= foreign(watch.take().err()) && foreign(block_on(mutex.lock(None)).err());
                ok &= block_on(client.put(put("child", "1"))).is_ok();
                ok &= block_on(client.session(SessionOptions::default())).is_ok();
                drop((session, mutex, guard, watch, client));
                ok
            };
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(false);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(!ok)) };
        }
        let mut status = -1;
        // SAFETY: the child is ours, and the pointer is to a local.
        let waited = soon("the child", tokio::task::spawn_blocking(move || unsafe {
            libc::waitpid(pid, &raw mut status, 0);
            status
        }))
        .await
        .expect("no panic");
        assert_eq!(waited, 0, "the child found something wrong");
        guard.check().expect("the parent still holds it");
        assert_eq!(count(&client, "child").await, 1);
        assert_eq!(count(&client, "m/f/").await, 1);
    }
}

async fn next_or_done(stream: &StateStream) -> Option<SessionStateRecord> {
    loop {
        if let Some(state) = stream.take().expect("no error") {
            return Some(state);
        }
        if stream.done().expect("no fork") {
            return None;
        }
        soon("a state", stream.ready()).await.expect("no fork");
    }
}

/// Takes timeouts of at most 1000, and makes a number of each.
#[derive(Debug, Default)]
struct AtMost {
    asked: Mutex<Vec<(Option<u64>, u64)>>,
}

fn parse(document: &ConfigDocument) -> u64 {
    document
        .json
        .split(|c: char| !c.is_ascii_digit())
        .find_map(|digits| digits.parse().ok())
        .expect("a number")
}

fn attached(document: &ConfigDocument) -> u64 {
    let attachment = document.attachment.as_ref().expect("was attached");
    attachment.downcast_ref::<AtomicU64>().expect("is a number").load(Ordering::Relaxed)
}

fn timeout(event: ConfigEventRecord) -> u64 {
    match event {
        ConfigEventRecord::Changed { new, .. } => attached(&new),
        ConfigEventRecord::Rejected { error, .. } => panic!("{error}"),
    }
}

impl ConfigCheck for AtMost {
    fn check(&self, candidate: Candidate) {
        let new = parse(&candidate.document());
        let old = candidate.old().as_ref().map(attached);
        self.asked.lock().expect("no panic").push((old, new));
        // Answered by another thread, as a language with one thread of its own does.
        std::thread::spawn(move || {
            if new > 1000 {
                candidate.reject(format!("{new} is too much"));
            } else {
                candidate.accept(Some(Arc::new(AtomicU64::new(new))));
            }
        });
    }
}

/// Answers nothing.
#[derive(Debug)]
struct Never;

impl ConfigCheck for Never {
    fn check(&self, _: Candidate) {}
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
