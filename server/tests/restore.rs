//! A backup taken from a running server becomes a new member.

mod common;

use std::io::Write as _;

use common::{TestServer, bytes, get, put};
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_server::{Config, RestoreError, Server, restore};
use tonic::Code;

async fn back_up(server: &TestServer) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut parts = server.maintenance().await.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    while let Some(part) = parts.message().await.unwrap() {
        file.write_all(&part.blob).unwrap();
    }
    file
}

async fn hash(server: &TestServer) -> u32 {
    let request = pb::HashKvRequest { revision: 0 };
    server.maintenance().await.hash_kv(request).await.unwrap().into_inner().hash
}

#[tokio::test]
async fn a_restored_member_has_keys_history_and_leases_and_is_somebody_else() {
    let server = TestServer::start();
    let mut kv = server.kv().await;
    for value in ["1", "2", "3"] {
        put(&mut kv, "a", value).await;
    }
    server.lease().await.lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 7 }).await.unwrap();
    kv.put(pb::PutRequest { lease: 7, ..common::put_request("leased", "x") }).await.unwrap();
    kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.unwrap();
    server.maintenance().await.alarm(pb::AlarmRequest { action: 1, member_id: 5, alarm: 1 }).await.unwrap();
    let backup = back_up(&server).await;
    let hash_before = hash(&server).await;

    let dir = tempfile::tempdir().unwrap();
    let config = Config { initial_cluster_token: "other".into(), ..Config::alone_in(dir.path().join("new")) };
    let restored = restore(backup.path(), &config).unwrap();
    assert_eq!(restored.revision, 5);
    assert_ne!(restored.member_id, server.server.as_ref().unwrap().member_id());

    let mut again = TestServer::start_with(|given| *given = config.clone());
    let mut kv = again.kv().await;
    let record = get(&mut kv, "a").await.unwrap();
    assert_eq!((&record.value[..], record.mod_revision, record.version), (&b"3"[..], 4, 3));
    let past = pb::RangeRequest { key: bytes("a"), revision: 3, ..Default::default() };
    assert_eq!(kv.range(past.clone()).await.unwrap().into_inner().kvs[0].value, bytes("2"));
    let gone = pb::RangeRequest { revision: 2, ..past };
    assert_eq!(kv.range(gone).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(hash(&again).await, hash_before);
    // The alarm stayed behind, and revisions go on.
    assert_eq!(put(&mut kv, "a", "4").await, 6);
    again.lease().await.lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await.unwrap();
    assert_eq!(get(&mut kv, "leased").await, None);
    let header = kv.put(common::put_request("b", "1")).await.unwrap().into_inner().header.unwrap();
    assert_eq!((header.member_id, header.cluster_id), (restored.member_id, restored.cluster_id));
    drop(kv);
    again.restart().await;
    assert_eq!(get(&mut again.kv().await, "a").await.unwrap().value, bytes("4"));
}

#[tokio::test]
async fn a_damaged_backup_and_a_full_directory_are_refused() {
    let server = TestServer::start();
    put(&mut server.kv().await, "a", "1").await;
    let backup = back_up(&server).await;
    let mut damaged = std::fs::read(backup.path()).unwrap();
    damaged[700] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("damaged");
    std::fs::write(&file, damaged).unwrap();
    let config = Config::alone_in(dir.path().join("new"));
    assert!(matches!(restore(&file, &config), Err(RestoreError::Storage(_))));
    assert!(!dir.path().join("new").exists());

    let taken = Config::alone_in(server.config().data_dir);
    assert!(matches!(restore(backup.path(), &taken), Err(RestoreError::Storage(_))));
    drop(Server::start(config).expect("the directory is free for a new member"));
    server.assert_serves().await;
}

#[tokio::test]
async fn every_member_of_a_new_cluster_is_restored_from_the_same_backup() {
    let server = TestServer::start();
    put(&mut server.kv().await, "a", "1").await;
    let backup = back_up(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let restored = ["infra1", "infra2", "infra3"].map(|name| {
        let port = name.replace("infra", "");
        let config = Config {
            name: name.into(),
            initial_advertise_peer_urls: vec![format!("http://127.0.0.1:{port}2380")],
            initial_cluster: "infra1=http://127.0.0.1:12380,infra2=http://127.0.0.1:22380,\
                              infra3=http://127.0.0.1:32380"
                .into(),
            initial_cluster_token: "etcd-cluster-1".into(),
            ..Config::alone_in(dir.path().join(name))
        };
        restore(backup.path(), &config).unwrap()
    });
    assert!(restored.iter().all(|member| member.cluster_id == 0xef37_ad9d_c622_a7c4));
    assert_eq!(restored[0].member_id, 0x8211_f1d0_f64f_3269);
    assert_eq!(restored[1].member_id, 0x91bc_3c39_8fb3_c146);
    assert_eq!(restored[2].member_id, 0xfd42_2379_fda5_0e48);
}
