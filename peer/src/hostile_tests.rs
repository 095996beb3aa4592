//! A member that knows the protocol and breaks its rules: handshakes are right, what follows is
//! not.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use folkmoot_core::types::{ClusterId, MemberId};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::connection::{ConnectionError, FrameReader, FrameWriter, read_block, write_block};
use crate::frame::{Encoder, Kind, Salt};
use crate::handshake::{BlockKind, HANDSHAKE_BYTES_MAX, Hello};
use crate::stream::{self, WriteHalf};
use crate::url::PeerUrl;
use crate::{ClusterInfo, Event, Flow, Identity, PeerConfig, PeerHandle, PeerMember, Refusal};

const PATIENCE: Duration = Duration::from_secs(30);
const BOUND: usize = 1 << 20;

struct Victim {
    address: SocketAddr,
    handle: PeerHandle,
    events: UnboundedReceiver<Event>,
    dir: TempDir,
}

impl Victim {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = PeerConfig::new(dir.path().join("staging"));
        config.frame_bytes_max = BOUND;
        config.staging_free_bytes_min = 0;
        let (sender, events) = unbounded_channel();
        let on_event = move |event| {
            let _ = sender.send(event);
            Flow::Continue
        };
        let info = || ClusterInfo {
            cluster_id: ClusterId(9),
            members: vec![],
            removed: vec![],
            leader: None,
            version: String::new(),
        };
        let me = Identity { cluster: ClusterId(9), member: MemberId(1), boot: 1, incarnation: 1 };
        let handle =
            PeerHandle::start(config, me, vec![listener], Handle::current(), on_event, info).unwrap();
        handle.set_members(vec![PeerMember { id: MemberId(2), urls: vec![], incarnation: None }], &[]);
        Self { address, handle, events, dir }
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("an event").expect("runs")
    }

    async fn message(&mut self) -> Bytes {
        match self.event().await {
            Event::Message { bytes, .. } => bytes,
            other => panic!("{other:?}"),
        }
    }

    /// A handshake as it should be.
    async fn greet(&self, kind: BlockKind) -> (FrameReader, WriteHalf, Salt) {
        let url = PeerUrl { host: self.address.ip().to_string(), port: self.address.port() };
        let (mut read, mut write) = stream::dial(&url).await.unwrap();
        let hello = Hello {
            cluster: ClusterId(9),
            from: MemberId(2),
            to: MemberId(1),
            boot: 1,
            incarnation: 2,
            nonce: 3,
        };
        let asked = write_block(&mut write, kind, &hello.encode()).await.unwrap();
        let mut buffer = BytesMut::new();
        let answer = read_block(&mut read, &mut buffer, HANDSHAKE_BYTES_MAX).await.unwrap();
        assert_eq!(answer.kind, BlockKind::Welcome);
        let (ours, theirs) = Salt::of_handshake(asked, answer.crc);
        (FrameReader::new(read, buffer, theirs, 1 << 20, PATIENCE), write, ours)
    }

    async fn offer(&self, payload: &[u8]) -> (Result<Vec<u8>, Refusal>, FrameReader, FrameWriter) {
        let (mut reader, write, salt) = self.greet(BlockKind::Snapshot).await;
        let mut writer = FrameWriter::new(write, salt, PATIENCE);
        writer.send(Kind::Offer, payload).await.unwrap();
        let answer = match reader.next_content().await {
            Ok(frame) => {
                assert_eq!(frame.kind, Kind::Resume);
                Ok(frame.payload.to_vec())
            }
            Err(ConnectionError::Refused(refusal)) => Err(refusal),
            Err(other) => panic!("{other}"),
        };
        (answer, reader, writer)
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.dir.path().join("staging")).unwrap().count()
    }
}

async fn ended(reader: &mut FrameReader) {
    assert!(matches!(reader.next_content().await, Err(ConnectionError::Closed | ConnectionError::Io(_))));
}

fn frame(encoder: &mut Encoder, kind: Kind, payload: &[u8]) -> Vec<u8> {
    [encoder.header(kind, payload).as_slice(), payload].concat()
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Transfer, id, message, names and sizes.
fn offer_of(transfer: u64, files: &[(&str, u64)]) -> Vec<u8> {
    let mut out = transfer.to_le_bytes().to_vec();
    out.extend_from_slice(&7_u64.to_le_bytes());
    put(&mut out, b"message");
    out.extend_from_slice(&u32::try_from(files.len()).unwrap().to_le_bytes());
    for (name, bytes) in files {
        put(&mut out, name.as_bytes());
        out.extend_from_slice(&bytes.to_le_bytes());
    }
    out
}

fn chunk(file: u32, offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&file.to_le_bytes()[..], &offset.to_le_bytes(), bytes].concat()
}

fn file_end(file: u32, content: &[u8]) -> Vec<u8> {
    [&file.to_le_bytes()[..], &xxhash_rust::xxh3::xxh3_128(content).to_le_bytes()].concat()
}

fn done(offer: &[u8], contents: &[&[u8]]) -> Vec<u8> {
    let mut all = offer.to_vec();
    contents.iter().for_each(|content| all.extend(xxhash_rust::xxh3::xxh3_128(content).to_le_bytes()));
    xxhash_rust::xxh3::xxh3_128(&all).to_le_bytes().to_vec()
}

async fn refused(reader: &mut FrameReader) -> Refusal {
    match reader.next_content().await {
        Err(ConnectionError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_replayed_and_a_skipped_frame_end_the_connection() {
    let mut victim = Victim::start();
    for skip in [false, true] {
        let (mut reader, mut write, salt) = victim.greet(BlockKind::Messages).await;
        let mut encoder = Encoder::new(salt);
        let first = frame(&mut encoder, Kind::Message, b"first");
        write.write_all(&first).await.unwrap();
        assert_eq!(victim.message().await, &b"first"[..]);
        let next = if skip {
            encoder.header(Kind::Message, b"lost");
            frame(&mut encoder, Kind::Message, b"third")
        } else {
            first
        };
        write.write_all(&next).await.unwrap();
        ended(&mut reader).await;
    }
    assert!(victim.events.try_recv().is_err());
}

#[tokio::test]
async fn frames_of_another_connection_are_no_frames() {
    let mut victim = Victim::start();
    let (_reader, _write, salt) = victim.greet(BlockKind::Messages).await;
    let recorded = frame(&mut Encoder::new(salt), Kind::Message, b"recorded");
    let (mut reader, mut write, _) = victim.greet(BlockKind::Messages).await;
    write.write_all(&recorded).await.unwrap();
    ended(&mut reader).await;
    assert!(victim.events.try_recv().is_err());
}

#[tokio::test]
async fn a_giant_announcement_and_a_frame_out_of_place_end_the_connection() {
    let victim = Victim::start();
    let (mut reader, mut write, salt) = victim.greet(BlockKind::Messages).await;
    let header = Encoder::new(salt).header(Kind::Message, &vec![0; BOUND + 1]);
    write.write_all(&header).await.unwrap();
    ended(&mut reader).await;
    for kind in [BlockKind::Messages, BlockKind::Snapshot] {
        let (mut reader, mut write, salt) = victim.greet(kind).await;
        write.write_all(&frame(&mut Encoder::new(salt), Kind::Accepted, b"")).await.unwrap();
        ended(&mut reader).await;
    }
}

#[tokio::test]
async fn what_an_older_connection_still_sends_is_not_heard() {
    let mut victim = Victim::start();
    let (mut older, mut write_older, salt) = victim.greet(BlockKind::Messages).await;
    let (_newer, mut write_newer, newer_salt) = victim.greet(BlockKind::Messages).await;
    let late = frame(&mut Encoder::new(salt), Kind::Message, b"late");
    // It may be closed already.
    let _ = write_older.write_all(&late).await;
    ended(&mut older).await;
    write_newer.write_all(&frame(&mut Encoder::new(newer_salt), Kind::Message, b"new")).await.unwrap();
    assert_eq!(victim.message().await, &b"new"[..]);
}

#[tokio::test]
async fn hostile_file_names_are_refused_before_anything_is_written() {
    let victim = Victim::start();
    for name in ["../escape", "/tmp/escape", "a/../../escape", "..", "", "a\0b", "a//b"] {
        let (answer, ..) = victim.offer(&offer_of(1, &[(name, 1)])).await;
        assert!(matches!(answer, Err(Refusal::BadSnapshot(_))), "{name:?} {answer:?}");
    }
    let (answer, ..) = victim.offer(&offer_of(1, &[("a", 1), ("a/b", 1)])).await;
    assert!(matches!(answer, Err(Refusal::BadSnapshot(_))), "{answer:?}");
    let (answer, ..) = victim.offer(&offer_of(1, &[("a", u64::MAX), ("b", 1)])).await;
    assert!(matches!(answer, Err(Refusal::TooLarge { .. })), "{answer:?}");
    let (answer, ..) = victim.offer(&offer_of(1, &[("a", 1)])[..20]).await;
    assert!(matches!(answer, Err(Refusal::BadSnapshot(_))), "{answer:?}");
    assert_eq!(victim.staged(), 0);
    assert_eq!(fs::read_dir(victim.dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn parts_that_break_the_rules_are_refused_and_nothing_is_kept() {
    let victim = Victim::start();
    let offer = offer_of(1, &[("a", 10), ("b", 5)]);
    let wrong: [(Kind, Vec<u8>); 7] = [
        (Kind::Chunk, chunk(2, 0, b"no such file")),
        (Kind::Chunk, chunk(0, 3, b"gap")),
        (Kind::Chunk, chunk(0, 0, b"eleven byte")),
        (Kind::Chunk, chunk(0, u64::MAX, b"1")),
        (Kind::FileEnd, file_end(0, b"")),
        (Kind::FileEnd, file_end(9, b"")),
        (Kind::Done, done(&offer, &[b"", b""])),
    ];
    for (kind, payload) in wrong {
        let (answer, mut reader, mut writer) = victim.offer(&offer).await;
        answer.unwrap();
        writer.send(kind, &payload).await.unwrap();
        let refusal = refused(&mut reader).await;
        assert!(matches!(refusal, Refusal::BadSnapshot(_)), "{kind:?} {refusal}");
        assert_eq!(victim.staged(), 0);
    }
}

#[tokio::test]
async fn a_file_that_does_not_match_is_taken_again_from_its_start() {
    let mut victim = Victim::start();
    let offer = offer_of(1, &[("a", 4), ("b", 2)]);
    let (_, mut reader, mut writer) = victim.offer(&offer).await;
    writer.send(Kind::Chunk, &chunk(0, 0, b"good")).await.unwrap();
    writer.send(Kind::FileEnd, &file_end(0, b"good")).await.unwrap();
    writer.send(Kind::Chunk, &chunk(1, 0, b"xx")).await.unwrap();
    writer.send(Kind::FileEnd, &file_end(1, b"ok")).await.unwrap();
    assert_eq!(refused(&mut reader).await, Refusal::Corrupt("b".to_owned()));

    let (answer, mut reader, mut writer) = victim.offer(&offer).await;
    let have = [&2_u32.to_le_bytes()[..], &4_u64.to_le_bytes(), &[1], &0_u64.to_le_bytes(), &[0]].concat();
    assert_eq!(answer, Ok(have), "the first file counts, the second does not");
    writer.send(Kind::Chunk, &chunk(1, 0, b"ok")).await.unwrap();
    writer.send(Kind::FileEnd, &file_end(1, b"ok")).await.unwrap();
    writer.send(Kind::Done, &done(&offer, &[b"good", b"ok"])).await.unwrap();
    assert_eq!(reader.next_content().await.unwrap().kind, Kind::Accepted);
    let Event::SnapshotArrived { dir, bytes: 6, .. } = victim.event().await else { panic!("not that") };
    assert_eq!(fs::read(dir.join("a")).unwrap(), b"good");
    assert_eq!(fs::read(dir.join("b")).unwrap(), b"ok");
}

#[tokio::test]
async fn a_snapshot_whose_acceptance_was_not_heard_is_accepted_again_but_arrives_once() {
    let mut victim = Victim::start();
    let offer = offer_of(1, &[("a", 0)]);
    let (_, mut reader, mut writer) = victim.offer(&offer).await;
    writer.send(Kind::FileEnd, &file_end(0, b"")).await.unwrap();
    writer.send(Kind::Done, &done(&offer, &[b""])).await.unwrap();
    assert_eq!(reader.next_content().await.unwrap().kind, Kind::Accepted);
    assert!(matches!(victim.event().await, Event::SnapshotArrived { .. }));

    let (mut reader, write, salt) = victim.greet(BlockKind::Snapshot).await;
    FrameWriter::new(write, salt, PATIENCE).send(Kind::Offer, &offer).await.unwrap();
    assert_eq!(reader.next_content().await.unwrap().kind, Kind::Accepted);
    assert!(victim.events.try_recv().is_err());
    // Another order for the same is another snapshot.
    let (answer, ..) = victim.offer(&offer_of(2, &[("a", 0)])).await;
    answer.unwrap();
    victim.handle.shutdown().await;
}
