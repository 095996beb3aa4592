//! The data directory of one member: who may use it, and whose it is.
//!
//! ```text
//! LOCK   held while a process uses the directory
//! meta   format, cluster and member; written last when the directory is made
//! wal/   the write-ahead log       db/   the engine       tmp/   emptied at every start
//! ```
//!
//! Nothing is changed in a directory that is not empty and has no `meta`, unless it holds only
//! what a start that was cut short leaves behind.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use folkmoot_core::types::{ClusterId, MemberId};
use folkmoot_core::wal::Identity;
use rustix::fs::FlockOperation;

use crate::error::{IoContext, StorageError};
use crate::files;

/// Version of the directory's layout.
const FORMAT: u64 = 1;
const META: &str = "meta";
const META_BESIDE: &str = "meta.new";
const LOCK: &str = "LOCK";
const WAL: &str = "wal";
const DB: &str = "db";
const TMP: &str = "tmp";
/// Made by the file system at the root of a volume.
const LOST_AND_FOUND: &str = "lost+found";
/// The file is a few lines; anything longer is not ours.
const META_BYTES_MAX: u64 = 4096;

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
    is_new: bool,
    next_temp: AtomicU64,
    // Dropped last: the lock goes with the open file.
    _lock: File,
}

/// What is at the path.
enum Found {
    /// Nothing, or nothing that counts.
    Nothing,
    /// A data directory.
    Whole(DirIdentity),
}

impl DataDir {
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
        let (identity, is_new) = match (found, options.create) {
            (Found::Whole(identity), create) => {
                // As long as nothing was written, the directory can still become another
                // member's: the operator corrected the settings after a first try.
                let is_new = is_empty(&path.join(WAL))? && is_empty(&path.join(DB))?;
                (if is_new { create.unwrap_or(identity) } else { identity }, is_new)
            }
            (Found::Nothing, Some(identity)) => (identity, true),
            (Found::Nothing, None) => {
                return Err(StorageError::NoDataDir { dir: path.to_owned() });
            }
        };
        check_identity(path, identity, &options)?;
        warn_about_permissions(path);

        files::remove(&path.join(TMP))?;
        for name in [WAL, DB, TMP] {
            files::create_dir(&path.join(name))?;
        }
        if is_new {
            files::replace(&path.join(META), &path.join(META_BESIDE), &encode_meta(identity))?;
        }
        let path = path.to_owned();
        Ok(Self { path, identity, is_new, next_temp: AtomicU64::new(1), _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub fn identity(&self) -> DirIdentity {
        self.identity
    }

    /// Whether neither log nor engine were ever written: the member starts for the first time.
    ///
    /// When it is false and the log turns out to be empty, the first start was cut short if the
    /// engine has no applied position, and the log was lost if it has.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Where the write-ahead log is.
    pub fn wal_dir(&self) -> PathBuf {
        self.path.join(WAL)
    }

    /// Where the engine is.
    pub fn db_dir(&self) -> PathBuf {
        self.path.join(DB)
    }

    /// A path for something short-lived, never given out twice. What is left there goes at the
    /// next start.
    pub fn temp_path(&self, purpose: &str) -> PathBuf {
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        self.path.join(TMP).join(format!("{purpose}-{number}"))
    }
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
        return Ok(Found::Whole(read_meta(&dir.join(META))?));
    }
    if names.iter().any(|name| name == "member") {
        return Err(StorageError::EtcdDir { dir: dir.to_owned() });
    }
    let own = [LOCK, META_BESIDE, WAL, DB, TMP, LOST_AND_FOUND];
    if let Some(found) = names.into_iter().find(|name| !own.contains(&name.as_str())) {
        return Err(StorageError::ForeignDir { dir: dir.to_owned(), found });
    }
    // `meta` is there before anything is written into these.
    if !is_empty(&dir.join(WAL))? || !is_empty(&dir.join(DB))? {
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

fn encode_meta(identity: DirIdentity) -> Vec<u8> {
    let DirIdentity { cluster_id, member_id } = identity;
    let text =
        format!("folkmoot data directory\nformat {FORMAT}\ncluster {cluster_id}\nmember {member_id}\n");
    format!("{text}crc32c {:08x}\n", crc32c::crc32c(text.as_bytes())).into_bytes()
}

fn read_meta(path: &Path) -> Result<DirIdentity, StorageError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(META_BYTES_MAX).read_to_end(&mut bytes))
        .context("read the description of the data directory", path)?;
    decode_meta(path, &bytes)
}

fn decode_meta(path: &Path, bytes: &[u8]) -> Result<DirIdentity, StorageError> {
    let damaged =
        |reason: &str| StorageError::MetaDamaged { path: path.to_owned(), reason: reason.to_owned() };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let mut lines = text.lines();
    if lines.next() != Some("folkmoot data directory") {
        return Err(damaged("the first line is not \"folkmoot data directory\""));
    }
    let mut field = |name: &str| {
        let value = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.ok_or_else(|| damaged(&format!("line \"{name}\" is missing")))
    };
    // Later formats may differ below this line.
    let format: u64 = field("format")?.parse().map_err(|_| damaged("the format is not a number"))?;
    if format != FORMAT {
        return Err(StorageError::UnsupportedFormat { path: path.to_owned(), format, newest: FORMAT });
    }
    let cluster = field("cluster")?;
    let member = field("member")?;
    let stored = field("crc32c")?;
    let (content, _) = text.rsplit_once("crc32c ").ok_or_else(|| damaged("no checksum"))?;
    if stored != format!("{:08x}", crc32c::crc32c(content.as_bytes())) {
        return Err(damaged("the checksum does not match"));
    }
    let id = |hex: &str| u64::from_str_radix(hex, 16).map_err(|_| damaged("an id is not a number"));
    Ok(DirIdentity { cluster_id: ClusterId(id(cluster)?), member_id: MemberId(id(member)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: DirIdentity = DirIdentity { cluster_id: ClusterId(0xc1), member_id: MemberId(0x3e) };

    fn create(identity: DirIdentity) -> OpenOptions {
        OpenOptions { create: Some(identity), ..OpenOptions::default() }
    }

    fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut waiting = vec![dir.to_owned()];
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(fs::read_dir(&path).expect("dir").map(|entry| entry.expect("entry").path()));
                found.push((path, Vec::new()));
            } else {
                let bytes = fs::read(&path).expect("file");
                found.push((path, bytes));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_new_directory_is_its_owners_only_and_comes_back() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("above").join("data");
        let data = DataDir::open(&path, create(OURS)).expect("create");
        assert!(data.is_new());
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::write(data.wal_dir().join("x"), b"").expect("write");
        drop(data);
        let data = DataDir::open(&path, OpenOptions::default()).expect("open");
        assert_eq!(data.identity(), OURS);
        assert!(!data.is_new());
    }

    #[test]
    fn a_directory_that_must_exist_is_not_made() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("data");
        let error = DataDir::open(&path, OpenOptions::default()).expect_err("absent");
        assert!(matches!(error, StorageError::NoDataDir { .. }), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn a_second_process_is_refused_and_told_who_is_there() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = DataDir::open(dir.path(), create(OURS)).expect("create");
        let error = DataDir::open(dir.path(), create(OURS)).expect_err("locked").to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        DataDir::open(dir.path(), create(OURS)).expect("free again");
    }

    #[test]
    fn foreign_directories_are_refused_and_untouched() {
        for (name, is_etcd) in [("member/snap/db", true), ("notes.txt", false), ("wal/0.wal", false)] {
            let dir = tempfile::tempdir().expect("temp dir");
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("above")).expect("dir");
            fs::write(&path, b"precious").expect("write");
            let before = snapshot(dir.path());
            let error = DataDir::open(dir.path(), create(OURS)).expect_err("foreign");
            assert_eq!(matches!(error, StorageError::EtcdDir { .. }), is_etcd, "{error}");
            assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
            assert_eq!(snapshot(dir.path()), before);
        }
    }

    #[test]
    fn the_directory_of_another_member_or_cluster_is_refused_and_untouched() {
        let dir = tempfile::tempdir().expect("temp dir");
        let data = DataDir::open(dir.path(), create(OURS)).expect("create");
        fs::write(data.wal_dir().join("x"), b"").expect("write");
        drop(data);
        let before = snapshot(dir.path());
        let other = OpenOptions { expect_member: Some(MemberId(1)), ..OpenOptions::default() };
        let error = DataDir::open(dir.path(), other).expect_err("other member");
        assert!(matches!(error, StorageError::WrongMember { .. }), "{error}");
        let other = OpenOptions { expect_cluster: Some(ClusterId(1)), ..OpenOptions::default() };
        let error = DataDir::open(dir.path(), other).expect_err("other cluster");
        assert!(matches!(error, StorageError::WrongCluster { .. }), "{error}");
        assert_eq!(snapshot(dir.path()), before);
        // An identity to create with is no demand.
        let other = DirIdentity { member_id: MemberId(1), ..OURS };
        assert_eq!(DataDir::open(dir.path(), create(other)).expect("opens").identity(), OURS);
    }

    #[test]
    fn a_creation_cut_short_anywhere_is_completed() {
        let whole = tempfile::tempdir().expect("temp dir");
        drop(DataDir::open(whole.path(), create(OURS)).expect("create"));
        let steps: [&[&str]; 6] = [
            &[],
            &[LOCK],
            &[LOCK, WAL],
            &[LOCK, WAL, DB],
            &[LOCK, WAL, DB, TMP],
            &[LOCK, WAL, DB, TMP, META_BESIDE],
        ];
        for names in steps {
            let dir = tempfile::tempdir().expect("temp dir");
            for name in names {
                match *name {
                    WAL | DB | TMP => fs::create_dir(dir.path().join(name)).expect("dir"),
                    _ => fs::write(dir.path().join(name), b"fol").expect("file"),
                }
            }
            let data = DataDir::open(dir.path(), create(OURS)).expect("completes");
            assert!(data.is_new());
            drop(data);
            let expected = snapshot(whole.path()).len();
            assert_eq!(snapshot(dir.path()).len(), expected, "{names:?}");
            // Nothing was written yet: corrected settings may still change whose it is.
            let other = DirIdentity { member_id: MemberId(9), ..OURS };
            let data = DataDir::open(dir.path(), create(other)).expect("still new");
            assert!(data.is_new());
            assert_eq!(data.identity(), other);
        }
    }

    #[test]
    fn a_volume_root_counts_as_empty() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::create_dir(dir.path().join(LOST_AND_FOUND)).expect("dir");
        DataDir::open(dir.path(), create(OURS)).expect("create");
    }

    #[test]
    fn temp_paths_differ_and_are_emptied_at_start() {
        let dir = tempfile::tempdir().expect("temp dir");
        let data = DataDir::open(dir.path(), create(OURS)).expect("create");
        let (one, two) = (data.temp_path("snapshot"), data.temp_path("snapshot"));
        assert_ne!(one, two);
        fs::create_dir(&one).expect("dir");
        fs::write(one.join("part"), b"").expect("write");
        drop(data);
        DataDir::open(dir.path(), create(OURS)).expect("open");
        assert!(!one.exists());
    }

    #[test]
    fn a_description_from_a_newer_version_is_named_as_such() {
        let text = b"folkmoot data directory\nformat 2\nanything\n";
        let error = decode_meta(Path::new("meta"), text).expect_err("newer");
        assert!(matches!(error, StorageError::UnsupportedFormat { format: 2, .. }), "{error}");
    }

    #[test]
    fn every_flipped_bit_of_the_description_is_noticed() {
        let bytes = encode_meta(OURS);
        assert_eq!(decode_meta(Path::new("meta"), &bytes).expect("whole"), OURS);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The newline after the last field carries nothing.
            if let Ok(identity) = decode_meta(Path::new("meta"), &flipped) {
                assert_eq!((identity, bit / 8), (OURS, bytes.len() - 1));
            }
        }
        for cut in 0..bytes.len() - 1 {
            assert!(decode_meta(Path::new("meta"), &bytes[..cut]).is_err(), "cut={cut}");
        }
    }
}
