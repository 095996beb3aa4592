//! Keys and values: records of the bridge in shapes of JavaScript.

use folkmoot_bridge as bridge;
use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::call::{buffer, bytes, maybe_signed, signed};

fn unknown(what: &str, value: &str) -> Error {
    Error::new(Status::InvalidArg, format!("unknown {what}: {value}"))
}

#[napi(object)]
pub struct Keys {
    /// `one`, `prefix`, `range`, `from` or `all`.
    pub kind: String,
    pub key: Option<Buffer>,
    pub end: Option<Buffer>,
}

impl TryFrom<&Keys> for bridge::KeySet {
    type Error = Error;

    fn try_from(keys: &Keys) -> Result<Self> {
        let key = || keys.key.as_ref().map(bytes).unwrap_or_default();
        Ok(match keys.kind.as_str() {
            "one" => Self::One(key()),
            "prefix" => Self::Prefix(key()),
            "range" => Self::Range(key(), keys.end.as_ref().map(bytes).unwrap_or_default()),
            "from" => Self::From(key()),
            "all" => Self::All,
            kind => return Err(unknown("set of keys", kind)),
        })
    }
}

#[napi(object)]
pub struct GetIn {
    pub keys: Keys,
    pub limit: Option<i64>,
    pub revision: Option<BigInt>,
    /// `key`, `version`, `create`, `mod` or `value`.
    pub sort: Option<String>,
    pub descending: Option<bool>,
    pub serializable: Option<bool>,
    pub keys_only: Option<bool>,
    pub count_only: Option<bool>,
    pub min_mod_revision: Option<BigInt>,
    pub max_mod_revision: Option<BigInt>,
    pub min_create_revision: Option<BigInt>,
    pub max_create_revision: Option<BigInt>,
}

impl TryFrom<&GetIn> for bridge::GetRecord {
    type Error = Error;

    fn try_from(get: &GetIn) -> Result<Self> {
        let sort = match get.sort.as_deref() {
            None => None,
            Some("key") => Some(bridge::SortTarget::Key),
            Some("version") => Some(bridge::SortTarget::Version),
            Some("create") => Some(bridge::SortTarget::Create),
            Some("mod") => Some(bridge::SortTarget::Mod),
            Some("value") => Some(bridge::SortTarget::Value),
            Some(other) => return Err(unknown("order", other)),
        };
        Ok(Self {
            keys: (&get.keys).try_into()?,
            limit: get.limit.unwrap_or(0),
            revision: maybe_signed(get.revision.as_ref())?,
            sort,
            descending: get.descending.unwrap_or(false),
            serializable: get.serializable.unwrap_or(false),
            keys_only: get.keys_only.unwrap_or(false),
            count_only: get.count_only.unwrap_or(false),
            min_mod_revision: maybe_signed(get.min_mod_revision.as_ref())?,
            max_mod_revision: maybe_signed(get.max_mod_revision.as_ref())?,
            min_create_revision: maybe_signed(get.min_create_revision.as_ref())?,
            max_create_revision: maybe_signed(get.max_create_revision.as_ref())?,
        })
    }
}

#[napi(object)]
pub struct PutIn {
    pub key: Buffer,
    pub value: Buffer,
    pub lease: Option<BigInt>,
    pub prev: Option<bool>,
    pub keep_value: Option<bool>,
    pub keep_lease: Option<bool>,
}

impl TryFrom<&PutIn> for bridge::PutRecord {
    type Error = Error;

    fn try_from(put: &PutIn) -> Result<Self> {
        Ok(Self {
            key: bytes(&put.key),
            value: bytes(&put.value),
            lease: maybe_signed(put.lease.as_ref())?,
            prev: put.prev.unwrap_or(false),
            keep_value: put.keep_value.unwrap_or(false),
            keep_lease: put.keep_lease.unwrap_or(false),
        })
    }
}

#[napi(object)]
pub struct DeleteIn {
    pub keys: Keys,
    pub prev: Option<bool>,
}

impl TryFrom<&DeleteIn> for bridge::DeleteRecord {
    type Error = Error;

    fn try_from(delete: &DeleteIn) -> Result<Self> {
        Ok(Self { keys: (&delete.keys).try_into()?, prev: delete.prev.unwrap_or(false) })
    }
}

#[napi(object)]
pub struct CompareIn {
    pub keys: Keys,
    /// `=`, `!=`, `>` or `<`.
    pub with: String,
    /// `create`, `mod`, `version`, `lease` or `value`.
    pub target: String,
    pub number: Option<BigInt>,
    pub value: Option<Buffer>,
}

impl TryFrom<&CompareIn> for bridge::CompareRecord {
    type Error = Error;

    fn try_from(compare: &CompareIn) -> Result<Self> {
        let number = || maybe_signed(compare.number.as_ref());
        let with = match compare.with.as_str() {
            "=" => bridge::CompareWith::Equal,
            "!=" => bridge::CompareWith::NotEqual,
            ">" => bridge::CompareWith::Greater,
            "<" => bridge::CompareWith::Less,
            other => return Err(unknown("comparison", other)),
        };
        let target = match compare.target.as_str() {
            "create" => bridge::CompareTarget::Create(number()?),
            "mod" => bridge::CompareTarget::Mod(number()?),
            "version" => bridge::CompareTarget::Version(number()?),
            "lease" => bridge::CompareTarget::Lease(number()?),
            "value" => bridge::CompareTarget::Value(compare.value.as_ref().map(bytes).unwrap_or_default()),
            other => return Err(unknown("target of a comparison", other)),
        };
        Ok(Self { keys: (&compare.keys).try_into()?, with, target })
    }
}

/// One of the four is there; `txn` holds one.
#[napi(object)]
pub struct OpIn {
    pub get: Option<GetIn>,
    pub put: Option<PutIn>,
    pub delete: Option<DeleteIn>,
    pub txn: Option<Vec<TxnIn>>,
}

impl TryFrom<&OpIn> for bridge::OpRecord {
    type Error = Error;

    fn try_from(op: &OpIn) -> Result<Self> {
        if let Some(get) = &op.get {
            return Ok(Self::Get(get.try_into()?));
        }
        if let Some(put) = &op.put {
            return Ok(Self::Put(put.try_into()?));
        }
        if let Some(delete) = &op.delete {
            return Ok(Self::Delete(delete.try_into()?));
        }
        match op.txn.as_deref() {
            Some([txn]) => Ok(Self::Txn(txn.try_into()?)),
            _ => Err(unknown("operation", "none")),
        }
    }
}

#[napi(object)]
pub struct TxnIn {
    pub compares: Vec<CompareIn>,
    pub success: Vec<OpIn>,
    pub failure: Vec<OpIn>,
}

impl TryFrom<&TxnIn> for bridge::TxnRecord {
    type Error = Error;

    fn try_from(txn: &TxnIn) -> Result<Self> {
        Ok(Self {
            compares: txn.compares.iter().map(TryInto::try_into).collect::<Result<_>>()?,
            success: txn.success.iter().map(TryInto::try_into).collect::<Result<_>>()?,
            failure: txn.failure.iter().map(TryInto::try_into).collect::<Result<_>>()?,
        })
    }
}

#[napi(object)]
pub struct Header {
    pub cluster_id: BigInt,
    pub member_id: BigInt,
    pub revision: BigInt,
    pub raft_term: BigInt,
}

impl From<bridge::HeaderRecord> for Header {
    fn from(header: bridge::HeaderRecord) -> Self {
        Self {
            cluster_id: header.cluster_id.into(),
            member_id: header.member_id.into(),
            revision: header.revision.into(),
            raft_term: header.raft_term.into(),
        }
    }
}

#[napi(object)]
pub struct KeyValue {
    pub key: Buffer,
    pub value: Buffer,
    pub create_revision: BigInt,
    pub mod_revision: BigInt,
    pub version: BigInt,
    pub lease: BigInt,
}

impl From<bridge::KeyValueRecord> for KeyValue {
    fn from(kv: bridge::KeyValueRecord) -> Self {
        Self {
            key: buffer(&kv.key),
            value: buffer(&kv.value),
            create_revision: kv.create_revision.into(),
            mod_revision: kv.mod_revision.into(),
            version: kv.version.into(),
            lease: kv.lease.into(),
        }
    }
}

fn kvs(kvs: Vec<bridge::KeyValueRecord>) -> Vec<KeyValue> {
    kvs.into_iter().map(Into::into).collect()
}

#[napi(object)]
pub struct GetOut {
    pub header: Header,
    pub kvs: Vec<KeyValue>,
    pub more: bool,
    pub count: BigInt,
}

impl From<bridge::GetResult> for GetOut {
    fn from(answer: bridge::GetResult) -> Self {
        let bridge::GetResult { header, kvs: found, more, count } = answer;
        Self { header: header.into(), kvs: kvs(found), more, count: count.into() }
    }
}

#[napi(object)]
pub struct PutOut {
    pub header: Header,
    pub prev: Option<KeyValue>,
}

impl From<bridge::PutResult> for PutOut {
    fn from(answer: bridge::PutResult) -> Self {
        Self { header: answer.header.into(), prev: answer.prev.map(Into::into) }
    }
}

#[napi(object)]
pub struct DeleteOut {
    pub header: Header,
    pub deleted: BigInt,
    pub prev: Vec<KeyValue>,
}

impl From<bridge::DeleteResult> for DeleteOut {
    fn from(answer: bridge::DeleteResult) -> Self {
        Self { header: answer.header.into(), deleted: answer.deleted.into(), prev: kvs(answer.prev) }
    }
}

/// One of the four is there; `txn` holds one.
#[napi(object)]
pub struct OpOut {
    pub get: Option<GetOut>,
    pub put: Option<PutOut>,
    pub delete: Option<DeleteOut>,
    pub txn: Option<Vec<TxnOut>>,
}

impl From<bridge::OpResult> for OpOut {
    fn from(answer: bridge::OpResult) -> Self {
        let mut out = Self { get: None, put: None, delete: None, txn: None };
        match answer {
            bridge::OpResult::Get(get) => out.get = Some(get.into()),
            bridge::OpResult::Put(put) => out.put = Some(put.into()),
            bridge::OpResult::Delete(delete) => out.delete = Some(delete.into()),
            bridge::OpResult::Txn(txn) => out.txn = Some(vec![txn.into()]),
        }
        out
    }
}

#[napi(object)]
pub struct TxnOut {
    pub header: Header,
    pub succeeded: bool,
    pub responses: Vec<OpOut>,
}

impl From<bridge::TxnResult> for TxnOut {
    fn from(answer: bridge::TxnResult) -> Self {
        Self {
            header: answer.header.into(),
            succeeded: answer.succeeded,
            responses: answer.responses.into_iter().map(Into::into).collect(),
        }
    }
}

#[napi(object)]
pub struct Token {
    pub cluster_id: BigInt,
    pub revision: BigInt,
    pub key: Buffer,
}

impl From<bridge::TokenRecord> for Token {
    fn from(token: bridge::TokenRecord) -> Self {
        Self { cluster_id: token.cluster_id.into(), revision: token.revision.into(), key: buffer(&token.key) }
    }
}

#[napi(object)]
pub struct WatchIn {
    pub keys: Keys,
    pub from_revision: Option<BigInt>,
    pub prev: Option<bool>,
    pub no_puts: Option<bool>,
    pub no_deletes: Option<bool>,
    pub progress: Option<bool>,
    pub fail_when_full: Option<bool>,
    pub buffer_batches: Option<u32>,
    pub buffer_bytes: Option<u32>,
}

impl TryFrom<&WatchIn> for bridge::WatchOptions {
    type Error = Error;

    fn try_from(watch: &WatchIn) -> Result<Self> {
        let buffer = match (watch.buffer_batches, watch.buffer_bytes) {
            (Some(batches), Some(bytes)) => Some((batches as usize, bytes as usize)),
            _ => None,
        };
        Ok(Self {
            keys: (&watch.keys).try_into()?,
            from_revision: watch.from_revision.as_ref().map(signed).transpose()?,
            prev: watch.prev.unwrap_or(false),
            no_puts: watch.no_puts.unwrap_or(false),
            no_deletes: watch.no_deletes.unwrap_or(false),
            progress: watch.progress.unwrap_or(false),
            fail_when_full: watch.fail_when_full.unwrap_or(false),
            buffer,
        })
    }
}

#[napi(object)]
pub struct Event {
    pub is_delete: bool,
    pub kv: KeyValue,
    pub prev: Option<KeyValue>,
}

#[napi(object)]
pub struct WatchBatch {
    pub revision: BigInt,
    pub events: Vec<Event>,
}

impl From<bridge::WatchBatchRecord> for WatchBatch {
    fn from(batch: bridge::WatchBatchRecord) -> Self {
        let event = |event: bridge::EventRecord| Event {
            is_delete: event.is_delete,
            kv: event.kv.into(),
            prev: event.prev.map(Into::into),
        };
        Self { revision: batch.revision.into(), events: batch.events.into_iter().map(event).collect() }
    }
}
