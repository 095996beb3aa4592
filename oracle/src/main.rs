//! `folkmoot-oracle`: tests Folkmoot from the outside, as real processes.
//!
//! `diff` sends random requests to a real etcd and to Folkmoot and compares every answer; `crash`
//! kills a server again and again under load and checks that nothing acknowledged is lost. Both can
//! be turned on etcd itself, which shows that it is the server and not the tool that is at fault.
//! The tool uses only the public gRPC API; it knows nothing of how a server works inside.

mod answer;
mod client;
mod compare;
mod crash;
mod diff;
mod driver;
mod generator;
mod known;
mod mutate;
mod request;
mod servers;
mod shrink;
mod text;
mod watching;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use servers::{Program, Target};

#[derive(Parser)]
#[command(
    name = "folkmoot-oracle",
    about = "Compares Folkmoot with a real etcd, and kills servers to see what they remember"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Random requests to two servers; every answer is compared.
    Diff(DiffArgs),
    /// Kills a server again and again under load; nothing acknowledged may be lost.
    Crash(CrashArgs),
}

#[derive(Args)]
struct DiffArgs {
    /// First seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Number of seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Requests in the script of each seed.
    #[arg(long, default_value_t = 40)]
    steps: usize,
    /// The etcd program that is the reference.
    #[arg(long, default_value = "/usr/bin/etcd")]
    etcd: PathBuf,
    /// The Folkmoot program under test.
    #[arg(long)]
    folkmoot: Option<PathBuf>,
    /// Left side instead of --etcd: http://HOST:PORT, etcd[:PATH] or folkmoot:PATH.
    #[arg(long)]
    left: Option<Target>,
    /// Right side instead of --folkmoot, written as for --left.
    #[arg(long)]
    right: Option<Target>,
    /// Pairs of servers that work at the same time.
    #[arg(long, default_value_t = 2)]
    lanes: usize,
    /// Start the servers afresh after this many seeds.
    #[arg(long, default_value_t = 200)]
    seeds_per_start: u64,
    /// Stop after this many differences.
    #[arg(long, default_value_t = 3)]
    findings_max: usize,
    /// Runs that may be spent on making one script short.
    #[arg(long, default_value_t = 300)]
    tries_max: usize,
    /// Lie about the right side's answers, to see that it is noticed.
    #[arg(long)]
    mutate: Option<mutate::Mutation>,
    /// Print every request with its answer.
    #[arg(long)]
    verbose: bool,
    /// Print how often each request had each outcome.
    #[arg(long)]
    coverage: bool,
    /// Parent of the data directories; in memory if possible.
    #[arg(long)]
    data_root: Option<PathBuf>,
    /// Write the report to this file as well.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct CrashArgs {
    /// Number of kills.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Seed of the load and of the moments of death.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clients that write at the same time.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// The Folkmoot program to kill.
    #[arg(long, conflicts_with = "etcd", required_unless_present = "etcd")]
    folkmoot: Option<PathBuf>,
    /// An etcd program to kill instead.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Parent of the data directory; the default is the directory for temporary files.
    #[arg(long)]
    data_root: Option<PathBuf>,
    /// Forget one acknowledged write in the tool, to see that it is noticed.
    #[arg(long)]
    mutate: bool,
}

/// Prints a line; there is nobody to tell if that fails.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn diff_command(args: DiffArgs) -> Result<bool, String> {
    let left = args.left.unwrap_or(Target::Program(Program::Etcd(args.etcd)));
    let right = match (args.right, args.folkmoot) {
        (Some(target), _) => target,
        (None, Some(path)) => Target::Program(Program::Folkmoot(path)),
        (None, None) => return Err("nothing to compare with: give --folkmoot or --right".into()),
    };
    let config = diff::DiffConfig {
        left,
        right,
        start: args.start,
        seeds: args.seeds,
        steps: args.steps,
        lanes: args.lanes,
        seeds_per_start: args.seeds_per_start,
        findings_max: args.findings_max,
        tries_max: args.tries_max,
        mutation: args.mutate,
        verbose: args.verbose,
        data_root: args.data_root.unwrap_or_else(diff::default_root),
    };
    let report = diff::run(&config)?;
    let text = report.text(args.coverage);
    say(text.trim_end());
    if let Some(out) = args.out {
        std::fs::write(&out, &text)
            .map_err(|e| format!("cannot write report file={}: {e}", out.display()))?;
    }
    Ok(report.is_clean())
}

fn crash_command(args: CrashArgs) -> Result<bool, String> {
    let program = match (args.folkmoot, args.etcd) {
        (Some(path), _) => Program::Folkmoot(path),
        (None, Some(path)) => Program::Etcd(path),
        (None, None) => return Err("nothing to kill: give --folkmoot or --etcd".into()),
    };
    let config = crash::CrashConfig {
        program,
        rounds: args.rounds,
        seed: args.seed,
        clients: args.clients,
        data_root: args.data_root.unwrap_or_else(std::env::temp_dir),
        forget: args.mutate,
    };
    crash::run(&config)
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Diff(args) => diff_command(args),
        Command::Crash(args) => crash_command(args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "folkmoot-oracle: {problem}");
            ExitCode::from(2)
        }
    }
}
