//! The first rows of a member that starts with a new cluster.

use crate::apply::meta::Applied;
use crate::cluster::{Member, rows};
use crate::env::{Engine, WriteBatch};
use crate::error::Fatal;
use crate::raft::ConfState;
use crate::types::{ClusterId, LogIndex, Term};

/// What a new cluster starts with; equal on all its first members.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its first members.
    pub members: Vec<Member>,
}

/// Writes the first rows; the caller flushes the engine before it starts a [`super::Node`] on it.
pub fn bootstrap(engine: &dyn Engine, cluster: &Bootstrap) -> Result<(), Fatal> {
    let mut batch = WriteBatch::new();
    let mut conf_state = ConfState::default();
    for member in &cluster.members {
        rows::put_member(&mut batch, member);
        let ids = if member.learner { &mut conf_state.learners } else { &mut conf_state.voters };
        ids.push(member.id);
    }
    conf_state.voters.sort_unstable();
    conf_state.learners.sort_unstable();
    Applied {
        index: LogIndex(0),
        term: Term(0),
        // An empty store has revision 1; its first write makes 2.
        revision: 1,
        compact_revision: -1,
        chain_hash: 0,
        cluster_id: cluster.cluster_id,
        conf_state,
    }
    .write(&mut batch);
    Ok(engine.write(&batch)?)
}

/// Whether the engine has its first rows.
pub fn is_bootstrapped(engine: &dyn Engine) -> Result<bool, Fatal> {
    Ok(Applied::load(engine)?.is_some())
}
