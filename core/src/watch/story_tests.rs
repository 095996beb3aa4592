//! Stories of one hub, as text: commands and what the clients of the streams get.
//!
//! A story is a file of lines. `>` starts a command, `#` a comment; everything else is output and
//! must come out again. To record a story, write its commands and copy the text that the failing
//! test prints. The commands:
//!
//! ```text
//! > config outbox=BYTES fragment=BYTES revisions=N ring=BYTES     (first)
//! > txn put KEY VALUE [LEASE]; del KEY; …                         one revision; VALUE may be x*COUNT
//! > open STREAM | close STREAM | cancel STREAM ID | progress STREAM
//! > create STREAM KEY [END] [start=R] [id=N] [prev] [notify] [fragment] [filter=N…] [denied=TEXT]
//! > stored R | compact R | snapshot R (installs what `apart` put) | apart put …
//! > tick SECONDS
//! > read STREAM          everything, until the hub has nothing more for it
//! > take STREAM          what is queued now, without telling the hub that it was sent
//! > sent STREAM          now everything taken was sent
//! ```

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::model::{Change, Store};
use super::{CreateRequest, Hub, HubConfig, StreamId, WatchFrame};
use crate::event::EventKind;
use crate::types::{Instant64, KeyValue, LeaseId};

struct Story {
    store: Arc<Store>,
    hub: Hub,
    now: Instant64,
    /// By `take`, in bytes.
    taken: usize,
    output: String,
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn bytes(word: &str) -> Bytes {
    if let Some((byte, count)) = word.split_once('*') {
        return Bytes::from(byte.repeat(number(count)));
    }
    Bytes::from(word.replace("\\0", "\0"))
}

fn text(bytes: &Bytes) -> String {
    if bytes.len() > 40 {
        return format!("<{} bytes>", bytes.len());
    }
    bytes.escape_ascii().to_string()
}

fn changes(words: &str) -> Vec<Change> {
    let change = |part: &str| match part.split_whitespace().collect::<Vec<_>>()[..] {
        ["put", key, value] => Change::Put(bytes(key), bytes(value), None),
        ["put", key, value, lease] => {
            Change::Put(bytes(key), bytes(value), LeaseId::from_wire(number(lease)))
        }
        ["del", key] => Change::Delete(bytes(key)),
        _ => panic!("not a change: {part}"),
    };
    words.split(';').map(change).collect()
}

fn kv(kv: &KeyValue) -> String {
    let mut out = format!("{}={} mod={}", text(&kv.key), text(&kv.value), kv.mod_revision);
    if kv.version > 0 {
        write!(out, " create={} version={}", kv.create_revision, kv.version).unwrap();
    }
    if let Some(lease) = kv.lease {
        write!(out, " lease={}", lease.get()).unwrap();
    }
    out
}

fn line(frame: &WatchFrame) -> String {
    let mut out = format!("watch={} revision={}", frame.watch_id, frame.revision);
    for (flag, name) in
        [(frame.created, " created"), (frame.canceled, " canceled"), (frame.fragment, " fragment")]
    {
        out += if flag { name } else { "" };
    }
    if frame.compact_revision != 0 {
        write!(out, " compact_revision={}", frame.compact_revision).unwrap();
    }
    if !frame.cancel_reason.is_empty() {
        write!(out, " reason={:?}", frame.cancel_reason).unwrap();
    }
    for (event, prev) in frame.events() {
        let kind = match event.kind {
            EventKind::Put => "PUT",
            EventKind::Delete => "DELETE",
        };
        write!(out, "\n  {kind} {}", kv(&event.kv)).unwrap();
        if let Some(prev) = prev {
            write!(out, " (was {})", kv(prev)).unwrap();
        }
    }
    out
}

impl Story {
    fn new(config: HubConfig) -> Self {
        let store = Arc::new(Store::default());
        let hub = Hub::new(config, store.clone(), 1, -1);
        Self { store, hub, now: Instant64(0), taken: 0, output: String::new() }
    }

    fn create(&mut self, words: &[&str]) {
        let mut request = CreateRequest { key: bytes(words[1]), ..CreateRequest::default() };
        let mut denied = None;
        for word in &words[2..] {
            match word.split_once('=') {
                Some(("start", revision)) => request.start_revision = number(revision),
                Some(("id", id)) => request.watch_id = number(id),
                Some(("filter", kind)) => request.filters.push(number(kind)),
                Some(("denied", reason)) => denied = Some(reason.replace('_', " ")),
                _ if *word == "prev" => request.prev_kv = true,
                _ if *word == "notify" => request.progress_notify = true,
                _ if *word == "fragment" => request.fragment = true,
                _ => request.range_end = bytes(word),
            }
        }
        if request.key == "\"\"" {
            request.key = Bytes::new();
        }
        self.hub.create(StreamId(number(words[0])), request, denied);
    }

    fn show(&mut self, frames: &[WatchFrame]) {
        for frame in frames {
            writeln!(self.output, "{}", line(frame)).unwrap();
        }
    }

    fn read(&mut self, stream: StreamId) {
        loop {
            while self.hub.work(1 << 20).unwrap() {}
            let frames = self.hub.next_frames(stream, usize::MAX);
            if frames.is_empty() {
                break;
            }
            self.show(&frames);
            self.hub.sent(stream, frames.iter().map(WatchFrame::size_bytes).sum());
        }
    }

    fn command(&mut self, command: &str) {
        let (name, rest) = command.split_once(' ').expect("a command and its arguments");
        let words: Vec<_> = rest.split_whitespace().collect();
        let stream = || StreamId(number(words[0]));
        match name {
            "txn" => {
                let batch = self.store.apply(changes(rest), false).expect("something changes");
                self.hub.publish(batch).unwrap();
            }
            "apart" => {
                self.store.apply(changes(rest), false).expect("something changes");
            }
            "snapshot" => {
                assert_eq!(self.store.revision(), number::<i64>(rest));
                self.store.set_stored(self.store.revision());
                self.hub.reset(self.store.revision(), self.store.compact_revision());
            }
            "stored" => {
                self.store.set_stored(number(rest));
                self.hub.stored(number(rest));
            }
            "compact" => {
                self.store.compact(number(rest));
                self.hub.compacted(number(rest));
            }
            "tick" => {
                self.now = self.now.after(Duration::from_secs(number(rest)));
                self.hub.tick(self.now);
            }
            "open" => self.hub.open_stream(stream(), 0, self.now),
            "close" => self.hub.close_stream(stream()),
            "create" => self.create(&words),
            "cancel" => self.hub.cancel(stream(), number(words[1])),
            "progress" => self.hub.progress_request(stream()),
            "read" => self.read(stream()),
            "take" => {
                let frames = self.hub.next_frames(stream(), usize::MAX);
                self.taken += frames.iter().map(WatchFrame::size_bytes).sum::<usize>();
                self.show(&frames);
            }
            "sent" => {
                self.hub.sent(stream(), self.taken);
                self.taken = 0;
            }
            _ => panic!("no such command: {command}"),
        }
    }
}

fn configure(words: &str) -> HubConfig {
    let mut config = HubConfig { progress_interval: Duration::from_secs(10), ..HubConfig::default() };
    for word in words.split_whitespace() {
        match word.split_once('=').expect("name=value") {
            ("outbox", bytes) => config.outbox_bytes = number(bytes),
            ("fragment", bytes) => config.fragment_bytes = number(bytes),
            ("revisions", count) => config.catch_up_revisions = number(count),
            ("ring", bytes) => config.ring_bytes = number(bytes),
            _ => panic!("no such setting: {word}"),
        }
    }
    config
}

fn tell(name: &str, text: &str) {
    let mut story = Story::new(configure(""));
    for line in text.lines() {
        let Some(command) = line.strip_prefix("> ") else {
            if line.starts_with('#') || line.is_empty() {
                writeln!(story.output, "{line}").unwrap();
            }
            continue;
        };
        writeln!(story.output, "{line}").unwrap();
        match command.strip_prefix("config ") {
            Some(words) => story = Story { output: story.output, ..Story::new(configure(words)) },
            None => story.command(command),
        }
    }
    assert!(story.output == text, "{name} went differently:\n{}", story.output);
}

macro_rules! stories {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            tell(stringify!($name), include_str!(concat!("scenarios/", stringify!($name), ".txt")));
        })*
    };
}

stories! {
    a_create_is_checked_in_order_and_answered_first
    a_watch_starts_where_it_was_asked_to
    compaction_cancels_a_watch_that_it_passed
    events_carry_what_etcd_puts_into_them
    large_responses_are_split_only_on_request
    a_slow_stream_loses_nothing
    progress_is_told_only_in_sync
    a_snapshot_does_not_take_a_watch_back
}
