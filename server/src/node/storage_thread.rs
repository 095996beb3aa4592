//! The thread that writes the engine, behind the log: row batches in order, flushes, the physical
//! part of compaction, and whatever else must not run beside a write.
//!
//! Nobody waits for a batch to be written, so small ones are gathered for a moment and written
//! together. Garbage goes in small steps between the batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use folkmoot_core::env::Engine;
use folkmoot_core::error::{Error, Failure, Fatal};
use folkmoot_core::limits;
use folkmoot_core::mvcc::{GcState, gc};
use folkmoot_core::node::{Input, StoreWrite};
use folkmoot_core::types::LogIndex;
use folkmoot_storage::RocksEngine;
use tokio::sync::{oneshot, watch};

use super::inbox::Inbox;
use super::published::Published;
use crate::config::Config;
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
    engine: Arc<RocksEngine>,
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
    engine: Arc<RocksEngine>,
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
                Some(Job::Run(work)) => work(&self.engine),
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
