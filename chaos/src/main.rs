//! `folkmoot-chaos`: attacks clusters of Folkmoot, or of etcd, and judges what clients saw.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use folkmoot_chaos::cluster::ClusterConfig;
use folkmoot_chaos::load::LoadConfig;
use folkmoot_chaos::measure::{self, Event};
use folkmoot_chaos::network::{Carrier, isolation};
use folkmoot_chaos::program::{Kind, Program};
use folkmoot_chaos::round::{self, Lie, RoundConfig};
use folkmoot_chaos::say;
use folkmoot_check::Counts;

#[derive(Parser)]
#[command(name = "folkmoot-chaos", about = "Attacks clusters of real processes and judges what clients saw")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Rounds of faults under load; every round starts a new cluster.
    Run(RunArgs),
    /// SIGKILL of the leader under light load: how long until the next acknowledged write?
    Failover(MeasureArgs),
    /// The leader is asked to hand over: how long until the next acknowledged write?
    Move(MeasureArgs),
    /// SIGTERM of the leader: how long until the next acknowledged write?
    Restart(MeasureArgs),
}

/// What to attack, and where.
#[derive(Args, Clone)]
struct ClusterArgs {
    /// Program under attack.
    #[arg(long, value_name = "folkmoot|etcd")]
    program: Kind,
    /// Path of the program.
    #[arg(long)]
    binary: PathBuf,
    /// Members of a cluster.
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// More flags for every member, e.g. --member-args=--snapshot-count=500; may be repeated.
    #[arg(long, allow_hyphen_values = true)]
    member_args: Vec<String>,
    /// What carries the traffic.
    #[arg(long, value_enum, default_value = "auto")]
    links: LinksArg,
    /// Parent of all directories; the default is the directory for temporary files.
    #[arg(long)]
    data_root: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum LinksArg {
    /// Network namespaces where they are permitted, proxies on loopback elsewhere.
    Auto,
    /// One network namespace a member; an error where that is not permitted.
    Namespaces,
    /// Proxies on loopback.
    Loopback,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Number of rounds.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Seconds of faults in each round.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Seed of the first round; each round has the next one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Provoke what etcd 3.4 is known to get wrong (issues 15220, 15247, 18089).
    #[arg(long, value_enum, default_value = "auto")]
    etcd_bugs: Choice,
    /// After each round tell lies about what the clients saw, to see that each is noticed.
    #[arg(long)]
    lies: bool,
    /// Keep the files of all rounds, not only of those that found something.
    #[arg(long)]
    keep: bool,
    /// Go on after a round that found something.
    #[arg(long)]
    keep_going: bool,
}

#[derive(Args)]
struct MeasureArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Measurements of each program.
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// An etcd that is measured in turn, with the same settings, and compared.
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Choice {
    /// Against Folkmoot yes, against etcd no.
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

/// Decides what carries the traffic. Must come before any thread.
fn carrier(links: LinksArg) -> Result<Carrier, String> {
    if links == LinksArg::Loopback {
        return Ok(Carrier::Loopback);
    }
    match isolation::enter() {
        Ok(isolated) => Ok(Carrier::Namespaces(isolated)),
        Err(problem) if links == LinksArg::Auto => {
            say(&format!("links are proxies on loopback, since {problem}"));
            Ok(Carrier::Loopback)
        }
        Err(problem) => Err(problem),
    }
}

impl ClusterArgs {
    fn config(&self, carrier: Carrier) -> Result<ClusterConfig, String> {
        if !(2..=7).contains(&self.members) {
            return Err(format!("a cluster has 2 to 7 members here members={}", self.members));
        }
        Ok(ClusterConfig {
            program: Program::new(self.program, self.binary.clone()),
            member_count: self.members,
            carrier,
            member_args: self.member_args.clone(),
            data_root: self.data_root.clone().unwrap_or_else(std::env::temp_dir),
            seed: 0,
            small_disk: None,
        })
    }
}

async fn run(args: RunArgs, carrier: Carrier) -> Result<bool, String> {
    let etcd_bugs = match args.etcd_bugs {
        Choice::Auto => args.cluster.program == Kind::Folkmoot,
        choice => choice == Choice::On,
    };
    let config = RoundConfig {
        cluster: args.cluster.config(carrier)?,
        length: Duration::from_secs(args.seconds),
        load: LoadConfig { etcd_bugs, ..LoadConfig::default() },
        lies: args.lies,
        plan: None,
        keep: args.keep,
        quiet: false,
    };
    let mut counts = Counts::default();
    let mut bad_seeds = Vec::new();
    let mut lies: BTreeMap<Lie, bool> = BTreeMap::new();
    for index in 0..args.rounds {
        let seed = args.seed + index;
        let verdict = round::run(&config, seed, &format!("[{seed}]")).await?;
        counts.add(&verdict.counts);
        for (lie, noticed) in &verdict.lies {
            *lies.entry(*lie).or_insert(true) &= noticed;
        }
        if let Some(kept) = &verdict.kept {
            say(&format!("seed {seed}: timeline, history, logs and data are in {}", kept.display()));
        }
        if !verdict.problems.is_empty() {
            say(&format!("seed {seed}: {} problems:", verdict.problems.len()));
            verdict.problems.iter().for_each(|problem| say(&format!("  {problem}")));
            bad_seeds.push(seed);
            if !args.keep_going {
                break;
            }
        }
    }
    say(&format!("{counts:?}"));
    match &bad_seeds[..] {
        [] => say(&format!("{} rounds, nothing found", args.rounds)),
        seeds => say(&format!("something was found with seeds {seeds:?}")),
    }
    let unnoticed: Vec<&Lie> = Lie::ALL.iter().filter(|lie| lies.get(lie) != Some(&true)).collect();
    if args.lies {
        match &unnoticed[..] {
            [] => say(&format!("all {} lies were noticed", Lie::ALL.len())),
            lies => say(&format!("lies that were not noticed, or for which there was no place: {lies:?}")),
        }
    }
    Ok(bad_seeds.is_empty() && (!args.lies || unnoticed.is_empty()))
}

async fn measure(args: MeasureArgs, event: Event, carrier: Carrier) -> Result<bool, String> {
    let first = args.cluster.config(carrier)?;
    let mut configs = vec![first.clone()];
    configs.extend(args.against.map(|path| ClusterConfig { program: Program::Etcd(path), ..first }));
    let samples = measure::compare(&configs, event, args.runs).await?;
    let names: Vec<String> = configs.iter().map(|config| config.program.kind().to_string()).collect();
    let pace = measure::PROBE_EVERY;
    say(&format!(
        "{event:?}: {} members, default timeouts, a write to each every {pace:?}",
        args.cluster.members
    ));
    say(measure::table(&names, &samples).trim_end());
    Ok(true)
}

/// Runs until done, or until somebody wants an end; either way nothing is left behind.
async fn until_interrupted(work: impl Future<Output = Result<bool, String>>) -> Result<bool, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|e| format!("cannot wait for signals: {e}"))?;
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

fn start(cli: Cli) -> Result<bool, String> {
    let links = match &cli.command {
        Command::Run(args) => args.cluster.links,
        Command::Failover(args) | Command::Move(args) | Command::Restart(args) => args.cluster.links,
    };
    let carrier = carrier(links)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| format!("cannot start runtime: {e}"))?;
    runtime.block_on(until_interrupted(async {
        match cli.command {
            Command::Run(args) => run(args, carrier).await,
            Command::Failover(args) => measure(args, Event::Failover, carrier).await,
            Command::Move(args) => measure(args, Event::Move, carrier).await,
            Command::Restart(args) => measure(args, Event::Restart, carrier).await,
        }
    }))
}

fn main() -> ExitCode {
    match start(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            say(&format!("folkmoot-chaos: {problem}"));
            ExitCode::from(2)
        }
    }
}
