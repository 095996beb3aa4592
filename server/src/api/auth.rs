//! The service Auth, while authentication cannot be turned on yet.
//!
//! What etcd answers while authentication was never enabled is answered so; making users and
//! roles is refused by name, so that nobody believes a store to be protected that is not.

use folkmoot_core::error::Error;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::auth_server;
use tonic::{Request, Response, Status};

use super::header::header_now;
use super::status;
use crate::node::NodeHandle;

/// Auth revision of a store whose users and roles never changed (etcd's).
const AUTH_REVISION_FIRST: u64 = 1;

/// See the module.
pub struct Auth {
    node: NodeHandle,
}

impl Auth {
    /// The service on this member.
    pub fn new(node: NodeHandle) -> Self {
        Self { node }
    }
}

fn not_built(what: &str) -> Status {
    Status::unimplemented(format!(
        "folkmoot: {what} is not supported yet: this version has no users and roles"
    ))
}

macro_rules! not_built {
    ($($method:ident($request:ident) -> $response:ident: $what:literal;)*) => {
        #[tonic::async_trait]
        impl auth_server::Auth for Auth {
            $(async fn $method(&self, _: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                Err(not_built($what))
            })*

            async fn auth_status(
                &self,
                _: Request<pb::AuthStatusRequest>,
            ) -> Result<Response<pb::AuthStatusResponse>, Status> {
                // etcd sends this through the log; a linearizable look tells the same.
                self.node.read_index().await.map_err(status)?;
                Ok(Response::new(pb::AuthStatusResponse {
                    header: header_now(&self.node),
                    enabled: false,
                    auth_revision: AUTH_REVISION_FIRST,
                }))
            }

            async fn auth_disable(
                &self,
                _: Request<pb::AuthDisableRequest>,
            ) -> Result<Response<pb::AuthDisableResponse>, Status> {
                // Off already, which etcd answers with success.
                self.node.read_index().await.map_err(status)?;
                Ok(Response::new(pb::AuthDisableResponse { header: header_now(&self.node) }))
            }

            async fn authenticate(
                &self,
                _: Request<pb::AuthenticateRequest>,
            ) -> Result<Response<pb::AuthenticateResponse>, Status> {
                Err(status(Error::AuthNotEnabled))
            }
        }
    };
}

not_built! {
    auth_enable(AuthEnableRequest) -> AuthEnableResponse: "enabling authentication";
    user_add(AuthUserAddRequest) -> AuthUserAddResponse: "adding a user";
    user_get(AuthUserGetRequest) -> AuthUserGetResponse: "reading a user";
    user_list(AuthUserListRequest) -> AuthUserListResponse: "listing users";
    user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse: "deleting a user";
    user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse: "changing a password";
    user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse: "granting a role";
    user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse: "revoking a role";
    role_add(AuthRoleAddRequest) -> AuthRoleAddResponse: "adding a role";
    role_get(AuthRoleGetRequest) -> AuthRoleGetResponse: "reading a role";
    role_list(AuthRoleListRequest) -> AuthRoleListResponse: "listing roles";
    role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse: "deleting a role";
    role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse: "granting a permission";
    role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse: "revoking a permission";
}
