//! How long nobody can write when leadership changes hands.
//!
//! Writes are sent to every member at a steady pace, whether earlier ones were answered or not. What
//! counts is the first write that a *new* leader acknowledged (by the term in its answer) of those
//! sent after the event, and the longest time between two acknowledged writes around it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use folkmoot_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, ClusterConfig};
use crate::network::NodeIndex;
use crate::wire;

/// Pause between two writes to one member.
pub const PROBE_EVERY: Duration = Duration::from_millis(5);
/// How long a write may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(20);
/// Writes before the event, so that there is a last one.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long a cluster may take until it serves again.
const EVENT_PATIENCE: Duration = Duration::from_secs(30);
/// Runs on one cluster, before the other program gets a turn.
const RUNS_PER_CLUSTER: usize = 10;

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGKILL.
    Failover,
    /// It is asked to hand over.
    Move,
    /// SIGTERM, as for an upgrade.
    Restart,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// From the event to the first write that a new leader acknowledged.
    pub next_write: Duration,
    /// Longest time between two acknowledged writes.
    pub gap: Duration,
}

/// A write that was acknowledged.
#[derive(Clone, Copy)]
struct Acked {
    sent: Instant,
    acked: Instant,
    term: u64,
}

/// Measures each program this many times, in turn.
pub async fn compare(
    configs: &[ClusterConfig],
    event: Event,
    runs: usize,
) -> Result<Vec<Vec<Sample>>, String> {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); configs.len()];
    while samples.iter().any(|samples| samples.len() < runs) {
        for (config, samples) in configs.iter().zip(&mut samples) {
            let count = (runs - samples.len()).min(RUNS_PER_CLUSTER);
            if count > 0 {
                samples.extend(measure(config, event, count, samples.len() as u64).await?);
                crate::say(&format!("{}: {} of {runs} runs", config.program.kind(), samples.len()));
            }
        }
    }
    Ok(samples)
}

async fn measure(
    config: &ClusterConfig,
    event: Event,
    runs: usize,
    seed: u64,
) -> Result<Vec<Sample>, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let cluster = Cluster::start(config.clone()).await?;
    let mut samples = Vec::new();
    for _ in 0..runs {
        cluster.await_agreement(EVENT_PATIENCE).await?;
        // Timers of members must not be in step with us.
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..1200))).await;
        let leader = cluster.await_leader(EVENT_PATIENCE).await?;
        samples.push(once(&cluster, leader, event, &mut rng).await?);
        if event != Event::Move {
            cluster.stop(leader).await?;
            cluster.start_member(leader)?;
        }
    }
    Ok(samples)
}

async fn once(
    cluster: &Arc<Cluster>,
    leader: NodeIndex,
    event: Event,
    rng: &mut ChaCha8Rng,
) -> Result<Sample, String> {
    let (acks, mut acked) = mpsc::unbounded_channel();
    let mut probes = JoinSet::new();
    for node in cluster.nodes() {
        probes.spawn(probe(cluster.clone(), node, acks.clone()));
    }
    tokio::time::sleep(WARM_UP).await;
    let mut all: Vec<Acked> = Vec::new();
    while let Ok(ack) = acked.try_recv() {
        all.push(ack);
    }
    let before = all.iter().map(|ack| ack.term).max();
    let before = before.ok_or("no write was acknowledged before the event")?;

    let began = Instant::now();
    let mut moved = None;
    match event {
        Event::Failover => cluster.kill(leader),
        Event::Restart => cluster.signal_stop(leader),
        Event::Move => {
            let others: Vec<NodeIndex> = cluster.nodes().filter(|node| *node != leader).collect();
            let to = cluster.id(others[rng.random_range(0..others.len())]);
            let address = cluster.client_address(leader);
            moved = Some(tokio::spawn(wire::move_leader(address, to, EVENT_PATIENCE)));
        }
    }
    let first = async {
        while let Some(ack) = acked.recv().await {
            all.push(ack);
            if ack.term > before && ack.sent >= began {
                return Some(ack.acked);
            }
        }
        None
    };
    let first = tokio::time::timeout(EVENT_PATIENCE, first).await.ok().flatten();
    let first = first.ok_or("no new leader has acknowledged a write")?;
    probes.shutdown().await;
    if let Some(moved) = moved {
        let answer = moved.await.map_err(|e| format!("MoveLeader failed: {e}"))?;
        answer.map_err(|status| format!("MoveLeader was refused: {}", status.message()))?;
    }
    let mut times: Vec<Instant> = all.iter().map(|ack| ack.acked).collect();
    times.sort_unstable();
    let around = times.windows(2).filter(|two| two[1] >= began);
    let gap = around.map(|two| two[1] - two[0]).max().unwrap_or_default();
    Ok(Sample { next_write: first - began, gap })
}

/// Writes to one member at a steady pace until it is aborted.
async fn probe(cluster: Arc<Cluster>, node: NodeIndex, acks: mpsc::UnboundedSender<Acked>) {
    let channel = wire::channel(cluster.client_address(node));
    let mut writes = JoinSet::new();
    let mut pace = tokio::time::interval(PROBE_EVERY);
    for count in 0u64.. {
        pace.tick().await;
        while writes.try_join_next().is_some() {}
        let mut kv = KvClient::new(channel.clone());
        let acks = acks.clone();
        let value = format!("probe {node} {count}").into();
        writes.spawn(async move {
            let sent = Instant::now();
            let put = pb::PutRequest { key: format!("probe/{node}").into(), value, ..Default::default() };
            if let Ok(response) = wire::within(PROBE_PATIENCE, kv.put(put)).await {
                let term = response.header.map_or(0, |header| header.raft_term);
                // Nobody listens any more when the run is over.
                let _ = acks.send(Acked { sent, acked: Instant::now(), term });
            }
        });
    }
}

/// Median, 99th percentile and maximum.
fn figures(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort_unstable();
    let at = |share: f64| {
        let rank = (share * times.len() as f64).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    };
    [at(0.5), at(0.99), at(1.0)]
}

/// The table; with two programs also the ratio of the first to the second.
pub fn table(names: &[String], samples: &[Vec<Sample>]) -> String {
    type Pick = fn(&Sample) -> Duration;
    let rows: [(&str, Pick); 2] =
        [("next write", |sample| sample.next_write), ("longest gap", |sample| sample.gap)];
    let mut text = format!("{:<10} {:<12} {:>5} {:>10} {:>10} {:>10}\n", "", "", "runs", "p50", "p99", "max");
    for (row, pick) in rows {
        let all: Vec<[Duration; 3]> =
            samples.iter().map(|samples| figures(samples.iter().map(pick).collect())).collect();
        for ((name, figures), samples) in names.iter().zip(&all).zip(samples) {
            let [p50, p99, max] = figures.map(|time| format!("{:.1} ms", time.as_secs_f64() * 1e3));
            // Writing into a string does not fail.
            let _ = writeln!(text, "{name:<10} {row:<12} {:>5} {p50:>10} {p99:>10} {max:>10}", samples.len());
        }
        if let [left, right] = &all[..] {
            let ratio = |index: usize| left[index].as_secs_f64() / right[index].as_secs_f64().max(1e-9);
            let [p50, p99, max] = [0, 1, 2].map(|index| format!("{:.2}", ratio(index)));
            let _ = writeln!(text, "{:<10} {row:<12} {:>5} {p50:>10} {p99:>10} {max:>10}", "ratio", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ms: impl Iterator<Item = u64>) -> Vec<Sample> {
        let sample =
            |ms| Sample { next_write: Duration::from_millis(ms), gap: Duration::from_millis(2 * ms) };
        ms.map(sample).collect()
    }

    #[test]
    fn percentiles_are_of_the_sample_itself() {
        let times = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(figures(times).map(|time| time.as_millis()), [100, 198, 200]);
        assert_eq!(figures(vec![Duration::from_millis(7)]).map(|time| time.as_millis()), [7, 7, 7]);
    }

    #[test]
    fn two_programs_are_compared_by_ratio() {
        let names = ["folkmoot".to_owned(), "etcd".to_owned()];
        let text = table(&names, &[samples(1..=10), samples((1..=10).map(|ms| 2 * ms))]);
        assert_eq!(text.lines().filter(|line| line.starts_with("ratio") && line.contains("0.50")).count(), 2);
        let text = table(&names[..1], &[samples(1..=10)]);
        assert!(!text.contains("ratio"), "{text}");
    }
}
