//! Lease requests in the log.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use folkmoot_proto::etcdserverpb as pb;
use prost::Message as _;

use crate::command::{Command, Kind};
use crate::error::Fatal;
use crate::types::{LeaseId, LogIndex, Term};

fn unreadable(what: &str) -> Fatal {
    Fatal::Entry(format!("a {what} command cannot be decoded"))
}

/// A grant.
pub fn grant(id: i64, ttl: i64) -> Command {
    let body = pb::LeaseGrantRequest { ttl, id }.encode_to_vec().into();
    Command { kind: Kind::LeaseGrant, body }
}

/// Reads a grant: id (0 for none) and seconds.
pub fn decode_grant(body: Bytes) -> Result<(i64, i64), Fatal> {
    let request = pb::LeaseGrantRequest::decode(body).map_err(|_| unreadable("lease grant"))?;
    Ok((request.id, request.ttl))
}

/// A revoke by a client.
pub fn revoke(id: i64) -> Command {
    let body = pb::LeaseRevokeRequest { id }.encode_to_vec().into();
    Command { kind: Kind::LeaseRevoke, body }
}

/// Reads a revoke.
pub fn decode_revoke(body: Bytes) -> Result<i64, Fatal> {
    Ok(pb::LeaseRevokeRequest::decode(body).map_err(|_| unreadable("lease revoke"))?.id)
}

/// The end of leases whose time is up, each with the log entry that granted it, proposed by the
/// leader of `term`.
pub fn expire(term: Term, leases: &[(LeaseId, LogIndex)]) -> Command {
    let mut body = BytesMut::with_capacity(8 + 16 * leases.len());
    body.put_u64_le(term.0);
    for (id, granted_at) in leases {
        body.put_i64_le(id.get());
        body.put_u64_le(granted_at.0);
    }
    Command { kind: Kind::LeaseExpire, body: body.freeze() }
}

/// Reads the proposing term and the leases.
pub fn decode_expire(mut body: Bytes) -> Result<(Term, Vec<(LeaseId, LogIndex)>), Fatal> {
    if body.len() % 16 != 8 {
        return Err(unreadable("lease expiry"));
    }
    let term = Term(body.get_u64_le());
    let mut leases = Vec::with_capacity(body.len() / 16);
    while body.has_remaining() {
        let id = LeaseId::from_wire(body.get_i64_le()).ok_or_else(|| unreadable("lease expiry"))?;
        leases.push((id, LogIndex(body.get_u64_le())));
    }
    Ok((term, leases))
}

/// Remaining times to live that the leader wants remembered.
pub fn checkpoint(leases: &[(LeaseId, i64)]) -> Command {
    let checkpoints = leases
        .iter()
        .map(|(id, remaining)| pb::LeaseCheckpoint { id: id.get(), remaining_ttl: *remaining })
        .collect();
    let body = pb::LeaseCheckpointRequest { checkpoints }.encode_to_vec().into();
    Command { kind: Kind::LeaseCheckpoint, body }
}

/// Reads checkpoints; those without a lease id are skipped.
pub fn decode_checkpoint(body: Bytes) -> Result<Vec<(LeaseId, i64)>, Fatal> {
    let request = pb::LeaseCheckpointRequest::decode(body).map_err(|_| unreadable("lease checkpoint"))?;
    Ok(request
        .checkpoints
        .iter()
        .filter_map(|point| Some((LeaseId::from_wire(point.id)?, point.remaining_ttl)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries_read_back_and_torn_ones_are_refused() {
        let ids = [5, -7].into_iter().filter_map(LeaseId::from_wire);
        let leases: Vec<_> = ids.map(|id| (id, LogIndex(3))).collect();
        let command = expire(Term(9), &leases);
        assert_eq!(decode_expire(command.body.clone()).unwrap(), (Term(9), leases));
        assert!(decode_expire(command.body.slice(..11)).is_err());
        assert!(decode_expire(Bytes::new()).is_err());
    }
}
