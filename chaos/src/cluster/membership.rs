//! Replacing a member: out of the cluster, its data gone, and another one in at its place.
//!
//! Every step is repeated until it certainly happened: an unanswered removal or admission may have
//! taken effect, and the list of members tells. Data is wiped only after the removal is certain, as
//! operators are told to do; a member that forgets what it promised is outside of what Raft survives.

use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Cluster, LOOK_AGAIN};
use crate::network::NodeIndex;
use crate::wire::{self, within};

/// How long one call may take.
const CALL_PATIENCE: Duration = Duration::from_secs(3);
/// Pause after a call that was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How a member is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// It is killed before it is put out, as if its machine were lost.
    pub dead: bool,
    /// The new one comes as a learner and is promoted.
    pub learner: bool,
}

impl Cluster {
    /// Replaces a member and waits until the new one votes and answers.
    pub async fn replace(
        &self,
        node: NodeIndex,
        how: Replacement,
        patience: Duration,
        note: impl Fn(&str),
    ) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        let old = self.name(node);
        let id = self.id(node);
        if how.dead {
            self.kill(node);
        }
        // A member that learns that it is out ends.
        self.may_end(node);
        self.remove(node, id, deadline).await.map_err(|e| format!("cannot remove member name={old}: {e}"))?;
        self.kill(node);
        note(&format!("{old} is out"));
        let added = self.admit(node, id, how.learner, deadline).await;
        let (id, initial_cluster) = added.map_err(|e| format!("cannot replace member name={old}: {e}"))?;
        let name = {
            let mut member = self.member(node);
            member.wipe().map_err(|e| format!("cannot wipe member name={old}: {e}"))?;
            member.name = format!("m{}-{id:x}", node + 1);
            member.initial_cluster = format!("{initial_cluster}{}={}", member.name, self.peer_url(node));
            (member.joins, member.joined) = (true, false);
            member.name.clone()
        };
        self.set_id(node, id);
        let role = if how.learner { "learner" } else { "voter" };
        note(&format!("{name} is admitted as {role}, {old} is wiped"));
        let promoted = async {
            if how.learner {
                self.promote(node, id, deadline).await?;
                note(&format!("{name} is promoted"));
            }
            Ok(())
        };
        tokio::try_join!(promoted, self.join(node, deadline))?;
        note(&format!("{name} has joined"));
        Ok(())
    }

    /// Starts a member until it serves, as a supervisor does.
    async fn join(&self, node: NodeIndex, deadline: Instant) -> Result<(), String> {
        loop {
            self.start_member(node)?;
            let left = deadline.saturating_duration_since(Instant::now());
            match self.ready(node, left).await {
                Ok(()) => break,
                Err(problem) if Instant::now() > deadline => return Err(problem),
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
        self.member(node).joined = true;
        Ok(())
    }

    fn peer_url(&self, node: NodeIndex) -> String {
        format!("http://{}", self.peer_address(node))
    }

    /// Asks the other running members in turn until one call ends the question.
    async fn ask_others<T>(
        &self,
        node: NodeIndex,
        deadline: Instant,
        mut call: impl AsyncFnMut(
            pb::cluster_client::ClusterClient<tonic::transport::Channel>,
        ) -> Result<T, Status>,
        mut settled: impl FnMut(&Status) -> Option<T>,
    ) -> Result<T, String> {
        let mut problem = Status::unavailable("no other member runs");
        loop {
            for other in self.nodes().filter(|other| *other != node) {
                if !self.is_running(other) {
                    continue;
                }
                match call(wire::members(self.client_address(other))).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) => match settled(&status) {
                        Some(answer) => return Ok(answer),
                        None => problem = status,
                    },
                }
                if Instant::now() > deadline {
                    return Err(problem.message().to_owned());
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            if Instant::now() > deadline {
                return Err(problem.message().to_owned());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn remove(&self, node: NodeIndex, id: u64, deadline: Instant) -> Result<(), String> {
        let call = async |mut client: pb::cluster_client::ClusterClient<_>| {
            within(CALL_PATIENCE, client.member_remove(pb::MemberRemoveRequest { id })).await.map(|_| ())
        };
        // An earlier attempt that was not answered has taken effect.
        let gone = |status: &Status| (status.code() == Code::NotFound).then_some(());
        self.ask_others(node, deadline, call, gone).await
    }

    /// Admits a new member; returns its number and the `name=url,` of all others.
    async fn admit(
        &self,
        node: NodeIndex,
        old: u64,
        learner: bool,
        deadline: Instant,
    ) -> Result<(u64, String), String> {
        let url = self.peer_url(node);
        let call = async |mut client: pb::cluster_client::ClusterClient<tonic::transport::Channel>| {
            // An earlier attempt that was not answered may have taken effect.
            let list = client.member_list(pb::MemberListRequest { linearizable: true });
            let members = within(CALL_PATIENCE, list).await?.members;
            match members.iter().find(|member| member.peer_urls.contains(&url)) {
                Some(found) if found.id == old => {
                    return Err(Status::unavailable("the removal is not known yet"));
                }
                Some(found) => return Ok((found.id, members)),
                None => {}
            }
            let add = pb::MemberAddRequest { peer_urls: vec![url.clone()], is_learner: learner };
            let added = within(CALL_PATIENCE, client.member_add(add)).await?;
            Ok((added.member.map_or(0, |member| member.id), added.members))
        };
        let (id, members) = self.ask_others(node, deadline, call, |_| None).await?;
        let others = members.iter().filter(|member| member.id != id);
        let part = |member: &pb::Member| {
            member.peer_urls.iter().map(|url| format!("{}={url},", member.name)).collect::<String>()
        };
        Ok((id, others.map(part).collect()))
    }

    async fn promote(&self, node: NodeIndex, id: u64, deadline: Instant) -> Result<(), String> {
        let call = async |mut client: pb::cluster_client::ClusterClient<_>| {
            within(CALL_PATIENCE, client.member_promote(pb::MemberPromoteRequest { id })).await.map(|_| ())
        };
        // An earlier attempt that was not answered has taken effect.
        let voter =
            |status: &Status| status.message().ends_with("can only promote a learner member").then_some(());
        let problem = |e| format!("cannot promote member name={}: {e}", self.name(node));
        self.ask_others(node, deadline, call, voter).await.map_err(problem)
    }
}
