//! Which keys a command is about, in the form the API wants: a first key and an end.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use bytes::Bytes;

use crate::failure::{Failure, Result};

/// A single zero byte: as an end it means "no end", as a key the first of all keys.
const ZERO: &[u8] = b"\0";

/// One key, or all keys from `key` up to but not including `range_end`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interval {
    /// First key.
    pub key: Bytes,
    /// End; empty for one key alone, a zero byte for no end.
    pub range_end: Bytes,
}

/// How the flags of a command widen the key it was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// As written.
    Exact,
    /// All keys that begin with the key.
    Prefix,
    /// The key and all keys after it.
    FromKey,
}

impl Interval {
    /// The interval of a key, an optional end and the reach.
    ///
    /// # Errors
    /// Fails if an end is given together with a reach that has its own.
    pub fn new(key: OsString, range_end: Option<OsString>, reach: Reach) -> Result<Self> {
        let key = argument_bytes(key);
        if reach != Reach::Exact && range_end.is_some() {
            return Err(Failure::usage("an end of the range cannot go together with --prefix or --from-key"));
        }
        Ok(match reach {
            Reach::Exact => Self { key, range_end: range_end.map(argument_bytes).unwrap_or_default() },
            // The API refuses an empty key; the first key of all stands for it.
            Reach::Prefix | Reach::FromKey if key.is_empty() => {
                Self { key: Bytes::from_static(ZERO), range_end: Bytes::from_static(ZERO) }
            }
            Reach::Prefix => Self { range_end: prefix_end(&key), key },
            Reach::FromKey => Self { key, range_end: Bytes::from_static(ZERO) },
        })
    }
}

/// The first key after all keys that begin with `prefix`: the prefix with its last byte below
/// 0xff raised by one and everything behind it cut off; a zero byte (no end) if there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let Some(last) = prefix.iter().rposition(|&byte| byte < 0xff) else {
        return Bytes::from_static(ZERO);
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

/// Keys and values are bytes and need not be text.
pub fn argument_bytes(argument: OsString) -> Bytes {
    argument.into_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(key: &str, reach: Reach) -> (Vec<u8>, Vec<u8>) {
        let interval = Interval::new(key.into(), None, reach).expect("has no end");
        (interval.key.to_vec(), interval.range_end.to_vec())
    }

    #[test]
    fn a_prefix_ends_where_its_last_byte_is_one_higher() {
        assert_eq!(&prefix_end(b"app/")[..], b"app0");
        assert_eq!(&prefix_end(b"a")[..], b"b");
    }

    #[test]
    fn trailing_ff_bytes_are_cut_off_a_prefix_before_it_is_raised() {
        assert_eq!(&prefix_end(b"a\xff\xff")[..], b"b");
        assert_eq!(&prefix_end(b"a\xfe")[..], b"a\xff");
    }

    #[test]
    fn a_prefix_of_ff_bytes_alone_has_no_end() {
        assert_eq!(&prefix_end(b"\xff\xff")[..], b"\0");
        assert_eq!(&prefix_end(b"")[..], b"\0");
    }

    #[test]
    fn the_empty_prefix_and_the_empty_first_key_mean_all_keys() {
        let all = (b"\0".to_vec(), b"\0".to_vec());
        assert_eq!(interval("", Reach::Prefix), all);
        assert_eq!(interval("", Reach::FromKey), all);
    }

    #[test]
    fn a_key_without_flags_is_that_key_alone() {
        assert_eq!(interval("k", Reach::Exact), (b"k".to_vec(), vec![]));
    }

    #[test]
    fn from_key_has_no_end() {
        assert_eq!(interval("k", Reach::FromKey), (b"k".to_vec(), b"\0".to_vec()));
    }

    #[test]
    fn an_end_does_not_go_together_with_prefix() {
        Interval::new("a".into(), Some("b".into()), Reach::Prefix).expect_err("two ends");
        Interval::new("a".into(), Some("b".into()), Reach::Exact).expect("one end");
    }
}
