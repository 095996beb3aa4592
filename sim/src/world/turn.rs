//! The core thread: inputs, one drain, outputs carried out in order.

use bytes::Bytes;
use folkmoot_core::node::{Input, Output};
use folkmoot_core::types::MemberId;
use xxhash_rust::xxh3::xxh3_64;

use super::disks::{LogBusy, LogJob, StorageJob};
use super::hub::HubInput;
use super::{Happening, Host, Life, World};
use crate::faults::FaultKind;
use crate::ledger::log_changes;
use crate::network::HostAt;
use crate::sometimes::Situation;
use crate::time::{MS, Nanos, SEC, US};

/// How long a leader may lead whose disk does not answer: the two seconds after which it notices, an
/// election timeout to hand over, and what a slow member and a wrong clock add.
const STUCK_LEADER_TIME: Nanos = 5 * SEC;

/// The first byte of a message with commands for the leader.
const FORWARD: u8 = 2;
/// Such messages that a network may bring again.
const FORWARDS_REMEMBERED: usize = 50;

impl World {
    /// Gives a member's core something to work on.
    pub fn give(&mut self, at: HostAt, input: Input) {
        let pause = self.machine.spread(5 * US, 60 * US);
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        running.inbox.push(input);
        let when = self.now + pause + host.sluggish;
        self.schedule_turn(at, when);
    }

    /// The core thread of a member looks around at `when`, or earlier.
    pub fn schedule_turn(&mut self, at: HostAt, when: Nanos) {
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        if when < running.turn_at {
            running.turn_at = when;
            self.queue.push(when, Happening::Turn(at, host.life));
        }
    }

    pub(super) fn turn(&mut self, at: HostAt, life: Life) {
        let now = self.now;
        let host = &mut self.hosts[at];
        if host.life != life {
            return;
        }
        let Some(running) = &mut host.running else { return };
        if running.turn_at != now {
            return;
        }
        running.turn_at = Nanos::MAX;
        if host.paused_until > now {
            let until = host.paused_until;
            return self.schedule_turn(at, until);
        }
        let local = host.clock.local(now);
        if local >= running.wakeup {
            if running.wakeup.0 > 0 && local.since(running.wakeup).as_nanos() as u64 > SEC {
                self.sometimes.met(Situation::PausedLongerThanElection);
            }
            running.node.step(local, Input::Tick);
        }
        for input in running.inbox.drain(..) {
            running.node.step(local, input);
        }
        let mut out = Vec::new();
        running.node.drain(local, &mut out);
        self.observe(at, &out);
        self.carry_out(at, out);
        let host = &mut self.hosts[at];
        if host.life == life
            && let Some(running) = &mut host.running
        {
            running.wakeup = running.node.next_wakeup(local);
            let when = host.clock.when(running.wakeup).max(now + US);
            self.schedule_turn(at, when);
        }
    }

    fn carry_out(&mut self, at: HostAt, out: Vec<Output>) {
        let life = self.hosts[at].life;
        let mut left = match self.hosts[at].armed {
            Some(_) if out.len() > 1 => self.machine.below(out.len() as u64),
            _ => u64::MAX,
        };
        for output in out {
            if left == 0
                && let Some(stop) = self.hosts[at].armed
            {
                self.met(Situation::CrashMidOutputs);
                self.crash(at, stop);
                let down = self.machine.spread(10_000 * US, 5 * SEC);
                let life = self.hosts[at].life;
                self.queue.push(self.now + down, Happening::Start(at, life));
                return;
            }
            left = left.wrapping_sub(1);
            self.carry_out_one(at, output);
            if self.hosts[at].life != life {
                return;
            }
        }
    }

    fn carry_out_one(&mut self, at: HostAt, output: Output) {
        let host = &mut self.hosts[at];
        let Some(running) = &mut host.running else { return };
        match output {
            Output::Wal(write) => {
                self.trace.mix(xxh3_64(&write.batch.bytes));
                running.log_jobs.push(LogJob::Write(write));
                self.kick_log(at);
            }
            Output::PurgeLog { up_to } => {
                running.log_jobs.push(LogJob::Purge(up_to));
                self.kick_log(at);
            }
            Output::Store(write) => {
                running.storage_jobs.push_back(StorageJob::Store(write));
                self.kick_storage(at);
            }
            Output::Flush => {
                running.storage_jobs.push_back(StorageJob::Flush);
                self.kick_storage(at);
            }
            Output::Events(batch) => {
                let result = self.ledger.applied(self.now, &batch);
                running.hub_inputs.push(HubInput::Publish(batch));
                self.check("applied", result);
                self.schedule_hub(at);
            }
            Output::Compacted { revision } => {
                running.hub_inputs.push(HubInput::Compacted(revision));
                running.storage_jobs.push_back(StorageJob::Collect(revision));
                self.met(Situation::Compacted);
                self.schedule_hub(at);
                self.kick_storage(at);
            }
            Output::Send { to, message } => self.send(at, to, message),
            Output::MakeSnapshot { id } => {
                running.storage_jobs.push_back(StorageJob::MakeSnapshot(id));
                self.kick_storage(at);
            }
            Output::SendSnapshot { to, id, message } => self.send_snapshot(at, to, id, message),
            Output::DropSnapshot { id } => self.drop_snapshot(at, id),
            Output::InstallSnapshot { staged, index } => {
                running.storage_jobs.push_back(StorageJob::Install(staged, index));
                self.kick_storage(at);
            }
            Output::DiscardSnapshot { staged } => {
                if running.staged.remove(&staged).is_none() {
                    return self.fail("snapshot", format!("an unknown snapshot is discarded: {staged:?}"));
                }
                self.met(Situation::SnapshotDiscarded);
            }
            Output::Restored { revision, compact_revision } => {
                running.hub_inputs.push(HubInput::Restored(revision, compact_revision));
                self.schedule_hub(at);
            }
            Output::Removed => self.member_removed(at),
            Output::Reply { slot, result } => self.core_replies(at, slot, result),
            Output::Status(_) => {}
            Output::Fatal(fatal) => self.stops(at, "core", &fatal),
        }
    }

    fn send(&mut self, from: HostAt, to: MemberId, message: Bytes) {
        self.trace.mix(xxh3_64(&message));
        // A member that was added and is not there yet.
        let Some(to) = self.place_of(to) else { return };
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.clear();
        self.network.send(self.now, from, to, &message, &mut arrivals);
        if let Some(kind @ 2..=4) = message.first() {
            let (from, to, lost) = (self.hosts[from].id, self.hosts[to].id, arrivals.is_empty());
            self.note(|| {
                let kind = ["forward", "membership", "refused"][usize::from(*kind) - 2];
                let what = message.escape_ascii().to_string();
                format!("{kind} from {from} to {to}{}: {what}", if lost { " is lost" } else { "" })
            });
        }
        if arrivals.is_empty() && self.machine.one_in(3) {
            let peer = self.hosts[to].id;
            self.give(from, Input::PeerUnreachable { peer });
        }
        if message.first() == Some(&FORWARD) && self.plan.enabled.contains(&FaultKind::Replay) {
            self.forwards.push_back((from, to, message.clone()));
            if self.forwards.len() > FORWARDS_REMEMBERED {
                self.forwards.pop_front();
            }
        }
        let to_life = self.hosts[to].life;
        for (copy, arrival) in arrivals.iter().enumerate() {
            if copy > 0 {
                self.met(Situation::Duplicated);
            }
            let late = copy > 0;
            let message = message.clone();
            self.queue.push(*arrival, Happening::Message { from, to, to_life, late, message });
        }
        self.arrivals = arrivals;
    }

    /// Commands that were sent to this member when it led before arrive again now that it leads anew,
    /// from a network that keeps what it carries.
    fn bring_forwards_again(&mut self, to: HostAt) {
        let to_life = self.hosts[to].life;
        let again: Vec<_> = self.forwards.iter().filter(|(_, other, _)| *other == to).cloned().collect();
        for (from, to, message) in again {
            let arrival = self.now + self.machine.spread(MS, 2 * SEC);
            self.queue.push(arrival, Happening::Message { from, to, to_life, late: true, message });
        }
    }

    pub(super) fn message_arrives(
        &mut self,
        from: HostAt,
        to: HostAt,
        to_life: Life,
        late: bool,
        message: Bytes,
    ) {
        // What was on its way to an earlier start of the member went with its connection; only a
        // hostile network brings it.
        if self.hosts[to].life != to_life && !late {
            return;
        }
        if self.knows_another_disk(from, to) || self.knows_another_disk(to, from) {
            return self.met(Situation::LostLogRefused);
        }
        let from = self.hosts[from].id;
        // The transport hears nobody who was removed, and tells him so.
        if self.hosts[to].running.as_ref().is_some_and(|to| to.node.status().removed.contains(&from)) {
            if let Some(from) = self.place_of(from)
                && !self.network.is_cut(to, from)
            {
                self.member_removed(from);
            }
            return;
        }
        self.give(to, Input::Peer { from, message });
    }

    /// Whether a member's transport refuses another because it remembers another disk of it.
    pub(super) fn knows_another_disk(&self, of: HostAt, at: HostAt) -> bool {
        let (of, Some(running)) = (&self.hosts[of], &self.hosts[at].running) else { return false };
        let members = &running.node.status().members;
        members.iter().any(|member| {
            member.id == of.id && member.incarnation != 0 && member.incarnation != of.incarnation
        })
    }

    /// Looks at a member after a drain, before its outputs have any effect: what it says must be
    /// true already.
    fn observe(&mut self, at: HostAt, out: &[Output]) {
        let Some(mut running) = self.hosts[at].running.take() else { return };
        for output in out {
            if let Output::Wal(write) = output {
                let mut changes = Vec::new();
                log_changes(&write.batch.bytes, &mut changes);
                let before = running.written.last();
                for change in changes {
                    running.written.follow(change);
                }
                if running.written.last() < before {
                    self.met(Situation::EntriesReplaced);
                }
            }
        }
        let id = self.hosts[at].id;
        let status = running.node.status();
        let seen = &mut running.seen;
        if let Some(leader) = status.leader {
            let known = self.ledger.leader(status.term, leader);
            self.check("election", known.map(|_| ()));
            let leads = leader == id;
            if leads && !seen.leads {
                let complete = self.ledger.leader_is_complete(status.term, &running.written);
                self.check("leader completeness", complete);
                self.met(Situation::LeaderElected);
                if let Some(before) = self.last_leader.replace(at) {
                    let before = &self.hosts[before];
                    let stuck = before.running.as_ref().is_some_and(|running| running.log_busy.is_some());
                    if stuck && before.trouble.stuck_until > self.now {
                        self.met(Situation::StalledLeaderHandedOver);
                    }
                }
                if self.ledger.leader_count() > 1 {
                    self.met(Situation::LeaderChanged);
                }
                if self.hosts.iter().any(Host::leads) {
                    self.met(Situation::TwoLeaders);
                }
                let term = status.term;
                self.note(|| format!("member {id} leads term {term}"));
                self.bring_forwards_again(at);
            }
            seen.leads = leads;
        } else {
            seen.leads = false;
        }
        let leads = seen.leads;
        let syncing_since = running.log_busy.as_ref().and_then(LogBusy::syncing_since);
        if leads && let Some(since) = syncing_since {
            let since = since.max(self.hosts[at].paused_until);
            let voters = status.members.iter().filter(|member| !member.learner).count();
            if voters > 1 && self.now > since + STUCK_LEADER_TIME {
                self.fail(
                    "stuck leader",
                    format!("member {id} leads on, and its disk has not answered since {since}"),
                );
            }
        }
        let voters: Vec<MemberId> =
            status.members.iter().filter(|member| !member.learner).map(|member| member.id).collect();
        if voters != seen.voters {
            seen.earlier_voters = std::mem::replace(&mut seen.voters, voters);
            seen.voters_since = status.applied;
        }
        if status.committed > seen.committed {
            let hosts = &self.hosts;
            let enough = |index, stamp, voters: &[MemberId]| {
                let holds = |host: &&Host| voters.contains(&host.id) && host.held(index, stamp);
                !voters.is_empty() && hosts.iter().filter(holds).count() * 2 > voters.len()
            };
            let durable = |index, stamp| {
                if enough(index, stamp, &seen.voters) || enough(index, stamp, &seen.earlier_voters) {
                    return Ok(());
                }
                Err(format!(
                    "an entry counts as committed that a majority does not have on disk; index={index} member={id}"
                ))
            };
            let result = self.ledger.committed(
                status.term,
                status.committed,
                seen.committed,
                &running.written,
                seen.snapshot,
                durable,
            );
            seen.committed = status.committed;
            self.check("commitment", result);
        }
        let state = (running.node.applied_index(), running.node.chain_hash().1);
        if running.seen.state != state {
            running.seen.state = state;
            let spoiled = &mut self.hosts[at].spoiled;
            if !*spoiled {
                let result = self.ledger.state_hash(state.0, state.1);
                self.check("state hash", result);
            } else if self.ledger.has_state_hash(state.0, state.1) {
                *spoiled = false;
                self.sometimes.met(Situation::SpoiledRepaired);
            }
        }
        let corrupt = running.node.status().corrupt;
        if corrupt && !running.seen.corrupt {
            self.sometimes.met(Situation::SpoiledNoticed);
            let excused = self.hosts[at].spoiled;
            self.note(|| format!("member {id} says that its state is wrong"));
            if !excused {
                self.fail(
                    "integrity",
                    format!("member {id} believes that its state is wrong, and it is not"),
                );
            }
        }
        running.seen.corrupt = corrupt;
        self.hosts[at].running = Some(running);
    }
}
