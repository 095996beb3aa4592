//! The log thread and the storage thread of a member: one thing at a time each, as in the server.

use folkmoot_core::env::{Engine, WriteBatch};
use folkmoot_core::mvcc::gc;
use folkmoot_core::node::{Input, SnapshotId, StoreWrite, WalWrite};
use folkmoot_core::types::LogIndex;

use super::hub::HubInput;
use super::{Happening, Life, Stop, World};
use crate::ledger::log_changes;
use crate::network::HostAt;
use crate::sometimes::Situation;
use crate::time::{MS, Nanos, US};

/// Something for the log thread.
#[derive(Debug)]
pub enum LogJob {
    /// Append.
    Write(WalWrite),
    /// Forget.
    Purge(LogIndex),
}

/// What the log thread is doing.
#[derive(Debug)]
pub struct LogBusy {
    number: Option<u64>,
    sync: bool,
    purge: Option<LogIndex>,
    /// When it began.
    since: Nanos,
}

impl LogBusy {
    /// Since when a sync has been under way.
    pub fn syncing_since(&self) -> Option<Nanos> {
        self.sync.then_some(self.since)
    }
}

/// Something for the storage thread.
#[derive(Debug)]
pub enum StorageJob {
    /// Write rows.
    Store(StoreWrite),
    /// Flush and report.
    Flush,
    /// Remove what is superseded at this revision.
    Collect(i64),
    /// Copy everything.
    MakeSnapshot(SnapshotId),
    /// Put a snapshot's rows in place of all.
    Install(SnapshotId, LogIndex),
}

/// What the storage thread is doing.
#[derive(Debug)]
pub enum StorageBusy {
    /// Writing rows up to a position.
    Write(WriteBatch, LogIndex, i64),
    /// Flushing.
    Flush,
    /// Copying.
    MakeSnapshot(SnapshotId),
    /// Putting a snapshot in place.
    Install(SnapshotId, LogIndex),
}

/// Pause between two steps of garbage collection.
const GC_PAUSE: Nanos = 10 * MS;

impl World {
    pub(super) fn kick_log(&mut self, at: HostAt) {
        let now = self.now;
        let (low, high) = self.plan.sync_time;
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        if running.log_busy.is_some() || running.log_jobs.is_empty() {
            return;
        }
        let mut busy = LogBusy { number: None, sync: false, purge: None, since: now };
        let mut batches = Vec::new();
        for job in running.log_jobs.drain(..) {
            match job {
                LogJob::Write(write) => {
                    busy.number = Some(write.number);
                    busy.sync |= write.sync;
                    batches.push(write.batch);
                }
                LogJob::Purge(up_to) => busy.purge = Some(up_to),
            }
        }
        if !batches.is_empty() {
            if host.trouble.fail_write {
                host.trouble.fail_write = false;
                self.met(Situation::WriteFailed);
                return self.disk_fails(at, "write failed");
            }
            let segments = running.log.segment_count();
            if running.log.append(&mut host.disk, &batches).is_err() {
                self.met(Situation::DiskFull);
                return self.disk_fails(at, "no space left on device");
            }
            let rotated = running.log.segment_count() > segments;
            if rotated {
                // What the old segment held is durable before the new one begins.
                for change in running.unsynced.drain(..) {
                    host.durable.follow(change);
                }
                self.sometimes.met(Situation::LogRotated);
            }
            for batch in &batches {
                log_changes(&batch.bytes, &mut running.unsynced);
            }
        }
        let mut time = if busy.sync { self.machine.spread(low, high) } else { 20 * US };
        time *= host.trouble.slow;
        let mut when = now + time;
        if busy.sync && host.trouble.stuck_until > now {
            when = when.max(host.trouble.stuck_until);
            self.sometimes.met(Situation::SyncStuck);
        }
        let syncs = busy.sync;
        running.log_busy = Some(busy);
        self.queue.push(when, Happening::LogDone(at, host.life));
        if syncs && let Some(down) = host.cut_in_sync.take() {
            self.restart(at, Stop::PowerCut, down);
        }
    }

    pub(super) fn log_done(&mut self, at: HostAt, life: Life) {
        if self.is_stale(at, life) || self.is_paused(at, Happening::LogDone) {
            return;
        }
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        let Some(busy) = running.log_busy.take() else { return };
        if busy.sync {
            if host.trouble.fail_sync {
                host.trouble.fail_sync = false;
                running.log.fail_sync(&mut host.disk, &mut self.machine);
                self.met(Situation::SyncFailed);
                return self.disk_fails(at, "sync failed");
            }
            running.log.sync(&mut host.disk);
            for change in running.unsynced.drain(..) {
                host.durable.follow(change);
            }
        }
        if let Some(up_to) = busy.purge {
            let before = running.log.segment_count();
            running.log.purge(&mut host.disk, up_to);
            if running.log.segment_count() < before {
                self.sometimes.met(Situation::LogPurged);
            }
        }
        if let Some(number) = busy.number {
            self.give(at, Input::WalDone { number });
        }
        self.kick_log(at);
    }

    pub(super) fn kick_storage(&mut self, at: HostAt) {
        let (low, high) = self.plan.store_time;
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        if running.storage_busy.is_some() {
            return;
        }
        let time = self.machine.spread(low, high) * host.trouble.slow;
        let busy = match running.storage_jobs.pop_front() {
            None => return,
            Some(StorageJob::Flush) => StorageBusy::Flush,
            Some(StorageJob::MakeSnapshot(id)) => StorageBusy::MakeSnapshot(id),
            Some(StorageJob::Install(staged, index)) => StorageBusy::Install(staged, index),
            Some(StorageJob::Collect(revision)) => {
                running.compact_revision = running.compact_revision.max(revision);
                self.plan_garbage(at);
                return self.kick_storage(at);
            }
            Some(StorageJob::Store(StoreWrite { mut index, mut revision, mut batch })) => {
                while let Some(StorageJob::Store(_)) = running.storage_jobs.front()
                    && let Some(StorageJob::Store(more)) = running.storage_jobs.pop_front()
                {
                    batch.append(&more.batch);
                    (index, revision) = (more.index, more.revision);
                }
                StorageBusy::Write(batch, index, revision)
            }
        };
        running.storage_busy = Some(busy);
        self.queue.push(self.now + time, Happening::StorageDone(at, host.life));
    }

    pub(super) fn storage_done(&mut self, at: HostAt, life: Life) {
        if self.is_stale(at, life) || self.is_paused(at, Happening::StorageDone) {
            return;
        }
        let flushes = self.machine.one_in(self.plan.flush_one_in);
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        let Some(busy) = running.storage_busy.take() else { return };
        match busy {
            StorageBusy::Write(batch, index, revision) => {
                host.engine.write(&batch).expect("the model's engine does not fail");
                running.stored = (index, revision);
                running.hub_inputs.push(HubInput::Stored(revision));
                if flushes {
                    host.engine.flush().expect("the model's engine does not fail");
                }
                self.schedule_hub(at);
                self.give(at, Input::Stored { index, revision });
                self.plan_garbage(at);
            }
            StorageBusy::Flush => {
                host.engine.flush().expect("the model's engine does not fail");
                let index = running.stored.0;
                self.give(at, Input::Flushed { index });
            }
            StorageBusy::MakeSnapshot(id) => self.make_snapshot(at, id),
            StorageBusy::Install(staged, index) => self.install_snapshot(at, staged, index),
        }
        self.kick_storage(at);
    }

    /// Plans the removal of superseded rows, if there is something to remove and no walk yet.
    pub(super) fn plan_garbage(&mut self, at: HostAt) {
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        if running.walk.is_none() {
            let state = gc::load(host.engine.as_ref()).expect("the model's engine does not fail");
            running.walk = gc::plan(state, running.compact_revision, running.stored.1);
        }
        if running.walk.is_some() && !running.garbage_planned {
            running.garbage_planned = true;
            self.queue.push(self.now + GC_PAUSE, Happening::Garbage(at, host.life));
        }
    }

    pub(super) fn collect_garbage(&mut self, at: HostAt, life: Life) {
        if self.is_stale(at, life) || self.is_paused(at, Happening::Garbage) {
            return;
        }
        let rows = self.plan.gc_rows;
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        running.garbage_planned = false;
        if running.storage_busy.is_none()
            && let Some(state) = running.walk
        {
            match gc::step(host.engine.as_ref(), state, rows) {
                Ok(step) => {
                    host.engine.write(&step.batch).expect("the model's engine does not fail");
                    running.walk = step.next;
                    if running.walk.is_none() {
                        self.sometimes.met(Situation::GarbageCollected);
                    }
                }
                Err(failure) => {
                    let text = format!("garbage collection failed: {failure}");
                    return self.fail("garbage", text);
                }
            }
        }
        self.plan_garbage(at);
    }

    fn is_stale(&self, at: HostAt, life: Life) -> bool {
        self.hosts[at].life != life
    }

    /// Whether the member stands still; what was to happen then happens when it goes on.
    fn is_paused(&mut self, at: HostAt, again: fn(HostAt, Life) -> Happening) -> bool {
        let host = &self.hosts[at];
        let paused = host.paused_until > self.now;
        if paused {
            self.queue.push(host.paused_until, again(at, host.life));
        }
        paused
    }
}
