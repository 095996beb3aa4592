//! Snapshots on their way out and in.
//!
//! Out: one copy of the engine serves every follower that needs one, until it is too old. It is
//! dropped when nobody is getting it any more.
//! In: one at a time. While one is installed the keys are closed to readers, consensus stands
//! still, and whoever waits for a command in flight is told that its fate is unknown here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::integrity::Judgement;
use super::message::Message;
use super::upkeep::Upkeep;
use super::{Input, Node, Output, SnapshotId};
use crate::apply::meta::Applied;
use crate::error::{Error, Fatal};
use crate::mutant::mutant;
use crate::mvcc;
use crate::raft::{Arrival, SnapshotPoint};
use crate::types::{Instant64, MemberId, Term};

/// How long a copy that nobody is getting is kept for the next one.
const KEPT_FOR: Duration = Duration::from_secs(10);

const WARN_EVERY: Duration = Duration::from_secs(1);

struct Arrived {
    from: MemberId,
    message: Bytes,
    staged: SnapshotId,
    position: Applied,
}

/// See the module.
#[derive(Default)]
pub struct Snapshots {
    last: u64,
    making: Option<SnapshotId>,
    /// Who must not wait for one, to be told so.
    refused: BTreeSet<MemberId>,
    offered: Option<SnapshotId>,
    /// Copies that exist: made, and not dropped yet.
    copies: BTreeSet<SnapshotId>,
    newest: u64,
    /// When those who are getting a copy were last told not to use it.
    warned_at: Option<Instant64>,
    /// Whose copies, up to which one and sent in which term at most, are not to be used here.
    void: BTreeMap<MemberId, (Term, u64)>,
    used_at: Instant64,
    /// How many transfers to each are open: one that begins ends the one before it.
    sending: BTreeMap<MemberId, usize>,
    arrived: Option<Arrived>,
    installing: Option<Arrived>,
}

impl Node {
    /// Takes the inputs that have to do with snapshots.
    pub(super) fn snapshot_input(&mut self, input: Input) {
        match input {
            Input::SnapshotMade { id, position } => self.snapshot_made(id, &position),
            Input::SnapshotNotMade { id } => {
                if self.snapshots.making.take_if(|making| *making == id).is_some() {
                    self.refuse_requests();
                }
            }
            Input::SnapshotSent { to, ok, .. } => {
                self.snapshots.used_at = self.now;
                let open = self.snapshots.sending.remove(&to).unwrap_or(1) - 1;
                if open > 0 {
                    // How the newest ends counts.
                    self.snapshots.sending.insert(to, open);
                } else {
                    self.snapshot_sent(to, ok);
                }
            }
            Input::SnapshotArrived { from, message, staged, position } => {
                let arrived = Arrived { from, message, staged, position };
                if let Some(earlier) = self.snapshots.arrived.replace(arrived) {
                    self.to_discard.push(earlier.staged);
                }
            }
            Input::SnapshotInstalled { staged } => {
                if self.snapshots.installing.as_ref().is_some_and(|installing| installing.staged == staged)
                    && let Err(fatal) = self.snapshot_installed()
                {
                    self.failed.get_or_insert(fatal);
                }
            }
            _ => unreachable!("the caller gives only what has to do with snapshots"),
        }
    }

    fn snapshot_made(&mut self, id: SnapshotId, position: &Applied) {
        if self.snapshots.making.take_if(|making| *making == id).is_none() {
            return;
        }
        self.snapshots.copies.insert(id);
        self.snapshots.newest = id.0;
        if !self.state_is_undisputed() {
            self.to_drop.push(id);
            return;
        }
        if let Some(earlier) = self.snapshots.offered.replace(id) {
            self.to_drop.push(earlier);
        }
        self.snapshots.used_at = self.now;
        let point = SnapshotPoint { index: position.index, term: position.term };
        self.owner.offer_snapshot(id.0, point, &position.conf_state);
    }

    /// Hands out what has to be made, sent, dropped and discarded.
    pub(super) fn plan_snapshots(&mut self, out: &mut Vec<Output>) {
        // A state that is in dispute is not passed on: a wrong one could become the majority's.
        let undisputed = self.state_is_undisputed();
        for (to, id, message) in std::mem::take(&mut self.drained.snapshots) {
            let id = SnapshotId(id);
            // Who does not lead any more may send what it meant to send as a leader when its log is durable:
            // by then the copy can be gone.
            if !undisputed || !self.snapshots.copies.contains(&id) {
                self.snapshot_sent(to, false);
                continue;
            }
            *self.snapshots.sending.entry(to).or_default() += 1;
            out.push(Output::SendSnapshot { to, id, message });
        }
        if !undisputed && let Some(id) = self.snapshots.offered.take() {
            self.owner.withdraw_snapshot();
            self.to_drop.push(id);
        }
        if undisputed {
            self.snapshots.warned_at = None;
        } else {
            self.refuse_requests();
            self.warn();
        }
        for to in std::mem::take(&mut self.snapshots.refused) {
            let copies = if undisputed { 0 } else { self.snapshots.newest };
            let message = Message::NoSnapshot { term: self.owner.term(), copies }.encode();
            out.push(Output::Send { to, message });
            self.owner.send_entries(to);
        }
        if self.owner.takes_snapshot_wish() && self.snapshots.making.is_none() && undisputed {
            self.snapshots.last += 1;
            let id = SnapshotId(self.snapshots.last);
            self.snapshots.making = Some(id);
            out.push(Output::MakeSnapshot { id });
        }
        let idle = self.snapshots.sending.is_empty() && self.now.since(self.snapshots.used_at) >= KEPT_FOR;
        if idle && let Some(id) = self.snapshots.offered.take() {
            self.owner.withdraw_snapshot();
            self.to_drop.push(id);
        }
        for id in self.to_drop.drain(..) {
            self.snapshots.copies.remove(&id);
            out.push(Output::DropSnapshot { id });
        }
        self.take_arrived(out);
        out.extend(self.to_discard.drain(..).map(|staged| Output::DiscardSnapshot { staged }));
    }

    fn snapshot_sent(&mut self, to: MemberId, ok: bool) {
        self.owner.snapshot_sent(to, ok);
        if !ok && !mutant!("a_snapshot_is_asked_for_that_cannot_be_made") {
            self.snapshots.refused.insert(to);
        }
    }

    /// Those who are getting a copy of this state while it is in dispute are told not to use it, again and
    /// again, as a message may be lost.
    fn warn(&mut self) {
        let warned_at = self.snapshots.warned_at;
        if warned_at.is_none_or(|at| self.now.since(at) >= WARN_EVERY) && !self.snapshots.sending.is_empty() {
            self.snapshots.warned_at = Some(self.now);
            self.snapshots.refused.extend(self.snapshots.sending.keys());
        }
    }

    /// Another member makes no snapshot for this one.
    pub(super) fn snapshot_refused(&mut self, from: MemberId, term: Term, copies: u64) {
        self.owner.snapshot_refused(from, term);
        if copies > 0 {
            self.snapshots.void.insert(from, (term, copies));
        }
    }

    /// No snapshot can be made for now: whoever asked for one takes entries again, and asks again later.
    fn refuse_requests(&mut self) {
        self.snapshots.refused.extend(self.owner.refuse_requests());
    }

    fn state_is_undisputed(&mut self) -> bool {
        self.judgement() == Judgement::Sound || mutant!("a_disputed_state_is_passed_on")
    }

    /// Gives consensus the snapshot that arrived, if it can hear of one now.
    fn take_arrived(&mut self, out: &mut Vec<Output>) {
        if self.owner.is_installing() {
            return;
        }
        let Some(arrived) = self.snapshots.arrived.take() else { return };
        // The message and the files must speak of the same, before consensus believes the message.
        let position = &arrived.position;
        let point = SnapshotPoint { index: position.index, term: position.term };
        let fits = position.cluster_id == self.config.cluster_id
            && self.owner.snapshot_speaks_of(arrived.from, &arrived.message, point, &position.conf_state);
        let is_void = self
            .snapshots
            .void
            .get(&arrived.from)
            .is_some_and(|(term, copies)| self.owner.snapshot_is_of(&arrived.message, *term, *copies));
        if !fits || is_void {
            self.owner.end_request();
            out.push(Output::DiscardSnapshot { staged: arrived.staged });
            return;
        }
        match self.owner.snapshot_arrived(arrived.from, &arrived.message) {
            Ok(Arrival::Taken) => {
                self.snapshots.installing = Some(arrived);
                // The order to install comes out of the next drain of consensus.
                self.upkeep.status_changed = true;
            }
            Ok(Arrival::NoLeader) => self.snapshots.arrived = Some(arrived),
            Ok(Arrival::NotWanted) | Err(_) => {
                // Its sender believes that it was of use: nobody else tells this member to take entries again.
                self.owner.end_request();
                out.push(Output::DiscardSnapshot { staged: arrived.staged });
            }
        }
    }

    /// Consensus wants the snapshot that it was given to be installed.
    pub(super) fn install_snapshot(
        &mut self,
        point: SnapshotPoint,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        let Some(installing) = &self.snapshots.installing else {
            return Err(Fatal::Raft(format!("a snapshot is to be installed that did not arrive; {point:?}")));
        };
        let position = &installing.position;
        if (position.index, position.term) != (point.index, point.term) {
            return Err(Fatal::Damaged(format!(
                "a snapshot's rows are not what its message says; rows={}/{} message={}/{}",
                position.index, position.term, point.index, point.term
            )));
        }
        self.machine.store_mut().close();
        for slot in self.proposals.lost_track().into_iter().chain(self.membership.lost_track()) {
            self.replies.push((slot, Err(Error::Timeout)));
        }
        out.push(Output::InstallSnapshot { staged: installing.staged, index: point.index });
        Ok(())
    }

    fn snapshot_installed(&mut self) -> Result<(), Fatal> {
        let Some(installed) = self.snapshots.installing.take() else { return Ok(()) };
        self.machine.reload(mvcc::Options { value_cache_bytes: self.config.value_cache_bytes })?;
        let applied = self.machine.applied();
        if applied.index != installed.position.index {
            return Err(Fatal::Damaged(format!(
                "the rows put in place are not those of the snapshot; found={} expected={}",
                applied.index, installed.position.index
            )));
        }
        let (revision, compact_revision) = (applied.revision, applied.compact_revision);
        let applied = (applied.index, applied.chain_hash);
        self.upkeep = Upkeep::new(applied.0);
        if !mutant!("hashes_outlive_a_snapshot") {
            self.integrity.replaced();
        }
        self.integrity.applied(applied.0, applied.1);
        self.repaired();
        self.cluster_changed();
        self.owner.installed(&mut self.drained);
        self.restored = Some((revision, compact_revision));
        Ok(())
    }
}
