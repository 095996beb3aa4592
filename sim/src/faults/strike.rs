//! What each kind of fault does to the world, and how it is taken back.

use std::collections::BTreeSet;

use bytes::Bytes;
use folkmoot_core::node::Input;

use super::FaultKind;
use crate::network::{HostAt, NetFault};
use crate::random::Random;
use crate::sometimes::Situation;
use crate::time::{MS, SEC, seconds};
use crate::world::{ADMINISTRATOR, Admin, Happening, Stop, World};

impl World {
    /// An episode begins.
    pub fn fault_begins(&mut self, at: usize) {
        let episode = self.plan.episodes[at].clone();
        self.counts.faults += 1;
        self.storm.active.insert(at, episode.kind);
        let classes: BTreeSet<_> = self.storm.active.values().map(|kind| kind.class()).collect();
        if classes.len() >= 3 {
            self.storm.overlapped = true;
            self.met(Situation::ThreeFaults);
        }
        let mut random = Random::new(episode.seed, "episode", 0);
        self.note(|| {
            format!("FAULT #{} {} for {} s", episode.number, episode.kind.name(), seconds(episode.lasts))
        });
        self.strike(at, episode.kind, &mut random, episode.lasts);
        self.queue.push(self.now + episode.lasts, Happening::End(at));
    }

    fn one(&self, random: &mut Random) -> HostAt {
        let there: Vec<HostAt> = (0..self.hosts.len()).filter(|at| !self.hosts[*at].gone).collect();
        // The leader is where most can go wrong.
        match self.leader() {
            Some(leader) if random.one_in(3) => leader,
            _ => *random.pick(&there),
        }
    }

    fn strike(&mut self, at: usize, kind: FaultKind, random: &mut Random, lasts: u64) {
        let count = self.hosts.len();
        match kind {
            FaultKind::Loss => self.network.begin(at, NetFault::Loss(random.between(1, 30) as f64 / 100.0)),
            FaultKind::Duplicate => {
                self.network.begin(at, NetFault::Duplicate(random.between(1, 30) as f64 / 100.0));
            }
            FaultKind::Reorder => self.network.begin(at, NetFault::Reorder),
            FaultKind::Replay => {
                let late = random.spread(100 * MS, 30 * SEC);
                self.network.begin(at, NetFault::Replay(late));
            }
            FaultKind::Delay => {
                let more = random.spread(10 * MS, 2 * SEC);
                self.network.begin(at, NetFault::Delay(more));
            }
            FaultKind::SlowLink => {
                let (from, to) = (self.one(random), random.below(count as u64) as usize);
                let more = random.spread(20 * MS, 3 * SEC);
                self.network.begin(at, NetFault::SlowLink(from, to, more));
            }
            FaultKind::Partition => {
                let mut places: Vec<HostAt> = (0..count).collect();
                random.shuffle(&mut places);
                let cut = random.between(1, count as u64 - 1) as usize;
                let groups =
                    vec![places[..cut].iter().copied().collect(), places[cut..].iter().copied().collect()];
                self.begin_cut(at, NetFault::Groups(groups));
            }
            FaultKind::IsolateLeader => {
                let alone = self.leader().unwrap_or_else(|| self.one(random));
                let others = (0..count).filter(|other| *other != alone).collect();
                self.begin_cut(at, NetFault::Groups(vec![[alone].into(), others]));
            }
            FaultKind::OneWay => {
                let struck = self.one(random);
                let outward = random.one_in(2);
                let one = random.one_in(2).then(|| random.below(count as u64) as usize);
                let cut = (0..count)
                    .filter(|other| *other != struck && one.is_none_or(|one| one == *other))
                    .map(|other| if outward { (struck, other) } else { (other, struck) })
                    .collect();
                self.met(Situation::OneWayCut);
                self.begin_cut(at, NetFault::Cut(cut));
            }
            FaultKind::Bridge => {
                // Two halves that only one member can talk to.
                let bridge = self.one(random);
                let mut others: Vec<HostAt> = (0..count).filter(|other| *other != bridge).collect();
                random.shuffle(&mut others);
                let (left, right) = others.split_at(others.len() / 2);
                let pairs = left.iter().flat_map(|a| right.iter().flat_map(move |b| [(*a, *b), (*b, *a)]));
                self.begin_cut(at, NetFault::Cut(pairs.collect()));
            }
            FaultKind::Flap => {
                let struck = self.one(random);
                self.storm.touched.insert(at, vec![struck]);
                self.queue.push(self.now, Happening::Step(at));
            }
            FaultKind::Garbage => self.deliver_garbage(random),
            FaultKind::ClientCut => {
                let struck = self.one(random);
                let cut = (0..self.clients.len()).filter(|_| random.one_in(2)).map(|client| (client, struck));
                self.storm.client_cuts.insert(at, cut.collect());
            }
            FaultKind::Kill | FaultKind::PowerCut => {
                let struck = self.one(random);
                if kind == FaultKind::PowerCut && self.plan.learners_stay && random.one_in(2) {
                    // Twice, so that nothing of the life in between is durable.
                    self.restart(struck, Stop::PowerCut, lasts / 4);
                    self.hosts[struck].trouble.stuck_until = self.now + lasts;
                    self.storm.touched.insert(at, vec![struck]);
                    self.queue.push(self.now + lasts / 4 * 3, Happening::Step(at));
                } else if kind == FaultKind::PowerCut && random.one_in(2) {
                    self.hosts[struck].cut_in_sync = Some(lasts);
                } else {
                    let stop = if kind == FaultKind::Kill { Stop::Kill } else { Stop::PowerCut };
                    self.restart(struck, stop, lasts);
                }
            }
            FaultKind::CrashMidOutputs => {
                let struck = self.one(random);
                self.hosts[struck].armed = Some(if random.one_in(2) { Stop::Kill } else { Stop::PowerCut });
            }
            FaultKind::CrashLoop => {
                let struck = self.one(random);
                self.storm.touched.insert(at, vec![struck]);
                self.queue.push(self.now, Happening::Step(at));
            }
            FaultKind::AllDown => {
                for struck in 0..count {
                    let stop = if random.one_in(2) { Stop::Kill } else { Stop::PowerCut };
                    if !self.hosts[struck].gone {
                        self.restart(struck, stop, random.between(MS, lasts.min(5 * SEC)));
                    }
                }
            }
            FaultKind::Pause => {
                let struck = self.one(random);
                if self.hosts[struck].leads() {
                    self.met(Situation::LeaderPaused);
                }
                self.met(Situation::Paused);
                let id = self.hosts[struck].id;
                self.note(|| format!("member {id} is paused"));
                // What falls due meanwhile is put off until then, and must not be when faults are over.
                let until = (self.now + lasts).min(self.plan.fault_time);
                let host = &mut self.hosts[struck];
                host.paused_until = host.paused_until.max(until);
            }
            FaultKind::Sluggish => {
                let struck = self.one(random);
                self.hosts[struck].sluggish = random.spread(MS, 300 * MS);
                self.storm.touched.insert(at, vec![struck]);
            }
            FaultKind::Rolling => {
                self.met(Situation::RollingRestart);
                let mut when = 0;
                for struck in 0..count {
                    when += random.between(500 * MS, 3 * SEC);
                    self.storm.touched.entry(at).or_default().push(struck);
                    self.queue.push(self.now + when, Happening::Step(at));
                }
            }
            FaultKind::SlowDisk => {
                let struck = self.one(random);
                self.hosts[struck].trouble.slow = random.spread(3, 300);
                self.storm.touched.insert(at, vec![struck]);
            }
            FaultKind::StuckSync => {
                let struck = self.one(random);
                self.hosts[struck].trouble.stuck_until = self.now + lasts;
            }
            FaultKind::SyncError => {
                let struck = self.one(random);
                self.hosts[struck].trouble.fail_sync = true;
                self.storm.touched.insert(at, vec![struck]);
            }
            FaultKind::WriteError => {
                let struck = self.one(random);
                self.hosts[struck].trouble.fail_write = true;
                self.storm.touched.insert(at, vec![struck]);
            }
            FaultKind::DiskFull => {
                let struck = self.one(random);
                self.hosts[struck].disk.capacity = 0;
                self.storm.touched.insert(at, vec![struck]);
            }
            FaultKind::Drift => {
                let struck = self.one(random);
                let drift = random.spread(10, 40_000) as i64;
                let drift = if random.one_in(2) { drift } else { -drift };
                self.drift(struck, drift);
                self.storm.touched.insert(at, vec![struck]);
            }
            FaultKind::Jump => {
                let struck = self.one(random);
                self.met(Situation::ClockJumped);
                let by = random.spread(MS, 300 * MS);
                self.hosts[struck].clock.jump(self.now, by);
                self.schedule_turn(struck, self.now + MS);
            }
            FaultKind::MoveLeader => {
                let (asked, target) = (self.one(random), random.below(count as u64) as usize);
                let target = self.hosts[target].id;
                self.ask_admin(ADMINISTRATOR, asked, Admin::MoveLeader(target), 5 * SEC);
            }
            FaultKind::StepDown
            | FaultKind::AddLearner
            | FaultKind::AddVoter
            | FaultKind::RemoveMember
            | FaultKind::ReplaceMember
            | FaultKind::UpdateMember
            | FaultKind::NoSpaceAlarm => {
                let random = Random::new(random.number(), "job", 0);
                self.begin_job(at, kind, random);
            }
            FaultKind::BitFlipSnapshot => {}
            FaultKind::WipedMember => self.wipe_member(at, random),
            FaultKind::BitFlipLog => self.flip_log_bit(at, random),
            FaultKind::SpoiledState => self.spoil_state(at, random),
        }
    }

    /// A bit of a log flips while its member is down. Only where the log proves that the place was
    /// durable: damage in what nothing proves cannot be told from a write that a crash cut short.
    fn flip_log_bit(&mut self, at: usize, random: &mut Random) {
        let struck = self.one(random);
        if !self.may_lose_disk() || self.hosts[struck].running.is_none() {
            return;
        }
        let proven = self.hosts[struck].running.as_ref().and_then(|running| running.log.proven());
        let Some((name, within)) = proven else { return };
        self.crash(struck, Stop::Kill);
        let host = &mut self.hosts[struck];
        let Some(byte) = host.disk.flip_bit(&name, within, random) else { return };
        host.flipped = true;
        let id = host.id;
        self.met(Situation::BitFlipped);
        self.note(|| format!("a bit flips in {name} of member {id} at {byte}"));
        self.start(struck);
        let host = &mut self.hosts[struck];
        if host.running.is_none() {
            host.damaged = true;
            host.gone = true;
            let random = Random::new(random.number(), "job", 1);
            self.repair_job(at, id, random);
        } else {
            host.flipped = false;
        }
    }

    /// A member comes back under its old id with an empty disk, as an operator's mistake brings it
    /// about. The others know the disk that it had and hear nothing of this one; it is replaced
    /// later.
    fn wipe_member(&mut self, at: usize, random: &mut Random) {
        let struck = self.one(random);
        let id = self.hosts[struck].id;
        let known = self.members().iter().any(|member| member.id == id && member.incarnation != 0);
        let everywhere = self.hosts.iter().filter_map(|host| host.running.as_ref()).all(|running| {
            let members = &running.node.status().members;
            members.iter().any(|member| member.id == id && member.incarnation != 0)
        });
        if !known || !everywhere || self.hosts.iter().any(|host| !host.gone && host.running.is_none()) {
            return;
        }
        if !self.may_lose_disk() {
            return;
        }
        self.lose_machine(struck);
        self.hosts[struck].gone = false;
        self.hosts[struck].wiped = true;
        self.hosts[struck].incarnation += 1;
        self.note(|| format!("member {id} comes back with an empty disk"));
        self.start(struck);
        let random = Random::new(random.number(), "job", 3);
        self.repair_job(at, id, random);
    }

    /// A bit of a member's state in memory flips.
    fn spoil_state(&mut self, at: usize, random: &mut Random) {
        let struck = match self.leader() {
            Some(leader) if random.one_in(2) => leader,
            _ => self.one(random),
        };
        if !self.may_spoil() {
            return;
        }
        // Another one that was away for long can be brought up only by a snapshot, and must not get
        // one of the wrong state.
        if random.one_in(2) {
            let others: Vec<HostAt> =
                (0..self.hosts.len()).filter(|at| *at != struck && !self.hosts[*at].gone).collect();
            let away = *random.pick(&others);
            self.restart(away, Stop::Kill, random.between(8 * SEC, 25 * SEC));
        }
        let host = &mut self.hosts[struck];
        if let Some(running) = &mut host.running {
            running.node.spoil_state();
            host.spoiled = true;
            let id = host.id;
            self.met(Situation::StateSpoiled);
            self.note(|| format!("the state of member {id} is spoiled"));
            let random = Random::new(random.number(), "job", 2);
            self.consent_job(at, id, random);
        }
    }

    fn drift(&mut self, at: HostAt, drift: i64) {
        self.hosts[at].clock.set_drift(self.now, drift);
        // What was planned by the old speed is planned anew.
        self.schedule_turn(at, self.now + MS);
    }

    fn begin_cut(&mut self, at: usize, fault: NetFault) {
        self.note(|| format!("cut: {fault:?}"));
        self.network.begin(at, fault);
        if let Some(leader) = self.leader() {
            let reached = (0..self.hosts.len())
                .filter(|other| !self.network.is_cut(leader, *other) && !self.network.is_cut(*other, leader))
                .count();
            if reached * 2 <= self.hosts.len() {
                self.met(Situation::PartitionedLeader);
            }
        }
    }

    /// Bytes that no member of this cluster sent, or that were meant for another.
    fn deliver_garbage(&mut self, random: &mut Random) {
        let (from, to) = (self.one(random), random.below(self.hosts.len() as u64) as usize);
        if from == to {
            return;
        }
        self.met(Situation::GarbageRefused);
        let from = self.hosts[from].id;
        for _ in 0..random.between(1, 20) {
            let bytes: Vec<u8> = (0..random.below(60)).map(|_| random.below(256) as u8).collect();
            self.give(to, Input::Peer { from, message: Bytes::from(bytes) });
        }
    }

    /// An episode with several steps goes on.
    pub fn fault_goes_on(&mut self, at: usize) {
        let Some(kind) = self.storm.active.get(&at).copied() else { return };
        let Some(struck) = self.storm.touched.get(&at).and_then(|struck| struck.last()).copied() else {
            return;
        };
        match kind {
            FaultKind::Flap => {
                if self.network.is_cut(struck, (struck + 1) % self.hosts.len()) {
                    self.end_network_fault(at);
                } else {
                    let others = (0..self.hosts.len()).filter(|other| *other != struck).collect();
                    self.begin_cut(at, NetFault::Groups(vec![[struck].into(), others]));
                }
                let pause = self.storm.random.spread(20 * MS, 2 * SEC);
                self.queue.push(self.now + pause, Happening::Step(at));
            }
            FaultKind::CrashLoop => {
                if self.hosts[struck].running.is_some() {
                    let stop = if self.storm.random.one_in(2) { Stop::Kill } else { Stop::PowerCut };
                    let down = self.storm.random.spread(MS, 500 * MS);
                    self.restart(struck, stop, down);
                }
                let pause = self.storm.random.spread(MS, SEC);
                self.queue.push(self.now + pause, Happening::Step(at));
            }
            FaultKind::PowerCut => {
                self.hosts[struck].trouble.stuck_until = self.now;
                if self.hosts[struck].running.is_some() {
                    self.restart(struck, Stop::PowerCut, 50 * MS);
                }
            }
            FaultKind::Rolling => {
                self.storm.touched.entry(at).or_default().pop();
                if self.hosts[struck].running.is_some() {
                    let down = self.storm.random.between(100 * MS, SEC);
                    self.restart(struck, Stop::Kill, down);
                }
            }
            _ => {}
        }
    }

    /// An episode ends.
    pub fn fault_ends(&mut self, at: usize) {
        let Some(kind) = self.storm.active.remove(&at) else { return };
        self.note(|| format!("end of #{} {}", self.plan.episodes[at].number, kind.name()));
        self.storm.client_cuts.remove(&at);
        self.end_network_fault(at);
        for struck in self.storm.touched.remove(&at).unwrap_or_default() {
            let host = &mut self.hosts[struck];
            match kind {
                FaultKind::Sluggish => host.sluggish = 0,
                FaultKind::SlowDisk => host.trouble.slow = 1,
                FaultKind::SyncError => {
                    host.trouble.fail_sync = false;
                    self.mend_disk(struck);
                }
                FaultKind::WriteError => {
                    host.trouble.fail_write = false;
                    self.mend_disk(struck);
                }
                FaultKind::DiskFull => {
                    host.disk.capacity = usize::MAX;
                    self.mend_disk(struck);
                }
                FaultKind::Drift => self.drift(struck, 0),
                _ => {}
            }
        }
    }

    /// The disk works again; a member that stopped because of it is started.
    fn mend_disk(&mut self, at: HostAt) {
        let host = &mut self.hosts[at];
        if host.running.is_none() && host.fatal.is_some() {
            let life = host.life;
            self.queue.push(self.now + 10 * MS, Happening::Start(at, life));
        }
    }

    fn end_network_fault(&mut self, at: usize) {
        for (from, to, message) in self.network.end(at) {
            self.met(Situation::HeldDelivered);
            let to_life = self.hosts[to].life;
            self.queue.push(self.now + MS, Happening::Message { from, to, to_life, late: false, message });
        }
    }

    /// Everything ends at once.
    pub fn end_all_faults(&mut self) {
        for at in self.storm.active.keys().copied().collect::<Vec<_>>() {
            self.fault_ends(at);
        }
        self.finish_jobs();
    }
}
