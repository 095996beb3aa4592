//! `folkmoot-sim`: runs clusters under seeds and says what broke.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use folkmoot_sim::batch::{self, Batch};
use folkmoot_sim::faults::FaultKind;
use folkmoot_sim::plan::{Overrides, Profile};
use folkmoot_sim::run::{quiet_panics, run_seed};
use folkmoot_sim::time::{MS, seconds};
use folkmoot_sim::{mutants, shrink, story};

/// Worlds are many small pieces: half of their time would be the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "folkmoot-sim", about = "Runs whole clusters in one thread under one seed, with faults")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Reduces a failing seed and writes it to sim/seeds.
    Shrink(ShrinkArgs),
    /// Puts known bugs back, one after the other, and shows that seeds find them. Needs a build with
    /// RUSTFLAGS='--cfg mutant="any"'.
    Mutants(MutantArgs),
}

#[derive(Args)]
struct RunArgs {
    /// Number of seeds.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Stop after this many findings.
    #[arg(long, default_value_t = 20)]
    findings: usize,
    /// One in how many seeds is run twice and must give the same trace.
    #[arg(long, default_value_t = 100)]
    twice_one_in: u64,
    /// Print how often each situation was met.
    #[arg(long)]
    situations: bool,
    /// Print the whole story of the seed.
    #[arg(long)]
    trace: bool,
    #[command(flatten)]
    seed: SeedArgs,
}

#[derive(Args)]
struct SeedArgs {
    /// One seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// default, quick, hostile, leases, small or calm.
    #[arg(long, default_value = "default", value_parser = parse_profile)]
    profile: Profile,
    /// Kinds of fault to leave out.
    #[arg(long, value_delimiter = ',', value_parser = parse_kind)]
    without: Vec<FaultKind>,
    /// Episodes to leave out, by number.
    #[arg(long, value_delimiter = ',')]
    skip: Vec<usize>,
    /// Clients that do nothing, by number.
    #[arg(long, value_delimiter = ',')]
    idle: Vec<usize>,
    /// When faults end, if earlier.
    #[arg(long)]
    end_ms: Option<u64>,
    /// Put this known bug back; needs a build with RUSTFLAGS='--cfg mutant="any"'.
    #[arg(long)]
    mutant: Option<String>,
}

#[derive(Args)]
struct ShrinkArgs {
    #[command(flatten)]
    seed: SeedArgs,
    /// Where to write it.
    #[arg(long, default_value = "sim/seeds")]
    into: std::path::PathBuf,
}

#[derive(Args)]
struct MutantArgs {
    /// Only these.
    names: Vec<String>,
    /// Seeds for each at most.
    #[arg(long, default_value_t = 500)]
    budget: u64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
}

fn parse_profile(name: &str) -> Result<Profile, String> {
    Profile::parse(name).ok_or_else(|| format!("no such profile, one of {:?}", Profile::NAMES))
}

fn parse_kind(name: &str) -> Result<FaultKind, String> {
    FaultKind::parse(name).ok_or_else(|| {
        let names: Vec<_> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
        format!("no such fault, one of {}", names.join(" "))
    })
}

impl SeedArgs {
    fn overrides(&self) -> Overrides {
        Overrides {
            without: self.without.iter().copied().collect(),
            skip: self.skip.iter().copied().collect(),
            idle: self.idle.iter().copied().collect(),
            end: self.end_ms.map(|ms| ms * MS),
        }
    }
}

fn say(text: &str) {
    // Nobody is left to hear that nobody listens.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    quiet_panics();
    let seed = match &cli.command {
        Some(Command::Shrink(args)) => &args.seed,
        _ => &cli.run.seed,
    };
    if seed.mutant.is_some() && !folkmoot_core::mutant::choose(seed.mutant.as_deref()) {
        say("this build has no mutants: build with RUSTFLAGS='--cfg mutant=\"any\"'");
        return ExitCode::FAILURE;
    }
    let ok = match cli.command {
        Some(Command::Shrink(args)) => shrink_one(&args),
        Some(Command::Mutants(args)) => run_mutants(&args),
        None => match cli.run.seed.seed {
            Some(seed) => run_one(seed, &cli.run),
            None => run_batch(&cli.run),
        },
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_one(seed: u64, args: &RunArgs) -> bool {
    let (profile, overrides) = (args.seed.profile, args.seed.overrides());
    let verdict = run_seed(seed, profile, &overrides, args.trace);
    if args.trace {
        verdict.lines.lock().iter().for_each(|line| say(line));
    }
    say(&format!(
        "seed {seed}: {} s, {} calls, {} faults, {} crashes, whole again after {:?}, trace {:016x}",
        seconds(verdict.time),
        verdict.operations,
        verdict.counts.faults,
        verdict.counts.crashes,
        verdict.healed_in.map(seconds),
        verdict.trace_hash
    ));
    let Some(finding) = &verdict.finding else { return true };
    say(&format!("in force: {}", finding.in_force.join(", ")));
    say(&format!("{} at {} s: {}", finding.checker, seconds(finding.at), finding.text));
    false
}

fn run_batch(args: &RunArgs) -> bool {
    let batch = Batch {
        start: args.start,
        seeds: args.seeds,
        jobs: args.jobs,
        profile: args.seed.profile,
        overrides: args.seed.overrides(),
        findings_max: args.findings,
        twice_one_in: args.twice_one_in,
    };
    let outcome = batch::run(&batch, &|verdict| {
        if let Some(finding) = &verdict.finding {
            let short: String = finding.text.chars().take(300).collect();
            say(&format!("seed {} {}: {short}", verdict.seed, finding.checker));
        }
    });
    if let Some(verdict) = outcome.failed.values().next() {
        say(&story::tell(verdict, batch.profile, &batch.overrides));
    }
    for verdict in outcome.failed.values().skip(1) {
        say(&story::command(verdict.seed, batch.profile, &batch.overrides));
    }
    for seed in &outcome.not_repeatable {
        say(&format!("seed {seed} gave two different traces"));
    }
    if args.situations {
        say(&outcome.situations());
    } else {
        let never: Vec<_> = outcome.sometimes.never().map(|situation| situation.name()).collect();
        say(&format!("never met: {}", never.join("; ")));
    }
    say(&outcome.summary());
    outcome.is_ok()
}

fn shrink_one(args: &ShrinkArgs) -> bool {
    let Some(seed) = args.seed.seed else {
        say("say which seed: --seed N");
        return false;
    };
    match shrink::shrink(seed, args.seed.profile, args.seed.overrides(), &say) {
        Some(mut small) => {
            small.mutant.clone_from(&args.seed.mutant);
            let name = args.seed.mutant.clone().unwrap_or_else(|| seed.to_string());
            let path = args.into.join(format!("{name}.toml"));
            match std::fs::write(&path, small.to_toml()) {
                Ok(()) => say(&format!("written to {}", path.display())),
                Err(error) => say(&format!("cannot write the seed: path={} error={error}", path.display())),
            }
            true
        }
        None => {
            say(&format!("seed {seed} finds nothing"));
            false
        }
    }
}

fn run_mutants(args: &MutantArgs) -> bool {
    mutants::run(&args.names, args.start, args.budget, args.jobs, &say)
}
