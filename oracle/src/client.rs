//! One server under test: a connection to it and one function that asks it anything.
//!
//! The room turns a [`Request`] into the matching call and the response or status into an
//! [`Answer`]. It never judges.

use std::collections::BTreeMap;
use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::v3electionpb::election_client::ElectionClient;
use folkmoot_proto::v3lockpb::lock_client::LockClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_request::RequestUnion;
use tonic::transport::{Channel, Endpoint};

use crate::answer::{Answer, WatchItem, WatcherLog};
use crate::request::{Request, StreamIndex};
use crate::watching::WatchStream;

/// How long a call may take before it counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(8);
/// Lock and Campaign may block for good, but only in scripts that were cut by the shrinker.
const PATIENCE_BLOCKING: Duration = Duration::from_secs(1);

/// Connects to one endpoint, such as `http://127.0.0.1:2379`.
pub async fn connect(url: &str) -> Result<Channel, String> {
    let endpoint =
        Endpoint::from_shared(url.to_owned()).map_err(|e| format!("endpoint is not a url url={url}: {e}"))?;
    let endpoint = endpoint.connect_timeout(Duration::from_secs(5)).initial_stream_window_size(8 << 20);
    let endpoint = endpoint.initial_connection_window_size(32 << 20);
    endpoint.connect().await.map_err(|e| format!("cannot connect url={url}: {e}"))
}

/// A connection to one of the servers that are compared.
pub struct Client {
    channel: Channel,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    streams: BTreeMap<StreamIndex, WatchStream>,
}

/// Wraps a unary response, whatever its status.
fn answer<T>(result: Result<tonic::Response<T>, tonic::Status>, wrap: fn(T) -> Answer) -> Answer {
    match result {
        Ok(response) => wrap(response.into_inner()),
        Err(status) => refused(&status),
    }
}

fn refused(status: &tonic::Status) -> Answer {
    Answer::Error { code: status.code(), message: status.message().to_owned() }
}

impl Client {
    /// Connects to a server.
    pub async fn connect(url: &str) -> Result<Client, String> {
        let channel = connect(url).await?;
        Ok(Client {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            maintenance: MaintenanceClient::new(channel.clone()),
            streams: BTreeMap::new(),
            channel,
        })
    }

    /// Sends one request and waits for its answer.
    pub async fn ask(&mut self, request: &Request) -> Answer {
        let patience = match request {
            Request::Lock(_) | Request::Campaign(_) => PATIENCE_BLOCKING,
            _ => PATIENCE,
        };
        tokio::time::timeout(patience, self.ask_patiently(request)).await.unwrap_or(Answer::Silence)
    }

    async fn ask_patiently(&mut self, request: &Request) -> Answer {
        match request.clone() {
            Request::Range(r) => answer(self.kv.range(r).await, Answer::Range),
            Request::Put(r) => answer(self.kv.put(r).await, Answer::Put),
            Request::DeleteRange(r) => answer(self.kv.delete_range(r).await, Answer::DeleteRange),
            Request::Txn(r) => answer(self.kv.txn(r).await, Answer::Txn),
            Request::Compact(r) => answer(self.kv.compact(r).await, Answer::Compact),
            Request::HashKv(r) => answer(self.maintenance.hash_kv(r).await, Answer::HashKv),
            Request::Grant(r) => self.grant(r).await,
            Request::Revoke(r) => answer(self.lease.lease_revoke(r).await, Answer::Revoke),
            Request::KeepAlive(r) => self.keep_alive(r).await,
            Request::TimeToLive(r) => answer(self.lease.lease_time_to_live(r).await, Answer::TimeToLive),
            Request::Leases => {
                answer(self.lease.lease_leases(pb::LeaseLeasesRequest {}).await, Answer::Leases)
            }
            Request::Lock(r) => answer(self.locks().lock(r).await, Answer::Lock),
            Request::Unlock(r) => answer(self.locks().unlock(r).await, Answer::Unlock),
            Request::Campaign(r) => answer(self.elections().campaign(r).await, Answer::Campaign),
            Request::Leader(r) => answer(self.elections().leader(r).await, Answer::Leader),
            Request::Proclaim(r) => answer(self.elections().proclaim(r).await, Answer::Proclaim),
            Request::Resign(r) => answer(self.elections().resign(r).await, Answer::Resign),
            Request::Watch { stream, create } if create.start_revision < 0 => {
                self.watch_in_vain(stream, create).await
            }
            Request::Watch { stream, create } => self.watch(stream, create).await,
            Request::Cancel { stream, watch_id } => self.cancel(stream, watch_id).await,
            Request::Progress { stream } => self.progress(stream).await,
            Request::Settle => Answer::Skipped,
        }
    }

    fn locks(&self) -> LockClient<Channel> {
        LockClient::new(self.channel.clone())
    }

    fn elections(&self) -> ElectionClient<Channel> {
        ElectionClient::new(self.channel.clone())
    }

    /// A lease with a random id would differ between the servers for the rest of the script, so it
    /// is revoked before its answer is handed out.
    async fn grant(&mut self, request: pb::LeaseGrantRequest) -> Answer {
        let random_id = request.id == 0;
        let granted = answer(self.lease.lease_grant(request).await, Answer::Grant);
        if let (true, Answer::Grant(response)) = (random_id, &granted) {
            let id = response.id;
            if let Err(status) = self.lease.lease_revoke(pb::LeaseRevokeRequest { id }).await {
                return refused(&status);
            }
        }
        granted
    }

    async fn keep_alive(&mut self, request: pb::LeaseKeepAliveRequest) -> Answer {
        let mut responses = match self.lease.lease_keep_alive(tokio_stream::once(request)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return refused(&status),
        };
        match responses.message().await {
            Ok(Some(response)) => Answer::KeepAlive(response),
            Ok(None) => Answer::Silence,
            Err(status) => refused(&status),
        }
    }

    async fn watch(&mut self, stream: StreamIndex, create: pb::WatchCreateRequest) -> Answer {
        let request = RequestUnion::CreateRequest(create);
        let sent = match self.streams.get_mut(&stream) {
            Some(open) => open.send(request).await,
            None => WatchStream::open(self.channel.clone(), request).await.map(|open| {
                self.streams.insert(stream, open);
            }),
        };
        match (sent, self.streams.get_mut(&stream)) {
            (Err(status), _) => refused(&status),
            (Ok(()), None) => Answer::Silence,
            (Ok(()), Some(open)) => match open.creation().await {
                // Of a created watcher the id is part of the answer, and the id of later requests.
                Some((watch_id, item)) => {
                    Answer::Watched(vec![WatcherLog { stream, watch_id, items: vec![item] }])
                }
                None => Answer::Silence,
            },
        }
    }

    /// Creates a watcher that the server is going to refuse, now or in a moment, on a stream of its
    /// own; returns all it said.
    async fn watch_in_vain(&mut self, stream: StreamIndex, create: pb::WatchCreateRequest) -> Answer {
        let request = RequestUnion::CreateRequest(create);
        let mut open = match WatchStream::open(self.channel.clone(), request).await {
            Ok(open) => open,
            Err(status) => return refused(&status),
        };
        if let Some((watch_id, item)) = open.creation().await
            && is_created(&item)
        {
            open.reach(&[(watch_id, i64::MAX)]).await;
        }
        let log = |(watch_id, items)| WatcherLog { stream, watch_id, items };
        Answer::Watched(open.log.take().into_iter().map(log).collect())
    }

    async fn cancel(&mut self, stream: StreamIndex, watch_id: i64) -> Answer {
        let Some(open) = self.streams.get_mut(&stream) else { return Answer::Skipped };
        let request = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id });
        if let Err(status) = open.send(request).await {
            return refused(&status);
        }
        open.cancellation(watch_id).await.map_or(Answer::Silence, |item| Answer::Control(vec![item]))
    }

    /// Cancels a watcher that does not exist; nothing comes back.
    pub async fn cancel_unknown(&mut self, stream: StreamIndex, watch_id: i64) -> Answer {
        let Some(open) = self.streams.get_mut(&stream) else { return Answer::Skipped };
        let request = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id });
        match open.send(request).await {
            Ok(()) => Answer::Control(Vec::new()),
            Err(status) => refused(&status),
        }
    }

    async fn progress(&mut self, stream: StreamIndex) -> Answer {
        let Some(open) = self.streams.get_mut(&stream) else { return Answer::Skipped };
        let request = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        if let Err(status) = open.send(request).await {
            return refused(&status);
        }
        open.progress().await.map_or(Answer::Silence, |item| Answer::Control(vec![item]))
    }

    /// Waits until each watcher `(stream, id, revision)` has seen its revision or was cancelled.
    pub async fn reach(&mut self, targets: &[(StreamIndex, i64, i64)]) {
        for (index, open) in &mut self.streams {
            let of_stream = |target: &&(StreamIndex, i64, i64)| target.0 == *index;
            let targets: Vec<(i64, i64)> = targets.iter().filter(of_stream).map(|t| (t.1, t.2)).collect();
            open.reach(&targets).await;
        }
    }

    /// Whether a watcher was cancelled by the server or by request.
    pub fn canceled(&self, stream: StreamIndex, watch_id: i64) -> bool {
        self.streams.get(&stream).is_some_and(|open| open.log.canceled(watch_id))
    }

    /// Takes what all watchers received since the last call.
    pub fn take_watched(&mut self) -> Vec<WatcherLog> {
        let mut logs = Vec::new();
        for (stream, open) in &mut self.streams {
            for (watch_id, items) in open.log.take() {
                logs.push(WatcherLog { stream: *stream, watch_id, items });
            }
        }
        logs
    }

    /// Ends all watch streams.
    pub fn close_streams(&mut self) {
        self.streams.clear();
    }

    /// Waits until the server answers `Status`; the error is the last one seen.
    pub async fn wait_ready(url: &str, patience: Duration) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let problem = match connect(url).await {
                Ok(channel) => match MaintenanceClient::new(channel).status(pb::StatusRequest {}).await {
                    Ok(status) if status.get_ref().leader != 0 => return Ok(()),
                    Ok(_) => "no leader yet".to_owned(),
                    Err(status) => status.message().to_owned(),
                },
                Err(problem) => problem,
            };
            if tokio::time::Instant::now() > deadline {
                return Err(format!("server is not ready url={url}: {problem}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whether an item says that a watcher came into being.
pub fn is_created(item: &WatchItem) -> bool {
    matches!(item, WatchItem::Created { .. })
}
