//! After the faults: brings a healed cluster to rest and reads everything every member holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use folkmoot_check::history as h;
use folkmoot_proto::etcdserverpb as pb;
use pb::lease_client::LeaseClient;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::load::session::Session;
use crate::load::watching::{WatchPlan, read_history};
use crate::load::{KEY_COUNT, key};
use crate::wire;

/// How long a healed cluster may take until everybody has applied everything.
pub const AGREE_PATIENCE: Duration = Duration::from_secs(60);
/// How long members may take to end all leases and to send their history.
const REST_PATIENCE: Duration = Duration::from_secs(30);

/// What all members hold.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest revision.
    pub revision: h::Revision,
    /// The history of each member from its compaction on, as a watch.
    pub histories: Vec<h::Watch>,
    /// Each member's hash of its history up to the newest revision.
    pub hashes: Vec<(h::MemberId, u64)>,
    /// The newest compacted revision.
    pub compacted: h::Revision,
}

/// Repeats a call that may be refused for a moment, while leaders change.
async fn insist(session: &mut Session, request: h::Request) -> Result<h::Reply, String> {
    let deadline = Instant::now() + REST_PATIENCE;
    loop {
        if let Some(reply) = session.call(request.clone()).await {
            return Ok(reply);
        }
        if Instant::now() > deadline {
            let last = session.operations.last();
            return Err(format!("a healed cluster does not serve: {last:?}"));
        }
    }
}

/// Ends all leases, so that nothing changes by itself any more.
pub async fn end_leases(cluster: &Cluster, session: &mut Session) -> Result<(), String> {
    let deadline = Instant::now() + REST_PATIENCE;
    loop {
        let mut leases: BTreeSet<h::LeaseId> = BTreeSet::new();
        for address in cluster.client_addresses() {
            let mut client = LeaseClient::new(wire::channel(address));
            let list = wire::within(REST_PATIENCE, client.lease_leases(pb::LeaseLeasesRequest {})).await;
            let list = list.map_err(|status| format!("cannot list leases: {}", status.message()))?;
            leases.extend(list.leases.iter().map(|lease| lease.id));
        }
        if leases.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("leases remain after they were revoked: {leases:x?}"));
        }
        for id in leases {
            // One that has just ended by itself is refused, which is as good.
            session.call(h::Request::LeaseRevoke { id }).await;
        }
    }
}

/// The newest revision.
pub async fn revision(session: &mut Session) -> Result<h::Revision, String> {
    let read = h::RangeRequest { count_only: true, ..h::RangeRequest::new(h::KeyRange::all()) };
    Ok(insist(session, h::Request::Range(read)).await?.revision)
}

/// Changes every key that is watched, by a put and by a delete, so that each watch has something to
/// deliver that is newer than everything before.
pub async fn mark(session: &mut Session) -> Result<(), String> {
    for index in 0..KEY_COUNT {
        let value = format!("c{} mark {index}", session.client).into();
        let put = h::PutRequest { key: key(index), value, ..Default::default() };
        insist(session, h::Request::Put(put)).await?;
        let delete = h::DeleteRequest { range: h::KeyRange::One(key(index)), prev_kv: false };
        insist(session, h::Request::Delete(delete)).await?;
    }
    // So that the last state is not empty.
    let put = h::PutRequest { key: key(0), value: "the end".into(), ..Default::default() };
    insist(session, h::Request::Put(put)).await.map(|_| ())
}

/// Reads what every member holds: all keys, the hash, and all history, from the compacted revision
/// itself on if that is wanted.
pub async fn read_all(
    cluster: &Arc<Cluster>,
    session: &mut Session,
    from_compacted: bool,
) -> Result<Found, String> {
    let newest = revision(session).await?;
    let mut found = Found { revision: newest, ..Found::default() };
    for node in cluster.nodes() {
        session.turn_to(node);
        let name = cluster.name(node);
        for serializable in [false, true] {
            let read = h::RangeRequest { serializable, ..h::RangeRequest::new(h::KeyRange::all()) };
            if session.call(h::Request::Range(read)).await.is_none() {
                return Err(format!(
                    "a healed member does not serve name={name}: {:?}",
                    session.operations.last()
                ));
            }
            session.turn_to(node);
        }
        let hash = wire::hash_kv(cluster.client_address(node), newest).await;
        let hash = hash.map_err(|status| format!("no hash from name={name}: {}", status.message()))?;
        let id = hash.header.map_or(0, |header| header.member_id);
        found.hashes.push((id, hash.hash.into()));
        let compacted = hash.compact_revision.max(0);
        found.compacted = found.compacted.max(compacted);
        let from = compacted + i64::from(!from_compacted);
        let plan = WatchPlan::plain(h::WatchRequest::new(h::KeyRange::all(), from.max(1)));
        let history = read_history(session, &plan, newest, REST_PATIENCE).await;
        found.histories.push(history);
    }
    if revision(session).await? != newest {
        return Err(format!("something has changed a cluster at rest revision={newest}"));
    }
    Ok(found)
}
