//! The small words of the domain: identifiers, revisions, key ranges, one key's record.
//!
//! Newtypes convert only where the conversion means something. Keys and values are
//! [`bytes::Bytes`]: byte strings ordered bytewise, that may hold any byte.

use std::fmt;

use bytes::Bytes;

macro_rules! id_u64 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // etcd prints ids in lower-case hex without padding.
                write!(f, "{:x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:x})"), self.0)
            }
        }
    };
}

id_u64! {
    /// A server of the cluster; never zero, never used again once removed.
    MemberId
}
id_u64! {
    /// The cluster a member belongs to, fixed when the cluster is first started.
    ClusterId
}

/// A Raft term.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Term(pub u64);

/// A position in the Raft log; the first entry has index 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct LogIndex(pub u64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease; negative ids are legal (etcd allows them), zero means "no lease" on the wire and is
/// `None` here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeaseId(i64);

impl LeaseId {
    /// The lease of a wire field, `None` for 0.
    pub fn from_wire(id: i64) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// The wire number, never 0.
    pub fn get(self) -> i64 {
        self.0
    }

    /// The wire number of an optional lease, 0 for none.
    pub fn to_wire(id: Option<Self>) -> i64 {
        id.map_or(0, Self::get)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A point in the history of the store: `main` counts the log commands that changed at least one
/// key, `sub` counts the changes inside one of them from 0.
///
/// An empty new store has main revision 1; the first write makes 2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Revision {
    /// One per command that changed something; what clients call "the revision".
    pub main: i64,
    /// Position of the change inside its command. Never negative.
    pub sub: u32,
}

impl Revision {
    /// `main` with sub revision 0.
    pub fn start_of(main: i64) -> Self {
        Self { main, sub: 0 }
    }
}

/// A set of keys, normalised from the wire's `(key, range_end)` pair.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KeyRange {
    /// Exactly one key.
    One(Bytes),
    /// `from <= key < to`; empty when `to <= from`.
    Span(Bytes, Bytes),
    /// `from <= key`, without an upper end (`range_end` is one zero byte).
    From(Bytes),
}

impl KeyRange {
    /// Reads the wire's pair. An empty `key` is the caller's to refuse or replace.
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        if range_end.is_empty() {
            Self::One(key)
        } else if range_end.as_ref() == [0] {
            Self::From(key)
        } else {
            Self::Span(key, range_end)
        }
    }

    /// The smallest key that may be in the range.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::One(key) | Self::Span(key, _) | Self::From(key) => key,
        }
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one.as_ref() == key,
            Self::Span(from, to) => from.as_ref() <= key && key < to.as_ref(),
            Self::From(from) => from.as_ref() <= key,
        }
    }

    /// Whether no key can be in the range (an inverted span).
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Span(from, to) if to <= from)
    }
}

/// One key at one revision, as clients see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty is legal.
    pub value: Bytes,
    /// Main revision of the put that created the key (again).
    pub create_revision: i64,
    /// Main revision of the last put.
    pub mod_revision: i64,
    /// Puts since creation, from 1.
    pub version: i64,
    /// The lease the key hangs on.
    pub lease: Option<LeaseId>,
}

/// Monotonic time in nanoseconds since an arbitrary start, handed in by the caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant64(pub u64);

impl Instant64 {
    /// This time plus `d`, saturating.
    pub fn after(self, d: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_end_of_one_zero_byte_means_every_key_from_there() {
        let all = KeyRange::from_wire(Bytes::from_static(b"b"), Bytes::from_static(b"\0"));
        assert!(all.contains(b"b") && all.contains(b"\xff\xff") && !all.contains(b"a"));
        let two = KeyRange::from_wire(Bytes::from_static(b"b"), Bytes::from_static(b"\0\0"));
        assert!(two.is_empty() && !two.contains(b"b"));
    }

    #[test]
    fn an_empty_range_end_means_one_key() {
        let one = KeyRange::from_wire(Bytes::from_static(b"b"), Bytes::new());
        assert!(one.contains(b"b") && !one.contains(b"b\0"));
    }
}
