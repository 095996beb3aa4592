//! The few file steps that several rooms need, each with its sync.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{IoContext, StorageError};

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    File::open(dir).and_then(|dir| dir.sync_all()).context("sync a directory", dir)
}

/// Makes the entry of `path` in its parent durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StorageError> {
    sync_dir(parent(path))
}

/// The directory that holds `path`; the working directory for a lone name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes a directory that only its owner can enter, with those above it, durably. It may exist.
pub(crate) fn create_dir(dir: &Path) -> Result<(), StorageError> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = parent(dir);
    if above != dir && !above.exists() {
        create_dir(above)?;
    }
    DirBuilder::new().mode(0o700).create(dir).context("create a directory", dir)?;
    sync_parent(dir)
}

/// Makes `path` hold `bytes`, whole or not at all: written to `beside` in the same directory,
/// synced, renamed, synced.
pub(crate) fn replace(path: &Path, beside: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    write(beside, bytes)?;
    fs::rename(beside, path).context("rename a file", path)?;
    sync_parent(path)
}

/// Makes a file that only its owner can read hold `bytes`, durably, but for its entry in the
/// directory.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let write = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().context("write a file", path)
}

/// Removes a file or a directory with all in it; it may be absent.
pub(crate) fn remove(path: &Path) -> Result<(), StorageError> {
    let is_dir = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StorageError::io("look at a file", path, error)),
    };
    let removed = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.context("remove", path)
}
