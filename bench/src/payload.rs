//! What the workloads send: keys, values and requests encoded once and copied per call.
//!
//! A [`Template`] is a whole framed request in which only the digits of the keys change. Keys
//! are of one length, so patching the digits keeps every length prefix right.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use folkmoot_proto::etcdserverpb as pb;

use crate::wire::frame;

/// Decimal digits at the end of every key.
const KEY_DIGITS: usize = 12;
const ZEROS: &str = "000000000000";
/// Requests are cut out of chunks of this size: one allocation serves many calls.
const ARENA_CHUNK_BYTES: usize = 64 << 10;

/// Keys that the point workloads read and write.
pub const KEY_PREFIX: &str = "bench/key-";
/// Keys of the list workload; apart, so that its size does not depend on `--key-count`.
pub const LIST_PREFIX: &str = "bench/list-";
/// The one key that all watchers of the fan-out workload watch.
pub const WATCH_KEY: &str = "bench/watched";

/// The key with this number.
pub fn key(prefix: &str, number: u64) -> Bytes {
    Bytes::from(format!("{prefix}{number:0width$}", width = KEY_DIGITS))
}

/// A value of this many bytes. It does not compress to nothing, as a run of one letter would,
/// and holds no zeros that could be mistaken for the digits of a key.
pub fn value(value_bytes: usize) -> Bytes {
    let mut state: u32 = 0x2545_F491;
    (0..value_bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            b'A' + (state >> 8) as u8 % 58
        })
        .collect::<Vec<u8>>()
        .into()
}

/// The first key after all keys that start with `prefix`.
pub fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // The prefixes above end in ASCII, so the last byte can always grow.
        *last += 1;
    }
    end.into()
}

/// Hands out request buffers.
#[derive(Debug, Default)]
pub struct Arena {
    chunk: BytesMut,
}

/// A framed request whose keys carry numbers to be filled in.
#[derive(Debug, Clone)]
pub struct Template {
    framed: Bytes,
    /// Where the digits of a key stand, and which of the request's keys it is.
    digits: Vec<(Range<usize>, u64)>,
}

impl Template {
    /// A request without any number in it: always the same bytes.
    pub fn fixed(message: &impl prost::Message) -> Self {
        Self { framed: frame(message), digits: Vec::new() }
    }

    /// A request in which every `key(prefix, 0)` gets the number of the call.
    pub fn numbered(message: &impl prost::Message, prefix: &str) -> Self {
        Self::find(message, prefix, |_| 0)
    }

    /// A request of several keys: the n-th key gets the number of the call plus n.
    pub fn counting(message: &impl prost::Message, prefix: &str) -> Self {
        Self::find(message, prefix, |nth| nth)
    }

    fn find(message: &impl prost::Message, prefix: &str, offset: impl Fn(u64) -> u64) -> Self {
        let framed = frame(message);
        let needle = [prefix.as_bytes(), ZEROS.as_bytes()].concat();
        let mut digits = Vec::new();
        let mut from = 0;
        while let Some(at) = find_bytes(&framed[from..], &needle) {
            let end = from + at + needle.len();
            digits.push((end - KEY_DIGITS..end, offset(digits.len() as u64)));
            from = end;
        }
        Self { framed, digits }
    }

    /// The request with this number.
    pub fn fill(&self, number: u64, arena: &mut Arena) -> Bytes {
        if self.digits.is_empty() {
            return self.framed.clone();
        }
        let chunk = &mut arena.chunk;
        if chunk.capacity() < self.framed.len() {
            chunk.reserve(ARENA_CHUNK_BYTES.max(self.framed.len()));
        }
        chunk.extend_from_slice(&self.framed);
        for (place, offset) in &self.digits {
            write_digits(&mut chunk[place.clone()], number + offset);
        }
        chunk.split().freeze()
    }
}

fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn find_bytes(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A put of the key with the call's number.
pub fn put(value: Bytes) -> Template {
    Template::numbered(&zero_put(KEY_PREFIX, &value), KEY_PREFIX)
}

/// A read of the key with the call's number.
pub fn get(serializable: bool) -> Template {
    let request = pb::RangeRequest { key: key(KEY_PREFIX, 0), serializable, ..Default::default() };
    Template::numbered(&request, KEY_PREFIX)
}

/// A linearizable list of all keys under `prefix`; only their count if `count_only`.
pub fn list(prefix: &str, count_only: bool) -> Template {
    Template::fixed(&pb::RangeRequest {
        key: Bytes::copy_from_slice(prefix.as_bytes()),
        range_end: prefix_end(prefix),
        count_only,
        ..Default::default()
    })
}

/// "If the key exists, put it": one compare and one put of the key with the call's number.
pub fn compare_and_put(value: Bytes) -> Template {
    let compare = pb::Compare {
        key: key(KEY_PREFIX, 0),
        target: pb::compare::CompareTarget::Version as i32,
        result: pb::compare::CompareResult::Greater as i32,
        target_union: Some(pb::compare::TargetUnion::Version(0)),
        ..Default::default()
    };
    let request = pb::TxnRequest {
        compare: vec![compare],
        success: vec![put_op(zero_put(KEY_PREFIX, &value))],
        ..Default::default()
    };
    Template::numbered(&request, KEY_PREFIX)
}

/// Puts of `count` keys, numbered upwards from the call's number: a transaction, or for a
/// single key a plain put.
pub fn put_batch(prefix: &str, count: usize, value: &Bytes) -> Template {
    if count == 1 {
        return Template::counting(&zero_put(prefix, value), prefix);
    }
    put_txn(prefix, count, value)
}

/// Puts of `count` keys in one transaction, numbered upwards from the call's number.
pub fn put_txn(prefix: &str, count: usize, value: &Bytes) -> Template {
    let request = pb::TxnRequest {
        success: (0..count).map(|_| put_op(zero_put(prefix, value))).collect(),
        ..Default::default()
    };
    Template::counting(&request, prefix)
}

fn zero_put(prefix: &str, value: &Bytes) -> pb::PutRequest {
    pb::PutRequest { key: key(prefix, 0), value: value.clone(), ..Default::default() }
}

fn put_op(put: pb::PutRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::wire::FRAME_HEADER_BYTES;

    fn put_request(number: u64, value: Bytes) -> pb::PutRequest {
        pb::PutRequest { key: key(KEY_PREFIX, number), value, ..Default::default() }
    }

    #[test]
    fn a_filled_template_is_the_request_that_would_have_been_encoded() {
        let mut arena = Arena::default();
        let template = put(value(256));
        for number in [0, 7, 99_999, 123_456_789_012] {
            let filled = template.fill(number, &mut arena);
            assert_eq!(filled, frame(&put_request(number, value(256))));
        }
    }

    #[test]
    fn a_transaction_names_the_same_key_in_compare_and_put() {
        let filled = compare_and_put(value(10)).fill(42, &mut Arena::default());
        let txn = pb::TxnRequest::decode(&filled[FRAME_HEADER_BYTES..]).unwrap();
        assert_eq!(txn.compare[0].key, key(KEY_PREFIX, 42));
        let Some(pb::request_op::Request::RequestPut(put)) = &txn.success[0].request else {
            panic!("the transaction does not put");
        };
        assert_eq!(put.key, key(KEY_PREFIX, 42));
    }

    #[test]
    fn a_batch_counts_its_keys_upwards() {
        let filled = put_batch(LIST_PREFIX, 3, &value(5)).fill(998, &mut Arena::default());
        let txn = pb::TxnRequest::decode(&filled[FRAME_HEADER_BYTES..]).unwrap();
        let keys: Vec<_> = txn
            .success
            .iter()
            .map(|op| match &op.request {
                Some(pb::request_op::Request::RequestPut(put)) => put.key.clone(),
                other => panic!("not a put: {other:?}"),
            })
            .collect();
        assert_eq!(keys, [key(LIST_PREFIX, 998), key(LIST_PREFIX, 999), key(LIST_PREFIX, 1000)]);
    }

    #[test]
    fn a_batch_of_one_is_a_plain_put() {
        let filled = put_batch(KEY_PREFIX, 1, &value(5)).fill(3, &mut Arena::default());
        assert_eq!(filled, frame(&put_request(3, value(5))));
    }

    #[test]
    fn the_end_of_a_prefix_is_past_its_last_key() {
        let last = key(KEY_PREFIX, 999_999_999_999);
        assert!(last < prefix_end(KEY_PREFIX));
        assert!(key(LIST_PREFIX, 0) > prefix_end(KEY_PREFIX));
    }

    #[test]
    fn a_value_has_the_asked_size_and_holds_no_digits() {
        let value = value(1000);
        assert_eq!(value.len(), 1000);
        assert!(!value.iter().any(u8::is_ascii_digit));
    }
}
