//! The heavy parts of Maintenance: hashes, the space given back, and the snapshot stream.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use folkmoot_core::apply::meta::Applied;
use folkmoot_core::env::{Engine as _, Family, MemoryEngine, ScanStep, WriteBatch};
use folkmoot_core::error::{Error, Fatal};
use folkmoot_core::mvcc::HashKv;
use folkmoot_core::wal::LogPoint;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_storage::RocksEngine;
use folkmoot_storage::archive::{ArchiveHeader, ArchiveSummary, RowSource as _, write_archive};
use futures_util::stream::unfold;
use tonic::Status;

use super::queue::ResponseStream;
use super::status;
use crate::node::{CallError, NodeHandle};
use crate::read::in_background;
use crate::version::storage_version;

/// Bytes of one message of the stream (etcd's).
const BLOB_BYTES: usize = 32 * 1024;
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// A checksum over the whole engine, and the revision.
pub async fn hash_all(node: &NodeHandle) -> Result<(u32, i64), CallError> {
    // Behind everything that is applied and not written yet.
    node.storage().run(|_| ()).await?;
    let reader = node.reader().clone();
    let revision = reader.revision();
    let hash = in_background(move || reader.hash_all()).await;
    Ok((hash.map_err(|failure| node.failed(failure))?, revision))
}

/// The checksum of the history up to a revision.
pub async fn hash_kv(node: &NodeHandle, revision: i64) -> Result<HashKv, CallError> {
    // etcd asks its own leader first, too: the hash must not be of a stale member.
    let reader = node.reader().clone();
    in_background(move || reader.hash_kv(revision)).await.map_err(|failure| node.failed(failure))
}

/// Gives back the space of removed rows.
pub async fn defragment(node: &NodeHandle) -> Result<(), Status> {
    let engine = node.storage().run(Arc::clone).await.map_err(status)?;
    in_background(move || engine.compact_all()).await.map_err(|error| {
        Status::internal(format!("folkmoot: the database could not be rewritten: {error}"))
    })?;
    // The next write must see the new size.
    node.storage().measure().await.map_err(status)
}

/// The whole store as a stream of bytes: all rows, of one moment after the call, in the format of
/// backup archives, and after it their SHA-256.
pub async fn stream(node: &NodeHandle) -> Result<ResponseStream<pb::SnapshotResponse>, Status> {
    // Everything acknowledged so far is queued for the engine; behind it, it is in.
    let engine = node.storage().run(Arc::clone).await.map_err(status)?;
    let path = node.data_dir().temp_path("snapshot");
    let member_id = node.member_id();
    let archive = in_background(move || {
        let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
        // Without a name it goes when the stream ends, however it ends.
        std::fs::remove_file(&path)?;
        let summary = archive(&engine, &file, member_id)?;
        file.seek(SeekFrom::Start(0))?;
        Ok::<_, SnapshotError>((file, summary))
    });
    let (file, summary) = archive
        .await
        .map_err(|error| Status::internal(format!("folkmoot: the snapshot could not be taken: {error}")))?;
    tracing::info!("total-bytes" = summary.bytes, "sending database snapshot to client");
    let parts = Parts { node: node.clone(), file, left: summary.bytes, sha256: summary.sha256 };
    Ok(Box::pin(unfold(Some(parts), |parts| async move {
        match parts?.next().await {
            Ok((response, rest)) => Some((Ok(response), rest)),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Storage(#[from] folkmoot_storage::StorageError),
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

fn archive(
    engine: &RocksEngine,
    file: &File,
    member_id: folkmoot_core::types::MemberId,
) -> Result<ArchiveSummary, SnapshotError> {
    let view = engine.view();
    // The applied position of exactly this view.
    let (meta, mut rows) = (MemoryEngine::new(), WriteBatch::new());
    view.visit_rows(Family::Meta, &mut |key, value| {
        rows.put(Family::Meta, key, value);
        ScanStep::Next
    })
    .and_then(|()| meta.write(&rows))
    .map_err(Fatal::Engine)?;
    let applied =
        Applied::load(&meta)?.ok_or_else(|| Fatal::Damaged("the engine holds no applied position".into()))?;
    let header = ArchiveHeader {
        cluster_id: applied.cluster_id,
        member_id,
        revision: applied.revision,
        applied: LogPoint { index: applied.index, term: applied.term },
    };
    Ok(write_archive(&view, &mut BufWriter::with_capacity(WRITE_BUFFER_BYTES, file), &header)?)
}

struct Parts {
    node: NodeHandle,
    file: File,
    left: u64,
    sha256: [u8; 32],
}

impl Parts {
    async fn next(mut self) -> Result<(pb::SnapshotResponse, Option<Self>), Status> {
        if *self.node.stopping().borrow() {
            return Err(status(Error::Stopped));
        }
        let message = |blob: Bytes, remaining_bytes| pb::SnapshotResponse {
            header: None,
            remaining_bytes,
            blob,
            version: storage_version().into(),
        };
        if self.left == 0 {
            tracing::info!("sending database sha256 checksum to client");
            tracing::info!("successfully sent database snapshot to client");
            return Ok((message(Bytes::copy_from_slice(&self.sha256), 0), None));
        }
        let length = usize::try_from(self.left).map_or(BLOB_BYTES, |left| left.min(BLOB_BYTES));
        // The file was written a moment ago and is in memory, mostly.
        let (file, blob) = in_background(move || {
            let mut blob = vec![0; length];
            let read = self.file.read_exact(&mut blob).map(|()| blob);
            (self.file, read)
        })
        .await;
        let blob = blob.map_err(|error| {
            Status::internal(format!("folkmoot: the snapshot could not be read: {error}"))
        })?;
        self.file = file;
        self.left -= length as u64;
        let left = self.left;
        Ok((message(blob.into(), left), Some(self)))
    }
}
