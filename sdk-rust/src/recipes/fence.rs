//! What keeps a holder that was paused from doing harm: a number that grows with every holder, and
//! transactions that are refused to all but the latest.

use bytes::Bytes;

use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Compare, Delete, Keys, Put, Txn, TxnResponse};

/// A number that grows with every holder, to be shown to whatever must not be touched by an old one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FencingToken {
    /// The cluster; after a restore from a backup numbers may begin again, under another one.
    pub cluster_id: u64,
    /// The number. A resource keeps the largest it saw and refuses smaller ones.
    pub revision: i64,
    /// The key that proves it.
    pub key: Bytes,
}

/// A transaction that is refused when the lock or leadership is lost.
#[derive(Debug)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct FencedTxn {
    place: Place,
    txn: Txn,
    kind: ErrorKind,
}

impl FencedTxn {
    pub(crate) fn new(place: &Place, kind: ErrorKind) -> Self {
        Self { place: place.clone(), txn: Txn::new(), kind }
    }

    /// One more condition that must hold.
    pub fn when(mut self, compare: Compare) -> Self {
        self.txn = self.txn.when(compare);
        self
    }

    /// One more operation for when all conditions hold.
    pub fn and_then(mut self, op: impl Into<crate::kv::Op>) -> Self {
        self.txn = self.txn.and_then(op);
        self
    }

    /// One more operation for when a condition of the caller's does not hold.
    pub fn or_else(mut self, op: impl Into<crate::kv::Op>) -> Self {
        self.txn = self.txn.or_else(op);
        self
    }

    /// Puts.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.and_then(Put::new(key, value))
    }

    /// Deletes.
    pub fn delete(self, keys: impl Into<Keys>) -> Self {
        self.and_then(Delete::new(keys))
    }

    /// Does it, if the lock or leadership is still ours: refused here if the session is over, and
    /// by the store if the key is gone.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be applied or not.
    pub async fn commit(self) -> Result<TxnResponse> {
        self.place.check()?;
        let client = self.place.session.client();
        let fence = Txn::new().when(self.place.fence());
        // With conditions of the caller's own, it must show which of the two was refused.
        let nested = !self.txn.compare.is_empty() || !self.txn.failure.is_empty();
        let txn = if nested { fence.and_then(self.txn) } else { Txn { success: self.txn.success, ..fence } };
        let answer = client.commit(txn).await?;
        if !answer.succeeded {
            let text = format!("refused by the fencing token={}", self.place.created);
            return Err(Error::new(self.kind, text));
        }
        if !nested {
            return Ok(answer);
        }
        match answer.responses.into_iter().next() {
            Some(crate::kv::OpResponse::Txn(inner)) => Ok(TxnResponse { header: answer.header, ..inner }),
            _ => Err(Error::internal("a transaction within was not answered")),
        }
    }
}
