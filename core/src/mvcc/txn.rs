//! Applying commands that change keys.
//!
//! A command is checked completely on the state before it and then executed, so that a refusal
//! leaves no trace. Execution can be stopped by a failing engine alone; the store then refuses
//! to answer.

use bytes::Bytes;
use parking_lot::RwLockWriteGuard;

use super::compare::{self, branch};
use super::index::Live;
use super::range::View;
use super::request::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseOp, TxnRequest, TxnResponse,
};
use super::rows::{self, Version};
use super::store::{Miss, State, Store};
use crate::env::{Engine, WriteBatch};
use crate::error::{Error, Failure};
use crate::event::{Event, EventBatch, EventKind, PrevVersion};
use crate::types::{KeyRange, KeyValue, LeaseId, Revision};

/// One command that is being applied. All its changes get one main revision.
///
/// After a change it must be [`commit`](Self::commit)ted; if it is dropped instead, the store
/// refuses every further command and read.
pub struct Txn<'a> {
    state: RwLockWriteGuard<'a, State>,
    engine: &'a dyn Engine,
    rows: &'a mut WriteBatch,
    scratch: &'a mut Vec<u8>,
    events: Vec<Event>,
}

impl Drop for Txn<'_> {
    fn drop(&mut self) {
        // Only a command interrupted by the engine gets here with events.
        self.state.broken |= !self.events.is_empty();
    }
}

impl<'a> Txn<'a> {
    pub(super) fn new(store: &'a mut Store, rows: &'a mut WriteBatch) -> Self {
        let Store { shared, scratch } = store;
        Self {
            state: shared.state.write(),
            engine: shared.engine.as_ref(),
            rows,
            scratch,
            events: Vec::new(),
        }
    }

    fn view(&self) -> View<'_> {
        View { written: !self.events.is_empty(), ..self.state.view(self.engine) }
    }

    fn next_revision(&self) -> Revision {
        let sub = u32::try_from(self.events.len()).expect("a command changes fewer keys than fit in memory");
        Revision { main: self.state.revision + 1, sub }
    }

    /// Reads as of now: with the changes made so far, and their revision.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        self.view().range(request).map_err(Miss::or_damaged)
    }

    /// Writes a key. With `ignore_value` or `ignore_lease` on a key that is absent by now, the
    /// value is empty and there is no lease; whether it was there at all was checked before.
    pub fn put(&mut self, request: PutRequest) -> Result<PutResponse, Failure> {
        self.put_ref(&request)
    }

    fn put_ref(&mut self, request: &PutRequest) -> Result<PutResponse, Failure> {
        let mut value = None;
        let mut lease = LeaseId::from_wire(request.lease);
        let mut prev_kv = None;
        if request.prev_kv || request.ignore_value || request.ignore_lease {
            let view = self.view();
            let live = view.tree.get(&request.key);
            if request.ignore_lease {
                lease = live.and_then(Live::lease);
            }
            if let Some(live) = live
                && (request.prev_kv || request.ignore_value)
            {
                let kv = view.key_value(live).map_err(Miss::or_damaged)?;
                if request.ignore_value {
                    // Copied unless it is in memory: it may be a part of a row.
                    value = Some(live.value.clone().unwrap_or_else(|| Bytes::copy_from_slice(&kv.value)));
                }
                prev_kv = request.prev_kv.then_some(kv);
            }
        }
        // Copies, because the request's bytes are parts of a whole log entry.
        let value = value.unwrap_or_else(|| Bytes::copy_from_slice(&request.value));
        self.write(&request.key, value, lease);
        Ok(PutResponse { revision: self.state.revision + 1, prev_kv })
    }

    fn write(&mut self, key: &[u8], value: Bytes, lease: Option<LeaseId>) {
        let revision = self.next_revision();
        let value_bytes = u32::try_from(value.len()).expect("values are bounded far below 4 GiB");
        let mut prev = None;
        let mut kv = KeyValue { value, mod_revision: revision.main, lease, ..KeyValue::default() };
        let state = &mut *self.state;
        let values = &mut state.values;
        state.tree.upsert(key, |live| match live {
            Some(live) => {
                kv.key = live.key.clone();
                kv.create_revision = live.create_revision;
                kv.version = live.version + 1;
                values.removed(live.value.as_ref());
                prev = Some(PrevVersion {
                    revision: live.revision(),
                    create_revision: live.create_revision,
                    version: live.version,
                    lease: live.lease(),
                    value: live.value.replace(kv.value.clone()),
                });
                live.mod_main = revision.main;
                live.mod_sub = revision.sub;
                live.version = kv.version;
                live.lease = LeaseId::to_wire(lease);
                live.value_bytes = value_bytes;
                None
            }
            None => {
                kv.key = Bytes::copy_from_slice(key);
                kv.create_revision = revision.main;
                kv.version = 1;
                Some(Live {
                    key: kv.key.clone(),
                    value: Some(kv.value.clone()),
                    create_revision: revision.main,
                    mod_main: revision.main,
                    version: 1,
                    lease: LeaseId::to_wire(lease),
                    mod_sub: revision.sub,
                    value_bytes,
                })
            }
        });
        values.added(kv.value.len());
        self.record(Event { kind: EventKind::Put, sub: revision.sub, kv, prev });
    }

    /// Deletes the keys of an interval.
    pub fn delete_range(&mut self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Failure> {
        self.delete_range_ref(&request)
    }

    fn delete_range_ref(&mut self, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Failure> {
        let keys = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
        let mut doomed = Vec::new();
        let mut prev_kvs = Vec::new();
        let view = self.view();
        for live in view.tree.range(&keys) {
            doomed.push(live.key.clone());
            if request.prev_kv {
                prev_kvs.push(view.key_value(live).map_err(Miss::or_damaged)?);
            }
        }
        let deleted = doomed.iter().filter(|key| self.delete(key)).count();
        Ok(DeleteRangeResponse {
            revision: self.view().current(),
            deleted: i64::try_from(deleted).unwrap_or(i64::MAX),
            prev_kvs,
        })
    }

    /// Deletes those of `keys` that exist, in key order.
    pub fn delete_keys(&mut self, keys: impl IntoIterator<Item = Bytes>) -> Result<(), Failure> {
        let mut keys: Vec<Bytes> = keys.into_iter().collect();
        keys.sort_unstable();
        for key in keys {
            self.delete(&key);
        }
        Ok(())
    }

    /// Whether the key was there.
    fn delete(&mut self, key: &[u8]) -> bool {
        let revision = self.next_revision();
        let state = &mut *self.state;
        let Some(live) = state.tree.remove(key) else { return false };
        state.values.removed(live.value.as_ref());
        let prev = PrevVersion {
            revision: live.revision(),
            create_revision: live.create_revision,
            version: live.version,
            lease: live.lease(),
            value: live.value,
        };
        let kv = KeyValue { key: live.key, mod_revision: revision.main, ..KeyValue::default() };
        self.record(Event { kind: EventKind::Delete, sub: revision.sub, kv, prev: Some(prev) });
        true
    }

    /// Writes the rows of a change and remembers it.
    fn record(&mut self, event: Event) {
        let tombstone = event.kind == EventKind::Delete;
        let ended = event.prev.as_ref().filter(|_| tombstone);
        let version = Version {
            revision: Revision { main: event.kv.mod_revision, sub: event.sub },
            tombstone,
            create_revision: ended.map_or(event.kv.create_revision, |prev| prev.create_revision),
            version: ended.map_or(event.kv.version, |prev| prev.version),
            lease: ended.map_or(event.kv.lease, |prev| prev.lease),
            prev: event.prev.as_ref().map(|prev| prev.revision),
            key: event.kv.key.clone(),
            value: event.kv.value.clone(),
        };
        rows::put_version(self.rows, self.scratch, &version);
        self.state.unstored.push_back(version);
        self.events.push(event);
    }

    /// Ends the command. Its changes are what readers see from now on, under a new revision;
    /// `None` if it changed nothing.
    pub fn commit(mut self) -> Option<EventBatch> {
        let events = std::mem::take(&mut self.events);
        if events.is_empty() {
            return None;
        }
        self.state.revision += 1;
        Some(EventBatch { revision: self.state.revision, events })
    }

    /// The lease that a put asks for must exist.
    fn check_lease(request: &PutRequest, lease_exists: &dyn Fn(LeaseId) -> bool) -> Result<(), Error> {
        match LeaseId::from_wire(request.lease) {
            Some(lease) if !lease_exists(lease) => Err(Error::LeaseNotFound),
            _ => Ok(()),
        }
    }

    /// The key must exist if something of it is to be kept.
    fn check_kept(&self, request: &PutRequest) -> Result<(), Error> {
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && self.state.tree.get(&request.key).is_none() { Err(Error::KeyNotFound) } else { Ok(()) }
    }

    /// Checks the operations that will run, in order, on the state before all of them.
    fn check_ops(
        &self,
        request: &TxnRequest,
        path: &mut impl Iterator<Item = bool>,
        lease_exists: &dyn Fn(LeaseId) -> bool,
    ) -> Result<(), Error> {
        for op in branch(request, next_branch(path)) {
            match op {
                RequestOp::Unset => return Err(Error::KeyNotFound),
                RequestOp::Range(range) => check_txn_range(&self.view(), range)?,
                // The other way round than for a put on its own, as in etcd.
                RequestOp::Put(put) => {
                    self.check_kept(put)?;
                    Self::check_lease(put, lease_exists)?;
                }
                RequestOp::DeleteRange(_) => {}
                RequestOp::Txn(inner) => self.check_ops(inner, path, lease_exists)?,
            }
        }
        Ok(())
    }

    fn execute(
        &mut self,
        request: &TxnRequest,
        path: &mut impl Iterator<Item = bool>,
    ) -> Result<TxnResponse, Failure> {
        let succeeded = next_branch(path);
        let ops = branch(request, succeeded);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(match op {
                RequestOp::Unset => return Err(Error::KeyNotFound.into()),
                RequestOp::Range(range) => ResponseOp::Range(self.range(range)?),
                RequestOp::Put(put) => ResponseOp::Put(self.put_ref(put)?),
                RequestOp::DeleteRange(delete) => ResponseOp::DeleteRange(self.delete_range_ref(delete)?),
                RequestOp::Txn(inner) => ResponseOp::Txn(self.execute(inner, path)?),
            });
        }
        // Inner transactions have an empty header, as in etcd; the outermost gets its revision
        // from the caller.
        Ok(TxnResponse { revision: 0, succeeded, responses })
    }
}

fn next_branch(path: &mut impl Iterator<Item = bool>) -> bool {
    path.next().expect("the path has an element for each transaction on it")
}

/// What etcd checks before a range inside a transaction. A negative revision is not "current"
/// here, but below the compacted one.
pub(super) fn check_txn_range(view: &View<'_>, request: &RangeRequest) -> Result<(), Error> {
    match request.revision {
        0 => Ok(()),
        revision if revision > view.revision => Err(Error::FutureRev),
        revision if revision < view.compact_revision => Err(Error::Compacted),
        _ => Ok(()),
    }
}

impl Store {
    fn begin_whole<'a>(&'a mut self, rows: &'a mut WriteBatch) -> Result<Txn<'a>, Failure> {
        let txn = self.begin(rows);
        txn.state.check_whole()?;
        Ok(txn)
    }

    /// Applies a put; `lease_exists` tells which leases there are. Rows go to `rows`.
    ///
    /// # Errors
    /// `EmptyKey`, `LeaseNotFound`, `KeyNotFound`; nothing has changed then.
    pub fn apply_put(
        &mut self,
        request: PutRequest,
        lease_exists: &dyn Fn(LeaseId) -> bool,
        rows: &mut WriteBatch,
    ) -> Result<(PutResponse, Option<EventBatch>), Failure> {
        if request.key.is_empty() {
            return Err(Error::EmptyKey.into());
        }
        let mut txn = self.begin_whole(rows)?;
        Txn::check_lease(&request, lease_exists)?;
        txn.check_kept(&request)?;
        txn.events.reserve_exact(1);
        let response = txn.put(request)?;
        Ok((response, txn.commit()))
    }

    /// Applies a deletion. Rows go to `rows`.
    ///
    /// # Errors
    /// `EmptyKey`; nothing has changed then.
    pub fn apply_delete_range(
        &mut self,
        request: DeleteRangeRequest,
        rows: &mut WriteBatch,
    ) -> Result<(DeleteRangeResponse, Option<EventBatch>), Failure> {
        if request.key.is_empty() {
            return Err(Error::EmptyKey.into());
        }
        let mut txn = self.begin_whole(rows)?;
        let response = txn.delete_range(request)?;
        Ok((response, txn.commit()))
    }

    /// Applies a transaction: all conditions along the path that will be taken, then all checks,
    /// both on the state before it, then its operations. Rows go to `rows`.
    ///
    /// # Errors
    /// `TooManyOps` if it nests too deep, `LeaseNotFound`, `KeyNotFound`, `FutureRev`,
    /// `Compacted`; nothing has changed then.
    pub fn apply_txn(
        &mut self,
        request: &TxnRequest,
        lease_exists: &dyn Fn(LeaseId) -> bool,
        rows: &mut WriteBatch,
    ) -> Result<(TxnResponse, Option<EventBatch>), Failure> {
        let mut txn = self.begin_whole(rows)?;
        let path = compare::choose(&txn.view(), request).map_err(Miss::or_damaged)?;
        txn.check_ops(request, &mut path.iter().copied(), lease_exists)?;
        let mut response = txn.execute(request, &mut path.iter().copied())?;
        response.revision = txn.view().current();
        Ok((response, txn.commit()))
    }
}
