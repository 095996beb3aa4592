//! The members of the store.

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::cluster_client::ClusterClient;
use tonic::transport::Channel;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::transport::Call;

/// A member of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name, for people; empty until it has started.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started.
    pub client_urls: Vec<String>,
    /// Whether it only listens.
    pub is_learner: bool,
}

impl From<pb::Member> for Member {
    fn from(member: pb::Member) -> Self {
        Self {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
        }
    }
}

fn all(members: Vec<pb::Member>) -> Vec<Member> {
    members.into_iter().map(Member::from).collect()
}

fn stub(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel)
}

impl Client {
    /// All members.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let message = pb::MemberListRequest { linearizable: true };
        let rpc = |channel, request| async move { stub(channel).member_list(request).await };
        let answer: pb::MemberListResponse = self.core()?.unary(Call::read(), message, rpc).await?;
        Ok(all(answer.members))
    }

    /// Adds a member, which is to be started afterwards; answers with it and all the others.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be added or not.
    pub async fn member_add(&self, peer_urls: Vec<String>, learner: bool) -> Result<(Member, Vec<Member>)> {
        let message = pb::MemberAddRequest { peer_urls, is_learner: learner };
        let rpc = |channel, request| async move { stub(channel).member_add(request).await };
        let answer: pb::MemberAddResponse = self.core()?.unary(Call::once(), message, rpc).await?;
        let member =
            answer.member.ok_or_else(|| Error::internal("the store added a member without saying which"))?;
        Ok((member.into(), all(answer.members)))
    }

    /// Removes a member for good; answers with those that stay.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be removed or not.
    pub async fn member_remove(&self, id: u64) -> Result<Vec<Member>> {
        let rpc = |channel, request| async move { stub(channel).member_remove(request).await };
        let answer: pb::MemberRemoveResponse =
            self.core()?.unary(Call::once(), pb::MemberRemoveRequest { id }, rpc).await?;
        Ok(all(answer.members))
    }

    /// Says where other members reach a member.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be changed or not.
    pub async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<Vec<Member>> {
        let message = pb::MemberUpdateRequest { id, peer_urls };
        let rpc = |channel, request| async move { stub(channel).member_update(request).await };
        let answer: pb::MemberUpdateResponse = self.core()?.unary(Call::once(), message, rpc).await?;
        Ok(all(answer.members))
    }

    /// Lets a learner vote.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be promoted or not.
    pub async fn member_promote(&self, id: u64) -> Result<Vec<Member>> {
        let rpc = |channel, request| async move { stub(channel).member_promote(request).await };
        let answer: pb::MemberPromoteResponse =
            self.core()?.unary(Call::once(), pb::MemberPromoteRequest { id }, rpc).await?;
        Ok(all(answer.members))
    }
}
