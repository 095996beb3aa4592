//! Sessions against real servers, bad connections and long pauses.

mod support;

use std::time::Duration;

use folkmoot_client::{ErrorKind, LostReason, Put, SessionState};
use support::{Proxy, Way, eventually, soon};

const SHORT: Duration = Duration::from_secs(2);

on_each! {
    async fn s_2_a_session_outlives_its_time_while_it_is_renewed(server) {
        let client = server.client().await;
        let session = client.session().ttl(SHORT).allow_short_ttl().open().await.unwrap();
        client.put_with(Put::new("k", "").lease(session.lease())).await.unwrap();
        tokio::time::sleep(session.ttl() * 2).await;
        session.check().unwrap();
        assert_eq!(session.state(), SessionState::Active);
        assert_eq!(client.get("k").await.unwrap().count, 1);
        let lease = session.lease();
        session.close().await.unwrap();
        assert!(client.lease_ttl(lease, false).await.unwrap().is_none());
        assert_eq!(client.get("k").await.unwrap().count, 0);
    }

    async fn s_1_a_time_that_is_too_short_or_too_long_is_refused(server) {
        let client = server.client().await;
        for ttl in [Duration::ZERO, Duration::from_secs(4), Duration::from_secs(1 << 40)] {
            let error = client.session().ttl(ttl).open().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        let granted = client.session().ttl(Duration::from_secs(1)).allow_short_ttl().open().await.unwrap();
        assert!(granted.ttl() >= Duration::from_secs(1));
    }

    async fn s_5_s_8_a_black_hole_loses_the_session_here_before_the_store_ends_it(server) {
        let proxy = Proxy::start(&server).await;
        let direct = server.client().await;
        let client = support::client(&proxy.endpoint()).await;
        let session = client.session().ttl(Duration::from_secs(3)).allow_short_ttl().open().await.unwrap();
        client.put_with(Put::new("k", "").lease(session.lease())).await.unwrap();
        let mut states = session.watch_state();
        assert_eq!(states.next().await, Some(SessionState::Active));
        proxy.set(Way::BlackHole);
        let error = soon("the loss", session.lost()).await;
        assert_eq!(error.kind(), ErrorKind::SessionLost);
        assert_eq!(direct.get("k").await.unwrap().count, 1, "the store still has it");
        assert_eq!(session.check().unwrap_err().kind(), ErrorKind::SessionLost);
        let mut seen = Vec::new();
        while let Some(state) = states.next().await {
            seen.push(state);
        }
        assert_eq!(seen.last(), Some(&SessionState::Lost(LostReason::Expired)), "{seen:?}");
        proxy.set(Way::Open);
        eventually("the end in the store", async || {
            (direct.get("k").await.unwrap().count == 0).then_some(())
        }).await;
        assert_eq!(session.check().unwrap_err().kind(), ErrorKind::SessionLost, "lost is final");
    }

    async fn s_7_a_partition_that_is_short_is_survived(server) {
        let proxy = Proxy::start(&server).await;
        let client = support::client(&proxy.endpoint()).await;
        let session = client.session().ttl(Duration::from_secs(6)).open().await.unwrap();
        let mut states = session.watch_state();
        states.next().await;
        proxy.set(Way::Cut);
        assert_eq!(soon("the dip", states.next()).await, Some(SessionState::Suspended));
        session.check().expect("it is not lost yet");
        proxy.set(Way::Open);
        assert_eq!(soon("the return", states.next()).await, Some(SessionState::Active));
        session.close().await.unwrap();
    }

    async fn s_7_a_restart_of_the_store_is_survived(server) {
        let client = server.client().await;
        let session = client.session().ttl(Duration::from_secs(10)).open().await.unwrap();
        server.restart();
        tokio::time::sleep(Duration::from_secs(11)).await;
        session.check().unwrap();
        session.close().await.unwrap();
    }

    async fn s_5_a_revoked_lease_is_noticed_within_a_third_of_its_time(server) {
        let client = server.client().await;
        let session = client.session().ttl(Duration::from_secs(6)).open().await.unwrap();
        client.lease_revoke(session.lease()).await.unwrap();
        let error = tokio::time::timeout(Duration::from_millis(2600), session.lost()).await.expect("in time");
        assert_eq!(error.kind(), ErrorKind::SessionLost);
        // Holders are told before observers.
        let lost = SessionState::Lost(LostReason::LeaseGone);
        eventually("the state", async || (session.state() == lost).then_some(())).await;
    }

    async fn s_11_a_dropped_session_is_revoked_and_a_detached_one_is_not(server) {
        let client = server.client().await;
        let session = client.session().open().await.unwrap();
        let lease = session.lease();
        drop(session);
        eventually("the revocation", async || {
            client.lease_ttl(lease, false).await.unwrap().is_none().then_some(())
        }).await;
        let session = client.session().open().await.unwrap();
        let lease = session.lease();
        session.detach();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(client.lease_ttl(lease, false).await.unwrap().is_some());
    }

    async fn s_2_many_sessions_share_few_streams(server) {
        let client = server.client().await;
        let mut sessions = Vec::new();
        for _ in 0..200 {
            sessions.push(client.session().ttl(SHORT).allow_short_ttl().open().await.unwrap());
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(sessions.iter().all(|session| session.check().is_ok()));
    }
}
