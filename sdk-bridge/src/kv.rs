//! Keys and values as records.

use bytes::Bytes;
use folkmoot_client as sdk;

use crate::client::Client;
use crate::edge::{Result, edge};
use crate::error::BridgeError;

/// The keys that a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySet {
    /// One key.
    One(Bytes),
    /// All keys that begin like this.
    Prefix(Bytes),
    /// From the first key on, and before the second one.
    Range(Bytes, Bytes),
    /// From this key on.
    From(Bytes),
    /// All keys.
    All,
}

impl From<KeySet> for sdk::Keys {
    fn from(keys: KeySet) -> Self {
        match keys {
            KeySet::One(key) => key.into(),
            KeySet::Prefix(prefix) => Self::prefix(prefix),
            KeySet::Range(first, end) => Self::range(first..end),
            KeySet::From(first) => Self::range(first..),
            KeySet::All => Self::all(),
        }
    }
}

/// By what an answer is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    #[default]
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

/// How to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetRecord {
    /// What.
    pub keys: KeySet,
    /// At most so many; 0 for all.
    pub limit: i64,
    /// As it was at this revision; 0 for now.
    pub revision: i64,
    /// By what the answer is sorted; by key and ascending if not said.
    pub sort: Option<SortTarget>,
    /// Largest first.
    pub descending: bool,
    /// From one member's own state, which may be behind.
    pub serializable: bool,
    /// Without values.
    pub keys_only: bool,
    /// Only how many there are.
    pub count_only: bool,
    /// Only values put at this revision or later; 0 for any. The same for the other three.
    pub min_mod_revision: i64,
    /// See `min_mod_revision`.
    pub max_mod_revision: i64,
    /// See `min_mod_revision`.
    pub min_create_revision: i64,
    /// See `min_mod_revision`.
    pub max_create_revision: i64,
}

impl GetRecord {
    /// Reads these keys, linearizably and now.
    pub fn new(keys: KeySet) -> Self {
        Self {
            keys,
            limit: 0,
            revision: 0,
            sort: None,
            descending: false,
            serializable: false,
            keys_only: false,
            count_only: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }
}

impl From<GetRecord> for sdk::Get {
    fn from(record: GetRecord) -> Self {
        let mut get = Self::new(record.keys)
            .limit(record.limit)
            .at_revision(record.revision)
            .min_mod_revision(record.min_mod_revision)
            .max_mod_revision(record.max_mod_revision)
            .min_create_revision(record.min_create_revision)
            .max_create_revision(record.max_create_revision);
        if record.sort.is_some() || record.descending {
            let by = match record.sort.unwrap_or_default() {
                SortTarget::Key => sdk::SortBy::Key,
                SortTarget::Version => sdk::SortBy::Version,
                SortTarget::Create => sdk::SortBy::Create,
                SortTarget::Mod => sdk::SortBy::Mod,
                SortTarget::Value => sdk::SortBy::Value,
            };
            let order = if record.descending { sdk::Order::Descending } else { sdk::Order::Ascending };
            get = get.sort(by, order);
        }
        if record.serializable {
            get = get.serializable();
        }
        if record.keys_only {
            get = get.keys_only();
        }
        if record.count_only {
            get = get.count_only();
        }
        get
    }
}

/// What to put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutRecord {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease to hang it on, or 0.
    pub lease: i64,
    /// Asks what was there before.
    pub prev: bool,
    /// Keeps the value that is there; the one given is empty.
    pub keep_value: bool,
    /// Keeps the lease that it hangs on.
    pub keep_lease: bool,
}

impl From<PutRecord> for sdk::Put {
    fn from(record: PutRecord) -> Self {
        let mut put = Self::new(record.key, record.value).lease(record.lease);
        if record.prev {
            put = put.prev();
        }
        if record.keep_value {
            put = put.keep_value();
        }
        if record.keep_lease {
            put = put.keep_lease();
        }
        put
    }
}

/// What to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRecord {
    /// The keys.
    pub keys: KeySet,
    /// Asks what was there.
    pub prev: bool,
}

impl From<DeleteRecord> for sdk::Delete {
    fn from(record: DeleteRecord) -> Self {
        let delete = Self::new(record.keys);
        if record.prev { delete.prev() } else { delete }
    }
}

/// How two numbers or values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareWith {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// The store's is larger.
    Greater,
    /// The store's is smaller.
    Less,
}

/// What of a key is compared, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The revision at which it came to be; 0 if there is none.
    Create(i64),
    /// The revision of its value; 0 if there is none.
    Mod(i64),
    /// How often it was put; 0 if there is none.
    Version(i64),
    /// Its lease; 0 if there is none.
    Lease(i64),
    /// Its value; never true if there is none.
    Value(Bytes),
}

/// A condition. Of several keys every one must satisfy it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompareRecord {
    /// Which keys.
    pub keys: KeySet,
    /// How.
    pub with: CompareWith,
    /// What.
    pub target: CompareTarget,
}

impl From<CompareRecord> for sdk::Compare {
    fn from(record: CompareRecord) -> Self {
        let is = match record.with {
            CompareWith::Equal => sdk::Is::Equal,
            CompareWith::NotEqual => sdk::Is::NotEqual,
            CompareWith::Greater => sdk::Is::Greater,
            CompareWith::Less => sdk::Is::Less,
        };
        match record.target {
            CompareTarget::Create(revision) => Self::create_revision(record.keys, is, revision),
            CompareTarget::Mod(revision) => Self::mod_revision(record.keys, is, revision),
            CompareTarget::Version(version) => Self::version(record.keys, is, version),
            CompareTarget::Lease(lease) => Self::lease(record.keys, is, lease),
            CompareTarget::Value(value) => Self::value(record.keys, is, value),
        }
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpRecord {
    /// Reads.
    Get(GetRecord),
    /// Puts.
    Put(PutRecord),
    /// Deletes.
    Delete(DeleteRecord),
    /// A transaction within.
    Txn(TxnRecord),
}

impl From<OpRecord> for sdk::Op {
    fn from(record: OpRecord) -> Self {
        match record {
            OpRecord::Get(get) => Self::Get(get.into()),
            OpRecord::Put(put) => Self::Put(put.into()),
            OpRecord::Delete(delete) => Self::Delete(delete.into()),
            OpRecord::Txn(txn) => Self::Txn(txn.into()),
        }
    }
}

/// If all conditions hold the first list is done, else the second, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnRecord {
    /// The conditions.
    pub compares: Vec<CompareRecord>,
    /// Done if all hold.
    pub success: Vec<OpRecord>,
    /// Done if one does not.
    pub failure: Vec<OpRecord>,
}

impl From<TxnRecord> for sdk::Txn {
    fn from(record: TxnRecord) -> Self {
        let mut txn = Self::new();
        for compare in record.compares {
            txn = txn.when(compare.into());
        }
        for op in record.success {
            txn = txn.and_then(op);
        }
        for op in record.failure {
            txn = txn.or_else(op);
        }
        txn
    }
}

/// A transaction of a guard.
pub(crate) fn fenced(mut txn: sdk::FencedTxn, record: TxnRecord) -> sdk::FencedTxn {
    for compare in record.compares {
        txn = txn.when(compare.into());
    }
    for op in record.success {
        txn = txn.and_then(op);
    }
    for op in record.failure {
        txn = txn.or_else(op);
    }
    txn
}

/// Who answered, and at which revision of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderRecord {
    /// The cluster.
    pub cluster_id: u64,
    /// The member.
    pub member_id: u64,
    /// The revision.
    pub revision: i64,
    /// The term.
    pub raft_term: u64,
}

impl From<sdk::Header> for HeaderRecord {
    fn from(header: sdk::Header) -> Self {
        Self {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            revision: header.revision,
            raft_term: header.raft_term,
        }
    }
}

/// A key with its value at some revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValueRecord {
    /// The key, without the client's namespace.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// When the key came to be; 0 in a deletion.
    pub create_revision: i64,
    /// When this value was put.
    pub mod_revision: i64,
    /// How often it was put; 0 in a deletion.
    pub version: i64,
    /// The lease it hangs on, or 0.
    pub lease: i64,
}

impl From<sdk::KeyValue> for KeyValueRecord {
    fn from(kv: sdk::KeyValue) -> Self {
        Self {
            key: kv.key,
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

pub(crate) fn records(kvs: Vec<sdk::KeyValue>) -> Vec<KeyValueRecord> {
    kvs.into_iter().map(KeyValueRecord::from).collect()
}

/// Answer to a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetResult {
    /// Who answered, and when.
    pub header: HeaderRecord,
    /// What was found.
    pub kvs: Vec<KeyValueRecord>,
    /// Whether a limit held more back.
    pub more: bool,
    /// How many keys there are, whatever the limit.
    pub count: i64,
}

impl From<sdk::GetResponse> for GetResult {
    fn from(answer: sdk::GetResponse) -> Self {
        Self {
            header: answer.header.into(),
            kvs: records(answer.kvs),
            more: answer.more,
            count: answer.count,
        }
    }
}

/// Answer to a put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutResult {
    /// Who answered; the revision is that of the put.
    pub header: HeaderRecord,
    /// What was there before, if asked for.
    pub prev: Option<KeyValueRecord>,
}

impl From<sdk::PutResponse> for PutResult {
    fn from(answer: sdk::PutResponse) -> Self {
        Self { header: answer.header.into(), prev: answer.prev.map(Into::into) }
    }
}

/// Answer to a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteResult {
    /// Who answered, and when.
    pub header: HeaderRecord,
    /// How many keys there were.
    pub deleted: i64,
    /// What was deleted, if asked for.
    pub prev: Vec<KeyValueRecord>,
}

impl From<sdk::DeleteResponse> for DeleteResult {
    fn from(answer: sdk::DeleteResponse) -> Self {
        Self { header: answer.header.into(), deleted: answer.deleted, prev: records(answer.prev) }
    }
}

/// Answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// To a read.
    Get(GetResult),
    /// To a put.
    Put(PutResult),
    /// To a deletion.
    Delete(DeleteResult),
    /// To a transaction within.
    Txn(TxnResult),
}

impl From<sdk::OpResponse> for OpResult {
    fn from(answer: sdk::OpResponse) -> Self {
        match answer {
            sdk::OpResponse::Get(get) => Self::Get(get.into()),
            sdk::OpResponse::Put(put) => Self::Put(put.into()),
            sdk::OpResponse::Delete(delete) => Self::Delete(delete.into()),
            sdk::OpResponse::Txn(txn) => Self::Txn(txn.into()),
        }
    }
}

/// Answer to a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResult {
    /// Who answered, and when.
    pub header: HeaderRecord,
    /// Whether all conditions held.
    pub succeeded: bool,
    /// One answer for each operation that was done.
    pub responses: Vec<OpResult>,
}

impl From<sdk::TxnResponse> for TxnResult {
    fn from(answer: sdk::TxnResponse) -> Self {
        Self {
            header: answer.header.into(),
            succeeded: answer.succeeded,
            responses: answer.responses.into_iter().map(Into::into).collect(),
        }
    }
}

/// A number that grows with every holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRecord {
    /// The cluster; after a restore numbers may begin again, under another one.
    pub cluster_id: u64,
    /// The number.
    pub revision: i64,
    /// The key that proves it.
    pub key: Bytes,
}

impl From<sdk::FencingToken> for TokenRecord {
    fn from(token: sdk::FencingToken) -> Self {
        Self { cluster_id: token.cluster_id, revision: token.revision, key: token.key }
    }
}

impl Client {
    /// Reads. Repeated at other members until the time is up.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn get(&self, get: GetRecord) -> Result<GetResult, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.get(sdk::Get::from(get)).await?.into()) }).await
    }

    /// Puts. Sent once; `AMBIGUOUS` if the answer is lost.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be applied or not. The same for all writes.
    pub async fn put(&self, put: PutRecord) -> Result<PutResult, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.put_with(put.into()).await?.into()) }).await
    }

    /// Deletes. Sent once, like a put.
    pub async fn delete(&self, delete: DeleteRecord) -> Result<DeleteResult, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.delete(sdk::Delete::from(delete)).await?.into()) }).await
    }

    /// Does a transaction. Sent once, like a put; one that only reads is repeated.
    pub async fn commit(&self, txn: TxnRecord) -> Result<TxnResult, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.commit(txn.into()).await?.into()) }).await
    }

    /// Forgets history before this revision; with `physical` answers when the space is free.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<HeaderRecord, BridgeError> {
        let client = self.sdk()?;
        edge(async { Ok(client.compact(revision, physical).await?.into()) }).await
    }
}
