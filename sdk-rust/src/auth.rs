//! Users, roles, and what they may do.

use bytes::Bytes;
use folkmoot_proto::authpb;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::auth_client::AuthClient;
use tonic::transport::Channel;

use crate::client::Client;
use crate::error::Result;
use crate::kv::Keys;
use crate::transport::Call;

fn stub(channel: Channel) -> AuthClient<Channel> {
    AuthClient::new(channel)
}

/// What a role may do with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Both.
    ReadWrite,
}

/// What a role may do with which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// What it may do.
    pub access: Access,
    /// The first key.
    pub key: Bytes,
    /// The end of the range; empty for the one key.
    pub range_end: Bytes,
}

impl From<authpb::Permission> for Permission {
    fn from(permission: authpb::Permission) -> Self {
        let access = match permission.perm_type() {
            authpb::permission::Type::Read => Access::Read,
            authpb::permission::Type::Write => Access::Write,
            authpb::permission::Type::Readwrite => Access::ReadWrite,
        };
        Self { access, key: permission.key, range_end: permission.range_end }
    }
}

macro_rules! rpc {
    ($self:ident, $method:ident, $message:expr) => {{
        let rpc = |channel, request| async move { stub(channel).$method(request).await };
        $self.core()?.unary(Call::once(), $message, rpc).await
    }};
}

/// The auth administration of a store. Keys here are those of the store, without the client's
/// namespace. All changes are sent once.
#[derive(Clone, Debug)]
pub struct Auth(Client);

impl Client {
    /// The auth administration.
    pub fn auth(&self) -> Auth {
        Auth(self.clone())
    }
}

impl Auth {
    fn core(&self) -> Result<std::sync::Arc<crate::transport::Core>> {
        self.0.core()
    }

    /// Switches auth on; needs a user `root` with the role `root`.
    pub async fn enable(&self) -> Result<()> {
        rpc!(self, auth_enable, pb::AuthEnableRequest {}).map(drop)
    }

    /// Switches auth off.
    pub async fn disable(&self) -> Result<()> {
        rpc!(self, auth_disable, pb::AuthDisableRequest {}).map(drop)
    }

    /// Whether auth is on.
    pub async fn is_enabled(&self) -> Result<bool> {
        rpc!(self, auth_status, pb::AuthStatusRequest {}).map(|answer: pb::AuthStatusResponse| answer.enabled)
    }

    /// Adds a user; without a password one that comes by certificate only.
    pub async fn user_add(&self, name: &str, password: Option<&str>) -> Result<()> {
        let message = pb::AuthUserAddRequest {
            name: name.to_owned(),
            password: password.unwrap_or_default().to_owned(),
            options: Some(authpb::UserAddOptions { no_password: password.is_none() }),
            hashed_password: String::new(),
        };
        rpc!(self, user_add, message).map(drop)
    }

    /// Deletes a user.
    pub async fn user_delete(&self, name: &str) -> Result<()> {
        rpc!(self, user_delete, pb::AuthUserDeleteRequest { name: name.to_owned() }).map(drop)
    }

    /// Sets a user's password.
    pub async fn user_change_password(&self, name: &str, password: &str) -> Result<()> {
        let message = pb::AuthUserChangePasswordRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            hashed_password: String::new(),
        };
        rpc!(self, user_change_password, message).map(drop)
    }

    /// A user's roles.
    pub async fn user_roles(&self, name: &str) -> Result<Vec<String>> {
        rpc!(self, user_get, pb::AuthUserGetRequest { name: name.to_owned() })
            .map(|answer: pb::AuthUserGetResponse| answer.roles)
    }

    /// All users.
    pub async fn users(&self) -> Result<Vec<String>> {
        rpc!(self, user_list, pb::AuthUserListRequest {}).map(|answer: pb::AuthUserListResponse| answer.users)
    }

    /// Gives a user a role.
    pub async fn user_grant_role(&self, user: &str, role: &str) -> Result<()> {
        let message = pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
        rpc!(self, user_grant_role, message).map(drop)
    }

    /// Takes a role from a user.
    pub async fn user_revoke_role(&self, user: &str, role: &str) -> Result<()> {
        let message = pb::AuthUserRevokeRoleRequest { name: user.to_owned(), role: role.to_owned() };
        rpc!(self, user_revoke_role, message).map(drop)
    }

    /// Adds a role.
    pub async fn role_add(&self, name: &str) -> Result<()> {
        rpc!(self, role_add, pb::AuthRoleAddRequest { name: name.to_owned() }).map(drop)
    }

    /// Deletes a role.
    pub async fn role_delete(&self, role: &str) -> Result<()> {
        rpc!(self, role_delete, pb::AuthRoleDeleteRequest { role: role.to_owned() }).map(drop)
    }

    /// What a role may do.
    pub async fn role_permissions(&self, role: &str) -> Result<Vec<Permission>> {
        let message = pb::AuthRoleGetRequest { role: role.to_owned() };
        let answer: pb::AuthRoleGetResponse = rpc!(self, role_get, message)?;
        Ok(answer.perm.into_iter().map(Permission::from).collect())
    }

    /// All roles.
    pub async fn roles(&self) -> Result<Vec<String>> {
        rpc!(self, role_list, pb::AuthRoleListRequest {}).map(|answer: pb::AuthRoleListResponse| answer.roles)
    }

    /// Lets a role do something with these keys.
    pub async fn role_grant(&self, role: &str, keys: impl Into<Keys>, access: Access) -> Result<()> {
        let (key, range_end) = keys.into().wire(&Default::default());
        let perm_type = match access {
            Access::Read => authpb::permission::Type::Read,
            Access::Write => authpb::permission::Type::Write,
            Access::ReadWrite => authpb::permission::Type::Readwrite,
        };
        let perm = authpb::Permission { perm_type: perm_type.into(), key, range_end };
        let message = pb::AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) };
        rpc!(self, role_grant_permission, message).map(drop)
    }

    /// Takes from a role what it may do with exactly these keys.
    pub async fn role_revoke(&self, role: &str, keys: impl Into<Keys>) -> Result<()> {
        let (key, range_end) = keys.into().wire(&Default::default());
        let message = pb::AuthRoleRevokePermissionRequest { role: role.to_owned(), key, range_end };
        rpc!(self, role_revoke_permission, message).map(drop)
    }
}
