//! Files on a disk with a volatile cache.
//!
//! A sector is written whole or not at all. A power cut keeps any subset of the sectors that were
//! written since the last sync of their file. Names of files are durable at once: that they are
//! synced where they must be is tested where the files' own code lives.

use std::collections::BTreeMap;

use folkmoot_core::wal::SECTOR_BYTES;

use crate::random::Random;

/// One file.
#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    /// What the disk holds of sectors that were written and not synced.
    durable: BTreeMap<usize, [u8; SECTOR_BYTES]>,
    /// The same of sectors whose sync failed: the system calls them clean and shows them, another
    /// sync does nothing for them, and the next power cut takes them.
    ghosts: BTreeMap<usize, [u8; SECTOR_BYTES]>,
}

/// The files of one member's log.
#[derive(Default)]
pub struct SimDisk {
    files: BTreeMap<String, File>,
    /// Bytes that all files may have together.
    pub capacity: usize,
}

/// The disk has no room.
#[derive(Debug)]
pub struct NoSpace;

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self { files: BTreeMap::new(), capacity: usize::MAX }
    }

    /// Names and sizes, by name.
    pub fn list(&self) -> Vec<(String, usize)> {
        self.files.iter().map(|(name, file)| (name.clone(), file.bytes.len())).collect()
    }

    /// A whole file as the system shows it.
    pub fn read(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|file| file.bytes.as_slice())
    }

    /// Makes a file of zeros, durably.
    pub fn create(&mut self, name: &str, bytes: usize) -> Result<(), NoSpace> {
        let used: usize = self.files.values().map(|file| file.bytes.len()).sum();
        if used + bytes > self.capacity {
            return Err(NoSpace);
        }
        self.files.insert(name.to_owned(), File { bytes: vec![0; bytes], ..File::default() });
        Ok(())
    }

    /// Renames a file.
    pub fn rename(&mut self, from: &str, to: &str) {
        if let Some(file) = self.files.remove(from) {
            self.files.insert(to.to_owned(), file);
        }
    }

    /// Removes a file.
    pub fn remove(&mut self, name: &str) {
        self.files.remove(name);
    }

    /// Writes whole sectors inside a file.
    pub fn write(&mut self, name: &str, offset: usize, bytes: &[u8]) {
        assert!(offset.is_multiple_of(SECTOR_BYTES) && bytes.len().is_multiple_of(SECTOR_BYTES));
        let file = self.files.get_mut(name).expect("files that are written exist");
        let File { bytes: seen, durable, ghosts } = file;
        for at in (offset..offset + bytes.len()).step_by(SECTOR_BYTES) {
            let shown: [u8; SECTOR_BYTES] =
                seen[at..at + SECTOR_BYTES].try_into().expect("a sector of a file of whole sectors");
            durable.entry(at).or_insert(ghosts.remove(&at).unwrap_or(shown));
        }
        seen[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes a file's contents durable.
    pub fn sync(&mut self, name: &str) {
        if let Some(file) = self.files.get_mut(name) {
            file.durable.clear();
        }
    }

    /// How many sectors a power cut may lose.
    #[cfg(test)]
    pub fn dirty_sectors(&self) -> usize {
        self.files.values().map(|file| file.durable.len()).sum()
    }

    /// Loses some of what was not synced. Returns how many sectors were lost.
    pub fn cut_power(&mut self, random: &mut Random) -> usize {
        // All or nothing is likelier than one would like, so it is drawn on purpose.
        let mood = random.below(4);
        let mut lost = 0;
        for file in self.files.values_mut() {
            for (at, sector) in std::mem::take(&mut file.ghosts) {
                lost += 1;
                file.bytes[at..at + SECTOR_BYTES].copy_from_slice(&sector);
            }
            for (at, sector) in std::mem::take(&mut file.durable) {
                let reaches = match mood {
                    0 => false,
                    1 => true,
                    _ => random.one_in(2),
                };
                if !reaches {
                    lost += 1;
                    file.bytes[at..at + SECTOR_BYTES].copy_from_slice(&sector);
                }
            }
        }
        lost
    }

    /// A sync failed: some of the sectors reached the disk, the others never will unless they are
    /// written again.
    pub fn fail_sync(&mut self, name: &str, random: &mut Random) {
        let Some(file) = self.files.get_mut(name) else { return };
        for (at, sector) in std::mem::take(&mut file.durable) {
            if random.one_in(2) {
                file.ghosts.insert(at, sector);
            }
        }
    }

    /// Flips one bit of the file, inside the first `within` bytes.
    pub fn flip_bit(&mut self, name: &str, within: usize, random: &mut Random) -> Option<usize> {
        let file = self.files.get_mut(name)?;
        let at = random.below(within.min(file.bytes.len()) as u64) as usize;
        let bit = 1 << random.below(8);
        *file.bytes.get_mut(at)? ^= bit;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failed_sync_another_one_proves_nothing() {
        let mut disk = SimDisk::new();
        disk.create("a", 64 * SECTOR_BYTES).unwrap();
        disk.write("a", 0, &[2; 64 * SECTOR_BYTES]);
        let mut random = Random::new(3, "test", 0);
        disk.fail_sync("a", &mut random);
        disk.sync("a");
        assert!(disk.read("a").unwrap().iter().all(|byte| *byte == 2));
        disk.write("a", 0, &[3; SECTOR_BYTES]);
        disk.sync("a");
        assert!(disk.cut_power(&mut random) > 10);
        assert_eq!(disk.read("a").unwrap()[0], 3);
    }

    #[test]
    fn a_power_cut_takes_any_of_the_sectors_that_were_not_synced_and_no_other() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..50 {
            let mut disk = SimDisk::new();
            disk.create("a", 4 * SECTOR_BYTES).unwrap();
            disk.write("a", 0, &[1; SECTOR_BYTES]);
            disk.sync("a");
            disk.write("a", SECTOR_BYTES, &[2; 2 * SECTOR_BYTES]);
            assert_eq!(disk.dirty_sectors(), 2);
            disk.cut_power(&mut Random::new(seed, "test", 0));
            let bytes = disk.read("a").unwrap();
            assert_eq!(bytes[0], 1);
            for sector in 1..3 {
                let all = &bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES];
                assert!(all.iter().all(|byte| *byte == all[0]));
                if all[0] == 2 { kept += 1 } else { lost += 1 }
            }
        }
        assert!(kept > 10 && lost > 10);
    }
}
