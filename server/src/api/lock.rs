//! The service Lock: a line of keys, of which the oldest holds the lock.

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server};
use pb::request_op::Request as Op;
use tonic::{Request, Response, Status};

use super::recipe::{LeaveLine, Recipe, first_of, first_under, line_key, line_prefix, revision_of};
use crate::node::NodeHandle;

/// See the module.
pub struct Lock {
    recipe: Recipe,
}

impl Lock {
    /// The service on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { recipe: Recipe::new(node) }
    }

    async fn lock(&self, request: LockRequest) -> Result<LockResponse, Status> {
        let lease = self.recipe.lease(request.lease).await?;
        let prefix = line_prefix(&request.name);
        let key = line_key(&prefix, lease);
        let put = pb::PutRequest { key: key.clone(), lease, ..pb::PutRequest::default() };
        let own = pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() };
        let (joined, made) = self
            .recipe
            .join_line(
                &key,
                vec![Op::RequestPut(put), Op::RequestRange(first_under(&prefix))],
                vec![Op::RequestRange(own.clone()), Op::RequestRange(first_under(&prefix))],
            )
            .await?;
        let created = match joined.succeeded {
            true => revision_of(&joined),
            false => first_of(&joined, 0).map_or(0, |kv| kv.create_revision),
        };
        let holder = first_of(&joined, 1);
        if holder.is_none_or(|holder| holder.create_revision == created) {
            if let Some(made) = made {
                made.stay();
            }
            return Ok(LockResponse { header: joined.header, key });
        }
        // Whoever gives up waiting, by an error or by going away, must not stay in line.
        let in_line = made.unwrap_or_else(|| LeaveLine::on_drop(self.recipe.clone(), key.clone()));
        self.recipe.wait_for_turn(&prefix, created).await?;
        let answer = self.recipe.range(own).await?;
        in_line.stay();
        if answer.kvs.is_empty() {
            return Err(Status::unknown("mutex: session is expired"));
        }
        Ok(LockResponse { header: answer.header, key })
    }
}

#[tonic::async_trait]
impl lock_server::Lock for Lock {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        Lock::lock(self, request.into_inner()).await.map(Response::new)
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let key: Bytes = request.into_inner().key;
        let answer = self.recipe.delete(key).await?;
        Ok(Response::new(UnlockResponse { header: answer.header }))
    }
}
