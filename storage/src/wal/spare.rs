//! Spare segments, prepared before they are needed.
//!
//! Overwriting blocks that were written before needs no change of the file's metadata, which
//! makes a sync about a third faster than into new or reserved space. So spares are filled with
//! zeros, and segments that are not needed any more become spares again. Filling takes long;
//! a thread of its own does it, and whoever finds no spare takes a reserved file instead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::disk::{Disk, WalFile};
use crate::error::{IoContext, StorageError};
use crate::thread::lower_current_thread;

/// Spares that are kept; what else becomes free is removed.
const SPARES_KEPT: usize = 2;
/// Zeros written at once, and between two syncs, so that a log sync beside waits for little.
const FILL_BYTES: usize = 1 << 20;

const SPARE_SUFFIX: &str = ".spare";
const UNFINISHED_SUFFIX: &str = ".new";

/// A file that can become a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Spare {
    pub name: String,
    pub bytes: u64,
}

/// The spares of a log. Clones share them.
#[derive(Clone)]
pub(super) struct SparePool<D> {
    disk: D,
    segment_bytes: u64,
    state: Arc<Mutex<State>>,
    closed: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    ready: Vec<Spare>,
    preparing: bool,
    next_number: u64,
}

impl<D: Disk> SparePool<D> {
    /// Takes over the spares among `files` and removes those that were not finished.
    pub fn open(disk: D, segment_bytes: u64, files: &[(String, u64)]) -> Result<Self, StorageError> {
        let mut state = State { next_number: 1, ..State::default() };
        for (name, bytes) in files {
            let number =
                |suffix| name.strip_suffix(suffix).and_then(|number| u64::from_str_radix(number, 16).ok());
            if let Some(number) = number(SPARE_SUFFIX).or_else(|| number(UNFINISHED_SUFFIX)) {
                state.next_number = state.next_number.max(number.saturating_add(1));
                if name.ends_with(SPARE_SUFFIX) && *bytes == segment_bytes && state.ready.len() < SPARES_KEPT
                {
                    state.ready.push(Spare { name: name.clone(), bytes: *bytes });
                } else {
                    disk.remove(name).context("remove a spare log segment", &disk.path(name))?;
                }
            }
        }
        Ok(Self { disk, segment_bytes, state: Arc::new(Mutex::new(state)), closed: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain data and right after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A spare of at least this size.
    pub fn take(&self, bytes: u64) -> Option<Spare> {
        let mut state = self.lock();
        let at = state.ready.iter().position(|spare| spare.bytes >= bytes)?;
        Some(state.ready.swap_remove(at))
    }

    pub fn is_empty(&self) -> bool {
        self.lock().ready.is_empty()
    }

    /// Whether a file of this size is worth keeping.
    pub fn wants(&self, bytes: u64) -> bool {
        bytes == self.segment_bytes && self.lock().ready.len() < SPARES_KEPT
    }

    pub fn new_name(&self) -> String {
        Self::name(self.new_number(), SPARE_SUFFIX)
    }

    pub fn add(&self, spare: Spare) {
        self.lock().ready.push(spare);
    }

    fn new_number(&self) -> u64 {
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number += 1;
        number
    }

    fn name(number: u64, suffix: &str) -> String {
        format!("{number:016x}{suffix}")
    }

    /// Makes a spare if there is none. Returns whether it did.
    pub fn prepare(&self) -> Result<bool, StorageError> {
        {
            let mut state = self.lock();
            if state.preparing || !state.ready.is_empty() {
                return Ok(false);
            }
            state.preparing = true;
        }
        let made = self.make(self.segment_bytes);
        let mut state = self.lock();
        state.preparing = false;
        match made? {
            Some(spare) => {
                state.ready.push(spare);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Makes a spare of this size full of zeros. `None` if the log is being closed.
    pub fn make(&self, bytes: u64) -> Result<Option<Spare>, StorageError> {
        let number = self.new_number();
        let unfinished = Self::name(number, UNFINISHED_SUFFIX);
        let path = self.disk.path(&unfinished);
        let file = self.disk.create(&unfinished).context("create a log segment", &path)?;
        match self.fill(&file, bytes) {
            Ok(true) => {}
            other => {
                drop(file);
                // What matters is why the file is not wanted; it goes at the next start if not now.
                let _ = self.disk.remove(&unfinished);
                return other.map(|_| None).context("write a log segment", &path);
            }
        }
        let name = Self::name(number, SPARE_SUFFIX);
        self.disk.rename(&unfinished, &name).context("rename a log segment", &path)?;
        Ok(Some(Spare { name, bytes }))
    }

    fn fill(&self, file: &D::File, bytes: u64) -> std::io::Result<bool> {
        let zeros = vec![0; FILL_BYTES.min(usize::try_from(bytes).unwrap_or(FILL_BYTES))];
        let mut offset = 0;
        while offset < bytes {
            if self.closed.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let count = (bytes - offset).min(zeros.len() as u64);
            file.write_at(&zeros[..usize::try_from(count).expect("at most a buffer")], offset)?;
            file.sync_data()?;
            offset += count;
        }
        Ok(true)
    }

    /// Makes a file of this size at once, with its space reserved but not written.
    pub fn reserve(&self, bytes: u64) -> Result<Spare, StorageError> {
        let name = self.new_name();
        let path = self.disk.path(&name);
        let file = self.disk.create(&name).context("create a log segment", &path)?;
        let reserved = file.reserve(bytes).and_then(|()| file.sync_data());
        if let Err(error) = reserved {
            let _ = self.disk.remove(&name);
            return Err(StorageError::io("reserve space for a log segment", &path, error));
        }
        Ok(Spare { name, bytes })
    }

    /// Lets a running [`Self::prepare`] stop early.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// The thread that prepares spares.
pub(super) struct SpareThread {
    wanted: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    close: Box<dyn Fn() + Send>,
}

impl SpareThread {
    pub fn spawn<D: Disk>(pool: SparePool<D>) -> std::io::Result<Self> {
        let (wanted, requests) = sync_channel(1);
        let closing = pool.clone();
        let thread = std::thread::Builder::new().name("wal-spare".to_owned()).spawn(move || {
            lower_current_thread();
            for () in requests {
                if let Err(error) = pool.prepare() {
                    // The writer goes on with reserved files and stops the member if it cannot.
                    tracing::warn!(%error, "no spare log segment could be prepared");
                }
            }
        })?;
        let close = Box::new(move || closing.close());
        Ok(Self { wanted: Some(wanted), thread: Some(thread), close })
    }

    /// Asks for a spare, without waiting.
    pub fn request(&self) {
        match self.wanted.as_ref().map(|wanted| wanted.try_send(())) {
            // Full: the request before this one is still to be worked on. Disconnected: the
            // thread panicked; reserved files do.
            Some(Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(()))) | None => {}
        }
    }
}

impl Drop for SpareThread {
    fn drop(&mut self) {
        (self.close)();
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}
