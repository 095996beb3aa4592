//! A disk in memory that forgets what it may forget.
//!
//! Contents of files and names in the directory are kept twice: as the running system sees them,
//! and as a power cut would leave them. A sync copies one to the other. A power cut keeps any
//! subset of the 512-byte sectors written since the last sync, and any of the changes of names
//! since the last directory sync. A failed sync keeps some sectors and forgets that the others
//! were to be written, as Linux does: the next sync succeeds without them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, WalFile};

const SECTOR: usize = 512;

/// See the module. Clones share the disk.
#[derive(Clone)]
pub(super) struct SimDisk(Arc<Mutex<World>>);

pub(super) struct World {
    pub random: Random,
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    next_file: u64,
    /// Operations until the machine or the process stops; then every one fails.
    pub operations_left: Option<u64>,
    /// Syncs of files until one fails.
    pub syncs_until_failure: Option<u64>,
    /// Bytes that all files may have together.
    pub capacity: usize,
    /// Whether file syncs do anything: off, to show that tests notice.
    pub syncs_files: bool,
    /// Whether directory syncs do anything.
    pub syncs_names: bool,
    pub sync_count: u64,
}

#[derive(Default)]
struct Contents {
    seen: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

/// Small, seeded, and good enough to draw cases (SplitMix64).
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl Contents {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            self.dirty.extend(offset / SECTOR..=(end - 1) / SECTOR);
        }
    }

    /// Some of the dirty sectors reach the disk.
    fn write_back(&mut self, mut reaches: impl FnMut() -> bool) {
        for sector in std::mem::take(&mut self.dirty) {
            if reaches() {
                let end = ((sector + 1) * SECTOR).min(self.seen.len());
                if self.durable.len() < end {
                    self.durable.resize(end, 0);
                }
                self.durable[sector * SECTOR..end].copy_from_slice(&self.seen[sector * SECTOR..end]);
            }
        }
    }
}

impl World {
    /// The machine loses power and starts again.
    pub fn cut_power(&mut self) {
        let random = &mut self.random;
        // All or nothing is likelier than one would like, so draw it on purpose.
        let mood = random.below(4);
        let reaches = move |random: &mut Random| match mood {
            0 => false,
            1 => true,
            _ => random.one_in(2),
        };
        for contents in self.files.values_mut() {
            contents.write_back(|| reaches(random));
            contents.seen = contents.durable.clone();
        }
        for change in std::mem::take(&mut self.name_changes) {
            if reaches(random) {
                // A change whose ground was lost is lost as well.
                apply_name_change(&mut self.durable_names, &change);
            }
        }
        self.names = self.durable_names.clone();
        self.restart();
    }

    /// The process stops and starts again; the system keeps what it has in memory.
    pub fn restart(&mut self) {
        self.operations_left = None;
        self.syncs_until_failure = None;
    }

    /// Flips a bit of some file with this suffix. Returns where.
    pub fn rot(&mut self, suffix: &str) -> Option<(String, usize)> {
        let names: Vec<_> = self.names.iter().filter(|(name, _)| name.ends_with(suffix)).collect();
        let (name, file) = names[self.random.below(names.len() as u64) as usize];
        let contents = self.files.get_mut(file)?;
        let byte = self.random.below(contents.seen.len() as u64) as usize;
        contents.seen[byte] ^= 1 << self.random.below(8);
        Some((name.clone(), byte))
    }

    fn step(&mut self) -> Result<()> {
        match &mut self.operations_left {
            Some(0) => Err(Error::other("the machine has stopped")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn file(&self, name: &str) -> Result<u64> {
        self.names.get(name).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn change_name(&mut self, change: NameChange) {
        apply_name_change(&mut self.names, &change);
        self.name_changes.push(change);
    }

    fn check_space(&self, file: u64, end: usize) -> Result<()> {
        let others = self.names.values().filter(|other| **other != file);
        let used: usize = others.map(|other| self.files[other].seen.len()).sum();
        let own = self.files[&file].seen.len();
        if end > own && used + end > self.capacity {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

fn apply_name_change(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            random: Random(seed),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            next_file: 1,
            operations_left: None,
            syncs_until_failure: None,
            capacity: usize::MAX,
            syncs_files: true,
            syncs_names: true,
            sync_count: 0,
        })))
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("a test that panicked is over")
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }

    fn list(&self) -> Result<Vec<(String, u64)>> {
        let mut world = self.world();
        world.step()?;
        let size = |file| world.files[file].seen.len() as u64;
        Ok(world.names.iter().map(|(name, file)| (name.clone(), size(file))).collect())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let mut world = self.world();
        world.step()?;
        let file = world.file(name)?;
        Ok(world.files[&file].seen.clone())
    }

    fn open(&self, name: &str) -> Result<SimFile> {
        let mut world = self.world();
        world.step()?;
        Ok(SimFile { disk: self.clone(), file: world.file(name)? })
    }

    fn create(&self, name: &str) -> Result<SimFile> {
        let mut world = self.world();
        world.step()?;
        if world.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let file = world.next_file;
        world.next_file += 1;
        world.files.insert(file, Contents::default());
        world.change_name(NameChange::Create(name.to_owned(), file));
        Ok(SimFile { disk: self.clone(), file })
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut world = self.world();
        world.step()?;
        world.file(from)?;
        world.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut world = self.world();
        world.step()?;
        world.file(name)?;
        world.change_name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        let mut world = self.world();
        world.step()?;
        if world.syncs_names {
            world.name_changes.clear();
            world.durable_names = world.names.clone();
        }
        Ok(())
    }

    fn nonce(&self) -> u64 {
        self.world().random.next()
    }
}

/// An open file of a [`SimDisk`].
pub(super) struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl WalFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut world = self.disk.world();
        let offset = usize::try_from(offset).expect("small");
        world.check_space(self.file, offset + bytes.len())?;
        let stopped = world.step();
        // The machine may stop when a part has been handed over.
        let count = match &stopped {
            Ok(()) => bytes.len(),
            Err(_) => world.random.below(bytes.len() as u64 + 1) as usize,
        };
        let contents = world.files.get_mut(&self.file).expect("files stay while open");
        contents.write(&bytes[..count], offset);
        stopped
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        let bytes = usize::try_from(bytes).expect("small");
        let mut world = self.disk.world();
        world.step()?;
        world.check_space(self.file, bytes)?;
        let contents = world.files.get_mut(&self.file).expect("files stay while open");
        let zeros = vec![0; bytes.saturating_sub(contents.seen.len())];
        contents.write(&zeros, contents.seen.len());
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        let mut world = self.disk.world();
        world.step()?;
        world.sync_count += 1;
        let World { files, random, syncs_until_failure, syncs_files, .. } = &mut *world;
        let contents = files.get_mut(&self.file).expect("files stay while open");
        if *syncs_until_failure == Some(0) {
            contents.write_back(|| random.one_in(2));
            return Err(Error::other("the disk failed"));
        }
        if *syncs_files {
            contents.write_back(|| true);
        }
        if let Some(left) = syncs_until_failure {
            *left -= 1;
        }
        Ok(())
    }
}
