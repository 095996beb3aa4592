//! New clusters, and clusters that are started again.

use std::collections::BTreeSet;

use folkmoot_proto::etcdserverpb as pb;

use crate::support::Cluster;

#[tokio::test]
async fn three_static_members_form_a_cluster_that_all_describe_alike() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let members = cluster.wait_for_members(3).await;
    assert!(members.is_sorted_by_key(|member| member.id));
    for (at, place) in cluster.places.iter().enumerate() {
        let own = members.iter().find(|member| member.id == cluster.id(at)).expect("is listed");
        assert_eq!(own.name, place.config.name);
        assert_eq!(own.peer_urls, place.config.initial_advertise_peer_urls);
        assert_eq!(own.client_urls, [format!("http://{}", cluster.server(at).client_addr())]);
        assert!(!own.is_learner);
    }
    let mut clusters = BTreeSet::new();
    for at in 0..3 {
        let status = cluster.status(at).await;
        let header = status.header.expect("a header");
        clusters.insert(header.cluster_id);
        assert_eq!(header.member_id, cluster.id(at));
        assert_eq!((status.leader, status.is_learner), (cluster.id(leader), false));
        assert!(status.raft_term >= 2 && status.raft_term == header.raft_term);
        assert!(status.raft_index >= status.raft_applied_index && status.raft_applied_index > 1);
        assert!(status.errors.is_empty(), "{status:?}");
        let request = pb::MemberListRequest { linearizable: true };
        let list = cluster.cluster(at).await.member_list(request).await.unwrap().into_inner();
        let header = list.header.expect("a header");
        assert_eq!((header.revision, header.member_id), (0, cluster.id(at)));
        assert_eq!(list.members, members);
    }
    assert_eq!(clusters.len(), 1);
}

#[tokio::test]
async fn a_write_at_any_member_is_seen_by_the_next_read_at_any_other() {
    let cluster = Cluster::start(3);
    for round in 0..5 {
        for writer in 0..3 {
            let value = format!("{round}/{writer}");
            let revision = cluster.put(writer, "a", &value).await;
            assert_eq!(revision, 2 + 3 * round + writer as i64);
            for reader in 0..3 {
                assert_eq!(cluster.get(reader, "a").await.as_deref(), Some(value.as_str()));
            }
        }
    }
    for at in 0..3 {
        cluster.wait_for_value(at, "a", "4/2").await;
        let hash = cluster.maintenance(at).await.hash_kv(pb::HashKvRequest { revision: 16 }).await.unwrap();
        let first = cluster.maintenance(0).await.hash_kv(pb::HashKvRequest { revision: 16 }).await.unwrap();
        assert_eq!(hash.into_inner().hash, first.into_inner().hash);
    }
}

#[tokio::test]
async fn a_cluster_of_five_goes_on_without_two() {
    let mut cluster = Cluster::start(5);
    assert_eq!(cluster.wait_for_members(5).await.len(), 5);
    cluster.put(4, "a", "1").await;
    let leader = cluster.leader().await;
    let other = (leader + 1) % 5;
    cluster.lose(leader).await;
    cluster.lose(other).await;
    let left = (leader + 2) % 5;
    cluster.put(left, "a", "2").await;
    cluster.start_again(&[leader, other]);
    for at in 0..5 {
        assert_eq!(cluster.get(at, "a").await.as_deref(), Some("2"));
    }
}

#[tokio::test]
async fn a_restart_of_all_members_keeps_keys_and_members() {
    let mut cluster = Cluster::start(3);
    let before = cluster.wait_for_members(3).await;
    for number in 0..50 {
        cluster.put(number % 3, &format!("k{number}"), "v").await;
    }
    for at in 0..3 {
        cluster.lose(at).await;
    }
    cluster.start_again(&[0, 1, 2]);
    let leader = cluster.leader().await;
    // Clients are accepted elsewhere now, and everybody hears of it.
    let after = cluster.wait_for_members(3).await;
    let identities = |members: &[pb::Member]| -> Vec<_> {
        members.iter().map(|member| (member.id, member.name.clone(), member.peer_urls.clone())).collect()
    };
    assert_eq!(identities(&after), identities(&before));
    for at in 0..3 {
        assert_eq!(cluster.get(at, "k49").await.as_deref(), Some("v"));
        let url = format!("http://{}", cluster.server(at).client_addr());
        crate::support::eventually("the new client URL", async || {
            let members = cluster.members(leader).await;
            members.iter().any(|member| member.client_urls == [url.clone()]).then_some(())
        })
        .await;
    }
    assert_eq!(cluster.put(leader, "more", "v").await, 52);
}
