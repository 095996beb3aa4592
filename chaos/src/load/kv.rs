//! A client that reads and writes a few keys that it shares with others.

use bytes::Bytes;
use folkmoot_check::history as h;
use rand::RngExt;
use std::time::Duration;

use super::session::Session;
use super::{Context, KEY_PREFIX, Recorded, key};

/// Longest pause between two requests of one client.
const THINK_MS_MAX: u64 = 8;
/// One value in this many is long.
const LONG_VALUE_EVERY: u32 = 40;
/// Bytes of a long value.
const LONG_VALUE_BYTES: std::ops::Range<usize> = 1000..20_000;

struct Writer {
    session: Session,
    written: u64,
    /// The newest revision this client has seen.
    newest: h::Revision,
}

/// Works until told to stop.
pub async fn run(session: Session, context: Context) -> Recorded {
    let mut writer = Writer { session, written: 0, newest: 1 };
    while !context.is_over() {
        writer.step(&context).await;
        let pause = writer.session.rng.random_range(0..=THINK_MS_MAX);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    Recorded { operations: writer.session.operations, ..Recorded::default() }
}

impl Writer {
    fn key(&mut self) -> Bytes {
        key(self.session.rng.random_range(0..super::KEY_COUNT))
    }

    /// A value that no other put of this history has.
    fn value(&mut self) -> Bytes {
        self.written += 1;
        let mut value = format!("c{} w{}", self.session.client, self.written).into_bytes();
        if self.session.rng.random_ratio(1, LONG_VALUE_EVERY) {
            let length = self.session.rng.random_range(LONG_VALUE_BYTES);
            value.push(b' ');
            value.resize(length, b'.');
        }
        value.into()
    }

    fn put(&mut self) -> h::PutRequest {
        let prev_kv = self.session.rng.random_bool(0.5);
        h::PutRequest { key: self.key(), value: self.value(), prev_kv, ..Default::default() }
    }

    fn delete(&mut self) -> h::DeleteRequest {
        let key = self.key();
        // Now and then several keys at once.
        let range = match self.session.rng.random_ratio(1, 10) {
            true => h::KeyRange::Span(key.clone(), super::key_after(&key, 3)),
            false => h::KeyRange::One(key),
        };
        h::DeleteRequest { range, prev_kv: self.session.rng.random_bool(0.5) }
    }

    fn read(&mut self) -> h::RangeRequest {
        let one = h::RangeRequest::new(h::KeyRange::One(self.key()));
        let all = h::RangeRequest::new(h::KeyRange::prefix(KEY_PREFIX));
        match self.session.rng.random_range(0..10) {
            0..6 => one,
            6 => h::RangeRequest { limit: 3, ..all },
            7 => h::RangeRequest { count_only: true, ..all },
            8 => h::RangeRequest { keys_only: true, ..all },
            _ => all,
        }
    }

    async fn ask(&mut self, request: h::Request) -> Option<h::Reply> {
        let reply = self.session.call(request).await?;
        self.newest = self.newest.max(reply.revision);
        Some(reply)
    }

    async fn step(&mut self, context: &Context) {
        let request = match self.session.rng.random_range(0..100) {
            0..32 => h::Request::Put(self.put()),
            32..56 => h::Request::Range(self.read()),
            56..66 => h::Request::Range(h::RangeRequest { serializable: true, ..self.read() }),
            66..74 => h::Request::Delete(self.delete()),
            74..82 => h::Request::Txn(self.several()),
            82..86 => {
                let oldest = context.compacted().min(self.newest);
                let revision = self.session.rng.random_range(oldest.max(1)..=self.newest);
                h::Request::Range(h::RangeRequest { revision, ..self.read() })
            }
            _ => return self.compare_and_swap().await,
        };
        self.ask(request).await;
    }

    /// Several changes and a read as one step, on different keys.
    fn several(&mut self) -> h::TxnRequest {
        let first = self.session.rng.random_range(0..super::KEY_COUNT - 3);
        let mut puts = (first..first + 2).map(|index| {
            let put = h::PutRequest { key: key(index), value: self.value(), ..Default::default() };
            h::OpRequest::Put(put)
        });
        let mut success: Vec<h::OpRequest> = puts.by_ref().collect();
        if self.session.rng.random_bool(0.5) {
            let range = h::KeyRange::One(key(first + 2));
            success.push(h::OpRequest::Delete(h::DeleteRequest { range, prev_kv: true }));
        }
        let all = h::KeyRange::prefix(KEY_PREFIX);
        success.push(h::OpRequest::Range(h::RangeRequest::new(all)));
        h::TxnRequest { compare: Vec::new(), success, failure: Vec::new() }
    }

    /// Reads a key and writes it if it has not changed since.
    async fn compare_and_swap(&mut self) {
        let key = self.key();
        let range = h::KeyRange::One(key.clone());
        let serializable = self.session.rng.random_bool(0.3);
        let read = h::RangeRequest { serializable, ..h::RangeRequest::new(range.clone()) };
        let Some(reply) = self.ask(h::Request::Range(read)).await else { return };
        let h::ReplyBody::Range(found) = reply.body else { return };
        let (target, op) = match found.kvs.first() {
            Some(kv) if self.session.rng.random_bool(0.3) => {
                (h::CompareTarget::Value(kv.value.clone()), h::CompareOp::Equal)
            }
            Some(kv) => (h::CompareTarget::Mod(kv.mod_revision), h::CompareOp::Equal),
            None => (h::CompareTarget::Create(0), h::CompareOp::Equal),
        };
        let put = h::PutRequest { key, value: self.value(), prev_kv: true, ..Default::default() };
        let txn = h::TxnRequest {
            compare: vec![h::Compare { range: range.clone(), op, target }],
            success: vec![h::OpRequest::Put(put)],
            failure: vec![h::OpRequest::Range(h::RangeRequest::new(range))],
        };
        self.ask(h::Request::Txn(txn)).await;
    }
}
