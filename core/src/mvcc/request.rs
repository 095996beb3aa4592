//! Requests and answers of the key store, field for field as the etcd v3 API has them, as plain
//! types that know no wire format.
//!
//! Enumerations stay numbers here: clients may send numbers that do not exist, and what happens
//! then is decided by [`super::validate`] and by the rooms that use the number.

use bytes::Bytes;

use crate::types::KeyValue;

/// Numbers of [`RangeRequest::sort_order`].
pub mod sort_order {
    /// No wish: ascending.
    pub const NONE: i32 = 0;
    /// Smallest first.
    pub const ASCEND: i32 = 1;
    /// Largest first.
    pub const DESCEND: i32 = 2;
}

/// Numbers of [`RangeRequest::sort_target`].
pub mod sort_target {
    /// By key.
    pub const KEY: i32 = 0;
    /// By version.
    pub const VERSION: i32 = 1;
    /// By create revision.
    pub const CREATE: i32 = 2;
    /// By mod revision.
    pub const MOD: i32 = 3;
    /// By value, bytewise.
    pub const VALUE: i32 = 4;
}

/// Numbers of [`Compare::result`].
pub mod compare_result {
    /// The key's own equals the given.
    pub const EQUAL: i32 = 0;
    /// The key's own is larger.
    pub const GREATER: i32 = 1;
    /// The key's own is smaller.
    pub const LESS: i32 = 2;
    /// They differ.
    pub const NOT_EQUAL: i32 = 3;
}

/// Numbers of [`Compare::target`].
pub mod compare_target {
    /// The version.
    pub const VERSION: i32 = 0;
    /// The create revision.
    pub const CREATE: i32 = 1;
    /// The mod revision.
    pub const MOD: i32 = 2;
    /// The value.
    pub const VALUE: i32 = 3;
    /// The lease.
    pub const LEASE: i32 = 4;
}

/// Reads the keys of an interval.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeRequest {
    /// First key.
    pub key: Bytes,
    /// End of the interval; see [`crate::types::KeyRange::from_wire`].
    pub range_end: Bytes,
    /// Most keys to return; 0 or less for all.
    pub limit: i64,
    /// Revision to read at; 0 for the current one.
    pub revision: i64,
    /// One of [`sort_order`].
    pub sort_order: i32,
    /// One of [`sort_target`].
    pub sort_target: i32,
    /// A possibly stale answer of this member alone will do.
    pub serializable: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Return the count and no keys.
    pub count_only: bool,
    /// Smallest mod revision to return; 0 for no bound.
    pub min_mod_revision: i64,
    /// Largest mod revision to return; 0 for no bound.
    pub max_mod_revision: i64,
    /// Smallest create revision to return; 0 for no bound.
    pub min_create_revision: i64,
    /// Largest create revision to return; 0 for no bound.
    pub max_create_revision: i64,
}

/// Answer to a [`RangeRequest`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeResponse {
    /// The store's revision when it was read, also for reads of the past.
    pub revision: i64,
    /// The keys in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// The limit cut keys off.
    pub more: bool,
    /// Keys in the interval, whatever the limit and the revision bounds.
    pub count: i64,
}

/// Writes one key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PutRequest {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Lease to hang the key on, 0 for none.
    pub lease: i64,
    /// Return the record as it was before.
    pub prev_kv: bool,
    /// Keep the value as it is.
    pub ignore_value: bool,
    /// Keep the lease as it is.
    pub ignore_lease: bool,
}

/// Answer to a [`PutRequest`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PutResponse {
    /// The revision that the put made.
    pub revision: i64,
    /// The record before, if asked for and there was one.
    pub prev_kv: Option<KeyValue>,
}

/// Deletes the keys of an interval.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeleteRangeRequest {
    /// First key.
    pub key: Bytes,
    /// End of the interval; see [`crate::types::KeyRange::from_wire`].
    pub range_end: Bytes,
    /// Return the deleted records.
    pub prev_kv: bool,
}

/// Answer to a [`DeleteRangeRequest`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeleteRangeResponse {
    /// The revision that the deletion made, the current one if nothing was deleted.
    pub revision: i64,
    /// Number of keys deleted.
    pub deleted: i64,
    /// The deleted records in key order, if asked for.
    pub prev_kvs: Vec<KeyValue>,
}

/// The given side of a comparison.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum CompareOperand {
    /// None given: zero, or empty.
    #[default]
    Unset,
    /// A version.
    Version(i64),
    /// A create revision.
    CreateRevision(i64),
    /// A mod revision.
    ModRevision(i64),
    /// A value.
    Value(Bytes),
    /// A lease.
    Lease(i64),
}

/// One condition of a transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compare {
    /// One of [`compare_result`].
    pub result: i32,
    /// One of [`compare_target`].
    pub target: i32,
    /// The key, or the first of an interval.
    pub key: Bytes,
    /// End of the interval, all keys of which must satisfy the condition.
    pub range_end: Bytes,
    /// The given side; where its kind is not the target's it counts as zero.
    pub operand: CompareOperand,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum RequestOp {
    /// None given; refused.
    #[default]
    Unset,
    /// Read.
    Range(RangeRequest),
    /// Write.
    Put(PutRequest),
    /// Delete.
    DeleteRange(DeleteRangeRequest),
    /// A transaction inside the transaction.
    Txn(TxnRequest),
}

/// All of `success` if every condition holds, else all of `failure`, as one step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TxnRequest {
    /// The conditions; none means true.
    pub compare: Vec<Compare>,
    /// Operations if they hold.
    pub success: Vec<RequestOp>,
    /// Operations if one does not.
    pub failure: Vec<RequestOp>,
}

/// Answer to one operation of a transaction, of the operation's kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResponseOp {
    /// To a read.
    Range(RangeResponse),
    /// To a write.
    Put(PutResponse),
    /// To a deletion.
    DeleteRange(DeleteRangeResponse),
    /// To an inner transaction; its revision is 0.
    Txn(TxnResponse),
}

/// Answer to a [`TxnRequest`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TxnResponse {
    /// The revision that the transaction made, the current one if it changed nothing.
    pub revision: i64,
    /// The conditions held.
    pub succeeded: bool,
    /// One answer for each operation of the branch that ran.
    pub responses: Vec<ResponseOp>,
}
