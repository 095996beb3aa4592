//! The thread that writes the engine, behind the log: row batches in order, flushes, the physical
//! part of compaction, and whatever else must not run beside a write.
//!
//! Nobody waits for a batch to be written, so small ones are gathered for a moment and written
//! together. Garbage goes in small steps between the batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use folkmoot_core::apply::meta::Applied;
use folkmoot_core::env::{Engine, EngineError};
use folkmoot_core::error::{Error, Failure, Fatal};
use folkmoot_core::limits;
use folkmoot_core::mvcc::{GcState, gc};
use folkmoot_core::node::{Input, SnapshotId, StoreWrite};
use folkmoot_core::types::LogIndex;
use folkmoot_storage::{DataDir, EngineSlot, RocksEngine, RocksOptions, StorageError, snapshot};
use tokio::sync::{oneshot, watch};

use super::inbox::Inbox;
use super::published::Published;
use crate::config::Config;
use crate::peer::SnapshotDesk;
use crate::tasks::Fate;
use crate::watch::HubHandle;

/// How long a small batch waits for others to be written with it.
const GATHER_TIME: Duration = Duration::from_millis(2);
/// Batches of together this size are written at once.
const GATHER_BYTES: usize = 256 * 1024;
/// Pause between two steps of garbage collection, unless configured.
const GC_PAUSE: Duration = Duration::from_millis(10);
/// How often the engine is asked for its size.
const USAGE_PERIOD: Duration = Duration::from_millis(200);

/// Something to do with the engine while nothing else writes.
type Work = Box<dyn FnOnce(&Arc<RocksEngine>) + Send>;

enum Job {
    Store(StoreWrite),
    FlushAndReport,
    CollectGarbage(i64),
    Run(Work),
    MakeSnapshot(SnapshotId),
    InstallSnapshot(SnapshotId, LogIndex),
    Measure(oneshot::Sender<()>),
    Stop,
}

/// How far garbage collection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Garbage {
    /// The compact revision of the last finished walk.
    finished: i64,
    /// Whether a walk is under way or due.
    running: bool,
}

/// The way to the storage thread. Cheap to clone.
#[derive(Clone)]
pub struct StorageHandle {
    jobs: Sender<Job>,
    garbage: watch::Receiver<Garbage>,
}

impl StorageHandle {
    /// Writes rows, behind.
    pub fn store(&self, write: StoreWrite) {
        self.send(Job::Store(write));
    }

    /// Flushes the engine and tells the core.
    pub fn flush_and_report(&self) {
        self.send(Job::FlushAndReport);
    }

    /// Removes what is superseded at this compact revision, whose rows are queued already.
    pub fn collect_garbage(&self, compact_revision: i64) {
        self.send(Job::CollectGarbage(compact_revision));
    }

    /// Makes a copy of the engine behind everything queued, and tells the core.
    pub fn make_snapshot(&self, id: SnapshotId) {
        self.send(Job::MakeSnapshot(id));
    }

    /// Puts a snapshot that arrived in place of the engine, and tells the core.
    pub fn install_snapshot(&self, staged: SnapshotId, index: LogIndex) {
        self.send(Job::InstallSnapshot(staged, index));
    }

    /// Writes what is queued, flushes, and ends the thread.
    pub fn stop(&self) {
        self.send(Job::Stop);
    }

    /// Runs `work` with the engine once everything queued before is written, while nothing else
    /// writes.
    ///
    /// # Errors
    /// `Stopped` when the thread is gone.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<RocksEngine>) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Job::Run(Box::new(move |engine| {
            // Whoever asked may have gone away.
            let _ = sender.send(work(engine));
        })));
        receiver.await.map_err(|_| Error::Stopped)
    }

    /// Publishes the engine's size anew.
    ///
    /// # Errors
    /// `Stopped` when the thread is gone.
    pub async fn measure(&self) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Job::Measure(sender));
        receiver.await.map_err(|_| Error::Stopped)
    }

    /// Waits until the rows superseded at this compact revision are gone.
    pub async fn garbage_collected(&self, compact_revision: i64) -> Result<(), Error> {
        let mut garbage = self.garbage.clone();
        let done = garbage.wait_for(|garbage| garbage.finished >= compact_revision).await;
        done.map(|_| ()).map_err(|_| Error::Stopped)
    }

    /// Waits until no garbage collection runs.
    pub async fn garbage_idle(&self) -> Result<(), Error> {
        let mut garbage = self.garbage.clone();
        garbage.wait_for(|garbage| !garbage.running).await.map(|_| ()).map_err(|_| Error::Stopped)
    }

    fn send(&self, job: Job) {
        // The thread ends early only when it failed, and has told so.
        let _ = self.jobs.send(job);
    }
}

/// A handle, and the work of its thread.
pub fn storage_thread(
    engine: Arc<EngineSlot>,
    compact_revision: i64,
    revision: i64,
    config: &Config,
) -> (StorageHandle, StorageThread) {
    let (sender, jobs) = unbounded();
    let garbage = watch::Sender::new(Garbage { finished: 0, running: compact_revision > 0 });
    let handle = StorageHandle { jobs: sender, garbage: garbage.subscribe() };
    let rows_max = match config.compaction_batch_limit {
        0 => limits::GC_ROWS_PER_STEP,
        rows => rows,
    };
    let gc_pause = match config.compaction_sleep_interval {
        Duration::ZERO => GC_PAUSE,
        pause => pause,
    };
    let thread = StorageThread {
        engine,
        jobs,
        garbage,
        rows_max,
        gc_pause,
        compact_revision,
        stored: (LogIndex(0), revision),
        walk: None,
        usage_at: None,
    };
    (handle, thread)
}

/// See the module.
pub struct StorageThread {
    engine: Arc<EngineSlot>,
    jobs: Receiver<Job>,
    garbage: watch::Sender<Garbage>,
    rows_max: usize,
    gc_pause: Duration,
    compact_revision: i64,
    stored: (LogIndex, i64),
    walk: Option<GcState>,
    usage_at: Option<Instant>,
}

/// Whom the thread reports to.
pub struct Reports {
    /// The core thread's inbox.
    pub inbox: Arc<Inbox>,
    /// The watch hub.
    pub hub: HubHandle,
    /// Where the engine's size is published.
    pub published: Arc<Published>,
    /// Snapshots by number.
    pub snapshots: Arc<SnapshotDesk>,
    /// Where they are made and where they arrive.
    pub dir: Arc<DataDir>,
}

impl StorageThread {
    /// Works until told to stop, or the engine failed, which is the server's failure.
    pub fn run(mut self, reports: &Reports, fate: &Fate) {
        if let Err(fatal) = self.work(reports) {
            fate.fail("storage", &fatal);
            reports.inbox.close();
        }
    }

    fn work(&mut self, reports: &Reports) -> Result<(), Fatal> {
        self.plan_garbage()?;
        self.publish_usage(&reports.published);
        loop {
            let job = match self.walk {
                None => self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => self.jobs.recv_timeout(self.gc_pause),
            };
            let mut job = match job {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.stop(),
            };
            if let Some(Job::Store(first)) = job {
                job = self.write(first, reports)?;
            }
            match job {
                None | Some(Job::Store(_)) => {}
                Some(Job::FlushAndReport) => {
                    self.engine.flush()?;
                    reports.inbox.complete(Input::Flushed { index: self.stored.0 });
                }
                Some(Job::CollectGarbage(revision)) => {
                    self.compact_revision = self.compact_revision.max(revision);
                    self.plan_garbage()?;
                }
                Some(Job::Run(work)) => work(&self.engine.current()),
                Some(Job::MakeSnapshot(id)) => self.make_snapshot(id, reports),
                Some(Job::InstallSnapshot(staged, index)) => self.install_snapshot(staged, index, reports)?,
                Some(Job::Measure(done)) => {
                    self.usage_at = None;
                    self.publish_usage(&reports.published);
                    // Whoever asked may have gone away.
                    let _ = done.send(());
                }
                Some(Job::Stop) => return self.stop(),
            }
            self.step_garbage()?;
            self.publish_usage(&reports.published);
        }
    }

    /// Writes a batch together with those that come within a moment; gives back what came after
    /// them and is no batch.
    fn write(&mut self, first: StoreWrite, reports: &Reports) -> Result<Option<Job>, Fatal> {
        let StoreWrite { mut index, mut revision, mut batch } = first;
        let deadline = Instant::now() + GATHER_TIME;
        let mut next = None;
        while batch.size_bytes() < GATHER_BYTES {
            match self.jobs.recv_deadline(deadline) {
                Ok(Job::Store(more)) => {
                    batch.append(&more.batch);
                    (index, revision) = (more.index, more.revision);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        self.engine.write(&batch)?;
        self.stored = (index, revision);
        reports.inbox.complete(Input::Stored { index, revision });
        reports.hub.stored(revision);
        if self.walk.is_none() {
            self.plan_garbage()?;
        }
        Ok(next)
    }

    /// A copy that cannot be made is not the member's end: the follower waits, and the next try
    /// may find room.
    fn make_snapshot(&self, id: SnapshotId, reports: &Reports) {
        let dir = reports.dir.temp_path("copy");
        match snapshot::make(&self.engine.current(), &dir) {
            Ok(files) => {
                tracing::info!(
                    bytes = files.total_bytes,
                    "applied-index" = files.applied.index.0,
                    "made a snapshot for another member"
                );
                reports.snapshots.made(id, files.dir);
                reports.inbox.complete(Input::SnapshotMade { id, position: files.applied });
            }
            Err(error) => {
                tracing::error!(%error, "a snapshot for another member could not be made");
                reports.inbox.complete(Input::SnapshotNotMade { id });
            }
        }
    }

    /// The old engine stays whole until the new one is in its place, durably.
    fn install_snapshot(
        &mut self,
        staged: SnapshotId,
        index: LogIndex,
        reports: &Reports,
    ) -> Result<(), Fatal> {
        let failed = |error: StorageError| Fatal::Engine(EngineError(error.to_string()));
        let staged_dir = reports
            .snapshots
            .take_staged(staged)
            .ok_or_else(|| Fatal::Damaged("a snapshot that is to be installed is gone".into()))?;
        snapshot::mark_installed(&staged_dir, index).map_err(failed)?;
        let dir = reports.dir.install_engine(&staged_dir).map_err(failed)?;
        let new = RocksEngine::open(&dir, RocksOptions::default()).map_err(failed)?;
        let applied = Applied::load(&new)?
            .ok_or_else(|| Fatal::Damaged("a snapshot holds no applied position".into()))?;
        self.walk = None;
        self.compact_revision = applied.compact_revision;
        self.stored = (applied.index, applied.revision);
        let old = self.engine.swap(Arc::new(new));
        self.garbage.send_replace(Garbage { finished: 0, running: applied.compact_revision > 0 });
        self.plan_garbage()?;
        tracing::info!(
            "applied-index" = applied.index.0,
            revision = applied.revision,
            "installed a snapshot"
        );
        reports.inbox.complete(Input::SnapshotInstalled { staged });
        remove_when_unused(old, Arc::clone(&reports.dir));
        Ok(())
    }

    fn plan_garbage(&mut self) -> Result<(), Fatal> {
        if self.walk.is_none() && self.compact_revision > self.garbage.borrow().finished {
            let state = gc::load(self.engine.as_ref())?;
            self.walk = gc::plan(state, self.compact_revision, self.stored.1);
            if self.walk.is_none() && state.is_some_and(|state| state.to >= self.compact_revision) {
                self.garbage_finished(self.compact_revision);
            }
        }
        let running = self.compact_revision > self.garbage.borrow().finished;
        self.garbage.send_if_modified(|garbage| std::mem::replace(&mut garbage.running, running) != running);
        Ok(())
    }

    fn step_garbage(&mut self) -> Result<(), Fatal> {
        let Some(state) = self.walk else { return Ok(()) };
        let step = gc::step(self.engine.as_ref(), state, self.rows_max).map_err(|failure| match failure {
            Failure::Fatal(fatal) => fatal,
            Failure::Answer(error) => Fatal::Damaged(format!("compaction was refused: {error}")),
        })?;
        self.engine.write(&step.batch)?;
        self.walk = step.next;
        if self.walk.is_none() {
            self.garbage_finished(state.to);
            tracing::info!("compact-revision" = state.to, "finished scheduled compaction");
            self.plan_garbage()?;
        }
        Ok(())
    }

    fn garbage_finished(&self, compact_revision: i64) {
        let running = self.compact_revision > compact_revision;
        self.garbage.send_replace(Garbage { finished: compact_revision, running });
    }

    fn publish_usage(&mut self, published: &Published) {
        if self.usage_at.is_some_and(|at| at.elapsed() < USAGE_PERIOD) {
            return;
        }
        self.usage_at = Some(Instant::now());
        let usage = self.engine.usage();
        published.set_engine_bytes(usage.total_bytes, usage.live_bytes);
    }

    /// What is stored need not be read from the log again at the next start.
    fn stop(&mut self) -> Result<(), Fatal> {
        Ok(self.engine.flush()?)
    }
}

/// Removes a replaced engine's files once the last read of it has ended. Should that never come,
/// they go at the next start.
fn remove_when_unused(old: Arc<RocksEngine>, dir: Arc<DataDir>) {
    const LOOK_EVERY: Duration = Duration::from_millis(100);
    const LOOKS_MAX: usize = 6_000;
    std::thread::spawn(move || {
        let mut old = old;
        for _ in 0..LOOKS_MAX {
            match Arc::try_unwrap(old) {
                Ok(engine) => {
                    drop(engine);
                    if let Err(error) = dir.remove_old_engines() {
                        tracing::warn!(%error, "a replaced database could not be removed");
                    }
                    return;
                }
                Err(still_read) => old = still_read,
            }
            std::thread::sleep(LOOK_EVERY);
        }
    });
}
