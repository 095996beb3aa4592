//! Snapshots by number: copies of this member's engine that are sent, and others' that arrived.
//!
//! Invariant: a copy's files stay until it was dropped and nobody is getting it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use folkmoot_core::node::{Input, SnapshotId};
use folkmoot_core::types::{ClusterId, MemberId};
use folkmoot_peer::SnapshotToSend;
use folkmoot_storage::snapshot;
use parking_lot::Mutex;

use crate::node::Inbox;
use crate::tasks::Fate;

struct Copy {
    dir: PathBuf,
    sending: usize,
    dropped: bool,
}

/// See the module.
#[derive(Default)]
pub struct SnapshotDesk {
    copies: Mutex<BTreeMap<SnapshotId, Copy>>,
    staged: Mutex<BTreeMap<SnapshotId, PathBuf>>,
    last_staged: AtomicU64,
    /// Bytes a second; 0 without a limit.
    rate: AtomicU64,
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        // It goes at the next start.
        tracing::warn!(dir = %dir.display(), %error, "a snapshot that is not needed could not be removed");
    }
}

impl SnapshotDesk {
    /// How fast snapshots are sent at most.
    pub fn set_rate(&self, bytes_per_second: Option<u64>) {
        self.rate.store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    /// A copy was made.
    pub fn made(&self, id: SnapshotId, dir: PathBuf) {
        self.copies.lock().insert(id, Copy { dir, sending: 0, dropped: false });
    }

    /// What the transport needs to send a copy; `None` if there is no such copy.
    pub fn to_send(&self, id: SnapshotId, message: Bytes) -> Option<SnapshotToSend> {
        let mut copies = self.copies.lock();
        let copy = copies.get_mut(&id).filter(|copy| !copy.dropped)?;
        copy.sending += 1;
        let rate = Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate > 0);
        Some(SnapshotToSend { id: id.0, message, dir: copy.dir.clone(), rate_bytes_per_second: rate })
    }

    /// A transfer ended.
    pub fn sent(&self, id: SnapshotId) {
        let mut copies = self.copies.lock();
        if let Some(copy) = copies.get_mut(&id) {
            copy.sending = copy.sending.saturating_sub(1);
        }
        Self::clean(&mut copies, id);
    }

    /// The core needs the copy no more.
    pub fn drop_copy(&self, id: SnapshotId) {
        let mut copies = self.copies.lock();
        if let Some(copy) = copies.get_mut(&id) {
            copy.dropped = true;
        }
        Self::clean(&mut copies, id);
    }

    fn clean(copies: &mut BTreeMap<SnapshotId, Copy>, id: SnapshotId) {
        if copies.get(&id).is_some_and(|copy| copy.dropped && copy.sending == 0)
            && let Some(copy) = copies.remove(&id)
        {
            // Many links at most; but never on the caller's thread, which may be the core's.
            std::thread::spawn(move || remove(&copy.dir));
        }
    }

    /// Another member's snapshot is here, in `dir`: it is read to its last byte on a thread of its
    /// own before the core hears of it.
    pub fn arrived(
        self: &Arc<Self>,
        cluster_id: ClusterId,
        from: MemberId,
        message: Bytes,
        dir: PathBuf,
        inbox: &Arc<Inbox>,
        fate: &Fate,
    ) {
        let (desk, inbox) = (Arc::clone(self), Arc::clone(inbox));
        let work = move || match snapshot::verify(&dir, cluster_id) {
            Ok(position) => {
                let staged = SnapshotId(desk.last_staged.fetch_add(1, Ordering::Relaxed) + 1);
                desk.staged.lock().insert(staged, dir);
                inbox.complete(Input::SnapshotArrived { from, message, staged, position });
            }
            Err(error) => {
                tracing::error!("remote-peer-id" = %from, %error, "a snapshot was refused");
                remove(&dir);
            }
        };
        if let Err(error) = crate::tasks::spawn_thread("snapshot", fate, work, || {}) {
            tracing::error!(%error, "no thread to look at a snapshot; the leader will send it again");
        }
    }

    /// Where a snapshot that arrived is; it belongs to the caller from now on.
    pub fn take_staged(&self, staged: SnapshotId) -> Option<PathBuf> {
        self.staged.lock().remove(&staged)
    }

    /// A snapshot that arrived is not wanted.
    pub fn discard(&self, staged: SnapshotId) {
        if let Some(dir) = self.take_staged(staged) {
            std::thread::spawn(move || remove(&dir));
        }
    }
}
