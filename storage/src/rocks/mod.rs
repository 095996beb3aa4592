//! The engine on RocksDB: one column family for each [`Family`], no log of its own.
//!
//! The member's write-ahead log makes writes durable; RocksDB only has to come back as a prefix
//! of them, which atomic flushes give it. Rows below the log's start must be flushed before the
//! log lets them go.

mod options;
mod slot;
#[cfg(test)]
mod slot_tests;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use folkmoot_core::env::{Engine, EngineError, EngineUsage, Family, RowChange, ScanStep, WriteBatch};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBRawIterator,
    ErrorKind, FlushOptions, Options, ReadOptions, Snapshot, WriteOptions,
};

use crate::archive::RowSource;
use crate::error::{IoContext, StorageError};
use crate::files;

pub use options::RocksOptions;
pub use slot::EngineSlot;

/// What an empty database takes on the disk: its files that describe it.
const EMPTY_BYTES: u64 = 16 << 10;
/// What a checkpoint leaves free on the disk beside what it writes.
const CHECKPOINT_SPARE_BYTES: u64 = 1 << 20;
/// Read at once when everything is read.
const READAHEAD_BYTES: usize = 2 << 20;

/// See the module.
pub struct RocksEngine {
    db: DB,
    path: PathBuf,
}

impl RocksEngine {
    /// Opens the database in `path`, or makes one. One process at a time.
    pub fn open(path: &Path, options: RocksOptions) -> Result<Self, StorageError> {
        Self::open_with(path, options, |database, families| DB::open_cf_descriptors(database, path, families))
    }

    /// Opens the database in `path`, which must be there, and changes nothing in it.
    pub(crate) fn open_read_only(path: &Path, options: RocksOptions) -> Result<Self, StorageError> {
        Self::open_with(path, options, |database, families| {
            database.create_if_missing(false);
            DB::open_cf_descriptors_read_only(database, path, families, false)
        })
    }

    fn open_with(
        path: &Path,
        options: RocksOptions,
        open: impl FnOnce(&mut Options, Vec<ColumnFamilyDescriptor>) -> Result<DB, rocksdb::Error>,
    ) -> Result<Self, StorageError> {
        let failed = |error| engine_error(path, &error);
        let (mut database, cache) = options::database(&options).map_err(failed)?;
        // RocksDB wants a default family; nothing is kept in it.
        let default = ColumnFamilyDescriptor::new("default", options::family(Family::Meta, &cache));
        let families = Family::ALL
            .into_iter()
            .map(|family| ColumnFamilyDescriptor::new(family.name(), options::family(family, &cache)));
        let families = std::iter::once(default).chain(families).collect();
        let db = open(&mut database, families).map_err(failed)?;
        Ok(Self { db, path: path.to_owned() })
    }

    /// The directory it was opened in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The rows of all families at this moment, while writing goes on. Keeps replaced rows from
    /// being removed until it is dropped.
    pub fn view(&self) -> RocksView<'_> {
        RocksView { engine: self, snapshot: self.db.snapshot() }
    }

    /// Makes a copy of the database in `path`, which must not exist and should be on the same
    /// file system: files are shared, not copied. Includes everything written so far: it is
    /// flushed, all families together.
    ///
    /// A disk too full for it is noticed before RocksDB is asked: after a flush that failed it
    /// would refuse writes as well.
    pub fn checkpoint(&self, path: &Path) -> Result<(), StorageError> {
        if path.exists() {
            let exists = std::io::ErrorKind::AlreadyExists.into();
            return Err(StorageError::io("make a copy of the database", path, exists));
        }
        self.check_room_for_checkpoint(path)?;
        let made = Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(path));
        made.map_err(|error| {
            // RocksDB tries to remove what it made, beside.
            let _ = files::remove(path);
            engine_error(path, &error)
        })
    }

    fn check_room_for_checkpoint(&self, path: &Path) -> Result<(), StorageError> {
        // Tables are linked; written are what is in memory and the list of the tables.
        let mut wanted = CHECKPOINT_SPARE_BYTES + self.property("rocksdb.cur-size-all-mem-tables");
        for entry in fs::read_dir(&self.path).context("list the database", &self.path)? {
            let entry = entry.context("list the database", &self.path)?;
            if entry.file_name().as_encoded_bytes().starts_with(b"MANIFEST") {
                // It may have been replaced since.
                wanted += entry.metadata().map_or(0, |metadata| metadata.len());
            }
        }
        let room = rustix::fs::statvfs(files::parent(path)).map_err(std::io::Error::from);
        let room = room.context("look for free space", path)?;
        if room.f_bavail.saturating_mul(room.f_frsize) < wanted {
            return Err(StorageError::NoSpace {
                action: "make a copy of the database",
                path: path.to_owned(),
            });
        }
        Ok(())
    }

    /// Reads everything there is and checks it against its checksums.
    pub(crate) fn read_everything(&self) -> Result<(), StorageError> {
        for family in Family::ALL {
            let mut options = read_options(None);
            options.set_verify_checksums(true);
            options.fill_cache(false);
            options.set_readahead_size(READAHEAD_BYTES);
            let rows = self.db.raw_iterator_cf_opt(self.family(family), options);
            visit_rows(rows, &[], &mut |_, _| ScanStep::Next)
                .map_err(|error| engine_error(&self.path, &error))?;
        }
        Ok(())
    }

    /// Rewrites everything, to give back the space of removed rows. Takes long; reads and writes
    /// go on meanwhile.
    pub fn compact_all(&self) -> Result<(), StorageError> {
        self.flush_all().map_err(|error| engine_error(&self.path, &error))?;
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        for family in Family::ALL {
            let everything = None::<&[u8]>;
            self.db.compact_range_cf_opt(self.family(family), everything, everything, &options);
        }
        Ok(())
    }

    /// What a failed write means to an operator.
    pub(crate) fn failed(&self, error: EngineError) -> StorageError {
        write_error(&self.path, error.0)
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("all families are made when it is opened")
    }

    fn flush_all(&self) -> Result<(), rocksdb::Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&Family::ALL.map(|family| self.family(family)), &options)
    }

    /// Sum of a property over all families; what a version of RocksDB does not know counts 0.
    fn property(&self, name: &str) -> u64 {
        Family::ALL
            .into_iter()
            .filter_map(|family| self.db.property_int_value_cf(self.family(family), name).ok()?)
            .sum()
    }
}

/// Options for visiting rows up to `to`.
fn read_options(to: Option<&[u8]>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_total_order_seek(true);
    if let Some(to) = to {
        options.set_iterate_upper_bound(to);
    }
    options
}

fn visit_rows(
    mut rows: DBRawIterator<'_>,
    from: &[u8],
    visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanStep,
) -> Result<(), rocksdb::Error> {
    rows.seek(from);
    while let Some((key, value)) = rows.item() {
        match visit(key, value) {
            ScanStep::Next => rows.next(),
            ScanStep::Seek(target) => rows.seek(target),
            ScanStep::Stop => return Ok(()),
        }
    }
    // The end, or an error.
    rows.status()
}

impl Engine for RocksEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let found = self.db.get_pinned_cf(self.family(family), key).map_err(read_error)?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanStep,
    ) -> Result<(), EngineError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let rows = self.db.raw_iterator_cf_opt(self.family(family), read_options(to));
        visit_rows(rows, from, visit).map_err(read_error)
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), EngineError> {
        let mut rows = rocksdb::WriteBatch::with_capacity_bytes(batch.size_bytes());
        let families = Family::ALL.map(|family| self.family(family));
        for change in batch.iter() {
            match change {
                RowChange::Put(family, key, value) => {
                    rows.put_cf(families[usize::from(family.number())], key, value);
                }
                RowChange::Delete(family, key) => {
                    rows.delete_cf(families[usize::from(family.number())], key);
                }
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(rows, &options).map_err(|error| EngineError(error.into_string()))
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.flush_all().map_err(|error| EngineError(error.into_string()))
    }

    fn usage(&self) -> EngineUsage {
        let memory = self.property("rocksdb.cur-size-all-mem-tables");
        let tables = self.property("rocksdb.total-sst-files-size");
        let total_bytes = EMPTY_BYTES + memory + tables;
        let live = EMPTY_BYTES + memory + self.property("rocksdb.estimate-live-data-size");
        EngineUsage { total_bytes, live_bytes: live.min(total_bytes) }
    }
}

fn read_error(error: rocksdb::Error) -> EngineError {
    EngineError(error.into_string())
}

/// RocksDB's errors by what an operator can do.
fn engine_error(path: &Path, error: &rocksdb::Error) -> StorageError {
    let is_damage = error.kind() == ErrorKind::Corruption;
    if is_damage {
        return StorageError::EngineDamaged { path: path.to_owned(), reason: error.to_string() };
    }
    write_error(path, error.to_string())
}

fn write_error(path: &Path, reason: String) -> StorageError {
    let path = path.to_owned();
    if reason.contains("No space left") || reason.contains("NoSpace") {
        return StorageError::NoSpace { action: "write the database", path };
    }
    StorageError::Engine { path, reason }
}

/// A consistent view of all rows. See [`RocksEngine::view`].
pub struct RocksView<'a> {
    engine: &'a RocksEngine,
    snapshot: Snapshot<'a>,
}

impl RocksView<'_> {
    /// The value of one row.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let found = self.snapshot.get_pinned_cf(self.engine.family(family), key);
        Ok(found.map_err(read_error)?.map(|value| Bytes::copy_from_slice(&value)))
    }
}

impl RowSource for RocksView<'_> {
    fn visit_rows(
        &self,
        family: Family,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanStep,
    ) -> Result<(), EngineError> {
        let mut options = read_options(None);
        // Every row once: they must not push others out of the cache.
        options.fill_cache(false);
        let rows = self.snapshot.raw_iterator_cf_opt(self.engine.family(family), options);
        visit_rows(rows, &[], visit).map_err(read_error)
    }
}
