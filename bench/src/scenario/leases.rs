//! Many leases on one cluster: how fast they are granted, and what keeping them costs.
//!
//! While leases are still being granted, each is renewed when a third of its time to live has
//! passed. Once all are there, every stream renews its share at a steady pace, the one that has
//! waited longest first, so that each lease is renewed three times within its time to live; only
//! this part is measured. At the end every lease must still be there.

mod keeper;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use folkmoot_proto::etcdserverpb as pb;
use prost::Message;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{Error, Story, cpu_line, latency_line, mib, percent, still_leads, tell, within};
use crate::cli::LeasesArgs;
use crate::cluster::{Cluster, Member};
use crate::load::{FAR, Meter, SharedRecorder, call_all, connect};
use crate::report::{ServerUse, seconds};
use crate::stats::{Latency, Loop, Recorder, Window};
use crate::wire::{CallError, Channel, Method, frame};
use keeper::{Ids, Keeper};

/// Renewals of a lease within its time to live.
const RENEWALS: u32 = 3;
/// What the leader may use of one core while it keeps all leases.
const LEADER_PERCENT_MAX: f64 = 60.0;
/// Part of the measurement that takes longer than this has no end.
const STEP_MAX: Duration = Duration::from_secs(1800);
/// How long answers may take after the last keepalive.
const DRAIN: Duration = Duration::from_secs(10);
/// Runs it on each program that was given.
pub async fn leases(args: &LeasesArgs) -> Result<ExitCode, String> {
    if args.leases < args.streams as u64 || args.streams == 0 || args.connections == 0 || args.in_flight == 0
    {
        return Err(
            "there must be a connection, a call in flight, a stream and a lease for each stream".into()
        );
    }
    tell(&args.cluster, 0, &[], async |cluster| measure(args, cluster).await).await
}

/// What was seen.
#[derive(Debug, Serialize)]
struct Told {
    leases: u64,
    ttl_s: i64,
    streams: usize,
    grants_per_s: f64,
    grant: Latency,
    /// Keepalives answered in the measured part.
    keepalives: u64,
    keepalives_per_s: f64,
    /// So many it takes to renew each lease as often as planned.
    keepalives_wanted_per_s: f64,
    keepalive: Latency,
    leader_percent_of_core: f64,
    client_percent_of_core: f64,
    /// Length of the measured part.
    #[serde(rename = "elapsed_s", serialize_with = "seconds")]
    elapsed: Duration,
    /// The leader and then the others.
    servers: Vec<ServerUse>,
    /// Leases that a keepalive found gone.
    lost: u64,
    /// Keepalives that were due while the last one of the same lease had no answer, or that had none
    /// at the end.
    unanswered: u64,
    /// Leases that the cluster lists at the end.
    listed: u64,
    /// Leases asked about at the end.
    sampled: u64,
    /// How many of them were gone.
    sampled_gone: u64,
    /// The lowest time to live among them, in seconds.
    sampled_ttl_min: i64,
}

impl Story for Told {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("leases", format!("{}, TTL {} s, {} streams", self.leases, self.ttl_s, self.streams)),
            ("granting", format!("{:.0}/s, {}", self.grants_per_s, latency_line(&self.grant))),
            (
                "keeping",
                format!(
                    "{:.0}/s of {:.0}/s wanted, {} in {:.1} s",
                    self.keepalives_per_s,
                    self.keepalives_wanted_per_s,
                    self.keepalives,
                    self.elapsed.as_secs_f64()
                ),
            ),
            ("keepalive", latency_line(&self.keepalive)),
        ];
        for (index, server) in self.servers.iter().enumerate() {
            let role = if index == 0 { "leader cpu" } else { "follower cpu" };
            lines.push((role, cpu_line(self.elapsed, server)));
        }
        lines.push(("client cpu", format!("{:.1} % of one core", self.client_percent_of_core)));
        if let Some(leader) = self.servers.first() {
            lines.push(("leader memory", format!("{:.1} MiB resident", mib(leader.rss_bytes))));
        }
        lines.push(("lost", format!("{}, unanswered {}", self.lost, self.unanswered)));
        lines.push((
            "at the end",
            format!(
                "{} listed; {} asked about, {} of them gone, lowest TTL {} s",
                self.listed, self.sampled, self.sampled_gone, self.sampled_ttl_min
            ),
        ));
        lines
    }

    fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.leader_percent_of_core >= LEADER_PERCENT_MAX {
            missed.push(format!("leader below {LEADER_PERCENT_MAX} % of one core"));
        }
        if self.lost + self.sampled_gone > 0 || self.listed != self.leases {
            missed.push("no lease ends".to_owned());
        }
        missed
    }
}

async fn measure(args: &LeasesArgs, mut cluster: Cluster) -> Result<Told, Error> {
    cluster.start().await?;
    let leader = cluster.leader().await?;
    let members = || cluster.beginning_with(leader.index);
    let endpoint_count = if args.spread { cluster.members().len() } else { 1 };
    let endpoints: Vec<String> = members().take(endpoint_count).map(Member::endpoint).collect();
    let pids: Vec<u32> = members().filter_map(Member::pid).collect();

    let every = Duration::from_secs(args.ttl) / RENEWALS;
    let ids = Ids { base: i64::from(rand::random::<u32>() >> 1) << 32, streams: args.streams };
    let channels = connect(&endpoints, 0..args.streams).await?;
    let keepers: Vec<_> = (0..args.streams)
        .map(|stream| Arc::new(Keeper::new(ids, stream, ids.count_of(stream, args.leases), every)))
        .collect();
    let mut streams = JoinSet::new();
    for (keeper, mut channel) in keepers.iter().zip(channels) {
        let (outgoing, incoming) = channel.stream(&Method::new("/etcdserverpb.Lease/LeaseKeepAlive")).await?;
        streams.spawn(Arc::clone(keeper).run(outgoing, incoming));
    }

    let granting = Instant::now();
    let grant = within(STEP_MAX, grant_all(args, &endpoints, ids, &keepers)).await?;
    let grants_per_s = args.leases as f64 / granting.elapsed().as_secs_f64();
    println!("  granted: {grants_per_s:.0}/s");

    let from = Instant::now();
    let window = Window { from, until: from + args.duration };
    keepers.iter().for_each(|keeper| keeper.begin_steady(window));
    let meter = Meter::start(&pids)?;
    tokio::select! {
        () = tokio::time::sleep_until(window.until.into()) => {}
        // Nobody has called for the end.
        Some(ended) = streams.join_next() => {
            ended.map_err(|error| Error::Spoiled(error.to_string()))??;
        }
    }
    let used = meter.stop()?;
    keepers.iter().for_each(|keeper| keeper.end());
    // Answers that take longer are counted as missing.
    let _ = tokio::time::timeout(DRAIN, async { while streams.join_next().await.is_some() {} }).await;
    still_leads(&cluster, leader).await?;

    let mut total = Recorder::new(window, Loop::Open);
    let lost = keepers.iter().map(|keeper| keeper.add_to(&mut total)).sum();
    let (sampled_gone, sampled_ttl_min) = within(STEP_MAX, sample(args, &endpoints, ids)).await?;
    Ok(Told {
        leases: args.leases,
        ttl_s: args.ttl as i64,
        streams: args.streams,
        grants_per_s,
        grant,
        keepalives: total.ops(),
        keepalives_per_s: total.ops() as f64 / used.elapsed.as_secs_f64(),
        keepalives_wanted_per_s: args.leases as f64 / every.as_secs_f64(),
        keepalive: total.latency(),
        leader_percent_of_core: used.servers.first().map_or(0.0, |leader| percent(used.elapsed, leader.cpu)),
        client_percent_of_core: percent(used.elapsed, used.client_cpu),
        lost,
        unanswered: total.unfinished_count(),
        listed: within(STEP_MAX, list(&endpoints[0])).await?,
        sampled: args.samples.min(args.leases),
        sampled_gone,
        sampled_ttl_min,
        elapsed: used.elapsed,
        servers: used.servers,
    })
}

/// Grants all leases and hands each to its keeper.
async fn grant_all(
    args: &LeasesArgs,
    endpoints: &[String],
    ids: Ids,
    keepers: &[Arc<Keeper>],
) -> Result<Latency, Error> {
    let from = Instant::now();
    let recorder = SharedRecorder::new(Window { from, until: from + FAR }, Loop::Open);
    let channels = connect(endpoints, 0..args.connections).await?;
    let ttl = args.ttl as i64;
    let requests =
        (0..args.leases).map(move |number| frame(&pb::LeaseGrantRequest { ttl, id: ids.id(number) }));
    let answered = {
        let (keepers, recorder) = (keepers.to_vec(), recorder.clone());
        move |start, answer| {
            let now = Instant::now();
            recorder.lock().answered(start, now);
            let id = pb::LeaseGrantResponse::decode(answer)?.id;
            let place = ids.place(id).filter(|(stream, _)| *stream < keepers.len());
            let (stream, place) =
                place.ok_or_else(|| CallError::Answer(format!("lease was not asked for id={id}")))?;
            keepers[stream].keep(place, now);
            Ok(())
        }
    };
    let method = Method::new("/etcdserverpb.Lease/LeaseGrant");
    call_all(&channels, args.in_flight, &method, requests, answered).await?;
    Ok(recorder.lock().latency())
}

/// Asks about some of the leases; returns how many are gone and the lowest time to live.
async fn sample(args: &LeasesArgs, endpoints: &[String], ids: Ids) -> Result<(u64, i64), Error> {
    let count = args.samples.min(args.leases).max(1);
    let step = args.leases / count;
    let requests =
        (0..count).map(move |nth| frame(&pb::LeaseTimeToLiveRequest { id: ids.id(nth * step), keys: false }));
    let seen = Arc::new(Mutex::new((0, i64::MAX)));
    let answered = {
        let seen = Arc::clone(&seen);
        move |_, answer| {
            let ttl = pb::LeaseTimeToLiveResponse::decode(answer)?.ttl;
            let (gone, lowest) = &mut *seen.lock().unwrap_or_else(PoisonError::into_inner);
            *gone += u64::from(ttl <= 0);
            *lowest = ttl.min(*lowest);
            Ok(())
        }
    };
    let channels = connect(endpoints, 0..args.connections).await?;
    let method = Method::new("/etcdserverpb.Lease/LeaseTimeToLive");
    call_all(&channels, args.in_flight, &method, requests, answered).await?;
    let seen = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(seen)
}

/// How many leases there are.
async fn list(endpoint: &str) -> Result<u64, CallError> {
    let request = frame(&pb::LeaseLeasesRequest::default());
    let method = Method::new("/etcdserverpb.Lease/LeaseLeases");
    let answer = Channel::connect(endpoint).await?.unary(&method, request).await?;
    Ok(pb::LeaseLeasesResponse::decode(answer)?.leases.len() as u64)
}
