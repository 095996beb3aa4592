//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::compare::Group;
use crate::load::{Spec, Workload};

/// Load generator and side-by-side runner for etcd v3 servers.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The uses of this tool.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one workload against a server that is already there.
    #[command(after_help = "Examples:\n  \
        folkmoot-bench run put --pid $(pidof folkmoot)\n  \
        folkmoot-bench run put --connections 1 --in-flight 1\n  \
        folkmoot-bench run range --rate 5000 --json range.json\n  \
        folkmoot-bench run fill --key-count 1000000")]
    Run(RunArgs),
    /// Run Folkmoot and etcd in turn on this machine and print the ratios.
    #[command(after_help = "Examples:\n  \
        folkmoot-bench compare --folkmoot target/dist/folkmoot --etcd /usr/bin/etcd --quick\n  \
        folkmoot-bench compare --folkmoot target/dist/folkmoot --members 3 --by-thread\n  \
        folkmoot-bench compare --folkmoot target/dist/folkmoot --etcd /usr/bin/etcd \\\n      \
        --out-json compare.json --out-md compare.md --work-dir /var/tmp")]
    Compare(CompareArgs),
    /// Grant many leases on a cluster and keep all of them alive.
    #[command(after_help = "Examples:\n  \
        folkmoot-bench leases --folkmoot target/dist/folkmoot\n  \
        folkmoot-bench leases --folkmoot target/dist/folkmoot --leases 100000 --duration 70s")]
    Leases(LeasesArgs),
    /// Fill a cluster, add a member, and watch the leader while the new member catches up.
    #[command(after_help = "Examples:\n  \
        folkmoot-bench catch-up --folkmoot target/dist/folkmoot\n  \
        folkmoot-bench catch-up --folkmoot target/dist/folkmoot --etcd /usr/bin/etcd --gib 10")]
    CatchUp(CatchUpArgs),
}

/// Settings of one run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What to send.
    #[arg(value_enum)]
    workload: Workload,
    /// Server as host:port, without TLS; of several, the connections are dealt to them in turn.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    endpoint: Vec<String>,
    /// HTTP/2 connections.
    #[arg(long, default_value_t = Spec::default().connections)]
    connections: usize,
    /// Unanswered calls on each connection at most (watch-fanout: puts not yet seen by all);
    /// 32, or 1 for prefix and watch-fanout.
    #[arg(long)]
    in_flight: Option<usize>,
    /// Load threads; the connections are shared out among them.
    #[arg(long, default_value_t = Spec::default().threads)]
    threads: usize,
    /// Length of the measured window, such as 5s or 500ms.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    /// Load before the measured window.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    warmup: Duration,
    /// Start so many calls a second by the clock (open loop); without it, a call starts when
    /// an earlier one is answered (closed loop).
    #[arg(long)]
    rate: Option<f64>,
    /// Keys of put, range, txn and fill.
    #[arg(long, default_value_t = Spec::default().key_count)]
    key_count: u64,
    /// Keys of the prefix workload.
    #[arg(long, default_value_t = Spec::default().list_count)]
    list_count: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = Spec::default().value_bytes)]
    value_bytes: usize,
    /// Watchers of watch-fanout.
    #[arg(long, default_value_t = Spec::default().watchers)]
    watchers: usize,
    /// Streams that carry the watchers.
    #[arg(long, default_value_t = Spec::default().streams)]
    streams: usize,
    /// Leases of lease-keepalive.
    #[arg(long, default_value_t = Spec::default().leases)]
    leases: usize,
    /// Puts in one transaction of fill; 1 for plain puts.
    #[arg(long, default_value_t = Spec::default().batch)]
    batch: usize,
    /// Do not load missing keys before the run.
    #[arg(long)]
    no_preload: bool,
    /// Server processes on this machine, to read their CPU time and memory.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// Start of the random sequence of keys.
    #[arg(long, default_value_t = Spec::default().seed)]
    seed: u64,
    /// Also write the result as JSON; "-" writes it to standard output instead of the table.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

impl RunArgs {
    /// The run that these settings ask for.
    pub fn spec(&self) -> Spec {
        let in_flight = match self.workload {
            // Each is the work of thousands of simple calls: with more at a time, the latency
            // would mostly be the wait behind the others.
            Workload::WatchFanout | Workload::Prefix => 1,
            _ => Spec::default().in_flight,
        };
        Spec {
            workload: self.workload,
            endpoints: self
                .endpoint
                .iter()
                .map(|url| url.trim_start_matches("http://").trim_end_matches('/').to_owned())
                .collect(),
            connections: self.connections,
            in_flight: self.in_flight.unwrap_or(in_flight),
            threads: self.threads,
            duration: self.duration,
            warmup: self.warmup,
            rate: self.rate,
            key_count: self.key_count,
            list_count: self.list_count,
            value_bytes: self.value_bytes,
            watchers: self.watchers,
            streams: self.streams,
            leases: self.leases,
            batch: self.batch,
            preload: !self.no_preload,
            pids: self.pid.clone(),
            seed: self.seed,
        }
    }
}

/// Settings of a comparison.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Folkmoot's program.
    #[arg(long)]
    pub folkmoot: PathBuf,
    /// etcd's program.
    #[arg(long, default_value = "/usr/bin/etcd")]
    pub etcd: PathBuf,
    /// Members of each cluster.
    #[arg(long, default_value_t = 1, value_parser = parse_members)]
    pub members: usize,
    /// Connect clients to all members in turn, not to the leader only.
    #[arg(long)]
    pub spread: bool,
    /// Show where each member's CPU time goes, by thread.
    #[arg(long)]
    pub by_thread: bool,
    /// Write all values as JSON.
    #[arg(long)]
    pub out_json: Option<PathBuf>,
    /// Write the table as Markdown.
    #[arg(long)]
    pub out_md: Option<PathBuf>,
    /// Where data directories are made and removed again; must be on a real disk.
    #[arg(long, default_value = "/var/tmp")]
    pub work_dir: PathBuf,
    /// Rounds; each figure is the median over them.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// One short round with fewer keys: shows that everything works, not how fast.
    #[arg(long)]
    pub quick: bool,
    /// Only these groups of figures.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Group>,
    /// Length of each measured window.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Keys of the memory and restart figures.
    #[arg(long)]
    pub big_key_count: Option<u64>,
    /// Date for the table, as YYYY-MM-DD; today (UTC) if absent.
    #[arg(long)]
    pub date: Option<String>,
}

/// The cluster that something is measured on.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// Folkmoot's program.
    #[arg(long)]
    pub folkmoot: Option<PathBuf>,
    /// etcd's program, to measure it as well, after Folkmoot.
    #[arg(long)]
    pub etcd: Option<PathBuf>,
    /// Members.
    #[arg(long, default_value_t = 3, value_parser = parse_members)]
    pub members: usize,
    /// Where data directories are made and removed again; must be on a real disk.
    #[arg(long, default_value = "/var/tmp")]
    pub work_dir: PathBuf,
    /// Also write the result as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Settings of the lease measurement.
#[derive(Debug, Args)]
pub struct LeasesArgs {
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Leases.
    #[arg(long, default_value_t = 1_000_000)]
    pub leases: u64,
    /// Time to live of each, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..))]
    pub ttl: u64,
    /// Keepalive streams, each on a connection of its own.
    #[arg(long, default_value_t = 8)]
    pub streams: usize,
    /// Connections that grant.
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Unanswered grants on each of them.
    #[arg(long, default_value_t = 64)]
    pub in_flight: usize,
    /// How long all leases are kept once they are granted.
    #[arg(long, default_value = "90s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Leases asked about at the end.
    #[arg(long, default_value_t = 10_000)]
    pub samples: u64,
    /// Connect to all members in turn, not to the leader only.
    #[arg(long)]
    pub spread: bool,
}

/// Settings of the catch-up measurement.
#[derive(Debug, Args)]
pub struct CatchUpArgs {
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// GiB of values to fill the cluster with.
    #[arg(long, default_value_t = 1.0)]
    pub gib: f64,
    /// Bytes of each of them.
    #[arg(long, default_value_t = 16_384, value_parser = parse_value_bytes)]
    pub value_bytes: usize,
    /// Small puts a second to the leader meanwhile.
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// How long puts are measured before the new member is admitted.
    #[arg(long, default_value = "15s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Pause after filling.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub rest: Duration,
    /// Admit the new member as a learner and promote it.
    #[arg(long)]
    pub learner: bool,
}

/// A size that one put can carry.
fn parse_value_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ 1..=1_048_576) => Ok(bytes),
        _ => Err(format!("not a number of bytes from 1 to 1048576: text={text}")),
    }
}

/// A number of members that can be started here.
fn parse_members(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(members @ 1..=7) => Ok(members),
        _ => Err(format!("not a number of members from 1 to 7: text={text}")),
    }
}

/// A number with the unit ms, s or m.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("not a duration such as 5s, 500ms or 2m: text={text}");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| bad())?;
    let unit_seconds = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(bad()),
    };
    let duration = Duration::try_from_secs_f64(number * unit_seconds).map_err(|_| bad())?;
    // A longer window is surely a slip, and far instants cannot be computed with.
    if duration > Duration::from_secs(24 * 3600) {
        return Err(format!("duration is longer than a day: text={text}"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "-1s", "5h", "nans", "1e9s", "infs", "5 é"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_may_be_given_as_a_url() {
        let line = ["folkmoot-bench", "run", "put", "--endpoint", "http://[::1]:1/,127.0.0.1:2"];
        let cli = Cli::parse_from(line);
        let Command::Run(run) = cli.command else {
            panic!("not a run");
        };
        assert_eq!(run.spec().endpoints, ["[::1]:1", "127.0.0.1:2"]);
    }

    #[test]
    fn the_fan_out_has_one_put_in_flight_unless_asked() {
        let spec = |line: &[&str]| {
            let Command::Run(run) = Cli::parse_from(line).command else {
                panic!("not a run");
            };
            run.spec()
        };
        assert_eq!(spec(&["b", "run", "watch-fanout"]).in_flight, 1);
        assert_eq!(spec(&["b", "run", "put"]).in_flight, 32);
        assert_eq!(spec(&["b", "run", "put", "--in-flight", "4"]).in_flight, 4);
    }
}
