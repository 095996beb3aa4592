//! What the operator sees and does: calls to the members themselves, past all faults of the ways to
//! them, and without the client that is under test.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::auth_client::AuthClient;
use folkmoot_proto::etcdserverpb::kv_client::KvClient;
use folkmoot_proto::etcdserverpb::lease_client::LeaseClient;
use folkmoot_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use serde::Serialize;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::Refusal;
use crate::link::Target;

const CALL_MAX: Duration = Duration::from_secs(5);
const TRIES_MAX: Duration = Duration::from_secs(20);

/// A key as an operator sees it. What is no text is shown as well as it can be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The revision at which it came to be.
    pub create_revision: i64,
    /// The revision of its value.
    pub mod_revision: i64,
    /// Its lease in hexadecimal digits, or nothing.
    pub lease: Option<String>,
}

/// Keys of a prefix.
#[derive(Clone, Debug, Serialize)]
pub struct Keys {
    /// How many there are.
    pub count: usize,
    /// The revision at which they were read.
    pub revision: i64,
    /// In the order of their names.
    pub keys: Vec<Key>,
    /// The revisions of their values, in the same order.
    pub revisions: Vec<i64>,
}

/// The admin's way to the members.
#[derive(Clone, Debug)]
pub struct Admin {
    targets: Vec<Target>,
    /// Name and password, where the store has users.
    login: Option<(String, String)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The key after all that begin with this.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

async fn channel(address: SocketAddr) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::internal(error.to_string()))?
        .connect_timeout(Duration::from_secs(2))
        .timeout(CALL_MAX);
    endpoint.connect().await.map_err(|error| Status::unavailable(format!("{error:?}")))
}

impl Admin {
    /// An admin of these members.
    pub fn new(targets: Vec<Target>) -> Self {
        Self { targets, login: None }
    }

    /// Logs in from now on.
    pub fn log_in(&mut self, name: &str, password: &str) {
        self.login = Some((name.to_owned(), password.to_owned()));
    }

    fn address(&self, at: usize) -> Option<SocketAddr> {
        *self.targets[at].lock()
    }

    /// Gives every call a fresh token, if the store has users: tokens do not outlive a restart.
    async fn request<M>(&self, channel: &Channel, message: M) -> Result<Request<M>, Status> {
        let mut request = Request::new(message);
        if let Some((name, password)) = &self.login {
            let ask = pb::AuthenticateRequest { name: name.clone(), password: password.clone() };
            let token = AuthClient::new(channel.clone()).authenticate(ask).await?.into_inner().token;
            let token =
                MetadataValue::try_from(token).map_err(|error| Status::internal(error.to_string()))?;
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }

    /// Asks one member after the other until one answers. Everything asked here may be asked twice.
    async fn ask<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let until = tokio::time::Instant::now() + TRIES_MAX;
        let mut last = Status::unavailable("no member runs");
        loop {
            for at in 0..self.targets.len() {
                let Some(address) = self.address(at) else { continue };
                let answer = async { call(channel(address).await?).await };
                match tokio::time::timeout(CALL_MAX, answer).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(status)) => last = status,
                    Err(_) => last = Status::deadline_exceeded(format!("no answer member={at}")),
                }
            }
            if tokio::time::Instant::now() > until {
                return Err(Refusal::failed(format!("the store refuses: {last}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads a key, or all that begin with a text.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn keys(&self, key: &str, is_prefix: bool) -> Result<Keys, Refusal> {
        let range_end = match (is_prefix, key) {
            (false, _) => Bytes::new(),
            (true, "") => Bytes::from_static(&[0]),
            (true, key) => prefix_end(key.as_bytes()),
        };
        let start = if key.is_empty() { Bytes::from_static(&[0]) } else { bytes(key) };
        let range = pb::RangeRequest { key: start, range_end, ..Default::default() };
        let answer = self
            .ask(|channel| async {
                let request = self.request(&channel, range.clone()).await?;
                let kv = KvClient::new(channel).max_decoding_message_size(usize::MAX);
                Ok({ kv }.range(request).await?.into_inner())
            })
            .await?;
        let keys = answer.kvs.iter().map(|kv| Key {
            key: text(&kv.key),
            value: text(&kv.value),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            lease: (kv.lease != 0).then(|| format!("{:x}", kv.lease)),
        });
        let revision = answer.header.map_or(0, |header| header.revision);
        let revisions = answer.kvs.iter().map(|kv| kv.mod_revision).collect();
        Ok(Keys { count: answer.kvs.len(), revision, keys: keys.collect(), revisions })
    }

    /// Puts; gives the revision.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn put(&self, key: &str, value: &str) -> Result<i64, Refusal> {
        let put = pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
        let answer = self
            .ask(|channel| async {
                let request = self.request(&channel, put.clone()).await?;
                Ok(KvClient::new(channel).put(request).await?.into_inner())
            })
            .await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// Deletes a key, or all that begin with a text; says how many there were.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn delete(&self, key: &str, is_prefix: bool) -> Result<i64, Refusal> {
        let range_end = if is_prefix { prefix_end(key.as_bytes()) } else { Bytes::new() };
        let delete = pb::DeleteRangeRequest { key: bytes(key), range_end, prev_kv: false };
        let answer = self
            .ask(|channel| async {
                let request = self.request(&channel, delete.clone()).await?;
                Ok(KvClient::new(channel).delete_range(request).await?.into_inner())
            })
            .await?;
        Ok(answer.deleted)
    }

    /// Forgets all history before the present revision; gives that.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn compact(&self) -> Result<i64, Refusal> {
        let revision = self.keys("", true).await?.revision;
        self.ask(|channel| async {
            let compact = pb::CompactionRequest { revision, physical: true };
            let request = self.request(&channel, compact).await?;
            match KvClient::new(channel).compact(request).await {
                // An earlier try was answered by a member that could not tell.
                Err(status) if status.message().contains("has been compacted") => Ok(()),
                answer => answer.map(drop),
            }
        })
        .await?;
        Ok(revision)
    }

    /// The leases that are not over, in hexadecimal digits.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn leases(&self) -> Result<Vec<String>, Refusal> {
        let answer = self
            .ask(|channel| async {
                let request = self.request(&channel, pb::LeaseLeasesRequest {}).await?;
                Ok(LeaseClient::new(channel).lease_leases(request).await?.into_inner())
            })
            .await?;
        Ok(answer.leases.iter().map(|lease| format!("{:x}", lease.id)).collect())
    }

    /// Grants a lease that nobody renews.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn grant(&self, ttl: i64) -> Result<i64, Refusal> {
        let answer = self
            .ask(|channel| async {
                let request = self.request(&channel, pb::LeaseGrantRequest { ttl, id: 0 }).await?;
                Ok(LeaseClient::new(channel).lease_grant(request).await?.into_inner())
            })
            .await?;
        Ok(answer.id)
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn revoke(&self, lease: i64) -> Result<(), Refusal> {
        self.ask(|channel| async {
            let request = self.request(&channel, pb::LeaseRevokeRequest { id: lease }).await?;
            match LeaseClient::new(channel).lease_revoke(request).await {
                // Gone is as good.
                Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
                answer => answer.map(drop),
            }
        })
        .await
    }

    async fn status(&self, at: usize) -> Option<pb::StatusResponse> {
        let channel = channel(self.address(at)?).await.ok()?;
        let request = self.request(&channel, pb::StatusRequest {}).await.ok()?;
        Some(MaintenanceClient::new(channel).status(request).await.ok()?.into_inner())
    }

    /// The member that leads, once all that run agree, and the ids of those that run.
    ///
    /// # Errors
    /// They did not agree in time.
    pub async fn leader(&self) -> Result<(usize, Vec<(usize, u64)>), Refusal> {
        let until = tokio::time::Instant::now() + TRIES_MAX;
        loop {
            let mut seen = Vec::new();
            for at in 0..self.targets.len() {
                if let Some(status) = self.status(at).await {
                    let id = status.header.as_ref().map_or(0, |header| header.member_id);
                    seen.push((at, id, status.leader, status.raft_term));
                }
            }
            let agreed = seen.iter().all(|one| (one.2, one.3) == (seen[0].2, seen[0].3));
            let leader = seen.iter().find(|one| one.1 == one.2).filter(|_| agreed);
            if let Some(leader) = leader {
                return Ok((leader.0, seen.iter().map(|one| (one.0, one.1)).collect()));
            }
            if tokio::time::Instant::now() > until {
                return Err(Refusal::failed("the members do not agree on a leader"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Moves the leadership to another member, and waits until all know it.
    ///
    /// # Errors
    /// There is no other member, or it did not happen in time.
    pub async fn move_leader(&self) -> Result<(usize, usize), Refusal> {
        let until = tokio::time::Instant::now() + TRIES_MAX;
        let (from, members) = self.leader().await?;
        let Some((_, target)) = members.iter().find(|(at, _)| *at != from) else {
            return Err(Refusal::wrong("the leadership of a single member cannot be moved"));
        };
        loop {
            if let Some(address) = self.address(from) {
                let moved = async {
                    let channel = channel(address).await?;
                    let message = pb::MoveLeaderRequest { target_id: *target };
                    let request = self.request(&channel, message).await?;
                    MaintenanceClient::new(channel).move_leader(request).await
                };
                if let Err(status) = moved.await {
                    tracing::debug!(%status, "the leadership was not moved at once");
                }
            }
            let (to, _) = self.leader().await?;
            if to != from {
                return Ok((from, to));
            }
            if tokio::time::Instant::now() > until {
                return Err(Refusal::failed("the leadership does not move"));
            }
        }
    }

    /// Gives the store users: `root` with this password, who may do everything.
    ///
    /// # Errors
    /// The store has no users.
    pub async fn enable_auth(&mut self, password: &str) -> Result<(), Refusal> {
        self.ask(|channel| async {
            let mut auth = AuthClient::new(channel);
            let user = pb::AuthUserAddRequest {
                name: "root".into(),
                password: password.to_owned(),
                ..Default::default()
            };
            let ignore_existing = |status: Status| {
                if status.message().contains("already") { Ok(()) } else { Err(status) }
            };
            auth.user_add(user).await.map(drop).or_else(ignore_existing)?;
            let role = pb::AuthRoleAddRequest { name: "root".into() };
            auth.role_add(role).await.map(drop).or_else(ignore_existing)?;
            let grant = pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
            auth.user_grant_role(grant).await.map(drop).or_else(ignore_existing)?;
            auth.auth_enable(pb::AuthEnableRequest {}).await.map(drop)
        })
        .await?;
        self.log_in("root", password);
        Ok(())
    }
}
