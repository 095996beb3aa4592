//! The fan-out workload: many watchers of one key, one writer.
//!
//! Each put carries the instant from which its latency counts; each event of each watcher is
//! one operation. In a closed loop the next put starts when all watchers have seen the last
//! (with `in_flight` above one: when all but so many puts have been seen by all), because a
//! writer that runs ahead of the watchers would measure its own backlog and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use folkmoot_proto::etcdserverpb as pb;
use prost::Message;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::calls::connect;
use super::{LoadError, SharedRecorder, Spec};
use crate::pace::Starts;
use crate::payload::{WATCH_KEY, value};
use crate::wire::{CallError, Channel, Incoming, Method, Outgoing, frame};

/// Bytes at the start of each value that hold the start of the put.
const STAMP_BYTES: usize = 8;

/// Streams with their watchers, and the writer's connection.
#[derive(Debug)]
pub struct Load {
    streams: Vec<(Outgoing, Incoming)>,
    watchers: u64,
    writer: Channel,
    put: Method,
    filler: Bytes,
    in_flight: u64,
}

/// How many events have come, over all watchers.
#[derive(Debug, Default)]
struct Arrivals {
    count: AtomicU64,
    progress: Notify,
}

impl Load {
    pub async fn connect(spec: &Spec) -> Result<Self, LoadError> {
        if spec.streams > spec.watchers {
            return Err(LoadError::Setting(format!(
                "each stream needs a watcher: --streams={} --watchers={}",
                spec.streams, spec.watchers
            )));
        }
        let channels = connect(&spec.endpoints, 0..spec.connections.min(spec.streams)).await?;
        let method = Method::new("/etcdserverpb.Watch/Watch");
        let mut streams = Vec::with_capacity(spec.streams);
        for index in 0..spec.streams {
            let mut channel = channels[index % channels.len()].clone();
            let (mut outgoing, mut incoming) = channel.stream(&method).await?;
            let share = super::Share { index, of: spec.streams };
            create_watchers(&mut outgoing, &mut incoming, share.part(spec.watchers)).await?;
            streams.push((outgoing, incoming));
        }
        Ok(Self {
            streams,
            watchers: spec.watchers as u64,
            writer: Channel::connect(spec.endpoint()).await?,
            put: Method::new("/etcdserverpb.KV/Put"),
            filler: value(spec.value_bytes.max(STAMP_BYTES)),
            in_flight: spec.in_flight as u64,
        })
    }

    pub async fn drive(mut self, starts: Starts, recorder: &SharedRecorder, deadline: tokio::time::Instant) {
        let zero = Instant::now();
        let arrivals = Arc::new(Arrivals::default());
        let mut receivers = JoinSet::new();
        for (outgoing, incoming) in std::mem::take(&mut self.streams) {
            let (recorder, arrivals) = (recorder.clone(), Arc::clone(&arrivals));
            let watchers = self.watchers;
            receivers.spawn(async move {
                // Held so that the stream stays open in both directions.
                let _outgoing = outgoing;
                if let Err(error) = receive(incoming, zero, watchers, &recorder, &arrivals).await {
                    recorder.lock().failed(&error);
                }
            });
        }
        let mut sent = 0;
        let writing = timeout_at(deadline, async {
            match self.write(&starts, zero, &arrivals, &mut sent).await {
                Ok(()) => arrivals.reached(sent * self.watchers).await,
                Err(error) => recorder.lock().failed(&error),
            }
        });
        let in_time = tokio::select! {
            finished = writing => finished.is_ok(),
            // A stream ends only by failing, which it has counted; its events will not come.
            _ = receivers.join_next() => true,
        };
        if !in_time {
            let missing = sent * self.watchers - arrivals.count.load(Ordering::Relaxed);
            recorder.lock().failed(&format!("events did not arrive in time missing={missing}"));
        }
    }

    async fn write(
        &mut self,
        starts: &Starts,
        zero: Instant,
        arrivals: &Arrivals,
        sent: &mut u64,
    ) -> Result<(), CallError> {
        while let Some(mut start) = starts.next().await {
            if matches!(starts, Starts::Closed(_)) {
                let seen = (*sent + 1).saturating_sub(self.in_flight);
                arrivals.reached(seen * self.watchers).await;
                start = Instant::now();
            }
            // The time of an open loop may be before the streams were handed over.
            let stamp = start.saturating_duration_since(zero);
            let request = pb::PutRequest {
                key: Bytes::from_static(WATCH_KEY.as_bytes()),
                value: stamped(&self.filler, stamp),
                ..Default::default()
            };
            *sent += 1;
            self.writer.unary(&self.put, frame(&request)).await?;
        }
        Ok(())
    }
}

impl Arrivals {
    /// Waits until so many events have come. For one waiter.
    async fn reached(&self, wanted: u64) {
        while self.count.load(Ordering::Relaxed) < wanted {
            self.progress.notified().await;
        }
    }

    fn add(&self, more: u64, watchers: u64) {
        let before = self.count.fetch_add(more, Ordering::Relaxed);
        if before / watchers != (before + more) / watchers {
            self.progress.notify_one();
        }
    }
}

async fn create_watchers(
    outgoing: &mut Outgoing,
    incoming: &mut Incoming,
    count: usize,
) -> Result<(), CallError> {
    let create =
        pb::WatchCreateRequest { key: Bytes::from_static(WATCH_KEY.as_bytes()), ..Default::default() };
    let request = frame(&pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    });
    for _ in 0..count {
        outgoing.send(request.clone())?;
    }
    for _ in 0..count {
        let response = next_response(incoming).await?;
        if !response.created || response.canceled {
            return Err(CallError::Answer(format!("watcher was not created: {}", response.cancel_reason)));
        }
    }
    Ok(())
}

async fn next_response(incoming: &mut Incoming) -> Result<pb::WatchResponse, CallError> {
    let message =
        incoming.next().await?.ok_or_else(|| CallError::Transport("server ended the watch stream".into()))?;
    Ok(pb::WatchResponse::decode(message)?)
}

async fn receive(
    mut incoming: Incoming,
    zero: Instant,
    watchers: u64,
    recorder: &SharedRecorder,
    arrivals: &Arrivals,
) -> Result<(), CallError> {
    loop {
        let response = next_response(&mut incoming).await?;
        let done = Instant::now();
        if response.canceled {
            return Err(CallError::Answer(format!("watcher was cancelled: {}", response.cancel_reason)));
        }
        for event in &response.events {
            let stamp = event.kv.as_ref().and_then(|kv| stamp_of(&kv.value));
            let Some(stamp) = stamp else {
                return Err(CallError::Answer("event without a stamp".into()));
            };
            recorder.lock().answered(zero + stamp, done);
        }
        arrivals.add(response.events.len() as u64, watchers);
    }
}

fn stamped(filler: &[u8], stamp: Duration) -> Bytes {
    let mut value = BytesMut::from(filler);
    let nanos = u64::try_from(stamp.as_nanos()).unwrap_or(u64::MAX);
    value[..STAMP_BYTES].copy_from_slice(&nanos.to_be_bytes());
    value.freeze()
}

fn stamp_of(value: &[u8]) -> Option<Duration> {
    let (nanos, _) = value.split_first_chunk::<STAMP_BYTES>()?;
    Some(Duration::from_nanos(u64::from_be_bytes(*nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_carries_the_start_of_its_put() {
        let stamp = Duration::from_nanos(1_234_567_890_123);
        let stamped = stamped(&value(256), stamp);
        assert_eq!(stamped.len(), 256);
        assert_eq!(stamp_of(&stamped), Some(stamp));
        assert_eq!(stamp_of(b"short"), None);
    }

    #[tokio::test]
    async fn the_writer_waits_for_the_last_watcher() {
        let arrivals = Arrivals::default();
        arrivals.add(9, 10);
        let waiting = arrivals.reached(10);
        tokio::pin!(waiting);
        let early = tokio::select! {
            biased;
            () = &mut waiting => true,
            () = std::future::ready(()) => false,
        };
        assert!(!early);
        arrivals.add(1, 10);
        waiting.await;
    }
}
