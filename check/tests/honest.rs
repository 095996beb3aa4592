//! No false alarm: whatever an honest store does, no checker objects.

#![allow(clippy::print_stdout)] // Counts, for people: `--nocapture`.

mod world;

use folkmoot_check::check;
use folkmoot_check::{Counts, Report};
use world::Config;

fn run(config: &Config) -> Report {
    let history = world::run(config);
    let report = check(&history, &config.settings());
    assert!(report.is_ok(), "seed {}\n{report}", config.seed);
    report
}

#[test]
fn no_checker_objects_to_an_honest_store_with_ground_truth() {
    let mut counts = Counts::default();
    for seed in 0..300 {
        counts.add(&run(&Config::new(seed)).counts);
    }
    println!("{counts:?}");
    assert!(counts.unknown_took_effect > 1000 && counts.lease_ends > 1000 && counts.holds > 200);
    assert!(counts.watch_compactions > 100 && counts.watch_resumes > 1000 && counts.watch_events > 10_000);
    assert_eq!(counts.doubtful_revisions, 0);
}

#[test]
fn no_checker_objects_to_an_honest_store_without_ground_truth() {
    let mut counts = Counts::default();
    for seed in 0..300 {
        let mut config = Config::new(seed);
        config.truth = false;
        config.lost = [0, 3, 10][seed as usize % 3];
        config.watches = [0, 1, 6][seed as usize / 3 % 3];
        counts.add(&run(&config).counts);
    }
    println!("{counts:?}");
    assert!(counts.unknown_took_effect > 1000);
    assert!(counts.doubtful_revisions * 5 < counts.revisions);
}
