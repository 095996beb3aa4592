//! The write-ahead log in files. The bytes are [`folkmoot_core::wal`]'s; this room gives them
//! files, syncs them, and keeps the chain of segments.
//!
//! A directory holds segments (`<number>.wal`, or `<number>.first.wal` if the log starts there
//! and older ones are waste), spares that can become segments (`<number>.spare`) and spares not
//! finished (`<number>.new`), numbers in hex.
//!
//! Invariants:
//! - [`Wal::append`] with `sync` returns `Ok` only after `fdatasync`.
//! - A segment gets its name only after its header is durable and everything before it is, and
//!   frames go into it only after its name is durable.
//! - Old segments go only after the one that the log starts with is durably named so.
//! - After a failed write or sync every call fails with the same error: the system may forget
//!   the data and report success the next time.
//! - Frames that were read at start but that nothing proves to be on the disk are written again
//!   and synced before [`Wal::open`] returns.
//!
//! The log relies on the disk writing single 512-byte sectors whole, and on the data directory's
//! lock: one process at a time.

mod disk;
#[cfg(test)]
mod sim_disk;
mod spare;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use folkmoot_core::limits::WAL_SEGMENT_BYTES;
use folkmoot_core::types::LogIndex;
use folkmoot_core::wal::{
    Chain, FRAME_PAYLOAD_BYTES_MAX, Identity, Recovered, Recovery, SEGMENT_HEADER_BYTES, Salt, SegmentHeader,
    WalBatch, encode_frame, frame_bytes, records,
};

use self::spare::{Spare, SparePool, SpareThread};
use crate::error::{IoContext, StorageError};

pub use self::disk::{Disk, RealDisk, WalFile};

/// Writes cover whole pages, so that the system never reads a page of a recycled file first.
const PAGE_BYTES: usize = 4096;
/// Batches are merged into frames of about this size at most.
const FRAME_BYTES_TARGET: usize = 16 << 20;
/// The write buffer is given back above this size.
const BUFFER_BYTES_KEPT: usize = 1 << 20;
const SEGMENT_SUFFIX: &str = ".wal";
const FIRST_SUFFIX: &str = ".first";

/// How a log is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalOptions {
    /// Size of a segment in bytes; a multiple of 4096.
    pub segment_bytes: u64,
    /// Size of the very first segment, small so that a new member starts at once.
    pub first_segment_bytes: u64,
    /// Entries up to here are left out of [`Recovered`], because the engine has them durably.
    pub discard_through: LogIndex,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: WAL_SEGMENT_BYTES as u64,
            first_segment_bytes: 1 << 20,
            discard_through: LogIndex(0),
        }
    }
}

/// See the module. One owner; nothing here waits for another thread.
pub struct Wal<D: Disk = RealDisk> {
    disk: D,
    identity: Identity,
    chain: Chain,
    segments: Segments,
    current: Current<D>,
    next_frame: u64,
    /// Number of the last frame known to be durable.
    synced: u64,
    buffer: Vec<u8>,
    spares: SparePool<D>,
    spare_bytes: u64,
    spare_thread: Option<SpareThread>,
    failed: Option<StorageError>,
}

/// The files of the chain by number.
type Segments = BTreeMap<u64, Segment>;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Segment {
    name: String,
    bytes: u64,
}

/// The segment that is written.
struct Current<D: Disk> {
    file: D::File,
    path: PathBuf,
    bytes: u64,
    offset: u64,
    salt: Salt,
}

impl Wal {
    /// Opens the log in `dir`, which must exist, or starts one. Prepares spare segments on a
    /// thread of its own.
    pub fn open(dir: &Path, identity: Identity) -> Result<(Self, Recovered), StorageError> {
        Self::open_with(dir, identity, WalOptions::default())
    }

    /// [`Self::open`] with options.
    pub fn open_with(
        dir: &Path,
        identity: Identity,
        options: WalOptions,
    ) -> Result<(Self, Recovered), StorageError> {
        let (mut wal, recovered) = Self::open_on(RealDisk::new(dir), identity, options)?;
        let thread = SpareThread::spawn(wal.spares.clone()).context("start a thread", dir)?;
        wal.spare_thread = Some(thread);
        Ok((wal, recovered))
    }
}

impl<D: Disk> Wal<D> {
    /// Opens a log on any disk, without a thread: the owner calls [`Self::prepare_spare`].
    pub fn open_on(
        disk: D,
        identity: Identity,
        options: WalOptions,
    ) -> Result<(Self, Recovered), StorageError> {
        let dir = disk.path("");
        let files = disk.list().context("list the log's directory", &dir)?;
        let (mut segments, first_sequence) = list_segments(&files);
        let mut recovery =
            Recovery::new(identity).starting_with(first_sequence).discard_through(options.discard_through);
        let log_error = |source| StorageError::Log { dir: dir.clone(), source };
        let mut newest = Vec::new();
        for Segment { name, .. } in segments.range(first_sequence..).map(|(_, segment)| segment) {
            // One segment at a time in memory.
            drop(std::mem::take(&mut newest));
            newest = disk.read(name).context("read a log segment", &disk.path(name))?;
            recovery.segment(name, &newest).map_err(log_error)?;
        }
        let recovered = recovery.finish().map_err(log_error)?;

        // The log is ours and whole: from here on files may change.
        let spares = SparePool::open(disk.clone(), options.segment_bytes, &files)?;
        // Left by a purge that was cut short.
        let waste = segments.clone().into_iter().take_while(|(number, _)| *number < first_sequence);
        for (number, segment) in waste {
            remove_segment(&disk, &mut segments, &spares, number, &segment)?;
        }

        let mut chain = recovered.chain.clone();
        let (current, next_frame) = match (recovered.tail, segments.values().next_back()) {
            (Some(tail), Some(Segment { name, .. })) => {
                let path = disk.path(name);
                let file = disk.open(name).context("open a log segment", &path)?;
                if tail.is_torn() {
                    tracing::info!(
                        path = %path.display(), offset = tail.offset,
                        "the log ends in a write that a crash cut short; nobody was told about it"
                    );
                }
                make_tail_durable::<D>(&file, &tail, &newest).context("write a log segment", &path)?;
                // A crash may have come between a rename and its sync.
                disk.sync_dir().context("sync the log's directory", &dir)?;
                let (bytes, offset, salt) = (tail.segment_bytes, tail.offset, tail.salt);
                (Current { file, path, bytes, offset, salt }, tail.next_frame)
            }
            _ => {
                let first_bytes = options.first_segment_bytes.min(options.segment_bytes);
                let spare = spares.make(first_bytes)?.expect("nobody closes it yet");
                (start_segment(&disk, identity, &mut chain, &mut segments, spare, 1)?, 1)
            }
        };
        let wal = Self {
            disk,
            identity,
            chain,
            segments,
            current,
            next_frame,
            synced: next_frame - 1,
            buffer: Vec::new(),
            spares,
            spare_bytes: options.segment_bytes,
            spare_thread: None,
            failed: None,
        };
        Ok((wal, recovered))
    }

    /// Writes the batches, merged into one frame and one write (more only above 16 MiB). With
    /// `sync` they and all before them are durable when it returns `Ok`. Without, a crash of the
    /// machine may lose them: for what nobody is told about, such as a lone commit index.
    ///
    /// With no batches and `sync`, makes durable what was written without.
    pub fn append<'a>(
        &mut self,
        batches: impl IntoIterator<Item = &'a WalBatch>,
        sync: bool,
    ) -> Result<(), StorageError> {
        self.guarded(|wal| wal.append_all(&mut batches.into_iter(), sync))
    }

    /// Lets segments go that hold only entries up to `up_to`. The engine must have these durably.
    pub fn purge(&mut self, up_to: LogIndex) -> Result<(), StorageError> {
        self.guarded(|wal| match wal.chain.first_needed(up_to) {
            Some(first) => wal.start_with(first),
            None => Ok(()),
        })
    }

    /// Makes a spare segment if there is none, which takes as long as writing a whole segment.
    /// Only for logs opened with [`Self::open_on`]; others have a thread for it.
    pub fn prepare_spare(&self) -> Result<bool, StorageError> {
        self.spares.prepare()
    }

    /// The log's shape: start, last entry, hard state.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Bytes of all segments, spares left out.
    pub fn size_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// Fails for ever once `step` failed.
    fn guarded<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        step(self).inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn append_all(
        &mut self,
        batches: &mut dyn Iterator<Item = &WalBatch>,
        sync: bool,
    ) -> Result<(), StorageError> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut payload_bytes = 0;
        for batch in batches.filter(|batch| !batch.is_empty()) {
            let bytes = batch.bytes.len();
            if bytes > FRAME_PAYLOAD_BYTES_MAX {
                return Err(StorageError::LogBatch { reason: "it is too large", bytes });
            }
            if payload_bytes > 0 && payload_bytes + bytes > FRAME_BYTES_TARGET {
                self.write_frame(&parts, payload_bytes)?;
                parts.clear();
                payload_bytes = 0;
            }
            parts.push(&batch.bytes);
            payload_bytes += bytes;
        }
        if payload_bytes > 0 {
            self.write_frame(&parts, payload_bytes)?;
        }
        if sync { self.sync() } else { Ok(()) }
    }

    fn write_frame(&mut self, parts: &[&[u8]], payload_bytes: usize) -> Result<(), StorageError> {
        let frame = frame_bytes(payload_bytes) as u64;
        if self.current.offset + frame > self.current.bytes {
            self.rotate(frame)?;
        }
        for part in parts {
            for record in records(part) {
                let Ok(record) = record else {
                    let reason = "it does not hold records";
                    return Err(StorageError::LogBatch { reason, bytes: part.len() });
                };
                self.chain.observe(&record)?;
            }
        }
        let current = &mut self.current;
        self.buffer.clear();
        encode_frame(&mut self.buffer, current.salt, self.next_frame, self.synced, parts);
        let end = current.offset + self.buffer.len() as u64;
        let page_end = end.next_multiple_of(PAGE_BYTES as u64).min(current.bytes);
        let padding = usize::try_from(page_end - end).expect("less than a page");
        self.buffer.resize(self.buffer.len() + padding, 0);
        current.file.write_at(&self.buffer, current.offset).context("write to the log", &current.path)?;
        current.offset = end;
        self.next_frame += 1;
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        // Early enough to be ready in time, late enough that a quiet member never makes one.
        if current.offset > current.bytes / 2
            && let Some(thread) = &self.spare_thread
            && self.spares.is_empty()
        {
            thread.request();
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        if self.synced + 1 < self.next_frame {
            self.current.file.sync_data().context("sync the log", &self.current.path)?;
            self.synced = self.next_frame - 1;
        }
        Ok(())
    }

    /// Goes on in a new segment with room for a frame of this size.
    fn rotate(&mut self, frame: u64) -> Result<(), StorageError> {
        self.sync()?;
        let needed = (SEGMENT_HEADER_BYTES as u64 + frame).next_multiple_of(PAGE_BYTES as u64);
        let spare = match self.spares.take(needed) {
            Some(spare) => spare,
            None => self.spares.reserve(self.spare_bytes.max(needed))?,
        };
        self.current = start_segment(
            &self.disk,
            self.identity,
            &mut self.chain,
            &mut self.segments,
            spare,
            self.next_frame,
        )?;
        Ok(())
    }

    /// Removes the segments before this one.
    ///
    /// That takes several steps and a segment between may not be a possible start, so the new
    /// start is marked in one step first; what is left of older ones is waste from then on.
    fn start_with(&mut self, first: u64) -> Result<(), StorageError> {
        let segment = self.segments.get_mut(&first).expect("the chain lists the same segments");
        let name = segment_name(first, true);
        let path = self.disk.path(&name);
        self.disk.rename(&segment.name, &name).context("rename a log segment", &path)?;
        self.disk.sync_dir().context("sync the log's directory", &self.disk.path(""))?;
        segment.name = name;
        if self.chain.newest() == Some(first) {
            self.current.path = path;
        }
        let waste = self.segments.clone().into_iter().take_while(|(number, _)| *number < first);
        for (number, segment) in waste {
            remove_segment(&self.disk, &mut self.segments, &self.spares, number, &segment)?;
        }
        self.chain.remove_before(first);
        Ok(())
    }
}

/// The segments among `files`, and the number of the one with which the log starts.
fn list_segments(files: &[(String, u64)]) -> (Segments, u64) {
    let mut segments = Segments::new();
    let mut first = 1;
    for (name, bytes) in files {
        let Some(stem) = name.strip_suffix(SEGMENT_SUFFIX) else { continue };
        let (digits, is_first) = match stem.strip_suffix(FIRST_SUFFIX) {
            Some(digits) => (digits, true),
            None => (stem, false),
        };
        let Ok(number) = u64::from_str_radix(digits, 16) else { continue };
        if *name != segment_name(number, is_first) {
            continue;
        }
        if is_first {
            first = first.max(number);
        }
        segments.insert(number, Segment { name: name.clone(), bytes: *bytes });
    }
    (segments, first)
}

/// Makes a spare of a segment, or removes it, durably: its contents may change afterwards.
fn remove_segment<D: Disk>(
    disk: &D,
    segments: &mut Segments,
    spares: &SparePool<D>,
    number: u64,
    segment: &Segment,
) -> Result<(), StorageError> {
    let path = disk.path(&segment.name);
    let spare = spares.wants(segment.bytes).then(|| Spare { name: spares.new_name(), bytes: segment.bytes });
    match &spare {
        Some(spare) => disk.rename(&segment.name, &spare.name),
        None => disk.remove(&segment.name),
    }
    .context("remove a log segment", &path)?;
    disk.sync_dir().context("sync the log's directory", &disk.path(""))?;
    segments.remove(&number);
    if let Some(spare) = spare {
        spares.add(spare);
    }
    Ok(())
}

/// Turns a spare into the next segment of the chain.
fn start_segment<D: Disk>(
    disk: &D,
    identity: Identity,
    chain: &mut Chain,
    segments: &mut Segments,
    spare: Spare,
    first_frame: u64,
) -> Result<Current<D>, StorageError> {
    let sequence = chain.newest().map_or(1, |newest| newest + 1);
    let header = SegmentHeader {
        identity,
        sequence,
        nonce: disk.nonce(),
        segment_bytes: spare.bytes,
        first_frame,
        hard_state: chain.hard_state,
        last: chain.last,
    };
    let spare_path = disk.path(&spare.name);
    let mut page = header.encode().to_vec();
    page.resize(PAGE_BYTES.min(usize::try_from(spare.bytes).unwrap_or(PAGE_BYTES)), 0);
    let file = disk.open(&spare.name).context("open a log segment", &spare_path)?;
    file.write_at(&page, 0).context("write a log segment", &spare_path)?;
    file.sync_data().context("sync a log segment", &spare_path)?;
    let name = segment_name(sequence, false);
    let path = disk.path(&name);
    disk.rename(&spare.name, &name).context("rename a log segment", &path)?;
    disk.sync_dir().context("sync the log's directory", &disk.path(""))?;
    chain.open_segment(sequence);
    segments.insert(sequence, Segment { name, bytes: spare.bytes });
    let offset = SEGMENT_HEADER_BYTES as u64;
    Ok(Current { file, path, bytes: spare.bytes, offset, salt: header.salt() })
}

/// Writes the frames that may be in a cache only once more, and zeros over what a crash left
/// after the end.
///
/// After a failed sync the system drops the data and calls it clean; reading it back and syncing
/// would then prove nothing.
fn make_tail_durable<D: Disk>(
    file: &D::File,
    tail: &folkmoot_core::wal::Tail,
    bytes: &[u8],
) -> std::io::Result<()> {
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let unproven = bytes.get(at(tail.unproven_from)..at(tail.offset)).unwrap_or_default();
    if !unproven.is_empty() {
        file.write_at(unproven, tail.unproven_from)?;
    }
    if tail.is_torn() {
        file.write_at(&vec![0; at(tail.zero_until) - at(tail.offset)], tail.offset)?;
    }
    file.sync_data()
}

fn segment_name(sequence: u64, is_first: bool) -> String {
    let first = if is_first { FIRST_SUFFIX } else { "" };
    format!("{sequence:016x}{first}{SEGMENT_SUFFIX}")
}
