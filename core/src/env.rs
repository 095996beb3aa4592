//! The only doors outward: the engine that keeps rows, as a trait with a real (RocksDB) and an
//! in-memory implementation. Time comes in as [`crate::types::Instant64`], randomness as a seed.

use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;

/// The tables of the engine. The bytes of keys and values are defined by the rooms that own them
/// (`mvcc::rows`, `lease::rows`, `cluster::rows`, `apply::meta`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// Every change in revision order, append-only until compaction.
    Rev,
    /// Key and descending revision to record: which versions a key has.
    Idx,
    /// Leases.
    Lease,
    /// Small cluster-visible state: members, alarms, versions.
    Sys,
    /// The applied position and what belongs to it; one row.
    Meta,
}

impl Family {
    /// All of them, in the order in which archives write them.
    pub const ALL: [Self; 5] = [Self::Rev, Self::Idx, Self::Lease, Self::Sys, Self::Meta];

    /// Stable number in batches and archives.
    pub const fn number(self) -> u8 {
        match self {
            Self::Rev => 0,
            Self::Idx => 1,
            Self::Lease => 2,
            Self::Sys => 3,
            Self::Meta => 4,
        }
    }

    /// The family of a stable number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.number() == number)
    }

    /// Name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rev => "rev",
            Self::Idx => "idx",
            Self::Lease => "lease",
            Self::Sys => "sys",
            Self::Meta => "meta",
        }
    }
}

/// The engine could not read or write. It is never a client's fault: the member stops.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("storage engine failed: {0}")]
pub struct EngineError(pub String);

/// What a visitor of [`Engine::scan`] wants next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScanStep {
    /// The next row.
    Next,
    /// The first row at or after this key (which must not be before the current row).
    Seek(Vec<u8>),
    /// No more rows.
    Stop,
}

/// Rows kept in order, one writer, many readers.
///
/// Invariants: a written batch is visible whole or not at all; batches become visible in the
/// order in which they were written; after a crash the engine holds a prefix of them, at least
/// as long as the last [`Engine::flush`] promised.
pub trait Engine: Send + Sync + 'static {
    /// The value of one row.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Visits the rows with `from <= key`, and `key < to` if given, in key order, on one
    /// consistent view of the family.
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanStep,
    ) -> Result<(), EngineError>;

    /// Writes a batch atomically. Durable only after [`Engine::flush`].
    fn write(&self, batch: &WriteBatch) -> Result<(), EngineError>;

    /// Makes everything written so far durable.
    fn flush(&self) -> Result<(), EngineError>;

    /// How much space the rows take.
    fn usage(&self) -> EngineUsage;
}

/// Space taken by an engine, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EngineUsage {
    /// On disk and in memory buffers, garbage included.
    pub total_bytes: u64,
    /// An estimate of the part that is not garbage.
    pub live_bytes: u64,
}

/// Row changes that are written together, in one flat buffer so that building one costs no
/// allocation for each row.
///
/// Layout of a record: family u8, kind u8 (0 put, 1 delete), key length u32 le, value length
/// u32 le, key, value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct WriteBatch {
    buf: Vec<u8>,
    count: usize,
}

/// One row change of a [`WriteBatch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowChange<'a> {
    /// Sets a row.
    Put(Family, &'a [u8], &'a [u8]),
    /// Removes a row; absent is fine.
    Delete(Family, &'a [u8]),
}

const RECORD_HEADER_BYTES: usize = 10;

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.header(family, 0, key, value.len());
        self.buf.extend_from_slice(value);
    }

    /// Adds a row whose value is given in parts.
    pub fn put_parts(&mut self, family: Family, key: &[u8], parts: &[&[u8]]) {
        self.header(family, 0, key, parts.iter().map(|part| part.len()).sum());
        for part in parts {
            self.buf.extend_from_slice(part);
        }
    }

    /// Removes a row.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        self.header(family, 1, key, 0);
    }

    fn header(&mut self, family: Family, kind: u8, key: &[u8], value_bytes: usize) {
        let length = |n: usize| u32::try_from(n).expect("rows are bounded far below 4 GiB").to_le_bytes();
        self.buf.push(family.number());
        self.buf.push(kind);
        self.buf.extend_from_slice(&length(key.len()));
        self.buf.extend_from_slice(&length(value_bytes));
        self.buf.extend_from_slice(key);
        self.count += 1;
    }

    /// Appends all changes of `other` after this batch's.
    pub fn append(&mut self, other: &Self) {
        self.buf.extend_from_slice(&other.buf);
        self.count += other.count;
    }

    /// Number of row changes.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the buffer in bytes, for backlog accounts.
    pub fn size_bytes(&self) -> usize {
        self.buf.len()
    }

    /// The changes from this many bytes on, as they are laid out: equal bytes are equal changes.
    /// `from` is an earlier [`Self::size_bytes`].
    pub fn bytes_from(&self, from: usize) -> &[u8] {
        &self.buf[from.min(self.buf.len())..]
    }

    /// The changes in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = RowChange<'_>> {
        let mut rest: &[u8] = &self.buf;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let length =
                |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("four bytes")) as usize;
            let family = Family::from_number(rest[0]).expect("written by this type");
            let (key_bytes, value_bytes) = (length(2), length(6));
            let key = &rest[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + key_bytes];
            let value_at = RECORD_HEADER_BYTES + key_bytes;
            let change = match rest[1] {
                0 => RowChange::Put(family, key, &rest[value_at..value_at + value_bytes]),
                _ => RowChange::Delete(family, key),
            };
            rest = &rest[value_at + value_bytes..];
            Some(change)
        })
    }
}

impl fmt::Debug for WriteBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

mod memory;
pub use memory::MemoryEngine;

/// Visits every row of a family; a helper for recovery and archives.
pub fn for_each_row(
    engine: &dyn Engine,
    family: Family,
    mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> Result<(), EngineError> {
    engine.scan(family, &[], None, &mut |key, value| match visit(key, value) {
        ControlFlow::Continue(()) => ScanStep::Next,
        ControlFlow::Break(()) => ScanStep::Stop,
    })
}
