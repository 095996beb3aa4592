//! `folkmoot-sim`: runs clusters under seeds and says what broke.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use folkmoot_sim::plan::{Overrides, Profile};
use folkmoot_sim::run::{quiet_panics, run_seed};

#[derive(Parser)]
#[command(name = "folkmoot-sim", about = "Runs whole clusters in one thread under one seed, with faults")]
struct Cli {
    /// Number of seeds.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// One seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the story.
    #[arg(long)]
    trace: bool,
    /// default, quick, hostile or calm.
    #[arg(long, default_value = "default")]
    profile: String,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    quiet_panics();
    let profile = Profile::parse(&cli.profile).expect("profile");
    let (start, count) = cli.seed.map_or((cli.start, cli.seeds), |seed| (seed, 1));
    let mut out = std::io::stdout().lock();
    let begun = std::time::Instant::now();
    let mut simulated = 0;
    for seed in start..start + count {
        let verdict = run_seed(seed, profile, &Overrides::default(), cli.trace);
        simulated += verdict.time;
        let _ = writeln!(
            out,
            "seed {seed}: {:?} ops {} happenings {} faults {} crashes {} healed {:?} hash {:016x} finding {:?}",
            folkmoot_sim::time::seconds(verdict.time),
            verdict.operations,
            verdict.counts.happenings,
            verdict.counts.faults,
            verdict.counts.crashes,
            verdict.healed_in.map(folkmoot_sim::time::seconds),
            verdict.trace_hash,
            verdict.finding
        );
        if cli.trace {
            for line in verdict.lines.lock().iter() {
                let _ = writeln!(out, "{line}");
            }
        }
    }
    let speed = simulated as f64 / 1e9 / begun.elapsed().as_secs_f64();
    let _ = writeln!(out, "speed {speed:.1}x");
    ExitCode::SUCCESS
}
