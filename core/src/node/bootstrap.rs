//! The first rows of a member: of one that starts with a new cluster, and of one that joins.
//!
//! A new cluster begins as if a snapshot at index 1 had been installed on all its first members,
//! so that one that joins later, with nothing at all, can only be brought up by a real snapshot:
//! the log alone would lack who belonged to the cluster in the beginning.

use crate::apply::meta::{Applied, mark_installed};
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
    /// Its first members; none for a member that joins and has yet to hear who is there.
    pub members: Vec<Member>,
}

/// Where the log of a new cluster begins.
const GENESIS: (LogIndex, Term) = (LogIndex(1), Term(1));

/// Writes the first rows; the caller flushes the engine before it starts a [`super::Node`] on it.
pub fn bootstrap(engine: &dyn Engine, cluster: &Bootstrap) -> Result<(), Fatal> {
    let mut batch = WriteBatch::new();
    let mut conf_state = ConfState::default();
    for member in &cluster.members {
        rows::put_member(&mut batch, member);
        let ids = if member.learner { &mut conf_state.learners } else { &mut conf_state.voters };
        ids.push(member.id);
    }
    let (index, term) = match cluster.members.is_empty() {
        true => (LogIndex(0), Term(0)),
        false => GENESIS,
    };
    let applied = Applied {
        index,
        term,
        // An empty store has revision 1; its first write makes 2.
        revision: 1,
        compact_revision: -1,
        chain_hash: 0,
        cluster_id: cluster.cluster_id,
        conf_state,
    };
    write_first_position(&mut batch, applied);
    Ok(engine.write(&batch)?)
}

/// The position of a store that begins with rows it did not get from its log: sorted members, and
/// the mark that lets the log begin behind it.
fn write_first_position(batch: &mut WriteBatch, mut applied: Applied) {
    applied.conf_state.voters.sort_unstable();
    applied.conf_state.learners.sort_unstable();
    mark_installed(batch, applied.index);
    applied.write(batch);
}

/// Writes who belongs to a cluster that begins anew with the keys of `found`, a store of an
/// earlier one, and with these members only.
pub fn begin_anew(batch: &mut WriteBatch, found: Applied, cluster: &Bootstrap) {
    let mut conf_state = ConfState::default();
    for member in &cluster.members {
        rows::put_member(batch, member);
        conf_state.voters.push(member.id);
    }
    let (index, term) = GENESIS;
    write_first_position(batch, Applied { index, term, cluster_id: cluster.cluster_id, conf_state, ..found });
}

/// Whether the engine has its first rows.
pub fn is_bootstrapped(engine: &dyn Engine) -> Result<bool, Fatal> {
    Ok(Applied::load(engine)?.is_some())
}
