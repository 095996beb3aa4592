//! What the oracle asks a server: one enum over the real protobuf requests.
//!
//! A generated request is *symbolic*: its revisions are written relative to the moment it runs
//! ("three before the current revision"), because a script must mean the same on a fresh store and
//! on one that has already seen a thousand scripts. [`Request::resolve`] turns the symbols into
//! numbers just before sending. The room refuses everything that needs a connection.

use std::collections::HashMap;

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::v3electionpb as election;
use folkmoot_proto::v3lockpb as lock;

/// Number of a watch stream within one script. Ids of watchers are only unique per stream.
pub type StreamIndex = u8;

/// One request of a script.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// `KV.Range`.
    Range(pb::RangeRequest),
    /// `KV.Put`.
    Put(pb::PutRequest),
    /// `KV.DeleteRange`.
    DeleteRange(pb::DeleteRangeRequest),
    /// `KV.Txn`.
    Txn(pb::TxnRequest),
    /// `KV.Compact`.
    Compact(pb::CompactionRequest),
    /// `Maintenance.HashKV`.
    HashKv(pb::HashKvRequest),
    /// `Lease.LeaseGrant`; a grant with id 0 is revoked at once, since its id is random.
    Grant(pb::LeaseGrantRequest),
    /// `Lease.LeaseRevoke`.
    Revoke(pb::LeaseRevokeRequest),
    /// One message on a fresh `Lease.LeaseKeepAlive` stream.
    KeepAlive(pb::LeaseKeepAliveRequest),
    /// `Lease.LeaseTimeToLive`.
    TimeToLive(pb::LeaseTimeToLiveRequest),
    /// `Lease.LeaseLeases`.
    Leases,
    /// `Lock.Lock`.
    Lock(lock::LockRequest),
    /// `Lock.Unlock`.
    Unlock(lock::UnlockRequest),
    /// `Election.Campaign`.
    Campaign(election::CampaignRequest),
    /// `Election.Leader`.
    Leader(election::LeaderRequest),
    /// `Election.Proclaim`.
    Proclaim(election::ProclaimRequest),
    /// `Election.Resign`.
    Resign(election::ResignRequest),
    /// Creates a watcher on one of the script's watch streams.
    Watch {
        /// Which stream; opened on first use.
        stream: StreamIndex,
        /// The create request as sent.
        create: pb::WatchCreateRequest,
    },
    /// Cancels a watcher; an unknown id gets no answer.
    Cancel {
        /// Which stream.
        stream: StreamIndex,
        /// The watcher to cancel.
        watch_id: i64,
    },
    /// Asks for progress on a stream whose watchers are all synced.
    Progress {
        /// Which stream.
        stream: StreamIndex,
    },
    /// Waits until every live watcher has seen everything, then compares all that was seen.
    Settle,
}

/// A revision written relative to the store's current one.
pub const CURRENT: i64 = 1 << 56;
/// A revision written relative to the last compacted one.
pub const COMPACTED: i64 = 2 << 56;
/// In a compare: the revision at which the compared key was last written.
pub const WRITTEN: i64 = 3 << 56;
/// In a leader key: the revision which the last campaign for that key returned.
pub const CAMPAIGNED: i64 = 4 << 56;
/// How far a symbol reaches to either side.
const REACH: i64 = 1 << 20;

/// What is needed to turn symbols into numbers.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Revision in the newest response header.
    pub revision: i64,
    /// Revision of the last successful compaction; 0 before the first.
    pub compacted: i64,
    /// For each key, the revision of the last put of this script.
    pub written: HashMap<Vec<u8>, i64>,
    /// For each election key, the revision of its last successful campaign.
    pub campaigned: HashMap<Vec<u8>, i64>,
}

impl Context {
    fn number(&self, symbol: i64, key: &[u8]) -> i64 {
        let near = |base: i64| {
            let offset = symbol.wrapping_sub(base);
            (-REACH..=REACH).contains(&offset).then_some(offset)
        };
        let known = |map: &HashMap<Vec<u8>, i64>| map.get(key).copied().unwrap_or(0);
        if let Some(offset) = near(CURRENT) {
            self.revision + offset
        } else if let Some(offset) = near(COMPACTED) {
            self.compacted + offset
        } else if let Some(offset) = near(WRITTEN) {
            known(&self.written) + offset
        } else if let Some(offset) = near(CAMPAIGNED) {
            known(&self.campaigned) + offset
        } else {
            symbol
        }
    }

    fn range(&self, range: &mut pb::RangeRequest) {
        for field in [
            &mut range.revision,
            &mut range.min_mod_revision,
            &mut range.max_mod_revision,
            &mut range.min_create_revision,
            &mut range.max_create_revision,
        ] {
            *field = self.number(*field, &[]);
        }
    }

    fn txn(&self, txn: &mut pb::TxnRequest) {
        for compare in &mut txn.compare {
            use pb::compare::TargetUnion::{CreateRevision, Lease, ModRevision, Version};
            let key = compare.key.to_vec();
            if let Some(CreateRevision(n) | ModRevision(n) | Version(n) | Lease(n)) =
                &mut compare.target_union
            {
                *n = self.number(*n, &key)
            }
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(pb::request_op::Request::RequestRange(range)) => self.range(range),
                Some(pb::request_op::Request::RequestTxn(inner)) => self.txn(inner),
                _ => {}
            }
        }
    }

    fn leader(&self, leader: &mut Option<election::LeaderKey>) {
        if let Some(leader) = leader {
            leader.rev = self.number(leader.rev, &leader.key);
        }
    }
}

impl Request {
    /// The same request with every symbolic revision replaced by its number.
    pub fn resolve(&self, context: &Context) -> Request {
        let mut request = self.clone();
        match &mut request {
            Request::Range(range) => context.range(range),
            Request::Txn(txn) => context.txn(txn),
            Request::Compact(compact) => compact.revision = context.number(compact.revision, &[]),
            Request::HashKv(hash) => hash.revision = context.number(hash.revision, &[]),
            Request::Watch { create, .. } => {
                let number = context.number(create.start_revision, &[]);
                // On a young store "some revisions ago" must not become a negative revision, which
                // is a case of its own.
                create.start_revision = if number == create.start_revision { number } else { number.max(1) };
            }
            Request::Proclaim(proclaim) => context.leader(&mut proclaim.leader),
            Request::Resign(resign) => context.leader(&mut resign.leader),
            _ => {}
        }
        request
    }

    /// Short name for reports and for telling one kind of difference from another.
    pub fn kind(&self) -> &'static str {
        match self {
            Request::Range(_) => "range",
            Request::Put(_) => "put",
            Request::DeleteRange(_) => "delete_range",
            Request::Txn(_) => "txn",
            Request::Compact(_) => "compact",
            Request::HashKv(_) => "hash_kv",
            Request::Grant(_) => "lease_grant",
            Request::Revoke(_) => "lease_revoke",
            Request::KeepAlive(_) => "lease_keep_alive",
            Request::TimeToLive(_) => "lease_time_to_live",
            Request::Leases => "lease_leases",
            Request::Lock(_) => "lock",
            Request::Unlock(_) => "unlock",
            Request::Campaign(_) => "campaign",
            Request::Leader(_) => "leader",
            Request::Proclaim(_) => "proclaim",
            Request::Resign(_) => "resign",
            Request::Watch { .. } => "watch",
            Request::Cancel { .. } => "watch_cancel",
            Request::Progress { .. } => "watch_progress",
            Request::Settle => "settle",
        }
    }
}

/// The op inside a transaction, wrapped as the wire wants it.
pub fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_become_numbers_and_plain_numbers_stay() {
        let mut context = Context { revision: 40, compacted: 12, ..Context::default() };
        context.written.insert(b"a".to_vec(), 33);
        let range = |revision| Request::Range(pb::RangeRequest { revision, ..Default::default() });
        assert_eq!(range(CURRENT - 3).resolve(&context), range(37));
        assert_eq!(range(COMPACTED + 1).resolve(&context), range(13));
        for plain in [0, -1, 7, i64::MIN, i64::MAX] {
            assert_eq!(range(plain).resolve(&context), range(plain));
        }
        let compare = |number| {
            Request::Txn(pb::TxnRequest {
                compare: vec![pb::Compare {
                    key: b"a".to_vec().into(),
                    target_union: Some(pb::compare::TargetUnion::ModRevision(number)),
                    ..Default::default()
                }],
                ..Default::default()
            })
        };
        assert_eq!(compare(WRITTEN).resolve(&context), compare(33));
    }
}
