//! Bytes that survive: the write-ahead log files, the RocksDB engine, the data directory, snapshots
//! between members, and backup archives.
//!
//! The crate gives files to what [`folkmoot_core`] describes as bytes and rows. It decides no
//! policy (when to flush, what to purge, whom to answer) and knows no network.
//!
//! Invariants:
//! - What a call reports as durable was synced, files before the directory entries that name
//!   them.
//! - A failed write or sync is never tried again: the system may have dropped the data and
//!   report success the second time. The owner must stop the member.
//! - Files are replaced by writing beside, syncing, renaming and syncing the directory.
//! - Nothing is changed in a directory that is not known to be this member's.

pub mod archive;
pub mod data_dir;
pub mod error;
pub mod rocks;
pub mod snapshot;
pub mod thread;
pub mod wal;

mod files;
#[cfg(test)]
mod full_disk_tests;

pub use data_dir::{DataDir, DirIdentity, OpenOptions};
pub use error::StorageError;
pub use rocks::{EngineSlot, RocksEngine, RocksOptions, RocksView};
pub use snapshot::{SnapshotFile, SnapshotFiles};
pub use thread::boost_current_thread;
pub use wal::{Wal, WalOptions};
