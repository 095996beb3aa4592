//! The service Election: a line of keys, of which the oldest is the leader's and carries what it
//! proclaims.

use bytes::Bytes;
use folkmoot_core::codec;
use folkmoot_core::event::EventKind;
use folkmoot_core::watch::CreateRequest;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse, election_server,
};
use futures_util::stream::unfold;
use pb::request_op::Request as Op;
use tonic::{Request, Response, Status};

use super::header::header;
use super::queue::ResponseStream;
use super::recipe::{
    LeaveLine, Recipe, first_of, first_under, line_key, line_prefix, prefix_end, revision_of,
};
use crate::node::NodeHandle;
use crate::watch::Session;

/// See the module.
pub struct Election {
    recipe: Recipe,
}

impl Election {
    /// The service on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { recipe: Recipe::new(node) }
    }

    async fn campaign(&self, request: CampaignRequest) -> Result<CampaignResponse, Status> {
        let lease = self.recipe.lease(request.lease).await?;
        let prefix = line_prefix(&request.name);
        let key = line_key(&prefix, lease);
        let put = pb::PutRequest {
            key: key.clone(),
            value: request.value.clone(),
            lease,
            ..pb::PutRequest::default()
        };
        let own = pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() };
        let (joined, made) =
            self.recipe.join_line(&key, vec![Op::RequestPut(put)], vec![Op::RequestRange(own)]).await?;
        let in_line = made.unwrap_or_else(|| LeaveLine::on_drop(self.recipe.clone(), key.clone()));
        let mut created = revision_of(&joined);
        if !joined.succeeded
            && let Some(kv) = first_of(&joined, 0)
        {
            created = kv.create_revision;
            if kv.value != request.value {
                self.proclaim(&key, created, lease, request.value).await?;
            }
        }
        self.recipe.wait_for_turn(&prefix, created).await?;
        in_line.stay();
        let leader = LeaderKey { name: request.name, key, rev: created, lease };
        Ok(CampaignResponse { header: joined.header, leader: Some(leader) })
    }

    async fn proclaim(
        &self,
        key: &Bytes,
        created: i64,
        lease: i64,
        value: Bytes,
    ) -> Result<pb::TxnResponse, Status> {
        let put = pb::PutRequest { key: key.clone(), value, lease, ..pb::PutRequest::default() };
        let answer = self.recipe.if_created_at(key, created, vec![Op::RequestPut(put)], Vec::new()).await?;
        match answer.succeeded {
            true => Ok(answer),
            false => Err(Status::unknown("election: not leader")),
        }
    }
}

fn no_leader_key() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

#[tonic::async_trait]
impl election_server::Election for Election {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        Election::campaign(self, request.into_inner()).await.map(Response::new)
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let ProclaimRequest { leader, value } = request.into_inner();
        let LeaderKey { key, rev, lease, .. } = leader.ok_or_else(no_leader_key)?;
        let answer = Election::proclaim(self, &key, rev, lease, value).await?;
        Ok(Response::new(ProclaimResponse { header: answer.header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let answer = self.recipe.range(first_under(&line_prefix(&request.into_inner().name))).await?;
        match answer.kvs.into_iter().next() {
            Some(kv) => Ok(Response::new(LeaderResponse { header: answer.header, kv: Some(kv) })),
            None => Err(Status::unknown("election: no leader")),
        }
    }

    type ObserveStream = ResponseStream<LeaderResponse>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let observer = Observer {
            recipe: self.recipe.clone(),
            prefix: line_prefix(&request.into_inner().name),
            following: None,
        };
        // An error of the inner calls ends the stream well, as in etcd.
        Ok(Response::new(Box::pin(unfold(observer, |mut observer| async move {
            observer.next().await.map(|response| (Ok(response), observer))
        }))))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let LeaderKey { key, rev, .. } = request.into_inner().leader.ok_or_else(no_leader_key)?;
        let delete = pb::DeleteRangeRequest { key: key.clone(), ..pb::DeleteRangeRequest::default() };
        let answer =
            self.recipe.if_created_at(&key, rev, vec![Op::RequestDeleteRange(delete)], Vec::new()).await?;
        Ok(Response::new(ResignResponse { header: answer.header }))
    }
}

/// Follows who leads and what is proclaimed.
struct Observer {
    recipe: Recipe,
    prefix: Bytes,
    following: Option<Following>,
}

/// A watch of the present leader's key, and what it told that was not passed on yet.
struct Following {
    session: Session,
    news: std::collections::VecDeque<LeaderResponse>,
    gone: bool,
}

impl Observer {
    async fn next(&mut self) -> Option<LeaderResponse> {
        loop {
            match &mut self.following {
                None => {
                    let (response, key, revision) = self.find_leader().await?;
                    let session = self.watch(key, Bytes::new(), revision + 1);
                    self.following = Some(Following { session, news: Default::default(), gone: false });
                    return Some(response);
                }
                Some(following) => {
                    if let Some(response) = following.news.pop_front() {
                        return Some(response);
                    }
                    if following.gone {
                        self.following = None;
                        continue;
                    }
                    let frame = following.session.next().await?;
                    if frame.canceled {
                        return None;
                    }
                    for (event, _) in frame.events() {
                        if event.kind == EventKind::Delete {
                            following.gone = true;
                            break;
                        }
                        following.news.push_back(LeaderResponse {
                            header: header(self.recipe.node(), frame.revision),
                            kv: Some(codec::event::key_value_to_wire(event.kv.clone())),
                        });
                    }
                }
            }
        }
    }

    /// The leader, waiting for one if there is none: the response, its key and its revision.
    async fn find_leader(&self) -> Option<(LeaderResponse, Bytes, i64)> {
        let answer = self.recipe.range(first_under(&self.prefix)).await.ok()?;
        let now = answer.header.map_or(0, |header| header.revision);
        if let Some(kv) = answer.kvs.into_iter().next() {
            let key = kv.key.clone();
            return Some((LeaderResponse { header: answer.header, kv: Some(kv) }, key, now));
        }
        let mut session = self.watch(self.prefix.clone(), prefix_end(&self.prefix), now);
        loop {
            let frame = session.next().await?;
            if frame.canceled {
                return None;
            }
            if let Some((event, _)) = frame.events().find(|(event, _)| event.kind == EventKind::Put) {
                let (key, revision) = (event.kv.key.clone(), event.kv.mod_revision);
                let response = LeaderResponse {
                    header: header(self.recipe.node(), revision),
                    kv: Some(codec::event::key_value_to_wire(event.kv.clone())),
                };
                return Some((response, key, revision));
            }
        }
    }

    fn watch(&self, key: Bytes, range_end: Bytes, start_revision: i64) -> Session {
        let session = self.recipe.node().watch();
        session.create(CreateRequest { key, range_end, start_revision, ..CreateRequest::default() });
        session
    }
}
