//! Removed members: how they learn of it and end, and that they never come back.

use folkmoot_proto::etcdserverpb as pb;
use tonic::Code;

use crate::common::assert_status;
use crate::support::{Cluster, eventually};

#[tokio::test]
async fn a_follower_that_is_removed_notices_and_the_rest_goes_on() {
    let mut cluster = Cluster::start(3);
    cluster.put(0, "a", "1").await;
    let gone = cluster.follower().await;
    let id = cluster.id(gone);
    let other = (gone + 1) % 3;
    let response = cluster.remove(other, id).await.unwrap();
    assert_eq!(response.header.expect("a header").revision, 0);
    assert_eq!(response.members.len(), 2);
    assert!(response.members.iter().all(|member| member.id != id));
    cluster.server(gone).removed().await;
    // It is not only told so by the others: the decision itself has reached it.
    eventually("the removal on who was removed", async || {
        (cluster.members(gone).await.len() == 2).then_some(())
    })
    .await;
    cluster.stop(gone).await;
    cluster.put(other, "a", "2").await;
    assert_status(cluster.remove(other, id).await, Code::NotFound, "etcdserver: member not found");
    // Started again it knows by itself, whoever else runs.
    let others = cluster.running();
    for at in &others {
        cluster.lose(*at).await;
    }
    cluster.start_again(&[gone]);
    cluster.server(gone).removed().await;
    cluster.stop(gone).await;
    cluster.start_again(&others);
    assert_eq!(cluster.get(other, "a").await.as_deref(), Some("2"));
}

/// Has `at` removed by way of `through`, sees it off, and shows that the others go on.
async fn remove_and_go_on(cluster: &mut Cluster, at: usize, through: usize) {
    let (id, other) = (cluster.id(at), (at + 1) % 3);
    let response = cluster.remove(through, id).await.unwrap();
    assert_eq!(response.members.len(), 2);
    assert_eq!(response.header.expect("a header").member_id, cluster.id(through));
    cluster.put(other, "a", "1").await;
    cluster.server(at).removed().await;
    cluster.stop(at).await;
    cluster.put(other, "a", "2").await;
    assert_eq!(cluster.wait_for_members(2).await.len(), 2);
}

#[tokio::test]
async fn a_leader_that_is_removed_hands_over() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    remove_and_go_on(&mut cluster, leader, (leader + 1) % 3).await;
}

#[tokio::test]
async fn a_leader_that_is_asked_to_remove_itself_answers_that_it_was_removed() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    remove_and_go_on(&mut cluster, leader, leader).await;
}

#[tokio::test]
async fn a_follower_that_is_asked_to_remove_itself_answers_that_it_was_removed() {
    let mut cluster = Cluster::start(3);
    let follower = cluster.follower().await;
    remove_and_go_on(&mut cluster, follower, follower).await;
}

#[tokio::test]
async fn a_member_that_was_removed_while_it_was_away_is_told_by_the_others() {
    let mut cluster = Cluster::start(3);
    let gone = cluster.follower().await;
    let (id, other) = (cluster.id(gone), (gone + 1) % 3);
    cluster.lose(gone).await;
    cluster.remove(other, id).await.unwrap();
    cluster.start_again(&[gone]);
    cluster.server(gone).removed().await;
    cluster.stop(gone).await;
    cluster.put(other, "a", "1").await;
}

#[tokio::test]
async fn a_cluster_shrinks_to_one_member_but_not_to_none() {
    let mut cluster = Cluster::start(3);
    cluster.put(0, "a", "1").await;
    for at in [2, 1] {
        let id = cluster.id(at);
        cluster.remove(0, id).await.unwrap();
        cluster.server(at).removed().await;
        cluster.stop(at).await;
    }
    assert_eq!(cluster.leader().await, 0);
    let words = "etcdserver: re-configuration failed due to not enough started members";
    assert_status(cluster.remove(0, cluster.id(0)).await, Code::Unknown, words);
    assert_eq!(cluster.put(0, "a", "2").await, 3);
    let added = cluster.join(0, false).await;
    assert_eq!(cluster.get(added, "a").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_member_is_replaced_by_a_new_one_at_the_same_address() {
    let mut cluster = Cluster::start(3);
    let gone = cluster.follower().await;
    let (id, other) = (cluster.id(gone), (gone + 1) % 3);
    cluster.put(other, "a", "1").await;
    let url = cluster.places[gone].config.initial_advertise_peer_urls[0].clone();
    cluster.lose(gone).await;
    cluster.remove(other, id).await.unwrap();
    let added = cluster.add(other, &url, false).await.unwrap().member.expect("the member");
    assert_ne!(added.id, id);
    let config = &mut cluster.places[gone].config;
    std::fs::remove_dir_all(&config.data_dir).unwrap();
    config.initial_cluster_state = "existing".into();
    cluster.start_again(&[gone]);
    assert_eq!(cluster.id(gone), added.id);
    assert_eq!(cluster.get(gone, "a").await.as_deref(), Some("1"));
    eventually("the new member's name", async || {
        let members: Vec<pb::Member> = cluster.members(other).await;
        let member = members.into_iter().find(|member| member.id == added.id)?;
        (member.name == format!("m{gone}")).then_some(())
    })
    .await;
}
