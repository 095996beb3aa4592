//! Adding members and changing them, and what is refused.

use std::time::{Duration, Instant};

use folkmoot_proto::etcdserverpb as pb;
use tonic::Code;

use crate::common::assert_status;
use crate::support::{Cluster, eventually, free_port, peer_url};

#[tokio::test]
async fn a_member_is_added_joins_by_a_snapshot_and_serves_what_was_there() {
    let mut cluster = Cluster::start(1);
    for number in 0..50 {
        cluster.put(0, &format!("k{number}"), "old").await;
    }
    let port = free_port();
    let response = cluster.add(0, &peer_url(port), false).await.unwrap();
    let header = response.header.expect("a header");
    assert_eq!((header.revision, header.member_id), (0, cluster.id(0)));
    let added = response.member.expect("the member");
    assert_eq!((added.name.as_str(), added.client_urls.len(), added.is_learner), ("", 0, false));
    assert_eq!(added.peer_urls, [peer_url(port)]);
    assert_eq!(response.members.len(), 2);
    assert!(response.members.contains(&added));

    // One of two voters has yet to start: only now can anything be decided again.
    let config = cluster.joiner(port);
    cluster.places.push(crate::support::Place { config, server: None });
    cluster.start_again(&[1]);
    assert_eq!(cluster.id(1), added.id);
    assert_eq!(cluster.get(1, "k49").await.as_deref(), Some("old"));
    let third = cluster.join(1, false).await;
    cluster.wait_for_members(3).await;
    assert_eq!(cluster.get(third, "k0").await.as_deref(), Some("old"));
    assert_eq!(cluster.put(third, "new", "x").await, 52);
    // All three count.
    let leader = cluster.leader().await;
    cluster.lose(leader).await;
    cluster.put((leader + 1) % 3, "new", "y").await;
}

#[tokio::test]
async fn a_restart_of_all_members_keeps_changes_of_the_members() {
    let mut cluster = Cluster::start(3);
    let added = cluster.join(0, false).await;
    let gone = cluster.leader().await;
    let id = cluster.id(gone);
    cluster.remove((gone + 1) % 3, id).await.unwrap();
    cluster.lose(gone).await;
    let before = cluster.wait_for_members(3).await;
    let left = cluster.running();
    assert!(left.contains(&added) || gone == added);
    for at in &left {
        cluster.lose(*at).await;
    }
    cluster.start_again(&left);
    let after = cluster.wait_for_members(3).await;
    let ids = |members: &[folkmoot_proto::etcdserverpb::Member]| -> Vec<u64> {
        members.iter().map(|member| member.id).collect()
    };
    assert_eq!(ids(&after), ids(&before));
    assert!(!ids(&after).contains(&id));
    cluster.put(left[0], "a", "1").await;
}

#[tokio::test]
async fn a_member_that_was_away_while_another_was_replaced_hears_of_the_new_leader() {
    // The strict check would not let a member be added while another one is away.
    let mut cluster = Cluster::start_with(3, |_, config| config.strict_reconfig_check = false);
    let away = cluster.follower().await;
    cluster.lose(away).await;
    let stays = cluster.running();
    let port = free_port();
    cluster.add(stays[0], &peer_url(port), false).await.unwrap();
    let mut config = cluster.joiner(port);
    let absent = &cluster.places[away].config;
    config.initial_cluster += &format!(",{}={}", absent.name, absent.initial_advertise_peer_urls[0]);
    config.strict_reconfig_check = false;
    cluster.places.push(crate::support::Place { config, server: None });
    let added = cluster.places.len() - 1;
    cluster.start_again(&[added]);
    let leader = cluster.leader().await;
    if leader != added {
        cluster.move_leader(leader, cluster.id(added)).await.unwrap();
    }
    let gone = stays[1];
    cluster.remove(added, cluster.id(gone)).await.unwrap();
    cluster.server(gone).removed().await;
    cluster.stop(gone).await;
    cluster.put(added, "a", "1").await;
    assert_eq!(cluster.leader().await, added);
    // Its rows do not name the leader, and only the leader could tell it.
    cluster.start_again(&[away]);
    assert_eq!(cluster.get(away, "a").await.as_deref(), Some("1"));
    // It counts again.
    cluster.lose(stays[0]).await;
    cluster.put(added, "a", "2").await;
    cluster.wait_for_value(away, "a", "2").await;
}

#[tokio::test]
async fn peer_urls_that_could_not_be_dialled_are_refused() {
    let cluster = Cluster::start(1);
    let many = (0..65).map(|_| peer_url(free_port())).collect();
    for url in ["https://h:2380", "unix://h:1", "http://h:0", "http://u@h:1"] {
        let refused = cluster.add(0, url, false).await;
        assert_status(refused, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
    }
    let request = pb::MemberAddRequest { peer_urls: many, is_learner: false };
    let refused = cluster.cluster(0).await.member_add(request).await;
    assert_status(refused, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
    assert_eq!(cluster.members(0).await.len(), 1);
}

#[tokio::test]
async fn new_peer_urls_change_nothing_else_and_the_member_is_found_there() {
    let mut cluster = Cluster::start(3);
    let before = cluster.wait_for_members(3).await;
    let moved = cluster.follower().await;
    let id = cluster.id(moved);
    let port = free_port();
    let response = cluster.update((moved + 1) % 3, id, &peer_url(port)).await.unwrap();
    assert_eq!(response.header.expect("a header").revision, 0);
    let find = |members: &[folkmoot_proto::etcdserverpb::Member]| {
        members.iter().find(|member| member.id == id).cloned().expect("is listed")
    };
    let (old, new) = (find(&before), find(&response.members));
    assert_eq!(new.peer_urls, [peer_url(port)]);
    assert_eq!((&new.name, &new.client_urls, new.is_learner), (&old.name, &old.client_urls, old.is_learner));

    cluster.stop(moved).await;
    let config = &mut cluster.places[moved].config;
    config.listen_peer_urls = vec![peer_url(port)];
    config.initial_advertise_peer_urls = vec![peer_url(port)];
    config.initial_cluster = String::new();
    cluster.start_again(&[moved]);
    cluster.put((moved + 1) % 3, "a", "1").await;
    cluster.wait_for_value(moved, "a", "1").await;
    assert_eq!(find(&cluster.members(moved).await).peer_urls, [peer_url(port)]);
}

#[tokio::test]
async fn what_is_no_sensible_change_is_refused_in_etcds_words() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let own_url = cluster.places[0].config.initial_advertise_peer_urls[0].clone();
    let other_url = cluster.places[1].config.initial_advertise_peer_urls[0].clone();
    // The same at the leader and at a follower, who has to ask the leader.
    for at in [leader, (leader + 1) % 3] {
        for learner in [false, true] {
            let exists = cluster.add(at, &own_url, learner).await;
            assert_status(exists, Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
        }
        for bad in ["", "127.0.0.1:2380", "http://127.0.0.1", "ftp://h:1", "http://h:1/path"] {
            let refused = cluster.add(at, bad, false).await;
            assert_status(refused, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
        }
        let unknown = cluster.remove(at, 77).await;
        assert_status(unknown, Code::NotFound, "etcdserver: member not found");
        let unknown = cluster.promote(at, 77).await;
        assert_status(unknown, Code::NotFound, "etcdserver: member not found");
        let unknown = cluster.update(at, 77, "http://127.0.0.1:1").await;
        assert_status(unknown, Code::NotFound, "etcdserver: member not found");
        let voter = cluster.promote(at, cluster.id(0)).await;
        assert_status(voter, Code::FailedPrecondition, "etcdserver: can only promote a learner member");
        let taken = cluster.update(at, cluster.id(0), &other_url).await;
        assert_status(taken, Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
    }
    let none = folkmoot_proto::etcdserverpb::MemberAddRequest { peer_urls: vec![], is_learner: false };
    let refused = cluster.cluster(leader).await.member_add(none).await;
    assert_status(refused, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
    assert_eq!(cluster.wait_for_members(3).await.len(), 3);
    cluster.put(leader, "a", "1").await;
}

#[tokio::test]
async fn members_change_only_while_a_majority_has_been_in_touch_for_a_while() {
    let mut cluster = Cluster::start_with(3, |_, config| config.strict_reconfig_check = true);
    let started = Instant::now();
    let at = cluster.follower().await;
    let url = peer_url(free_port());
    let early = cluster.add(at, &url, false).await;
    if started.elapsed() < Duration::from_secs(4) {
        assert_status(early, Code::Unavailable, "etcdserver: unhealthy cluster");
    }
    eventually("a healthy cluster", async || match cluster.add(at, &url, true).await {
        Ok(_) => Some(()),
        Err(status) => {
            assert_eq!(status.message(), "etcdserver: unhealthy cluster");
            None
        }
    })
    .await;
    assert!(started.elapsed() >= Duration::from_secs(4), "{:?}", started.elapsed());

    // With one of three gone no other may go, and none may come; only the lost one may be removed.
    let leader = cluster.leader().await;
    let lost = (leader + 1) % 3;
    let (lost_id, healthy_id) = (cluster.id(lost), cluster.id((leader + 2) % 3));
    cluster.lose(lost).await;
    let own_url = cluster.places[leader].config.initial_advertise_peer_urls[0].clone();
    eventually("the loss to be noticed", async || {
        let refused = cluster.add(leader, &own_url, false).await.expect_err("the URL is taken");
        (refused.message() == "etcdserver: unhealthy cluster").then_some(())
    })
    .await;
    let unhealthy = cluster.remove(leader, healthy_id).await;
    assert_status(unhealthy, Code::Unavailable, "etcdserver: unhealthy cluster");
    cluster.remove(leader, lost_id).await.unwrap();
    cluster.put(leader, "a", "1").await;
}

#[tokio::test]
async fn a_voter_that_has_not_started_keeps_others_from_being_added() {
    let cluster = Cluster::start_with(1, |_, config| config.strict_reconfig_check = true);
    cluster.add(0, &peer_url(free_port()), false).await.unwrap();
    // Without the second voter nothing is decided; but the leader knows before that.
    let refused = cluster.add(0, &peer_url(free_port()), false).await;
    let words = "etcdserver: re-configuration failed due to not enough started members";
    assert_status(refused, Code::Unknown, words);
}
