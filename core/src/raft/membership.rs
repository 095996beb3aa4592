//! Membership as consensus sees it: single changes only (never joint ones: those can get stuck
//! when their leader steps down), one at a time, each effective when it is applied.

use prost_raft::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType};

use super::owner::{ConfState, Owner, Role};
use crate::error::Fatal;
use crate::types::{LogIndex, MemberId};

/// One change of who takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MembershipChange {
    /// A voter more: a new member, or a learner that is promoted.
    AddVoter(MemberId),
    /// A learner more.
    AddLearner(MemberId),
    /// One member less.
    Remove(MemberId),
}

impl MembershipChange {
    fn to_raft(self) -> ConfChange {
        let (kind, id) = match self {
            Self::AddVoter(id) => (ConfChangeType::AddNode, id),
            Self::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
            Self::Remove(id) => (ConfChangeType::RemoveNode, id),
        };
        ConfChange { change_type: kind as i32, node_id: id.0, ..ConfChange::default() }
    }

    /// Who takes part after the change.
    pub fn applied_to(self, before: &ConfState) -> ConfState {
        let mut after = before.clone();
        let (Self::AddVoter(id) | Self::AddLearner(id) | Self::Remove(id)) = self;
        after.voters.retain(|voter| *voter != id);
        after.learners.retain(|learner| *learner != id);
        match self {
            Self::AddVoter(id) => after.voters.push(id),
            Self::AddLearner(id) => after.learners.push(id),
            Self::Remove(_) => {}
        }
        after.voters.sort_unstable();
        after.learners.sort_unstable();
        after
    }
}

/// The payload of a membership entry: what `raft` wants to read there, around our own entry.
///
/// # Errors
/// `Entry` when the bytes are something else.
pub fn membership_payload(data: &[u8]) -> Result<Vec<u8>, Fatal> {
    ConfChange::decode(data)
        .map(|change| change.context)
        .map_err(|_| Fatal::Entry("a membership change cannot be decoded".into()))
}

impl Owner {
    /// Whether a change may be proposed now: this member leads, and no earlier change is waiting
    /// to be applied (`raft` would silently turn the later one into nothing).
    pub fn can_change_membership(&self) -> bool {
        self.role() == Role::Leader
            && self.transferring_to().is_none()
            && self.has_committed_in_term()
            && !self.raw.raft.has_pending_conf()
    }

    /// Proposes a change whose own entry is `payload`. `false`: nothing was appended.
    pub fn propose_membership(&mut self, change: MembershipChange, payload: Vec<u8>) -> bool {
        if !self.can_change_membership() {
            return false;
        }
        let data = ConfChange { context: payload, ..change.to_raft() }.encode_to_vec();
        self.propose_entries(vec![Entry {
            entry_type: EntryType::EntryConfChange as i32,
            data,
            ..Entry::default()
        }])
    }

    /// Makes an applied change effective. A leader that is no voter any more stops leading: the
    /// crate would go on and keep the others from electing.
    ///
    /// # Errors
    /// `Raft` when consensus and the member table disagree afterwards.
    pub fn apply_membership(&mut self, change: MembershipChange, expected: &ConfState) -> Result<(), Fatal> {
        let now = self.raw.apply_conf_change(&change.to_raft()).map_err(|error| {
            Fatal::Raft(format!("a membership change was refused: {error}; change={change:?}"))
        })?;
        let ids = |ids: &[u64]| {
            let mut ids: Vec<_> = ids.iter().copied().map(MemberId).collect();
            ids.sort_unstable();
            ids
        };
        let now = ConfState { voters: ids(&now.voters), learners: ids(&now.learners) };
        if now != *expected {
            return Err(Fatal::Raft(format!(
                "consensus and the member table disagree; consensus={now:?} members={expected:?}"
            )));
        }
        if !self.is_voter(self.config.id) {
            self.abdicate();
        }
        Ok(())
    }

    /// The last entry that another member is known to have; only a leader knows.
    pub fn matched(&self, id: MemberId) -> Option<LogIndex> {
        Some(LogIndex(self.raw.raft.prs().get(id.0)?.matched))
    }
}
