//! The checkers are trusted because they catch known bugs: each [`Bug`] is planted into the
//! world's store and must be told under its rule.

#![allow(clippy::print_stdout)] // What was found, for people: `--nocapture`.

mod world;

use folkmoot_check::{Rule, check};
use world::{Bug, Config};

/// Runs worlds with the bug, and demands that at least `percent` of them are found out, and by
/// one of `rules`.
fn caught(bug: Bug, percent: usize, rules: &[Rule], change: impl Fn(&mut Config)) {
    let seeds = 60;
    let (mut found, mut by_rule) = (0, 0);
    let mut example = String::new();
    for seed in 0..seeds {
        let mut config = Config::new(seed);
        config.bug = bug;
        change(&mut config);
        let report = check(&world::run(&config), &config.settings());
        found += usize::from(!report.is_ok());
        by_rule += usize::from(rules.iter().any(|rule| report.has(*rule)));
        if example.is_empty() {
            let expected = report.violations().iter().find(|violation| rules.contains(&violation.rule));
            example = expected.map_or_else(String::new, ToString::to_string);
        }
    }
    println!("{bug:?}: {found} of {seeds} found, {by_rule} by {rules:?}; {example}");
    assert!(
        by_rule * 100 >= percent * seeds as usize,
        "{bug:?} was found in {by_rule} of {seeds} by {rules:?}"
    );
}

macro_rules! mutant {
    ($($name:ident: $bug:ident, $percent:literal, [$($rule:ident),+];)+) => {
        $(#[test]
        fn $name() {
            caught(Bug::$bug, $percent, &[$(Rule::$rule),+], |_| {});
        })+
    };
}

mutant! {
    a_lost_write_is_told: LostWrite, 90, [LostWrite];
    a_stale_read_is_told: StaleRead, 90, [StaleRevision];
    old_content_is_told: OldContent, 90, [WrongReply];
    a_missing_key_is_told: MissingKey, 90, [WrongReply];
    a_torn_transaction_is_told: TornTxn, 90, [TornChange];
    a_write_that_happens_twice_is_told: AppliedTwice, 90, [UnexplainedChange, TornChange];
    a_refused_write_that_happens_is_told: RefusedApplied, 90, [RefusedTookEffect];
    a_wrong_branch_is_told: WrongBranch, 90, [WrongReply, TornChange, LostWrite];
    two_writes_of_one_revision_are_told: SameRevision, 90, [RevisionClaimedTwice];
    a_skipped_revision_is_told: SkippedRevision, 90, [RevisionSequence];
    a_wrong_header_is_told: WrongHeader, 90, [RevisionClaimedTwice, LostWrite];
    a_lease_that_ends_early_is_told: LeaseEarly, 90, [LeaseEarly];
    a_lease_that_ends_late_is_told: LeaseLate, 50, [LeaseLate];
    a_renewal_after_the_end_is_told: RenewAfterEnd, 50, [LeaseAfterEnd];
    a_put_on_an_ended_lease_is_told: PutAfterEnd, 50, [LeaseAfterEnd];
    an_event_delivered_twice_is_told: WatchDuplicate, 90, [WatchDuplicate];
    an_event_left_out_is_told: WatchDrop, 90, [WatchGap, WatchTorn, WatchProgress];
    events_out_of_order_are_told: WatchReorder, 90, [WatchOrder];
    a_torn_revision_in_a_watch_is_told: WatchTorn, 50, [WatchTorn];
    a_wrong_previous_key_is_told: WatchPrevKv, 90, [WatchPrevKv];
    progress_ahead_of_events_is_told: WatchProgressAhead, 90, [WatchProgress];
    an_event_of_another_key_is_told: WatchForeignKey, 50, [WatchWrongEvent];
    a_silent_skip_over_compaction_is_told: WatchSkipsCompacted, 80, [WatchGap, WatchProgress];
    a_false_compaction_of_a_watch_is_told: WatchFalseCompaction, 90, [WatchCompaction];
    an_event_lost_on_resuming_is_told: WatchDropsOnResume, 90, [WatchGap, WatchProgress];
    a_read_refused_as_compacted_without_reason_is_told: FalseCompacted, 50, [WrongRefusal];
    a_blind_lock_is_told: LockBlind, 50, [LockExclusion];
}

#[test]
fn a_blind_fence_is_told() {
    caught(Bug::FenceBlind, 50, &[Rule::FenceOrder], |config| {
        (config.operations, config.clients, config.lockers, config.lost) = (1500, 1, 6, 1);
    });
}

#[test]
fn a_lease_that_leaves_a_key_is_told() {
    caught(Bug::LeaseLeavesKey, 50, &[Rule::UnexplainedChange], |config| {
        (config.operations, config.lockers, config.keys) = (1500, 0, 60);
    });
}

#[test]
fn an_answer_before_the_deed_is_told() {
    caught(Bug::EarlyAnswer, 90, &[Rule::OutsideInterval, Rule::StaleRevision], |config| {
        config.moments = true
    });
}

#[test]
fn most_bugs_are_told_without_ground_truth_too() {
    use Bug::*;
    let bugs = [
        (LostWrite, 60),
        (StaleRead, 90),
        (OldContent, 90),
        (MissingKey, 90),
        (TornTxn, 60),
        (WrongBranch, 60),
        (SameRevision, 90),
        (WrongHeader, 90),
        (WatchDuplicate, 90),
        (WatchDrop, 50),
        (WatchReorder, 90),
        (WatchPrevKv, 60),
        (WatchSkipsCompacted, 50),
        (SkippedRevision, 50),
    ];
    for (bug, percent) in bugs {
        let mut found = 0;
        for seed in 0..40 {
            let mut config = Config::new(seed);
            config.bug = bug;
            config.truth = false;
            config.lost = 3;
            found += usize::from(!check(&world::run(&config), &config.settings()).is_ok());
        }
        println!("{bug:?} without ground truth: {found} of 40");
        assert!(found * 100 >= percent * 40, "{bug:?}: {found} of 40");
    }
}
