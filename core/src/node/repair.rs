//! What follows from a comparison of states: a member whose state is wrong stops answering, gives
//! leadership away, raises its alarm, and takes the leader's state when an operator turns the
//! alarm off (or at once, if it was set up that way).

use std::time::Duration;

use super::integrity::Judgement;
use super::message::Message;
use super::{Node, Output};
use crate::cluster::{Alarm, AlarmKind};
use crate::codec;
use crate::mutant::mutant;
use crate::types::MemberId;

/// How long members may differ without anybody being able to tell who is wrong, before the alarm
/// is raised for nobody in particular, as in etcd.
const UNDECIDED_FOR: Duration = Duration::from_secs(10);

impl Node {
    /// Tells the others the hash of this member's state, and judges by theirs. Called once a
    /// second.
    pub(super) fn compare_states(&mut self, out: &mut Vec<Output>) {
        let others = self.other_members();
        self.integrity.catch_up();
        if let Some(told) = self.integrity.tell() {
            let encode = |(index, hash)| Message::Hash { index, hash }.encode();
            let message = encode(told.everybody);
            out.extend(others.iter().map(|to| Output::Send { to: *to, message: message.clone() }));
            let answers = told.answers.into_iter().filter(|(to, _)| others.contains(to));
            out.extend(answers.map(|(to, answer)| Output::Send { to, message: encode(answer) }));
        }
        self.upkeep.status_changed |= self.status.compared != self.integrity.compared_count();
        if self.corrupt {
            self.seek_repair();
            return;
        }
        match self.judgement() {
            Judgement::Sound => self.undecided_since = None,
            Judgement::Wrong if mutant!("a_wrong_state_goes_unnoticed") => {}
            Judgement::Wrong => {
                self.corrupt = true;
                self.stop_leasing();
                self.repairing = self.config.auto_repair;
                self.upkeep.status_changed = true;
                self.seek_repair();
            }
            Judgement::Undecided => {
                let since = *self.undecided_since.get_or_insert(self.now);
                if self.now.since(since) >= UNDECIDED_FOR {
                    self.undecided_since = None;
                    self.raise(Alarm { member: MemberId(0), kind: AlarmKind::Corrupt });
                }
            }
        }
    }

    /// Whether what others told of their states leaves open, or denies, that this one is right.
    pub fn state_is_in_dispute(&mut self) -> bool {
        self.judgement() != Judgement::Sound
    }

    /// What the comparisons so far say about this member's state.
    pub(super) fn judgement(&mut self) -> Judgement {
        self.integrity.judge(&self.machine.applied().conf_state.voters, self.config.member_id)
    }

    /// Everybody else, learners included.
    fn other_members(&self) -> Vec<MemberId> {
        let me = self.config.member_id;
        self.machine.members().iter().map(|member| member.id).filter(|id| *id != me).collect()
    }

    fn seek_repair(&mut self) {
        if !self.repairing {
            self.raise(Alarm { member: self.config.member_id, kind: AlarmKind::Corrupt });
        } else if !self.owner.is_installing() {
            // Without a leader, or while an earlier request is under way, it is asked again.
            self.owner.request_snapshot();
        }
    }

    fn raise(&mut self, alarm: Alarm) {
        if self.own_commands.is_empty() && !self.machine.alarms().list(None).contains(&alarm) {
            self.own_commands.push(codec::cluster::activate(alarm));
        }
    }

    /// An operator turned an alarm off: if it was about this member's wrong state, that is the
    /// consent to replace it.
    pub(super) fn alarm_cleared(&mut self, alarm: Alarm) {
        if self.corrupt && alarm == (Alarm { member: self.config.member_id, kind: AlarmKind::Corrupt }) {
            self.repairing = true;
        }
    }

    /// The state was replaced by a snapshot's.
    pub(super) fn repaired(&mut self) {
        self.corrupt = false;
        self.repairing = false;
        self.undecided_since = None;
        self.upkeep.status_changed = true;
    }
}
