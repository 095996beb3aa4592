//! Clusters of members in processes of their own: how they end, what they say, and that the others
//! go on.

mod member;
#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use member::{Member, Members, eventually, free_port, run_json, run_text};
use rustix::process::Signal;
use support::failure;

const REMOVED: &str = "the member has been permanently removed from the cluster";
const REMOVE_DATA: &str = "data-dir used by this member must be removed";

#[test]
fn three_members_started_by_flags_serve_as_one() {
    let members = Members::start(3, "one");
    let list = run_json(&members.endpoints(), ["member", "list"]);
    let mut names: Vec<_> = list["members"].as_array().unwrap().iter().map(|m| m["name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["m0", "m1", "m2"]);
    run_text(&members.0[0].endpoint(), ["put", "a", "1"]);
    for member in &members.0 {
        assert_eq!(run_text(&member.endpoint(), ["get", "a"]), "a\n1\n");
    }
    // Every member is asked, although one endpoint is given.
    let statuses = run_json(&members.0[1].endpoint(), ["endpoint", "status", "--cluster"]);
    let statuses = statuses.as_array().unwrap();
    assert_eq!(statuses.len(), 3);
    let leaders = statuses.iter().filter(|s| s["Status"]["leader"] == s["Status"]["header"]["member_id"]);
    assert_eq!(leaders.count(), 1);
    assert_eq!(
        run_json(&members.endpoints(), ["endpoint", "health", "--cluster"]).as_array().unwrap().len(),
        3
    );
    for member in &members.0 {
        for line in member.log_lines() {
            assert_ne!(line["level"], "error", "{line}");
        }
    }
}

#[test]
fn a_leader_that_is_told_to_stop_leaves_a_leader_behind() {
    let mut members = Members::start(3, "one");
    let leader = members.leader();
    let other = (leader + 1) % 3;
    let term = members.0[other].status()["raftTerm"].as_u64().unwrap();
    members.0[leader].process().signal(Signal::TERM);
    assert_eq!(members.0[leader].wait().signal(), Some(Signal::TERM.as_raw()));
    run_text(&members.0[other].endpoint(), ["put", "a", "1"]);
    let status = members.0[other].status();
    assert_eq!(status["raftTerm"], term + 1, "nobody had to wait for an election");
    members.0[leader].start();
    assert_eq!(run_text(&members.0[leader].endpoint(), ["get", "a"]), "a\n1\n");
}

#[test]
fn a_member_that_is_killed_comes_back_with_everything() {
    let mut members = Members::start(3, "one");
    for round in 0..3 {
        let leader = members.leader();
        members.0[leader].process().signal(Signal::KILL);
        members.0[leader].wait();
        let other = (leader + 1) % 3;
        run_text(&members.0[other].endpoint(), ["put", &format!("k{round}"), "x"]);
        members.0[leader].start();
        for earlier in 0..=round {
            let key = format!("k{earlier}");
            assert_eq!(run_text(&members.0[leader].endpoint(), ["get", &key]), format!("{key}\nx\n"));
        }
    }
}

#[test]
fn a_removed_member_ends_well_and_says_why() {
    let mut members = Members::start(3, "one");
    let leader = members.leader();
    let gone = (leader + 1) % 3;
    let id = members.0[gone].id();
    let away = (leader + 2) % 3;
    let away_id = members.0[away].id();
    run_text(&members.0[leader].endpoint(), ["member", "remove", &id]);
    assert_eq!(members.0[gone].wait().code(), Some(0), "{}", members.0[gone].log());
    for words in [REMOVED, REMOVE_DATA] {
        assert!(members.0[gone].log().contains(words), "{}", members.0[gone].log());
    }
    // Started again it ends again.
    members.0[gone].spawn();
    assert_eq!(members.0[gone].wait().code(), Some(0), "{}", members.0[gone].log());
    assert!(members.0[gone].log().contains(REMOVE_DATA), "{}", members.0[gone].log());

    // The last but one, too, and the last one goes on alone.
    run_text(&members.0[leader].endpoint(), ["member", "remove", &away_id]);
    assert_eq!(members.0[away].wait().code(), Some(0), "{}", members.0[away].log());
    run_text(&members.0[leader].endpoint(), ["put", "a", "1"]);
}

#[test]
fn a_member_with_the_data_of_another_cluster_is_refused_and_disturbs_nobody() {
    let mut other = Members::start(3, "other");
    run_text(&other.0[0].endpoint(), ["put", "a", "of the other"]);
    other.kill_all();
    // The same addresses, other directories.
    let mut members = Members::start_at(&other, "one");
    run_text(&members.0[0].endpoint(), ["put", "a", "1"]);
    let leader = members.leader();
    let at = (leader + 1) % 3;
    members.0[at].process().signal(Signal::KILL);
    members.0[at].wait();
    let term = members.0[leader].status()["raftTerm"].clone();

    let stranger = &mut other.0[at];
    stranger.spawn();
    eventually("the refusal in the stranger's log", || {
        stranger.log().contains("members belong to different clusters").then_some(())
    });
    eventually("the refusal in a member's log", || {
        members.0[leader].log().contains("members belong to different clusters").then_some(())
    });
    run_text(&members.0[leader].endpoint(), ["put", "a", "2"]);
    assert_eq!(members.0[leader].status()["raftTerm"], term);
    assert!(!stranger.log().contains("ready to serve client requests"));
    stranger.process().signal(Signal::KILL);
    stranger.wait();
    members.0[at].start();
    assert_eq!(run_text(&members.0[at].endpoint(), ["get", "a"]), "a\n2\n");
}

#[test]
fn what_keeps_a_member_from_starting_is_its_exit_status_and_its_last_words() {
    let mut members = Members::start(3, "one");
    // A second process on the same directory.
    let mut second = Member::like(&members.0[0], free_port());
    second.spawn();
    assert_eq!(second.wait().code(), Some(1), "{}", second.log());
    assert!(second.log().contains("in use"), "{}", second.log());
    run_text(&members.0[0].endpoint(), ["put", "a", "1"]);

    // A disk that was lost.
    let at = (members.leader() + 1) % 3;
    members.0[at].process().signal(Signal::KILL);
    members.0[at].wait();
    fs::remove_dir_all(members.0[at].data_dir()).unwrap();
    members.0[at].spawn();
    assert_eq!(members.0[at].wait().code(), Some(1));
    assert!(members.0[at].log().contains("has already been bootstrapped"), "{}", members.0[at].log());

    // Nobody to join.
    let mut lonely = Member::like(&members.0[0], free_port());
    lonely.joins(&[free_port()]);
    lonely.spawn();
    assert_eq!(lonely.wait().code(), Some(1));
    assert!(lonely.log().contains("cannot fetch cluster info from peer urls"), "{}", lonely.log());
}

#[test]
fn a_member_is_added_started_as_the_command_says_and_promoted() {
    let members = Members::start(3, "one");
    let port = free_port();
    let mut fourth = Member::like(&members.0[0], port);
    fourth.joins(&members.peer_ports());
    let url = format!("http://127.0.0.1:{port}");
    let name = fourth.name.clone();
    let told = run_text(&members.endpoints(), ["member", "add", &name, "--peer-urls", &url, "--learner"]);
    assert!(told.contains(&url), "{told}");
    let early = support::run(
        support::folkmoot(["member", "promote", &added_id(&members, &url)])
            .env("FOLKMOOT_ENDPOINTS", members.endpoints()),
        "",
    );
    assert!(failure(&early, 1).contains("in sync with leader"));
    fourth.start();
    let id = added_id(&members, &url);
    eventually("the promotion", || {
        let mut command = support::folkmoot(["member", "promote", &id]);
        support::run(command.env("FOLKMOOT_ENDPOINTS", members.endpoints()), "")
            .status
            .success()
            .then_some(())
    });
    run_text(&fourth.endpoint(), ["put", "a", "1"]);
}

/// The hexadecimal number of the member at a peer URL.
fn added_id(members: &Members, url: &str) -> String {
    let list = run_json(&members.endpoints(), ["member", "list"]);
    let list = list["members"].as_array().unwrap();
    let member = list.iter().find(|member| member["peerURLs"][0] == url).expect("is listed");
    format!("{:x}", member["ID"].as_u64().unwrap())
}
