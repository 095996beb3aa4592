//! Known bugs, put back one at a time, to show that the simulator finds them. A mutant that
//! survives is a bug of the simulator.

use std::path::PathBuf;

use folkmoot_core::mutant;

use crate::batch::{self, Batch};
use crate::plan::{Overrides, Profile};
use crate::run::run_seed;
use crate::shrink::Kept;
use crate::world::Finding;

/// A mutant of the core: its name there, and the bug that it stands for.
pub struct Mutant {
    /// The name in `mutant!`.
    pub name: &'static str,
    /// The bug, and where it was known from.
    pub bug: &'static str,
}

macro_rules! mutants {
    ($($name:literal: $bug:literal;)*) => {
        /// All that the core has.
        pub const MUTANTS: &[Mutant] = &[$(Mutant { name: $name, bug: $bug },)*];
    };
}

mutants! {
    "answer_before_the_log_is_durable": "a write counts before its log entry is synced (etcd #14370, NATS JetStream)";
    "the_commit_of_a_change_is_not_logged": "a restarted member asks those for votes who were removed (found by seed 25488)";
    "a_sole_voter_leads_in_an_unwritten_term": "a learner gets entries of a term that a power cut makes its only voter lead in twice (Raft §5.2)";
    "a_snapshot_is_asked_for_that_cannot_be_made": "a leader waits for a snapshot of what it cannot commit, for a member without which it cannot commit (raft-rs request_snapshot)";
    "promises_leave_before_the_sync": "votes and append answers leave before what they promise is on disk (Raft §5.2)";
    "hard_state_is_not_logged": "term and vote are forgotten by a restart (Raft §5.2)";
    "late_answers_confirm_later_rounds": "a late answer to an old read-index round confirms a newer one (etcd #20418 family)";
    "reads_do_not_wait_for_apply": "a linearizable read runs before its index is applied";
    "forwards_are_not_bound_to_a_term": "a forwarded command is proposed by a later leader as well, and takes effect twice";
    "retry_before_the_term_is_settled": "a command in flight is sent again while its first way is still open (jetcd, etcd #14092)";
    "keepalives_need_no_quorum": "a replaced leader acknowledges keepalives (etcd #15247 family)";
    "deadlines_outlive_the_leadership": "a member that leads again counts leases from its earlier leadership";
    "an_old_leader_ends_leases": "a replaced leader's proposal to end leases reaches the next one and counts (etcd #15247)";
    "a_lagging_learner_is_promoted": "a learner votes before it has the log (etcd: learner promotion check)";
    "a_stuck_disk_goes_on_leading": "a leader whose disk hangs keeps leading (etcd: no stall detector)";
    "a_wrong_state_goes_unnoticed": "members differ and nobody notices (etcd #13766)";
    "hashes_outlive_a_snapshot": "state hashes from before a snapshot are compared with those after it";
    "differences_of_any_time_count_together": "a sound member is outvoted by two that were wrong one after the other (found by seed 13927)";
    "a_disputed_state_is_passed_on": "a leader whose state is in dispute sends it to others as a snapshot";
    "a_late_copy_is_refused": "a copy of a command that comes in a later term is refused, though the command is in the log (found by seed 5072)";
    "forwards_are_taken_twice": "a forwarded command that arrives twice is executed twice";
    "reads_trust_the_clock": "linearizable reads by leader lease: a paused leader serves stale ones (raft ReadOnlyOption::LeaseBased)";
    "a_lease_that_ran_out_is_renewed": "a keepalive succeeds on a lease whose end is under way (etcd #20615)";
    "keys_of_leases_are_lost_at_a_restart": "after a restart a lease's end leaves its keys (etcd lease reload)";
    "a_removed_id_comes_back": "the id of a removed member is given to a new one (etcd #13466 family)";
    "an_update_makes_a_learner_a_voter": "a new address turns a learner's record into a voter's (etcd #12288 family)";
    "the_position_is_written_before_its_rows": "the applied index is durable before the rows (etcd #13766)";
    "the_log_is_purged_before_the_engine_is_durable": "entries go from the log that the engine does not hold durably";
    "the_log_is_reset_before_the_rows_are_there": "a crash between a snapshot's log reset and its rows (etcd #10219 family)";
    "revision_is_derived_from_the_rows_left": "the revision goes back after compaction and restart (etcd #17780)";
    "compaction_takes_the_tombstone_at_its_revision": "a watch from the compacted revision misses a delete (etcd #19179)";
    "a_full_outbox_drops_events": "a slow watch loses events (etcd #17529)";
    "a_slow_watch_skips_what_was_compacted": "a slow watch skips compacted revisions silently (etcd #18089)";
    "a_watch_that_catches_up_repeats_events": "a watch that catches up gets an event twice";
    "a_watch_of_the_future_gets_events": "a watch from a future revision gets earlier events (etcd #15220 family)";
    "progress_overtakes_events": "progress is told before the events it covers (etcd #15220)";
    "a_snapshot_takes_watches_back": "after a snapshot a watch gets old events again (etcd #20221 family)";
    "a_snapshot_carries_watches_forward": "after a snapshot a watch misses what the snapshot skipped (etcd #15271 family)";
}

/// Seeds of one kind that are run before the next kind has its turn.
const SEEDS_AT_ONCE: u64 = 4;

/// Runs seeds against each mutant until one fails, up to `budget`, and then its kept seed if there
/// is one; says a table. True if all of them were killed.
pub fn run(names: &[String], start: u64, budget: u64, jobs: usize, say: &dyn Fn(&str)) -> bool {
    if !mutant::choose(None) {
        say("this build has no mutants: build with RUSTFLAGS='--cfg mutant=\"any\"'");
        return false;
    }
    let wanted = |mutant: &&Mutant| names.is_empty() || names.iter().any(|name| name == mutant.name);
    say(&format!("{:<40} {:>6}  {:<20} bug", "mutant", "seeds", "killed by"));
    let mut survivors = 0;
    for known in MUTANTS.iter().filter(wanted) {
        mutant::choose(Some(known.name));
        let mut seeds = 0;
        let mut killer = None;
        // The kind of seeds in turn: some bugs need the crowd, some are drowned by it.
        for round in 0.. {
            if seeds >= budget || killer.is_some() {
                break;
            }
            for profile in [Profile::Default, Profile::Hostile, Profile::Leases, Profile::Small] {
                let batch = Batch {
                    start: start + round * SEEDS_AT_ONCE,
                    seeds: SEEDS_AT_ONCE,
                    jobs,
                    profile,
                    overrides: Overrides::default(),
                    findings_max: usize::MAX,
                    twice_one_in: 0,
                };
                let outcome = batch::run(&batch, &|_| {});
                seeds += outcome.seeds;
                for (seed, verdict) in outcome.failed {
                    // What the seed finds without the mutant as well says nothing about it.
                    mutant::choose(None);
                    let sound = run_seed(seed, profile, &Overrides::default(), false).finding.is_none();
                    mutant::choose(Some(known.name));
                    if sound && killer.is_none() {
                        killer = verdict.finding.map(|finding| (finding, seed, profile));
                    }
                }
                if killer.is_some() {
                    break;
                }
            }
        }
        let killer = killer.or_else(|| killed_by_a_kept_seed(known.name));
        mutant::choose(None);
        match killer {
            Some((finding, seed, profile)) => {
                let rule = finding.text.split([':', ';']).next().unwrap_or_default();
                let rule: String = rule.chars().take(60).collect();
                say(&format!(
                    "{:<40} {seeds:>6}  {:<20} {} [seed {seed} {}: {rule}]",
                    known.name,
                    finding.checker,
                    known.bug,
                    profile.name()
                ));
            }
            None => {
                survivors += 1;
                say(&format!("{:<40} {seeds:>6}  {:<20} {}", known.name, "SURVIVES", known.bug));
            }
        }
    }
    say(&format!("{survivors} survivors"));
    survivors == 0
}

/// Some bugs show in one of thousands of seeds; the one that found it is kept.
fn killed_by_a_kept_seed(name: &str) -> Option<(Finding, u64, Profile)> {
    let dir = std::env::var_os("CARGO_MANIFEST_DIR").map_or("sim".into(), PathBuf::from).join("seeds");
    let text = std::fs::read_to_string(dir.join(format!("{name}.toml"))).ok()?;
    let kept = Kept::parse(&text).ok().filter(|kept| kept.mutant.as_deref() == Some(name))?;
    let finding = run_seed(kept.seed, kept.profile, &kept.overrides, false).finding?;
    Some((finding, kept.seed, kept.profile))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn names_in(dir: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names_in(&path, names);
            } else if path.file_name().is_some_and(|name| name != "mutant.rs") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                names.extend(
                    text.split("mutant!(\"")
                        .skip(1)
                        .filter_map(|rest| rest.split('"').next())
                        .map(str::to_owned),
                );
            }
        }
    }

    #[test]
    fn the_list_has_every_mutant_of_the_core_and_no_other() {
        let mut in_core = BTreeSet::new();
        names_in(&Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../core/src"), &mut in_core);
        let listed: BTreeSet<String> = MUTANTS.iter().map(|mutant| mutant.name.to_owned()).collect();
        assert_eq!(listed, in_core);
        assert_eq!(listed.len(), MUTANTS.len());
    }
}
