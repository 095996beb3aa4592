//! What operators ask of members.
//!
//! Calls about one member take an endpoint, as it was given to the builder or by its number.

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use futures_util::Stream;
use tonic::transport::Channel;

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::Header;
use crate::transport::{Call, Core, status};

fn stub(channel: Channel) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// How a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who answered, and when.
    pub header: Header,
    /// Its version.
    pub version: String,
    /// The size of its data, in bytes.
    pub db_size_bytes: i64,
    /// What of it is in use.
    pub db_size_in_use_bytes: i64,
    /// The member that it knows as leader; 0 for none.
    pub leader: u64,
    /// Where its log ends.
    pub raft_index: u64,
    /// Its term.
    pub raft_term: u64,
    /// What of its log is applied.
    pub raft_applied_index: u64,
    /// What it complains about.
    pub errors: Vec<String>,
    /// Whether it only listens.
    pub is_learner: bool,
}

/// What is wrong with the store or a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmKind {
    /// The quota is used up: nothing can be put.
    NoSpace,
    /// A member's data differ from the others'.
    Corrupt,
}

/// An alarm of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The member.
    pub member_id: u64,
    /// What is wrong.
    pub kind: AlarmKind,
}

/// A hash over the keys of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// Who answered, and when.
    pub header: Header,
    /// The hash.
    pub hash: u32,
    /// Before this revision history is compacted away.
    pub compact_revision: i64,
}

impl Client {
    fn endpoint_index(core: &Core, endpoint: &str) -> Result<usize> {
        let tls = core.options.tls.is_some();
        let url = crate::transport::endpoint::normalize(endpoint, tls)?;
        core.find(&url)
            .ok_or_else(|| Error::invalid(format!("not an endpoint of this client endpoint={endpoint:?}")))
    }

    /// Asks any member whether it is there.
    pub(crate) async fn ask(&self, call: Call) -> Result<()> {
        let rpc = |channel, request| async move { stub(channel).status(request).await };
        let answer: Result<pb::StatusResponse> = self.core()?.unary(call, pb::StatusRequest {}, rpc).await;
        match answer {
            Err(error) if error.kind() != ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        }
    }

    /// The endpoints of this client; for names that stand for several members, those that were found last.
    pub fn endpoints(&self) -> Result<Vec<String>> {
        Ok(self.core()?.endpoints())
    }

    /// How one member is.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn status(&self, endpoint: &str) -> Result<MemberStatus> {
        let core = self.core()?;
        let call = Call { only: Some(Self::endpoint_index(&core, endpoint)?), ..Call::read() };
        let rpc = |channel, request| async move { stub(channel).status(request).await };
        let answer: pb::StatusResponse = core.unary(call, pb::StatusRequest {}, rpc).await?;
        Ok(MemberStatus {
            header: answer.header.into(),
            version: answer.version,
            db_size_bytes: answer.db_size,
            db_size_in_use_bytes: answer.db_size_in_use,
            leader: answer.leader,
            raft_index: answer.raft_index,
            raft_term: answer.raft_term,
            raft_applied_index: answer.raft_applied_index,
            errors: answer.errors,
            is_learner: answer.is_learner,
        })
    }

    /// All alarms.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn alarms(&self) -> Result<Vec<Alarm>> {
        self.alarm(pb::AlarmRequest::default()).await
    }

    /// Ends an alarm.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be ended or not.
    pub async fn alarm_disarm(&self, alarm: Alarm) -> Result<Vec<Alarm>> {
        let kind = match alarm.kind {
            AlarmKind::NoSpace => pb::AlarmType::Nospace,
            AlarmKind::Corrupt => pb::AlarmType::Corrupt,
        };
        let action = pb::alarm_request::AlarmAction::Deactivate.into();
        self.alarm(pb::AlarmRequest { action, member_id: alarm.member_id, alarm: kind.into() }).await
    }

    async fn alarm(&self, message: pb::AlarmRequest) -> Result<Vec<Alarm>> {
        let rpc = |channel, request| async move { stub(channel).alarm(request).await };
        let answer: pb::AlarmResponse = self.core()?.unary(Call::idempotent(), message, rpc).await?;
        let alarm = |alarm: &pb::AlarmMember| {
            let kind = match alarm.alarm() {
                pb::AlarmType::Nospace => AlarmKind::NoSpace,
                pb::AlarmType::Corrupt => AlarmKind::Corrupt,
                pb::AlarmType::None => return None,
            };
            Some(Alarm { member_id: alarm.member_id, kind })
        };
        Ok(answer.alarms.iter().filter_map(alarm).collect())
    }

    /// Gives the space of one member back to its disk.
    ///
    /// # Cancel safety
    /// It goes on at the member if the future is dropped.
    pub async fn defragment(&self, endpoint: &str) -> Result<()> {
        let core = self.core()?;
        let timeout = core.options.request_timeout * 12;
        let call = Call { only: Some(Self::endpoint_index(&core, endpoint)?), ..Call::idempotent() };
        let rpc = |channel, request| async move { stub(channel).defragment(request).await };
        let answer: Result<pb::DefragmentResponse> =
            core.unary(call.timeout(Some(timeout)), pb::DefragmentRequest {}, rpc).await;
        answer.map(drop)
    }

    /// Hashes the keys of one member up to a revision, 0 for all.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn hash_kv(&self, endpoint: &str, revision: i64) -> Result<HashKv> {
        let core = self.core()?;
        let call = Call { only: Some(Self::endpoint_index(&core, endpoint)?), ..Call::read() };
        let rpc = |channel, request| async move { stub(channel).hash_kv(request).await };
        let answer: pb::HashKvResponse = core.unary(call, pb::HashKvRequest { revision }, rpc).await?;
        Ok(HashKv {
            header: answer.header.into(),
            hash: answer.hash,
            compact_revision: answer.compact_revision,
        })
    }

    /// Makes another member the leader. The endpoint is the present leader's.
    ///
    /// # Cancel safety
    /// It may happen or not if the future is dropped.
    pub async fn move_leader(&self, endpoint: &str, target: u64) -> Result<()> {
        let core = self.core()?;
        let call = Call { only: Some(Self::endpoint_index(&core, endpoint)?), ..Call::once() };
        let rpc = |channel, request| async move { stub(channel).move_leader(request).await };
        let message = pb::MoveLeaderRequest { target_id: target };
        let answer: Result<pb::MoveLeaderResponse> = core.unary(call, message, rpc).await;
        answer.map(drop)
    }

    /// A copy of one member's whole data, piece by piece. The last 32 bytes are a hash of the rest.
    ///
    /// # Cancel safety
    /// The stream may be dropped at any time.
    pub async fn snapshot(
        &self,
        endpoint: &str,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + Unpin + use<>> {
        let core = self.core()?;
        let index = Self::endpoint_index(&core, endpoint)?;
        let link = core.link(index);
        let request = core.stream_request(pb::SnapshotRequest {});
        let mut client = stub(link.channel.clone());
        let open = async move { client.snapshot(request).await };
        let answer = crate::runtime::within(&core.handle, open).await;
        let name = link.name.clone();
        let pieces = answer.map_err(|error| status::error(error, &name))?.into_inner();
        Ok(futures_util::StreamExt::map(pieces, move |piece| match piece {
            Ok(piece) => Ok(piece.blob),
            Err(error) => Err(status::error(error, &name)),
        }))
    }
}
