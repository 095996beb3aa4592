//! The owner of the `RawNode`: everything that touches it goes through here.

use std::collections::VecDeque;

use bytes::Bytes;
use prost_raft::Message as _;
use raft::eraftpb::{self, EntryType, Message, MessageType};
use raft::{RawNode, StateRole, Storage};

use super::ingress::{self, Refused};
use super::tail::LogTail;
use crate::error::Fatal;
use crate::limits;
use crate::types::{LogIndex, MemberId, Term};
use crate::wal::{BatchBuilder, HardState, Recovered, WalBatch};

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
}

/// A log write that is not durable yet, and what waits for it.
struct Unpersisted {
    wal_number: u64,
    ready_number: u64,
    messages: Vec<Message>,
}

/// See the module.
pub struct Owner {
    config: OwnerConfig,
    raw: RawNode<LogTail>,
    unpersisted: VecDeque<Unpersisted>,
    wal_number: u64,
    timeout_drawn_for: Option<(u64, StateRole)>,
    draws: u64,
}

impl Owner {
    /// Starts from the recovered log. `applied` and `conf_state` are what the engine holds.
    ///
    /// A sole voter campaigns at once.
    pub fn new(
        config: OwnerConfig,
        applied: (LogIndex, Term),
        conf_state: &ConfState,
        recovered: Recovered,
    ) -> Result<Self, Fatal> {
        let (applied, applied_term) = applied;
        let tail = recovered_tail(applied, applied_term, conf_state, recovered)?;
        let raft_config = raft::Config {
            id: config.id.0,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: applied.0,
            pre_vote: true,
            check_quorum: true,
            read_only_option: raft::ReadOnlyOption::Safe,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            max_uncommitted_size: limits::PENDING_BYTES_MAX as u64,
            max_committed_size_per_ready: limits::COMMITTED_BYTES_PER_DRAIN as u64,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, tail, &logger).map_err(|e| Fatal::Raft(e.to_string()))?;
        let mut owner = Self {
            config,
            raw,
            unpersisted: VecDeque::new(),
            wal_number: 0,
            timeout_drawn_for: None,
            draws: 0,
        };
        if owner.is_sole_voter() {
            owner.raw.campaign().map_err(|e| Fatal::Raft(e.to_string()))?;
        }
        Ok(owner)
    }

    /// One tick interval passed.
    pub fn tick(&mut self) {
        self.draw_election_timeout();
        self.raw.tick();
    }

    /// The crate draws election timeouts from thread-local randomness, which would make two runs
    /// of one seed differ; it reads them only while ticking, so ours is set before each tick of a
    /// new term or role.
    fn draw_election_timeout(&mut self) {
        let situation = (self.raw.raft.term, self.raw.raft.state);
        if self.timeout_drawn_for != Some(situation) {
            self.timeout_drawn_for = Some(situation);
            self.draws += 1;
            let mixed = split_mix(self.config.seed ^ split_mix(self.config.id.0) ^ split_mix(self.draws));
            let ticks = self.config.election_ticks;
            let timeout = ticks + (mixed % ticks as u64) as usize;
            self.raw.raft.set_randomized_election_timeout(timeout);
        }
    }

    /// Appends entries to the leader's log, all in one step.
    ///
    /// # Errors
    /// Gives the payloads' fate as a whole: `false` means that nothing was appended, because
    /// this member does not lead, moves leadership away, or has too much uncommitted already.
    pub fn propose(&mut self, payloads: Vec<Vec<u8>>) -> bool {
        if self.role() != Role::Leader || payloads.is_empty() {
            return false;
        }
        let entries =
            payloads.into_iter().map(|data| eraftpb::Entry { data, ..eraftpb::Entry::default() }).collect();
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

    /// A message of another member.
    pub fn peer_message(&mut self, from: MemberId, bytes: &[u8]) -> Result<(), Refused> {
        let last = self.raw.store().last();
        let message = ingress::check(bytes, from, self.config.id, last)?;
        // An answer from somebody who is not a member any more; dropping it is all there is to do.
        let _ = self.raw.step(message);
        Ok(())
    }

    /// The log write of this number and all before it are durable.
    pub fn wal_done(&mut self, number: u64, out: &mut Drained) {
        while self.unpersisted.front().is_some_and(|write| write.wal_number <= number) {
            let write = self.unpersisted.pop_front().expect("looked at above");
            self.raw.on_persist_ready(write.ready_number);
            send(write.messages, out);
        }
    }

    /// Everything up to `index` was applied.
    pub fn applied(&mut self, index: LogIndex) {
        self.raw.advance_apply_to(index.0);
        let (count, bytes) = match self.is_sole_voter() {
            true => (0, 0),
            false => (limits::TAIL_ENTRIES_KEPT, limits::TAIL_BYTES_KEPT),
        };
        let surplus = self.raw.store().surplus(index.0, count, bytes);
        self.raw.mut_store().compact(surplus);
    }

    /// Collects what the inputs since the last call brought about, up to some bytes of committed
    /// entries; [`Self::has_more`] says whether that was all.
    pub fn drain(&mut self, out: &mut Drained) -> Result<(), Fatal> {
        let mut batch = BatchBuilder::new();
        let mut write = Unpersisted { wal_number: 0, ready_number: 0, messages: Vec::new() };
        let (mut records, mut sync) = (false, false);
        let mut committed_bytes = 0;
        while committed_bytes < limits::COMMITTED_BYTES_PER_DRAIN && self.raw.has_ready() {
            let mut ready = self.raw.ready();
            if !ready.snapshot().is_empty() {
                return Err(Fatal::Raft("a snapshot arrived that this version cannot install".into()));
            }
            send(ready.take_messages(), out);
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
                if ready.must_sync() {
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
            for entry in ready.take_committed_entries() {
                committed_bytes += entry.data.len();
                out.committed.push(CommittedEntry {
                    index: LogIndex(entry.index),
                    term: Term(entry.term),
                    conf_change: entry.entry_type != EntryType::EntryNormal as i32,
                    data: entry.data.into(),
                });
            }
            let (now, held) = split_by_promise(ready.take_persisted_messages(), sync);
            send(now, out);
            write.messages.extend(held);
            write.ready_number = ready.number();
            self.raw.advance_append_async(ready);
            if !records {
                self.settle_without_write(&mut write, out);
            }
        }
        if records {
            self.wal_number += 1;
            write.wal_number = self.wal_number;
            self.unpersisted.push_back(write);
            out.wal = Some((self.wal_number, batch.finish(), sync));
        }
        Ok(())
    }

    /// Whether another [`Self::drain`] would give something.
    pub fn has_more(&self) -> bool {
        self.raw.has_ready()
    }

    /// A `Ready` without anything to write is as durable as the last one before it.
    fn settle_without_write(&mut self, write: &mut Unpersisted, out: &mut Drained) {
        let messages = std::mem::take(&mut write.messages);
        match self.unpersisted.back_mut() {
            Some(last) => {
                last.ready_number = write.ready_number;
                last.messages.extend(messages);
            }
            None => {
                self.raw.on_persist_ready(write.ready_number);
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

    /// Whether this member alone decides.
    pub fn is_sole_voter(&self) -> bool {
        let voters = self.raw.raft.prs().conf().voters().ids();
        voters.len() == 1 && voters.contains(self.config.id.0)
    }

    /// Whether this member votes.
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.raw.raft.prs().conf().voters().contains(id.0)
    }

    /// Asks the leader's raft to hand over.
    pub fn transfer_leader(&mut self, target: MemberId) {
        self.raw.transfer_leader(target.0);
    }
}

fn recovered_tail(
    applied: LogIndex,
    applied_term: Term,
    conf_state: &ConfState,
    recovered: Recovered,
) -> Result<LogTail, Fatal> {
    let last = recovered.entries.last().map_or(recovered.start.index, |entry| entry.index);
    let fresh = applied.0 == 0 && last.0 == 0;
    if !fresh && last < applied {
        return Err(Fatal::Damaged(format!(
            "the log ends before what was applied, it was lost or replaced: restore the member from a \
             backup or remove it from the cluster and add it again; last_log_index={last} applied={applied}"
        )));
    }
    if recovered.start.index > applied {
        return Err(Fatal::Damaged(format!(
            "the log begins after what was applied, segments are missing; log_start={} applied={applied}",
            recovered.start.index
        )));
    }
    // A commit index alone is not synced, so the engine may know more than the log says.
    let hard_state = eraftpb::HardState {
        term: recovered.hard_state.term.0.max(applied_term.0),
        // A vote counts in its own term only.
        vote: if recovered.hard_state.term < applied_term { 0 } else { recovered.hard_state.vote },
        commit: recovered.hard_state.commit.0.max(applied.0).min(last.0.max(applied.0)),
    };
    let ids = |members: &[MemberId]| members.iter().map(|id| id.0).collect::<Vec<_>>();
    let conf_state = eraftpb::ConfState {
        voters: ids(&conf_state.voters),
        learners: ids(&conf_state.learners),
        ..eraftpb::ConfState::default()
    };
    let mut tail = LogTail::new(applied.0, applied_term.0, hard_state, conf_state);
    tail.append(
        recovered
            .entries
            .into_iter()
            .filter(|entry| entry.index > applied)
            .map(|entry| eraftpb::Entry {
                entry_type: i32::from(entry.kind),
                index: entry.index.0,
                term: entry.term.0,
                data: entry.data.into(),
                ..eraftpb::Entry::default()
            })
            .collect(),
    );
    debug_assert_eq!(tail.last_index().ok(), Some(last.0.max(applied.0)));
    Ok(tail)
}

/// Answers that say nothing about this member's disk may leave at once, as long as no vote or
/// term change waits for it; the others are held until the write they speak of is durable.
fn split_by_promise(messages: Vec<Message>, state_waits: bool) -> (Vec<Message>, Vec<Message>) {
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

fn send(messages: Vec<Message>, out: &mut Drained) {
    out.messages.extend(
        messages.into_iter().map(|message| (MemberId(message.to), Bytes::from(message.encode_to_vec()))),
    );
}

/// The SplitMix64 output function (Steele, Lea, Flood 2014).
fn split_mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
