//! Automatic compaction: keeps a window of history, by time or by number of revisions.
//!
//! Only the leader proposes. The rules are etcd's: with a period, the revision is noted every
//! tenth of the interval (the period, at most an hour), and once there are notes for a whole
//! period, the oldest is compacted to, once every interval.

use std::collections::VecDeque;
use std::time::Duration;

use folkmoot_core::codec;
use folkmoot_core::error::Error;
use folkmoot_proto::etcdserverpb::CompactionRequest;

use crate::config::AutoCompaction;
use crate::node::{CallError, NodeHandle};

const INTERVAL_MAX: Duration = Duration::from_secs(3600);
const NOTES_PER_INTERVAL: u32 = 10;
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// Compacts for ever, as set up.
pub async fn compact_from_time_to_time(node: NodeHandle) {
    match node.settings().auto_compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Periodic(period) => by_time(&node, period).await,
        AutoCompaction::Revision(keep) => by_count(&node, keep).await,
    }
}

async fn by_time(node: &NodeHandle, period: Duration) {
    let mut window = Window::new(period);
    let mut ticker = tokio::time::interval(window.note_every());
    ticker.tick().await;
    loop {
        window.note(node.reader().revision());
        ticker.tick().await;
        if let Some(revision) = window.due()
            && compact(node, revision, "periodic").await
        {
            window.compacted();
        }
    }
}

async fn by_count(node: &NodeHandle, keep: i64) {
    let mut ticker = tokio::time::interval(REVISION_INTERVAL);
    ticker.tick().await;
    let mut last = 0;
    loop {
        ticker.tick().await;
        let revision = node.reader().revision() - keep;
        if revision > 0 && revision != last && compact(node, revision, "revision").await {
            last = revision;
        }
    }
}

/// Whether this is done with, by us or by somebody before us.
async fn compact(node: &NodeHandle, revision: i64, mode: &str) -> bool {
    if node.status().leader() != Some(node.member_id()) {
        return false;
    }
    tracing::info!(revision, "starting auto {mode} compaction");
    let command = codec::kv::compact(&CompactionRequest { revision, physical: false });
    match node.propose(command).await {
        Ok(_) | Err(CallError::Answer(Error::Compacted)) => {
            tracing::info!(revision, "completed auto {mode} compaction");
            true
        }
        Err(error) => {
            tracing::warn!(revision, ?error, "failed auto {mode} compaction");
            false
        }
    }
}

/// The revisions noted during a period.
struct Window {
    interval: Duration,
    notes: VecDeque<i64>,
    notes_max: usize,
    ticks_since: u32,
}

impl Window {
    fn new(period: Duration) -> Self {
        let interval = period.min(INTERVAL_MAX);
        let notes_max =
            (period.as_secs_f64() / (interval / NOTES_PER_INTERVAL).as_secs_f64()).round() as usize;
        Self { interval, notes: VecDeque::new(), notes_max: notes_max.max(1), ticks_since: u32::MAX }
    }

    fn note_every(&self) -> Duration {
        (self.interval / NOTES_PER_INTERVAL).max(Duration::from_millis(1))
    }

    fn note(&mut self, revision: i64) {
        self.notes.push_back(revision);
        if self.notes.len() > self.notes_max {
            self.notes.pop_front();
        }
        self.ticks_since = self.ticks_since.saturating_add(1);
    }

    /// The revision to compact to now.
    fn due(&self) -> Option<i64> {
        let whole = self.notes.len() >= self.notes_max;
        (whole && self.ticks_since >= NOTES_PER_INTERVAL).then(|| self.notes[0])
    }

    fn compacted(&mut self) {
        self.ticks_since = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_period_is_kept_and_then_one_interval_at_a_time_goes() {
        let mut window = Window::new(Duration::from_secs(7200));
        assert_eq!(window.note_every(), Duration::from_secs(360));
        for revision in 1..=19 {
            window.note(revision);
            assert_eq!(window.due(), None);
        }
        window.note(20);
        assert_eq!(window.due(), Some(1));
        window.compacted();
        for revision in 21..=29 {
            window.note(revision);
            assert_eq!(window.due(), None);
        }
        window.note(30);
        assert_eq!(window.due(), Some(11));
    }
}
