//! What a server answered: one enum over the real protobuf responses, errors and watch logs.
//!
//! The room only holds the shape. How two answers are judged equal is the business of `compare`.

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::mvccpb;
use folkmoot_proto::v3electionpb as election;
use folkmoot_proto::v3lockpb as lock;

use crate::request::StreamIndex;

/// One answer of one server.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Answer of `KV.Range`.
    Range(pb::RangeResponse),
    /// Answer of `KV.Put`.
    Put(pb::PutResponse),
    /// Answer of `KV.DeleteRange`.
    DeleteRange(pb::DeleteRangeResponse),
    /// Answer of `KV.Txn`.
    Txn(pb::TxnResponse),
    /// Answer of `KV.Compact`.
    Compact(pb::CompactionResponse),
    /// Answer of `Maintenance.HashKV`.
    HashKv(pb::HashKvResponse),
    /// Answer of `Lease.LeaseGrant`.
    Grant(pb::LeaseGrantResponse),
    /// Answer of `Lease.LeaseRevoke`.
    Revoke(pb::LeaseRevokeResponse),
    /// First message of a `Lease.LeaseKeepAlive` stream.
    KeepAlive(pb::LeaseKeepAliveResponse),
    /// Answer of `Lease.LeaseTimeToLive`.
    TimeToLive(pb::LeaseTimeToLiveResponse),
    /// Answer of `Lease.LeaseLeases`.
    Leases(pb::LeaseLeasesResponse),
    /// Answer of `Lock.Lock`.
    Lock(lock::LockResponse),
    /// Answer of `Lock.Unlock`.
    Unlock(lock::UnlockResponse),
    /// Answer of `Election.Campaign`.
    Campaign(election::CampaignResponse),
    /// Answer of `Election.Leader`.
    Leader(election::LeaderResponse),
    /// Answer of `Election.Proclaim`.
    Proclaim(election::ProclaimResponse),
    /// Answer of `Election.Resign`.
    Resign(election::ResignResponse),
    /// A gRPC status other than OK.
    Error {
        /// The status code.
        code: tonic::Code,
        /// The status message, by which etcd clients tell errors apart.
        message: String,
    },
    /// The server did not answer in time.
    Silence,
    /// Nothing was sent, because the request made no sense in this state (after shrinking).
    Skipped,
    /// What one watcher (or the rejections of a stream) received because of one control request.
    Control(Vec<WatchItem>),
    /// Everything all watchers received since the last comparison.
    Watched(Vec<WatcherLog>),
}

/// What one watcher received, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct WatcherLog {
    /// The stream of the watcher.
    pub stream: StreamIndex,
    /// Its id; -1 for rejected creations and for progress of the whole stream.
    pub watch_id: i64,
    /// What it received, oldest first. How it was batched into responses is not part of it.
    pub items: Vec<WatchItem>,
}

/// One thing a watcher received.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchItem {
    /// The watcher exists from now on.
    Created {
        /// Revision in the header.
        revision: i64,
    },
    /// The watcher was refused.
    Rejected {
        /// Revision in the header.
        revision: i64,
        /// The given reason.
        reason: String,
    },
    /// The watcher is gone.
    Canceled {
        /// Revision in the header.
        revision: i64,
        /// The compacted revision, when that is the cause.
        compact_revision: i64,
        /// The given reason.
        reason: String,
    },
    /// A response without events.
    Progress {
        /// Revision in the header.
        revision: i64,
    },
    /// One event.
    Event(mvccpb::Event),
    /// A promise of the watch API was broken; never equal to anything, not even to itself.
    Broken(String),
}

impl Answer {
    /// The response header, where the answer has one.
    pub fn header(&self) -> Option<&pb::ResponseHeader> {
        match self {
            Answer::Range(r) => r.header.as_ref(),
            Answer::Put(r) => r.header.as_ref(),
            Answer::DeleteRange(r) => r.header.as_ref(),
            Answer::Txn(r) => r.header.as_ref(),
            Answer::Compact(r) => r.header.as_ref(),
            Answer::HashKv(r) => r.header.as_ref(),
            Answer::Grant(r) => r.header.as_ref(),
            Answer::Revoke(r) => r.header.as_ref(),
            Answer::KeepAlive(r) => r.header.as_ref(),
            Answer::TimeToLive(r) => r.header.as_ref(),
            Answer::Leases(r) => r.header.as_ref(),
            Answer::Lock(r) => r.header.as_ref(),
            Answer::Unlock(r) => r.header.as_ref(),
            Answer::Campaign(r) => r.header.as_ref(),
            Answer::Leader(r) => r.header.as_ref(),
            Answer::Proclaim(r) => r.header.as_ref(),
            Answer::Resign(r) => r.header.as_ref(),
            Answer::Error { .. } | Answer::Silence | Answer::Skipped => None,
            Answer::Control(_) | Answer::Watched(_) => None,
        }
    }

    /// The response header for changing, where the answer has one.
    pub fn header_mut(&mut self) -> Option<&mut pb::ResponseHeader> {
        match self {
            Answer::Range(r) => r.header.as_mut(),
            Answer::Put(r) => r.header.as_mut(),
            Answer::DeleteRange(r) => r.header.as_mut(),
            Answer::Txn(r) => r.header.as_mut(),
            Answer::Compact(r) => r.header.as_mut(),
            Answer::HashKv(r) => r.header.as_mut(),
            Answer::Grant(r) => r.header.as_mut(),
            Answer::Revoke(r) => r.header.as_mut(),
            Answer::KeepAlive(r) => r.header.as_mut(),
            Answer::TimeToLive(r) => r.header.as_mut(),
            Answer::Leases(r) => r.header.as_mut(),
            Answer::Lock(r) => r.header.as_mut(),
            Answer::Unlock(r) => r.header.as_mut(),
            Answer::Campaign(r) => r.header.as_mut(),
            Answer::Leader(r) => r.header.as_mut(),
            Answer::Proclaim(r) => r.header.as_mut(),
            Answer::Resign(r) => r.header.as_mut(),
            Answer::Error { .. } | Answer::Silence | Answer::Skipped => None,
            Answer::Control(_) | Answer::Watched(_) => None,
        }
    }

    /// How the answer counts in the coverage table: `ok`, or the error's message.
    pub fn outcome(&self) -> String {
        match self {
            Answer::Error { code, message } => format!("{code:?}: {message}"),
            Answer::Silence => "silence".into(),
            Answer::Skipped => "skipped".into(),
            Answer::Watched(logs) => match logs.first().and_then(|log| log.items.first()) {
                Some(WatchItem::Rejected { reason, .. }) => format!("rejected: {reason}"),
                _ => "ok".into(),
            },
            _ => "ok".into(),
        }
    }
}
