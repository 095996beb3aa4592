//! The file operations of the log: a directory of flat files with explicit syncs. Behind a trait
//! so that tests can put a disk below it that loses what was not synced.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// One directory of a disk.
pub trait Disk: Clone + Send + 'static {
    /// An open file.
    type File: WalFile;

    /// Where a file is, for messages.
    fn path(&self, name: &str) -> PathBuf;
    /// Names and sizes of the files.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// A whole file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Opens a file for writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Creates a file, which must not exist.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Renames a file; `to` must not exist.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// A number that cannot be foreseen.
    fn nonce(&self) -> u64;
}

/// An open file of a [`Disk`].
pub trait WalFile: Send {
    /// Writes all bytes at an offset; the file grows if needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Gives the file this size, with its space reserved if the file system can.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Makes contents and size durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// A directory of the real file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    /// The directory must exist.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
}

impl Disk for RealDisk {
    type File = File;

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            // Other names are not ours and stay as they are.
            if let Ok(name) = entry.file_name().into_string()
                && metadata.is_file()
            {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path(name))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let path = self.path(name);
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn nonce(&self) -> u64 {
        // The standard library's hash keys come from the system's random numbers.
        RandomState::new().build_hasher().finish()
    }
}

impl WalFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.set_len(bytes),
            other => Ok(other?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
