//! The receiver's files: what has arrived of a snapshot, and making it durable. All of it blocks.
//!
//! ```text
//! <staging>/partial-<sender>-<identity>/   removed at start
//! <staging>/arrived-<sender>-<transfer>/   the owner's from the moment it is told
//! ```
//!
//! A failed write or sync is not tried again: what is on the disk then is unknown, so the partial
//! snapshot is removed and the sender is told.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use folkmoot_core::types::MemberId;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::Xxh3;

use super::CHUNK_BYTES;
use super::offer::{Have, Offer, Part, whole_hash};
use crate::config::PeerConfig;
use crate::handshake::Refusal;

const PARTIAL: &str = "partial-";
/// Written bytes are synced this often, so that the last sync is short.
const SYNC_BYTES: u64 = 8 << 20;

/// What has arrived of a sender's snapshot.
#[derive(Default)]
pub(crate) struct Slot {
    partial: Option<Partial>,
    /// The transfer that was handed over last; its sender may not have heard so.
    accepted: Option<u64>,
}

struct Partial {
    identity: u128,
    dir: PathBuf,
    files: Vec<Progress>,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    durable_bytes: u64,
    hash: Option<u128>,
}

/// A snapshot that is offered.
pub(super) struct Offered {
    pub from: MemberId,
    pub offer: Offer,
    /// The offer as it arrived.
    pub payload: bytes::Bytes,
    pub identity: u128,
}

/// The answer to an offer.
pub(super) enum Prepared {
    /// It was handed over before.
    Accepted,
    /// How much of each file is here.
    Resume(Vec<Have>),
}

/// What stops a snapshot.
enum Failure {
    /// The disk failed.
    Io { what: String, source: io::Error },
    /// The sender broke the rules.
    Bad(String),
    /// A file has to be sent again.
    Corrupt(usize),
}

/// Makes the staging directory, and removes what was left there unfinished.
pub(crate) fn clear_stale(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Removes what has arrived.
pub(crate) fn discard(slot: &mut Slot) {
    if let Some(partial) = slot.partial.take()
        && let Err(error) = fs::remove_dir_all(&partial.dir)
    {
        // It is tried again at the next start.
        tracing::warn!(%error, dir = %partial.dir.display(), "cannot remove an unfinished snapshot");
    }
}

/// Whether some of this snapshot is here already.
pub(super) fn has_begun(slot: &Slot, identity: u128) -> bool {
    slot.partial.as_ref().is_some_and(|partial| partial.identity == identity)
}

/// Checks an offer against the disk and makes a place for it.
pub(super) fn prepare(slot: &mut Slot, config: &PeerConfig, offered: &Offered) -> Result<Prepared, Refusal> {
    let offer = &offered.offer;
    if slot.accepted == Some(offer.transfer) {
        return Ok(Prepared::Accepted);
    }
    let bytes_max = config.snapshot_bytes_max;
    let bytes = offer.bytes().unwrap_or(u64::MAX);
    if bytes > bytes_max {
        return Err(Refusal::TooLarge { bytes, bytes_max });
    }
    if !has_begun(slot, offered.identity) {
        discard(slot);
    }
    let there = slot
        .partial
        .as_ref()
        .map_or(0, |partial| partial.files.iter().map(|file| file.durable_bytes).sum::<u64>());
    let needed_bytes = bytes.saturating_sub(there).saturating_add(config.staging_free_bytes_min);
    let free_bytes = free_bytes(&config.staging_dir)
        .map_err(|error| write_failed(&format!("cannot tell the free space: {error}")))?;
    if free_bytes < needed_bytes {
        discard(slot);
        return Err(Refusal::NoSpace { needed_bytes, free_bytes });
    }
    if slot.partial.is_none() {
        let dir = config.staging_dir.join(format!("{PARTIAL}{}-{:032x}", offered.from, offered.identity));
        create_dir(&dir)
            .map_err(|error| refusal(&config.staging_dir, bytes, "create a directory", &error))?;
        let files = vec![Progress::default(); offer.files.len()];
        slot.partial = Some(Partial { identity: offered.identity, dir, files });
    }
    let partial = slot.partial.as_ref().expect("made above");
    let have = |file: &Progress| Have { bytes: file.durable_bytes, verified: file.hash.is_some() };
    Ok(Prepared::Resume(partial.files.iter().map(have).collect()))
}

/// Takes the parts of a prepared snapshot until it is whole (then its directory comes out), its
/// sender is gone (`None`), or it has to be refused.
pub(super) fn take(
    slot: &mut Slot,
    config: &PeerConfig,
    offered: &Offered,
    parts: &mut mpsc::Receiver<Part>,
) -> Result<Option<PathBuf>, Refusal> {
    let Some(partial) = slot.partial.as_mut() else { return Ok(None) };
    let mut writer = Writer { partial, offered, open: None };
    let taken = writer.take_all(&config.staging_dir, parts);
    match taken {
        Ok(None) => Ok(None),
        Ok(Some(dir)) => {
            slot.partial = None;
            slot.accepted = Some(offered.offer.transfer);
            Ok(Some(dir))
        }
        Err(Failure::Corrupt(file)) => {
            partial.files[file] = Progress::default();
            Err(Refusal::Corrupt(offered.offer.files[file].name.clone()))
        }
        Err(Failure::Bad(what)) => {
            discard(slot);
            Err(Refusal::BadSnapshot(what))
        }
        Err(Failure::Io { what, source }) => {
            let there: u64 = partial.files.iter().map(|file| file.durable_bytes).sum();
            let missing = offered.offer.bytes().unwrap_or(u64::MAX).saturating_sub(there);
            let refusal = refusal(&config.staging_dir, missing, &what, &source);
            discard(slot);
            Err(refusal)
        }
    }
}

struct Writer<'a> {
    partial: &'a mut Partial,
    offered: &'a Offered,
    open: Option<OpenFile>,
}

struct OpenFile {
    index: usize,
    file: File,
    written_bytes: u64,
}

impl Writer<'_> {
    fn take_all(
        &mut self,
        staging: &Path,
        parts: &mut mpsc::Receiver<Part>,
    ) -> Result<Option<PathBuf>, Failure> {
        while let Some(part) = parts.blocking_recv() {
            match part {
                Part::Chunk { file, offset, bytes } => self.append(file, offset, &bytes)?,
                Part::FileEnd { file, hash } => self.verify(file, hash)?,
                Part::Done { hash } => return self.finish(staging, hash).map(Some),
            }
        }
        // What was written counts for the next attempt.
        self.close()?;
        Ok(None)
    }

    fn append(&mut self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let size = self.check_open(index)?;
        let open = self.open.as_mut().expect("opened above");
        let end = offset.checked_add(bytes.len() as u64);
        if offset != open.written_bytes || end.is_none_or(|end| end > size) {
            let at = open.written_bytes;
            return Err(Failure::Bad(format!(
                "chunk out of order: file={index} offset={offset} expected={at}"
            )));
        }
        open.file.write_all(bytes).map_err(|error| io_failure("write a file", error))?;
        open.written_bytes += bytes.len() as u64;
        if open.written_bytes - self.partial.files[index].durable_bytes >= SYNC_BYTES {
            open.file.sync_data().map_err(|error| io_failure("sync a file", error))?;
            self.partial.files[index].durable_bytes = open.written_bytes;
        }
        Ok(())
    }

    fn verify(&mut self, index: usize, hash: u128) -> Result<(), Failure> {
        let size = self.check_open(index)?;
        let open = self.open.as_ref().expect("opened above");
        if open.written_bytes != size {
            let found = open.written_bytes;
            return Err(Failure::Bad(format!(
                "file is not whole: file={index} bytes={found} expected={size}"
            )));
        }
        self.close()?;
        let path = self.path(index);
        let found = hash_file(&path).map_err(|error| io_failure("read back a file", error))?;
        if found != hash {
            return Err(Failure::Corrupt(index));
        }
        self.partial.files[index].hash = Some(hash);
        Ok(())
    }

    fn finish(&mut self, staging: &Path, hash: u128) -> Result<PathBuf, Failure> {
        let hashes: Option<Vec<u128>> = self.partial.files.iter().map(|file| file.hash).collect();
        let hashes = hashes.ok_or_else(|| Failure::Bad("a file is missing".to_owned()))?;
        if whole_hash(&self.offered.payload, hashes.into_iter()) != hash {
            return Err(Failure::Bad("the checksum of the whole does not match".to_owned()));
        }
        let dir = &self.partial.dir;
        let mut dirs = BTreeSet::from([dir.clone()]);
        for file in &self.offered.offer.files {
            dirs.extend(file.name.match_indices('/').map(|(at, _)| dir.join(&file.name[..at])));
        }
        // The deepest first: an entry is durable before what leads to it.
        for dir in dirs.iter().rev() {
            sync_dir(dir).map_err(|error| io_failure("sync a directory", error))?;
        }
        let name = format!("arrived-{}-{:016x}", self.offered.from, self.offered.offer.transfer);
        let arrived = staging.join(name);
        fs::rename(dir, &arrived).map_err(|error| io_failure("rename a directory", error))?;
        sync_dir(staging).map_err(|error| io_failure("sync a directory", error))?;
        Ok(arrived)
    }

    /// Opens a file that is not finished, and says how large it has to become.
    fn check_open(&mut self, index: usize) -> Result<u64, Failure> {
        let progress = self.partial.files.get(index).copied();
        let Some(progress) = progress.filter(|progress| progress.hash.is_none()) else {
            return Err(Failure::Bad(format!("no such file is expected: file={index}")));
        };
        if self.open.as_ref().is_none_or(|open| open.index != index) {
            self.close()?;
            let path = self.path(index);
            let file = open_at(&path, &self.partial.dir, progress.durable_bytes)
                .map_err(|error| io_failure("create a file", error))?;
            self.open = Some(OpenFile { index, file, written_bytes: progress.durable_bytes });
        }
        Ok(self.offered.offer.files[index].bytes)
    }

    /// Closes the open file, durably.
    fn close(&mut self) -> Result<(), Failure> {
        if let Some(open) = self.open.take() {
            open.file.sync_all().map_err(|error| io_failure("sync a file", error))?;
            self.partial.files[open.index].durable_bytes = open.written_bytes;
        }
        Ok(())
    }

    fn path(&self, index: usize) -> PathBuf {
        self.partial.dir.join(&self.offered.offer.files[index].name)
    }
}

/// Opens a file to write on from `offset`; what is behind it was never counted.
fn open_at(path: &Path, dir: &Path, offset: u64) -> io::Result<File> {
    if let Some(above) = path.parent().filter(|above| *above != dir) {
        DirBuilder::new().recursive(true).mode(0o700).create(above)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let mut file = options.open(path)?;
    file.set_len(offset)?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
    Ok(file)
}

fn hash_file(path: &Path) -> io::Result<u128> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, Xxh3::new(), vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.digest128()),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn io_failure(what: &str, source: io::Error) -> Failure {
    Failure::Io { what: what.to_owned(), source }
}

fn write_failed(what: &str) -> Refusal {
    Refusal::WriteFailed(what.to_owned())
}

fn refusal(staging: &Path, needed_bytes: u64, what: &str, error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Refusal::NoSpace { needed_bytes, free_bytes: free_bytes(staging).unwrap_or(0) }
        }
        _ => write_failed(&format!("cannot {what}: {error}")),
    }
}
