//! Leases, members, maintenance, users and roles.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use folkmoot_client as sdk;
use futures_util::{Stream, StreamExt as _};

use crate::client::Client;
use crate::edge::{Result, edge};
use crate::error::BridgeError;
use crate::kv::{HeaderRecord, KeySet};
use crate::stream::{Cell, Source, stream};

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Its id.
    pub id: i64,
    /// How long it lives without being renewed.
    pub ttl: Duration,
}

impl From<sdk::Lease> for LeaseRecord {
    fn from(lease: sdk::Lease) -> Self {
        Self { id: lease.id, ttl: lease.ttl }
    }
}

/// What is left of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTtlRecord {
    /// How long it lives without being renewed.
    pub granted: Duration,
    /// What of it is left.
    pub remaining: Duration,
    /// The keys that hang on it, if asked for.
    pub keys: Vec<Bytes>,
}

/// A member of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Whether it only listens.
    pub is_learner: bool,
}

impl From<sdk::Member> for MemberRecord {
    fn from(member: sdk::Member) -> Self {
        let sdk::Member { id, name, peer_urls, client_urls, is_learner } = member;
        Self { id, name, peer_urls, client_urls, is_learner }
    }
}

fn members(members: Vec<sdk::Member>) -> Vec<MemberRecord> {
    members.into_iter().map(Into::into).collect()
}

/// How a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRecord {
    /// Who answered, and when.
    pub header: HeaderRecord,
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

impl From<sdk::MemberStatus> for StatusRecord {
    fn from(status: sdk::MemberStatus) -> Self {
        Self {
            header: status.header.into(),
            version: status.version,
            db_size_bytes: status.db_size_bytes,
            db_size_in_use_bytes: status.db_size_in_use_bytes,
            leader: status.leader,
            raft_index: status.raft_index,
            raft_term: status.raft_term,
            raft_applied_index: status.raft_applied_index,
            errors: status.errors,
            is_learner: status.is_learner,
        }
    }
}

/// An alarm of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmRecord {
    /// The member.
    pub member_id: u64,
    /// `true`: a member's data differ from the others'. `false`: the quota is used up.
    pub is_corrupt: bool,
}

fn alarms(alarms: Vec<sdk::Alarm>) -> Vec<AlarmRecord> {
    let record = |alarm: sdk::Alarm| AlarmRecord {
        member_id: alarm.member_id,
        is_corrupt: alarm.kind == sdk::AlarmKind::Corrupt,
    };
    alarms.into_iter().map(record).collect()
}

/// A hash over the keys of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashRecord {
    /// Who answered, and when.
    pub header: HeaderRecord,
    /// The hash.
    pub hash: u32,
    /// Before this revision history is compacted away.
    pub compact_revision: i64,
}

type Pieces = Pin<Box<dyn Stream<Item = sdk::Result<Bytes>> + Send>>;

pub(crate) struct Snapshot(Pieces);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Source for Snapshot {
    type Item = Bytes;
    const QUICK: bool = true;

    async fn pull(&mut self) -> Option<Result<Bytes>> {
        Some(self.0.next().await?.map_err(Into::into))
    }
}

stream! {
    /// A copy of one member's whole data, piece by piece. The last 32 bytes are a hash of the rest.
    SnapshotStream(Snapshot) -> Bytes
}

/// Calls that the store repeats harmlessly are repeated, others are sent once and may answer `AMBIGUOUS`. A
/// future that is dropped may have had its effect or not.
impl Client {
    /// Grants a lease that nobody renews; with an id of the caller's if given.
    pub async fn lease_grant(&self, ttl: Duration, id: Option<i64>) -> Result<LeaseRecord, BridgeError> {
        let client = self.sdk()?;
        edge(async {
            Ok(match id {
                Some(id) => client.lease_grant_as(id, ttl).await?.into(),
                None => client.lease_grant(ttl).await?.into(),
            })
        })
        .await
    }

    /// Ends a lease and deletes its keys. Answers whether there was one.
    pub async fn lease_revoke(&self, id: i64) -> Result<bool, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.lease_revoke(id).await?) }).await
    }

    /// What is left of a lease; `None` if it does not exist.
    pub async fn lease_ttl(&self, id: i64, keys: bool) -> Result<Option<LeaseTtlRecord>, BridgeError> {
        let client = self.sdk()?;
        edge(async {
            let record = |left: sdk::LeaseTtl| LeaseTtlRecord {
                granted: left.granted,
                remaining: left.remaining,
                keys: left.keys,
            };
            Ok(client.lease_ttl(id, keys).await?.map(record))
        })
        .await
    }

    /// Renews a lease once.
    pub async fn lease_renew(&self, id: i64) -> Result<LeaseRecord, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.lease_keep_alive_once(id).await?.into()) }).await
    }

    /// The ids of all leases.
    pub async fn leases(&self) -> Result<Vec<i64>, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.leases().await?) }).await
    }

    /// All members.
    pub async fn members(&self) -> Result<Vec<MemberRecord>, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(members(client.members().await?)) }).await
    }

    /// Adds a member, which is to be started afterwards.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        learner: bool,
    ) -> Result<MemberRecord, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.member_add(peer_urls, learner).await?.0.into()) }).await
    }

    /// Removes a member for good; answers with those that stay.
    pub async fn member_remove(&self, id: u64) -> Result<Vec<MemberRecord>, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(members(client.member_remove(id).await?)) }).await
    }

    /// Says where other members reach a member.
    pub async fn member_update(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<Vec<MemberRecord>, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(members(client.member_update(id, peer_urls).await?)) }).await
    }

    /// Lets a learner vote.
    pub async fn member_promote(&self, id: u64) -> Result<Vec<MemberRecord>, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(members(client.member_promote(id).await?)) }).await
    }

    /// How the member at this endpoint is.
    pub async fn status(&self, endpoint: String) -> Result<StatusRecord, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.status(&endpoint).await?.into()) }).await
    }

    /// All alarms.
    pub async fn alarms(&self) -> Result<Vec<AlarmRecord>, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(alarms(client.alarms().await?)) }).await
    }

    /// Ends an alarm; answers with those that were ended.
    pub async fn alarm_disarm(&self, alarm: AlarmRecord) -> Result<Vec<AlarmRecord>, BridgeError> {
        let client = self.sdk()?;
        edge(async {
            let kind = if alarm.is_corrupt { sdk::AlarmKind::Corrupt } else { sdk::AlarmKind::NoSpace };
            Ok(alarms(client.alarm_disarm(sdk::Alarm { member_id: alarm.member_id, kind }).await?))
        })
        .await
    }

    /// Gives the space of the member at this endpoint back to its disk.
    pub async fn defragment(&self, endpoint: String) -> Result<(), BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.defragment(&endpoint).await?) }).await
    }

    /// Hashes the keys of the member at this endpoint up to a revision, 0 for all.
    pub async fn hash_kv(&self, endpoint: String, revision: i64) -> Result<HashRecord, BridgeError> {
        let client = self.sdk()?;
        edge(async {
            let sdk::HashKv { header, hash, compact_revision } = client.hash_kv(&endpoint, revision).await?;
            Ok(HashRecord { header: header.into(), hash, compact_revision })
        })
        .await
    }

    /// Makes another member the leader. The endpoint is the present leader's.
    pub async fn move_leader(&self, endpoint: String, target: u64) -> Result<(), BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.move_leader(&endpoint, target).await?) }).await
    }

    /// Begins a copy of the data of the member at this endpoint.
    pub async fn snapshot(&self, endpoint: String) -> Result<SnapshotStream, BridgeError> {
        let client = self.sdk()?;
        edge(async {
            let pieces: Pieces = Box::pin(client.snapshot(&endpoint).await?);
            Ok(SnapshotStream(Cell::new(Snapshot(pieces))))
        })
        .await
    }

    /// The administration of users and roles.
    pub fn auth(&self) -> Auth {
        Auth(self.clone())
    }
}

/// What a role may do with which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionRecord {
    /// Whether it may read.
    pub read: bool,
    /// Whether it may write.
    pub write: bool,
    /// The first key.
    pub key: Bytes,
    /// The end of the range; empty for the one key, one zero for no end.
    pub range_end: Bytes,
}

/// Users and roles. Keys are those of the store, without the client's namespace. All changes are sent once.
#[derive(Clone, Debug)]
pub struct Auth(Client);

macro_rules! forward {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty => $pass:expr),*) -> $output:ty;)*) => {
        $($(#[$doc])*
        pub async fn $name(&self, $($arg: $type),*) -> Result<$output, BridgeError> {
            let auth = self.0.sdk()?.auth();
            edge(async { Ok(auth.$name($($pass),*).await?) }).await
        })*
    };
}

impl Auth {
    forward! {
        /// Switches auth on; needs a user `root` with the role `root`.
        enable() -> ();
        /// Switches auth off.
        disable() -> ();
        /// Whether auth is on.
        is_enabled() -> bool;
        /// Adds a user; without a password one that comes by certificate only.
        user_add(name: String => &name, password: Option<String> => password.as_deref()) -> ();
        /// Deletes a user.
        user_delete(name: String => &name) -> ();
        /// Sets a user's password.
        user_change_password(name: String => &name, password: String => &password) -> ();
        /// A user's roles.
        user_roles(name: String => &name) -> Vec<String>;
        /// All users.
        users() -> Vec<String>;
        /// Gives a user a role.
        user_grant_role(user: String => &user, role: String => &role) -> ();
        /// Takes a role from a user.
        user_revoke_role(user: String => &user, role: String => &role) -> ();
        /// Adds a role.
        role_add(name: String => &name) -> ();
        /// Deletes a role.
        role_delete(role: String => &role) -> ();
        /// All roles.
        roles() -> Vec<String>;
        /// Takes from a role what it may do with exactly these keys.
        role_revoke(role: String => &role, keys: KeySet => keys) -> ();
    }

    /// Lets a role read these keys, write them, or both.
    pub async fn role_grant(
        &self,
        role: String,
        keys: KeySet,
        read: bool,
        write: bool,
    ) -> Result<(), BridgeError> {
        let access = match (read, write) {
            (true, true) => sdk::Access::ReadWrite,
            (true, false) => sdk::Access::Read,
            (false, true) => sdk::Access::Write,
            (false, false) => {
                return Err(BridgeError::argument("read", "a permission is to read, to write or both"));
            }
        };
        let auth = self.0.sdk()?.auth();
        edge(async { Ok(auth.role_grant(&role, keys, access).await?) }).await
    }

    /// What a role may do.
    pub async fn role_permissions(&self, role: String) -> Result<Vec<PermissionRecord>, BridgeError> {
        let auth = self.0.sdk()?.auth();
        edge(async {
            let record = |permission: sdk::Permission| PermissionRecord {
                read: permission.access != sdk::Access::Write,
                write: permission.access != sdk::Access::Read,
                key: permission.key,
                range_end: permission.range_end,
            };
            Ok(auth.role_permissions(&role).await?.into_iter().map(record).collect())
        })
        .await
    }
}
