//! What is asked of every call before its service sees it, in etcd's order.

use folkmoot_core::error::Error;
use http::HeaderMap;

use super::status;
use crate::node::NodeHandle;

const CLIENT_API_VERSION: &str = "client-api-version";
const HAS_LEADER: &str = "hasleader";

/// Calls that a learner serves, beside serializable ranges, which only the service can tell.
const LEARNER_METHODS: [&str; 3] =
    ["/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/Snapshot", "/etcdserverpb.KV/Range"];

/// What a member whose state is wrong still serves: what an operator needs to find and mend it.
const CORRUPT_SERVICES: [&str; 3] = ["/etcdserverpb.Maintenance/", "/etcdserverpb.Cluster/", "/grpc.health."];

/// Checks a call by its path and metadata.
///
/// # Errors
/// The status that ends the call.
pub fn check_call(node: &NodeHandle, path: &str, metadata: &HeaderMap) -> Result<(), tonic::Status> {
    if node.status().cluster_version().is_empty() {
        return Err(status(Error::NotCapable));
    }
    if node.status().corrupt() && !CORRUPT_SERVICES.iter().any(|service| path.starts_with(service)) {
        return Err(status(Error::Corrupt));
    }
    if node.status().learner() && !LEARNER_METHODS.contains(&path) {
        return Err(status(Error::NotSupportedForLearner));
    }
    if let Some(version) = metadata.get(CLIENT_API_VERSION)
        && std::str::from_utf8(version.as_bytes()).is_err()
    {
        return Err(status(Error::InvalidClientApiVersion));
    }
    if requires_leader(metadata) && node.status().leader().is_none() {
        return Err(status(Error::NoLeader));
    }
    Ok(())
}

/// Whether the client wants no answer without a leader.
pub fn requires_leader(metadata: &HeaderMap) -> bool {
    metadata.get(HAS_LEADER).is_some_and(|value| value == "true")
}
