//! From what the engine and the log hold to the log that `raft` starts with.

use raft::Storage as _;
use raft::eraftpb;

use super::owner::ConfState;
use super::tail::LogTail;
use crate::error::Fatal;
use crate::types::{LogIndex, MemberId};
use crate::wal::{LogPoint, Recovered};

/// What the engine holds.
#[derive(Clone, Debug)]
pub struct StartPoint {
    /// The last entry whose effects are in it.
    pub applied: LogPoint,
    /// Who votes after that entry.
    pub conf_state: ConfState,
    /// The rows came as a snapshot at this index (or as the first rows of a cluster); the log
    /// need not lead up to it.
    pub installed: LogIndex,
}

/// The tail, and the point after which the log on disk must be started anew, if it must.
///
/// # Errors
/// `Damaged` when the log has lost what the engine proves to have been there.
pub fn recovered_tail(
    start: &StartPoint,
    recovered: Recovered,
) -> Result<(LogTail, Option<LogPoint>), Fatal> {
    let applied = start.applied;
    let last = recovered.last().index;
    let known_term = if recovered.start.index == applied.index {
        Some(recovered.start.term)
    } else {
        recovered.entries.iter().find(|entry| entry.index == applied.index).map(|entry| entry.term)
    };
    // The machine stopped after the rows of a snapshot were put in place and before the log was
    // started anew behind them. What the log still holds is from before.
    let replaced =
        applied.index.0 > 0 && start.installed == applied.index && known_term != Some(applied.term);
    if !replaced {
        check(applied, last, recovered.start.index)?;
    }
    // A commit index alone is not synced, so the engine may know more than the log says.
    let known = recovered.hard_state;
    let last = if replaced { applied.index } else { last.max(applied.index) };
    let hard_state = eraftpb::HardState {
        term: known.term.0.max(applied.term.0),
        // A vote counts in its own term only.
        vote: if known.term < applied.term { 0 } else { known.vote },
        commit: known.commit.max(applied.index).min(last).0,
    };
    let ids = |members: &[MemberId]| members.iter().map(|id| id.0).collect::<Vec<_>>();
    let conf_state = eraftpb::ConfState {
        voters: ids(&start.conf_state.voters),
        learners: ids(&start.conf_state.learners),
        ..eraftpb::ConfState::default()
    };
    if replaced {
        let tail = LogTail::new(applied.index.0, applied.term.0, hard_state, conf_state);
        return Ok((tail, Some(applied)));
    }
    let begin = if recovered.start.index == applied.index { applied } else { recovered.start };
    let mut tail = LogTail::new(begin.index.0, begin.term.0, hard_state, conf_state);
    tail.append(
        recovered
            .entries
            .into_iter()
            .map(|entry| eraftpb::Entry {
                entry_type: i32::from(entry.kind),
                index: entry.index.0,
                term: entry.term.0,
                data: entry.data.into(),
                ..eraftpb::Entry::default()
            })
            .collect(),
    );
    debug_assert_eq!(tail.last_index().ok(), Some(last.0));
    Ok((tail, None))
}

fn check(applied: LogPoint, last: LogIndex, log_start: LogIndex) -> Result<(), Fatal> {
    let applied = applied.index;
    let fresh = applied.0 == 0 && last.0 == 0;
    if !fresh && last < applied {
        return Err(Fatal::Damaged(format!(
            "the log ends before what was applied, it was lost or replaced: restore the member from a \
             backup or remove it from the cluster and add it again; last_log_index={last} applied={applied}"
        )));
    }
    if log_start > applied {
        return Err(Fatal::Damaged(format!(
            "the log begins after what was applied, segments are missing; log_start={log_start} applied={applied}"
        )));
    }
    Ok(())
}
