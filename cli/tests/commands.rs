//! The commands against a member in another process.

#[allow(dead_code)]
mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use support::{Server, failure, folkmoot, run, text};

#[test]
fn a_value_that_was_put_is_read_back_in_both_forms() {
    let server = Server::start();
    assert_eq!(server.text(["put", "a", "1"]), "OK\n");
    assert_eq!(server.text(["put", "a", "2", "--prev-kv"]), "OK\na\n1\n");
    assert_eq!(server.text(["get", "a"]), "a\n2\n");
    let document = server.json(["get", "a"]);
    assert_eq!(document["kvs"][0]["key"], "YQ==");
    assert_eq!(document["kvs"][0]["value"], "Mg==");
    assert_eq!(document["kvs"][0]["version"], 2);
    assert_eq!(document["count"], 1);
    assert_eq!(document["header"]["revision"], document["kvs"][0]["mod_revision"]);
    let first = document["kvs"][0]["create_revision"].to_string();
    assert_eq!(server.text(["get", "a", "--rev", &first, "--print-value-only"]), "1\n");
}

#[test]
fn a_value_can_come_from_standard_input() {
    let server = Server::start();
    assert_eq!(text(&server.run_with(["put", "a"], "two\nlines")), "OK\n");
    assert_eq!(server.text(["get", "a", "--print-value-only"]), "two\nlines\n");
}

#[test]
fn a_prefix_takes_what_begins_with_it_and_nothing_else() {
    let server = Server::start();
    for key in ["b", "c/1", "c/2", "c0"] {
        server.text(["put", key, "x"]);
    }
    assert_eq!(server.text(["get", "c/", "--prefix", "--keys-only"]), "c/1\nc/2\n");
    assert_eq!(server.text(["get", "", "--prefix", "--count-only"]), "4\n");
    assert_eq!(server.text(["get", "c/2", "--from-key", "--keys-only"]), "c/2\nc0\n");
    assert_eq!(server.text(["get", "b", "c/2", "--keys-only"]), "b\nc/1\n");
    let youngest = ["get", "", "--prefix", "--sort-by", "create", "--order", "descend", "--limit", "1"];
    assert_eq!(server.text(youngest), "c0\nx\n");
    assert_eq!(server.text(["del", "c/", "--prefix"]), "2\n");
    assert_eq!(server.text(["get", "", "--prefix", "--keys-only"]), "b\nc0\n");
}

#[test]
fn a_transaction_runs_one_branch() {
    let server = Server::start();
    let take = "create(\"name\") = \"0\"\n\nput name mine\n\nget name\n\n";
    assert_eq!(text(&server.run_with(["txn"], take)), "SUCCESS\n\nOK\n");
    assert_eq!(text(&server.run_with(["txn"], take)), "FAILURE\n\nname\nmine\n");
    let senseless = server.run_with(["txn"], "name = 0\n\n\n\n");
    assert!(failure(&senseless, 2).starts_with("Error: malformed comparison: "));
}

#[test]
fn a_watch_shows_events_until_it_is_interrupted() {
    let server = Server::start();
    server.text(["put", "w/1", "a"]);
    let revision = server.json(["get", "w/1"])["header"]["revision"].to_string();
    let mut watch = server.spawn(["watch", "w/", "--prefix", "--rev", &revision, "--prev-kv"]);
    let mut lines = watch.lines();
    assert_eq!([lines.next(), lines.next(), lines.next()], ["PUT", "w/1", "a"]);
    server.text(["del", "w/1"]);
    assert_eq!([lines.next(), lines.next(), lines.next()], ["DELETE", "w/1", "a"]);
    assert_eq!([lines.next(), lines.next()], ["w/1", ""]);
    watch.signal(Signal::INT);
    assert!(watch.wait().success());
}

#[test]
fn a_watch_of_forgotten_history_fails_with_the_reason() {
    let server = Server::start();
    server.text(["put", "a", "1"]);
    server.text(["put", "a", "2"]);
    assert_eq!(server.text(["compact", "3"]), "compacted revision 3\n");
    let reason = failure(&server.run(["watch", "a", "--rev", "1"]), 1);
    assert!(reason.contains("required revision has been compacted"), "{reason}");
}

#[test]
fn a_lease_takes_its_keys_with_it() {
    let server = Server::start();
    let grant = server.text(["lease", "grant", "600"]);
    let lease = grant.split(' ').nth(1).expect("names the lease").to_owned();
    assert_eq!(grant, format!("lease {lease} granted with TTL(600s)\n"));
    server.text(["put", "a", "1", "--lease", &lease]);
    assert_eq!(server.text(["lease", "list"]), format!("found 1 leases\n{lease}\n"));
    let life = server.text(["lease", "timetolive", &lease, "--keys"]);
    assert!(life.ends_with("attached keys([a])\n"), "{life}");
    let alive = server.text(["lease", "keep-alive", &lease, "--once"]);
    assert_eq!(alive, format!("lease {lease} keepalived with TTL(600)\n"));
    assert_eq!(server.text(["lease", "revoke", &lease]), format!("lease {lease} revoked\n"));
    assert_eq!(server.text(["get", "a"]), "");
    failure(&server.run(["lease", "keep-alive", &lease, "--once"]), 1);
}

#[test]
fn a_locked_command_gets_a_fencing_token_that_grows() {
    let server = Server::start();
    let token = || server.text(["lock", "l", "sh", "-c", "echo $FOLKMOOT_LOCK_KEY $FOLKMOOT_LOCK_REV"]);
    let read = |line: String| {
        let (key, revision) = line.trim_end().split_once(' ').expect("two words");
        assert!(key.starts_with("l/"), "{key}");
        revision.parse::<i64>().expect("is a number")
    };
    let (first, second) = (read(token()), read(token()));
    assert!(first < second);
    assert_eq!(server.run(["lock", "l", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert!(failure(&server.run(["lock", "l", "/no/such/command"]), 1).contains("/no/such/command"));
    assert_eq!(server.text(["get", "l", "--prefix"]), "");
    assert_eq!(server.text(["lease", "list"]), "found 0 leases\n");
}

#[test]
fn a_lock_is_held_by_one_at_a_time() {
    let server = Server::start();
    let mut first = server.spawn(["lock", "l"]);
    let held = first.lines().next();
    assert!(held.starts_with("l/"), "{held}");
    let mut second = server.spawn(["lock", "l"]);
    let mut second_lines = second.lines();
    // The second has come when its key is there; it must not say that it holds the lock.
    while server.text(["get", "l/", "--prefix", "--count-only"]) != "2\n" {}
    first.signal(Signal::TERM);
    assert!(first.wait().success());
    let next_held = second_lines.next();
    assert!(next_held.starts_with("l/") && next_held != held, "{next_held}");
    assert_eq!(server.text(["get", "l/", "--prefix", "--keys-only"]), format!("{next_held}\n"));
}

#[test]
fn who_is_interrupted_while_waiting_for_a_lock_leaves_nothing() {
    let server = Server::start();
    let mut first = server.spawn(["lock", "l"]);
    first.lines().next();
    let mut second = server.spawn(["lock", "l", "true"]);
    while server.text(["get", "l/", "--prefix", "--count-only"]) != "2\n" {}
    second.signal(Signal::INT);
    assert_eq!(second.wait().code(), Some(1));
    assert_eq!(second.errors(), "Error: interrupted while waiting for the lock\n");
    assert_eq!(server.text(["get", "l/", "--prefix", "--count-only"]), "1\n");
    assert!(server.text(["lease", "list"]).starts_with("found 1 leases\n"));
}

#[test]
fn an_election_is_seen_by_those_who_look_on() {
    let server = Server::start();
    let mut onlooker = server.spawn(["elect", "-l", "e"]);
    let mut seen = onlooker.lines();
    let mut leader = server.spawn(["elect", "e", "host-a"]);
    let mut says = leader.lines();
    let (key, value) = (says.next(), says.next());
    assert!(key.starts_with("e/"), "{key}");
    assert_eq!(value, "host-a");
    assert_eq!([seen.next(), seen.next()], [key, value]);
    leader.signal(Signal::INT);
    assert!(leader.wait().success());
    assert_eq!(server.text(["get", "e/", "--prefix", "--count-only"]), "0\n");
}

#[test]
fn members_tell_who_and_how_they_are() {
    let server = Server::start();
    let list = server.json(["member", "list"]);
    let member = &list["members"][0];
    assert_eq!(member["name"], "default");
    assert_eq!(member["ID"], list["header"]["member_id"]);
    let status = server.json(["endpoint", "status", "--cluster"]);
    assert_eq!(status[0]["Status"]["leader"], member["ID"]);
    assert!(server.text(["endpoint", "health"]).contains(" is healthy: "));
    assert!(server.json(["endpoint", "hashkv"])[0]["HashKV"]["hash"].is_u64());
    assert_eq!(server.text(["alarm", "list"]), "");
    assert!(server.text(["defrag"]).starts_with("Finished defragmenting etcd member["));
}

#[test]
fn a_saved_snapshot_is_whole() {
    let server = Server::start();
    server.text(["put", "a", "1"]);
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let file = folder.path().join("backup.db");
    let name = file.to_str().expect("is text");
    let saved = server.json(["snapshot", "save", name]);
    let size_bytes = fs::metadata(&file).expect("was written").len();
    assert_eq!(saved["size"], size_bytes);
    // Other tools take a file for a snapshot only if its size is like this.
    assert_eq!(size_bytes % 512, 32);
    assert_eq!(fs::read_dir(folder.path()).expect("is there").count(), 1, "nothing half is left");
}

#[test]
fn a_restored_member_goes_on_where_the_snapshot_was_taken() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let (file, data) = (folder.path().join("backup.db"), folder.path().join("data"));
    let (file, data) = (file.to_str().expect("is text"), data.to_str().expect("is text"));
    let old = Server::start();
    old.text(["put", "a", "1"]);
    old.text(["put", "a", "2"]);
    let lease = old.json(["lease", "grant", "600"])["ID"].as_i64().expect("is a number");
    old.text(["put", "b", "x", "--lease", &format!("{lease:x}")]);
    let before = old.json(["get", "", "--prefix"]);
    old.text(["snapshot", "save", file]);
    old.text(["put", "a", "too late"]);

    let restore = || {
        run(
            &mut folkmoot([
                "snapshot",
                "restore",
                file,
                "--data-dir",
                data,
                "--initial-cluster-token",
                "new",
            ]),
            "",
        )
    };
    assert!(text(&restore()).contains(data));
    assert!(failure(&restore(), 1).contains(data), "what is there is never overwritten");

    let new = Server::start_in(folder);
    let after = new.json(["get", "", "--prefix"]);
    assert_eq!(after["kvs"], before["kvs"]);
    assert_eq!(after["header"]["revision"], before["header"]["revision"]);
    assert_ne!(after["header"]["cluster_id"], before["header"]["cluster_id"]);
    assert_ne!(after["header"]["member_id"], before["header"]["member_id"]);
    let first = before["kvs"][0]["create_revision"].to_string();
    assert_eq!(new.text(["get", "a", "--rev", &first, "--print-value-only"]), "1\n");
    assert_eq!(new.text(["lease", "list"]), format!("found 1 leases\n{lease:016x}\n"));
    assert_eq!(new.json(["member", "list"])["members"].as_array().expect("is a list").len(), 1);
    new.text(["put", "a", "3"]);
    let next = before["header"]["revision"].as_i64().expect("is a number") + 1;
    assert_eq!(new.json(["get", "a"])["kvs"][0]["mod_revision"], next);
}

#[test]
fn a_damaged_snapshot_is_not_restored() {
    let server = Server::start();
    server.text(["put", "a", "1"]);
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let (file, data) = (folder.path().join("backup.db"), folder.path().join("data"));
    let name = file.to_str().expect("is text");
    server.text(["snapshot", "save", name]);
    let mut bytes = fs::read(&file).expect("was written");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("there is room");
    let target = data.to_str().expect("is text");
    failure(&run(&mut folkmoot(["snapshot", "restore", name, "--data-dir", target]), ""), 1);
    assert!(!data.exists(), "nothing half is left");
}

#[test]
fn failures_are_one_line_and_a_number() {
    let server = Server::start();
    assert_eq!(failure(&server.run(["get", ""]), 1), "Error: etcdserver: key is not provided");
    let unknown = server.run(["lease", "revoke", "123"]);
    assert_eq!(failure(&unknown, 1), "Error: etcdserver: requested lease not found");
    failure(&server.run(["get"]), 2);
    failure(&server.run(["frob"]), 2);
    failure(&server.run(["get", "a", "b", "--prefix"]), 2);
    // Port 0 can be nobody's.
    let nowhere = run(&mut folkmoot(["get", "a", "--endpoints", "127.0.0.1:0"]), "");
    assert!(failure(&nowhere, 1).starts_with("Error: cannot reach endpoint 127.0.0.1:0: "));
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_passed_over() {
    let server = Server::start();
    let mut command = server.command(["put", "a", "1"]);
    let endpoint =
        command.get_envs().find_map(|(name, value)| (name == "FOLKMOOT_ENDPOINTS").then_some(value?));
    let endpoints = format!("127.0.0.1:0,{}", endpoint.expect("is set").to_str().expect("is text"));
    assert_eq!(text(&run(command.args(["--endpoints", &endpoints]), "")), "OK\n");
}

#[test]
fn a_server_ends_by_the_signal_that_asked_for_it() {
    let mut server = Server::start();
    server.text(["put", "a", "1"]);
    server.process().signal(Signal::TERM);
    assert_eq!(server.process().wait().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn a_server_with_senseless_settings_does_not_start() {
    let unit = failure(&run(&mut folkmoot(["serve", "--max-txn-ops", "many"]), ""), 2);
    assert!(unit.contains("invalid value \"many\" for --max-txn-ops"), "{unit}");
    let mut command = folkmoot(["serve", "--name", "a"]);
    let twice = run(command.env("ETCD_NAME", "b"), "");
    assert!(failure(&twice, 1).contains("conflicting environment variable \"ETCD_NAME\""));
    let election = run(&mut folkmoot(["serve", "--election-timeout", "100"]), "");
    assert_eq!(election.status.code(), Some(1), "{election:?}");
}

#[test]
fn commands_that_need_no_member_work_without_one() {
    assert!(text(&run(&mut folkmoot(["version"]), "")).starts_with("folkmoot version: "));
    assert!(text(&run(&mut folkmoot(["completion", "bash"]), "")).contains("folkmoot"));
    assert!(text(&run(&mut folkmoot(["watch", "--help"]), "")).contains("Examples:"));
}
