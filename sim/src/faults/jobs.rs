//! What administrators do in several steps: a member is added and promoted, removed, replaced; an
//! alarm is raised and taken back. A job asks members until it has what it wants or its time is
//! over.

use folkmoot_core::cluster::{Alarm, AlarmKind};
use folkmoot_core::codec;
use folkmoot_core::command::Command;
use folkmoot_core::node::Reply;
use folkmoot_core::types::MemberId;
use folkmoot_proto::etcdserverpb as pb;

use super::FaultKind;
use crate::ledger::LogView;
use crate::network::HostAt;
use crate::random::Random;
use crate::sometimes::Situation;
use crate::time::{MS, Nanos, SEC};
use crate::world::{ADMINISTRATOR, Admin, Answer, Happening, Phase, Stop, World, member};

/// What a job wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Add {
        id: MemberId,
        learner: bool,
    },
    /// Add the id of a member that was removed, which must be refused.
    AddAgain(MemberId),
    Promote(MemberId),
    Remove(MemberId),
    Update(MemberId),
    RaiseAlarm(MemberId),
    ClearAlarm(Alarm),
    StepDown,
    Nothing,
}

/// See the module.
pub struct Job {
    wish: Wish,
    then: Vec<Wish>,
    /// The call under way.
    call: Option<u64>,
    /// The newest entry of the leader when that call was made.
    last_at_call: u64,
    until: Nanos,
    random: Random,
}

/// Pause between two attempts.
const PAUSE: Nanos = 400 * MS;
/// How long a job goes on.
const JOB_TIME: Nanos = 20 * SEC;
/// Voters that a cluster may grow to.
const VOTERS_MAX: usize = 5;

impl World {
    /// A job begins.
    pub(super) fn begin_job(&mut self, at: usize, kind: FaultKind, mut random: Random) {
        let members = self.members();
        let voters: Vec<MemberId> =
            members.iter().filter(|member| !member.learner).map(|member| member.id).collect();
        let Some(leader) = self.leader().map(|leader| self.hosts[leader].id) else { return };
        let any = |random: &mut Random| if random.one_in(3) { leader } else { *random.pick(&voters) };
        let replacing = self.storm.jobs.values().any(|job| job.loses_or_removes());
        let full = voters.len() >= VOTERS_MAX || self.removed_member().is_some() && random.one_in(3);
        let (wish, then) = match kind {
            FaultKind::AddLearner if !full => {
                let id = self.take_member_id();
                let mut then = vec![Wish::Promote(id)];
                if self.plan.learners_stay && random.one_in(2) {
                    then.clear();
                }
                if random.one_in(2) {
                    then.push(Wish::Update(id));
                }
                (Wish::Add { id, learner: true }, then)
            }
            FaultKind::AddVoter if !full => {
                (Wish::Add { id: self.take_member_id(), learner: false }, Vec::new())
            }
            FaultKind::RemoveMember if voters.len() > 3 && !replacing && self.may_lose_disk() => {
                (Wish::Remove(any(&mut random)), Vec::new())
            }
            FaultKind::ReplaceMember if !replacing && self.may_lose_disk() => {
                let lost = any(&mut random);
                let Some(place) = self.place_of(lost) else { return };
                self.lose_machine(place);
                self.met(Situation::MemberReplaced);
                let id = self.take_member_id();
                let then = vec![Wish::Promote(id), Wish::Add { id, learner: true }];
                (Wish::Remove(lost), then)
            }
            FaultKind::AddVoter | FaultKind::AddLearner => match self.removed_member() {
                Some(removed) => (Wish::AddAgain(removed), Vec::new()),
                None => return,
            },
            FaultKind::UpdateMember => (Wish::Update(any(&mut random)), Vec::new()),
            FaultKind::NoSpaceAlarm => {
                let id = any(&mut random);
                let alarm = Alarm { member: id, kind: AlarmKind::NoSpace };
                (Wish::RaiseAlarm(id), vec![Wish::ClearAlarm(alarm)])
            }
            FaultKind::StepDown => (Wish::StepDown, Vec::new()),
            _ => return,
        };
        let until = self.now + JOB_TIME;
        self.storm.jobs.insert(at, Job { wish, then, call: None, last_at_call: 0, until, random });
        self.queue.push(self.now, Happening::Job(at));
    }

    fn removed_member(&self) -> Option<MemberId> {
        let members = self.members();
        let known = |id: MemberId| members.iter().any(|member| member.id == id);
        let removed = self.leader().and_then(|leader| self.hosts[leader].running.as_ref());
        removed?.node.status().removed.iter().copied().find(|id| !known(*id))
    }

    fn take_member_id(&mut self) -> MemberId {
        let id = self.next_member_id();
        self.unused_ids += 1;
        id
    }

    /// The machine of a member with a wrong state is taken away and another takes its place.
    pub fn replace_machine(&mut self, at: HostAt) {
        self.lose_machine(at);
        let (lost, number) = (self.hosts[at].id, self.plan.episodes.len() + at);
        self.hosts[at].spoiled = false;
        let random = Random::new(self.plan.seed, "replace", at as u64);
        if self.phase == Phase::Faults {
            self.repair_job(number, lost, random);
        }
        // The others remember that somebody differed, and forget it with a restart.
        for at in 0..self.hosts.len() {
            if !self.hosts[at].gone {
                self.restart(at, Stop::Kill, 100 * MS);
            }
        }
    }

    /// A damaged or spoiled member is to be made good by an administrator.
    pub(super) fn repair_job(&mut self, at: usize, lost: MemberId, random: Random) {
        let id = self.take_member_id();
        let then = vec![Wish::Promote(id), Wish::Add { id, learner: true }];
        let until = self.now + JOB_TIME;
        self.storm
            .jobs
            .insert(at, Job { wish: Wish::Remove(lost), then, call: None, last_at_call: 0, until, random });
        self.queue.push(self.now, Happening::Job(at));
    }

    /// A member's state was spoiled: an administrator will see the alarm and turn it off, which is
    /// the consent to replace the state.
    pub(super) fn consent_job(&mut self, at: usize, spoiled: MemberId, random: Random) {
        let wish = Wish::ClearAlarm(Alarm { member: spoiled, kind: AlarmKind::Corrupt });
        let until = self.now + JOB_TIME;
        self.storm
            .jobs
            .insert(at, Job { wish, then: vec![wish; 5], call: None, last_at_call: 0, until, random });
        self.queue.push(self.now + 4 * SEC, Happening::Job(at));
    }

    /// A job goes on.
    pub fn job_goes_on(&mut self, at: usize) {
        let Some(mut job) = self.storm.jobs.remove(&at) else { return };
        if job.call.is_none() && job.wish != Wish::Nothing && self.now < job.until {
            let asked = self.choose_member(&mut job.random, None);
            let wish = job.wish;
            let id = self.hosts[asked].id;
            self.note(|| format!("an administrator asks member {id}: {wish:?}"));
            if let Wish::Remove(target) = wish
                && self.leader().is_some_and(|leader| self.hosts[leader].id == target)
            {
                self.met(Situation::LeaderRemoved);
            }
            job.last_at_call = self.newest_entry();
            job.call = Some(self.ask_admin(ADMINISTRATOR, asked, job.admin(), 8 * SEC));
        }
        if job.wish != Wish::Nothing && self.now < job.until {
            self.storm.jobs.insert(at, job);
        }
    }

    /// An administrator has an answer.
    pub fn administrator_hears(&mut self, call: u64, answer: Answer) {
        if let Answer::AdminOk(reply) = &answer
            && **reply == Reply::Transferred
        {
            self.met(Situation::LeaderMoved);
        }
        let Some(at) = self.storm.jobs.iter().find(|(_, job)| job.call == Some(call)).map(|(at, _)| *at)
        else {
            return self.note(|| format!("an administrator hears: {answer:?}"));
        };
        let Some(mut job) = self.storm.jobs.remove(&at) else { return };
        job.call = None;
        let wish = job.wish;
        self.note(|| format!("an administrator hears about {wish:?}: {answer:?}"));
        let done = match &answer {
            Answer::AdminOk(_) => {
                if let Wish::Promote(id) = wish {
                    self.must_have_caught_up(id, job.last_at_call);
                }
                true
            }
            Answer::Error(_) => {
                self.met(Situation::MemberChangeRefused);
                // It may have been done by an earlier attempt whose answer was lost.
                self.is_done(wish)
            }
            _ => self.is_done(wish),
        };
        if done {
            self.wish_came_true(wish);
            job.wish = job.then.pop().unwrap_or(Wish::Nothing);
        }
        let pause = if matches!(job.wish, Wish::ClearAlarm(_)) { SEC } else { PAUSE };
        self.storm.jobs.insert(at, job);
        self.queue.push(self.now + pause, Happening::Job(at));
    }

    /// The newest entry of who leads.
    fn newest_entry(&self) -> u64 {
        let leader = self.leader().and_then(|leader| self.hosts[leader].running.as_ref());
        leader.map_or(0, |running| running.node.status().committed.0)
    }

    /// A learner was promoted: it must have had nine tenths of the log (etcd's rule).
    fn must_have_caught_up(&mut self, id: MemberId, committed: u64) {
        let had = self.place_of(id).map_or(0, |at| {
            let host = &self.hosts[at];
            host.durable
                .last()
                .max(host.lost.iter().map(LogView::last).max().unwrap_or(0))
                .max(host.applied().0)
        });
        if had < committed / 10 * 9 {
            self.fail("membership", format!("member {id} was promoted with {had} of {committed} entries"));
        }
    }

    fn is_done(&self, wish: Wish) -> bool {
        let members = self.members();
        let find = |id: MemberId| members.iter().find(|member| member.id == id);
        match wish {
            Wish::Add { id, .. } => find(id).is_some(),
            Wish::Promote(id) => find(id).is_some_and(|member| !member.learner),
            Wish::Remove(id) => find(id).is_none(),
            _ => false,
        }
    }

    fn wish_came_true(&mut self, wish: Wish) {
        if self.network.has_cut() && matches!(wish, Wish::Add { .. } | Wish::Promote(_) | Wish::Remove(_)) {
            self.met(Situation::MemberChangeDuringCut);
        }
        match wish {
            Wish::Add { id, .. } => {
                self.met(Situation::MemberAdded);
                self.join(id);
            }
            Wish::Promote(_) => self.met(Situation::MemberPromoted),
            Wish::Update(_) => self.met(Situation::MemberUpdated),
            Wish::AddAgain(id) => self.fail("membership", format!("the removed id {id} was given again")),
            Wish::RaiseAlarm(_) => self.met(Situation::AlarmRaised),
            Wish::StepDown => self.met(Situation::SteppedDown),
            Wish::Remove(_) | Wish::ClearAlarm(_) | Wish::Nothing => {}
        }
    }

    /// The faults are over: what jobs left half done is finished, so that the cluster can be whole.
    pub(super) fn finish_jobs(&mut self) {
        self.storm.jobs.clear();
        for at in 0..self.hosts.len() {
            if self.hosts[at].wiped && !self.hosts[at].gone {
                self.hosts[at].gone = true;
                self.crash(at, Stop::Kill);
            }
        }
        self.queue.push(self.now, Happening::Tidy);
    }

    /// Brings members that were added and have not started, ends those that were removed, and takes
    /// alarms back.
    pub fn tidy(&mut self) {
        let members = self.members();
        for member in &members {
            if self.place_of(member.id).is_none() {
                self.join(member.id);
            }
        }
        if let Some(leader) = self.leader().filter(|leader| !self.hosts[*leader].gone) {
            let status = self.hosts[leader].running.as_ref().map(|running| running.node.status().clone());
            let status = status.expect("it leads");
            for at in 0..self.hosts.len() {
                let host = &self.hosts[at];
                let removed = status.removed.contains(&host.id)
                    || !status.members.iter().any(|member| member.id == host.id) && self.is_settled(leader);
                if removed && !host.gone {
                    self.hosts[at].gone = true;
                    self.crash(at, Stop::Kill);
                }
            }
            self.settle_dispute(leader);
            // What is gone for good is taken out, so that it is no party to anything any more.
            let gone = status.members.iter().map(|member| member.id);
            let gone: Vec<MemberId> =
                gone.filter(|id| self.place_of(*id).is_some_and(|at| self.hosts[at].gone)).collect();
            for id in gone {
                let command = codec::cluster::member_remove(id);
                self.ask_admin(ADMINISTRATOR, leader, Admin::Command(command), 5 * SEC);
            }
            for alarm in status.alarms.iter() {
                let command = clear_alarm(*alarm);
                self.ask_admin(ADMINISTRATOR, leader, Admin::Command(command), 5 * SEC);
            }
        }
        if self.phase != Phase::Done {
            self.queue.push(self.now + SEC, Happening::Tidy);
        }
    }

    /// A wrong member that too few others can be compared with, because they lag and need a snapshot
    /// of a leader whose state is in dispute: nobody but an operator can end that.
    fn settle_dispute(&mut self, leader: HostAt) {
        let Some(spoiled) = self.hosts.iter().position(|host| host.spoiled && !host.gone) else { return };
        let applied = self.hosts[leader].applied();
        let members = self.members();
        let voters = members.iter().filter(|member| !member.learner).count();
        let sound = members.iter().filter(|member| !member.learner).filter(|member| {
            self.place_of(member.id).is_some_and(|at| {
                let host = &self.hosts[at];
                host.running.is_some() && !host.spoiled && host.applied() == applied
            })
        });
        let decided = sound.count() * 2 > voters;
        if !decided && matches!(self.phase, Phase::Healing(since) if self.now > since + 15 * SEC) {
            self.met(Situation::DisputeSettled);
            self.replace_machine(spoiled);
        }
    }

    /// Whether what the leader says about the members is new enough to act on: one that has just
    /// started again does not know yet what was committed before, such as that somebody was added.
    fn is_settled(&self, leader: usize) -> bool {
        self.hosts[leader].applied() >= self.ledger.last_committed()
            && matches!(self.phase, Phase::Healing(since) if self.now > since + 5 * SEC)
    }
}

impl Job {
    /// Whether the job takes this member away, if it has not yet.
    pub fn removes(&self, id: MemberId) -> bool {
        self.wish == Wish::Remove(id) || self.then.contains(&Wish::Remove(id))
    }

    /// Whether the job takes a member away.
    fn loses_or_removes(&self) -> bool {
        let takes = |wish: &Wish| matches!(wish, Wish::Remove(_));
        takes(&self.wish) || self.then.iter().any(takes)
    }

    fn admin(&mut self) -> Admin {
        let command = match self.wish {
            Wish::Add { id, learner } => {
                let unstarted = folkmoot_core::cluster::Member { name: String::new(), ..member(id, learner) };
                codec::cluster::member_add(&unstarted)
            }
            Wish::AddAgain(id) => {
                let again = folkmoot_core::cluster::Member { name: String::new(), ..member(id, true) };
                codec::cluster::member_add(&again)
            }
            Wish::Promote(id) => codec::cluster::member_promote(id),
            Wish::Remove(id) => codec::cluster::member_remove(id),
            Wish::Update(id) => {
                let url = format!("http://m{}-{}:2380", id.0, self.random.below(1000));
                codec::cluster::member_update(id, vec![url])
            }
            Wish::RaiseAlarm(id) => codec::cluster::activate_no_space(id),
            Wish::ClearAlarm(alarm) => clear_alarm(alarm),
            Wish::StepDown | Wish::Nothing => return Admin::StepDown,
        };
        Admin::Command(command)
    }
}

fn clear_alarm(alarm: Alarm) -> Command {
    codec::cluster::alarm(&pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Deactivate as i32,
        member_id: alarm.member.0,
        alarm: alarm.kind as i32,
    })
}
