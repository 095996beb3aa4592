//! Alarms and the quota in a cluster.

use folkmoot_proto::etcdserverpb as pb;
use tonic::Code;

use crate::common::{assert_status, bytes};
use crate::support::{Cluster, eventually};

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

async fn alarms(cluster: &Cluster, at: usize) -> Vec<pb::AlarmMember> {
    let list = pb::AlarmRequest::default();
    cluster.maintenance(at).await.alarm(list).await.unwrap().into_inner().alarms
}

#[tokio::test]
async fn a_space_alarm_of_one_member_stops_writes_on_all_until_it_is_cleared() {
    // Only this one has a quota, and it is full from the beginning.
    let cluster = Cluster::start_with(3, |at, config| {
        if at == 1 {
            config.quota_backend_bytes = 1;
        }
    });
    cluster.put(0, "a", "1").await;
    assert_eq!(alarms(&cluster, 2).await, []);
    assert_status(cluster.try_put(1, "b").await, Code::ResourceExhausted, NO_SPACE);
    let alarm = pb::AlarmMember { member_id: cluster.id(1), alarm: 1 };
    for at in 0..3 {
        // Asking goes through the log, so that everything before is applied.
        assert_eq!(alarms(&cluster, at).await, [alarm]);
        assert_status(cluster.try_put(at, "b").await, Code::ResourceExhausted, NO_SPACE);
        let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
        let refused = cluster.lease(at).await.lease_grant(grant).await;
        assert_status(refused, Code::ResourceExhausted, NO_SPACE);
        let errors = cluster.status(at).await.errors;
        assert_eq!(errors, [format!("memberID:{} alarm:NOSPACE ", cluster.id(1))]);
        assert_eq!(cluster.get(at, "a").await.as_deref(), Some("1"));
    }
    let delete = pb::DeleteRangeRequest { key: bytes("a"), ..Default::default() };
    let deleted = cluster.kv(2).await.delete_range(delete).await.unwrap().into_inner();
    assert_eq!((deleted.deleted, deleted.header.expect("a header").revision), (1, 3));
    cluster.kv(1).await.compact(pb::CompactionRequest { revision: 3, physical: true }).await.unwrap();

    let disarm = pb::AlarmRequest { action: 2, member_id: cluster.id(1), alarm: 1 };
    let cleared = cluster.maintenance(2).await.alarm(disarm).await.unwrap().into_inner();
    assert_eq!(cleared.alarms, [alarm]);
    for at in [0, 2] {
        assert_eq!(alarms(&cluster, at).await, []);
        cluster.try_put(at, "b").await.unwrap();
    }
}

#[tokio::test]
async fn an_alarm_is_kept_over_restarts_and_changes_of_the_leader() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let raise = pb::AlarmRequest { action: 1, member_id: 5, alarm: 1 };
    cluster.maintenance(leader).await.alarm(raise).await.unwrap();
    cluster.lose(leader).await;
    let other = (leader + 1) % 3;
    assert_status(cluster.try_put(other, "a").await, Code::ResourceExhausted, NO_SPACE);
    cluster.start_again(&[leader]);
    let status = eventually("the alarm on who was away", async || {
        let status = cluster.status(leader).await;
        (!status.errors.is_empty()).then_some(status)
    })
    .await;
    assert_eq!(status.errors, ["memberID:5 alarm:NOSPACE "]);
    let disarm = pb::AlarmRequest { action: 2, member_id: 5, alarm: 1 };
    cluster.maintenance(leader).await.alarm(disarm).await.unwrap();
    cluster.try_put(other, "a").await.unwrap();
}

#[tokio::test]
async fn automatic_compaction_is_done_once_for_all_members() {
    let cluster = Cluster::start_with(3, |_, config| {
        config.auto_compaction_mode = "periodic".into();
        config.auto_compaction_retention = "1s".into();
    });
    let mut kv = cluster.kv(0).await;
    eventually("a compaction on every member", async || {
        for number in 0..5 {
            crate::common::put(&mut kv, "k", &number.to_string()).await;
        }
        let mut compacted = true;
        for at in 0..3 {
            let old = pb::RangeRequest { key: bytes("k"), revision: 2, ..Default::default() };
            compacted &= cluster.kv(at).await.range(old).await.is_err_and(|status| {
                status.message() == "etcdserver: mvcc: required revision has been compacted"
            });
        }
        compacted.then_some(())
    })
    .await;
    for at in 0..3 {
        assert!(cluster.status(at).await.errors.is_empty());
    }
}
