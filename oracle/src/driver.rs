//! Runs one script against two servers, request by request, and stops at the first difference.
//!
//! Every script starts and ends the same way: first everything is deleted and all leases revoked, at
//! the end everything is read. Those requests are compared like any other.
//!
//! The order between a request and the events of older requests is open in the watch API, so before
//! anything that depends on it (cancelling a watcher, compacting the history it still needs) the
//! driver lets the watchers *settle*: it writes to the first key of every watcher and waits until each
//! has seen that. The comparison of what the watchers received is then exact.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;
use pb::watch_create_request::FilterType;

use crate::answer::Answer;
use crate::client::{Client, is_created};
use crate::compare::{self, Verdict};
use crate::mutate::Mutation;
use crate::request::{Context, Request, StreamIndex, op};

/// Connections to the two servers that are compared.
pub struct Pair {
    /// The reference.
    pub left: Client,
    /// The server under test.
    pub right: Client,
}

/// One request with both answers.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The request as sent, with real revisions.
    pub request: Request,
    /// What the left server answered.
    pub left: Answer,
    /// What the right server answered.
    pub right: Answer,
}

/// What came of a script.
#[derive(Debug, Default)]
pub struct Run {
    /// All requests up to and including the first difference.
    pub exchanges: Vec<Exchange>,
    /// Whether the last exchange is a difference.
    pub differs: bool,
    /// How often each known difference was met.
    pub known: BTreeMap<&'static str, u64>,
}

/// The script is over because of a difference.
struct Differs;

/// A watcher that both servers have accepted.
struct Watcher {
    key: Bytes,
    range_end: Bytes,
    no_put: bool,
    no_delete: bool,
    start_revision: i64,
    prev_kv: bool,
    /// Still needs history.
    behind: bool,
}

impl Watcher {
    /// Whether a compaction would race with its events: etcd looks up the previous value only when it
    /// sends an event.
    fn needs_history(&self) -> bool {
        self.behind || self.prev_kv
    }

    fn covers(&self, key: &Bytes) -> bool {
        match &self.range_end[..] {
            b"" => *key == self.key,
            b"\0" => *key >= self.key,
            end => *key >= self.key && key[..] < *end,
        }
    }
}

struct Driver<'a> {
    pair: &'a mut Pair,
    mutation: Option<Mutation>,
    context: Context,
    watchers: BTreeMap<(StreamIndex, i64), Watcher>,
    /// Ids that a cancel request will be answered for: also watchers that a compaction has ended.
    taken: BTreeSet<(StreamIndex, i64)>,
    /// A compaction may still be deleting, perhaps one of the script before.
    sweeping: bool,
    run: Run,
}

/// Runs a script.
pub async fn run(pair: &mut Pair, script: &[Request], mutation: Option<Mutation>) -> Run {
    let mut driver = Driver {
        pair,
        mutation,
        context: Context::default(),
        watchers: BTreeMap::new(),
        taken: BTreeSet::new(),
        sweeping: true,
        run: Run::default(),
    };
    let differs = driver.script(script).await.is_err();
    let Driver { pair, run, .. } = driver;
    pair.left.close_streams();
    pair.right.close_streams();
    Run { differs, ..run }
}

/// The whole key space.
fn everything() -> (Bytes, Bytes) {
    (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
}

impl Driver<'_> {
    async fn script(&mut self, script: &[Request]) -> Result<(), Differs> {
        self.clean().await?;
        for request in script {
            let request = request.resolve(&self.context);
            self.step(request).await?;
        }
        self.settle().await?;
        let (key, range_end) = everything();
        self.exchange(Request::Range(pb::RangeRequest { key, range_end, ..Default::default() })).await?;
        self.exchange(Request::Leases).await?;
        self.swept().await?;
        self.exchange(Request::HashKv(pb::HashKvRequest { revision: 0 })).await?;
        Ok(())
    }

    /// Brings both servers into the same empty state, and checks that it is the same.
    async fn clean(&mut self) -> Result<(), Differs> {
        let (key, range_end) = everything();
        self.exchange(Request::DeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: false }))
            .await?;
        if let Answer::Leases(response) = self.exchange(Request::Leases).await? {
            for lease in response.leases {
                self.exchange(Request::Revoke(pb::LeaseRevokeRequest { id: lease.id })).await?;
            }
        }
        self.swept().await?;
        self.exchange(Request::HashKv(pb::HashKvRequest { revision: 0 })).await?;
        Ok(())
    }

    /// Waits until compacted revisions are really gone, since etcd hashes what it finds when there are
    /// no live keys. A physical compaction waits for the running ones even when it is refused.
    async fn swept(&mut self) -> Result<(), Differs> {
        if std::mem::take(&mut self.sweeping) {
            self.exchange(Request::Compact(pb::CompactionRequest { revision: -1, physical: true })).await?;
        }
        Ok(())
    }

    /// One request of the script, with what the driver has to do before it.
    async fn step(&mut self, request: Request) -> Result<(), Differs> {
        match &request {
            Request::Settle => return self.settle().await,
            // etcd 3.4 cancels such a watcher because of a compaction; without one it stays.
            Request::Watch { create, .. } if create.start_revision < 0 => {
                if self.context.compacted > 0 {
                    self.exchange(request).await?;
                }
                return Ok(());
            }
            Request::HashKv(_) => self.swept().await?,
            Request::Watch { stream, create } => return self.watch(*stream, create.clone()).await,
            Request::Compact(_) if self.watchers.values().any(Watcher::needs_history) => {
                self.settle().await?
            }
            Request::Cancel { stream, watch_id } => {
                let id = (*stream, *watch_id);
                if !self.taken.contains(&id) {
                    let (left, right) = tokio::join!(
                        self.pair.left.cancel_unknown(id.0, id.1),
                        self.pair.right.cancel_unknown(id.0, id.1)
                    );
                    return self.record(request, left, right).map(|_| ());
                }
                if self.watchers.contains_key(&id) {
                    self.settle().await?;
                }
                self.taken.remove(&id);
                self.watchers.remove(&id);
            }
            Request::Progress { stream } => {
                self.settle().await?;
                if !self.can_progress(*stream) {
                    return Ok(());
                }
            }
            _ => {}
        }
        self.exchange(request).await.map(|_| ())
    }

    /// Progress is only promised for a stream whose watchers are all live and not ahead of the store.
    fn can_progress(&self, stream: StreamIndex) -> bool {
        let mut live = self.watchers.iter().filter(|(id, _)| id.0 == stream).peekable();
        let dead = |id: &&(StreamIndex, i64)| id.0 == stream && !self.watchers.contains_key(id);
        live.peek().is_some()
            && live.all(|(_, watcher)| watcher.start_revision <= self.context.revision)
            && self.taken.iter().find(dead).is_none()
    }

    async fn watch(&mut self, stream: StreamIndex, create: pb::WatchCreateRequest) -> Result<(), Differs> {
        let answer = self.exchange(Request::Watch { stream, create: create.clone() }).await?;
        let Answer::Watched(logs) = answer else { return Ok(()) };
        for log in logs.iter().filter(|log| log.items.iter().any(is_created)) {
            let filtered = |filter: FilterType| create.filters.contains(&i32::from(filter));
            let watcher = Watcher {
                key: if create.key.is_empty() { Bytes::from_static(b"\0") } else { create.key.clone() },
                range_end: create.range_end.clone(),
                no_put: filtered(FilterType::Noput),
                no_delete: filtered(FilterType::Nodelete),
                start_revision: create.start_revision,
                prev_kv: create.prev_kv,
                behind: create.start_revision != 0 && create.start_revision <= self.context.revision,
            };
            self.watchers.insert((stream, log.watch_id), watcher);
            self.taken.insert((stream, log.watch_id));
        }
        Ok(())
    }

    /// Waits until every watcher has seen all there is, and compares what they saw.
    async fn settle(&mut self) -> Result<(), Differs> {
        if self.watchers.is_empty() {
            return Ok(());
        }
        let keys: BTreeSet<Bytes> = self.watchers.values().map(|watcher| watcher.key.clone()).collect();
        let put = |key: Bytes| {
            op(Op::RequestPut(pb::PutRequest { key, value: "settle".into(), ..Default::default() }))
        };
        let after_put = self.poke(keys.into_iter().map(put).collect()).await?;
        // Whoever does not want puts is told by a deletion.
        let deaf = |watcher: &&Watcher| watcher.no_put && !watcher.no_delete;
        let deleted: BTreeSet<Bytes> =
            self.watchers.values().filter(deaf).map(|watcher| watcher.key.clone()).collect();
        let delete =
            |key: Bytes| op(Op::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }));
        let after_delete = self.poke(deleted.iter().cloned().map(delete).collect()).await?;

        let target = |watcher: &Watcher| match (watcher.no_put, watcher.no_delete) {
            (true, true) => 0,
            (_, false) if deleted.iter().any(|key| watcher.covers(key)) => after_delete,
            _ => after_put,
        };
        let mut targets: Vec<(StreamIndex, i64, i64)> = Vec::new();
        for ((stream, watch_id), watcher) in &self.watchers {
            let revision = target(watcher);
            if watcher.start_revision <= revision {
                targets.push((*stream, *watch_id, revision));
            }
        }
        tokio::join!(self.pair.left.reach(&targets), self.pair.right.reach(&targets));
        let (left, right) = (self.pair.left.take_watched(), self.pair.right.take_watched());
        let pair = &self.pair;
        self.watchers.retain(|(stream, watch_id), _| !pair.left.canceled(*stream, *watch_id));
        self.watchers.values_mut().for_each(|watcher| watcher.behind = false);
        self.record(Request::Settle, Answer::Watched(left), Answer::Watched(right)).map(|_| ())
    }

    /// Writes that exist only to be seen by watchers; returns the revision they got.
    async fn poke(&mut self, ops: Vec<pb::RequestOp>) -> Result<i64, Differs> {
        if ops.is_empty() {
            return Ok(self.context.revision);
        }
        self.exchange(Request::Txn(pb::TxnRequest { success: ops, ..Default::default() })).await?;
        Ok(self.context.revision)
    }

    /// Asks both servers at the same time and compares the answers. Returns the left one.
    async fn exchange(&mut self, request: Request) -> Result<Answer, Differs> {
        let (left, right) = tokio::join!(self.pair.left.ask(&request), self.pair.right.ask(&request));
        self.record(request, left, right)
    }

    fn record(&mut self, request: Request, left: Answer, mut right: Answer) -> Result<Answer, Differs> {
        if let Some(mutation) = self.mutation {
            mutation.corrupt(&mut right);
        }
        let verdict = compare::judge(&request, &self.context, &left, &right);
        self.learn(&request, &left);
        self.run.exchanges.push(Exchange { request, left: left.clone(), right });
        match verdict {
            Verdict::Same(known) => {
                for name in known {
                    *self.run.known.entry(name).or_default() += 1;
                }
                Ok(left)
            }
            Verdict::Different => Err(Differs),
        }
    }

    /// Keeps the context up to date, which both servers agree on so far.
    fn learn(&mut self, request: &Request, answer: &Answer) {
        let context = &mut self.context;
        if let Some(header) = answer.header() {
            context.revision = context.revision.max(header.revision);
        }
        match (request, answer) {
            (Request::Put(put), Answer::Put(_)) => {
                context.written.insert(put.key.to_vec(), context.revision);
            }
            (Request::Txn(txn), Answer::Txn(response)) => {
                let ops = if response.succeeded { &txn.success } else { &txn.failure };
                for op in ops {
                    if let Some(Op::RequestPut(put)) = &op.request {
                        context.written.insert(put.key.to_vec(), context.revision);
                    }
                }
            }
            (Request::Compact(compact), Answer::Compact(_)) => {
                context.compacted = compact.revision;
                self.sweeping |= !compact.physical;
            }
            (Request::HashKv(_), Answer::HashKv(hash)) => context.compacted = hash.compact_revision.max(0),
            (Request::Campaign(_), Answer::Campaign(response)) => {
                if let Some(leader) = &response.leader {
                    context.campaigned.insert(leader.key.to_vec(), leader.rev);
                }
            }
            _ => {}
        }
    }
}
