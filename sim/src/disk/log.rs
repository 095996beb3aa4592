//! The write-ahead log on a simulated disk: the bytes, the frames and the recovery are
//! [`folkmoot_core::wal`]'s, the files are small, and purged ones are used again with their old
//! contents, as the real ones are.

use folkmoot_core::types::LogIndex;
use folkmoot_core::wal::{
    Chain, Identity, Recovered, Recovery, SEGMENT_HEADER_BYTES, Salt, SegmentHeader, WalBatch, encode_frame,
    frame_bytes, records,
};

use super::sectors::{NoSpace, SimDisk};
use crate::random::Random;

const SUFFIX: &str = ".wal";
const SPARE_SUFFIX: &str = ".spare";
const FIRST_SUFFIX: &str = ".first";

/// A log opened for writing.
pub struct LogWriter {
    identity: Identity,
    chain: Chain,
    /// Names by number.
    segments: Vec<(u64, String)>,
    segment_bytes: usize,
    offset: usize,
    /// The same of a frame that is not durable itself.
    proving: usize,
    /// Where the newest frame starts whose header proves that all before it is durable.
    proven: usize,
    size: usize,
    salt: Salt,
    next_frame: u64,
    synced: u64,
    buffer: Vec<u8>,
    nonces: Random,
}

/// What opening gave.
pub struct OpenedLog {
    /// For appending.
    pub writer: LogWriter,
    /// What the log held.
    pub recovered: Recovered,
    /// A write that a crash had cut short was found and left out.
    pub torn: bool,
    /// Frames that nothing proved to be on the disk were written again.
    pub rewritten: bool,
}

fn name(sequence: u64, first: bool) -> String {
    format!("{sequence:016x}{}{SUFFIX}", if first { FIRST_SUFFIX } else { "" })
}

fn parse(file: &str) -> Option<(u64, bool)> {
    let stem = file.strip_suffix(SUFFIX)?;
    let (digits, first) = stem.strip_suffix(FIRST_SUFFIX).map_or((stem, false), |digits| (digits, true));
    Some((u64::from_str_radix(digits, 16).ok()?, first))
}

impl LogWriter {
    /// Opens the log on `disk`, or starts one.
    ///
    /// # Errors
    /// What recovery says, or that there is no room.
    pub fn open(
        disk: &mut SimDisk,
        identity: Identity,
        discard_through: LogIndex,
        segment_bytes: usize,
        nonces: Random,
    ) -> Result<OpenedLog, String> {
        let mut found: Vec<_> =
            disk.list().iter().filter_map(|(file, _)| Some((parse(file)?, file.clone()))).collect();
        found.sort();
        let first = found.iter().filter(|((_, first), _)| *first).map(|((number, _), _)| *number).max();
        let first = first.unwrap_or(1);
        let segments: Vec<(u64, String)> = found
            .into_iter()
            .map(|((number, _), file)| (number, file))
            .filter(|(n, _)| *n >= first)
            .collect();
        let mut recovery = Recovery::new(identity).starting_with(first).discard_through(discard_through);
        for (_, file) in &segments {
            let bytes = disk.read(file).expect("listed above");
            recovery.segment(file, bytes).map_err(|error| error.to_string())?;
        }
        let recovered = recovery.finish().map_err(|error| error.to_string())?;
        let mut writer = Self {
            identity,
            chain: recovered.chain.clone(),
            segments,
            segment_bytes,
            offset: 0,
            proving: 0,
            proven: 0,
            size: 0,
            salt: SegmentHeader::salt(&empty_header(identity)),
            next_frame: 1,
            synced: 0,
            buffer: Vec::new(),
            nonces,
        };
        let (mut torn, mut rewritten) = (false, false);
        match (recovered.tail, writer.segments.last().map(|(_, file)| file.clone())) {
            (Some(tail), Some(file)) => {
                let at = |offset: u64| usize::try_from(offset).expect("small files");
                let bytes = disk.read(&file).expect("listed above");
                let unproven = bytes[at(tail.unproven_from)..at(tail.offset)].to_vec();
                rewritten = !unproven.is_empty();
                disk.write(&file, at(tail.unproven_from), &unproven);
                torn = tail.is_torn();
                if torn {
                    let end = at(tail.zero_until).next_multiple_of(512);
                    disk.write(&file, at(tail.offset), &vec![0; end - at(tail.offset)]);
                }
                disk.sync(&file);
                writer.offset = at(tail.offset);
                writer.size = at(tail.segment_bytes);
                writer.salt = tail.salt;
                writer.next_frame = tail.next_frame;
                writer.synced = tail.next_frame - 1;
            }
            _ => writer.rotate(disk, 0).map_err(|NoSpace| "no space".to_owned())?,
        }
        Ok(OpenedLog { writer, recovered, torn, rewritten })
    }

    /// Writes the batches as one frame. Durable only after [`Self::sync`].
    pub fn append(&mut self, disk: &mut SimDisk, batches: &[WalBatch]) -> Result<(), NoSpace> {
        let parts: Vec<&[u8]> = batches.iter().map(|batch| batch.bytes.as_slice()).collect();
        let frame = frame_bytes(parts.iter().map(|part| part.len()).sum());
        if self.offset + frame > self.size {
            self.rotate(disk, frame)?;
        }
        for part in &parts {
            for record in records(part) {
                let record = record.expect("the core encodes records");
                self.chain.observe(&record).expect("the core writes entries in order");
            }
        }
        self.buffer.clear();
        encode_frame(&mut self.buffer, self.salt, self.next_frame, self.synced, &parts);
        disk.write(self.current(), self.offset, &self.buffer);
        if self.synced + 1 == self.next_frame {
            // Only once this frame is durable, too; see `sync`.
            self.proving = self.offset;
        }
        self.offset += self.buffer.len();
        self.next_frame += 1;
        Ok(())
    }

    /// Everything appended is durable.
    pub fn sync(&mut self, disk: &mut SimDisk) {
        disk.sync(self.current());
        self.synced = self.next_frame - 1;
        self.proven = self.proving;
    }

    /// A sync failed.
    pub fn fail_sync(&mut self, disk: &mut SimDisk, random: &mut Random) {
        disk.fail_sync(self.current(), random);
    }

    /// Lets segments go that hold only entries up to `up_to`.
    pub fn purge(&mut self, disk: &mut SimDisk, up_to: LogIndex) {
        let Some(first) = self.chain.first_needed(up_to) else { return };
        for (number, file) in &mut self.segments {
            if *number == first {
                let marked = name(first, true);
                disk.rename(file, &marked);
                *file = marked;
            }
        }
        let spares = disk.list().iter().filter(|(file, _)| file.ends_with(SPARE_SUFFIX)).count();
        let mut room = 2usize.saturating_sub(spares);
        self.segments.retain(|(number, file)| {
            if *number < first && room > 0 {
                room -= 1;
                disk.rename(file, &format!("{number:016x}{SPARE_SUFFIX}"));
            } else if *number < first {
                disk.remove(file);
            }
            *number >= first
        });
        self.chain.remove_before(first);
    }

    /// Segments in use.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// A segment and how many of its first bytes are durable and proven to be so by what follows.
    pub fn proven(&self) -> Option<(String, usize)> {
        let (_, oldest) = self.segments.first()?;
        let within = if self.segments.len() > 1 { self.segment_bytes } else { self.proven };
        (within > 0).then(|| (oldest.clone(), within))
    }

    fn current(&self) -> &str {
        &self.segments.last().expect("there is always one").1
    }

    fn rotate(&mut self, disk: &mut SimDisk, frame: usize) -> Result<(), NoSpace> {
        if let Some((_, file)) = self.segments.last() {
            disk.sync(file);
            self.synced = self.next_frame - 1;
        }
        let needed = (SEGMENT_HEADER_BYTES + frame).next_multiple_of(4096).max(self.segment_bytes);
        let sequence = self.chain.newest().map_or(1, |newest| newest + 1);
        let file = name(sequence, false);
        let spare =
            disk.list().into_iter().find(|(file, size)| file.ends_with(SPARE_SUFFIX) && *size >= needed);
        let size = match spare {
            Some((spare, size)) => {
                disk.rename(&spare, &file);
                size
            }
            None => {
                disk.create(&file, needed)?;
                needed
            }
        };
        let header = SegmentHeader {
            sequence,
            nonce: self.nonces.number(),
            segment_bytes: size as u64,
            first_frame: self.next_frame,
            hard_state: self.chain.hard_state,
            last: self.chain.last,
            ..empty_header(self.identity)
        };
        disk.write(&file, 0, &header.encode());
        disk.sync(&file);
        self.chain.open_segment(sequence);
        self.segments.push((sequence, file));
        self.offset = SEGMENT_HEADER_BYTES;
        (self.proving, self.proven) = (0, 0);
        self.size = size;
        self.salt = header.salt();
        Ok(())
    }
}

fn empty_header(identity: Identity) -> SegmentHeader {
    SegmentHeader {
        identity,
        sequence: 0,
        nonce: 0,
        segment_bytes: 0,
        first_frame: 0,
        hard_state: Default::default(),
        last: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use folkmoot_core::types::{ClusterId, MemberId, Term};
    use folkmoot_core::wal::BatchBuilder;

    use super::*;

    const IDENTITY: Identity = Identity { cluster_id: ClusterId(1), member_id: MemberId(2) };

    fn open(disk: &mut SimDisk) -> OpenedLog {
        LogWriter::open(disk, IDENTITY, LogIndex(0), 8192, Random::new(1, "nonce", 0)).unwrap()
    }

    #[test]
    fn synced_entries_survive_power_cuts_and_segments_are_purged_and_used_again() {
        for seed in 0..40 {
            let mut random = Random::new(seed, "test", 0);
            let mut disk = SimDisk::new();
            let mut log = open(&mut disk).writer;
            let (mut next, mut synced) = (1, 0);
            for _ in 0..60 {
                let mut batch = BatchBuilder::new();
                batch.push_entry(LogIndex(next), Term(1), 0, &vec![7; random.below(1500) as usize]);
                log.append(&mut disk, &[batch.finish()]).unwrap();
                next += 1;
                if random.one_in(2) {
                    log.sync(&mut disk);
                    synced = next - 1;
                }
                if random.one_in(5) {
                    log.purge(&mut disk, LogIndex(synced.saturating_sub(3)));
                    assert!(log.segment_count() < 8);
                }
                if random.one_in(8) {
                    disk.cut_power(&mut random);
                    let opened = open(&mut disk);
                    let last = opened.recovered.last().index.0;
                    assert!(last >= synced && last < next, "last={last} synced={synced} next={next}");
                    (next, synced) = (last + 1, last);
                    log = opened.writer;
                }
            }
        }
    }
}
