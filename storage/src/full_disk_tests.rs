//! What happens on a disk that is really full: a small file system in memory, where the machine
//! permits to mount one.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use folkmoot_core::env::{Engine as _, Family, WriteBatch};
use folkmoot_core::types::{LogIndex, MemberId};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::snapshot::tests::{CLUSTER, applied, write_entry};
use crate::{DataDir, DirIdentity, OpenOptions, RocksEngine, RocksOptions, StorageError, snapshot};

const DISK_BYTES: usize = 64 << 20;
const OPTIONS: OpenOptions = OpenOptions {
    create: Some(DirIdentity { cluster_id: CLUSTER, member_id: MemberId(2) }),
    expect_cluster: None,
    expect_member: None,
};

/// A small disk; unmounted when it is dropped.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// `None` if mounting is not permitted, with the reason printed. Starts no other program:
    /// locks of other tests would live on in it for a moment.
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("temp dir");
        let size = CString::new(format!("size={DISK_BYTES}")).expect("no zero");
        match mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), Some(size.as_c_str())) {
            Ok(()) => Some(Self { dir }),
            Err(error) => {
                eprintln!("skipped: cannot mount a tmpfs: {error}");
                None
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Takes all free space but this much. What is taken is given back by removing the path.
    fn fill(&self, leave_bytes: usize) -> PathBuf {
        let path = self.dir.path().join("ballast");
        let mut file = File::create(&path).expect("create");
        let block = vec![7; 4096];
        while file.write_all(&block).is_ok() {}
        let taken = file.metadata().expect("there").len();
        file.set_len(taken.saturating_sub(leave_bytes as u64)).expect("shorten");
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also when a failed test still has files open.
        unmount(self.dir.path(), UnmountFlags::DETACH).expect("mounted before");
    }
}

fn open(path: &Path) -> RocksEngine {
    let options =
        RocksOptions { write_buffer_bytes: 4 << 20, block_cache_bytes: 1 << 20, ..RocksOptions::default() };
    RocksEngine::open(path, options).expect("open")
}

/// An engine that says whose it is, in files.
fn make_engine(path: &Path, index: u64) -> RocksEngine {
    let engine = open(path);
    write_entry(&engine, index);
    engine.flush().expect("flush");
    engine
}

fn index(engine: &RocksEngine) -> LogIndex {
    folkmoot_core::apply::meta::Applied::load(engine).expect("reads").expect("there").index
}

fn assert_no_space<T: std::fmt::Debug>(result: Result<T, StorageError>) {
    assert!(matches!(result, Err(StorageError::NoSpace { .. })), "{result:?}");
}

#[test]
fn a_checkpoint_that_does_not_fit_leaves_the_engine_working() {
    let Some(disk) = Disk::mount() else { return };
    let data = DataDir::open(&disk.data(), OPTIONS).expect("create");
    let engine = make_engine(&data.db_dir(), 1);
    // Two megabytes that are not in a table yet.
    let mut batch = WriteBatch::new();
    batch.put(Family::Rev, b"large", &vec![3; 2 << 20]);
    engine.write(&batch).expect("write");
    let target = data.temp_path("snapshot");
    for leave_bytes in [0, 8 << 10, 100 << 10, 1 << 20, 2 << 20] {
        let ballast = disk.fill(leave_bytes);
        assert_no_space(snapshot::make(&engine, &target));
        assert_eq!(fs::read_dir(target.parent().expect("tmp")).expect("dir").count(), 0, "nothing is left");
        assert_eq!(index(&engine), LogIndex(1));
        write_entry(&engine, 1);
        fs::remove_file(ballast).expect("remove");
    }
    write_entry(&engine, 2);
    engine.flush().expect("the engine never knew");
    assert_eq!(snapshot::make(&engine, &target).expect("room again").applied, applied(2));
}

#[test]
fn a_mark_that_does_not_fit_leaves_the_old_engine_in_use() {
    let Some(disk) = Disk::mount() else { return };
    let data = DataDir::open(&disk.data(), OPTIONS).expect("create");
    let engine = make_engine(&data.db_dir(), 1);
    let staged = data.snap_dir().join("1");
    drop(make_engine(&staged, 2));
    let ballast = disk.fill(0);
    assert_no_space(snapshot::mark_installed(&staged, LogIndex(2)));
    fs::remove_file(ballast).expect("remove");
    write_entry(&engine, 3);
    engine.flush().expect("flush");
    drop((engine, data));
    let data = DataDir::open(&disk.data(), OPTIONS).expect("open");
    assert_eq!(index(&open(&data.db_dir())), LogIndex(3));
    assert!(!staged.exists());
}

#[test]
fn a_pointer_that_does_not_fit_leaves_the_old_engine_in_use() {
    let Some(disk) = Disk::mount() else { return };
    let data = DataDir::open(&disk.data(), OPTIONS).expect("create");
    let old = data.db_dir();
    let engine = make_engine(&old, 1);
    let staged = data.snap_dir().join("1");
    drop(make_engine(&staged, 2));
    let ballast = disk.fill(0);
    assert_no_space(data.install_engine(&staged));
    assert_eq!(data.db_dir(), old);
    assert!(!staged.exists(), "its space is given back");
    fs::remove_file(ballast).expect("remove");
    write_entry(&engine, 3);
    engine.flush().expect("flush");
    drop((engine, data));
    let data = DataDir::open(&disk.data(), OPTIONS).expect("open");
    assert_eq!(data.db_dir(), old);
    let engine = open(&old);
    assert_eq!(index(&engine), LogIndex(3));
    // And there is a next time.
    drop(make_engine(&staged, 4));
    let new = data.install_engine(&staged).expect("room again");
    assert_eq!(index(&open(&new)), LogIndex(4));
    drop(engine);
    data.remove_old_engines().expect("remove");
    assert!(!old.exists());
}
