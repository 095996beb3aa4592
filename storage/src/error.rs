//! What can go wrong with stored bytes: one variant for each thing an operator can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use folkmoot_core::types::{ClusterId, MemberId};
use folkmoot_core::wal::{ChainError, WalError};

/// An error of this crate. Messages name the path and what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The file system is full or a disk quota is used up.
    #[error("no space left on the file system, free some and start again: cannot {action}: path={}", path.display())]
    NoSpace {
        /// What was attempted.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
    },
    /// The system refused a file operation.
    #[error("cannot {action}, check the disk and the permissions: path={}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's reason.
        source: Arc<io::Error>,
    },
    /// The write-ahead log cannot be read.
    #[error("{source}: dir={}", dir.display())]
    Log {
        /// The log's directory.
        dir: PathBuf,
        /// Where and why.
        source: WalError,
    },
    /// The caller wants to write a log that could not be read again. A defect.
    #[error("refused to write a broken log, please report this: {0}")]
    LogRules(#[from] ChainError),
    /// The caller wants to write records that are none, or too many at once. A defect.
    #[error("refused to write a batch to the log, please report this: {reason} bytes={bytes}")]
    LogBatch {
        /// What is wrong.
        reason: &'static str,
        /// Size of the batch.
        bytes: usize,
    },
    /// Another process has the directory.
    #[error(
        "data directory is in use by another process; stop it, or choose another data directory: \
         dir={} owner={owner}",
        dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// What the owner wrote about itself.
        owner: String,
    },
    /// The directory was made by etcd.
    #[error(
        "data directory belongs to etcd and was left untouched; choose another data directory, \
         and bring the data over with a snapshot: dir={}",
        dir.display()
    )]
    EtcdDir {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds something else.
    #[error(
        "directory is not empty and not a data directory, and was left untouched; choose another \
         data directory or empty it: dir={} found={found}",
        dir.display()
    )]
    ForeignDir {
        /// The directory.
        dir: PathBuf,
        /// Something in it.
        found: String,
    },
    /// There is no data directory and none may be made.
    #[error("data directory does not exist: dir={}", dir.display())]
    NoDataDir {
        /// The directory.
        dir: PathBuf,
    },
    /// The file that describes the directory cannot be read.
    #[error(
        "description of the data directory is damaged; restore a backup, or remove this member and \
         add it again with an empty data directory: path={}: {reason}",
        path.display()
    )]
    MetaDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer program made the directory.
    #[error(
        "data directory has a format that this version does not read; start the version that \
         wrote it, or a newer one: path={} format={format} newest_readable={newest}",
        path.display()
    )]
    UnsupportedFormat {
        /// The file that says so.
        path: PathBuf,
        /// Its format.
        format: u64,
        /// The newest this version reads.
        newest: u64,
    },
    /// The directory of another cluster.
    #[error(
        "data directory belongs to another cluster; check --data-dir and the cluster's settings: \
         dir={} cluster={found} expected_cluster={expected}",
        dir.display()
    )]
    WrongCluster {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        expected: ClusterId,
    },
    /// The directory of another member.
    #[error(
        "data directory belongs to another member; give each member its own --data-dir: \
         dir={} member={found} expected_member={expected}",
        dir.display()
    )]
    WrongMember {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: MemberId,
        /// Whose it should be.
        expected: MemberId,
    },
    /// The engine refused.
    #[error("database failed, check the disk: path={}: {reason}", path.display())]
    Engine {
        /// The engine's directory.
        path: PathBuf,
        /// The engine's words.
        reason: String,
    },
    /// The engine found damaged bytes.
    #[error(
        "database is damaged; remove this member and add it again with an empty data directory, or \
         restore a backup: path={}: {reason}",
        path.display()
    )]
    EngineDamaged {
        /// The engine's directory.
        path: PathBuf,
        /// The engine's words.
        reason: String,
    },
    /// A snapshot from another member is damaged, incomplete, or of a newer version.
    #[error(
        "snapshot cannot be used and was not installed, have another one sent: dir={}: {reason}",
        dir.display()
    )]
    SnapshotDamaged {
        /// The directory in which it arrived.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A snapshot from a member of another cluster.
    #[error(
        "snapshot belongs to another cluster and was not installed, check the peer URLs of the \
         members: dir={} cluster={found} expected_cluster={expected}",
        dir.display()
    )]
    SnapshotForeign {
        /// The directory in which it arrived.
        dir: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        expected: ClusterId,
    },
    /// A restore must not overwrite anything.
    #[error("restore needs a directory that does not exist or is empty: dir={}", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// The bytes are not a backup archive, or a damaged one.
    #[error("backup archive cannot be used, take another backup: {reason} offset={offset}")]
    Archive {
        /// What is wrong.
        reason: String,
        /// Where, in bytes from the start.
        offset: u64,
    },
    /// A newer program wrote the archive.
    #[error(
        "backup archive has a format that this version does not read; use the version that wrote \
         it, or a newer one: format={format} newest_readable={newest}"
    )]
    ArchiveFormat {
        /// Its format.
        format: u32,
        /// The newest this version reads.
        newest: u32,
    },
    /// The caller refused a row while restoring.
    #[error("backup archive holds a row that cannot be restored: {0}")]
    Rewrite(String),
}

impl StorageError {
    /// An error of the file system.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { action, path },
            _ => Self::Io { action, path, source: Arc::new(source) },
        }
    }
}

/// Adds what was attempted to an error of the file system.
pub(crate) trait IoContext<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StorageError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StorageError> {
        self.map_err(|source| StorageError::io(action, path, source))
    }
}
