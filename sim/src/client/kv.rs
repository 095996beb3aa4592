//! A client that reads and writes keys: a few that everybody fights over, and many under wide
//! prefixes. Every value it writes is its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use folkmoot_check::history::{
    Compare, CompareOp, CompareTarget, DeleteRequest, KeyRange, OpReply, OpRequest, PutRequest, RangeRequest,
    ReplyBody, Request, Revision, TxnRequest,
};

use super::PATIENCE;
use crate::network::HostAt;
use crate::random::Random;
use crate::sometimes::Situation;
use crate::time::MS;
use crate::world::{Answer, Happening, World};

/// What a call was for, as far as its answer says something that may be met sometimes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Plain,
    Cas,
    Create,
    MultiPut,
    Delete,
    Compact,
}

/// See the module.
pub struct KvClient {
    random: Random,
    number: u64,
    writes: u64,
    member: Option<HostAt>,
    /// Mod revisions last seen of the keys everybody fights over.
    seen: BTreeMap<Bytes, Revision>,
    revision: Revision,
    compacted: Revision,
    purpose: Purpose,
}

/// Keys under one wide prefix.
const WIDE_KEYS: u64 = 60;

impl KvClient {
    /// Client `number`.
    pub fn new(random: Random, number: u64) -> Self {
        Self {
            random,
            number,
            writes: 0,
            member: None,
            seen: BTreeMap::new(),
            revision: 1,
            compacted: 0,
            purpose: Purpose::Plain,
        }
    }

    pub(super) fn wakes(&mut self, at: usize, world: &mut World) {
        if world.is_closing() {
            return;
        }
        let (request, purpose) = self.choose(world);
        self.purpose = purpose;
        let member = world.choose_member(&mut self.random, self.member);
        self.member = Some(member);
        world.call(at, member, request, PATIENCE);
    }

    pub(super) fn hears(&mut self, at: usize, answer: Answer, world: &mut World) {
        match answer {
            Answer::Ok(reply) => {
                self.revision = self.revision.max(reply.revision);
                self.learn(&reply.body, world);
            }
            Answer::Error(_) if self.purpose == Purpose::Compact => world.met(Situation::CompactRefused),
            Answer::Lost | Answer::NotConnected => self.member = None,
            _ => {}
        }
        let pause = self.random.wait(world.plan.think_time);
        world.queue.push(world.now + pause.max(MS / 10), Happening::Client(at));
    }

    fn learn(&mut self, body: &ReplyBody, world: &mut World) {
        match body {
            ReplyBody::Range(range) => {
                for kv in &range.kvs {
                    self.seen.insert(kv.key.clone(), kv.mod_revision);
                }
            }
            ReplyBody::Txn(txn) => {
                for response in &txn.responses {
                    if let OpReply::Range(range) = response {
                        for kv in &range.kvs {
                            self.seen.insert(kv.key.clone(), kv.mod_revision);
                        }
                    }
                }
                let situation = match (self.purpose, txn.succeeded) {
                    (Purpose::Cas, true) => Situation::CasWon,
                    (Purpose::Cas, false) => Situation::CasLost,
                    (Purpose::Create, true) => Situation::CreateWon,
                    (Purpose::Create, false) => Situation::CreateLost,
                    _ => Situation::MultiPut,
                };
                world.met(situation);
            }
            ReplyBody::Delete(delete) if delete.deleted == 0 => world.met(Situation::EmptyDelete),
            _ => {}
        }
    }

    fn hot(&mut self, world: &World) -> Bytes {
        Bytes::from(format!("hot/{}", self.random.below(world.plan.hot_keys)))
    }

    fn wide(&mut self) -> Bytes {
        Bytes::from(format!("wide{}/{:02}", self.random.below(2), self.random.below(WIDE_KEYS)))
    }

    fn key(&mut self, world: &World) -> Bytes {
        if self.random.chance(0.6) { self.hot(world) } else { self.wide() }
    }

    fn value(&mut self, world: &World) -> Bytes {
        self.writes += 1;
        let mut value = format!("{}.{}", self.number, self.writes).into_bytes();
        let more = self.random.below(world.plan.value_bytes);
        value.resize(value.len() + more as usize, b'.');
        Bytes::from(value)
    }

    fn put(&mut self, key: Bytes, world: &World) -> PutRequest {
        let value = self.value(world);
        PutRequest { key, value, prev_kv: self.random.one_in(4), ..PutRequest::default() }
    }

    fn range(&mut self, world: &World) -> RangeRequest {
        let range = match self.random.below(10) {
            0..6 => KeyRange::One(self.hot(world)),
            6 => KeyRange::prefix("hot/"),
            7 => KeyRange::prefix(format!("wide{}/", self.random.below(2))),
            8 => KeyRange::all(),
            _ => KeyRange::One(self.wide()),
        };
        let mut request = RangeRequest::new(range);
        request.serializable = self.random.one_in(4);
        match self.random.below(12) {
            0 => request.limit = self.random.between(1, 5) as i64,
            1 => request.count_only = true,
            2 => request.keys_only = true,
            3 if self.revision > 3 => {
                request.revision = self.revision - self.random.below(self.revision.min(200) as u64) as i64;
            }
            _ => {}
        }
        request
    }

    fn choose(&mut self, world: &World) -> (Request, Purpose) {
        // Only the first client compacts, so that the rate does not depend on their number.
        let compactions = world.plan.compact_every / world.plan.think_time.max(1);
        if self.number == 0 && self.random.one_in(compactions) && self.revision > 10 {
            let back = self.random.below(50.min(self.revision as u64 - self.compacted as u64));
            let revision = self.revision - back as i64;
            self.compacted = revision;
            return (Request::Compact { revision }, Purpose::Compact);
        }
        match self.random.below(100) {
            0..30 => (Request::Range(self.range(world)), Purpose::Plain),
            30..60 => {
                let key = self.key(world);
                (Request::Put(self.put(key, world)), Purpose::Plain)
            }
            60..70 => {
                let range = match self.random.below(8) {
                    0 => KeyRange::prefix(format!("wide0/{}", self.random.below(6))),
                    1 => KeyRange::prefix("hot/"),
                    _ => KeyRange::One(self.key(world)),
                };
                let prev_kv = self.random.one_in(3);
                (Request::Delete(DeleteRequest { range, prev_kv }), Purpose::Delete)
            }
            70..85 => (Request::Txn(self.cas(world)), Purpose::Cas),
            85..92 => (Request::Txn(self.create(world)), Purpose::Create),
            _ => (Request::Txn(self.several(world)), Purpose::MultiPut),
        }
    }

    fn cas(&mut self, world: &World) -> TxnRequest {
        let key = self.hot(world);
        let seen = self.seen.get(&key).copied().unwrap_or(0);
        let put = self.put(key.clone(), world);
        TxnRequest {
            compare: vec![Compare {
                range: KeyRange::One(key.clone()),
                op: CompareOp::Equal,
                target: CompareTarget::Mod(seen),
            }],
            success: vec![OpRequest::Put(put)],
            failure: vec![OpRequest::Range(RangeRequest::new(KeyRange::One(key)))],
        }
    }

    fn create(&mut self, world: &World) -> TxnRequest {
        let key = self.key(world);
        let put = self.put(key.clone(), world);
        TxnRequest {
            compare: vec![Compare {
                range: KeyRange::One(key.clone()),
                op: CompareOp::Equal,
                target: CompareTarget::Create(0),
            }],
            success: vec![OpRequest::Put(put)],
            failure: vec![OpRequest::Delete(DeleteRequest { range: KeyRange::One(key), prev_kv: true })],
        }
    }

    fn several(&mut self, world: &World) -> TxnRequest {
        let hot = self.hot(world);
        let wide = self.wide();
        let first = self.put(hot.clone(), world);
        let second = self.put(wide, world);
        let compare = match self.random.below(3) {
            0 => vec![Compare {
                range: KeyRange::One(hot.clone()),
                op: CompareOp::Greater,
                target: CompareTarget::Version(self.random.below(4) as i64),
            }],
            1 => vec![Compare {
                range: KeyRange::prefix("wide1/"),
                op: CompareOp::Less,
                target: CompareTarget::Mod(self.revision),
            }],
            _ => Vec::new(),
        };
        TxnRequest {
            compare,
            success: vec![
                OpRequest::Put(first),
                OpRequest::Put(second),
                OpRequest::Range(RangeRequest::new(KeyRange::prefix("hot/"))),
            ],
            failure: vec![OpRequest::Range(RangeRequest::new(KeyRange::One(hot)))],
        }
    }
}
