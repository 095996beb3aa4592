//! What to read, put and delete.

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::range_request;

use crate::namespace::{Namespace, prefix_end};

/// The keys that a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    pub(crate) key: Bytes,
    /// Empty: the key alone; one zero: no end.
    pub(crate) end: Bytes,
}

impl Keys {
    /// One key.
    pub fn one(key: impl AsRef<[u8]>) -> Self {
        Self { key: Bytes::copy_from_slice(key.as_ref()), end: Bytes::new() }
    }

    /// All keys that begin like this; all there are for an empty prefix.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        let end = prefix_end(prefix);
        let key = if prefix.is_empty() { Bytes::from_static(b"\0") } else { Bytes::copy_from_slice(prefix) };
        Self { key, end }
    }

    /// All keys.
    pub fn all() -> Self {
        Self::prefix("")
    }

    /// The keys between two.
    pub fn range<K: AsRef<[u8]>>(range: impl RangeBounds<K>) -> Self {
        // The next key behind one is that key and a zero.
        let after = |key: &K| [key.as_ref(), b"\0"].concat();
        let key = match range.start_bound() {
            Bound::Included(key) => key.as_ref().to_owned(),
            Bound::Excluded(key) => after(key),
            Bound::Unbounded => vec![0],
        };
        let end = match range.end_bound() {
            Bound::Included(key) => after(key),
            Bound::Excluded(key) => key.as_ref().to_owned(),
            Bound::Unbounded => vec![0],
        };
        Self { key: key.into(), end: end.into() }
    }

    /// As it goes over the wire.
    pub(crate) fn wire(&self, keys: &Namespace) -> (Bytes, Bytes) {
        // The zero that means "from the first key" is no key inside a namespace.
        let key = if !keys.is_empty() && !self.end.is_empty() && self.key == b"\0"[..] {
            keys.key(b"")
        } else {
            keys.key(&self.key)
        };
        (key, keys.end(&self.end))
    }
}

impl From<&str> for Keys {
    fn from(key: &str) -> Self {
        Self::one(key)
    }
}

impl From<&String> for Keys {
    fn from(key: &String) -> Self {
        Self::one(key)
    }
}

impl From<String> for Keys {
    fn from(key: String) -> Self {
        Self::one(key)
    }
}

impl From<&[u8]> for Keys {
    fn from(key: &[u8]) -> Self {
        Self::one(key)
    }
}

impl From<Bytes> for Keys {
    fn from(key: Bytes) -> Self {
        Self { key, end: Bytes::new() }
    }
}

/// By what an answer is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// The key.
    Key,
    /// How often it was put.
    Version,
    /// When it came to be.
    Create,
    /// When it was last put.
    Mod,
    /// The value.
    Value,
}

/// Which way an answer is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// How to read.
#[derive(Clone, Debug)]
pub struct Get {
    pub(crate) keys: Keys,
    request: pb::RangeRequest,
}

impl<K: Into<Keys>> From<K> for Get {
    fn from(keys: K) -> Self {
        Self::new(keys)
    }
}

impl Get {
    /// Reads these keys, linearizably and now.
    pub fn new(keys: impl Into<Keys>) -> Self {
        Self { keys: keys.into(), request: pb::RangeRequest::default() }
    }

    /// Reads all keys that begin like this.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self::new(Keys::prefix(prefix))
    }

    /// At most so many; the answer says whether there are more.
    pub fn limit(mut self, limit: i64) -> Self {
        self.request.limit = limit;
        self
    }

    /// As it was at this revision.
    pub fn at_revision(mut self, revision: i64) -> Self {
        self.request.revision = revision;
        self
    }

    /// Sorted; by key and ascending if not said.
    pub fn sort(mut self, by: SortBy, order: Order) -> Self {
        let target = match by {
            SortBy::Key => range_request::SortTarget::Key,
            SortBy::Version => range_request::SortTarget::Version,
            SortBy::Create => range_request::SortTarget::Create,
            SortBy::Mod => range_request::SortTarget::Mod,
            SortBy::Value => range_request::SortTarget::Value,
        };
        let order = match order {
            Order::Ascending => range_request::SortOrder::Ascend,
            Order::Descending => range_request::SortOrder::Descend,
        };
        self.request.set_sort_target(target);
        self.request.set_sort_order(order);
        self
    }

    /// From one member's own state, which may be behind; never behind what this client has seen.
    pub fn serializable(mut self) -> Self {
        self.request.serializable = true;
        self
    }

    /// Without values.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Only how many there are.
    pub fn count_only(mut self) -> Self {
        self.request.count_only = true;
        self
    }

    /// Only values put at this revision or later.
    pub fn min_mod_revision(mut self, revision: i64) -> Self {
        self.request.min_mod_revision = revision;
        self
    }

    /// Only values put at this revision or earlier.
    pub fn max_mod_revision(mut self, revision: i64) -> Self {
        self.request.max_mod_revision = revision;
        self
    }

    /// Only keys that came to be at this revision or later.
    pub fn min_create_revision(mut self, revision: i64) -> Self {
        self.request.min_create_revision = revision;
        self
    }

    /// Only keys that came to be at this revision or earlier.
    pub fn max_create_revision(mut self, revision: i64) -> Self {
        self.request.max_create_revision = revision;
        self
    }

    pub(crate) fn is_serializable(&self) -> bool {
        self.request.serializable
    }

    pub(crate) fn wire(&self, keys: &Namespace) -> pb::RangeRequest {
        let (key, range_end) = self.keys.wire(keys);
        pb::RangeRequest { key, range_end, ..self.request.clone() }
    }
}

/// What to put.
#[derive(Clone, Debug, Default)]
pub struct Put {
    key: Bytes,
    request: pb::PutRequest,
}

impl Put {
    /// Puts the value under the key.
    pub fn new(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let value = Bytes::copy_from_slice(value.as_ref());
        let request = pb::PutRequest { value, ..pb::PutRequest::default() };
        Self { key: Bytes::copy_from_slice(key.as_ref()), request }
    }

    /// Hangs the key on a lease: it goes when the lease ends.
    pub fn lease(mut self, lease: i64) -> Self {
        self.request.lease = lease;
        self
    }

    /// Asks what was there before.
    pub fn prev(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Keeps the value that is there; the one given must be empty.
    pub fn keep_value(mut self) -> Self {
        self.request.ignore_value = true;
        self
    }

    /// Keeps the lease that it hangs on.
    pub fn keep_lease(mut self) -> Self {
        self.request.ignore_lease = true;
        self
    }

    pub(crate) fn wire(&self, keys: &Namespace) -> pb::PutRequest {
        pb::PutRequest { key: keys.key(&self.key), ..self.request.clone() }
    }
}

/// What to delete.
#[derive(Clone, Debug)]
pub struct Delete {
    keys: Keys,
    prev: bool,
}

impl<K: Into<Keys>> From<K> for Delete {
    fn from(keys: K) -> Self {
        Self::new(keys)
    }
}

impl Delete {
    /// Deletes these keys.
    pub fn new(keys: impl Into<Keys>) -> Self {
        Self { keys: keys.into(), prev: false }
    }

    /// Deletes all keys that begin like this.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self::new(Keys::prefix(prefix))
    }

    /// Asks what was there.
    pub fn prev(mut self) -> Self {
        self.prev = true;
        self
    }

    pub(crate) fn wire(&self, keys: &Namespace) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.keys.wire(keys);
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.prev }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_the_bounds_of_the_wire() {
        assert_eq!(Keys::range("a".."b"), Keys { key: "a".into(), end: "b".into() });
        assert_eq!(Keys::range("a"..="b"), Keys { key: "a".into(), end: "b\0".into() });
        assert_eq!(Keys::range("a"..), Keys { key: "a".into(), end: "\0".into() });
        assert_eq!(Keys::all(), Keys { key: "\0".into(), end: "\0".into() });
    }

    #[test]
    fn all_keys_of_a_namespace_are_its_own() {
        let wire = Keys::all().wire(&Namespace::new("n/"));
        assert_eq!(wire, (Bytes::from("n/"), Bytes::from("n0")));
    }
}
