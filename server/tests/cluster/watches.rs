//! Watches in a cluster: over changes of the leader, and over a snapshot.

use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;

use crate::common::{Watcher, bytes};
use crate::link::Link;
use crate::support::{Cluster, eventually, free_port, peer_url};

async fn watch_all(cluster: &Cluster, at: usize, start_revision: i64) -> Watcher {
    let mut watcher = Watcher::open(cluster.channel(at).await).await;
    let all = pb::WatchCreateRequest {
        key: bytes("\0"),
        range_end: bytes("\0"),
        start_revision,
        ..Default::default()
    };
    assert!(watcher.create(all).await.created);
    watcher
}

/// The revisions that a watch of everything tells, up to `last`.
async fn revisions(watcher: &mut Watcher, last: i64) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let response = tokio::time::timeout(Duration::from_secs(60), watcher.next()).await;
        let response = response.unwrap_or_else(|_| panic!("{last} never came after {seen:?}"));
        assert!(!response.canceled, "{response:?}");
        seen.extend(response.events.iter().map(|event| event.kv.as_ref().expect("a key").mod_revision));
    }
    seen
}

#[tokio::test]
async fn a_watch_on_a_follower_misses_nothing_while_leaders_come_and_go() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let (watched, writer) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut watcher = watch_all(&cluster, watched, 0).await;
    for number in 0..20 {
        cluster.put(writer, &format!("k{number}"), "1").await;
    }
    cluster.lose(leader).await;
    for number in 0..20 {
        cluster.put(writer, &format!("k{number}"), "2").await;
    }
    cluster.start_again(&[leader]);
    let now_leads = cluster.leader().await;
    // It may have moved by itself.
    let _ = cluster.move_leader(now_leads, cluster.id((now_leads + 1) % 3)).await;
    let mut last = 0;
    for number in 0..20 {
        last = cluster.put(leader, &format!("k{number}"), "3").await;
    }
    assert_eq!(last, 61);
    assert_eq!(revisions(&mut watcher, 61).await, (2..=61).collect::<Vec<_>>());
    // And the same again from the beginning.
    let mut late = watch_all(&cluster, leader, 2).await;
    assert_eq!(revisions(&mut late, 61).await, (2..=61).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_watch_goes_on_over_a_snapshot_and_sees_every_revision_once() {
    // Member 2 is reached through a link; little of the log is kept for it.
    let advertised = free_port();
    let listening = free_port();
    let link = Link::open(advertised, listening);
    let dir = tempfile::tempdir().unwrap();
    let mut configs = crate::support::configs(&dir, 3);
    let before = configs[2].initial_advertise_peer_urls[0].clone();
    for config in &mut configs {
        config.initial_cluster = config.initial_cluster.replace(&before, &peer_url(advertised));
        config.snapshot_catchup_entries = 20;
    }
    configs[2].initial_advertise_peer_urls = vec![peer_url(advertised)];
    configs[2].listen_peer_urls = vec![peer_url(listening)];
    let servers = crate::support::start_all(configs.clone());
    let places = configs.into_iter().zip(servers);
    let places = places.map(|(config, server)| crate::support::Place {
        config,
        server: Some(server.expect("the member starts")),
    });
    let cluster = Cluster { places: places.collect(), dir };
    cluster.leader().await;
    cluster.put(0, "k", "first").await;
    cluster.wait_for_value(2, "k", "first").await;
    let mut watcher = watch_all(&cluster, 2, 0).await;

    link.cut();
    // It may have led before.
    eventually("a leader among the others", async || {
        let status = cluster.status(0).await;
        (status.leader != 0 && status.leader != cluster.id(2)).then_some(())
    })
    .await;
    let mut kv = cluster.kv(0).await;
    for number in 0..200 {
        crate::common::put(&mut kv, "k", &number.to_string()).await;
    }
    assert_eq!(cluster.read(2, "k", true).await.unwrap().as_deref(), Some("first"));
    link.mend();
    assert_eq!(revisions(&mut watcher, 202).await, (3..=202).collect::<Vec<_>>());
    cluster.wait_for_value(2, "k", "199").await;
    // It takes part as before, and the watch goes on with what it applies itself.
    cluster.put(2, "k", "last").await;
    assert_eq!(revisions(&mut watcher, 203).await, [203]);
    let mut late = watch_all(&cluster, 2, 2).await;
    assert_eq!(revisions(&mut late, 203).await, (2..=203).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_watch_of_what_was_compacted_while_its_member_was_away_is_told_so() {
    let mut cluster = Cluster::start_with(3, |_, config| config.snapshot_catchup_entries = 20);
    let away = cluster.follower().await;
    let other = (away + 1) % 3;
    cluster.put(other, "k", "0").await;
    cluster.lose(away).await;
    let mut kv = cluster.kv(other).await;
    for number in 0..100 {
        crate::common::put(&mut kv, "k", &number.to_string()).await;
    }
    kv.compact(pb::CompactionRequest { revision: 90, physical: true }).await.unwrap();
    cluster.start_again(&[away]);
    cluster.wait_for_value(away, "k", "99").await;
    let mut watcher = Watcher::open(cluster.channel(away).await).await;
    let old = pb::WatchCreateRequest { start_revision: 5, ..crate::common::watch_key("k") };
    assert!(watcher.create(old).await.created);
    let told = watcher.next().await;
    assert!(told.canceled && told.compact_revision == 90, "{told:?}");
    let mut late = watch_all(&cluster, away, 90).await;
    assert_eq!(revisions(&mut late, 102).await, (90..=102).collect::<Vec<_>>());
}
