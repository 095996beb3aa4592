//! The bytes of a lease in [`crate::env::Family::Lease`].
//!
//! Key: the id, u64 big-endian (two's complement of a negative id). Value: granted time to live
//! uv, checkpointed remainder uv (0 for none), both in seconds, log index of the grant uv. The keys of a lease are not
//! stored here: every key's record names its lease.

use bytes::Buf;

use crate::command::{get_uv, put_uv};
use crate::error::Fatal;
use crate::limits::LEASE_TTL_MAX;
use crate::types::{LeaseId, LogIndex};

use super::Lease;

/// The row key of a lease.
pub fn key(id: LeaseId) -> [u8; 8] {
    id.get().to_be_bytes()
}

/// The row value of a lease.
pub fn encode(lease: &Lease) -> Vec<u8> {
    let mut value = Vec::with_capacity(6);
    put_uv(&mut value, lease.granted_ttl.unsigned_abs());
    put_uv(&mut value, lease.remaining_ttl.unsigned_abs());
    put_uv(&mut value, lease.granted_at.0);
    value
}

/// Reads a row back; the lease comes without keys.
///
/// # Errors
/// `Damaged` when the bytes are not what [`key`] and [`encode`] write.
pub fn decode(key: &[u8], value: &[u8]) -> Result<(LeaseId, Lease), Fatal> {
    let damaged =
        |what: &str| Fatal::Damaged(format!("lease row has {what} key={key:02x?} value={value:02x?}"));
    let id = <[u8; 8]>::try_from(key)
        .ok()
        .and_then(|bytes| LeaseId::from_wire(i64::from_be_bytes(bytes)))
        .ok_or_else(|| damaged("a bad key"))?;
    let mut rest = value;
    let mut seconds = || {
        get_uv(&mut rest)
            .and_then(|seconds| i64::try_from(seconds).ok())
            .filter(|seconds| *seconds <= LEASE_TTL_MAX)
            .ok_or_else(|| damaged("a bad value"))
    };
    let granted_ttl = seconds()?;
    let remaining_ttl = seconds()?;
    let granted_at = LogIndex(get_uv(&mut rest).ok_or_else(|| damaged("a bad value"))?);
    if granted_ttl == 0 || rest.has_remaining() {
        return Err(damaged("a bad value"));
    }
    Ok((id, Lease::new(granted_ttl, remaining_ttl, granted_at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lease_row_reads_back_as_it_was_written(
            id in any::<i64>().prop_filter("no lease", |id| *id != 0),
            granted in 1..=LEASE_TTL_MAX,
            remaining in 0..=LEASE_TTL_MAX,
            at in any::<u64>(),
        ) {
            let id = LeaseId::from_wire(id).expect("filtered");
            let lease = Lease::new(granted, remaining, LogIndex(at));
            let (read_id, read) = decode(&key(id), &encode(&lease)).unwrap();
            prop_assert_eq!(read_id, id);
            prop_assert_eq!(read, lease);
        }

        #[test]
        fn any_bytes_give_a_lease_or_an_error(
            key in prop::collection::vec(any::<u8>(), 0..12),
            value in prop::collection::vec(any::<u8>(), 0..24),
        ) {
            if let Ok((id, lease)) = decode(&key, &value) {
                prop_assert_eq!(super::key(id).to_vec(), key);
                prop_assert!(lease.granted_ttl > 0 && lease.remaining_ttl >= 0);
            }
        }
    }
}
