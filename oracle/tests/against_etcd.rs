//! Shows on a real etcd that the oracle tells right from wrong: two etcds do not differ, lies about
//! one of them are found and made short, and a crash loop passes unless a revision goes missing.
//!
//! Needs an etcd program (`ETCD`, default `/usr/bin/etcd`), so these tests run only when asked for:
//! `cargo test -p folkmoot-oracle -- --ignored`.

use std::process::{Command, Output};

fn etcd() -> String {
    std::env::var("ETCD").unwrap_or_else(|_| "/usr/bin/etcd".into())
}

fn oracle(args: &[&str]) -> (Output, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_folkmoot-oracle")).args(args).output().expect("the oracle runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

fn diff(args: &[&str]) -> (Output, String) {
    let target = format!("etcd:{}", etcd());
    oracle(&[&["diff", "--left", &target, "--right", &target], args].concat())
}

#[test]
#[ignore = "needs a real etcd"]
fn two_etcds_do_not_differ() {
    let (output, text) = diff(&["--seeds", "100"]);
    assert!(output.status.success(), "{text}");
    assert!(text.contains(": 0 differences, 0 unsteady"), "{text}");
}

#[test]
#[ignore = "needs a real etcd"]
fn every_lie_about_an_etcd_is_found_and_made_short() {
    let lies = [
        "drop-event",
        "swap-events",
        "drop-prev-kv",
        "revision",
        "count",
        "drop-key",
        "more",
        "txn-version",
        "error-text",
        "error-code",
        "lease-key",
        "hash",
        "cancel-reason",
    ];
    for lie in lies {
        let (output, text) =
            diff(&["--seeds", "200", "--findings-max", "1", "--lanes", "1", "--mutate", lie]);
        assert!(!output.status.success(), "{lie}: {text}");
        let finding =
            text.lines().find(|line| line.starts_with("difference seed=") && line.contains("requests="));
        let count = finding
            .and_then(|line| line.rsplit_once("requests="))
            .and_then(|(_, count)| count.parse::<usize>().ok());
        assert!(count.is_some_and(|count| count <= 6), "{lie}: {text}");
    }
}

#[test]
#[ignore = "needs a real etcd"]
fn a_crashed_etcd_keeps_its_word() {
    let (output, text) = oracle(&["crash", "--etcd", &etcd(), "--rounds", "3"]);
    assert!(output.status.success(), "{text}");
}

#[test]
#[ignore = "needs a real etcd"]
fn a_lost_revision_is_noticed() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let path = root.path().to_str().expect("a path in UTF-8");
    let (output, text) =
        oracle(&["crash", "--etcd", &etcd(), "--rounds", "3", "--mutate", "--data-root", path]);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("is missing"), "{text}");
}
