//! Losing the leader, stopping it, and moving leadership.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::common::assert_status;
use crate::support::{Cluster, eventually};

const NOT_LEADER: &str = "etcdserver: not leader";
const BAD_TRANSFEREE: &str = "etcdserver: bad leader transferee";

#[tokio::test]
async fn writes_go_on_when_the_leader_is_lost_and_it_comes_back_as_a_follower() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    cluster.put(leader, "a", "1").await;
    let term = cluster.status(leader).await.raft_term;
    cluster.lose(leader).await;
    // Both wait through the election without the client noticing.
    let others = cluster.running();
    cluster.put(others[0], "b", "2").await;
    cluster.put(others[1], "c", "3").await;
    let next = cluster.leader().await;
    assert!(next != leader && cluster.status(next).await.raft_term > term);
    cluster.start_again(&[leader]);
    for key in ["a", "b", "c"] {
        assert!(cluster.get(leader, key).await.is_some(), "{key}");
    }
}

#[tokio::test]
async fn a_leader_that_stops_hands_over_so_that_nobody_waits_for_an_election() {
    // An election by itself would take two seconds at least.
    let mut cluster = Cluster::start_with(3, |_, config| config.election_ms = 2000);
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.raft_term;
    cluster.put(leader, "a", "1").await;
    let stopping = Instant::now();
    cluster.stop(leader).await;
    let other = cluster.running()[0];
    cluster.put(other, "a", "2").await;
    assert!(stopping.elapsed() < Duration::from_secs(2), "{:?}", stopping.elapsed());
    cluster.leader().await;
    assert_eq!(cluster.status(other).await.raft_term, term + 1);
}

#[tokio::test]
async fn leadership_moves_to_a_follower_and_everybody_sees_it() {
    let cluster = Cluster::start(3);
    for _ in 0..3 {
        // On a busy machine leadership may move by itself in between; then it is asked again.
        let target = eventually("a move of leadership", async || {
            let leader = cluster.leader().await;
            let target = (leader + 1) % 3;
            cluster.move_leader(leader, cluster.id(target)).await.ok().map(|()| target)
        })
        .await;
        eventually("the target as the leader on all members", async || {
            let mut all = true;
            for at in 0..3 {
                all &= cluster.status(at).await.leader == cluster.id(target);
            }
            all.then_some(())
        })
        .await;
        cluster.put(target, "a", "1").await;
    }
}

#[tokio::test]
async fn leadership_moves_only_from_the_leader_and_only_to_a_voter() {
    let mut cluster = Cluster::start_with(3, |_, config| config.election_ms = 1000);
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let to_follower = cluster.move_leader(follower, cluster.id(follower)).await;
    assert_status(to_follower, Code::FailedPrecondition, NOT_LEADER);
    let to_leader = cluster.move_leader(follower, cluster.id(leader)).await;
    assert_status(to_leader, Code::FailedPrecondition, NOT_LEADER);
    for unknown in [0, 77] {
        let refused = cluster.move_leader(leader, unknown).await;
        assert_status(refused, Code::FailedPrecondition, BAD_TRANSFEREE);
    }
    let learner = cluster.join(leader, true).await;
    let refused = cluster.move_leader(leader, cluster.id(learner)).await;
    assert_status(refused, Code::FailedPrecondition, BAD_TRANSFEREE);
    cluster.move_leader(leader, cluster.id(leader)).await.expect("it leads already");
    assert_eq!(cluster.leader().await, leader);
}

#[tokio::test]
async fn a_move_to_a_member_that_is_gone_fails_in_the_end_and_the_leader_goes_on() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let gone = (leader + 1) % 3;
    let id = cluster.id(gone);
    cluster.lose(gone).await;
    let refused = cluster.move_leader(leader, id).await;
    let words = "etcdserver: request timed out, leader transfer took too long";
    assert_status(refused, Code::Unknown, words);
    cluster.put(leader, "a", "1").await;
}
