//! The load: clients that write and keep a record of every request and of its answer.
//!
//! Every value is unique, so that an event in the history names the request it came from. A client
//! sends one request at a time and stops at the first answer that leaves the outcome open.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::request_op::Request as Op;
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tonic::transport::Channel;

use crate::client;
use crate::request::op;

/// Keys that all clients write.
const SHARED_KEYS: u32 = 24;
/// Seconds; far longer than any run.
const LEASE_TTL: i64 = 1_000_000;

/// One change a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A put with a value that no other put has.
    Put {
        /// The key.
        key: Bytes,
        /// The unique value.
        value: Bytes,
        /// The lease, or 0.
        lease: i64,
    },
    /// A deletion of one key, which may not exist.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// What a request asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// One put or deletion, or a transaction of several, on different keys.
    Write(Vec<Change>),
    /// A lease with an explicit id.
    Grant(i64),
    /// The end of a lease and of its keys.
    Revoke(i64),
    /// A compaction up to this revision.
    Compact(i64),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was acknowledged with this revision in the header.
    Acked(i64),
    /// It was acknowledged with this revision in the header, and said to have changed nothing.
    Idle(i64),
    /// There was no answer, so it may have taken effect or not.
    Open,
    /// The server refused what it should have accepted.
    Refused(String),
}

/// One request with its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What was asked.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
    /// Highest acknowledged revision when the request was sent: its own must be higher.
    pub floor: i64,
}

impl Record {
    /// Whether the server has promised to remember it.
    pub fn is_acked(&self) -> bool {
        matches!(self.outcome, Outcome::Acked(_) | Outcome::Idle(_))
    }
}

/// One client; it lives through all rounds.
pub struct Writer {
    index: usize,
    rng: ChaCha8Rng,
    written: u64,
    leases_granted: i64,
    /// Leases that are certainly alive.
    leases: Vec<i64>,
}

/// What one client does with its connection.
struct Session<'a> {
    writer: &'a mut Writer,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    round: u32,
    acked: Arc<AtomicI64>,
    compactable: Option<RangeInclusive<i64>>,
    records: Vec<Record>,
}

/// Lets all clients write until the server is gone.
pub async fn run(
    url: &str,
    writers: &mut [Writer],
    round: u32,
    compactable: Option<RangeInclusive<i64>>,
) -> Vec<Record> {
    let acked = Arc::new(AtomicI64::new(0));
    let sessions = writers.iter_mut().map(|writer| {
        // One client compacts, so that its requests are never refused.
        let compactable = compactable.clone().filter(|_| writer.index == 0);
        let acked = acked.clone();
        async move {
            let Ok(channel) = client::connect(url).await else { return Vec::new() };
            let (kv, lease) = (KvClient::new(channel.clone()), LeaseClient::new(channel));
            let mut session = Session { writer, kv, lease, round, acked, compactable, records: Vec::new() };
            while session.step().await {}
            session.records
        }
    });
    futures_util::future::join_all(sessions).await.into_iter().flatten().collect()
}

impl Writer {
    /// A client with its own random sequence.
    pub fn new(index: usize, seed: u64) -> Writer {
        Writer {
            index,
            rng: ChaCha8Rng::seed_from_u64(seed),
            written: 0,
            leases_granted: 0,
            leases: Vec::new(),
        }
    }

    fn key(&mut self) -> Bytes {
        if self.rng.random_bool(0.7) {
            format!("shared/{:02}", self.rng.random_range(0..SHARED_KEYS)).into()
        } else {
            format!("own/{}/{}", self.index, self.rng.random_range(0..8)).into()
        }
    }

    fn put(&mut self, round: u32) -> Change {
        self.written += 1;
        let mut value = format!("round {round} client {} write {} ", self.index, self.written).into_bytes();
        // A long value now and then, so that a death may come in the middle of writing it.
        let padding = match self.rng.random_range(0..50) {
            0 => self.rng.random_range(10_000..200_000),
            1..6 => self.rng.random_range(500..5000),
            _ => 0,
        };
        value.resize(value.len() + padding, b'.');
        let lease = match self.leases.len() {
            0 => 0,
            count if self.rng.random_bool(0.3) => self.leases[self.rng.random_range(0..count)],
            _ => 0,
        };
        Change::Put { key: self.key(), value: value.into(), lease }
    }

    fn changes(&mut self, round: u32) -> Vec<Change> {
        let count = if self.rng.random_bool(0.25) { self.rng.random_range(2..6) } else { 1 };
        let mut changes: Vec<Change> = Vec::new();
        for _ in 0..count {
            let put = self.put(round);
            let Change::Put { key, .. } = &put else { continue };
            if changes.iter().any(|change| change.key() == key) {
                continue;
            }
            let delete = Change::Delete { key: key.clone() };
            changes.push(if self.rng.random_bool(0.2) { delete } else { put });
        }
        changes
    }

    fn action(&mut self, round: u32, compactable: &mut Option<RangeInclusive<i64>>) -> Action {
        match self.rng.random_range(0..100) {
            0..3 if self.leases.len() < 6 => {
                self.leases_granted += 1;
                Action::Grant((self.index as i64 + 1) * 1_000_000 + self.leases_granted)
            }
            3..5 if !self.leases.is_empty() => {
                let at = self.rng.random_range(0..self.leases.len());
                Action::Revoke(self.leases.swap_remove(at))
            }
            5..7 => match compactable.take() {
                Some(range) => {
                    let revision = self.rng.random_range(range.clone());
                    *compactable = Some(revision + 1..=*range.end()).filter(|range| !range.is_empty());
                    Action::Compact(revision)
                }
                None => Action::Write(self.changes(round)),
            },
            _ => Action::Write(self.changes(round)),
        }
    }
}

impl Change {
    /// The key it is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put { key, .. } | Change::Delete { key } => key,
        }
    }

    fn op(&self) -> Op {
        match self.clone() {
            Change::Put { key, value, lease } => {
                Op::RequestPut(pb::PutRequest { key, value, lease, ..Default::default() })
            }
            Change::Delete { key } => {
                Op::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() })
            }
        }
    }
}

impl Session<'_> {
    /// One request; false when the server is gone.
    async fn step(&mut self) -> bool {
        let action = self.writer.action(self.round, &mut self.compactable);
        let floor = self.acked.load(Ordering::SeqCst);
        let sent = self.send(&action);
        let outcome = match tokio::time::timeout(Duration::from_secs(10), sent).await {
            Ok(Ok((header, changed))) => {
                let revision = header.map_or(0, |header| header.revision);
                if changed { Outcome::Acked(revision) } else { Outcome::Idle(revision) }
            }
            Ok(Err(status)) => match status.code() {
                tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => Outcome::Open,
                tonic::Code::Internal | tonic::Code::DeadlineExceeded => Outcome::Open,
                code => Outcome::Refused(format!("{code:?}: {}", status.message())),
            },
            Err(_) => Outcome::Open,
        };
        if let Outcome::Acked(revision) | Outcome::Idle(revision) = outcome {
            if let Action::Grant(id) = action {
                self.writer.leases.push(id);
            }
            self.acked.fetch_max(revision, Ordering::SeqCst);
        }
        let goes_on = outcome != Outcome::Open;
        self.records.push(Record { action, outcome, floor });
        goes_on
    }

    /// Sends a request; returns the header and whether the answer says that something changed.
    async fn send(&self, action: &Action) -> Result<(Option<pb::ResponseHeader>, bool), tonic::Status> {
        let (mut kv, mut lease) = (self.kv.clone(), self.lease.clone());
        Ok(match action {
            Action::Write(changes) => match &changes[..] {
                [Change::Put { key, value, lease }] => {
                    let (key, value, lease) = (key.clone(), value.clone(), *lease);
                    let put = pb::PutRequest { key, value, lease, ..Default::default() };
                    (kv.put(put).await?.into_inner().header, true)
                }
                [Change::Delete { key }] => {
                    let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
                    let response = kv.delete_range(delete).await?.into_inner();
                    (response.header, response.deleted > 0)
                }
                several => {
                    let success = several.iter().map(|change| op(change.op())).collect();
                    let response =
                        kv.txn(pb::TxnRequest { success, ..Default::default() }).await?.into_inner();
                    let changed = |op: &pb::ResponseOp| match &op.response {
                        Some(pb::response_op::Response::ResponseDeleteRange(delete)) => delete.deleted > 0,
                        _ => true,
                    };
                    (response.header, response.responses.iter().any(changed))
                }
            },
            Action::Grant(id) => {
                let request = pb::LeaseGrantRequest { id: *id, ttl: LEASE_TTL };
                (lease.lease_grant(request).await?.into_inner().header, false)
            }
            // Whether the lease had keys is not in the answer.
            Action::Revoke(id) => {
                (lease.lease_revoke(pb::LeaseRevokeRequest { id: *id }).await?.into_inner().header, true)
            }
            Action::Compact(revision) => {
                let request = pb::CompactionRequest { revision: *revision, physical: false };
                (kv.compact(request).await?.into_inner().header, false)
            }
        })
    }
}
