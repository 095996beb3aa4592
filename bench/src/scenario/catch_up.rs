//! A new member that catches up by a snapshot, while clients write.
//!
//! The cluster is filled with incompressible values. Then small puts are sent to the leader by the
//! clock, first for a while with nothing else going on, then from the admission of the new member
//! until it has answered a linearizable read. A leader that stalls while it makes or sends the
//! snapshot shows in the latencies of the second part.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use serde::Serialize;

use super::{Error, Story, cpu_line, latency_line, mib, still_leads, tell, within};
use crate::cli::CatchUpArgs;
use crate::cluster::{Cluster, Member};
use crate::load::{Spec, Workload, call_all, connect, count_keys, run_until};
use crate::payload::{KEY_PREFIX, key};
use crate::procfs;
use crate::report::Report;
use crate::wire::{Method, frame};

/// Values are cut out of this many random bytes, so that neighbours have nothing in common that a
/// compressor would find.
const POOL_BYTES: usize = 64 << 20;
/// Bytes of values on their way while the cluster is filled.
const FILL_IN_FLIGHT_BYTES: usize = 4 << 20;
const FILL_CONNECTIONS: usize = 8;
/// A log of more entries than both programs keep for members that lag behind, at the default of
/// Folkmoot: a new member then needs a snapshot.
const SNAPSHOT_COUNT: u64 = 10_000;
const KEYS_MIN: u64 = 2 * SNAPSHOT_COUNT;
/// How much slower the slowest of a hundred puts may be while the snapshot is sent.
const SLOWDOWN_MAX: f64 = 4.0;
/// A part that takes longer has no end.
const STEP_MAX: Duration = Duration::from_secs(3600);

/// Runs it on each program that was given.
pub async fn catch_up(args: &CatchUpArgs) -> Result<ExitCode, String> {
    let bytes = (args.gib * f64::from(1 << 30)) as u64;
    let key_count = bytes / args.value_bytes.max(1) as u64;
    if key_count < KEYS_MIN {
        return Err(format!(
            "so few values could come out of the log, without a snapshot: --gib={} --value-bytes={} \
             values={key_count} needed={KEYS_MIN}",
            args.gib, args.value_bytes
        ));
    }
    let flag = format!("--snapshot-count={SNAPSHOT_COUNT}");
    tell(&args.cluster, 3 * bytes, &[&flag], async |cluster| measure(args, key_count, cluster).await).await
}

/// What was seen.
#[derive(Debug, Serialize)]
struct Told {
    value_bytes: usize,
    values: u64,
    filled_per_s: f64,
    before: Report,
    during: Report,
    /// From the start of the new member's process to its first linearizable answer.
    serves_after_s: f64,
    newcomer_cpu_s: f64,
    /// Bytes of the new member's data directory then.
    newcomer_disk_bytes: u64,
    newcomer_keys: u64,
    p99_slowdown: f64,
}

impl Story for Told {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let bytes = self.values * self.value_bytes as u64;
        let mut lines = vec![(
            "filled",
            format!(
                "{:.0} MiB in {} values at {:.1} MiB/s",
                mib(bytes),
                self.values,
                self.filled_per_s * mib(self.value_bytes as u64)
            ),
        )];
        for (name, report) in [("puts before", &self.before), ("puts during", &self.during)] {
            lines.push((name, format!("{:.0}/s, {}", report.ops_per_s, latency_line(&report.latency))));
            for (index, server) in report.servers.iter().enumerate() {
                let role = if index == 0 { "  leader cpu" } else { "  follower cpu" };
                lines.push((role, cpu_line(report.elapsed, server)));
            }
        }
        lines.push((
            "new member",
            format!(
                "serves after {:.2} s = {:.1} MiB/s, with {:.2} s of CPU; {:.0} MiB on its disk",
                self.serves_after_s,
                mib(bytes) / self.serves_after_s,
                self.newcomer_cpu_s,
                mib(self.newcomer_disk_bytes)
            ),
        ));
        lines.push(("p99 slowdown", format!("{:.2}", self.p99_slowdown)));
        lines
    }

    fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.p99_slowdown > SLOWDOWN_MAX {
            missed.push(format!("p99 at most {SLOWDOWN_MAX} times that before"));
        }
        if self.newcomer_keys != self.values {
            missed.push(format!("new member holds all keys found={}", self.newcomer_keys));
        }
        missed
    }
}

async fn measure(args: &CatchUpArgs, key_count: u64, mut cluster: Cluster) -> Result<Told, Error> {
    cluster.start().await?;
    let leader = cluster.leader().await?;
    let endpoint = cluster.members()[leader.index].endpoint();
    let filling = Instant::now();
    within(STEP_MAX, fill(args.value_bytes, key_count, &endpoint)).await?;
    let filled_per_s = key_count as f64 / filling.elapsed().as_secs_f64();
    println!("  filled: {filled_per_s:.0} values/s");
    // What is still written behind belongs to the filling.
    tokio::time::sleep(args.rest).await;

    let spec = Spec {
        workload: Workload::Put,
        endpoints: vec![endpoint.clone()],
        rate: Some(args.rate),
        key_count,
        pids: cluster.beginning_with(leader.index).filter_map(Member::pid).collect(),
        ..Spec::default()
    };
    let (before, ()) = run_until(&spec, tokio::time::sleep(args.duration)).await?;
    let admitting = async {
        let newcomer = cluster.add(leader.index, args.learner).await?;
        let after = cluster.settle(&newcomer, leader.index, STEP_MAX).await?;
        Ok::<_, Error>((newcomer, after))
    };
    let (during, admitted) = run_until(&spec, admitting).await?;
    let (newcomer, serves_after) = admitted?;
    for report in [&before, &during] {
        if report.errors + report.unfinished > 0 {
            let first = report.first_error.as_deref().unwrap_or("none");
            return Err(Error::Spoiled(format!("puts failed count={} first_error={first}", report.errors)));
        }
    }
    still_leads(&cluster, leader).await?;
    let newcomer = &cluster.members()[newcomer.index];
    Ok(Told {
        value_bytes: args.value_bytes,
        values: key_count,
        filled_per_s,
        p99_slowdown: during.latency.p99_us / before.latency.p99_us,
        before,
        during,
        serves_after_s: serves_after.as_secs_f64(),
        newcomer_cpu_s: newcomer
            .pid()
            .map_or(Ok(0.0), |pid| procfs::cpu_time(pid).map(|cpu| cpu.as_secs_f64()))?,
        newcomer_disk_bytes: disk_bytes(&newcomer.data_dir()),
        newcomer_keys: count_keys(&newcomer.endpoint()).await?,
    })
}

/// Puts all keys with values that do not compress.
async fn fill(value_bytes: usize, key_count: u64, endpoint: &str) -> Result<(), Error> {
    let endpoints = [endpoint.to_owned()];
    let channels = connect(&endpoints, 0..FILL_CONNECTIONS).await?;
    let mut random = SmallRng::seed_from_u64(1);
    let mut pool = vec![0; POOL_BYTES + value_bytes];
    random.fill_bytes(&mut pool);
    let pool = Bytes::from(pool);
    let requests = (0..key_count).map(move |number| {
        let from = random.random_range(0..POOL_BYTES);
        let value = pool.slice(from..from + value_bytes);
        frame(&pb::PutRequest { key: key(KEY_PREFIX, number), value, ..Default::default() })
    });
    let in_flight = (FILL_IN_FLIGHT_BYTES / FILL_CONNECTIONS / value_bytes).clamp(1, 32);
    let method = Method::new("/etcdserverpb.KV/Put");
    call_all(&channels, in_flight, &method, requests, |_, _| Ok(())).await?;
    Ok(())
}

/// Bytes of all files under a directory; files that vanish meanwhile do not count.
fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_as_big_as_its_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("wal")).unwrap();
        std::fs::write(dir.path().join("meta"), [0; 10]).unwrap();
        std::fs::write(dir.path().join("wal/1"), [0; 7]).unwrap();
        assert_eq!(disk_bytes(dir.path()), 17);
        assert_eq!(disk_bytes(&dir.path().join("none")), 0);
    }
}
