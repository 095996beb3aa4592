//! The keepalive workload: many leases, one keepalive stream a connection.
//!
//! A stream's leases are its own. Answers are matched to requests by lease, oldest first, so
//! it does not matter in which order a server answers different leases.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::calls::{call_all, connect};
use super::{LoadError, Share, SharedRecorder, Spec};
use crate::pace::Starts;
use crate::wire::{CallError, Channel, Incoming, Method, Outgoing, frame};

/// Long enough never to expire during a run, short enough to be gone soon if the run is killed.
const TTL_SECONDS: i64 = 600;

/// Leases, granted, and the streams that keep them.
#[derive(Debug)]
pub struct Load {
    channels: Vec<Channel>,
    keepalive: Method,
    revoke: Method,
    leases: Vec<i64>,
    in_flight: usize,
}

impl Load {
    pub async fn connect(spec: &Spec, share: Share) -> Result<Self, LoadError> {
        let count = share.part(spec.leases);
        if count == 0 {
            return Err(LoadError::Setting(format!(
                "each thread needs a lease: --threads={} --leases={}",
                spec.threads, spec.leases
            )));
        }
        let first = share.before(spec.connections);
        let connections = share.part(spec.connections).min(count);
        let channels = connect(&spec.endpoints, first..first + connections).await?;
        // Ids that a second run against the same server will not meet: the upper half is
        // random, and positive as etcd's own ids are.
        let base = i64::from(rand::random::<u32>() >> 1) << 32;
        let leases: Vec<i64> = (1..=count as i64).map(|number| base + number).collect();
        let grant = Method::new("/etcdserverpb.Lease/LeaseGrant");
        let requests =
            leases.clone().into_iter().map(|id| frame(&pb::LeaseGrantRequest { ttl: TTL_SECONDS, id }));
        call_all(&channels, spec.in_flight, &grant, requests, |_, _| Ok(())).await?;
        Ok(Self {
            channels,
            keepalive: Method::new("/etcdserverpb.Lease/LeaseKeepAlive"),
            revoke: Method::new("/etcdserverpb.Lease/LeaseRevoke"),
            leases,
            in_flight: spec.in_flight,
        })
    }

    pub async fn drive(mut self, starts: Starts, recorder: &SharedRecorder, deadline: tokio::time::Instant) {
        let mut streams = JoinSet::new();
        let per_stream = self.leases.len().div_ceil(self.channels.len());
        for (channel, leases) in self.channels.iter_mut().zip(self.leases.chunks(per_stream)) {
            match channel.stream(&self.keepalive).await {
                Ok((outgoing, incoming)) => {
                    let state = Arc::new(Stream::new(leases, self.in_flight));
                    let (starts, recorder) = (starts.clone(), recorder.clone());
                    streams.spawn(async move {
                        state.run(outgoing, incoming, starts, recorder, deadline).await;
                    });
                }
                Err(error) => recorder.lock().failed(&error),
            }
        }
        streams.join_all().await;
        let requests = self.leases.into_iter().map(|id| frame(&pb::LeaseRevokeRequest { id }));
        let revoked = call_all(&self.channels, self.in_flight, &self.revoke, requests, |_, _| Ok(())).await;
        if let Err(error) = revoked {
            recorder.lock().failed(&error);
        }
    }
}

/// One keepalive stream.
#[derive(Debug)]
struct Stream {
    leases: Vec<i64>,
    requests: Vec<Bytes>,
    /// Starts of the unanswered keepalives of each lease, oldest first.
    waiting: Mutex<Vec<VecDeque<Instant>>>,
    room: Semaphore,
    in_flight: usize,
}

impl Stream {
    fn new(leases: &[i64], in_flight: usize) -> Self {
        Self {
            requests: leases.iter().map(|id| frame(&pb::LeaseKeepAliveRequest { id: *id })).collect(),
            leases: leases.to_vec(),
            waiting: Mutex::new(vec![VecDeque::new(); leases.len()]),
            room: Semaphore::new(in_flight),
            in_flight,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<VecDeque<Instant>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(
        &self,
        outgoing: Outgoing,
        incoming: Incoming,
        starts: Starts,
        recorder: SharedRecorder,
        deadline: tokio::time::Instant,
    ) {
        let both =
            async { tokio::try_join!(self.send(outgoing, &starts), self.receive(incoming, &recorder)) };
        if let Ok(Err(error)) = timeout_at(deadline, both).await {
            recorder.lock().failed(&error);
        }
        let now = Instant::now();
        for start in self.waiting().iter().flatten() {
            recorder.lock().unfinished(*start, now);
        }
    }

    async fn send(&self, mut outgoing: Outgoing, starts: &Starts) -> Result<(), CallError> {
        let mut next = 0;
        while let Some(mut start) = starts.next().await {
            let Ok(permit) = self.room.acquire().await else {
                break;
            };
            permit.forget();
            if matches!(starts, Starts::Closed(_)) {
                start = Instant::now();
            }
            self.waiting()[next].push_back(start);
            outgoing.send(self.requests[next].clone())?;
            next = (next + 1) % self.leases.len();
        }
        // All permits are back when all is answered; then the server ends the stream too.
        let all = u32::try_from(self.in_flight).unwrap_or(u32::MAX);
        let _ = self.room.acquire_many(all).await;
        outgoing.close()
    }

    async fn receive(&self, mut incoming: Incoming, recorder: &SharedRecorder) -> Result<(), CallError> {
        while let Some(message) = incoming.next().await? {
            let response = pb::LeaseKeepAliveResponse::decode(message)?;
            let done = Instant::now();
            let start = self
                .leases
                .binary_search(&response.id)
                .ok()
                .and_then(|index| self.waiting()[index].pop_front())
                .ok_or_else(|| {
                    CallError::Answer(format!("keepalive was not asked for id={}", response.id))
                })?;
            self.room.add_permits(1);
            if response.ttl > 0 {
                recorder.lock().answered(start, done);
            } else {
                recorder.lock().failed(&format!("lease is gone id={}", response.id));
            }
        }
        Ok(())
    }
}
