//! The thread that writes the log: one append, and one sync, for everything that waits.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use folkmoot_core::node::{Input, WalWrite};
use folkmoot_core::types::LogIndex;
use folkmoot_storage::{Wal, boost_current_thread};

use super::inbox::Inbox;
use crate::tasks::Fate;

/// What the log's thread is asked to do.
pub enum WalJob {
    /// Append.
    Write(WalWrite),
    /// Forget entries that are not needed any more.
    Purge {
        /// The last of them.
        up_to: LogIndex,
    },
}

/// Works until all senders are gone or the disk failed. A failed write or sync is never tried
/// again: what the disk holds after one is unknown. Without `may_sync` nothing is ever synced, which
/// is for tests only.
pub fn run(mut wal: Wal, jobs: &Receiver<WalJob>, inbox: &Arc<Inbox>, fate: &Fate, may_sync: bool) {
    // While both cores are busy, a thread of ordinary priority waits milliseconds for its turn
    // after each sync, and with it everybody who waits for the log.
    if !boost_current_thread() {
        tracing::debug!("the log's thread runs with ordinary priority");
    }
    let mut batches = Vec::new();
    while let Ok(first) = jobs.recv() {
        let (mut sync, mut number, mut purge) = (false, None, None);
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            match job {
                WalJob::Write(write) => {
                    sync |= write.sync;
                    number = Some(write.number);
                    batches.push(write.batch);
                }
                WalJob::Purge { up_to } => purge = Some(up_to),
            }
        }
        if let Some(number) = number {
            if let Err(error) = wal.append(&batches, sync && may_sync) {
                fate.fail("wal", &error);
                inbox.close();
                return;
            }
            batches.clear();
            inbox.complete(Input::WalDone { number });
        }
        if let Some(up_to) = purge
            && let Err(error) = wal.purge(up_to)
        {
            fate.fail("wal", &error);
            inbox.close();
            return;
        }
    }
}
