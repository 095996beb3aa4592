//! Keys, ranges of keys, and changes of keys.

use bytes::Bytes;

use super::{LeaseId, Nanos, Revision};

/// One key at one revision, as clients see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty is legal.
    pub value: Bytes,
    /// Revision of the put that created the key (again).
    pub create_revision: Revision,
    /// Revision of the last put.
    pub mod_revision: Revision,
    /// Puts since creation, from 1.
    pub version: i64,
    /// The lease the key hangs on, 0 for none.
    pub lease: LeaseId,
}

/// Whether a key was written or removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EventKind {
    /// The key was put.
    Put,
    /// The key was deleted, by a client or with its lease.
    Delete,
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// The key as it is now; after a delete only `key` and `mod_revision` are set.
    pub kv: KeyValue,
    /// The key as it was before, where it was asked for and existed.
    pub prev_kv: Option<KeyValue>,
}

impl Event {
    /// The revision that made this change.
    pub fn revision(&self) -> Revision {
        self.kv.mod_revision
    }
}

/// All changes of one revision, in the order they were made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// The revision.
    pub revision: Revision,
    /// The changes. `prev_kv` of ground truth is not looked at.
    pub events: Vec<Event>,
    /// When the change became committed or first took effect on a member, if the recorder knows
    /// (a simulator does). `None` lets checkers bound the moment from what clients saw.
    pub at: Option<Nanos>,
}

/// A set of keys, read from the wire's `(key, range_end)` pair.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum KeyRange {
    /// Exactly one key.
    One(Bytes),
    /// `from <= key < to`; empty when `to <= from`.
    Span(Bytes, Bytes),
    /// `from <= key`, without an upper end (`range_end` is one zero byte).
    From(Bytes),
}

impl KeyRange {
    /// Reads the wire's pair.
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        if range_end.is_empty() {
            Self::One(key)
        } else if range_end.as_ref() == [0] {
            Self::From(key)
        } else {
            Self::Span(key, range_end)
        }
    }

    /// Exactly one key.
    pub fn one(key: impl Into<Bytes>) -> Self {
        Self::One(key.into())
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let prefix: Bytes = prefix.into();
        let mut end = prefix.to_vec();
        while let Some(last) = end.last_mut() {
            if *last < 0xff {
                *last += 1;
                return Self::Span(prefix, end.into());
            }
            end.pop();
        }
        Self::From(prefix)
    }

    /// Every key.
    pub fn all() -> Self {
        Self::From(Bytes::new())
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(KeyRange::prefix("ab"), KeyRange::Span("ab".into(), "ac".into()));
        assert_eq!(
            KeyRange::prefix(&b"a\xff"[..]),
            KeyRange::Span(Bytes::from_static(b"a\xff"), Bytes::from_static(b"b"))
        );
        assert_eq!(KeyRange::prefix(&b"\xff"[..]), KeyRange::From(Bytes::from_static(b"\xff")));
        assert!(KeyRange::prefix("").contains(b""));
    }

    #[test]
    fn the_wire_pair_is_read_as_etcd_reads_it() {
        let from = KeyRange::from_wire("b".into(), Bytes::from_static(b"\0"));
        assert!(from.contains(b"b") && from.contains(b"\xff") && !from.contains(b"a"));
        assert!(KeyRange::from_wire("b".into(), Bytes::new()).contains(b"b"));
        assert!(!KeyRange::from_wire("b".into(), "a".into()).contains(b"b"));
    }
}
