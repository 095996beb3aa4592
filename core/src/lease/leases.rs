//! The leases every member knows, and which keys hang on them.
//!
//! Invariants: the id of a lease is never 0; `0 < granted_ttl`; a checkpointed remainder is not
//! negative; a key stands in at most one lease (kept by apply, which detaches before it
//! attaches); nothing here depends on time or on which member it is.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::env::{Engine, Family, for_each_row};
use crate::error::{Error, Fatal};
use crate::limits::LEASE_TTL_MAX;
use crate::types::{LeaseId, LogIndex};

use super::keys::LeaseKeys;
use super::rows;

/// One lease as it is replicated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Seconds promised at every grant and renewal; at least 1.
    pub granted_ttl: i64,
    /// Seconds that were left at the last checkpoint, 0 when there is none. A new leader counts
    /// from here.
    pub remaining_ttl: i64,
    /// The log entry that granted it. A lease that is granted again under an old id differs from
    /// the old one in this.
    pub granted_at: LogIndex,
    keys: LeaseKeys,
}

impl Lease {
    pub(super) fn new(granted_ttl: i64, remaining_ttl: i64, granted_at: LogIndex) -> Self {
        Self { granted_ttl, remaining_ttl, granted_at, keys: LeaseKeys::default() }
    }

    /// The keys that are deleted with the lease.
    pub fn keys(&self) -> &LeaseKeys {
        &self.keys
    }

    /// The seconds that a new leader grants: the checkpointed remainder, or everything.
    pub fn ttl_after_promotion(&self) -> i64 {
        if self.remaining_ttl > 0 { self.remaining_ttl } else { self.granted_ttl }
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
}

impl Leases {
    /// No leases.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads all leases back, without their keys: call [`Leases::attach`] for every live key
    /// that has a lease.
    ///
    /// # Errors
    /// The engine failed, or a row is damaged.
    pub fn load(engine: &dyn Engine) -> Result<Self, Fatal> {
        let mut leases = Self::default();
        let mut failure = None;
        for_each_row(engine, Family::Lease, |key, value| match rows::decode(key, value) {
            Ok((id, lease)) => {
                leases.by_id.insert(id, lease);
                ControlFlow::Continue(())
            }
            Err(fatal) => {
                failure = Some(fatal);
                ControlFlow::Break(())
            }
        })?;
        failure.map_or(Ok(leases), Err)
    }

    /// Adds a lease and returns its effective time to live in seconds, which is `min_ttl` when
    /// less was asked for (zero and negative included).
    ///
    /// # Errors
    /// `LeaseTtlTooLarge` above [`LEASE_TTL_MAX`], then `LeaseExist`.
    pub fn grant(&mut self, id: LeaseId, ttl_seconds: i64, min_ttl: i64) -> Result<i64, Error> {
        if ttl_seconds > LEASE_TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.by_id.contains_key(&id) {
            return Err(Error::LeaseExist);
        }
        let granted = ttl_seconds.max(min_ttl).clamp(1, LEASE_TTL_MAX);
        self.by_id.insert(id, Lease::new(granted, 0, LogIndex(0)));
        Ok(granted)
    }

    /// Notes which log entry granted a lease; without effect if there is no such lease.
    pub fn granted_at(&mut self, id: LeaseId, index: LogIndex) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.granted_at = index;
        }
    }

    /// Removes a lease and returns its keys in byte order, which the caller deletes.
    ///
    /// # Errors
    /// `LeaseNotFound`
    pub fn revoke(&mut self, id: LeaseId) -> Result<Vec<Bytes>, Error> {
        let lease = self.by_id.remove(&id).ok_or(Error::LeaseNotFound)?;
        Ok(lease.keys.into_sorted())
    }

    /// Hangs a key on a lease. Attaching it twice is the same as once.
    ///
    /// # Errors
    /// `LeaseNotFound`
    pub fn attach(&mut self, id: LeaseId, key: Bytes) -> Result<(), Error> {
        self.by_id.get_mut(&id).ok_or(Error::LeaseNotFound)?.keys.insert(key);
        Ok(())
    }

    /// Takes a key off a lease; a lease that is gone or a key that is not there is fine (a revoke
    /// removes the lease before its keys).
    pub fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// Sets the seconds from which a new leader would count; 0 clears it.
    ///
    /// # Errors
    /// `LeaseNotFound`
    pub fn checkpoint(&mut self, id: LeaseId, remaining_seconds: i64) -> Result<(), Error> {
        let lease = self.by_id.get_mut(&id).ok_or(Error::LeaseNotFound)?;
        lease.remaining_ttl = remaining_seconds.clamp(0, LEASE_TTL_MAX);
        Ok(())
    }

    /// The lease of this id.
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    /// Whether the lease exists.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// All ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.by_id.keys().copied()
    }

    /// All leases, ascending by id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease))
    }

    /// The leases with larger ids than `after`, ascending; all of them for `None`.
    pub(super) fn iter_after(&self, after: Option<LeaseId>) -> impl Iterator<Item = (LeaseId, &Lease)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_id.range((from, Bound::Unbounded)).map(|(id, lease)| (*id, lease))
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{MemoryEngine, WriteBatch};

    fn id(number: i64) -> LeaseId {
        LeaseId::from_wire(number).expect("not zero")
    }

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_short_lease_is_raised_to_the_minimum_and_a_huge_one_is_refused() {
        let mut leases = Leases::new();
        assert_eq!(leases.grant(id(1), 0, 2), Ok(2));
        assert_eq!(leases.grant(id(2), -5, 2), Ok(2));
        assert_eq!(leases.grant(id(3), 60, 2), Ok(60));
        assert_eq!(leases.grant(id(4), LEASE_TTL_MAX, 2), Ok(LEASE_TTL_MAX));
        assert_eq!(leases.grant(id(5), LEASE_TTL_MAX + 1, 2), Err(Error::LeaseTtlTooLarge));
        // The size is checked first: etcd answers a duplicate that is too large this way.
        assert_eq!(leases.grant(id(4), LEASE_TTL_MAX + 1, 2), Err(Error::LeaseTtlTooLarge));
        assert_eq!(leases.grant(id(3), 60, 2), Err(Error::LeaseExist));
        assert!(!leases.contains(id(5)));
    }

    #[test]
    fn negative_lease_ids_are_ordinary() {
        let mut leases = Leases::new();
        leases.grant(id(-7), 10, 2).unwrap();
        leases.attach(id(-7), key("a")).unwrap();
        assert_eq!(leases.revoke(id(-7)), Ok(vec![key("a")]));
        assert_eq!(leases.revoke(id(-7)), Err(Error::LeaseNotFound));
    }

    #[test]
    fn a_revoke_hands_out_the_keys_in_byte_order() {
        let mut leases = Leases::new();
        leases.grant(id(1), 10, 2).unwrap();
        for text in ["b", "a\u{0}", "a", "c", "b"] {
            leases.attach(id(1), key(text)).unwrap();
        }
        leases.detach(id(1), b"c");
        leases.detach(id(1), b"not there");
        leases.detach(id(9), b"a");
        assert_eq!(leases.revoke(id(1)), Ok(vec![key("a"), key("a\u{0}"), key("b")]));
        assert_eq!(leases.attach(id(1), key("a")), Err(Error::LeaseNotFound));
    }

    #[test]
    fn a_checkpoint_is_where_a_new_leader_counts_from_until_it_is_cleared() {
        let mut leases = Leases::new();
        leases.grant(id(1), 600, 2).unwrap();
        assert_eq!(leases.get(id(1)).unwrap().ttl_after_promotion(), 600);
        leases.checkpoint(id(1), 200).unwrap();
        assert_eq!(leases.get(id(1)).unwrap().ttl_after_promotion(), 200);
        leases.checkpoint(id(1), 0).unwrap();
        assert_eq!(leases.get(id(1)).unwrap().ttl_after_promotion(), 600);
        assert_eq!(leases.checkpoint(id(2), 1), Err(Error::LeaseNotFound));
    }

    #[test]
    fn leases_come_back_from_their_rows() {
        let engine = MemoryEngine::new();
        let mut leases = Leases::new();
        for number in [-3, 1, 99, i64::MIN, i64::MAX] {
            leases.grant(id(number), 100 + number.unsigned_abs().min(7) as i64, 2).unwrap();
        }
        leases.checkpoint(id(99), 33).unwrap();
        let mut batch = WriteBatch::new();
        for (id, lease) in leases.iter() {
            batch.put(Family::Lease, &rows::key(id), &rows::encode(lease));
        }
        engine.write(&batch).unwrap();
        assert_eq!(Leases::load(&engine), Ok(leases));

        let mut batch = WriteBatch::new();
        batch.put(Family::Lease, b"short", b"");
        engine.write(&batch).unwrap();
        assert!(matches!(Leases::load(&engine), Err(Fatal::Damaged(_))));
    }
}
