//! Snapshots as consensus sees them: a point of the log with its configuration. The rows travel
//! beside, as files that this room knows by a number only.
//!
//! Sending: `raft` wants one, the host makes a copy of the engine, it is offered to `raft`, which
//! puts it into messages; each message leaves together with the copy's files, and its follower
//! gets nothing else until the host has told how that ended.
//! Installing: the files have arrived and were checked before the message is given to `raft`. If
//! `raft` takes it, everything stops until the engine's rows are replaced; only then the log is
//! started anew behind them, so that a crash at any moment leaves the old state or the new.

use prost_raft::Message as _;
use raft::eraftpb::{self, Message, MessageType, Snapshot};
use raft::{ProgressState, SnapshotStatus, StateRole};

use super::ingress::{self, Refused};
use super::owner::{ConfState, Drained, Owner, Role, Unpersisted};
use crate::mutant::mutant;
use crate::types::{LogIndex, MemberId, Term};
use crate::wal::{BatchBuilder, LogPoint};

/// The entry up to which a snapshot holds everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPoint {
    /// Its index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
}

impl SnapshotPoint {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let metadata = snapshot.get_metadata();
        Self { index: LogIndex(metadata.index), term: Term(metadata.term) }
    }

    pub(super) fn log_point(self) -> LogPoint {
        LogPoint { index: self.index, term: self.term }
    }
}

/// A snapshot that is being installed. Until its point is durable in the log, too, `raft` must
/// neither tick nor hear anything: it would look for entries that are no more.
pub(super) struct Installing {
    pub point: SnapshotPoint,
    /// The log write that waits for the rows; gone once it was given out.
    pub held: Option<(Unpersisted, BatchBuilder)>,
}

/// What became of a snapshot that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It is to be installed; [`Drained::install`] says when.
    Taken,
    /// This member has all of it already, or is no member of it.
    NotWanted,
    /// It was made for a leader that is gone, and none is known: give it again later.
    NoLeader,
}

fn to_raft(conf_state: &ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: conf_state.voters.iter().map(|id| id.0).collect(),
        learners: conf_state.learners.iter().map(|id| id.0).collect(),
        ..eraftpb::ConfState::default()
    }
}

/// The number of the copy that a snapshot stands for, on the member that made it.
pub(super) fn snapshot_id(snapshot: &Snapshot) -> u64 {
    snapshot.get_data().try_into().map_or(0, u64::from_le_bytes)
}

impl Owner {
    /// Whether a follower needs a snapshot and there is none that it could be given.
    pub fn takes_snapshot_wish(&mut self) -> bool {
        self.raw.store().take_wanted()
    }

    /// A copy of the engine exists that holds everything up to `point`.
    pub fn offer_snapshot(&mut self, id: u64, point: SnapshotPoint, conf_state: &ConfState) {
        let mut snapshot = Snapshot { data: id.to_le_bytes().to_vec(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (point.index.0, point.term.0);
        *metadata.mut_conf_state() = to_raft(conf_state);
        self.kept_from = Some(point.index.0);
        self.raw.mut_store().offer(Some(snapshot));
    }

    /// No copy is on offer any more, and the log need not be kept for one.
    pub fn withdraw_snapshot(&mut self) {
        self.kept_from = None;
        self.raw.mut_store().offer(None);
    }

    /// The sending of a snapshot ended, one way or the other.
    pub fn snapshot_sent(&mut self, to: MemberId, ok: bool) {
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to.0, status);
    }

    /// Whether a snapshot's message can be used and speaks of rows as they are after `point`, with
    /// these members.
    pub fn snapshot_speaks_of(
        &self,
        from: MemberId,
        bytes: &[u8],
        point: SnapshotPoint,
        conf_state: &ConfState,
    ) -> bool {
        let checked = ingress::check(bytes, from, self.config.id, self.last_index().0);
        let Ok(message) = checked else { return false };
        let snapshot = message.get_snapshot();
        message.msg_type == MessageType::MsgSnapshot as i32
            && SnapshotPoint::of(snapshot) == point
            && *snapshot.get_metadata().get_conf_state() == to_raft(conf_state)
    }

    /// Whether a snapshot's message was sent in this term or earlier and speaks of this copy or an older one.
    pub fn snapshot_is_of(&self, bytes: &[u8], term: Term, copies: u64) -> bool {
        Message::decode(bytes)
            .is_ok_and(|message| message.term <= term.0 && snapshot_id(message.get_snapshot()) <= copies)
    }

    /// A snapshot's files are here; `bytes` is the message that came with them.
    ///
    /// What a snapshot holds was committed, whoever leads now. One that took longer to arrive
    /// than its leader led is therefore taken as if the present leader had sent it.
    pub fn snapshot_arrived(&mut self, from: MemberId, bytes: &[u8]) -> Result<Arrival, Refused> {
        let mut message = ingress::check(bytes, from, self.config.id, self.last_index().0)?;
        if message.msg_type != MessageType::MsgSnapshot as i32 {
            return Err(Refused::UnknownKind);
        }
        if self.role() == Role::Leader {
            return Ok(Arrival::NotWanted);
        }
        let term = self.raw.raft.term;
        if message.term < term {
            match self.leader() {
                Some(leader) => (message.term, message.from) = (term, leader.0),
                None => return Ok(Arrival::NoLeader),
            }
        }
        let point = SnapshotPoint::of(message.get_snapshot());
        // Asked for as a repair, a snapshot is taken whatever the log says; then it must hold all that
        // this member has acknowledged. An older one may still have been on its way.
        let repairs = self.raw.raft.pending_request_snapshot != 0;
        if repairs && point.index < self.last_index() {
            return Ok(Arrival::NotWanted);
        }
        // An answer from somebody who is not a member any more; dropping it is all there is to do.
        let _ = self.raw.step(message);
        let taken = self.raw.snap().is_some_and(|snapshot| SnapshotPoint::of(snapshot) == point);
        Ok(if taken { Arrival::Taken } else { Arrival::NotWanted })
    }

    /// The rows of the snapshot are in place and durable: the log follows.
    pub fn installed(&mut self, out: &mut Drained) {
        if let Some((write, batch)) = self.installing.as_mut().and_then(|installing| installing.held.take()) {
            self.write(write, batch, true, out);
        }
    }

    /// Everything that was written is durable: if that includes the start of the log behind a
    /// snapshot, consensus goes on from there.
    pub(super) fn finish_installing(&mut self) {
        if let Some(installing) = self.installing.take_if(|installing| installing.held.is_none()) {
            self.raw.advance_apply_to(installing.point.index.0);
        }
    }

    /// Whether a snapshot is being installed.
    pub fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// Asks the leader for a snapshot although the log would do, because this member's rows are
    /// not to be trusted. Says whether a new request is on its way.
    ///
    /// While one is open, `raft` takes no entries: those on their way would overtake the snapshot. So it
    /// ends when its leader says that there will be none, and with its term: the next leader may need
    /// this member for a quorum, and cannot make a snapshot of what it cannot commit.
    pub fn request_snapshot(&mut self) -> bool {
        self.raw.raft.request_snapshot().is_ok()
    }

    /// Forgets a request once a later term is heard of. `raft` would repeat it to the next leader.
    pub(super) fn end_requests_of_earlier_terms(&mut self, heard: u64) {
        let raft = &mut self.raw.raft;
        if heard > raft.term && !mutant!("a_snapshot_is_asked_for_that_cannot_be_made") {
            raft.pending_request_snapshot = 0;
        }
    }

    /// The leader of this term makes no snapshot for this member now.
    pub fn snapshot_refused(&mut self, from: MemberId, term: Term) {
        if (self.leader(), self.term()) == (Some(from), term) {
            self.end_request();
        }
    }

    /// Takes entries again until the next request.
    pub fn end_request(&mut self) {
        self.raw.raft.pending_request_snapshot = 0;
    }

    /// Sends a member that was refused a snapshot the entries that it has missed, now: by the next heartbeat
    /// it may ask again. Who needs a snapshot because the entries are gone waits for the heartbeat.
    pub fn send_entries(&mut self, to: MemberId) {
        let start = self.raw.store().start();
        let raft = &mut self.raw.raft;
        let leads = raft.state == StateRole::Leader;
        let Some(progress) = raft.mut_prs().get_mut(to.0).filter(|_| leads) else { return };
        if progress.state != ProgressState::Snapshot && progress.next_idx > start {
            progress.resume();
            raft.send_append(to.0);
        }
    }

    /// For a leader that makes no snapshot for now. `raft` would send nothing else to those who asked for
    /// one, and they take nothing else: they are forgotten, and given back to be told so.
    pub fn refuse_requests(&mut self) -> Vec<MemberId> {
        if self.role() != Role::Leader || mutant!("a_snapshot_is_asked_for_that_cannot_be_made") {
            return Vec::new();
        }
        let asking = |(id, progress): (&u64, &mut raft::Progress)| {
            let asks = progress.pending_request_snapshot != 0 && progress.state != ProgressState::Snapshot;
            asks.then(|| {
                progress.pending_request_snapshot = 0;
                MemberId(*id)
            })
        };
        self.raw.raft.mut_prs().iter_mut().filter_map(asking).collect()
    }

    /// For the leader, in its own term. Who asks for a snapshot that must hold what is not committed yet
    /// has it all in its log, on disk. Nothing can be committed without that answer if this member is
    /// needed for a quorum, and no such snapshot be made until it is; but `raft` hears the request alone,
    /// and from then on sends nothing but that snapshot. It is taken for the answer that it holds, and
    /// comes again. Says whether there is none.
    pub(super) fn read_request_as_answer(&self, message: &mut eraftpb::Message) -> bool {
        let asks = message.msg_type == MessageType::MsgAppendResponse as i32
            && message.request_snapshot > self.committed().0;
        if !asks || mutant!("a_snapshot_is_asked_for_that_cannot_be_made") {
            return false;
        }
        // An entry of this leader's own: all before it are the same, too.
        let holds = message.reject
            && message.reject_hint == message.request_snapshot
            && message.log_term == message.term;
        message.index = message.request_snapshot;
        (message.reject, message.reject_hint) = (false, 0);
        (message.log_term, message.request_snapshot) = (0, 0);
        !holds
    }
}
