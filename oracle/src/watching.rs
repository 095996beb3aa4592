//! One watch stream of one server, seen from the client.
//!
//! Responses are flattened into one sequence per watcher, since how a server batches events into
//! responses is its own affair. What the watch API promises about responses is checked on the way
//! in: one revision is never torn across two responses unless they are marked as fragments, and the
//! header is never older than the events below it. Nothing is read in the background: the stream is
//! pumped only while somebody waits, so no lock is needed.

use std::collections::BTreeMap;
use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::answer::WatchItem;

/// How long a promised watch response may take. etcd looks for watchers that need history ten
/// times a second, so anything near this limit means that the response will not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all watchers of one stream received so far.
#[derive(Debug, Default)]
pub struct WatchLog {
    items: BTreeMap<i64, Vec<WatchItem>>,
    seen: BTreeMap<i64, Seen>,
    creations: Vec<(i64, WatchItem)>,
    progress: Vec<WatchItem>,
}

/// What is known about one watcher without looking at its items again.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    cancels: usize,
    canceled: bool,
    newest: i64,
    fragmented: bool,
}

impl WatchLog {
    fn push(&mut self, watch_id: i64, item: WatchItem) {
        self.items.entry(watch_id).or_default().push(item);
    }

    /// Files one response under its watcher.
    pub fn absorb(&mut self, response: pb::WatchResponse) {
        let id = response.watch_id;
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let mut seen = self.seen(id);
        if response.created {
            let item = if response.canceled {
                WatchItem::Rejected { revision, reason: response.cancel_reason }
            } else {
                seen = Seen { cancels: seen.cancels, ..Seen::default() };
                WatchItem::Created { revision }
            };
            self.creations.push((id, item.clone()));
            self.push(id, item);
        } else if response.canceled {
            seen.cancels += 1;
            seen.canceled = true;
            let (compact_revision, reason) = (response.compact_revision, response.cancel_reason);
            self.push(id, WatchItem::Canceled { revision, compact_revision, reason });
        } else if response.events.is_empty() {
            self.progress.push(WatchItem::Progress { revision });
            self.push(id, WatchItem::Progress { revision });
        } else {
            let of =
                |event: &folkmoot_proto::mvccpb::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            let first = response.events.first().map_or(0, of);
            if first == seen.newest && !seen.fragmented {
                self.push(
                    id,
                    WatchItem::Broken(format!("events of one revision in two responses revision={first}")),
                );
            }
            seen.fragmented = response.fragment;
            for event in response.events {
                let at = of(&event);
                if at > revision {
                    self.push(
                        id,
                        WatchItem::Broken(format!(
                            "event newer than its header event={at} header={revision}"
                        )),
                    );
                }
                if at < seen.newest {
                    self.push(
                        id,
                        WatchItem::Broken(format!("event out of order event={at} before={}", seen.newest)),
                    );
                }
                seen.newest = seen.newest.max(at);
                self.push(id, WatchItem::Event(event));
            }
        }
        self.seen.insert(id, seen);
    }

    fn seen(&self, watch_id: i64) -> Seen {
        self.seen.get(&watch_id).copied().unwrap_or_default()
    }

    /// Whether the watcher's last creation was followed by a cancellation.
    pub fn canceled(&self, watch_id: i64) -> bool {
        self.seen(watch_id).canceled
    }

    /// Takes everything received since the last call, by watcher.
    pub fn take(&mut self) -> BTreeMap<i64, Vec<WatchItem>> {
        std::mem::take(&mut self.items)
    }
}

/// An open watch stream.
pub struct WatchStream {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: tonic::Streaming<pb::WatchResponse>,
    /// What arrived so far.
    pub log: WatchLog,
}

impl WatchStream {
    /// Opens a stream with its first request in flight: etcd sends response headers only together
    /// with the first response, so an empty stream would never finish opening.
    pub async fn open(channel: Channel, first: RequestUnion) -> Result<WatchStream, tonic::Status> {
        let (requests, inbound) = mpsc::channel(64);
        let first = pb::WatchRequest { request_union: Some(first) };
        requests.try_send(first).map_err(|_| tonic::Status::internal("fresh queue is full"))?;
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let responses = client.watch(ReceiverStream::new(inbound)).await?.into_inner();
        Ok(WatchStream { requests, responses, log: WatchLog::default() })
    }

    /// Sends one more request on the stream.
    pub async fn send(&mut self, request: RequestUnion) -> Result<(), tonic::Status> {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.map_err(|_| tonic::Status::unavailable("watch stream is closed"))
    }

    /// Reads responses until `done` holds; false when the patience or the stream ended first.
    async fn pump(&mut self, done: impl Fn(&WatchLog) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !done(&self.log) {
            match tokio::time::timeout_at(deadline, self.responses.message()).await {
                Ok(Ok(Some(response))) => self.log.absorb(response),
                Ok(Ok(None)) => {
                    self.log.push(-1, WatchItem::Broken("stream ended by the server".into()));
                    return false;
                }
                Ok(Err(status)) => {
                    self.log.push(-1, WatchItem::Broken(format!("stream failed: {}", status.message())));
                    return false;
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Waits for the answer to one create request: the id and what it says.
    pub async fn creation(&mut self) -> Option<(i64, WatchItem)> {
        let count = self.log.creations.len();
        self.pump(|log| log.creations.len() > count).await;
        self.log.creations.get(count).cloned()
    }

    /// Waits for the answer to one cancel request.
    pub async fn cancellation(&mut self, watch_id: i64) -> Option<WatchItem> {
        let count = self.log.seen(watch_id).cancels;
        let answered = self.pump(|log| log.seen(watch_id).cancels > count).await;
        let last = self.log.items.get(&watch_id).and_then(|items| items.last());
        last.filter(|_| answered).cloned()
    }

    /// Waits for the answer to one progress request.
    pub async fn progress(&mut self) -> Option<WatchItem> {
        let count = self.log.progress.len();
        self.pump(|log| log.progress.len() > count).await;
        self.log.progress.get(count).cloned()
    }

    /// Waits until each of the watchers has seen the given revision or was cancelled. A watcher that
    /// did not get there is marked as broken.
    pub async fn reach(&mut self, targets: &[(i64, i64)]) {
        let arrived = |log: &WatchLog, (id, revision): &(i64, i64)| {
            let seen = log.seen(*id);
            seen.canceled || seen.newest >= *revision
        };
        if self.pump(|log| targets.iter().all(|target| arrived(log, target))).await {
            return;
        }
        for target in targets {
            if !arrived(&self.log, target) {
                let (id, revision) = *target;
                self.log.push(id, WatchItem::Broken(format!("never saw revision={revision}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use folkmoot_proto::mvccpb;

    fn events(header: i64, fragment: bool, revisions: &[i64]) -> pb::WatchResponse {
        pb::WatchResponse {
            header: Some(pb::ResponseHeader { revision: header, ..Default::default() }),
            watch_id: 3,
            fragment,
            events: revisions
                .iter()
                .map(|revision| mvccpb::Event {
                    kv: Some(mvccpb::KeyValue { mod_revision: *revision, ..Default::default() }),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    fn broken(responses: Vec<pb::WatchResponse>) -> usize {
        let mut log = WatchLog::default();
        responses.into_iter().for_each(|response| log.absorb(response));
        log.take().into_values().flatten().filter(|item| matches!(item, WatchItem::Broken(_))).count()
    }

    #[test]
    fn batching_is_free_but_a_revision_is_never_torn() {
        assert_eq!(broken(vec![events(9, false, &[5, 6]), events(9, false, &[7, 7])]), 0);
        assert_eq!(broken(vec![events(9, false, &[5, 6]), events(9, false, &[6, 7])]), 1);
        assert_eq!(broken(vec![events(9, true, &[5, 6]), events(9, false, &[6, 7])]), 0);
    }

    #[test]
    fn events_out_of_order_or_ahead_of_their_header_are_noticed() {
        assert_eq!(broken(vec![events(9, false, &[7, 6])]), 1);
        assert_eq!(broken(vec![events(9, false, &[8]), events(9, false, &[5])]), 1);
        assert_eq!(broken(vec![events(6, false, &[7])]), 1);
    }
}
