//! Plays the conformance scenarios with the SDKs as actors, and writes down which passed.
//!
//! One interpreter for all languages: an SDK brings a small program that does single operations
//! ([`adapter`]), everything else — order, time, faults, comparison — is here ([`stage`]).

mod adapter;
mod control;
mod pattern;
mod scenario;
mod stage;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::adapter::Language;
use crate::control::Testd;
use crate::scenario::Scenario;
use crate::stage::{Cast, Failed, Stage};

#[derive(Parser)]
#[command(version, about = "Plays the conformance scenarios with the SDKs as actors")]
struct Flags {
    /// The folder with `schema.json`, `scenarios/` and `must-fail/`.
    #[arg(long, default_value = "conformance")]
    folder: PathBuf,
    /// A language and how its actors are started, e.g. `python=python3 conformance/actor.py`. Of
    /// several, the actors of a scenario take turns.
    #[arg(long, required = true, value_parser = Language::parse)]
    adapter: Vec<Language>,
    /// Another client of the same recipes, for the scenarios about that; what is beside this program
    /// if not said.
    #[arg(long, value_parser = Language::parse)]
    foreign: Option<Language>,
    /// The fault-injecting server.
    #[arg(long, default_value = "folkmoot-testd")]
    testd: String,
    /// Its store: embedded, etcd, folkmoot, or a name with =PATH behind it.
    #[arg(long, default_value = "embedded")]
    store: String,
    /// Where the report goes.
    #[arg(long)]
    report: Option<PathBuf>,
    /// How many scenarios run at the same time.
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// How often the whole is played.
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Only those whose ids contain one of these texts.
    filter: Vec<String>,
}

/// What became of a scenario.
enum Result_ {
    Passed,
    Skipped(String),
    Failed(Failed),
}

async fn play(testd: &Arc<Testd>, cast: &Cast, about: &Value, scenario: &Scenario) -> Result_ {
    let lacks = |need: &&String| !about["can"].as_array().is_some_and(|can| can.contains(&json!(need)));
    if let Some(lack) = scenario.requires.iter().find(lacks) {
        let store = about["store"].as_str().unwrap_or_default();
        return Result_::Skipped(format!("the store {store} has no {lack}"));
    }
    match Stage::play(testd, cast, scenario).await {
        Ok(None) => Result_::Passed,
        Ok(Some(reason)) => Result_::Skipped(reason),
        Err(failed) => Result_::Failed(failed),
    }
}

/// Turns the result of a scenario that has to fail, or is known to fail at present, around.
fn turned(scenario: &Scenario, result: Result_) -> Result_ {
    if let Some(why) = &scenario.unsolved {
        return match result {
            Result_::Failed(_) => Result_::Skipped(format!("unsolved: {why}")),
            Result_::Passed => {
                let why = "it passes now: take the mark `unsolved` away".into();
                Result_::Failed(Failed { at: "end".into(), why })
            }
            skipped => skipped,
        };
    }
    let Some(wanted) = &scenario.fails_at else { return result };
    match result {
        Result_::Failed(failed) if failed.at == *wanted => Result_::Passed,
        Result_::Failed(Failed { at, why }) => {
            let why = format!("it has to fail at step {wanted}, but failed at step {at}: {why}");
            Result_::Failed(Failed { at, why })
        }
        _ => Result_::Failed(Failed { at: wanted.clone(), why: "it has to fail here, and passed".into() }),
    }
}

async fn run(flags: &Flags) -> Result<bool, String> {
    let schema = std::fs::read_to_string(flags.folder.join("schema.json"));
    let schema =
        schema.map_err(|error| format!("{error} file=schema.json folder={}", flags.folder.display()))?;
    let schema: Value = serde_json::from_str(&schema).map_err(|error| error.to_string())?;
    let mut scenarios = scenario::load(&flags.folder.join("scenarios"), &schema)?;
    scenarios.extend(scenario::load(&flags.folder.join("must-fail"), &schema)?);
    let wanted = |scenario: &Scenario| {
        flags.filter.is_empty() || flags.filter.iter().any(|part| scenario.id.contains(part))
    };
    scenarios.retain(wanted);
    if scenarios.is_empty() {
        return Err(format!("no scenario is like {:?}", flags.filter));
    }
    let testd = Arc::new(Testd::start(&flags.testd, &flags.store).await?);
    let about = testd.request("GET", "/", &serde_json::Map::new()).await?;
    let foreign = match &flags.foreign {
        Some(foreign) => foreign.clone(),
        None => Language { name: "etcdctl".into(), command: vec![beside("folkmoot-conformance-etcdctl")?] },
    };
    let cast = Cast { languages: flags.adapter.clone(), foreign };
    let mut lines: Vec<(String, Option<String>, Value)> = Vec::new();
    let mut failed = 0;
    let all = (0..flags.times).flat_map(|_| &scenarios);
    let mut playing = futures_util::stream::iter(all)
        .map(|scenario| {
            let (testd, cast, about) = (&testd, &cast, &about);
            async move {
                let begun = Instant::now();
                let result = turned(scenario, play(testd, cast, about, scenario).await);
                (scenario, result, begun.elapsed())
            }
        })
        .buffer_unordered(flags.jobs.max(1));
    while let Some((scenario, result, took)) = playing.next().await {
        let (word, reason) = match result {
            Result_::Passed => ("passed", None),
            Result_::Skipped(reason) => ("skipped", Some(reason)),
            Result_::Failed(Failed { at, why }) => {
                failed += 1;
                ("failed", Some(format!("step {at}: {why}")))
            }
        };
        let text = reason.as_deref().map(|reason| format!("  {reason}")).unwrap_or_default();
        say(&format!("{word:8}{:55}{:6.1} s{text}", scenario.id, took.as_secs_f64()));
        let mut line = json!({ "id": scenario.id, "result": word });
        if let Some(reason) = &reason {
            line["reason"] = json!(reason);
        }
        lines.push((scenario.id.clone(), scenario.fails_at.clone(), line));
    }
    drop(playing);
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    let pick = |must_fail: bool| -> Vec<&Value> {
        lines.iter().filter(|line| line.1.is_some() == must_fail).map(|line| &line.2).collect()
    };
    let languages: Vec<_> = flags.adapter.iter().map(|language| &language.name).collect();
    let report = json!({
        "format": 1, "languages": languages, "store": about["store"],
        "scenarios": pick(false), "must_fail": pick(true),
    });
    if let Some(path) = &flags.report {
        let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        std::fs::write(path, text + "\n").map_err(|error| format!("{error} file={}", path.display()))?;
    }
    say(&format!("{} played, {failed} failed; store {}, actors {languages:?}", lines.len(), about["store"]));
    Ok(failed == 0)
}

/// The path of a program in the same folder.
fn beside(name: &str) -> Result<String, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    Ok(here.with_file_name(name).to_string_lossy().into_owned())
}

fn say(line: &str) {
    // Whoever does not read any more needs no line.
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Flags::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(2)
        }
    }
}
