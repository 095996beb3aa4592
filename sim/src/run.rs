//! One seed, from start to verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use folkmoot_check::history::Change;
use folkmoot_check::{Counts as Judged, LeaseSettings, LivePeriod, Settings};
use parking_lot::Mutex;

use crate::client::wire;
use crate::faults::FaultKind;
use crate::plan::{Overrides, Plan, Profile};
use crate::sometimes::{Situation, Sometimes};
use crate::time::{Nanos, SEC};
use crate::trace::{Lines, Trace};
use crate::world::{Counts, Finding, Phase, World};

/// What came of a seed.
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// What was found, if anything.
    pub finding: Option<Finding>,
    /// Situations met.
    pub sometimes: Sometimes,
    /// Hash over everything that happened.
    pub trace_hash: u64,
    /// Virtual time that passed.
    pub time: Nanos,
    /// Numbers.
    pub counts: Counts,
    /// Calls in the history.
    pub operations: usize,
    /// What was judged of them.
    pub judged: Judged,
    /// Three classes of fault overlapped.
    pub overlapped: bool,
    /// Time from the end of faults until the cluster was whole.
    pub healed_in: Option<Nanos>,
    /// The story, if lines were kept.
    pub lines: Lines,
}

/// Runs a seed.
pub fn run_seed(seed: u64, profile: Profile, overrides: &Overrides, with_lines: bool) -> Verdict {
    let lines: Lines = Arc::new(Mutex::default());
    let trace = if with_lines { Trace::with_lines(Arc::clone(&lines)) } else { Trace::default() };
    let plan = Plan::new(seed, profile, overrides);
    if with_lines {
        trace.line(0, || format!("{plan:?}"));
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(plan, trace);
        world.run();
        judge(&mut world);
        world
    }));
    match outcome {
        Ok(world) => Verdict {
            seed,
            sometimes: world.sometimes.clone(),
            trace_hash: world.trace.hash(),
            time: world.now,
            counts: world.counts,
            operations: world.history.operations.len(),
            judged: world.judged.clone(),
            overlapped: world.storm.overlapped,
            healed_in: (world.phase == Phase::Done).then(|| world.now.saturating_sub(world.plan.fault_time)),
            finding: world.finding,
            lines,
        },
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "without a message".to_owned());
            let place = last_panic_place();
            Verdict {
                seed,
                finding: Some(Finding {
                    checker: "panic",
                    text: format!("{text} ({place})"),
                    at: 0,
                    in_force: Vec::new(),
                }),
                sometimes: Sometimes::default(),
                trace_hash: 0,
                time: 0,
                counts: Counts::default(),
                operations: 0,
                judged: Judged::default(),
                overlapped: false,
                healed_in: None,
                lines,
            }
        }
    }
}

thread_local! {
    static PANIC_PLACE: Mutex<String> = const { Mutex::new(String::new()) };
}

/// Keeps where a panic came from instead of printing it; to be called once.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        PANIC_PLACE.with(|kept| *kept.lock() = place);
    }));
}

fn last_panic_place() -> String {
    PANIC_PLACE.with(|kept| kept.lock().clone())
}

/// What can only be judged at the end: the histories of the clients.
fn judge(world: &mut World) {
    if world.finding.is_some() {
        return;
    }
    world.history.truth = Some(truth(world));
    let healed = match world.phase {
        // Operators may have had to restart members after that.
        Phase::Done => world.healed_since.max(world.last_crash),
        _ => world.now,
    };
    let clock_error_ppm = match world.plan.enabled.contains(&FaultKind::Jump) {
        // A jump within a short lease counts like a clock that runs that much faster.
        true => 500_000,
        false => 41_000,
    };
    let settings = Settings {
        cap: 3,
        other_compactions: false,
        lease: LeaseSettings {
            clock_error_ppm,
            live: vec![LivePeriod { from: healed + 5 * SEC, to: world.now.max(healed + 5 * SEC) }],
            slack: 4 * SEC,
            linger: Some(60 * SEC),
        },
    };
    let report = folkmoot_check::check(&world.history, &settings);
    if let Some(violation) = report.violations().first() {
        let rule = format!("{:?}", violation.rule);
        world.fail("history", format!("{rule}: {} ({} violations)", violation.text, report.total()));
    }
    for (count, situation) in [
        (report.counts.unknown_took_effect, Situation::UnknownApplied),
        (report.counts.unknown - report.counts.unknown_took_effect, Situation::UnknownLost),
        (report.counts.lease_ends, Situation::LeaseExpired),
    ] {
        if count > 0 {
            world.met(situation);
        }
    }
    world.judged = report.counts;
}

fn truth(world: &World) -> Vec<Change> {
    world
        .ledger
        .changes()
        .map(|(at, batch)| Change {
            revision: batch.revision,
            events: batch.events.iter().map(|event| wire::event(event, None)).collect(),
            at: Some(at),
        })
        .collect()
}
