//! The service Cluster: who the members are, and changing that.

use std::time::{SystemTime, UNIX_EPOCH};

use folkmoot_core::cluster::Member;
use folkmoot_core::codec;
use folkmoot_core::command::Command;
use folkmoot_core::error::Error;
use folkmoot_core::node::Reply;
use folkmoot_core::types::MemberId;
use folkmoot_peer::{MemberInfo, PeerUrl};
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::cluster_server;
use tonic::{Request, Response, Status};

use super::header::header;
use super::status;
use crate::config::ServiceUrl;
use crate::identity;
use crate::node::NodeHandle;

/// See the module.
pub struct Cluster {
    node: NodeHandle,
}

impl Cluster {
    /// The service on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { node }
    }

    /// Has the cluster change its members; gives them back as they are afterwards.
    async fn change(&self, command: Command) -> Result<Vec<Member>, Status> {
        match self.node.propose(command).await.map_err(status)? {
            Reply::Members(members) => Ok(members),
            other => unreachable!("a change of members is answered as one, not {other:?}"),
        }
    }

    /// Headers of this service carry no revision, as etcd's.
    fn header(&self) -> Option<pb::ResponseHeader> {
        header(&self.node, 0)
    }
}

/// Peer URLs as etcd takes them: with scheme, host and port and nothing else; sorted. What the other members
/// could not dial is refused here: once it is in the list, that member is unreachable at the next disconnect.
fn peer_urls(texts: &[String]) -> Result<Vec<String>, Error> {
    let urls = texts.iter().map(|text| {
        let url = ServiceUrl::parse(text).ok()?.to_string();
        let short = url.len() <= MemberInfo::TEXT_BYTES_MAX;
        (short && PeerUrl::parse(&url).is_ok()).then_some(url)
    });
    let mut urls = urls.collect::<Option<Vec<_>>>().ok_or(Error::MemberBadUrls)?;
    if urls.is_empty() || urls.len() > MemberInfo::URLS_MAX {
        return Err(Error::MemberBadUrls);
    }
    urls.sort();
    Ok(urls)
}

fn to_wire(members: &[Member]) -> Vec<pb::Member> {
    members.iter().map(codec::cluster::member_to_wire).collect()
}

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let request = request.into_inner();
        let urls = peer_urls(&request.peer_urls).map_err(status)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let member = Member {
            id: identity::of_added_member(&urls, now),
            name: String::new(),
            peer_urls: urls,
            client_urls: Vec::new(),
            learner: request.is_learner,
            incarnation: 0,
        };
        let members = self.change(codec::cluster::member_add(&member)).await?;
        tracing::info!("added-member-id" = %member.id, learner = member.learner, "added member");
        Ok(Response::new(pb::MemberAddResponse {
            header: self.header(),
            member: Some(codec::cluster::member_to_wire(&member)),
            members: to_wire(&members),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let id = MemberId(request.into_inner().id);
        let members = self.change(codec::cluster::member_remove(id)).await?;
        tracing::info!("removed-member-id" = %id, "removed member");
        Ok(Response::new(pb::MemberRemoveResponse { header: self.header(), members: to_wire(&members) }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        // etcd does not look at the URLs here; one that nobody can dial would cut the member off.
        let request = request.into_inner();
        let urls = peer_urls(&request.peer_urls).map_err(status)?;
        let members = self.change(codec::cluster::member_update(MemberId(request.id), urls)).await?;
        Ok(Response::new(pb::MemberUpdateResponse { header: self.header(), members: to_wire(&members) }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.node.read_index().await.map_err(status)?;
        }
        let members = self.node.status().members();
        Ok(Response::new(pb::MemberListResponse { header: self.header(), members: to_wire(&members) }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let id = MemberId(request.into_inner().id);
        let members = self.change(codec::cluster::member_promote(id)).await?;
        tracing::info!("promoted-member-id" = %id, "promoted member");
        Ok(Response::new(pb::MemberPromoteResponse { header: self.header(), members: to_wire(&members) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_checked_as_etcd_does_and_sorted() {
        let urls =
            |texts: &[&str]| peer_urls(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            urls(&["http://b:2", "http://a:1"]),
            Ok(vec!["http://a:1".to_owned(), "http://b:2".to_owned()])
        );
        for bad in [&[][..], &["http://a"], &["ftp://a:1"], &["a:1"], &["http://a:1/path"], &["http://a:x"]] {
            assert_eq!(urls(bad), Err(Error::MemberBadUrls), "{bad:?}");
        }
    }
}
