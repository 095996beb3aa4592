//! Locks, elections, the registry, configuration and watches: the commands on the client library,
//! alone and beside etcdctl.

#[allow(dead_code)]
mod support;

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use support::{Process, Server, eventually, failure, folkmoot, run, spawn, text};

fn keys(server: &Server, prefix: &str) -> usize {
    server.text(["get", prefix, "--prefix", "--count-only"]).trim().parse().expect("is a number")
}

#[test]
fn a_lock_that_is_taken_is_not_waited_for_longer_than_wanted() {
    let server = Server::start();
    let mut holder = server.spawn(["lock", "l"]);
    holder.lines().next();
    let taken = failure(&server.run(["lock", "--try", "l", "true"]), 1);
    assert!(taken.contains("the lock is taken") && taken.contains("\"l\""), "{taken}");
    let late = failure(&server.run(["lock", "--timeout", "200ms", "l", "true"]), 1);
    assert_eq!(late, "Error: the lock was not free within --timeout=200ms");
    eventually("only the holder is left", || keys(&server, "l/") == 1);
    holder.signal(Signal::INT);
    assert!(holder.wait().success());
    assert_eq!(server.run(["lock", "--try", "l", "sh", "-c", "exit 3"]).status.code(), Some(3));
}

#[test]
fn a_command_is_told_to_stop_when_its_lock_is_lost() {
    let server = Server::start();
    let script = "trap 'echo told; exit 0' TERM; echo $ETCD_LOCK_KEY; while :; do sleep 0.1; done";
    let mut holder = server.spawn(["lock", "l", "sh", "-c", script]);
    let mut lines = holder.lines();
    let key = lines.next();
    assert!(key.starts_with("l/"), "{key}");
    server.text(["del", &key]);
    assert_eq!(lines.next(), "told");
    assert_eq!(holder.wait().code(), Some(1));
    assert!(holder.errors().starts_with("Error: the lock was lost: "));
}

#[test]
fn a_command_that_does_not_stop_is_killed_when_its_lock_is_lost() {
    let server = Server::start();
    let script = "trap '' TERM; echo $FOLKMOOT_LOCK_KEY; while :; do sleep 0.1; done";
    let mut holder = server.spawn(["lock", "--kill-after", "100ms", "l", "sh", "-c", script]);
    let key = holder.lines().next();
    server.text(["del", &key]);
    assert_eq!(holder.wait().code(), Some(1));
}

#[test]
fn a_lock_whose_session_ends_is_lost() {
    let server = Server::start();
    let mut holder = server.spawn(["lock", "l"]);
    let key = holder.lines().next();
    let lease = key.strip_prefix("l/").expect("names the lease");
    server.text(["lease", "revoke", lease]);
    assert_eq!(holder.wait().code(), Some(1));
    assert!(holder.errors().starts_with("Error: the lock was lost: "));
}

#[test]
fn a_request_to_stop_reaches_the_command_and_gives_the_lock_back() {
    let server = Server::start();
    let script = "trap 'exit 5' TERM; echo here; while :; do sleep 0.1; done";
    let mut holder = server.spawn(["lock", "l", "sh", "-c", script]);
    assert_eq!(holder.lines().next(), "here");
    holder.signal(Signal::TERM);
    assert_eq!(holder.wait().code(), Some(5));
    assert_eq!(keys(&server, "l/"), 0);
    assert_eq!(server.text(["lease", "list"]), "found 0 leases\n");
}

#[test]
fn a_lock_survives_a_restart_of_its_server() {
    let mut server = Server::start();
    let mut holder = server.spawn(["lock", "--ttl", "60", "l"]);
    let key = holder.lines().next();
    server.restart();
    assert_eq!(server.text(["get", "l/", "--prefix", "--keys-only"]), format!("{key}\n"));
    holder.signal(Signal::TERM);
    assert!(holder.wait().success());
    assert_eq!(keys(&server, "l/"), 0);
}

#[test]
fn names_and_times_that_make_no_sense_are_errors_of_usage() {
    let server = Server::start();
    assert!(failure(&server.run(["lock", "", "true"]), 2).contains("name=\"\""));
    assert!(failure(&server.run(["elect", "e/", "v"]), 2).contains("name=\"e/\""));
    failure(&server.run(["lock", "--ttl", "0", "l", "true"]), 2);
    failure(&server.run(["lock", "--frob", "l", "true"]), 2);
    failure(&server.run(["elect", "e", "v", "--ttl", "x"]), 2);
    assert!(failure(&server.run(["registry", "list", "a/b"]), 2).contains("service=\"a/b\""));
    assert!(
        failure(&server.run(["registry", "register", "a", "nowhere"]), 2).contains("address=\"nowhere\"")
    );
    assert!(failure(&server.run(["config", "get", "a/b"]), 2).contains("namespace=\"a/b\""));
    failure(&server.run(["config", "get", "a", "--extends", "b"]), 2);
}

#[test]
fn nobody_is_waited_for_where_nobody_listens() {
    for command in [
        &["lock", "l", "true"][..],
        &["elect", "e", "v"],
        &["elect", "-l", "e"],
        &["watch", "k"],
        &["registry", "list", "s"],
        &["registry", "register", "s", "h:1"],
        &["config", "get", "c"],
    ] {
        let nowhere = ["--endpoints", "127.0.0.1:0", "--command-timeout", "1h"];
        let line = failure(&run(folkmoot(nowhere).args(command), ""), 1);
        assert!(line.starts_with("Error: cannot reach endpoint 127.0.0.1:0: "), "{command:?}: {line}");
    }
}

#[test]
fn a_leader_runs_a_command_for_as_long_as_it_leads() {
    let server = Server::start();
    let script = "echo $FOLKMOOT_LEADER_KEY $FOLKMOOT_LEADER_REV; while :; do sleep 0.1; done";
    let mut leader = server.spawn(["elect", "e", "host-a", "--", "sh", "-c", script]);
    let line = leader.lines().next();
    let (key, revision) = line.split_once(' ').expect("two words");
    let document = server.json(["get", key]);
    assert_eq!(document["kvs"][0]["create_revision"].to_string(), revision);
    assert_eq!(server.text(["get", key, "--print-value-only"]), "host-a\n");
    server.text(["del", key]);
    assert_eq!(leader.wait().code(), Some(1));
    assert!(leader.errors().starts_with("Error: the leadership was lost: "));
    assert_eq!(server.run(["elect", "e", "host-b", "--", "sh", "-c", "exit 9"]).status.code(), Some(9));
}

#[test]
fn who_looks_on_sees_leaders_come_in_full() {
    let server = Server::start();
    let mut onlooker = server.spawn(["elect", "-l", "e", "-w", "json"]);
    let mut seen = onlooker.lines();
    let mut leader = server.spawn(["elect", "e", "host-a"]);
    let key = leader.lines().next();
    let document: Value = serde_json::from_str(&seen.next()).expect("is a document");
    assert_eq!(document["kvs"], server.json(["get", &key])["kvs"]);
    assert_eq!(document["header"]["cluster_id"], server.json(["get", &key])["header"]["cluster_id"]);
    onlooker.signal(Signal::TERM);
    assert!(onlooker.wait().success());
}

#[test]
fn a_watch_goes_on_when_its_server_is_back() {
    let mut server = Server::start();
    server.text(["put", "w/0", "before"]);
    let mut watch = server.spawn(["watch", "w/", "--prefix", "--rev", "1"]);
    let mut lines = watch.lines();
    let mut three = || [lines.next(), lines.next(), lines.next()];
    assert_eq!(three(), ["PUT", "w/0", "before"]);
    for round in ["1", "2", "3"] {
        server.restart();
        server.text(["put", &format!("w/{round}"), "a"]);
        server.text(["del", &format!("w/{round}")]);
        assert_eq!(three(), ["PUT".to_owned(), format!("w/{round}"), "a".to_owned()]);
        assert_eq!(three(), ["DELETE".to_owned(), format!("w/{round}"), String::new()]);
    }
    watch.signal(Signal::INT);
    assert!(watch.wait().success());
}

fn etcdctl(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", server.endpoint()]).args(arguments);
    command
}

/// Holds something, by ours and by etcdctl in turn: each must wait for the one before it.
fn queue_with_etcdctl(server: &Server, name: &str, ours: &[&str], theirs: &[&str]) {
    if Command::new("etcdctl").arg("version").output().is_err() {
        return;
    }
    let start = |is_ours: bool| -> Process {
        let mut command = match is_ours {
            true => server.command([]),
            false => etcdctl(server, &[]),
        };
        spawn(command.args(if is_ours { ours } else { theirs }))
    };
    let prefix = format!("{name}/");
    let mut waiting = start(true);
    for is_ours in [false, true, false, true] {
        let mut holder = waiting;
        // Open to the end: etcdctl dies of a pipe that nobody reads.
        let mut lines = holder.lines();
        let held = lines.next();
        assert!(held.starts_with(&prefix), "{held}");
        waiting = start(is_ours);
        eventually("the next one in the line", || keys(server, &prefix) == 2);
        let first =
            server.text(["get", &prefix, "--prefix", "--keys-only", "--sort-by", "create", "--limit", "1"]);
        assert_eq!(first.trim_end(), held, "the line is in the order of arrival");
        holder.signal(Signal::INT);
        let end = holder.wait();
        assert!(end.success(), "{end} is_ours={}: {}", !is_ours, holder.errors());
    }
    let held = waiting.lines().next();
    assert!(held.starts_with(&prefix), "{held}");
    assert_eq!(keys(server, &prefix), 1);
}

#[test]
fn locks_of_etcdctl_stand_in_one_line_with_ours() {
    queue_with_etcdctl(&Server::start(), "l", &["lock", "l"], &["lock", "l"]);
}

#[test]
fn candidates_of_etcdctl_stand_in_one_line_with_ours() {
    queue_with_etcdctl(&Server::start(), "e", &["elect", "e", "ours"], &["elect", "e", "theirs"]);
}

#[test]
fn an_instance_is_registered_until_it_has_drained() {
    let server = Server::start();
    let mut onlooker = server.spawn(["registry", "watch", "api"]);
    let mut seen = onlooker.lines();
    let mut instance = server.spawn([
        "registry",
        "register",
        "api",
        "10.0.0.7:8080",
        "--id",
        "a",
        "--zone",
        "z",
        "--weight",
        "7",
        "--drain",
        "100ms",
        "--attr",
        "colour=green",
        "--port",
        "metrics=9090",
    ]);
    assert_eq!(instance.lines().next(), "a");
    let line = "a, 10.0.0.7:8080, UP, 7, z, , colour=green";
    assert_eq!(seen.next(), format!("added {line}"));
    assert_eq!(server.text(["registry", "list", "api"]), format!("{line}\n"));
    let document = &server.json(["registry", "list", "api"])[0];
    assert_eq!(document["addr"], "10.0.0.7:8080");
    assert_eq!(document["ports"]["metrics"], 9090);
    assert_eq!(server.text(["registry", "list", "api", "--namespace", "other"]), "");
    instance.signal(Signal::TERM);
    assert_eq!(seen.next(), format!("updated {}", line.replace("UP", "DRAINING")));
    assert_eq!(seen.next(), format!("removed {}", line.replace("UP", "DRAINING")));
    assert!(instance.wait().success());
    assert_eq!(server.text(["lease", "list"]), "found 0 leases\n");
}

#[test]
fn an_instance_is_registered_while_its_command_runs() {
    let server = Server::start();
    let script = "trap 'exit 4' TERM; echo here; while :; do sleep 0.1; done";
    let arguments =
        ["registry", "register", "api", "h:1", "--id", "a", "--drain", "10ms", "--", "sh", "-c", script];
    let mut instance = server.spawn(arguments);
    assert_eq!(instance.lines().next(), "here");
    assert_eq!(server.text(["registry", "list", "api"]), "a, h:1, UP, 100, , , \n");
    let second = failure(&server.run(["registry", "register", "api", "h:2", "--id", "a", "--", "true"]), 1);
    assert!(second.contains("somebody else is registered"), "{second}");
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait().code(), Some(4));
    assert_eq!(server.text(["registry", "list", "api"]), "");
    assert_eq!(
        server.run(["registry", "register", "api", "h:1", "--", "sh", "-c", "exit 6"]).status.code(),
        Some(6)
    );
}

#[test]
fn an_instance_whose_id_is_taken_ends_and_stops_its_command() {
    let server = Server::start();
    let script = "echo here; while :; do sleep 0.1; done";
    let mut first =
        server.spawn(["registry", "register", "api", "h:1", "--id", "a", "--", "sh", "-c", script]);
    assert_eq!(first.lines().next(), "here");
    let mut second =
        server.spawn(["registry", "register", "api", "h:2", "--id", "a", "--on-conflict", "takeover"]);
    assert_eq!(second.lines().next(), "a");
    assert_eq!(first.wait().code(), Some(1));
    assert!(first.errors().contains("somebody else has taken its id"));
    assert_eq!(server.text(["registry", "list", "api"]), "a, h:2, UP, 100, , , \n");
}

#[test]
fn instances_of_others_are_drained_and_let_in_again() {
    let server = Server::start();
    let mut instance = server.spawn(["registry", "register", "api", "h:1", "--id", "a", "--drain", "10ms"]);
    assert_eq!(instance.lines().next(), "a");
    assert_eq!(server.text(["registry", "drain", "api", "a"]), "a is draining\n");
    assert_eq!(server.text(["registry", "list", "api"]), "a, h:1, DRAINING, 100, , , \n");
    assert_eq!(server.json(["registry", "drain", "api", "a", "--undo"])["health"], "UP");
    assert_eq!(server.text(["registry", "list", "api"]), "a, h:1, UP, 100, , , \n");
    let none = failure(&server.run(["registry", "drain", "api", "a", "b"]), 1);
    assert!(none.contains("id=\"b\""), "{none}");
    // Those before it are done.
    assert_eq!(server.text(["registry", "list", "api"]), "a, h:1, DRAINING, 100, , , \n");
    failure(&server.run(["registry", "drain", "api"]), 2);
    instance.signal(Signal::TERM);
    assert!(instance.wait().success());
}

#[test]
fn values_of_others_in_the_registry_are_read_or_counted() {
    let server = Server::start();
    server.text(["put", "services/default/api/go", r#"{"Op":0,"Addr":"h:9","Metadata":"blue"}"#]);
    server.text(["put", "services/default/api/odd", "no instance"]);
    let list = server.run(["registry", "list", "api"]);
    assert_eq!(text(&list), "go, h:9, UP, 100, , , \n");
    assert_eq!(list.stderr, b"values that are no instances were skipped; count=1\n");
}

#[test]
fn configuration_is_set_read_and_removed() {
    let server = Server::start();
    assert!(server.text(["config", "set", "gw", "debug", "true"]).starts_with("published at revision "));
    let yaml = "rps: 10\nburst: 20\n";
    text(&server.run_with(["config", "set", "gw", "limits.yaml"], yaml));
    assert_eq!(server.text(["config", "get", "gw", "limits.yaml"]), yaml);
    assert_eq!(server.text(["config", "get", "gw"]), format!("debug\ntrue\nlimits.yaml\n{yaml}\n"));
    let tree = server.json(["config", "get", "gw", "--tree"]);
    assert_eq!(tree.to_string(), r#"{"debug":true,"limits":{"rps":10,"burst":20}}"#);
    server.text(["config", "set", "base", "limits.json", r#"{"rps":1,"depth":3}"#]);
    let tree = server.json(["config", "get", "gw", "--tree", "--extends", "base"]);
    assert_eq!(tree["limits"]["rps"], 10);
    assert_eq!(tree["limits"]["depth"], 3);
    let bad = failure(&server.run(["config", "set", "gw", "bad.json", "{"]), 2);
    assert!(bad.contains("path=\"bad.json\""), "{bad}");
    assert!(failure(&server.run(["config", "get", "gw", "bad.json"]), 1).contains("path=\"bad.json\""));
    server.text(["config", "del", "gw", "debug"]);
    assert!(failure(&server.run(["config", "del", "gw", "debug"]), 1).contains("no such item"));
    assert!(failure(&server.run(["config", "set", "gw", "x", "--file", "/no/such"]), 1).contains("/no/such"));
}

#[test]
fn a_change_that_is_based_on_something_old_is_refused() {
    let server = Server::start();
    server.text(["config", "set", "gw", "a", "1"]);
    let revision = server.json(["config", "get", "gw", "a"])["revision"].to_string();
    server.text(["config", "set", "gw", "b", "2"]);
    failure(&server.run(["config", "set", "gw", "a", "3", "--rev", &revision]), 1);
    assert_eq!(server.text(["config", "get", "gw", "a"]), "1");
    server.text(["config", "set", "gw", "a", "4", "--force"]);
    let revision = server.json(["config", "get", "gw", "a"])["revision"].to_string();
    server.text(["config", "set", "gw", "a", "5", "--rev", &revision]);
    assert_eq!(server.text(["config", "get", "gw", "a"]), "5");
}

#[test]
fn configuration_is_followed_and_what_is_bad_is_refused() {
    let server = Server::start();
    server.text(["config", "set", "gw", "a", "1"]);
    let mut watch = server.spawn(["config", "watch", "gw", "-w", "json"]);
    let mut lines = watch.lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next()).expect("is a document");
    assert_eq!(next()["config"]["a"], 1);
    server.text(["put", "config/gw/items/b.json", "{"]);
    assert!(next()["refused"].as_str().expect("says why").contains("b.json"));
    server.text(["config", "set", "gw", "b.json", "{\"c\":2}"]);
    let change = next();
    assert_eq!(change["changed"].to_string(), r#"["b"]"#);
    assert_eq!(change["config"]["b"]["c"], 2);
    watch.signal(Signal::INT);
    assert!(watch.wait().success());
}

#[test]
fn a_file_is_compared_with_an_item() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let file = folder.path().join("limits.yaml");
    let name = file.to_str().expect("is text");
    fs::write(&file, "rps: 10\nburst: 20\n").expect("there is room");
    server.text(["config", "set", "gw", "limits.yaml", "--file", name]);
    assert_eq!(server.text(["config", "diff", "gw", "limits.yaml", name]), "");
    let changed = server.run_with(["config", "diff", "gw", "limits.yaml", "-"], "rps: 11\nburst: 20\n");
    assert_eq!(changed.status.code(), Some(1));
    let lines = String::from_utf8(changed.stdout).expect("is text");
    let lines: Vec<_> = lines.lines().collect();
    assert!(lines[0].starts_with("--- store limits.yaml at revision "), "{lines:?}");
    assert_eq!(lines[1..], ["+++ -", "-rps: 10", "+rps: 11", " burst: 20"]);
    assert_eq!(server.run(["config", "diff", "gw", "other", name]).status.code(), Some(1));
}
