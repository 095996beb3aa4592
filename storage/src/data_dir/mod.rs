//! The data directory of one member: who may use it, whose it is, and which engine is current.
//!
//! ```text
//! LOCK   held while a process uses the directory
//! meta   format, cluster, member and incarnation; written last when the directory is made
//! boot   the number of the last start
//! wal/   the write-ahead log
//! db/    the engine, until `engine` names another directory
//! tmp/   for whatever is short-lived      snap/   for snapshots that arrive; both are emptied at
//!                                                 every start
//! ```
//!
//! Nothing is changed in a directory that is not empty and has no `meta`, unless it holds only
//! what a start that was cut short leaves behind.

mod engines;
mod meta;
#[cfg(test)]
mod tests;
mod text;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use folkmoot_core::types::{ClusterId, MemberId};
use folkmoot_core::wal::Identity;
use rustix::fs::FlockOperation;

use crate::error::{IoContext, StorageError};
use crate::files;
use crate::snapshot;
use engines::EngineNumber;
use meta::Meta;
use text::Fields;

const META: &str = "meta";
const META_BESIDE: &str = "meta.new";
const LOCK: &str = "LOCK";
const BOOT: &str = "boot";
const BOOT_BESIDE: &str = "boot.new";
const BOOT_TITLE: &str = "folkmoot boot";
const WAL: &str = "wal";
const TMP: &str = "tmp";
const SNAP: &str = "snap";
/// Made by the file system at the root of a volume.
const LOST_AND_FOUND: &str = "lost+found";

/// Whose directory it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirIdentity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The member.
    pub member_id: MemberId,
}

impl From<DirIdentity> for Identity {
    fn from(identity: DirIdentity) -> Self {
        Self { cluster_id: identity.cluster_id, member_id: identity.member_id }
    }
}

/// How a directory is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Make the directory for this member if there is none. `None`: it must exist.
    pub create: Option<DirIdentity>,
    /// Refuse the directory of another cluster.
    pub expect_cluster: Option<ClusterId>,
    /// Refuse the directory of another member.
    pub expect_member: Option<MemberId>,
}

/// See the module. The lock is held until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: DirIdentity,
    incarnation: u64,
    is_new: bool,
    engine: Mutex<EngineNumber>,
    next_temp: AtomicU64,
    // Dropped last: the lock goes with the open file.
    _lock: File,
}

/// What is at the path.
enum Found {
    /// Nothing, or nothing that counts.
    Nothing,
    /// A data directory.
    Whole(Meta),
}

impl DataDir {
    /// Whether there is a data directory that a member has used: then its settings do not say any
    /// more who it is. Changes nothing.
    pub fn has_data(path: &Path) -> Result<bool, StorageError> {
        match inspect(path)? {
            Found::Nothing => Ok(false),
            Found::Whole(_) => {
                let engine = engines::current(path)?;
                let untouched = engine == EngineNumber::FIRST
                    && is_empty(&path.join(WAL))?
                    && is_empty(&path.join(engine.to_string()))?;
                Ok(!untouched)
            }
        }
    }

    /// Opens a data directory, or makes one.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self, StorageError> {
        // Before anything is touched.
        if let Found::Nothing = inspect(path)? {
            if options.create.is_none() {
                return Err(StorageError::NoDataDir { dir: path.to_owned() });
            }
            files::create_dir(path)?;
        }
        let lock = lock(path)?;
        // Again, because another process may have worked on it before the lock was ours.
        let found = inspect(path)?;
        let (identity, incarnation, engine, is_new) = match (found, options.create) {
            (Found::Whole(meta), create) => {
                let engine = engines::current(path)?;
                // As long as nothing was written, the directory can still become another
                // member's: the operator corrected the settings after a first try.
                let is_new = engine == EngineNumber::FIRST
                    && is_empty(&path.join(WAL))?
                    && is_empty(&path.join(engine.to_string()))?;
                let identity = if is_new { create.unwrap_or(meta.identity) } else { meta.identity };
                (identity, meta.incarnation, engine, is_new)
            }
            (Found::Nothing, Some(identity)) => (identity, None, EngineNumber::FIRST, true),
            (Found::Nothing, None) => {
                return Err(StorageError::NoDataDir { dir: path.to_owned() });
            }
        };
        check_identity(path, identity, &options)?;
        warn_about_permissions(path);

        for name in [TMP, SNAP] {
            files::remove(&path.join(name))?;
        }
        engines::remove_others(path, engine)?;
        for name in [WAL, &engine.to_string(), TMP, SNAP] {
            files::create_dir(&path.join(name))?;
        }
        let needs_meta = is_new || incarnation.is_none();
        let incarnation = incarnation.unwrap_or_else(rand::random);
        if needs_meta {
            let bytes = meta::encode(identity, incarnation);
            files::replace(&path.join(META), &path.join(META_BESIDE), &bytes)?;
        }
        Ok(Self {
            path: path.to_owned(),
            identity,
            incarnation,
            is_new,
            engine: Mutex::new(engine),
            next_temp: AtomicU64::new(1),
            _lock: lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub fn identity(&self) -> DirIdentity {
        self.identity
    }

    /// A random number made with the directory: tells this disk from another one on which the
    /// same member ran before or will run after. A copy of the directory has the same.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The number of this start, durably: `at_least`, or one more than at the start before if that is
    /// larger. So it grows also when the clock it comes from went back; the others would take a smaller
    /// one for a message of a process that is gone.
    pub fn next_boot(&self, at_least: u64) -> Result<u64, StorageError> {
        let path = self.path.join(BOOT);
        let last = match path.exists() {
            true => read_boot(&path, &text::read(&path)?).unwrap_or_else(|error| {
                tracing::warn!(%error, "the number of the last start is not known; the clock stands in for it");
                0
            }),
            false => 0,
        };
        let boot = at_least.max(last.saturating_add(1));
        let bytes = text::encode(BOOT_TITLE, &[(BOOT, boot.to_string())]);
        files::replace(&path, &self.path.join(BOOT_BESIDE), &bytes)?;
        Ok(boot)
    }

    /// Whether neither log nor engine were ever written: the member starts for the first time.
    ///
    /// When it is false and the log turns out to be empty, the first start was cut short if the
    /// engine has no applied position, the engine came as a snapshot to a member without a log if
    /// it is marked so, and the log was lost otherwise.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Where the write-ahead log is.
    pub fn wal_dir(&self) -> PathBuf {
        self.path.join(WAL)
    }

    /// Where the current engine is.
    pub fn db_dir(&self) -> PathBuf {
        self.path.join(self.engine().to_string())
    }

    /// Where snapshots arrive. What is there goes at the next start.
    pub fn snap_dir(&self) -> PathBuf {
        self.path.join(SNAP)
    }

    /// A path for something short-lived, never given out twice. What is left there goes at the
    /// next start.
    pub fn temp_path(&self, purpose: &str) -> PathBuf {
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        self.path.join(TMP).join(format!("{purpose}-{number}"))
    }

    /// Makes a complete database, staged in [`Self::snap_dir`] or elsewhere on the same file
    /// system and opened by nobody, the current engine, durably; returns where it is now. The old
    /// engine's directory stays until [`Self::remove_old_engines`] or the next start. A crash at
    /// any moment leaves the old engine or the new one.
    ///
    /// # Errors
    /// After `NoSpace` and `SnapshotDamaged` the old engine is current, now and after a restart,
    /// and the member can go on; the staged directory is gone after `NoSpace`. After any other
    /// error it is unknown which engine the next start finds: the member must stop.
    pub fn install_engine(&self, staged: &Path) -> Result<PathBuf, StorageError> {
        let mut engine = self.engine.lock().expect("nothing panics while it is held");
        snapshot::check_has_database(staged)?;
        let number = engines::next_number(&self.path)?;
        let installed = engines::install(&self.path, staged, number, &mut |_| Ok(()));
        if let Err(StorageError::NoSpace { .. }) = installed {
            engines::discard(&self.path, staged, number);
        }
        installed?;
        *engine = number;
        Ok(self.path.join(number.to_string()))
    }

    /// Removes the engines that are not current any more. Nobody may have one of them open.
    pub fn remove_old_engines(&self) -> Result<(), StorageError> {
        let engine = self.engine.lock().expect("nothing panics while it is held");
        engines::remove_others(&self.path, *engine)
    }

    fn engine(&self) -> EngineNumber {
        *self.engine.lock().expect("nothing panics while it is held")
    }
}

fn read_boot(path: &Path, bytes: &[u8]) -> Result<u64, StorageError> {
    let mut fields = Fields::new(path, bytes, BOOT_TITLE)?;
    let boot = fields.next(BOOT)?.parse().map_err(|_| fields.damaged("the boot is not a number"))?;
    fields.check()?;
    Ok(boot)
}

fn check_identity(dir: &Path, identity: DirIdentity, options: &OpenOptions) -> Result<(), StorageError> {
    let dir = || dir.to_owned();
    let DirIdentity { cluster_id: found, member_id } = identity;
    if let Some(expected) = options.expect_cluster
        && expected != found
    {
        return Err(StorageError::WrongCluster { dir: dir(), found, expected });
    }
    if let Some(expected) = options.expect_member
        && expected != member_id
    {
        return Err(StorageError::WrongMember { dir: dir(), found: member_id, expected });
    }
    Ok(())
}

/// Looks without touching.
fn inspect(dir: &Path) -> Result<Found, StorageError> {
    let names = match list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(StorageError::io("list the data directory", dir, error)),
    };
    if names.iter().any(|name| name == META) {
        return Ok(Found::Whole(meta::read(&dir.join(META))?));
    }
    if names.iter().any(|name| name == "member") {
        return Err(StorageError::EtcdDir { dir: dir.to_owned() });
    }
    let is_engine = |name: &String| EngineNumber::from_name(name).is_some();
    let own = [
        LOCK,
        META_BESIDE,
        BOOT,
        BOOT_BESIDE,
        WAL,
        TMP,
        SNAP,
        engines::POINTER,
        engines::POINTER_BESIDE,
        LOST_AND_FOUND,
    ];
    if let Some(found) = names.iter().find(|name| !own.contains(&name.as_str()) && !is_engine(name)) {
        return Err(StorageError::ForeignDir { dir: dir.to_owned(), found: found.clone() });
    }
    // `meta` is there before anything is written into these, and before an engine is replaced.
    let first = EngineNumber::FIRST.to_string();
    let later = |name: &String| (is_engine(name) && *name != first) || name == engines::POINTER;
    if names.iter().any(later) || !is_empty(&dir.join(WAL))? || !is_empty(&dir.join(first))? {
        let reason = "file is missing, but there is data beside it".to_owned();
        return Err(StorageError::MetaDamaged { path: dir.join(META), reason });
    }
    Ok(Found::Nothing)
}

fn list(dir: &Path) -> std::io::Result<Vec<String>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Whether a directory is empty or absent.
fn is_empty(dir: &Path) -> Result<bool, StorageError> {
    match list(dir) {
        Ok(names) => Ok(names.is_empty()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(StorageError::io("list a directory", dir, error)),
    }
}

fn lock(dir: &Path) -> Result<File, StorageError> {
    let path = dir.join(LOCK);
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).context("open the lock file", &path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            // Only for the message.
            let _ = (&mut file).take(100).read_to_string(&mut owner);
            let owner = owner.trim().to_owned();
            return Err(StorageError::Locked { dir: dir.to_owned(), owner });
        }
        Err(error) => return Err(StorageError::io("lock the data directory", &path, error.into())),
    }
    let note = format!("pid {}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(note.as_bytes())).context("write the lock file", &path)?;
    Ok(file)
}

fn warn_about_permissions(dir: &Path) {
    if let Ok(metadata) = fs::metadata(dir) {
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(
                dir = %dir.display(), mode = format!("{mode:o}"),
                "other users can enter the data directory; 700 is recommended"
            );
        }
    }
}
