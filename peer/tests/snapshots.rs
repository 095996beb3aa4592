//! Snapshots between members over loopback sockets.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Member, Proxy, Setup, connect_all};
use folkmoot_core::types::MemberId;
use folkmoot_peer::{Event, Refusal, SnapshotError, SnapshotToSend};
use tempfile::TempDir;

/// A directory with `files` (name and size), whose bytes are reproducible and never repeat.
fn directory(files: &[(&str, usize)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (number, (name, bytes)) in files.iter().enumerate() {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64 + 1);
        let mut content = Vec::with_capacity(bytes + 8);
        while content.len() < *bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend_from_slice(&state.to_le_bytes());
        }
        content.truncate(*bytes);
        fs::write(path, content).unwrap();
    }
    dir
}

const MIB: usize = 1 << 20;
/// About 50 MiB in files of all sorts.
const LARGE: [(&str, usize); 7] = [
    ("000001.sst", 20 * MIB + 1),
    ("000002.sst", 20 * MIB),
    ("CURRENT", 16),
    ("empty", 0),
    ("nested/deeper/file", 9 * MIB + 12_345),
    ("nested/one", 1),
    ("z-chunk", 256 * 1024),
];

fn same(a: &Path, b: &Path, files: &[(&str, usize)]) -> bool {
    files.iter().all(|(name, _)| fs::read(a.join(name)).unwrap() == fs::read(b.join(name)).unwrap())
}

fn order(id: u64, dir: &TempDir) -> SnapshotToSend {
    let message = Bytes::from(format!("message of {id}"));
    SnapshotToSend { id, message, dir: dir.path().to_owned(), rate_bytes_per_second: None }
}

async fn arrived(member: &mut Member) -> (MemberId, Bytes, PathBuf, u64) {
    member
        .wait(|event| match event {
            Event::SnapshotArrived { from, message, dir, bytes, .. } => {
                Some((*from, message.clone(), dir.clone(), *bytes))
            }
            _ => None,
        })
        .await
}

async fn sent(member: &mut Member) -> (u64, Result<(), SnapshotError>) {
    member
        .wait(|event| match event {
            Event::SnapshotSent { id, outcome, .. } => Some((*id, outcome.clone())),
            _ => None,
        })
        .await
}

/// Two members, and the wire from the first to the second.
async fn pair(change: impl FnOnce(&mut Setup)) -> (Member, Member, Proxy) {
    let (mut a, b) = (Member::start(1), Setup::new(2).change(change).start());
    let proxy = Proxy::to(b.address).await;
    b.knows(&[a.as_peer()]);
    a.knows(&[proxy.peer(&b)]);
    a.connected(b.id).await;
    (a, b, proxy)
}

fn left_over(member: &Member) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    fs::read_dir(&member.staging_dir).unwrap().map(name).collect()
}

#[tokio::test]
async fn a_snapshot_arrives_whole_while_messages_go_on() {
    let (mut a, mut b) = (Member::start(1), Member::start(2));
    connect_all(&mut [&mut a, &mut b]).await;
    let dir = directory(&LARGE);
    a.handle.send_snapshot(b.id, order(7, &dir));
    a.handle.send(b.id, "meanwhile".into());
    assert_eq!(b.message().await.1, b"meanwhile");
    let (from, message, arrived_dir, bytes) = arrived(&mut b).await;
    assert_eq!((from, &message[..]), (a.id, &b"message of 7"[..]));
    assert_eq!(bytes, LARGE.iter().map(|(_, bytes)| *bytes as u64).sum::<u64>());
    assert!(same(dir.path(), &arrived_dir, &LARGE));
    assert!(arrived_dir.starts_with(&b.staging_dir));
    assert_eq!(sent(&mut a).await, (7, Ok(())));

    // The same again is a new order and arrives again; nothing of the first is in its way.
    a.handle.send_snapshot(b.id, order(7, &dir));
    let (_, _, again, _) = arrived(&mut b).await;
    assert_ne!(again, arrived_dir);
    assert_eq!(sent(&mut a).await, (7, Ok(())));
    assert_eq!(left_over(&b).len(), 2);
}

#[tokio::test]
async fn a_cut_snapshot_goes_on_where_it_was() {
    let (mut a, mut b, proxy) = pair(|_| {}).await;
    let dir = directory(&LARGE);
    let total = LARGE.iter().map(|(_, bytes)| *bytes as u64).sum::<u64>();
    proxy.wire.cut_at.store(30 * MIB as u64, Ordering::Relaxed);
    a.handle.send_snapshot(b.id, order(1, &dir));
    let (_, _, arrived_dir, _) = arrived(&mut b).await;
    assert!(same(dir.path(), &arrived_dir, &LARGE));
    assert_eq!(sent(&mut a).await, (1, Ok(())));
    assert!(proxy.wire.connections.load(Ordering::Relaxed) >= 3);
    // One read of the wire and what it cut off are lost; the 30 MiB before are not sent again.
    let extra = proxy.wire.forwarded.load(Ordering::Relaxed) - total;
    assert!(extra < MIB as u64, "sent again: {extra}");
    assert_eq!(left_over(&b).len(), 1);
}

#[tokio::test]
async fn a_harmed_chunk_is_noticed_and_sent_again() {
    let (mut a, mut b, proxy) = pair(|_| {}).await;
    let dir = directory(&LARGE);
    proxy.wire.flip_at.store(25 * MIB as u64, Ordering::Relaxed);
    a.handle.send_snapshot(b.id, order(1, &dir));
    let (_, _, arrived_dir, _) = arrived(&mut b).await;
    assert!(same(dir.path(), &arrived_dir, &LARGE));
    assert_eq!(sent(&mut a).await, (1, Ok(())));
}

#[tokio::test]
async fn a_snapshot_that_is_cut_again_and_again_still_arrives_as_long_as_it_moves() {
    let (a, mut b, proxy) = pair(|_| {}).await;
    let files = [("one", 8 * MIB), ("two", 8 * MIB)];
    let dir = directory(&files);
    a.handle.send_snapshot(b.id, order(1, &dir));
    let cutting = async {
        loop {
            let forwarded = proxy.wire.forwarded.load(Ordering::Relaxed);
            proxy.wire.cut_at.store(forwarded + MIB as u64, Ordering::Relaxed);
            while proxy.wire.cut_at.load(Ordering::Relaxed) != u64::MAX {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let arrived_dir = tokio::select! {
        (_, _, dir, _) = arrived(&mut b) => dir,
        () = cutting => unreachable!(),
    };
    assert!(same(dir.path(), &arrived_dir, &files));
    assert!(proxy.wire.connections.load(Ordering::Relaxed) > 8, "it was cut more often than it may fail");
}

#[tokio::test]
async fn a_snapshot_that_never_gets_through_is_given_up() {
    let (mut a, b, proxy) = pair(|_| {}).await;
    proxy.wire.refuses.store(true, Ordering::Relaxed);
    let dir = directory(&[("a", 1)]);
    a.handle.send_snapshot(b.id, order(1, &dir));
    let (id, outcome) = sent(&mut a).await;
    assert!(matches!(outcome, Err(SnapshotError::Undelivered(_))), "{outcome:?}");
    assert_eq!(id, 1);
}

#[tokio::test]
async fn a_receiver_without_space_refuses_before_it_writes() {
    let (mut a, b, _proxy) = pair(|setup| setup.config.staging_free_bytes_min = u64::MAX).await;
    let dir = directory(&[("a", 1000)]);
    a.handle.send_snapshot(b.id, order(1, &dir));
    let (_, outcome) = sent(&mut a).await;
    let Err(SnapshotError::Refused(Refusal::NoSpace { needed_bytes: u64::MAX, free_bytes })) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(free_bytes > 0);
    assert!(left_over(&b).is_empty());
}

#[tokio::test]
async fn a_snapshot_above_the_receivers_bounds_is_refused() {
    let bounds = |setup: &mut Setup| {
        setup.config.snapshot_bytes_max = 1000;
        setup.config.snapshot_files_max = 3;
    };
    let (mut a, b, _proxy) = pair(bounds).await;
    let dir = directory(&[("a", 500), ("b", 501)]);
    a.handle.send_snapshot(b.id, order(1, &dir));
    let refusal = Refusal::TooLarge { bytes: 1001, bytes_max: 1000 };
    assert_eq!(sent(&mut a).await, (1, Err(SnapshotError::Refused(refusal))));
    let dir = directory(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
    a.handle.send_snapshot(b.id, order(2, &dir));
    let (_, outcome) = sent(&mut a).await;
    assert!(matches!(outcome, Err(SnapshotError::Refused(Refusal::BadSnapshot(_)))), "{outcome:?}");
    let dir = directory(&[("a", 500), ("b", 500)]);
    a.handle.send_snapshot(b.id, order(3, &dir));
    assert_eq!(sent(&mut a).await, (3, Ok(())));
}

/// A file system of its own; `None` where that is not permitted.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn mount(bytes: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(dir.path());
        let mounted = mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(Self { dir })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("-l").arg(self.dir.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "cannot unmount the test's disk");
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_is_told_and_cleaned() {
    // Mounting takes privileges; the check before writing is tested without.
    let Some(disk) = SmallDisk::mount(16 * MIB) else { return };
    let (mut a, mut b, _proxy) =
        pair(|setup| setup.config.staging_dir = disk.dir.path().join("staging")).await;
    let files = [("a", 4 * MIB), ("b", 4 * MIB)];
    let dir = directory(&files);
    let slow = SnapshotToSend { rate_bytes_per_second: Some(20 * MIB as u64), ..order(1, &dir) };
    a.handle.send_snapshot(b.id, slow);
    let first = || {
        let partial = fs::read_dir(&b.staging_dir).unwrap().next()?.unwrap().path();
        fs::metadata(partial.join("a")).ok().filter(|file| file.len() > 0)
    };
    while first().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Others fill the disk meanwhile.
    let hog = disk.dir.path().join("hog");
    let _ = fs::write(&hog, vec![0; 16 * MIB]);
    let (_, outcome) = sent(&mut a).await;
    assert!(matches!(outcome, Err(SnapshotError::Refused(Refusal::NoSpace { .. }))), "{outcome:?}");
    assert!(left_over(&b).is_empty());
    fs::remove_file(hog).unwrap();
    a.handle.send_snapshot(b.id, order(2, &dir));
    let (_, _, arrived_dir, _) = arrived(&mut b).await;
    assert!(same(dir.path(), &arrived_dir, &files));
    a.handle.shutdown().await;
    b.handle.shutdown().await;
}

#[tokio::test]
async fn a_receiver_that_cannot_write_says_so() {
    let (mut a, b, _proxy) = pair(|_| {}).await;
    fs::remove_dir(&b.staging_dir).unwrap();
    fs::write(&b.staging_dir, b"in the way").unwrap();
    let dir = directory(&[("a", 1000)]);
    a.handle.send_snapshot(b.id, order(1, &dir));
    let (_, outcome) = sent(&mut a).await;
    assert!(matches!(outcome, Err(SnapshotError::Refused(Refusal::WriteFailed(_)))), "{outcome:?}");
}

#[tokio::test]
async fn a_sender_that_cannot_read_reports_it() {
    let (mut a, b, _proxy) = pair(|_| {}).await;
    let dir = directory(&[]);
    let missing = SnapshotToSend { dir: dir.path().join("missing"), ..order(1, &dir) };
    a.handle.send_snapshot(b.id, missing);
    let (_, outcome) = sent(&mut a).await;
    assert!(matches!(outcome, Err(SnapshotError::Files(_))), "{outcome:?}");
    a.handle.send_snapshot(MemberId(99), order(2, &dir));
    assert_eq!(sent(&mut a).await, (2, Err(SnapshotError::UnknownMember)));
    // An empty directory is a snapshot, too.
    a.handle.send_snapshot(b.id, order(3, &dir));
    assert_eq!(sent(&mut a).await, (3, Ok(())));
}

#[tokio::test]
async fn a_newer_snapshot_replaces_one_on_its_way() {
    let (mut a, mut b, _proxy) = pair(|_| {}).await;
    let (first, second) = (directory(&[("a", 4 * MIB)]), directory(&[("a", 1000), ("b", 10)]));
    let slow = SnapshotToSend { rate_bytes_per_second: Some(MIB as u64), ..order(1, &first) };
    a.handle.send_snapshot(b.id, slow);
    while left_over(&b).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    a.handle.send_snapshot(b.id, order(2, &second));
    assert_eq!(sent(&mut a).await, (1, Err(SnapshotError::Superseded)));
    let (_, message, dir, bytes) = arrived(&mut b).await;
    assert_eq!((&message[..], bytes), (&b"message of 2"[..], 1010));
    assert!(same(second.path(), &dir, &[("a", 1000), ("b", 10)]));
    assert_eq!(sent(&mut a).await, (2, Ok(())));
    assert_eq!(left_over(&b).len(), 1, "the older one is gone");
}

#[tokio::test]
async fn two_snapshots_are_sent_at_the_same_time_and_a_third_waits() {
    let (mut a, mut b, mut c, mut d) =
        (Member::start(1), Member::start(2), Member::start(3), Member::start(4));
    connect_all(&mut [&mut a, &mut b, &mut c, &mut d]).await;
    let dir = directory(&[("a", 2 * MIB)]);
    let slow = |id| SnapshotToSend { rate_bytes_per_second: Some(4 * MIB as u64), ..order(id, &dir) };
    let start = Instant::now();
    a.handle.send_snapshot(b.id, slow(1));
    a.handle.send_snapshot(c.id, slow(2));
    a.handle.send_snapshot(d.id, slow(3));
    let mut order = Vec::new();
    for _ in 0..3 {
        let (id, outcome) = sent(&mut a).await;
        assert_eq!(outcome, Ok(()));
        order.push(id);
    }
    assert_eq!(order[2], 3);
    // Eight chunks, the first of which is free, twice over.
    assert!(start.elapsed() >= Duration::from_millis(2 * 7 * 1000 / 16), "{:?}", start.elapsed());
    for member in [&mut b, &mut c, &mut d] {
        arrived(member).await;
    }
}

#[tokio::test]
async fn a_snapshot_for_or_from_a_member_that_goes_ends() {
    let (mut a, b, _proxy) = pair(|_| {}).await;
    let dir = directory(&[("a", 4 * MIB)]);
    let slow = |id| SnapshotToSend { rate_bytes_per_second: Some(MIB as u64), ..order(id, &dir) };
    a.handle.send_snapshot(b.id, slow(1));
    while left_over(&b).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    b.handle.set_members(vec![], &[a.id]);
    let refusal = Refusal::Removed { member: a.id };
    assert_eq!(sent(&mut a).await, (1, Err(SnapshotError::Refused(refusal))));
    while !left_over(&b).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    b.knows(&[a.as_peer()]);
    a.connected(b.id).await;
    a.handle.send_snapshot(b.id, slow(2));
    a.handle.set_members(vec![], &[]);
    assert_eq!(sent(&mut a).await, (2, Err(SnapshotError::UnknownMember)));
}

#[tokio::test]
async fn shutdown_ends_a_snapshot_and_reports_it() {
    let (mut a, b, _proxy) = pair(|_| {}).await;
    let dir = directory(&[("a", 4 * MIB)]);
    let slow = SnapshotToSend { rate_bytes_per_second: Some(MIB as u64), ..order(1, &dir) };
    a.handle.send_snapshot(b.id, slow);
    while left_over(&b).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let start = Instant::now();
    a.handle.shutdown().await;
    b.handle.shutdown().await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(sent(&mut a).await, (1, Err(SnapshotError::Stopped)));
}

#[tokio::test]
async fn what_was_left_unfinished_is_removed_at_start_and_what_arrived_stays() {
    let setup = Setup::new(1);
    let staging = setup.config.staging_dir.clone();
    for dir in ["partial-2-00/nested", "arrived-2-00/nested"] {
        fs::create_dir_all(staging.join(dir)).unwrap();
        fs::write(staging.join(dir).join("file"), b"content").unwrap();
    }
    let member = setup.start();
    assert_eq!(left_over(&member), ["arrived-2-00"]);
}

#[tokio::test]
async fn only_members_may_send_a_snapshot() {
    let (mut a, b, _proxy) = pair(|_| {}).await;
    b.knows(&[]);
    let dir = directory(&[("a", 1)]);
    a.handle.send_snapshot(b.id, order(1, &dir));
    let refusal = Refusal::UnknownMember { member: a.id };
    assert_eq!(sent(&mut a).await, (1, Err(SnapshotError::Refused(refusal))));
}

#[tokio::test]
async fn a_new_sender_clears_what_another_one_left_unfinished() {
    let (mut a, mut b, mut c) = (Member::start(1), Member::start(2), Member::start(3));
    connect_all(&mut [&mut a, &mut b, &mut c]).await;
    let dir = directory(&[("a", 4 * MIB)]);
    let slow = SnapshotToSend { rate_bytes_per_second: Some(MIB as u64), ..order(1, &dir) };
    a.handle.send_snapshot(b.id, slow);
    while left_over(&b).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    a.handle.shutdown().await;
    b.disconnected(a.id).await;
    // Its last bytes may still be on their way to the disk when the other one begins.
    while left_over(&b).iter().any(|name| name.starts_with("partial-")) {
        c.handle.send_snapshot(b.id, order(2, &dir));
        arrived(&mut b).await;
    }
}
