//! Snapshots between members: an engine's files, on their way to another member.
//!
//! The sender makes a checkpoint and sends its files; the receiver puts them into a directory,
//! verifies it, marks it, and has [`DataDir::install_engine`](crate::DataDir::install_engine) put
//! it in place. How files travel, and when, is not known here. Nothing that was received is
//! believed before it is verified, and verifying changes nothing.

#[cfg(test)]
pub(crate) mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use folkmoot_core::apply::meta::Applied;
use folkmoot_core::env::{Engine as _, Family, WriteBatch};
use folkmoot_core::types::{ClusterId, LogIndex};

use crate::error::{IoContext, StorageError};
use crate::files;
use crate::rocks::{RocksEngine, RocksOptions};

/// The row of [`Family::Meta`] that says that the rows came as a snapshot; its value is the
/// snapshot's index as u64 le.
const INSTALLED_KEY: &[u8] = b"installed";
/// RocksDB's file that names the list of its tables; written last, so that without it there is
/// no database.
const CURRENT: &str = "CURRENT";
/// Opened only to look, beside an engine that needs its memory.
const SMALL: RocksOptions = RocksOptions {
    write_buffer_bytes: 1 << 20,
    block_cache_bytes: 4 << 20,
    open_files_max: 64,
    background_jobs: 1,
};

/// One file of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotFile {
    /// Name without a directory; [`is_file_name`] holds.
    pub name: String,
    /// Size; may be 0.
    pub bytes: u64,
}

/// A snapshot to be sent. Whoever made it removes its directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotFiles {
    /// Where the files are.
    pub dir: PathBuf,
    /// All files, by name.
    pub files: Vec<SnapshotFile>,
    /// Size of all files.
    pub total_bytes: u64,
    /// How far the rows are: exactly what is in the files, whatever was written meanwhile.
    pub applied: Applied,
}

/// Makes a snapshot of everything written so far in `dir`, which must not exist and should be on
/// the engine's file system. The engine's tables are linked, not copied, and stay unchanged
/// however the engine goes on. After an error nothing is left at `dir`.
pub fn make(engine: &RocksEngine, dir: &Path) -> Result<SnapshotFiles, StorageError> {
    engine.checkpoint(dir)?;
    list(dir).inspect_err(|_| {
        // What matters is why it failed; the directory is one that is emptied at every start.
        let _ = files::remove(dir);
    })
}

fn list(dir: &Path) -> Result<SnapshotFiles, StorageError> {
    let applied = read_applied(&RocksEngine::open_read_only(dir, SMALL)?, dir)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).context("list a snapshot", dir)? {
        let entry = entry.context("list a snapshot", dir)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_file_name(&name) {
            let reason = format!("it has a file that no member accepts; file={name}");
            return Err(StorageError::SnapshotDamaged { dir: dir.to_owned(), reason });
        }
        let bytes = entry.metadata().context("look at a file", &entry.path())?.len();
        files.push(SnapshotFile { name, bytes });
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let total_bytes = files.iter().map(|file| file.bytes).sum();
    Ok(SnapshotFiles { dir: dir.to_owned(), files, total_bytes, applied })
}

/// Whether a snapshot can have a file of this name. Names that come from another member must pass
/// before a path is made of them.
pub fn is_file_name(name: &str) -> bool {
    let is_number = |text: &str| (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let described = name.strip_prefix("MANIFEST-").or_else(|| name.strip_prefix("OPTIONS-"));
    let numbered = name.strip_suffix(".sst").or_else(|| name.strip_suffix(".log"));
    name == CURRENT || described.or(numbered).is_some_and(is_number)
}

/// Checks a snapshot that was received into `dir`: that it is a database that can be read to its
/// last byte, that this version knows the format of its rows, and that it belongs to the cluster.
/// Takes as long as reading all of it. Changes nothing.
pub fn verify(dir: &Path, expect_cluster: ClusterId) -> Result<Applied, StorageError> {
    let refused = |error: StorageError| match error {
        StorageError::Engine { reason, .. } | StorageError::EngineDamaged { reason, .. } => {
            StorageError::SnapshotDamaged { dir: dir.to_owned(), reason }
        }
        other => other,
    };
    check_has_database(dir)?;
    let engine = RocksEngine::open_read_only(dir, SMALL).map_err(refused)?;
    let applied = read_applied(&engine, dir)?;
    if applied.cluster_id != expect_cluster {
        return Err(StorageError::SnapshotForeign {
            dir: dir.to_owned(),
            found: applied.cluster_id,
            expected: expect_cluster,
        });
    }
    engine.read_everything().map_err(refused)?;
    Ok(applied)
}

/// Writes into a verified snapshot, durably, that its rows are one taken at `index`, so that a
/// start can tell an engine that is ahead of the log from one whose log was lost. Comes before
/// the snapshot is installed.
pub fn mark_installed(dir: &Path, index: LogIndex) -> Result<(), StorageError> {
    check_has_database(dir)?;
    let engine = RocksEngine::open(dir, SMALL)?;
    let mut batch = WriteBatch::new();
    batch.put(Family::Meta, INSTALLED_KEY, &index.0.to_le_bytes());
    engine.write(&batch).and_then(|()| engine.flush()).map_err(|error| engine.failed(error))
}

/// Refuses a directory in which opening an engine would make a new one.
pub(crate) fn check_has_database(dir: &Path) -> Result<(), StorageError> {
    if dir.join(CURRENT).is_file() {
        return Ok(());
    }
    let reason = format!("it is not complete; missing={CURRENT}");
    Err(StorageError::SnapshotDamaged { dir: dir.to_owned(), reason })
}

fn read_applied(engine: &RocksEngine, dir: &Path) -> Result<Applied, StorageError> {
    let refused = |reason: String| StorageError::SnapshotDamaged { dir: dir.to_owned(), reason };
    let applied = Applied::load(engine).map_err(|error| refused(error.to_string()))?;
    applied.ok_or_else(|| refused("its rows have no applied position".into()))
}
