//! Makes a data directory from an archive.

use std::fs::{self, DirBuilder, File};
use std::io::BufReader;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use folkmoot_core::env::{Engine, Family, WriteBatch};
use folkmoot_core::wal::{BatchBuilder, HardState, LogPoint};

use super::read::{ArchiveReader, Block, Part};
use super::{ArchiveSummary, verify_archive};
use crate::data_dir::{DataDir, DirIdentity, OpenOptions};
use crate::error::{IoContext, StorageError};
use crate::files;
use crate::rocks::{RocksEngine, RocksOptions};
use crate::wal::{RealDisk, Wal, WalOptions};

/// Rows are written to the engine in batches of about this size.
const BATCH_BYTES: usize = 4 << 20;
const READ_BYTES: usize = 1 << 20;

/// What the restored directory becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestoreOptions {
    /// Whose directory it will be.
    pub identity: DirIdentity,
    /// The point after which its log starts: the applied position in the rows as rewritten.
    /// With index 0 the log stays empty, as in a new directory.
    pub log_start: LogPoint,
}

/// What a restore asks its caller about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoreRow<'a> {
    /// A row of [`Family::Sys`] or [`Family::Meta`]. It is restored only if the caller puts it
    /// into the batch.
    Row {
        /// The family.
        family: Family,
        /// The row's key.
        key: &'a [u8],
        /// The row's value.
        value: &'a [u8],
    },
    /// All rows were seen; the last chance to add some.
    End,
}

/// Decides about a row; an error stops the restore.
pub type Rewrite<'a> = dyn FnMut(RestoreRow<'_>, &mut WriteBatch) -> Result<(), String> + 'a;

/// Makes a data directory at `target`, which must not exist or be empty, from the archive.
///
/// The archive is checked whole before anything is made. The directory is built beside and
/// renamed when it is complete and durable; after an error nothing is left at `target`.
/// A crash may leave a directory named `.<target>.restore-<n>` beside it.
pub fn restore(
    archive: &Path,
    target: &Path,
    options: RestoreOptions,
    rewrite: &mut Rewrite<'_>,
) -> Result<ArchiveSummary, StorageError> {
    check_target(target)?;
    let open = || {
        let file = File::open(archive).context("open a backup archive", archive)?;
        Ok::<_, StorageError>(BufReader::with_capacity(READ_BYTES, file))
    };
    let summary = verify_archive(open()?)?;
    let beside = make_dir_beside(target)?;
    let built = build(open()?, &beside, options, rewrite)
        .and_then(|again| {
            // The file may have changed since it was checked.
            let same = again == summary;
            let reason = "it changed while it was read".to_owned();
            same.then_some(()).ok_or(StorageError::Archive { reason, offset: 0 })
        })
        .and_then(|()| check_target(target))
        .and_then(|()| fs::rename(&beside, target).context("rename a directory", target));
    if let Err(error) = built {
        // What matters is why it failed; a leftover is named in the documentation.
        let _ = fs::remove_dir_all(&beside);
        return Err(error);
    }
    files::sync_parent(target)?;
    Ok(summary)
}

fn check_target(target: &Path) -> Result<(), StorageError> {
    match fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(StorageError::NotEmpty { dir: target.to_owned() }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(_) => Err(StorageError::NotEmpty { dir: target.to_owned() }),
    }
}

/// A new directory with a name of its own, on the same file system as `target`.
fn make_dir_beside(target: &Path) -> Result<PathBuf, StorageError> {
    let parent = files::parent(target);
    files::create_dir(parent)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let process = std::process::id();
    for attempt in 0.. {
        let beside = parent.join(format!(".{name}.restore-{process}-{attempt}"));
        match DirBuilder::new().mode(0o700).create(&beside) {
            Ok(()) => return Ok(beside),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StorageError::io("create a directory", &beside, error)),
        }
    }
    unreachable!("the numbers do not end before the directory entries do")
}

fn build(
    archive: BufReader<File>,
    dir: &Path,
    options: RestoreOptions,
    rewrite: &mut Rewrite<'_>,
) -> Result<ArchiveSummary, StorageError> {
    let create = OpenOptions { create: Some(options.identity), ..OpenOptions::default() };
    let data = DataDir::open(dir, create)?;
    let summary = load(archive, &data.db_dir(), rewrite)?;
    if options.log_start.index.0 > 0 {
        let LogPoint { index, term } = options.log_start;
        let mut batch = BatchBuilder::new();
        batch.push_reset(options.log_start);
        batch.push_hard_state(HardState { term, vote: 0, commit: index });
        let disk = RealDisk::new(&data.wal_dir());
        let (mut wal, _) = Wal::open_on(disk, options.identity.into(), WalOptions::default())?;
        wal.append(&[batch.finish()], true)?;
    }
    for path in [data.db_dir(), data.wal_dir(), dir.to_owned()] {
        files::sync_dir(&path)?;
    }
    Ok(summary)
}

fn load(
    archive: BufReader<File>,
    db_dir: &Path,
    rewrite: &mut Rewrite<'_>,
) -> Result<ArchiveSummary, StorageError> {
    let engine = RocksEngine::open(db_dir, RocksOptions::default())?;
    let write = |batch: &mut WriteBatch| {
        let written = engine.write(batch);
        *batch = WriteBatch::new();
        written.map_err(|error| StorageError::Engine { path: db_dir.to_owned(), reason: error.to_string() })
    };
    let mut batch = WriteBatch::new();
    let mut archive = ArchiveReader::open(archive)?;
    let summary = loop {
        match archive.next_block()? {
            Part::Block(block) => {
                archive.check_rows(&block)?;
                take_rows(&block, &mut batch, rewrite)?;
                if batch.size_bytes() >= BATCH_BYTES {
                    write(&mut batch)?;
                }
            }
            Part::End(summary) => break summary,
        }
    };
    rewrite(RestoreRow::End, &mut batch).map_err(StorageError::Rewrite)?;
    write(&mut batch)?;
    engine
        .flush()
        .map_err(|error| StorageError::Engine { path: db_dir.to_owned(), reason: error.to_string() })?;
    Ok(summary)
}

fn take_rows(block: &Block, batch: &mut WriteBatch, rewrite: &mut Rewrite<'_>) -> Result<(), StorageError> {
    let family = block.family;
    for (key, value) in block.rows().flatten() {
        match family {
            Family::Sys | Family::Meta => {
                rewrite(RestoreRow::Row { family, key, value }, batch).map_err(StorageError::Rewrite)?;
            }
            Family::Rev | Family::Idx | Family::Lease => batch.put(family, key, value),
        }
    }
    Ok(())
}
