//! Transactions: compare, then one of two lists of operations, all at one revision.

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::{compare, request_op, response_op};

use super::options::{Delete, Get, Keys, Put};
use super::types::{DeleteResponse, GetResponse, Header, PutResponse};
use crate::client::Client;
use crate::error::Result;
use crate::namespace::Namespace;
use crate::transport::Consistency;

/// How two numbers or values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// The store's is larger.
    Greater,
    /// The store's is smaller.
    Less,
}

/// A condition on what the store has.
#[derive(Clone, Debug)]
pub struct Compare {
    keys: Keys,
    result: compare::CompareResult,
    target: compare::CompareTarget,
    union: compare::TargetUnion,
}

impl Compare {
    fn new(
        keys: impl Into<Keys>,
        target: compare::CompareTarget,
        is: Is,
        union: compare::TargetUnion,
    ) -> Self {
        let result = match is {
            Is::Equal => compare::CompareResult::Equal,
            Is::NotEqual => compare::CompareResult::NotEqual,
            Is::Greater => compare::CompareResult::Greater,
            Is::Less => compare::CompareResult::Less,
        };
        Self { keys: keys.into(), result, target, union }
    }

    /// On the revision at which the key came to be; 0 if there is none. Of several keys every one must
    /// satisfy it, and no key counts as one that does not exist.
    pub fn create_revision(keys: impl Into<Keys>, is: Is, revision: i64) -> Self {
        Self::new(keys, compare::CompareTarget::Create, is, compare::TargetUnion::CreateRevision(revision))
    }

    /// On the revision of the value; 0 if there is none.
    pub fn mod_revision(keys: impl Into<Keys>, is: Is, revision: i64) -> Self {
        Self::new(keys, compare::CompareTarget::Mod, is, compare::TargetUnion::ModRevision(revision))
    }

    /// On how often the key was put; 0 if there is none.
    pub fn version(keys: impl Into<Keys>, is: Is, version: i64) -> Self {
        Self::new(keys, compare::CompareTarget::Version, is, compare::TargetUnion::Version(version))
    }

    /// On the value. False for a key that does not exist, whatever is compared.
    pub fn value(keys: impl Into<Keys>, is: Is, value: impl AsRef<[u8]>) -> Self {
        let value = Bytes::copy_from_slice(value.as_ref());
        Self::new(keys, compare::CompareTarget::Value, is, compare::TargetUnion::Value(value))
    }

    /// On the lease; 0 if there is none.
    pub fn lease(keys: impl Into<Keys>, is: Is, lease: i64) -> Self {
        Self::new(keys, compare::CompareTarget::Lease, is, compare::TargetUnion::Lease(lease))
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Keys>) -> Self {
        Self::create_revision(key, Is::Equal, 0)
    }

    /// The key exists.
    pub fn exists(key: impl Into<Keys>) -> Self {
        Self::create_revision(key, Is::Greater, 0)
    }

    fn wire(&self, keys: &Namespace) -> pb::Compare {
        let (key, range_end) = self.keys.wire(keys);
        pb::Compare {
            result: self.result.into(),
            target: self.target.into(),
            key,
            range_end,
            target_union: Some(self.union.clone()),
        }
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Reads.
    Get(Get),
    /// Puts.
    Put(Put),
    /// Deletes.
    Delete(Delete),
    /// A transaction within.
    Txn(Txn),
}

impl From<Get> for Op {
    fn from(get: Get) -> Self {
        Self::Get(get)
    }
}

impl From<Put> for Op {
    fn from(put: Put) -> Self {
        Self::Put(put)
    }
}

impl From<Delete> for Op {
    fn from(delete: Delete) -> Self {
        Self::Delete(delete)
    }
}

impl From<Txn> for Op {
    fn from(txn: Txn) -> Self {
        Self::Txn(txn)
    }
}

impl Op {
    fn wire(&self, keys: &Namespace) -> pb::RequestOp {
        let request = match self {
            Self::Get(get) => request_op::Request::RequestRange(get.wire(keys)),
            Self::Put(put) => request_op::Request::RequestPut(put.wire(keys)),
            Self::Delete(delete) => request_op::Request::RequestDeleteRange(delete.wire(keys)),
            Self::Txn(txn) => request_op::Request::RequestTxn(txn.wire(keys)),
        };
        pb::RequestOp { request: Some(request) }
    }

    fn is_local(&self) -> bool {
        matches!(self, Self::Get(get) if get.is_serializable())
    }

    fn is_read(&self) -> bool {
        matches!(self, Self::Get(_))
    }
}

/// If all conditions hold the first list is done, else the second, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub(crate) compare: Vec<Compare>,
    pub(crate) success: Vec<Op>,
    pub(crate) failure: Vec<Op>,
}

impl Txn {
    /// Without conditions and operations: the first list is done.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more condition that must hold.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compare.push(compare);
        self
    }

    /// One more operation for when all conditions hold.
    pub fn and_then(mut self, op: impl Into<Op>) -> Self {
        self.success.push(op.into());
        self
    }

    /// One more operation for when a condition does not hold.
    pub fn or_else(mut self, op: impl Into<Op>) -> Self {
        self.failure.push(op.into());
        self
    }

    pub(crate) fn wire(&self, keys: &Namespace) -> pb::TxnRequest {
        let ops = |ops: &[Op]| ops.iter().map(|op| op.wire(keys)).collect();
        pb::TxnRequest {
            compare: self.compare.iter().map(|compare| compare.wire(keys)).collect(),
            success: ops(&self.success),
            failure: ops(&self.failure),
        }
    }

    /// What its answer's revision is worth: a member answers by itself when it is asked for nothing
    /// but its own state.
    pub(crate) fn consistency(&self) -> Consistency {
        if self.success.iter().chain(&self.failure).all(Op::is_local) {
            Consistency::Serializable
        } else {
            Consistency::Linearizable
        }
    }

    pub(crate) fn is_read(&self) -> bool {
        self.success.iter().chain(&self.failure).all(Op::is_read)
    }
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResponse {
    /// To a read.
    Get(GetResponse),
    /// To a put.
    Put(PutResponse),
    /// To a deletion.
    Delete(DeleteResponse),
    /// To a transaction within.
    Txn(TxnResponse),
}

impl OpResponse {
    fn from_wire(response: pb::ResponseOp, keys: &Namespace) -> Self {
        match response.response {
            Some(response_op::Response::ResponseRange(range)) => {
                Self::Get(GetResponse::from_wire(range, keys))
            }
            Some(response_op::Response::ResponsePut(put)) => Self::Put(PutResponse::from_wire(put, keys)),
            Some(response_op::Response::ResponseDeleteRange(delete)) => {
                Self::Delete(DeleteResponse::from_wire(delete, keys))
            }
            Some(response_op::Response::ResponseTxn(txn)) => Self::Txn(TxnResponse::from_wire(txn, keys)),
            None => Self::Get(GetResponse::default()),
        }
    }
}

/// Answer to a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    /// Who answered, and when.
    pub header: Header,
    /// Whether all conditions held.
    pub succeeded: bool,
    /// One answer for each operation that was done.
    pub responses: Vec<OpResponse>,
}

impl TxnResponse {
    pub(crate) fn from_wire(response: pb::TxnResponse, keys: &Namespace) -> Self {
        Self {
            header: response.header.into(),
            succeeded: response.succeeded,
            responses: response.responses.into_iter().map(|op| OpResponse::from_wire(op, keys)).collect(),
        }
    }

    /// The answer to the operation at this place, if it was a read.
    pub fn get(&self, index: usize) -> Option<&GetResponse> {
        match self.responses.get(index)? {
            OpResponse::Get(get) => Some(get),
            _ => None,
        }
    }
}

/// A transaction on its way to a client.
#[derive(Clone, Debug)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct ClientTxn {
    client: Client,
    txn: Txn,
}

impl ClientTxn {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, txn: Txn::new() }
    }

    /// One more condition that must hold.
    pub fn when(mut self, compare: Compare) -> Self {
        self.txn = self.txn.when(compare);
        self
    }

    /// One more operation for when all conditions hold.
    pub fn and_then(mut self, op: impl Into<Op>) -> Self {
        self.txn = self.txn.and_then(op);
        self
    }

    /// One more operation for when a condition does not hold.
    pub fn or_else(mut self, op: impl Into<Op>) -> Self {
        self.txn = self.txn.or_else(op);
        self
    }

    /// Puts, when all conditions hold.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.and_then(Put::new(key, value))
    }

    /// Deletes, when all conditions hold.
    pub fn delete(self, keys: impl Into<Keys>) -> Self {
        self.and_then(Delete::new(keys))
    }

    /// Does it.
    ///
    /// # Cancel safety
    /// As [`Client::put`].
    pub async fn commit(self) -> Result<TxnResponse> {
        self.client.commit(self.txn).await
    }
}
