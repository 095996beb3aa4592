//! Leases, members, maintenance, users and roles.

use folkmoot_bridge as bridge;
use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::call::{buffer, call, in_millis, millis, signed, unsigned};
use super::client::{Client, SnapshotStream};
use super::kv::{Header, Keys};

#[napi(object)]
pub struct Lease {
    pub id: BigInt,
    pub ttl_ms: f64,
}

impl From<bridge::LeaseRecord> for Lease {
    fn from(lease: bridge::LeaseRecord) -> Self {
        Self { id: lease.id.into(), ttl_ms: in_millis(lease.ttl) }
    }
}

#[napi(object)]
pub struct LeaseTtl {
    pub granted_ms: f64,
    pub remaining_ms: f64,
    pub keys: Vec<Buffer>,
}

#[napi(object)]
pub struct Member {
    pub id: BigInt,
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

impl From<bridge::MemberRecord> for Member {
    fn from(member: bridge::MemberRecord) -> Self {
        let bridge::MemberRecord { id, name, peer_urls, client_urls, is_learner } = member;
        Self { id: id.into(), name, peer_urls, client_urls, is_learner }
    }
}

fn members(members: Vec<bridge::MemberRecord>) -> Vec<Member> {
    members.into_iter().map(Into::into).collect()
}

#[napi(object)]
pub struct MemberStatus {
    pub header: Header,
    pub version: String,
    pub db_size_bytes: BigInt,
    pub db_size_in_use_bytes: BigInt,
    pub leader: BigInt,
    pub raft_index: BigInt,
    pub raft_term: BigInt,
    pub raft_applied_index: BigInt,
    pub errors: Vec<String>,
    pub is_learner: bool,
}

impl From<bridge::StatusRecord> for MemberStatus {
    fn from(status: bridge::StatusRecord) -> Self {
        Self {
            header: status.header.into(),
            version: status.version,
            db_size_bytes: status.db_size_bytes.into(),
            db_size_in_use_bytes: status.db_size_in_use_bytes.into(),
            leader: status.leader.into(),
            raft_index: status.raft_index.into(),
            raft_term: status.raft_term.into(),
            raft_applied_index: status.raft_applied_index.into(),
            errors: status.errors,
            is_learner: status.is_learner,
        }
    }
}

#[napi(object)]
pub struct Alarm {
    pub member_id: BigInt,
    /// `no-space` or `corrupt`.
    pub kind: String,
}

fn alarms(alarms: Vec<bridge::AlarmRecord>) -> Vec<Alarm> {
    let alarm = |alarm: bridge::AlarmRecord| Alarm {
        member_id: alarm.member_id.into(),
        kind: if alarm.is_corrupt { "corrupt" } else { "no-space" }.to_owned(),
    };
    alarms.into_iter().map(alarm).collect()
}

#[napi(object)]
pub struct HashKv {
    pub header: Header,
    pub hash: u32,
    pub compact_revision: BigInt,
}

#[napi(object)]
pub struct Permission {
    pub read: bool,
    pub write: bool,
    pub key: Buffer,
    pub range_end: Buffer,
}

#[napi]
impl Client {
    #[napi]
    pub fn lease_grant<'e>(
        &self,
        env: &'e Env,
        ttl_ms: f64,
        id: Option<BigInt>,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Lease>> {
        let (client, ttl) = (self.0.clone(), millis(ttl_ms)?);
        let id = id.as_ref().map(signed).transpose()?;
        call(env, cancel, async move { client.lease_grant(ttl, id).await }, Lease::from)
    }

    #[napi]
    pub fn lease_revoke<'e>(
        &self,
        env: &'e Env,
        id: BigInt,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, bool>> {
        let (client, id) = (self.0.clone(), signed(&id)?);
        call(env, cancel, async move { client.lease_revoke(id).await }, |there| there)
    }

    #[napi]
    pub fn lease_ttl<'e>(
        &self,
        env: &'e Env,
        id: BigInt,
        keys: bool,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Option<LeaseTtl>>> {
        fn left(left: Option<bridge::LeaseTtlRecord>) -> Option<LeaseTtl> {
            left.map(|left| LeaseTtl {
                granted_ms: in_millis(left.granted),
                remaining_ms: in_millis(left.remaining),
                keys: left.keys.iter().map(buffer).collect(),
            })
        }
        let (client, id) = (self.0.clone(), signed(&id)?);
        call(env, cancel, async move { client.lease_ttl(id, keys).await }, left)
    }

    #[napi]
    pub fn lease_renew<'e>(
        &self,
        env: &'e Env,
        id: BigInt,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Lease>> {
        let (client, id) = (self.0.clone(), signed(&id)?);
        call(env, cancel, async move { client.lease_renew(id).await }, Lease::from)
    }

    #[napi]
    pub fn leases<'e>(&self, env: &'e Env, cancel: Option<u32>) -> Result<PromiseRaw<'e, Vec<BigInt>>> {
        let client = self.0.clone();
        call(env, cancel, async move { client.leases().await }, |ids| {
            ids.into_iter().map(BigInt::from).collect()
        })
    }

    #[napi]
    pub fn members<'e>(&self, env: &'e Env, cancel: Option<u32>) -> Result<PromiseRaw<'e, Vec<Member>>> {
        let client = self.0.clone();
        call(env, cancel, async move { client.members().await }, members)
    }

    #[napi]
    pub fn member_add<'e>(
        &self,
        env: &'e Env,
        peer_urls: Vec<String>,
        learner: bool,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Member>> {
        let client = self.0.clone();
        call(env, cancel, async move { client.member_add(peer_urls, learner).await }, Member::from)
    }

    #[napi]
    pub fn member_remove<'e>(
        &self,
        env: &'e Env,
        id: BigInt,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Vec<Member>>> {
        let (client, id) = (self.0.clone(), unsigned(&id)?);
        call(env, cancel, async move { client.member_remove(id).await }, members)
    }

    #[napi]
    pub fn member_update<'e>(
        &self,
        env: &'e Env,
        id: BigInt,
        peer_urls: Vec<String>,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Vec<Member>>> {
        let (client, id) = (self.0.clone(), unsigned(&id)?);
        call(env, cancel, async move { client.member_update(id, peer_urls).await }, members)
    }

    #[napi]
    pub fn member_promote<'e>(
        &self,
        env: &'e Env,
        id: BigInt,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Vec<Member>>> {
        let (client, id) = (self.0.clone(), unsigned(&id)?);
        call(env, cancel, async move { client.member_promote(id).await }, members)
    }

    #[napi]
    pub fn status<'e>(
        &self,
        env: &'e Env,
        endpoint: String,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, MemberStatus>> {
        let client = self.0.clone();
        call(env, cancel, async move { client.status(endpoint).await }, MemberStatus::from)
    }

    #[napi]
    pub fn alarms<'e>(&self, env: &'e Env, cancel: Option<u32>) -> Result<PromiseRaw<'e, Vec<Alarm>>> {
        let client = self.0.clone();
        call(env, cancel, async move { client.alarms().await }, alarms)
    }

    #[napi]
    pub fn alarm_disarm<'e>(
        &self,
        env: &'e Env,
        alarm: Alarm,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Vec<Alarm>>> {
        let record = bridge::AlarmRecord {
            member_id: unsigned(&alarm.member_id)?,
            is_corrupt: alarm.kind == "corrupt",
        };
        let client = self.0.clone();
        call(env, cancel, async move { client.alarm_disarm(record).await }, alarms)
    }

    #[napi]
    pub fn defragment<'e>(
        &self,
        env: &'e Env,
        endpoint: String,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, ()>> {
        let client = self.0.clone();
        call(env, cancel, async move { client.defragment(endpoint).await }, |()| ())
    }

    #[napi]
    pub fn hash_kv<'e>(
        &self,
        env: &'e Env,
        endpoint: String,
        revision: BigInt,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, HashKv>> {
        fn hash(hash: bridge::HashRecord) -> HashKv {
            HashKv {
                header: hash.header.into(),
                hash: hash.hash,
                compact_revision: hash.compact_revision.into(),
            }
        }
        let (client, revision) = (self.0.clone(), signed(&revision)?);
        call(env, cancel, async move { client.hash_kv(endpoint, revision).await }, hash)
    }

    #[napi]
    pub fn move_leader<'e>(
        &self,
        env: &'e Env,
        endpoint: String,
        target: BigInt,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, ()>> {
        let (client, target) = (self.0.clone(), unsigned(&target)?);
        call(env, cancel, async move { client.move_leader(endpoint, target).await }, |()| ())
    }

    #[napi]
    pub fn snapshot<'e>(
        &self,
        env: &'e Env,
        endpoint: String,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, SnapshotStream>> {
        let client = self.0.clone();
        call(env, cancel, async move { client.snapshot(endpoint).await }, SnapshotStream)
    }

    #[napi]
    pub fn auth(&self) -> Auth {
        Auth(self.0.auth())
    }
}

#[napi]
pub struct Auth(bridge::Auth);

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $output:ty;)*) => {
        #[napi]
        impl Auth {
            $(#[napi]
            pub fn $name<'e>(&self, env: &'e Env, $($arg: $type,)* cancel: Option<u32>) -> Result<PromiseRaw<'e, $output>> {
                let auth = self.0.clone();
                call(env, cancel, async move { auth.$name($($arg),*).await }, |done| done)
            })*
        }
    };
}

forward! {
    enable() -> ();
    disable() -> ();
    is_enabled() -> bool;
    user_add(name: String, password: Option<String>) -> ();
    user_delete(name: String) -> ();
    user_change_password(name: String, password: String) -> ();
    user_roles(name: String) -> Vec<String>;
    users() -> Vec<String>;
    user_grant_role(user: String, role: String) -> ();
    user_revoke_role(user: String, role: String) -> ();
    role_add(name: String) -> ();
    role_delete(role: String) -> ();
    roles() -> Vec<String>;
}

#[napi]
impl Auth {
    #[napi]
    pub fn role_grant<'e>(
        &self,
        env: &'e Env,
        role: String,
        keys: Keys,
        read: bool,
        write: bool,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, ()>> {
        let (auth, keys) = (self.0.clone(), bridge::KeySet::try_from(&keys)?);
        call(env, cancel, async move { auth.role_grant(role, keys, read, write).await }, |()| ())
    }

    #[napi]
    pub fn role_revoke<'e>(
        &self,
        env: &'e Env,
        role: String,
        keys: Keys,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, ()>> {
        let (auth, keys) = (self.0.clone(), bridge::KeySet::try_from(&keys)?);
        call(env, cancel, async move { auth.role_revoke(role, keys).await }, |()| ())
    }

    #[napi]
    pub fn role_permissions<'e>(
        &self,
        env: &'e Env,
        role: String,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Vec<Permission>>> {
        fn permissions(found: Vec<bridge::PermissionRecord>) -> Vec<Permission> {
            let permission = |one: bridge::PermissionRecord| Permission {
                read: one.read,
                write: one.write,
                key: buffer(&one.key),
                range_end: buffer(&one.range_end),
            };
            found.into_iter().map(permission).collect()
        }
        let auth = self.0.clone();
        call(env, cancel, async move { auth.role_permissions(role).await }, permissions)
    }
}
