//! The space quota, as far as it is asked before a request enters the log.

use folkmoot_core::codec;
use folkmoot_core::error::Error;

use crate::node::{CallError, NodeHandle};

/// What a lease costs in the quota's account, in bytes (etcd's).
pub const LEASE_COST_BYTES: u64 = 64;

/// Refuses a request that costs space when there is none left, and raises the alarm then.
///
/// # Errors
/// `NoSpace`; asked before anything else about the request, as in etcd.
pub async fn check(node: &NodeHandle, cost: u64) -> Result<(), CallError> {
    let Some(quota) = node.settings().quota_bytes else { return Ok(()) };
    if cost == 0 || node.status().engine_total_bytes().saturating_add(cost) < quota {
        return Ok(());
    }
    // The answer is the same whether the alarm could be raised or not; the next request tries
    // again.
    let _ = node.propose(codec::cluster::activate_no_space(node.member_id())).await;
    Err(Error::NoSpace.into())
}
