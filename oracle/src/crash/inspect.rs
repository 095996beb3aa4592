//! Reads from a quiet server everything that is compared with the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::mvccpb::{Event, KeyValue};
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tonic::transport::Channel;

use crate::client;

/// How long the server may take to send its history.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server holds.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The store's revision.
    pub revision: i64,
    /// The last compacted revision; -1 if there was none.
    pub compacted: i64,
    /// Events by revision, for all revisions after the compacted one, from a watch.
    pub history: BTreeMap<i64, Vec<Event>>,
    /// All keys.
    pub keys: BTreeMap<Bytes, KeyValue>,
    /// All leases with their keys.
    pub leases: BTreeMap<i64, BTreeSet<Bytes>>,
}

impl Found {
    /// Forgets the newest revision of the history, as a server would that lost it.
    pub fn forget_one(&mut self) {
        self.history.pop_last();
    }
}

fn failed(what: &str) -> impl Fn(tonic::Status) -> String + '_ {
    move |status| format!("cannot read {what}: {:?}: {}", status.code(), status.message())
}

/// Reads everything. `known` is a revision that the server is certain to have reached.
pub async fn read(url: &str, known: i64) -> Result<Found, String> {
    let channel = client::connect(url).await?;
    let all = Bytes::from_static(b"\0");
    let range = pb::RangeRequest { key: all.clone(), range_end: all, ..Default::default() };
    let mut kv = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let response = kv.range(range).await.map_err(failed("keys"))?.into_inner();
    let revision = response.header.map_or(0, |header| header.revision);
    if revision < known {
        return Err(format!("the revision went backwards revision={revision} known={known}"));
    }
    let hash = MaintenanceClient::new(channel.clone()).hash_kv(pb::HashKvRequest { revision: 0 }).await;
    let compacted = hash.map_err(failed("hash"))?.into_inner().compact_revision;
    let history =
        tokio::time::timeout(PATIENCE, history(channel.clone(), compacted.max(0) + 1, revision)).await;
    let history = history.map_err(|_| format!("the history did not arrive up to revision={revision}"))??;
    let keys = response.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    Ok(Found { revision, compacted, history, keys, leases: leases(channel).await? })
}

/// All events from one revision up to another. Every revision after the first has events.
async fn history(channel: Channel, from: i64, to: i64) -> Result<BTreeMap<i64, Vec<Event>>, String> {
    let mut history: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
    if from.max(2) > to {
        return Ok(history);
    }
    let all = Bytes::from_static(b"\0");
    let create = pb::WatchCreateRequest {
        key: all.clone(),
        range_end: all,
        start_revision: from,
        ..Default::default()
    };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The request side stays open until the history is read.
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(create), tokio_stream::pending());
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut responses = client.watch(requests).await.map_err(failed("history"))?.into_inner();
    let mut newest = 0;
    while newest < to {
        let response = responses.message().await.map_err(failed("history"))?;
        let response = response.ok_or("the watch ended before the history was complete")?;
        if response.canceled {
            let compacted = response.compact_revision;
            return Err(format!(
                "the watch was cancelled start_revision={from} compact_revision={compacted}"
            ));
        }
        for event in response.events {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if revision < newest {
                return Err(format!("the history is out of order revision={revision} after={newest}"));
            }
            newest = revision;
            history.entry(revision).or_default().push(event);
        }
    }
    Ok(history)
}

async fn leases(channel: Channel) -> Result<BTreeMap<i64, BTreeSet<Bytes>>, String> {
    let mut client = LeaseClient::new(channel);
    let list = client.lease_leases(pb::LeaseLeasesRequest {}).await.map_err(failed("leases"))?.into_inner();
    let mut leases = BTreeMap::new();
    for lease in list.leases {
        let request = pb::LeaseTimeToLiveRequest { id: lease.id, keys: true };
        let answer = client.lease_time_to_live(request).await.map_err(failed("lease"))?.into_inner();
        leases.insert(lease.id, answer.keys.into_iter().collect());
    }
    Ok(leases)
}

/// Reads some keys at the revision at which they were written, which goes another way through the
/// server than the watch did.
pub async fn spot_check(url: &str, found: &Found, rng: &mut ChaCha8Rng) -> Result<(), String> {
    let revisions: Vec<&i64> = found.history.keys().collect();
    if revisions.is_empty() {
        return Ok(());
    }
    let mut kv = KvClient::new(client::connect(url).await?).max_decoding_message_size(usize::MAX);
    for _ in 0..20 {
        let revision = *revisions[rng.random_range(0..revisions.len())];
        for event in &found.history[&revision] {
            let Some(expected) = &event.kv else { continue };
            let request = pb::RangeRequest { key: expected.key.clone(), revision, ..Default::default() };
            let answer = kv.range(request).await.map_err(failed("key at a revision"))?.into_inner();
            let expected = if event.r#type == 0 { vec![expected.clone()] } else { Vec::new() };
            if answer.kvs != expected {
                let text = crate::text::event(event);
                return Err(format!(
                    "a read at a revision disagrees with the history revision={revision} event={text}"
                ));
            }
        }
    }
    Ok(())
}
