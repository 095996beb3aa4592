//! A prefix in front of every key that a client names, and off every key that it sees.
//!
//! Applied to requests, comparisons, watches and answers alike, so that code in a namespace cannot
//! tell that it is in one.

use bytes::Bytes;

/// The smallest key, and in an end the mark for "no end".
const ZERO: &[u8] = b"\0";

/// The first key behind all keys with this prefix; a single zero if there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|byte| *byte != 0xff) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        None => Bytes::from_static(ZERO),
    }
}

/// A prefix of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespace(Bytes);

impl Namespace {
    pub fn new(prefix: impl Into<Bytes>) -> Self {
        Self(prefix.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A namespace inside this one.
    pub fn nested(&self, prefix: &[u8]) -> Self {
        Self(self.key(prefix))
    }

    /// The key in the store.
    pub fn key(&self, key: &[u8]) -> Bytes {
        if self.0.is_empty() { Bytes::copy_from_slice(key) } else { [&self.0, key].concat().into() }
    }

    /// The end of a range in the store.
    pub fn end(&self, end: &[u8]) -> Bytes {
        if self.0.is_empty() || end.is_empty() {
            Bytes::copy_from_slice(end)
        } else if end == ZERO {
            prefix_end(&self.0)
        } else {
            [&self.0, end].concat().into()
        }
    }

    /// The key as code inside sees it.
    pub fn strip(&self, key: Bytes) -> Bytes {
        if key.starts_with(&self.0) { key.slice(self.0.len()..) } else { key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(prefix_end(b"a/"), "a0");
        assert_eq!(prefix_end(b"a\xff\xff"), "b");
        assert_eq!(prefix_end(b"\xff"), "\0");
        assert_eq!(prefix_end(b""), "\0");
    }

    #[test]
    fn a_range_stays_inside_its_namespace() {
        let namespace = Namespace::new("t/");
        assert_eq!(namespace.key(b"k"), "t/k");
        assert_eq!(namespace.end(b""), "");
        assert_eq!(namespace.end(b"m"), "t/m");
        assert_eq!(namespace.end(b"\0"), "t0");
        assert_eq!(namespace.strip(Bytes::from("t/k")), "k");
        assert_eq!(namespace.nested(b"u/").key(b"k"), "t/u/k");
    }

    #[test]
    fn no_namespace_changes_nothing() {
        let namespace = Namespace::default();
        assert_eq!(namespace.key(b"k"), "k");
        assert_eq!(namespace.end(b"\0"), "\0");
    }
}
