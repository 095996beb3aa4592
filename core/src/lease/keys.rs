//! The keys of one lease, in byte order.
//!
//! Most leases hold one key, some hold a hundred thousand. A few keys stand in a sorted list, a
//! tree takes over above that: an ordered tree alone costs hundreds of bytes for its first key.

use std::collections::BTreeSet;

use bytes::Bytes;

const LISTED_MAX: usize = 16;

/// A set of keys, ordered bytewise.
#[derive(Clone, Debug, Default)]
pub struct LeaseKeys(Repr);

#[derive(Clone, Debug)]
enum Repr {
    /// Sorted, at most [`LISTED_MAX`] long.
    List(Vec<Bytes>),
    Tree(BTreeSet<Bytes>),
}

impl Default for Repr {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl LeaseKeys {
    /// Adds a key; says whether it was new.
    pub(super) fn insert(&mut self, key: Bytes) -> bool {
        match &mut self.0 {
            Repr::List(list) => match list.binary_search(&key) {
                Ok(_) => false,
                Err(at) if list.len() < LISTED_MAX => {
                    if list.is_empty() {
                        list.reserve_exact(1);
                    }
                    list.insert(at, key);
                    true
                }
                Err(_) => {
                    let mut tree: BTreeSet<Bytes> = std::mem::take(list).into_iter().collect();
                    tree.insert(key);
                    self.0 = Repr::Tree(tree);
                    true
                }
            },
            Repr::Tree(tree) => tree.insert(key),
        }
    }

    /// Removes a key; says whether it was there.
    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        match &mut self.0 {
            Repr::List(list) => match list.binary_search_by(|listed| listed.as_ref().cmp(key)) {
                Ok(at) => {
                    list.remove(at);
                    true
                }
                Err(_) => false,
            },
            Repr::Tree(tree) => tree.remove(key),
        }
    }

    /// Whether the key hangs on the lease.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.0 {
            Repr::List(list) => list.binary_search_by(|listed| listed.as_ref().cmp(key)).is_ok(),
            Repr::Tree(tree) => tree.contains(key),
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::List(list) => list.len(),
            Repr::Tree(tree) => tree.len(),
        }
    }

    /// Whether no key hangs on the lease.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys in byte order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        let (list, tree) = match &self.0 {
            Repr::List(list) => (Some(list), None),
            Repr::Tree(tree) => (None, Some(tree)),
        };
        list.into_iter().flatten().chain(tree.into_iter().flatten())
    }

    /// The keys in byte order, taken out.
    pub(super) fn into_sorted(self) -> Vec<Bytes> {
        match self.0 {
            Repr::List(list) => list,
            Repr::Tree(tree) => tree.into_iter().collect(),
        }
    }
}

impl PartialEq for LeaseKeys {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for LeaseKeys {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_of_a_lease_are_a_sorted_set_however_many_there_are(
            steps in prop::collection::vec((any::<bool>(), 0u8..40), 0..200)
        ) {
            let mut keys = LeaseKeys::default();
            let mut twin = BTreeSet::new();
            for (add, byte) in steps {
                let key = Bytes::from(vec![byte]);
                if add {
                    prop_assert_eq!(keys.insert(key.clone()), twin.insert(key));
                } else {
                    prop_assert_eq!(keys.remove(&key), twin.remove(&key));
                    prop_assert!(!keys.contains(&key));
                }
                prop_assert_eq!(keys.len(), twin.len());
                prop_assert!(keys.iter().eq(twin.iter()));
            }
            prop_assert!(keys.into_sorted().into_iter().eq(twin));
        }
    }
}
