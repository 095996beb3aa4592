//! One client: it asks one member after the other and records every call with its outcome.
//!
//! An attempt that fails is never repeated behind the caller's back, so every attempt is in the
//! history. Only refusals that certainly had no effect count as refusals; everything else is unknown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use folkmoot_check::history as h;
use folkmoot_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::convert;
use crate::cluster::Cluster;
use crate::network::NodeIndex;
use crate::wire;

/// How long a client waits for an answer before it asks another member.
const CALL_PATIENCE: Duration = Duration::from_millis(1500);
/// Pause after a call that failed, so that a dead cluster is not asked as fast as possible.
const FAILURE_PAUSE: Duration = Duration::from_millis(20);

/// The clock of a history.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins at zero now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> h::Nanos {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(h::Nanos::MAX)
    }
}

/// A client.
pub struct Session {
    /// Its number.
    pub client: h::ClientId,
    /// Its dice.
    pub rng: ChaCha8Rng,
    /// Everything it did.
    pub operations: Vec<h::Operation>,
    /// The clock of the history.
    pub clock: Clock,
    cluster: Arc<Cluster>,
    channels: Vec<Channel>,
    /// The member it asks now.
    node: NodeIndex,
    /// It asks the same member again after a failure, which keeps it at one that is cut off.
    faithful: bool,
}

type Answer = (Option<pb::ResponseHeader>, h::ReplyBody);

fn split<T>(
    result: Result<Response<T>, Status>,
    header: impl FnOnce(&mut T) -> Option<pb::ResponseHeader>,
    body: impl FnOnce(T) -> h::ReplyBody,
) -> Result<Answer, Status> {
    let mut response = result?.into_inner();
    let header = header(&mut response);
    Ok((header, body(response)))
}

impl Session {
    /// A client with connections of its own.
    pub fn new(cluster: Arc<Cluster>, client: h::ClientId, clock: Clock, seed: u64) -> Session {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ client.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let channels: Vec<Channel> = cluster
            .client_addresses()
            .into_iter()
            .map(|address: SocketAddr| wire::channel(address))
            .collect();
        let node = rng.random_range(0..channels.len());
        let faithful = rng.random_bool(0.3);
        Session { client, rng, operations: Vec::new(), clock, cluster, channels, node, faithful }
    }

    /// The member asked now, its number and the way to it.
    pub fn target(&self) -> (NodeIndex, h::MemberId, Channel) {
        (self.node, self.cluster.id(self.node), self.channels[self.node].clone())
    }

    /// Asks this member from now on.
    pub fn turn_to(&mut self, node: NodeIndex) {
        self.node = node;
    }

    /// Asks another member from now on.
    pub fn turn_elsewhere(&mut self) {
        let step = self.rng.random_range(1..self.channels.len().max(2));
        self.node = (self.node + step) % self.channels.len();
    }

    /// One call. `None` if it was refused or remains open; the client has then turned to another
    /// member, unless it is a faithful one or the refusal is an answer about the store.
    pub async fn call(&mut self, request: h::Request) -> Option<h::Reply> {
        let (_, known, channel) = self.target();
        let invoked = self.clock.now();
        let answer = tokio::time::timeout(CALL_PATIENCE, send(channel, &request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        let completed = Some(self.clock.now());
        let (member, outcome, reply) = match answer {
            Ok((header, body)) => {
                let header = header.unwrap_or_default();
                let reply = h::Reply { revision: header.revision, body };
                (header.member_id, h::Outcome::Ok(reply.clone()), Some(reply))
            }
            Err(status) => (known, outcome_of(&status), None),
        };
        let elsewhere = match &outcome {
            h::Outcome::Ok(_) => false,
            h::Outcome::Refused(refusal) => matches!(refusal, h::Refusal::Other(_)),
            h::Outcome::Unknown => true,
        };
        self.operations.push(h::Operation {
            client: self.client,
            member,
            invoked,
            completed,
            request,
            outcome,
        });
        if elsewhere {
            self.after_failure().await;
        }
        reply
    }

    /// What a client does when a member did not serve it.
    pub async fn after_failure(&mut self) {
        tokio::time::sleep(FAILURE_PAUSE).await;
        if !self.faithful || self.rng.random_bool(0.1) {
            self.turn_elsewhere();
        }
    }

    /// Keeps no member in particular any more.
    pub fn give_up_faith(&mut self) {
        self.faithful = false;
    }
}

async fn send(channel: Channel, request: &h::Request) -> Result<Answer, Status> {
    let mut kv = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let mut lease = LeaseClient::new(channel);
    match request {
        h::Request::Put(put) => {
            let sent = kv.put(convert::put_to_wire(put)).await;
            split(sent, |r| r.header.take(), |r| h::ReplyBody::Put(convert::put_reply(r)))
        }
        h::Request::Delete(delete) => {
            let sent = kv.delete_range(convert::delete_to_wire(delete)).await;
            split(sent, |r| r.header.take(), |r| h::ReplyBody::Delete(convert::delete_reply(r)))
        }
        h::Request::Range(read) => {
            let sent = kv.range(convert::read_to_wire(read)).await;
            split(sent, |r| r.header.take(), |r| h::ReplyBody::Range(convert::read_reply(r)))
        }
        h::Request::Txn(txn) => {
            let sent = kv.txn(convert::txn_to_wire(txn)).await;
            split(sent, |r| r.header.take(), |r| h::ReplyBody::Txn(convert::txn_reply(r)))
        }
        h::Request::Compact { revision } => {
            let sent = kv.compact(pb::CompactionRequest { revision: *revision, physical: false }).await;
            split(sent, |r| r.header.take(), |_| h::ReplyBody::Compact)
        }
        h::Request::LeaseGrant { id, ttl } => {
            let sent = lease.lease_grant(pb::LeaseGrantRequest { id: *id, ttl: *ttl }).await;
            split(sent, |r| r.header.take(), |r| h::ReplyBody::LeaseGrant { id: r.id, ttl: r.ttl })
        }
        h::Request::LeaseRevoke { id } => {
            let sent = lease.lease_revoke(pb::LeaseRevokeRequest { id: *id }).await;
            split(sent, |r| r.header.take(), |_| h::ReplyBody::LeaseRevoke)
        }
        h::Request::LeaseKeepAlive { id } => {
            // The stream stays open until the answer is there.
            let message = tokio_stream::once(pb::LeaseKeepAliveRequest { id: *id });
            let messages = tokio_stream::StreamExt::chain(message, tokio_stream::pending());
            let mut answers = lease.lease_keep_alive(messages).await?.into_inner();
            let mut answer = answers.message().await?.ok_or_else(|| Status::unavailable("stream ended"))?;
            Ok((answer.header.take(), h::ReplyBody::LeaseKeepAlive { ttl: answer.ttl }))
        }
        h::Request::LeaseTimeToLive { id, keys } => {
            let sent = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: *id, keys: *keys }).await;
            split(
                sent,
                |r| r.header.take(),
                |r| h::ReplyBody::LeaseTimeToLive { ttl: r.ttl, granted_ttl: r.granted_ttl, keys: r.keys },
            )
        }
    }
}

/// What an error says about the call. The texts are etcd's, and part of its interface.
fn outcome_of(status: &Status) -> h::Outcome {
    let text = status.message();
    let refusal = match status.code() {
        Code::OutOfRange if text.contains("has been compacted") => h::Refusal::Compacted,
        Code::OutOfRange if text.contains("future revision") => h::Refusal::FutureRevision,
        Code::NotFound if text.contains("requested lease not found") => h::Refusal::LeaseNotFound,
        Code::FailedPrecondition if text.contains("lease already exists") => h::Refusal::LeaseExists,
        Code::InvalidArgument if text.contains("key not found") => h::Refusal::KeyNotFound,
        // Refused before anything was proposed, or by every member alike.
        Code::InvalidArgument | Code::ResourceExhausted | Code::FailedPrecondition => {
            h::Refusal::Other(text.to_owned())
        }
        _ => return h::Outcome::Unknown,
    };
    h::Outcome::Refused(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certain_refusals_count_as_refusals() {
        let refused = |code, text: &str| match outcome_of(&Status::new(code, text)) {
            h::Outcome::Refused(refusal) => Some(refusal),
            _ => None,
        };
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(refused(Code::OutOfRange, compacted), Some(h::Refusal::Compacted));
        let no_lease = "etcdserver: requested lease not found";
        assert_eq!(refused(Code::NotFound, no_lease), Some(h::Refusal::LeaseNotFound));
        assert_eq!(refused(Code::Unavailable, "etcdserver: leader changed"), None);
        assert_eq!(refused(Code::Unknown, "raft proposal dropped"), None);
        assert_eq!(refused(Code::DeadlineExceeded, ""), None);
    }
}
