//! Measurements of one cluster that are a story rather than a load: many leases kept alive, a new
//! member that catches up.
//!
//! Each starts a cluster of its own, tells what happened in a table for people and in JSON for
//! scripts, and holds against its targets what was measured on Folkmoot. A story during which the
//! leader changed or a call failed has no result.

pub mod catch_up;
pub mod leases;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use crate::cli::ClusterArgs;
use crate::cluster::{Cluster, Leader, Program, ServerError, Side, quota_flag};
use crate::load::LoadError;
use crate::procfs::ProcError;
use crate::report::{ServerUse, ThreadUse};
use crate::stats::Latency;
use crate::wire::CallError;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A load failed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A process cannot be observed.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// It ran, but was something else than what was to be measured.
    #[error("{0}")]
    Spoiled(String),
}

/// Gives up on a server that neither answers nor fails.
pub async fn within<T, E: Into<Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(Error::Spoiled(format!("no end in sight after={limit:?}"))),
    }
}

/// Refuses what was measured while leadership changed.
pub async fn still_leads(cluster: &Cluster, leader: Leader) -> Result<(), Error> {
    let now = cluster.leader().await?;
    if now == leader {
        return Ok(());
    }
    Err(Error::Spoiled(format!("leader changed term_before={} term_after={}", leader.term, now.term)))
}

/// What a story gives: a line for each thing that people want to know.
pub trait Story: Serialize {
    /// Names and values.
    fn lines(&self) -> Vec<(&'static str, String)>;
    /// What was aimed at and not reached.
    fn missed(&self) -> Vec<String>;
}

/// Runs a story on each program that was given, prints what happened and writes the JSON.
pub async fn tell<S: Story>(
    args: &ClusterArgs,
    data_bytes: u64,
    more_flags: &[&str],
    story: impl AsyncFn(Cluster) -> Result<S, Error>,
) -> Result<ExitCode, String> {
    let mut told = serde_json::Map::new();
    let sides = [(Side::Folkmoot, args.folkmoot.as_deref()), (Side::Etcd, args.etcd.as_deref())];
    for (side, path) in sides.into_iter().filter_map(|(side, path)| Some((side, path?))) {
        println!("{}, {} member(s)", side.name(), args.members);
        let result = story(cluster(args, side, path, data_bytes, more_flags).map_err(text)?);
        let result = result.await.map_err(text)?;
        let width = result.lines().iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in result.lines() {
            println!("  {name:width$}  {value}");
        }
        if side == Side::Folkmoot {
            for missed in result.missed() {
                println!("  not met: {missed}");
            }
        }
        told.insert(side.name().to_lowercase(), serde_json::to_value(&result).map_err(text)?);
        rustix::fs::sync();
    }
    if told.is_empty() {
        return Err("no program was named: give --folkmoot, --etcd or both".into());
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&told).map_err(text)?;
        std::fs::write(path, json + "\n")
            .map_err(|error| format!("cannot write: {error} path={}", path.display()))?;
    }
    // Missed targets are a result.
    Ok(ExitCode::SUCCESS)
}

fn cluster(
    args: &ClusterArgs,
    side: Side,
    path: &Path,
    data_bytes: u64,
    more_flags: &[&str],
) -> Result<Cluster, ServerError> {
    let mut flags = vec![quota_flag(data_bytes)];
    flags.extend(more_flags.iter().map(|flag| (*flag).to_owned()));
    let program = Program { side, path: path.to_owned(), work_dir: args.work_dir.clone(), flags };
    Cluster::new(program, args.members)
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// CPU of a process in percent of one core.
fn percent(elapsed: Duration, time: Duration) -> f64 {
    100.0 * time.as_secs_f64() / elapsed.as_secs_f64().max(1e-9)
}

/// A process with its threads, in percent of one core.
fn cpu_line(elapsed: Duration, server: &ServerUse) -> String {
    let worth = |thread: &&ThreadUse| percent(elapsed, thread.cpu) >= 0.05;
    let threads: Vec<_> = server
        .threads
        .iter()
        .filter(worth)
        .map(|thread| format!("{} {:.1}", thread.name, percent(elapsed, thread.cpu)))
        .collect();
    format!("{:.1} % of one core: {}", percent(elapsed, server.cpu), threads.join(", "))
}

fn latency_line(latency: &Latency) -> String {
    let millis = |micros: f64| format!("{:.3} ms", micros / 1000.0);
    let (p50, p99, max) = (millis(latency.p50_us), millis(latency.p99_us), millis(latency.max_us));
    format!("p50 {p50}, p99 {p99}, max {max}")
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
