//! The story of a failing seed: what led to the finding, and how to see it again.

use crate::plan::{Overrides, Profile};
use crate::run::{Verdict, run_seed};
use crate::time::seconds;

/// Lines before the finding that are told.
const LINES: usize = 60;

/// The command that replays a seed.
pub fn command(seed: u64, profile: Profile, overrides: &Overrides) -> String {
    let mut command =
        format!("cargo run --release -p folkmoot-sim -- --seed {seed} --profile {} --trace", profile.name());
    let list = |items: Vec<String>| items.join(",");
    if !overrides.without.is_empty() {
        let kinds = overrides.without.iter().map(|kind| kind.name().to_owned()).collect();
        command += &format!(" --without {}", list(kinds));
    }
    if !overrides.skip.is_empty() {
        command += &format!(" --skip {}", list(overrides.skip.iter().map(ToString::to_string).collect()));
    }
    if !overrides.idle.is_empty() {
        command += &format!(" --idle {}", list(overrides.idle.iter().map(ToString::to_string).collect()));
    }
    if let Some(end) = overrides.end {
        command += &format!(" --end-ms {}", end / crate::time::MS);
    }
    command
}

/// Runs the seed again with lines and tells what happened.
pub fn tell(verdict: &Verdict, profile: Profile, overrides: &Overrides) -> String {
    let again = run_seed(verdict.seed, profile, overrides, true);
    let mut text = String::new();
    let Some(finding) = &verdict.finding else { return text };
    text += &format!("seed {} fails at {} s\n", verdict.seed, seconds(finding.at));
    let lines = again.lines.lock();
    let faults = lines.iter().filter(|line| line.contains("FAULT")).count();
    text += &format!("--- the last of {} lines ({faults} faults)\n", lines.len());
    // What clients called is there in the whole story.
    let told: Vec<_> = lines.iter().filter(|line| !line.contains(" call ")).collect();
    for line in told.iter().skip(told.len().saturating_sub(LINES)) {
        let short: String = line.chars().take(240).collect();
        text += &short;
        text.push('\n');
    }
    text += &format!("--- in force: {}\n", finding.in_force.join(", "));
    text += &format!("--- {}: {}\n", finding.checker, finding.text);
    text += &format!("--- {}\n", command(verdict.seed, profile, overrides));
    text
}
