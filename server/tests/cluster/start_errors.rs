//! Members that must not start, and what they say.

use std::fs;
use std::path::Path;

use folkmoot_server::{Config, Server};

use crate::support::{Cluster, config_of, configs, free_port, peer_url};

/// Why a member does not start.
fn refusal(config: Config) -> String {
    match Server::start(config) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn an_initial_cluster_that_makes_no_sense_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (port, other) = (free_port(), free_port());
    let own = config_of("a", dir.path().join("a"), port);
    let with = |initial_cluster: String| refusal(Config { initial_cluster, ..own.clone() });
    let (url, elsewhere) = (peer_url(port), peer_url(other));
    assert_says(
        &with(format!("b={url},c={elsewhere}")),
        &["couldn't find local name \"a\" in the initial cluster configuration"],
    );
    assert_says(&with(format!("a={elsewhere}")), &["--initial-cluster has", "--initial-advertise-peer-urls"]);
    assert_says(&with(format!("a={url},b={url}")), &["has duplicate url"]);
    // One name with two URLs is one member, of which one URL is not advertised.
    assert_says(&with(format!("a={url},a={elsewhere}")), &["missing from --initial-advertise-peer-urls"]);
    assert_says(&with("a=nonsense".into()), &["error setting up initial cluster"]);
    assert!(!dir.path().join("a").exists());
}

#[tokio::test]
async fn who_joins_must_name_the_members_that_there_are() {
    let cluster = Cluster::start(3);
    cluster.wait_for_members(3).await;
    let port = free_port();
    // It was not added.
    let text = refusal(cluster.joiner(port));
    assert_says(&text, &["error validating peerURLs", "member count is unequal"]);
    let added = peer_url(free_port());
    cluster.add(0, &added, true).await.unwrap();
    // Another one was.
    let text = refusal(cluster.joiner(port));
    assert_says(&text, &["error validating peerURLs", "no match found for existing member", &added]);
    // Nobody is there.
    let mut config = cluster.joiner(port);
    config.initial_cluster = format!("x={},m3={}", peer_url(free_port()), peer_url(port));
    assert_says(&refusal(config), &["cannot fetch cluster info from peer urls"]);
    assert!(!cluster.joiner(port).data_dir.exists());
    cluster.put(0, "a", "1").await;
}

#[tokio::test]
async fn a_member_of_a_static_cluster_that_lost_its_data_does_not_start_from_nothing() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_members(3).await;
    let at = cluster.follower().await;
    cluster.stop(at).await;
    let config = cluster.places[at].config.clone();
    fs::remove_dir_all(&config.data_dir).unwrap();
    assert_says(&refusal(config.clone()), &["has already been bootstrapped", "remove the member"]);
    assert!(!config.data_dir.exists());
    // Calling the cluster an existing one does not help either.
    let existing = Config { initial_cluster_state: "existing".into(), ..config };
    assert_says(&refusal(existing), &["has already been bootstrapped"]);
    cluster.put((at + 1) % 3, "a", "1").await;
}

#[tokio::test]
async fn a_data_directory_serves_one_member_at_a_time() {
    let cluster = Cluster::start(1);
    let dir = cluster.places[0].config.data_dir.clone();
    let other = config_of("m0", dir.clone(), free_port());
    assert_says(&refusal(other), &["in use", dir.to_str().unwrap()]);
    cluster.put(0, "a", "1").await;
}

/// The youngest file of the log.
fn last_segment(data_dir: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(data_dir.join("wal")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| fs::metadata(path).unwrap().len() > 0).collect();
    files.sort();
    files.pop().unwrap()
}

/// What a follower says whose log was changed while it was away.
async fn refusal_with_log(change: impl FnOnce(&Path)) -> String {
    let mut cluster = Cluster::start_with(3, |_, config| config.unsafe_no_fsync = false);
    for number in 0..20 {
        cluster.put(0, &format!("k{number}"), &"v".repeat(1000)).await;
    }
    let at = cluster.follower().await;
    cluster.wait_for_value(at, "k19", &"v".repeat(1000)).await;
    cluster.lose(at).await;
    let config = cluster.places[at].config.clone();
    change(&last_segment(&config.data_dir));
    let text = refusal(config);
    cluster.put((at + 1) % 3, "a", "1").await;
    text
}

/// Where in a segment the middle of what was written is.
fn middle(log: &[u8]) -> usize {
    log.iter().rposition(|byte| *byte != 0).unwrap() / 2
}

#[tokio::test]
async fn a_log_with_damage_in_the_middle_is_refused_and_the_others_go_on() {
    let text = refusal_with_log(|segment| {
        let mut log = fs::read(segment).unwrap();
        // Between the bytes of frames lie bytes that count for nothing, so a whole stretch is hit.
        let middle = middle(&log);
        for at in (middle / 2..middle).step_by(16) {
            log[at] ^= 1;
        }
        fs::write(segment, log).unwrap();
    })
    .await;
    assert_says(&text, &["log is damaged in the middle", "segment=", "remove this member"]);
}

#[tokio::test]
async fn a_log_that_was_cut_is_refused_and_the_others_go_on() {
    let text = refusal_with_log(|segment| {
        let log = fs::read(segment).unwrap();
        fs::write(segment, &log[..middle(&log)]).unwrap();
    })
    .await;
    assert_says(&text, &["segment was cut short", "segment=", "remove this member"]);
}

#[tokio::test]
async fn a_member_does_not_take_the_place_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(&dir, 2);
    // The first of two waits for the second; its data are there all the same.
    let lone = Config { initial_cluster: String::new(), ..configs[0].clone() };
    let server = Server::start(lone).unwrap();
    let id = server.member_id();
    server.shutdown().unwrap();
    // Who it is stands in its directory; flags do not make it somebody else.
    let renamed = Config { name: "other".into(), initial_cluster: String::new(), ..configs[1].clone() };
    let again = Server::start(Config { data_dir: configs[0].data_dir.clone(), ..renamed }).unwrap();
    assert_eq!(again.member_id(), id);
}
