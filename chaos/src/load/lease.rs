//! A client that hangs keys on short leases, keeps them alive for a while, and ends them or lets
//! them end.

use std::time::Duration;

use folkmoot_check::history as h;
use rand::RngExt;

use super::session::Session;
use super::{Context, LEASE_PREFIX, Recorded};

/// Seconds a lease is asked for; two is the least that members grant at default timeouts.
const TTL_SECONDS: std::ops::RangeInclusive<i64> = 2..=4;
/// Longest wait for a lease to end by itself.
const END_PATIENCE: Duration = Duration::from_secs(12);
/// Pause between two questions.
const ASK_PAUSE: Duration = Duration::from_millis(150);

/// Works until told to stop.
pub async fn run(mut session: Session, context: Context) -> Recorded {
    let mut count = 0;
    while !context.is_over() {
        count += 1;
        one_lease(&mut session, &context, count).await;
    }
    Recorded { operations: session.operations, ..Recorded::default() }
}

async fn one_lease(session: &mut Session, context: &Context, count: i64) {
    let id = context.lease_id(session.client, count);
    let ttl = session.rng.random_range(TTL_SECONDS);
    let granted = match session.call(h::Request::LeaseGrant { id, ttl }).await {
        Some(h::Reply { body: h::ReplyBody::LeaseGrant { ttl, .. }, .. }) => ttl,
        _ => return,
    };
    let prefix = format!("{LEASE_PREFIX}{}/{count}/", session.client);
    for index in 0..session.rng.random_range(1..4) {
        let put = h::PutRequest {
            key: format!("{prefix}{index}").into(),
            value: format!("c{} lease {id:x}", session.client).into(),
            lease: id,
            ..Default::default()
        };
        session.call(h::Request::Put(put)).await;
    }
    let renewals = session.rng.random_range(0..6);
    let third = Duration::from_secs(u64::try_from(granted).unwrap_or(2)) / 3;
    for _ in 0..renewals {
        if context.sleep(third).await {
            return;
        }
        let reply = session.call(h::Request::LeaseKeepAlive { id }).await;
        if let Some(h::Reply { body: h::ReplyBody::LeaseKeepAlive { ttl: ..=0 }, .. }) = reply {
            return;
        }
    }
    if session.rng.random_bool(0.4) {
        session.call(h::Request::LeaseRevoke { id }).await;
    } else {
        watch_it_end(session, context, id, &prefix).await;
    }
}

/// Renews no more and asks until the lease is gone.
async fn watch_it_end(session: &mut Session, context: &Context, id: h::LeaseId, prefix: &str) {
    let deadline = tokio::time::Instant::now() + END_PATIENCE;
    while tokio::time::Instant::now() < deadline {
        if context.sleep(ASK_PAUSE).await {
            return;
        }
        let reply = session.call(h::Request::LeaseTimeToLive { id, keys: true }).await;
        if let Some(h::Reply { body: h::ReplyBody::LeaseTimeToLive { ttl: -1, .. }, .. }) = reply {
            break;
        }
    }
    let keys = h::RangeRequest::new(h::KeyRange::prefix(prefix.to_owned()));
    session.call(h::Request::Range(keys)).await;
}
