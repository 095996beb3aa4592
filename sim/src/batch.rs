//! Many seeds on a few threads, and what came of them together.
//!
//! One in a hundred seeds is run twice and must give the same trace: a run that cannot be repeated
//! cannot be examined.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use folkmoot_check::Counts as Judged;
use parking_lot::Mutex;

use crate::plan::{Overrides, Profile};
use crate::run::{Verdict, run_seed};
use crate::sometimes::{Situation, Sometimes};
use crate::time::{Nanos, SEC};

/// What to run.
#[derive(Clone, Debug)]
pub struct Batch {
    /// First seed.
    pub start: u64,
    /// Number of seeds.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
    /// Family of seeds.
    pub profile: Profile,
    /// What is left out of each.
    pub overrides: Overrides,
    /// Stop after this many findings.
    pub findings_max: usize,
    /// One in how many seeds is run twice; 0 for none.
    pub twice_one_in: u64,
}

/// What came of a batch.
#[derive(Default)]
pub struct Outcome {
    /// Seeds run.
    pub seeds: u64,
    /// Seeds with a finding, by number.
    pub failed: BTreeMap<u64, Verdict>,
    /// Seeds that gave another trace the second time.
    pub not_repeatable: Vec<u64>,
    /// Seeds run twice.
    pub twice: u64,
    /// Situations met.
    pub sometimes: Sometimes,
    /// Virtual time.
    pub time: Nanos,
    /// Processor time of the threads.
    pub busy: Duration,
    /// Things that happened.
    pub happenings: u64,
    /// Faults.
    pub faults: u64,
    /// Crashes.
    pub crashes: u64,
    /// Seeds in which three classes of fault overlapped.
    pub overlapped: u64,
    /// What was judged.
    pub judged: Judged,
    /// Longest time until a cluster was whole again.
    pub healed_in_max: Nanos,
}

impl Outcome {
    fn add(&mut self, verdict: Verdict, busy: Duration) {
        self.seeds += 1;
        self.sometimes.merge(&verdict.sometimes);
        self.time += verdict.time;
        self.busy += busy;
        self.happenings += verdict.counts.happenings;
        self.faults += verdict.counts.faults;
        self.crashes += verdict.counts.crashes;
        self.overlapped += u64::from(verdict.overlapped);
        self.judged.add(&verdict.judged);
        self.healed_in_max = self.healed_in_max.max(verdict.healed_in.unwrap_or(0));
        if verdict.finding.is_some() {
            self.failed.insert(verdict.seed, verdict);
        }
    }

    /// Whether nothing was found.
    pub fn is_ok(&self) -> bool {
        self.failed.is_empty() && self.not_repeatable.is_empty()
    }

    /// Numbers, for people.
    pub fn summary(&self) -> String {
        let hours = self.time as f64 / SEC as f64 / 3600.0;
        let per_core = self.time as f64 / SEC as f64 / self.busy.as_secs_f64().max(1e-9);
        let share = |part: u64| 100.0 * part as f64 / self.seeds.max(1) as f64;
        let judged = &self.judged;
        format!(
            "{} seeds, {} failed, {} run twice, {} not repeatable\n\
             {hours:.1} simulated hours at {per_core:.0} simulated seconds per second of one core; \
             {:.0} calls per simulated second\n\
             {} faults, {} crashes, three classes overlapping in {:.0} % of the seeds; whole again within {:.1} s\n\
             judged: {} calls ({} answered, {} of unknown outcome of which {} took effect), {} revisions, {} ends of \
             leases, {} watch events, {} resumed watches, {} watches cancelled by compaction, {} lock holds",
            self.seeds,
            self.failed.len(),
            self.twice,
            self.not_repeatable.len(),
            judged.operations as f64 / (self.time as f64 / SEC as f64).max(1e-9),
            self.faults,
            self.crashes,
            share(self.overlapped),
            self.healed_in_max as f64 / SEC as f64,
            judged.operations,
            judged.answered,
            judged.unknown,
            judged.unknown_took_effect,
            judged.revisions,
            judged.lease_ends,
            judged.watch_events,
            judged.watch_resumes,
            judged.watch_compactions,
            judged.holds,
        )
    }

    /// How often each situation was met, those never met first.
    pub fn situations(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        let never: Vec<Situation> = self.sometimes.never().collect();
        lines.push(format!("{} situations, {} never met", Situation::ALL.len(), never.len()));
        lines.extend(never.iter().map(|situation| format!("{:>10}  {}", "never", situation.name())));
        let met = Situation::ALL.iter().filter(|situation| self.sometimes.count(**situation) > 0);
        lines.extend(
            met.map(|situation| format!("{:>10}  {}", self.sometimes.count(*situation), situation.name())),
        );
        lines.join("\n")
    }
}

/// What this thread has used of its core; other work of the machine does not count.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// Runs a batch; `tell` hears of each seed with a finding at once.
pub fn run(batch: &Batch, tell: &(dyn Fn(&Verdict) + Sync)) -> Outcome {
    let next = AtomicU64::new(batch.start);
    let end = batch.start + batch.seeds;
    let outcome = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..batch.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || outcome.lock().failed.len() >= batch.findings_max {
                        return;
                    }
                    let begun = processor_time();
                    let verdict = run_seed(seed, batch.profile, &batch.overrides, false);
                    let busy = processor_time().saturating_sub(begun);
                    let repeats = batch.twice_one_in > 0 && seed.is_multiple_of(batch.twice_one_in);
                    let again = repeats.then(|| run_seed(seed, batch.profile, &batch.overrides, false));
                    if verdict.finding.is_some() {
                        tell(&verdict);
                    }
                    let mut outcome = outcome.lock();
                    if let Some(again) = again {
                        outcome.twice += 1;
                        if again.trace_hash != verdict.trace_hash {
                            outcome.not_repeatable.push(seed);
                        }
                    }
                    outcome.add(verdict, busy);
                }
            });
        }
    });
    outcome.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_seeds_find_nothing_and_give_the_same_trace_again() {
        let batch = Batch {
            start: 7,
            seeds: 6,
            jobs: 2,
            profile: Profile::Quick,
            overrides: Overrides::default(),
            findings_max: 1,
            twice_one_in: 2,
        };
        let outcome = run(&batch, &|_| {});
        let findings: Vec<_> =
            outcome.failed.values().map(|verdict| (verdict.seed, &verdict.finding)).collect();
        assert!(outcome.is_ok(), "{findings:?} {:?}", outcome.not_repeatable);
        assert!(outcome.twice >= 3 && outcome.judged.operations > 1000, "{}", outcome.summary());
    }
}
