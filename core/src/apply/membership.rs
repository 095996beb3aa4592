//! Commands that change who belongs to the cluster.
//!
//! Whether a change is safe now (enough members started, connected, caught up) is the leader's to
//! judge before it proposes; here only what every member can see alike is checked. The member
//! rows and the configuration of consensus change in the same entry.

use super::machine::{Effect, Machine};
use crate::cluster::{Member, rows};
use crate::error::{Error, Failure};
use crate::mutant::mutant;
use crate::node::Reply;
use crate::raft::MembershipChange;
use crate::types::MemberId;

impl Machine {
    /// What `add` would be refused with.
    pub fn check_add(&self, member: &Member) -> Result<(), Error> {
        if self.members.was_removed(member.id) && !mutant!("a_removed_id_comes_back") {
            return Err(Error::MemberNotFound);
        }
        if self.members.get(member.id).is_some() {
            return Err(Error::MemberExist);
        }
        self.check_urls(member.id, &member.peer_urls)
    }

    /// A URL belongs to one member.
    fn check_urls(&self, id: MemberId, urls: &[String]) -> Result<(), Error> {
        let taken =
            |member: &Member| member.id != id && urls.iter().any(|url| member.peer_urls.contains(url));
        match self.members.iter().any(taken) {
            true => Err(Error::PeerUrlExist),
            false => Ok(()),
        }
    }

    pub(super) fn add_member(&mut self, member: Member, effects: &mut Vec<Effect>) -> Result<Reply, Failure> {
        self.check_add(&member)?;
        let change = match member.learner {
            true => MembershipChange::AddLearner(member.id),
            false => MembershipChange::AddVoter(member.id),
        };
        // What it is called and where clients reach it, it will say itself.
        let member = Member { name: String::new(), client_urls: Vec::new(), incarnation: 0, ..member };
        rows::put_member(&mut self.rows, &member);
        self.members.put(member);
        Ok(self.membership_changed(change, effects))
    }

    /// What `remove` would be refused with.
    pub fn check_remove(&self, id: MemberId) -> Result<(), Error> {
        if self.members.get(id).is_none() {
            return Err(Error::MemberNotFound);
        }
        // A cluster without voters could never decide anything again.
        if self.applied.conf_state.voters == [id] {
            return Err(Error::MemberNotEnoughStarted);
        }
        Ok(())
    }

    pub(super) fn remove_member(
        &mut self,
        id: MemberId,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        self.check_remove(id)?;
        rows::remove_member(&mut self.rows, id);
        self.members.remove(id);
        Ok(self.membership_changed(MembershipChange::Remove(id), effects))
    }

    /// What `promote` would be refused with.
    pub fn check_promote(&self, id: MemberId) -> Result<(), Error> {
        match self.members.get(id) {
            None => Err(Error::MemberNotFound),
            Some(member) if !member.learner => Err(Error::MemberNotLearner),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn promote_member(
        &mut self,
        id: MemberId,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        self.check_promote(id)?;
        if let Some(member) = self.members.get(id) {
            let member = Member { learner: false, ..member.clone() };
            rows::put_member(&mut self.rows, &member);
            self.members.put(member);
        }
        Ok(self.membership_changed(MembershipChange::AddVoter(id), effects))
    }

    /// A member tells its disk, once and for all.
    pub(super) fn name_disk(&mut self, id: MemberId, incarnation: u64, effects: &mut Vec<Effect>) {
        let Some(known) = self.members.get(id).filter(|member| member.incarnation == 0) else { return };
        let member = Member { incarnation, ..known.clone() };
        rows::put_member(&mut self.rows, &member);
        self.members.put(member);
        effects.push(Effect::ClusterChanged);
    }

    /// New peer URLs; everything else about the member stays.
    pub(super) fn update_member(
        &mut self,
        update: Member,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        let known = self.members.get(update.id).cloned().ok_or(Error::MemberNotFound)?;
        self.check_urls(update.id, &update.peer_urls)?;
        let learner = known.learner && !mutant!("an_update_makes_a_learner_a_voter");
        let member = Member { peer_urls: update.peer_urls, learner, ..known };
        rows::put_member(&mut self.rows, &member);
        self.members.put(member);
        effects.push(Effect::ClusterChanged);
        Ok(Reply::Members(self.members.list()))
    }

    fn membership_changed(&mut self, change: MembershipChange, effects: &mut Vec<Effect>) -> Reply {
        self.applied.conf_state = change.applied_to(&self.applied.conf_state);
        effects.push(Effect::MembershipChanged(change, self.applied.conf_state.clone()));
        effects.push(Effect::ClusterChanged);
        Reply::Members(self.members.list())
    }
}
