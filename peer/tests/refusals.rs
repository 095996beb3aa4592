//! Who is refused and why, what strangers may ask, and what garbage does.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use common::{CLUSTER, Member, PATIENCE, Setup, connect_all};
use folkmoot_core::types::{ClusterId, MemberId};
use folkmoot_peer::{DialError, Event, PeerMember, Refusal, fetch_cluster, probe};

const WITHIN: Duration = Duration::from_secs(10);

/// Lets `dialler` dial `acceptor`, which knows `known`, and says how that is refused.
async fn refused(dialler: &mut Member, acceptor: &Member, known: &[PeerMember]) -> Refusal {
    acceptor.knows(known);
    dialler.knows(&[PeerMember { incarnation: None, ..acceptor.as_peer() }]);
    refusal(dialler).await
}

async fn refusal(dialler: &mut Member) -> Refusal {
    let refusal = dialler
        .wait(|event| if let Event::Refused { refusal, .. } = event { Some(refusal.clone()) } else { None });
    let refusal = refusal.await;
    assert!(
        dialler.handle.problem(MemberId(1)).is_some_and(|problem| problem.contains(&refusal.to_string()))
    );
    refusal
}

#[tokio::test]
async fn a_member_of_another_cluster_is_refused() {
    let acceptor = Member::start(1);
    let mut dialler = Setup::new(2).change(|setup| setup.me.cluster = ClusterId(0xbad)).start();
    let as_known = dialler.as_peer();
    let refusal = refused(&mut dialler, &acceptor, &[as_known]).await;
    assert_eq!(refusal, Refusal::WrongCluster { acceptor: CLUSTER, dialler: ClusterId(0xbad) });
}

#[tokio::test]
async fn a_member_that_meant_another_one_is_refused() {
    let (acceptor, mut dialler) = (Member::start(5), Member::start(2));
    acceptor.knows(&[dialler.as_peer()]);
    dialler.knows(&[PeerMember { id: MemberId(1), urls: vec![acceptor.url()], incarnation: None }]);
    let expected = Refusal::NotForMe { acceptor: MemberId(5), wanted: MemberId(1) };
    assert_eq!(refusal(&mut dialler).await, expected);
}

#[tokio::test]
async fn a_stranger_is_refused_until_it_is_known() {
    let (acceptor, mut dialler) = (Member::start(1), Member::start(2));
    let refusal = refused(&mut dialler, &acceptor, &[]).await;
    assert_eq!(refusal, Refusal::UnknownMember { member: MemberId(2) });
    acceptor.knows(&[dialler.as_peer()]);
    dialler.connected(acceptor.id).await;
    assert!(dialler.handle.problem(acceptor.id).is_none());
}

#[tokio::test]
async fn a_member_that_was_removed_while_it_was_away_is_told() {
    let (acceptor, mut dialler) = (Member::start(1), Member::start(2));
    acceptor.handle.set_members(vec![dialler.as_peer()], &[dialler.id]);
    dialler.knows(&[acceptor.as_peer()]);
    assert_eq!(dialler.next().await, Event::Removed { by: acceptor.id });
}

#[tokio::test]
async fn a_member_with_another_disk_is_refused_by_both_sides() {
    let (acceptor, mut dialler) = (Member::start(1), Member::start(2));
    let old_disk = PeerMember { incarnation: Some(9), ..dialler.as_peer() };
    let refusal = refused(&mut dialler, &acceptor, &[old_disk]).await;
    assert_eq!(refusal, Refusal::DiskReplaced { expected: 9, found: 102 });

    let (acceptor, mut dialler) = (Member::start(1), Member::start(2));
    acceptor.knows(&[PeerMember { urls: vec![], ..dialler.as_peer() }]);
    dialler.knows(&[PeerMember { incarnation: Some(9), ..acceptor.as_peer() }]);
    let refusal = dialler
        .wait(|event| if let Event::Refused { refusal, .. } = event { Some(refusal.clone()) } else { None });
    assert_eq!(refusal.await, Refusal::DiskReplaced { expected: 9, found: 101 });
    assert!(dialler.handle.connected(acceptor.id).is_none());
}

#[tokio::test]
async fn an_older_process_of_a_member_is_refused_and_the_newer_one_stays() {
    let acceptor = Member::start(1);
    let mut newer = Setup::new(2).change(|setup| setup.me.boot = 7).start();
    let mut older = Setup::new(2).change(|setup| setup.me.boot = 6).start();
    acceptor.knows(&[newer.as_peer()]);
    newer.knows(&[acceptor.as_peer()]);
    newer.connected(acceptor.id).await;
    older.knows(&[acceptor.as_peer()]);
    assert_eq!(refusal(&mut older).await, Refusal::OldBoot { newest: 7, found: 6 });
    assert!(newer.handle.connected(acceptor.id).is_some());
}

#[tokio::test]
async fn a_newer_process_of_a_member_replaces_the_older_one() {
    let mut acceptor = Member::start(1);
    let mut older = Member::start(2);
    let mut newer = Setup::new(2).change(|setup| setup.me.boot = 2).start();
    acceptor.knows(&[PeerMember { urls: vec![], ..older.as_peer() }]);
    older.knows(&[acceptor.as_peer()]);
    older.connected(acceptor.id).await;
    newer.knows(&[acceptor.as_peer()]);
    newer.connected(acceptor.id).await;
    older.disconnected(acceptor.id).await;
    assert_eq!(refusal(&mut older).await, Refusal::OldBoot { newest: 2, found: 1 });
    newer.handle.send(acceptor.id, "newer".into());
    assert_eq!(acceptor.message().await, (MemberId(2), b"newer".to_vec()));
}

#[tokio::test]
async fn too_many_strangers_at_once_are_told_that_the_member_is_busy() {
    let quick = |setup: &mut Setup| {
        setup.config.handshakes_max = 1;
        setup.config.handshake_timeout = PATIENCE;
    };
    let acceptor = Setup::new(1).change(quick).start();
    let mut dialler = Member::start(2);
    let silent = TcpStream::connect(acceptor.address).unwrap();
    let known = dialler.as_peer();
    assert_eq!(refused(&mut dialler, &acceptor, &[known]).await, Refusal::Busy);
    drop(silent);
    dialler.connected(acceptor.id).await;
}

#[tokio::test]
async fn a_stranger_that_says_nothing_is_hung_up_on() {
    let quick = |setup: &mut Setup| {
        setup.config.handshakes_max = 1;
        setup.config.handshake_timeout = Duration::from_millis(50);
    };
    let (acceptor, mut dialler) = (Setup::new(1).change(quick).start(), Member::start(2));
    let mut silent = TcpStream::connect(acceptor.address).unwrap();
    silent.write_all(b"FKMP").unwrap();
    acceptor.knows(&[dialler.as_peer()]);
    dialler.knows(&[acceptor.as_peer()]);
    dialler.connected(acceptor.id).await;
}

/// An answer of another version, whatever else it says.
#[tokio::test]
async fn members_of_different_versions_tell_each_other_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let future = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(b"FKMP\x02\x00\xfe\x00\x00\x00\x00\x00\x00\x00\x00\x00").unwrap();
    });
    let error = probe(&url, WITHIN).await.unwrap_err();
    assert_eq!(error.refusal(), Some(&Refusal::Version { acceptor: 2, dialler: 1 }));
    future.join().unwrap();

    let acceptor = Member::start(1);
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(acceptor.address).unwrap();
        stream.write_all(b"FKMP\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        (acceptor, answer)
    });
    let (_acceptor, answer) = asked.await.unwrap();
    // Magic, version, "refused", then the refusal: code 7, ours, theirs.
    assert_eq!(answer[..8], *b"FKMP\x01\x00\x11\x00");
    assert_eq!(answer[16..33], *b"\x07\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
}

#[tokio::test]
async fn anybody_may_ask_for_the_cluster() {
    let member = Member::start(1);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = vec![format!("http://{closed}"), member.url()];
    let info = fetch_cluster(&urls, WITHIN).await.unwrap();
    assert_eq!(info.cluster_id, CLUSTER);
    assert_eq!(info.members[0].peer_urls, [member.url()]);
    assert_eq!((info.removed, info.leader), (vec![MemberId(77)], Some(MemberId(1))));
    let error = fetch_cluster(&urls[..1], WITHIN).await.unwrap_err();
    assert!(error.to_string().contains(&urls[0]), "{error}");
    assert!(fetch_cluster(&[], WITHIN).await.is_err());
}

#[tokio::test]
async fn a_probe_says_who_answers_or_why_nobody_does() {
    let member = Member::start(1);
    let answer = probe(&member.url(), WITHIN).await.unwrap();
    assert_eq!((answer.cluster_id, answer.member), (CLUSTER, MemberId(1)));
    assert_eq!((answer.incarnation, answer.boot), (101, 1));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let silent = probe(&url, Duration::from_millis(50)).await;
    assert!(matches!(silent, Err(DialError::TimedOut { .. })), "{silent:?}");
    drop(listener);
    let closed = probe(&url, WITHIN).await;
    assert!(matches!(closed, Err(DialError::Connect { .. })), "{closed:?}");
    assert!(matches!(probe("ftp://a:1", WITHIN).await, Err(DialError::Url(_))));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let web_server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let other = probe(&url, WITHIN).await;
    assert!(matches!(other, Err(DialError::NotAMember { .. })), "{other:?}");
    web_server.join().unwrap();
}

#[tokio::test]
async fn garbage_never_stops_the_listener() {
    let (mut a, mut b) = (Member::start(1), Member::start(2));
    connect_all(&mut [&mut a, &mut b]).await;
    let address = a.address;
    let vandal = tokio::task::spawn_blocking(move || {
        for round in 0..400_usize {
            let Ok(mut stream) = TcpStream::connect(address) else { continue };
            let mut bytes: Vec<u8> = (0..rand_below(300)).map(|_| rand_below(256) as u8).collect();
            // Half of them begin as a handshake does, so that later checks are reached, too.
            if round % 2 == 0 {
                let kind = [1, 2, 3, 4, 16, 17, 99][round / 2 % 7];
                let length = [0, 48, 4096, 1 << 30][round % 4];
                let mut start = b"FKMP\x01\x00".to_vec();
                start.extend_from_slice(&[kind, 0]);
                start.extend_from_slice(&u32::to_le_bytes(length));
                bytes.splice(0..0, start);
            }
            // The other side may have hung up already.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    vandal.await.unwrap();
    assert!(probe(&a.url(), WITHIN).await.is_ok());
    b.handle.send(a.id, "still here".into());
    assert_eq!(a.message().await.1, b"still here");
}

/// A number below `bound`; the standard library's hasher is seeded at random.
fn rand_below(bound: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0_u8) % bound
}
