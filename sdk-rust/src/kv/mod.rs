//! Keys and values: reads, writes, transactions, compaction.

mod options;
mod txn;
mod types;

pub use options::{Delete, Get, Keys, Order, Put, SortBy};
pub use txn::{ClientTxn, Compare, Is, Op, OpResponse, Txn, TxnResponse};
pub use types::{DeleteResponse, Event, EventKind, GetResponse, Header, KeyValue, PutResponse};

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::kv_client::KvClient;
use tonic::transport::Channel;

use crate::client::Client;
use crate::error::Result;
use crate::transport::{Call, Consistency, Safety};

fn stub(channel: Channel) -> KvClient<Channel> {
    // A range can be as large as the store; what is asked for is wanted.
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

impl Client {
    /// Reads. Repeated at other members until the time is up.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn get(&self, get: impl Into<Get>) -> Result<GetResponse> {
        let get = get.into();
        let consistency =
            if get.is_serializable() { Consistency::Serializable } else { Consistency::Linearizable };
        let call = Call::new(Safety::Read, consistency);
        let rpc = |channel, request| async move { stub(channel).range(request).await };
        let response: pb::RangeResponse = self.core()?.unary(call, get.wire(self.keys()), rpc).await?;
        Ok(GetResponse::from_wire(response, self.keys()))
    }

    /// Puts a value under a key.
    ///
    /// Sent once. If the answer is lost the error is [`Ambiguous`](crate::ErrorKind::Ambiguous).
    ///
    /// # Cancel safety
    /// If the future is dropped the put may be applied or not.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<PutResponse> {
        self.put_with(Put::new(key, value)).await
    }

    /// Puts with options. See [`Client::put`].
    ///
    /// # Cancel safety
    /// As [`Client::put`].
    pub async fn put_with(&self, put: Put) -> Result<PutResponse> {
        let call = Call::new(Safety::Once, Consistency::Linearizable);
        let rpc = |channel, request| async move { stub(channel).put(request).await };
        let response = self.core()?.unary(call, put.wire(self.keys()), rpc).await?;
        Ok(PutResponse::from_wire(response, self.keys()))
    }

    /// Deletes keys. Sent once, like [`Client::put`].
    ///
    /// # Cancel safety
    /// As [`Client::put`].
    pub async fn delete(&self, delete: impl Into<Delete>) -> Result<DeleteResponse> {
        let call = Call::new(Safety::Once, Consistency::Linearizable);
        let rpc = |channel, request| async move { stub(channel).delete_range(request).await };
        let response = self.core()?.unary(call, delete.into().wire(self.keys()), rpc).await?;
        Ok(DeleteResponse::from_wire(response, self.keys()))
    }

    /// Begins a transaction. Sent once, like [`Client::put`]; one that only reads is repeated.
    pub fn txn(&self) -> ClientTxn {
        ClientTxn::new(self.clone())
    }

    /// Does a transaction. See [`Client::txn`].
    ///
    /// # Cancel safety
    /// As [`Client::put`].
    pub async fn commit(&self, txn: Txn) -> Result<TxnResponse> {
        let safety = if txn.is_read() { Safety::Read } else { Safety::Once };
        self.commit_as(txn, safety).await
    }

    /// Does a transaction that may be repeated, because it is guarded.
    pub(crate) async fn commit_idempotent(&self, txn: Txn) -> Result<TxnResponse> {
        self.commit_as(txn, Safety::Idempotent).await
    }

    async fn commit_as(&self, txn: Txn, safety: Safety) -> Result<TxnResponse> {
        let call = Call::new(safety, txn.consistency());
        let rpc = |channel, request| async move { stub(channel).txn(request).await };
        let response = self.core()?.unary(call, txn.wire(self.keys()), rpc).await?;
        Ok(TxnResponse::from_wire(response, self.keys()))
    }

    /// Forgets history before this revision; with `physical` answers when the space is free.
    ///
    /// # Cancel safety
    /// As [`Client::put`].
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<Header> {
        let message = pb::CompactionRequest { revision, physical };
        let rpc = |channel, request| async move { stub(channel).compact(request).await };
        let response: pb::CompactionResponse = self.core()?.unary(Call::once(), message, rpc).await?;
        Ok(response.header.into())
    }

    /// The store's present revision, by a read that transfers nothing.
    pub(crate) async fn revision(&self, keys: &Keys) -> Result<i64> {
        // Of keys that the caller may read, in case not all are allowed.
        Ok(self.get(Get::new(keys.clone()).limit(1).count_only()).await?.header.revision)
    }
}
