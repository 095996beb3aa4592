//! Messages between members over loopback sockets.

mod common;

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Member, Proxy, Setup, connect_all};
use folkmoot_core::types::MemberId;
use folkmoot_peer::{Event, Flow, PeerHandle, PeerMember, Refusal, SnapshotToSend};
use tokio::runtime::Handle;

fn numbered(number: u32, bytes: usize) -> Bytes {
    let mut message = number.to_le_bytes().to_vec();
    message.resize(bytes.max(4), number as u8);
    message.into()
}

#[tokio::test]
async fn messages_arrive_in_order_and_once() {
    let (mut a, mut b, mut c) = (Member::start(1), Member::start(2), Member::start(3));
    connect_all(&mut [&mut a, &mut b, &mut c]).await;
    let size = |number: u32| match number % 100 {
        0 => 300_000,
        1 => 3_000_000,
        n => n as usize * 50,
    };
    for number in 0..600 {
        a.handle.send(b.id, numbered(number, size(number)));
        c.handle.send(b.id, numbered(number, 10));
    }
    let mut next = [0_u32; 2];
    while next != [600, 600] {
        let (from, message) = b.message().await;
        let number = &mut next[usize::from(from == c.id)];
        let bytes = if from == c.id { 10 } else { size(*number) };
        assert!(message == numbered(*number, bytes), "from={from} number={number}");
        *number += 1;
    }
    b.handle.send(a.id, Bytes::new());
    assert_eq!(a.message().await, (b.id, Vec::new()));
    assert!(a.handle.connected(b.id).is_some() && a.handle.problem(b.id).is_none());
}

#[tokio::test]
async fn a_peer_that_restarts_is_connected_again() {
    let (mut a, mut b) = (Member::start(1), Member::start(2));
    connect_all(&mut [&mut a, &mut b]).await;
    b.handle.shutdown().await;
    a.disconnected(b.id).await;
    assert!(a.handle.connected(b.id).is_none());
    a.handle.send(b.id, numbered(1, 10));
    a.wait(|event| matches!(event, Event::Unreachable { .. }).then_some(())).await;
    let listener = TcpListener::bind(b.address).unwrap();
    let mut b = Setup::at(2, listener).change(|setup| setup.me.boot = 2).start();
    b.knows(&[a.as_peer()]);
    let boot =
        a.wait(|event| if let Event::Connected { boot, .. } = event { Some(*boot) } else { None }).await;
    assert_eq!(boot, 2);
    a.handle.send(b.id, numbered(2, 10));
    assert_eq!(b.message().await.1, numbered(2, 10), "nothing that was dropped comes later");
}

#[tokio::test]
async fn a_peer_that_connects_is_tried_at_once() {
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let hours = Duration::from_secs(3600);
    let patient = |setup: &mut Setup| (setup.config.backoff_min, setup.config.backoff_max) = (hours, hours);
    let mut a = Setup::new(1).change(patient).start();
    a.knows(&[PeerMember { id: MemberId(2), urls: vec![format!("http://{address}")], incarnation: None }]);
    while a.handle.problem(MemberId(2)).is_none() {
        tokio::task::yield_now().await;
    }
    let b = Setup::at(2, TcpListener::bind(address).unwrap()).start();
    b.knows(&[a.as_peer()]);
    a.connected(b.id).await;
}

#[tokio::test]
async fn the_urls_of_a_peer_are_tried_in_turn() {
    let (mut a, b) = (Member::start(1), Member::start(2));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = vec!["nonsense".to_owned(), format!("http://{closed}"), b.url()];
    b.knows(&[a.as_peer()]);
    a.knows(&[PeerMember { urls, ..b.as_peer() }]);
    a.connected(b.id).await;
}

#[tokio::test]
async fn a_peer_without_a_url_that_works_has_a_problem_to_show() {
    let a = Member::start(1);
    a.knows(&[PeerMember { id: MemberId(2), urls: vec!["https://h:1".to_owned()], incarnation: None }]);
    let problem = loop {
        match a.handle.problem(MemberId(2)) {
            Some(problem) => break problem,
            None => tokio::task::yield_now().await,
        }
    };
    assert!(problem.contains("https"), "{problem}");
}

#[tokio::test]
async fn changed_urls_are_used() {
    let (mut a, b) = (Member::start(1), Member::start(2));
    b.knows(&[a.as_peer()]);
    a.knows(&[PeerMember { urls: vec!["http://127.0.0.1:1".to_owned()], ..b.as_peer() }]);
    while a.handle.problem(b.id).is_none() {
        tokio::task::yield_now().await;
    }
    a.knows(&[b.as_peer()]);
    a.connected(b.id).await;
}

#[tokio::test]
async fn a_silent_peer_is_noticed_within_the_read_timeout() {
    let quick = |setup: &mut Setup| {
        setup.config.ping_interval = Duration::from_millis(50);
        setup.config.read_timeout = Duration::from_millis(300);
    };
    let (mut a, b) = (Setup::new(1).change(quick).start(), Setup::new(2).change(quick).start());
    let proxy = Proxy::to(b.address).await;
    b.knows(&[PeerMember { urls: vec![], ..a.as_peer() }]);
    a.knows(&[proxy.peer(&b)]);
    a.connected(b.id).await;
    proxy.wire.freeze(true);
    a.disconnected(b.id).await;
    proxy.wire.freeze(false);
    a.connected(b.id).await;
}

#[tokio::test]
async fn an_idle_connection_stays() {
    let quick = |setup: &mut Setup| {
        setup.config.ping_interval = Duration::from_millis(20);
        setup.config.read_timeout = Duration::from_millis(200);
    };
    let (mut a, mut b) = (Setup::new(1).change(quick).start(), Setup::new(2).change(quick).start());
    connect_all(&mut [&mut a, &mut b]).await;
    // The one test that has to see time pass: nothing may happen in several read timeouts.
    let nothing = tokio::time::timeout(Duration::from_secs(1), a.events.recv()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn a_full_queue_drops_and_reports_but_not_for_each_message() {
    let mut a = Setup::new(1)
        .change(|setup| {
            setup.config.frame_bytes_max = 1 << 20;
            setup.config.queue_bytes_max = 1 << 20;
            setup.config.queue_frames_max = 100;
        })
        .start();
    // It takes one message and then rests for ever.
    let stuck = |setup: &mut Setup| {
        setup.flow = || Flow::Pause;
        setup.config.pause = Duration::from_secs(3600);
    };
    let mut b = Setup::new(2).change(stuck).start();
    let mut c = Member::start(3);
    connect_all(&mut [&mut a, &mut b, &mut c]).await;
    let (start, mut reports) = (Instant::now(), 0_u32);
    let mut number = 0;
    while reports < 3 {
        // Far more than sockets hold.
        a.handle.send(b.id, numbered(number, 100_000));
        a.handle.send(c.id, numbered(number, 10));
        assert_eq!(c.message().await.1, numbered(number, 10), "a peer that is stuck holds up another");
        number += 1;
        while let Ok(event) = a.events.try_recv() {
            assert_eq!(event, Event::Unreachable { peer: b.id });
            reports += 1;
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    assert!(number > 10 && a.handle.connected(b.id).is_some());
}

#[tokio::test]
async fn pauses_slow_a_sender_down_and_lose_nothing() {
    let (mut a, mut b) =
        (Member::start(1), Setup::new(2).change(|setup| setup.flow = || Flow::Pause).start());
    connect_all(&mut [&mut a, &mut b]).await;
    for number in 0..200 {
        a.handle.send(b.id, numbered(number, 10));
    }
    for number in 0..200 {
        assert_eq!(b.message().await.1, numbered(number, 10));
    }
}

#[tokio::test]
async fn a_message_to_a_stranger_or_a_giant_one_is_dropped_and_reported() {
    let (mut a, mut b) = (Member::start(1), Member::start(2));
    connect_all(&mut [&mut a, &mut b]).await;
    a.handle.send(MemberId(99), Bytes::new());
    assert_eq!(a.next().await, Event::Unreachable { peer: MemberId(99) });
    a.handle.send(b.id, vec![0; (64 << 20) + 1].into());
    assert_eq!(a.next().await, Event::Unreachable { peer: b.id });
    assert!(a.handle.connected(b.id).is_some());
}

#[tokio::test]
async fn a_frame_above_the_receivers_bound_closes_the_connection() {
    let mut a = Member::start(1);
    let mut b = Setup::new(2).change(|setup| setup.config.frame_bytes_max = 1 << 20).start();
    connect_all(&mut [&mut a, &mut b]).await;
    a.handle.send(b.id, vec![0; (1 << 20) + 1].into());
    a.disconnected(b.id).await;
    a.connected(b.id).await;
    a.handle.send(b.id, vec![1; 1 << 20].into());
    assert_eq!(b.message().await.1, vec![1; 1 << 20]);
}

#[tokio::test]
async fn harmed_bytes_close_the_connection_and_no_harmed_message_arrives() {
    let eager = |setup: &mut Setup| setup.config.backoff_max = setup.config.backoff_min;
    let (mut a, mut b) = (Setup::new(1).change(eager).start(), Member::start(2));
    let proxy = Proxy::to(b.address).await;
    b.knows(&[PeerMember { urls: vec![], ..a.as_peer() }]);
    a.knows(&[proxy.peer(&b)]);
    a.connected(b.id).await;
    for round in 0..30_u32 {
        let message = numbered(round, 200);
        let start = proxy.wire.forwarded.load(Ordering::Relaxed);
        // Pings shift what is hit: any byte will do.
        proxy.wire.flip_at.store(start + u64::from(round) * 7, Ordering::Relaxed);
        a.handle.send(b.id, message.clone());
        a.disconnected(b.id).await;
        a.connected(b.id).await;
        a.handle.send(b.id, message.clone());
        assert_eq!(b.message().await.1, message);
    }
}

#[tokio::test]
async fn a_removed_member_is_told_so_and_messages_from_it_end() {
    let (mut a, mut b, mut c) = (Member::start(1), Member::start(2), Member::start(3));
    connect_all(&mut [&mut a, &mut b, &mut c]).await;
    for member in [&a, &c] {
        member.handle.set_members(vec![a.as_peer(), c.as_peer()], &[b.id]);
    }
    let mut said = Vec::new();
    while said.len() < 2 {
        let by = b.wait(|event| if let Event::Removed { by } = event { Some(*by) } else { None }).await;
        assert!(!said.contains(&by), "told twice");
        said.push(by);
    }
    a.disconnected(b.id).await;
    assert!(a.handle.connected(b.id).is_none());
    a.handle.send(c.id, numbered(1, 10));
    assert_eq!(c.message().await, (a.id, numbered(1, 10).to_vec()));
}

#[tokio::test]
async fn what_waits_for_a_member_when_it_leaves_still_arrives() {
    let (mut a, mut b) = (Member::start(1), Member::start(2));
    connect_all(&mut [&mut a, &mut b]).await;
    for number in 0..100 {
        a.handle.send(b.id, numbered(number, 100_000));
    }
    a.handle.set_members(vec![], &[b.id]);
    for number in 0..100 {
        assert!(b.message().await.1 == numbered(number, 100_000), "{number}");
    }
    a.disconnected(b.id).await;
}

#[tokio::test]
async fn a_peer_whose_disk_turns_out_to_be_another_one_is_left() {
    let (mut a, mut b) = (Member::start(1), Member::start(2));
    b.knows(&[PeerMember { incarnation: None, ..a.as_peer() }]);
    a.knows(&[PeerMember { incarnation: None, ..b.as_peer() }]);
    a.connected(b.id).await;
    b.connected(a.id).await;
    a.knows(&[PeerMember { incarnation: Some(5), ..b.as_peer() }]);
    let refused = Refusal::DiskReplaced { expected: 5, found: 102 };
    let told = Event::Refused { by: b.id, refusal: refused.clone() };
    a.wait(|event| (*event == told).then_some(())).await;
    let told = Event::Refused { by: a.id, refusal: refused };
    b.wait(|event| (*event == told).then_some(())).await;
    assert!(a.handle.connected(b.id).is_none());
}

#[tokio::test]
async fn shutdown_ends_everything_within_a_second() {
    let (mut a, mut b) = (Member::start(1), Member::start(2));
    connect_all(&mut [&mut a, &mut b]).await;
    a.knows(&[b.as_peer(), PeerMember { id: MemberId(9), urls: vec![a.url()], incarnation: None }]);
    let start = Instant::now();
    a.handle.shutdown().await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    b.disconnected(a.id).await;
    TcpListener::bind(a.address).expect("the port is free");
    // The handle stays harmless.
    a.handle.send(b.id, Bytes::new());
    a.handle.set_members(vec![], &[]);
    a.handle.shutdown().await;
}

/// The owner may do anything but block in its callback.
#[tokio::test]
async fn the_owner_may_use_the_handle_while_it_is_told() {
    let setup = Setup::new(1);
    let handle: Arc<OnceLock<PeerHandle>> = Arc::default();
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let inner = Arc::clone(&handle);
    let on_event = move |event: Event| {
        if let Some(handle) = inner.get() {
            handle.send(MemberId(8), Bytes::new());
            handle.set_members(vec![], &[]);
            handle.send_snapshot(
                MemberId(8),
                SnapshotToSend { id: 1, message: Bytes::new(), dir: "/".into(), rate_bytes_per_second: None },
            );
            let _ = told.send(event);
        }
        Flow::Continue
    };
    let info = || unreachable!("nobody asks");
    let started =
        PeerHandle::start(setup.config, setup.me, vec![setup.listener], Handle::current(), on_event, info)
            .unwrap();
    handle.set(started.clone()).unwrap();
    started.send(MemberId(9), Bytes::new());
    assert_eq!(tells.recv().await, Some(Event::Unreachable { peer: MemberId(9) }));
    assert!(matches!(tells.recv().await, Some(Event::SnapshotSent { .. })));
    while tells.recv().await != Some(Event::Unreachable { peer: MemberId(8) }) {}
    started.shutdown().await;
}
