//! Shows on real etcds that the attack works and that what it says is true: nothing is found where
//! nothing is wrong, lies are noticed, known bugs of etcd 3.4 are found, and nothing is left behind.
//!
//! Needs an etcd program (`ETCD`, default `/usr/bin/etcd`), so these tests run only when asked for:
//! `cargo test --release -p folkmoot-chaos -- --ignored`.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn etcd() -> String {
    std::env::var("ETCD").unwrap_or_else(|_| "/usr/bin/etcd".into())
}

fn command(words: &[&str], data_root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_folkmoot-chaos"));
    command.args(words).args(["--program", "etcd", "--binary", &etcd()]).arg("--data-root").arg(data_root);
    command
}

fn chaos(words: &[&str]) -> (Output, String) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let output = command(words, root.path()).output().expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        let left: Vec<_> = std::fs::read_dir(root.path()).expect("a directory").collect();
        assert!(left.is_empty(), "files were left: {left:?}");
    }
    (output, text)
}

#[test]
#[ignore = "needs a real etcd"]
fn nothing_is_found_on_an_etcd_and_every_lie_about_it_is_noticed() {
    let (output, text) = chaos(&["run", "--rounds", "4", "--seconds", "5", "--lies"]);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("4 rounds, nothing found") && text.contains("lies were noticed"), "{text}");
}

#[test]
#[ignore = "needs a real etcd"]
fn proxies_on_loopback_carry_an_attack_as_well() {
    let words = ["run", "--rounds", "3", "--seconds", "4", "--links", "loopback"];
    let (output, text) = chaos(&words);
    assert!(output.status.success(), "{text}");
}

#[test]
#[ignore = "needs a real etcd"]
fn five_members_are_attacked_like_three() {
    let (output, text) = chaos(&["run", "--rounds", "2", "--seconds", "5", "--members", "5"]);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("5 members"), "{text}");
}

#[test]
#[ignore = "needs a real etcd of version 3.4, and minutes"]
fn known_bugs_of_etcd_are_found() {
    let (output, text) = chaos(&["run", "--rounds", "60", "--seconds", "8", "--etcd-bugs", "on"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let rules = ["WatchProgress:", "WatchGap:", "WatchPrevKv:", "LeaseEarly:", "LockExclusion:"];
    assert!(rules.iter().any(|rule| text.contains(rule)), "{text}");
}

#[test]
#[ignore = "needs a real etcd"]
fn times_without_a_leader_are_measured() {
    for event in ["failover", "move", "restart"] {
        let (output, text) = chaos(&[event, "--runs", "2", "--against", &etcd()]);
        assert!(output.status.success(), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("ratio")).count(), 2, "{text}");
    }
}

/// Processes of this data root.
fn processes(root: &Path) -> Vec<String> {
    let root = root.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("--initial-cluster ") && line.contains(&root) {
            found.push(line);
        }
    }
    found
}

#[test]
#[ignore = "needs a real etcd"]
fn no_member_outlives_the_program_however_it_ends() {
    for signal in ["TERM", "INT", "KILL"] {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut child = command(&["run", "--rounds", "1", "--seconds", "30"], root.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program runs");
        while processes(root.path()).len() < 3 {
            assert!(child.try_wait().expect("a child").is_none(), "it ended too early");
            std::thread::yield_now();
        }
        let pid = child.id().to_string();
        let killed = Command::new("kill").args(["-s", signal, &pid]).status().expect("kill runs");
        assert!(killed.success());
        let status = child.wait().expect("a child");
        assert!(!status.success(), "{signal}");
        // After SIGKILL it is the kernel that ends the members, in its own time.
        while !processes(root.path()).is_empty() {
            std::thread::yield_now();
        }
        if signal != "KILL" {
            assert_eq!(status.code(), Some(2), "{signal}");
            assert_eq!(std::fs::read_dir(root.path()).expect("a directory").count(), 0, "{signal}");
        }
    }
}
