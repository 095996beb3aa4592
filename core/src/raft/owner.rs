//! The owner of the `RawNode`: everything that touches it goes through here.

use std::collections::VecDeque;

use bytes::Bytes;
use prost_raft::Message as _;
use raft::eraftpb::{self, EntryType, Message, MessageType};
use raft::{RawNode, StateRole};

use super::ingress::{self, Refused};
use super::snapshot::{Installing, SnapshotPoint, snapshot_id};
use super::start::{StartPoint, recovered_tail};
use super::tail::LogTail;
use crate::error::Fatal;
use crate::limits;
use crate::mutant::mutant;
use crate::types::{LogIndex, MemberId, Term};
use crate::wal::{BatchBuilder, HardState, LogPoint, Recovered, WalBatch};

/// Settings of the consensus room.
#[derive(Clone, Debug)]
pub struct OwnerConfig {
    /// This member.
    pub id: MemberId,
    /// Ticks without a leader before an election, at least; etcd's default is 10.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Which start of this member it is; makes read rounds unique.
    pub boot: u64,
    /// Seed of the election timeouts.
    pub seed: u64,
    /// Entries kept in memory behind the applied one for followers that lag a little.
    pub kept_entries: usize,
    /// The same in bytes.
    pub kept_bytes: usize,
}

/// What a member is to its cluster right now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Follows, or listens as a learner.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// Who votes and who only listens.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfState {
    /// Voters, ascending.
    pub voters: Vec<MemberId>,
    /// Learners, ascending.
    pub learners: Vec<MemberId>,
}

/// Number of one attempt to confirm leadership; never used twice (not even after a restart, with
/// the boot number beside it), so that a late answer to an old attempt cannot pass for a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReadRound(pub u64);

/// A committed log entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommittedEntry {
    /// Its index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Whether it changes the membership; otherwise it holds commands, or nothing when it only
    /// marks a leader's start.
    pub conf_change: bool,
    /// Its payload.
    pub data: Bytes,
}

/// What one round of work gave.
#[derive(Debug, Default)]
pub struct Drained {
    /// A log write: number, records, whether somebody waits for it.
    pub wal: Option<(u64, WalBatch, bool)>,
    /// Messages that may leave now.
    pub messages: Vec<(MemberId, Bytes)>,
    /// Entries to apply, in order.
    pub committed: Vec<CommittedEntry>,
    /// Confirmed read rounds with the index that must be applied first.
    pub reads: Vec<(ReadRound, LogIndex)>,
    /// Snapshots to send: receiver, the copy's number, the message that goes with it.
    pub snapshots: Vec<(MemberId, u64, Bytes)>,
    /// A snapshot to install: nothing else comes out until [`Owner::installed`].
    pub install: Option<SnapshotPoint>,
}

/// A log write that is not durable yet, and what waits for it.
pub(super) struct Unpersisted {
    pub wal_number: u64,
    pub ready_number: u64,
    /// The term that is durable with it.
    pub term: u64,
    pub messages: Vec<Message>,
}

/// See the module.
pub struct Owner {
    pub(super) config: OwnerConfig,
    pub(super) raw: RawNode<LogTail>,
    unpersisted: VecDeque<Unpersisted>,
    wal_number: u64,
    /// No restart leads in this term or an earlier one again.
    durable_term: u64,
    /// The log on disk does not lead up to the engine's rows: the next write starts it anew.
    pending_reset: Option<LogPoint>,
    /// A snapshot is being installed, and this write waits for it.
    pub(super) installing: Option<Installing>,
    /// The log is kept from here on for a follower that is getting a snapshot.
    pub(super) kept_from: Option<u64>,
    /// In ticks, from when the count began.
    election_timeout: usize,
    draws: u64,
}

impl Owner {
    /// Starts from the recovered log; `start` is what the engine holds.
    ///
    /// A sole voter campaigns at once.
    pub fn new(config: OwnerConfig, start: &StartPoint, recovered: Recovered) -> Result<Self, Fatal> {
        let applied = start.applied.index;
        let (tail, pending_reset) = recovered_tail(start, recovered)?;
        let raft_config = raft::Config {
            id: config.id.0,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: applied.0,
            pre_vote: true,
            check_quorum: true,
            read_only_option: match mutant!("reads_trust_the_clock") {
                true => raft::ReadOnlyOption::LeaseBased,
                false => raft::ReadOnlyOption::Safe,
            },
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            max_uncommitted_size: limits::PENDING_BYTES_MAX as u64,
            max_committed_size_per_ready: limits::COMMITTED_BYTES_PER_DRAIN as u64,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, tail, &logger).map_err(|e| Fatal::Raft(e.to_string()))?;
        let election_timeout = config.election_ticks;
        let durable_term = raw.raft.term;
        let mut owner = Self {
            config,
            raw,
            unpersisted: VecDeque::new(),
            wal_number: 0,
            durable_term,
            pending_reset,
            installing: None,
            kept_from: None,
            election_timeout,
            draws: 0,
        };
        if owner.is_sole_voter() {
            owner.raw.campaign().map_err(|e| Fatal::Raft(e.to_string()))?;
        }
        Ok(owner)
    }

    /// One tick interval passed.
    pub fn tick(&mut self) {
        if self.installing.is_some() || self.campaigns_too_early() {
            return;
        }
        self.draw_election_timeout();
        self.raw.tick();
    }

    /// The same for a member that must not ask for votes. Time passes for it, too: without that it
    /// would believe in a dead leader for ever, and turn away those who ask it for their votes.
    pub fn tick_without_campaign(&mut self) {
        if self.installing.is_some() {
            return;
        }
        self.draw_election_timeout();
        let raft = &mut self.raw.raft;
        raft.election_elapsed += 1;
        if raft.election_elapsed >= self.election_timeout {
            let term = raft.term;
            raft.become_follower(term, 0);
        }
    }

    /// Who is alone wins as soon as it campaigns, and whoever wins must have its whole log on disk:
    /// the crate takes that for granted. Others wait for it by waiting for votes.
    fn campaigns_too_early(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        self.role() != Role::Leader && self.is_sole_voter() && log.persisted < log.last_index()
    }

    /// The crate draws election timeouts from thread-local randomness whenever it starts to count
    /// anew, which would make two runs of one seed differ; it reads them only while ticking, so
    /// ours is put in place before each tick.
    fn draw_election_timeout(&mut self) {
        if self.raw.raft.election_elapsed == 0 {
            self.draws += 1;
            let mixed = split_mix(self.config.seed ^ split_mix(self.config.id.0) ^ split_mix(self.draws));
            let ticks = self.config.election_ticks;
            self.election_timeout = ticks + (mixed % ticks as u64) as usize;
        }
        self.raw.raft.set_randomized_election_timeout(self.election_timeout);
    }

    /// Appends entries to the leader's log, all in one step.
    ///
    /// # Errors
    /// Gives the payloads' fate as a whole: `false` means that nothing was appended, because
    /// this member does not lead, moves leadership away, or has too much uncommitted already.
    pub fn propose(&mut self, payloads: Vec<Vec<u8>>) -> bool {
        self.propose_entries(
            payloads.into_iter().map(|data| eraftpb::Entry { data, ..eraftpb::Entry::default() }).collect(),
        )
    }

    /// The same for entries of any kind.
    pub(super) fn propose_entries(&mut self, entries: Vec<eraftpb::Entry>) -> bool {
        if self.role() != Role::Leader || entries.is_empty() {
            return false;
        }
        let mut message = Message { from: self.config.id.0, entries, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        self.raw.raft.step(message).is_ok()
    }

    /// Starts to confirm that this member's (or its leader's) leadership still holds. Says
    /// whether the attempt is under way; the crate drops it silently before the first commit of
    /// a term and without a leader.
    pub fn read_index(&mut self, round: ReadRound) -> bool {
        let raft = &self.raw.raft;
        let before = (raft.pending_read_count(), raft.ready_read_count(), raft.msgs.len());
        let mut context = Vec::with_capacity(24);
        for number in [self.config.id.0, self.config.boot, round.0] {
            context.extend_from_slice(&number.to_be_bytes());
        }
        self.raw.read_index(context);
        let raft = &self.raw.raft;
        before != (raft.pending_read_count(), raft.ready_read_count(), raft.msgs.len())
    }

    fn read_round(&self, context: &[u8]) -> Option<ReadRound> {
        let own = [self.config.id.0.to_be_bytes(), self.config.boot.to_be_bytes()].concat();
        let round = context.strip_prefix(own.as_slice())?;
        Some(ReadRound(u64::from_be_bytes(round.try_into().ok()?)))
    }

    /// A message of another member. One that asks this member to lead is not heard if it is not fit to.
    pub fn peer_message(&mut self, from: MemberId, bytes: &[u8], is_fit: bool) -> Result<(), Refused> {
        let mut message = ingress::check(bytes, from, self.config.id, self.last_index().0)?;
        if message.msg_type == MessageType::MsgSnapshot as i32 {
            return Err(Refused::BareSnapshot);
        }
        let asked_to_lead = message.msg_type == MessageType::MsgTimeoutNow as i32;
        let must_not = self.campaigns_too_early() || !is_fit;
        if self.installing.is_some() || asked_to_lead && must_not {
            // As good as lost on the way.
            return Ok(());
        }
        self.end_requests_of_earlier_terms(message.term);
        // What this member leads with is all that anybody can have.
        if self.role() == Role::Leader && message.term == self.raw.raft.term {
            ingress::check_answer(&message, self.last_index().0)?;
            if self.read_request_as_answer(&mut message) {
                return Ok(());
            }
        }
        // An answer from somebody who is not a member any more; dropping it is all there is to do.
        let _ = self.raw.step(message);
        Ok(())
    }

    /// The log write of this number and all before it are durable.
    pub fn wal_done(&mut self, number: u64, out: &mut Drained) {
        while self.unpersisted.front().is_some_and(|write| write.wal_number <= number) {
            let write = self.unpersisted.pop_front().expect("looked at above");
            self.raw.on_persist_ready(write.ready_number);
            self.durable_term = write.term;
            send(write.messages, out);
        }
        if self.unpersisted.is_empty() {
            self.finish_installing();
        }
    }

    /// Everything up to `index` was applied.
    pub fn applied(&mut self, index: LogIndex) {
        self.raw.advance_apply_to(index.0);
        let (count, bytes) = match self.is_alone() {
            true => (0, 0),
            false => (self.config.kept_entries, self.config.kept_bytes),
        };
        let store = self.raw.store();
        let ceiling = self.kept_from.map_or(u64::MAX, |kept_from| {
            // A follower that takes long over a snapshot would find the log cut again; there is a
            // bound to what is kept for it.
            kept_from.max(store.surplus(index.0, usize::MAX, limits::TAIL_BYTES_FOR_SNAPSHOT, u64::MAX))
        });
        let surplus = store.surplus(index.0, count, bytes, ceiling);
        self.raw.mut_store().compact(surplus);
    }

    /// The log on disk may lose entries up to here: a follower that lags only a little can still
    /// be served from it after a restart.
    pub fn log_needed_after(&self) -> LogIndex {
        LogIndex(self.raw.store().start())
    }

    /// Collects what the inputs since the last call brought about, up to some bytes of committed
    /// entries; [`Self::has_more`] says whether that was all.
    pub fn drain(&mut self, out: &mut Drained) -> Result<(), Fatal> {
        let mut batch = BatchBuilder::new();
        if let Some(point) = self.pending_reset {
            batch.push_reset(point);
        }
        let mut write = Unpersisted { wal_number: 0, ready_number: 0, term: 0, messages: Vec::new() };
        let (mut records, mut sync) = (false, false);
        let mut committed_bytes = 0;
        while committed_bytes < limits::COMMITTED_BYTES_PER_DRAIN
            && self.installing.is_none()
            && self.raw.has_ready()
        {
            let mut ready = self.raw.ready();
            let install = (!ready.snapshot().is_empty()).then(|| SnapshotPoint::of(ready.snapshot()));
            if let Some(point) = install {
                batch.push_reset(point.log_point());
                self.raw.mut_store().reset(point.index.0, point.term.0);
                records = true;
            }
            write.term = self.raw.raft.term;
            let leads_durably = write.term <= self.durable_term;
            if leads_durably || mutant!("a_sole_voter_leads_in_an_unwritten_term") {
                send(ready.take_messages(), out);
            } else {
                // Who leads by the votes of others has written its term before they voted. Who leads by
                // its own vote may lead in the same term again after a power cut, with other entries.
                // Heartbeats are not kept, for they would be many: a disk may take long.
                let heartbeat = MessageType::MsgHeartbeat as i32;
                let messages = ready.take_messages().into_iter();
                write.messages.extend(messages.filter(|message| message.msg_type != heartbeat));
            }
            for entry in ready.entries() {
                batch.push_entry(
                    LogIndex(entry.index),
                    Term(entry.term),
                    entry.entry_type as u8,
                    &entry.data,
                );
                records = true;
            }
            if let Some(state) = ready.hs() {
                // A lone commit index need not reach the disk: it rides on the next write.
                if ready.must_sync() && !mutant!("hard_state_is_not_logged") {
                    batch.push_hard_state(HardState {
                        term: Term(state.term),
                        vote: state.vote,
                        commit: LogIndex(state.commit),
                    });
                    records = true;
                }
            }
            sync |= ready.must_sync();
            self.raw.mut_store().append(ready.take_entries());
            for state in ready.take_read_states() {
                if let Some(round) = self.read_round(&state.request_ctx) {
                    out.reads.push((round, LogIndex(state.index)));
                }
            }
            let mut voters_change = false;
            for entry in ready.take_committed_entries() {
                committed_bytes += entry.data.len();
                let conf_change = entry.entry_type != EntryType::EntryNormal as i32;
                voters_change |= conf_change;
                out.committed.push(CommittedEntry {
                    index: LogIndex(entry.index),
                    term: Term(entry.term),
                    conf_change,
                    data: entry.data.into(),
                });
            }
            // A member that forgot at a restart that a change of voters was committed would ask for the
            // votes of those who have gone, for ever if nobody else leads.
            if voters_change && !mutant!("the_commit_of_a_change_is_not_logged") {
                let state = self.raw.raft.hard_state();
                batch.push_hard_state(HardState {
                    term: Term(state.term),
                    vote: state.vote,
                    commit: LogIndex(state.commit),
                });
                (records, sync) = (true, true);
            }
            let (now, held) = split_by_promise(ready.take_persisted_messages(), sync);
            send(now, out);
            write.messages.extend(held);
            write.ready_number = ready.number();
            self.raw.advance_append_async(ready);
            if !records {
                self.settle_without_write(&mut write, out);
            }
            if let Some(point) = install.filter(|_| mutant!("the_log_is_reset_before_the_rows_are_there")) {
                self.installing = Some(Installing { point, held: None });
                out.install = Some(point);
                break;
            }
            if let Some(point) = install {
                // The hard state of a snapshot must not reach the disk before its rows do.
                let held = (write, std::mem::take(&mut batch));
                self.installing = Some(Installing { point, held: Some(held) });
                out.install = Some(point);
                return Ok(());
            }
        }
        if records {
            self.write(write, batch, sync, out);
        }
        Ok(())
    }

    /// Gives out a log write.
    pub(super) fn write(
        &mut self,
        mut write: Unpersisted,
        batch: BatchBuilder,
        sync: bool,
        out: &mut Drained,
    ) {
        self.pending_reset = None;
        self.wal_number += 1;
        write.wal_number = self.wal_number;
        if mutant!("answer_before_the_log_is_durable") {
            self.raw.on_persist_ready(write.ready_number);
            send(std::mem::take(&mut write.messages), out);
        }
        self.unpersisted.push_back(write);
        out.wal = Some((self.wal_number, batch.finish(), sync));
    }

    /// Whether another [`Self::drain`] would give something.
    pub fn has_more(&self) -> bool {
        self.installing.is_none() && self.raw.has_ready()
    }

    /// A `Ready` without anything to write is as durable as the last one before it.
    fn settle_without_write(&mut self, write: &mut Unpersisted, out: &mut Drained) {
        let messages = std::mem::take(&mut write.messages);
        match self.unpersisted.back_mut() {
            Some(last) => {
                (last.ready_number, last.term) = (write.ready_number, write.term);
                last.messages.extend(messages);
            }
            None => {
                self.raw.on_persist_ready(write.ready_number);
                self.durable_term = write.term;
                send(messages, out);
            }
        }
    }

    /// What this member is now.
    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower => Role::Follower,
        }
    }

    /// The current term.
    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// The leader as known here.
    pub fn leader(&self) -> Option<MemberId> {
        (self.raw.raft.leader_id != 0).then_some(MemberId(self.raw.raft.leader_id))
    }

    /// The last index known to be committed.
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    /// Whether this member leads and has committed an entry of its term.
    pub fn has_committed_in_term(&self) -> bool {
        self.role() == Role::Leader && self.raw.raft.commit_to_current_term()
    }

    /// The last index of the log.
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.last_index())
    }

    /// Whether this member alone decides.
    pub fn is_sole_voter(&self) -> bool {
        let voters = self.raw.raft.prs().conf().voters().ids();
        voters.len() == 1 && voters.contains(self.config.id.0)
    }

    /// Whether there is nobody to replicate to.
    fn is_alone(&self) -> bool {
        self.is_sole_voter() && self.raw.raft.prs().conf().learners().is_empty()
    }

    /// Whether this member votes.
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.raw.raft.prs().conf().voters().contains(id.0)
    }

    /// Asks the leader's raft to hand over.
    pub fn transfer_leader(&mut self, target: MemberId) {
        self.raw.transfer_leader(target.0);
    }

    /// To whom leadership is being moved.
    pub fn transferring_to(&self) -> Option<MemberId> {
        self.raw.raft.lead_transferee.map(MemberId)
    }

    /// The voter that would be the best next leader: of those `in_touch`, the one with the most of
    /// the log.
    pub fn best_successor(&self, in_touch: impl Fn(MemberId) -> bool) -> Option<MemberId> {
        let tracker = self.raw.raft.prs();
        let voters = tracker.conf().voters().ids();
        tracker
            .iter()
            .map(|(id, progress)| (MemberId(*id), progress.matched))
            .filter(|(id, _)| *id != self.config.id && voters.contains(id.0) && in_touch(*id))
            .max_by_key(|(id, matched)| (*matched, std::cmp::Reverse(*id)))
            .map(|(id, _)| id)
    }

    /// Stops leading without waiting for anybody, in the current term.
    pub fn abdicate(&mut self) {
        if self.role() == Role::Leader {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
        }
    }

    /// The transport lost a message to this member, or its connection.
    pub fn unreachable(&mut self, peer: MemberId) {
        self.raw.report_unreachable(peer.0);
    }
}

/// Answers that say nothing about this member's disk may leave at once, as long as no vote or
/// term change waits for it; the others are held until the write they speak of is durable.
fn split_by_promise(messages: Vec<Message>, state_waits: bool) -> (Vec<Message>, Vec<Message>) {
    if mutant!("promises_leave_before_the_sync") {
        return (messages, Vec::new());
    }
    messages.into_iter().partition(|message| {
        !state_waits
            && matches!(
                MessageType::from_i32(message.msg_type),
                Some(
                    MessageType::MsgHeartbeatResponse
                        | MessageType::MsgReadIndex
                        | MessageType::MsgReadIndexResp
                )
            )
    })
}

pub(super) fn send(messages: Vec<Message>, out: &mut Drained) {
    for message in messages {
        let (to, bytes) = (MemberId(message.to), Bytes::from(message.encode_to_vec()));
        match message.msg_type == MessageType::MsgSnapshot as i32 {
            true => out.snapshots.push((to, snapshot_id(message.get_snapshot()), bytes)),
            false => out.messages.push((to, bytes)),
        }
    }
}

/// The SplitMix64 output function (Steele, Lea, Flood 2014).
fn split_mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
