//! Members come and go: what the administrators' jobs need of the world, and what the server does
//! around the core when a member starts, is removed, or has lost its disk.

use folkmoot_core::cluster::Member;
use folkmoot_core::codec;
use folkmoot_core::types::MemberId;

use super::host::member;
use super::snapshots::empty_engine;
use super::{ANNOUNCER, Admin, Happening, Life, Stop, World};
use crate::disk::SimDisk;
use crate::network::HostAt;
use crate::sometimes::Situation;
use crate::time::{MS, SEC};

impl World {
    /// The members as the most advanced of those that run knows them.
    pub fn members(&self) -> Vec<Member> {
        let advanced =
            self.hosts.iter().filter_map(|host| host.running.as_ref()).map(|running| &running.node);
        let advanced = advanced.max_by_key(|node| node.status().applied);
        advanced.map(|node| node.status().members.as_ref().clone()).unwrap_or_default()
    }

    /// Whether a member's state may be spoiled: all others must be there and sound, or nobody could
    /// tell who is wrong.
    pub fn may_spoil(&self) -> bool {
        let members = self.members();
        members.iter().filter(|member| !member.learner).count() >= 3
            && members.iter().all(|member| {
                self.place_of(member.id).is_some_and(|at| {
                    let host = &self.hosts[at];
                    !host.gone && !host.damaged && !host.spoiled && !host.wiped
                })
            })
    }

    /// Whether one more voter may lose its disk: a majority must keep theirs and must know who the
    /// voters are, also when those have gone that an administrator is about to remove, and whoever has a
    /// wrong state needs others to tell it so. Where only the member
    /// that is lost knew of the last change of voters, the others may wait for ever for one that was
    /// removed and has gone.
    pub fn may_lose_disk(&self) -> bool {
        if self.hosts.iter().any(|host| host.spoiled && !host.gone) {
            return false;
        }
        let voters_of = |members: &[Member]| -> Vec<MemberId> {
            members.iter().filter(|member| !member.learner).map(|member| member.id).collect()
        };
        let voters = voters_of(&self.members());
        let count = voters.len();
        let (mut bad, mut knowing) = (0, 0);
        for voter in &voters {
            let host = self.place_of(*voter).map(|at| &self.hosts[at]);
            let leaves = self.storm.jobs.values().any(|job| job.removes(*voter));
            let sound = !leaves
                && host.is_some_and(|host| !host.gone && !host.damaged && !host.spoiled && !host.wiped);
            bad += usize::from(!sound);
            let knows = host
                .is_some_and(|host| voters_of(&host.status_members()) == voters && host.remembers_voters());
            knowing += usize::from(sound && knows);
        }
        count >= 3 && (bad + 1) * 2 < count && knowing.saturating_sub(1) * 2 > count
    }

    /// A new machine for a member that was added; it starts at once.
    pub fn join(&mut self, id: MemberId) -> HostAt {
        if let Some(at) = self.place_of(id) {
            return at;
        }
        self.note(|| format!("member {id} joins"));
        let at = self.add_host(id, empty_engine());
        self.start(at);
        at
    }

    /// The id that the next member gets.
    pub fn next_member_id(&self) -> MemberId {
        MemberId(self.hosts.len() as u64 + 1 + self.unused_ids)
    }

    /// A member's machine is lost with everything on it.
    pub fn lose_machine(&mut self, at: HostAt) {
        self.crash(at, Stop::PowerCut);
        let host = &mut self.hosts[at];
        host.gone = true;
        host.lost.push(std::mem::take(&mut host.durable));
        // Whoever wanted to start it again finds nothing.
        host.life += 1;
        host.disk = SimDisk::new();
        host.engine = empty_engine();
        let id = host.id;
        self.note(|| format!("member {id} loses its machine"));
    }

    /// A member heard that it was removed: the server stops soon.
    pub(super) fn member_removed(&mut self, at: HostAt) {
        let host = &mut self.hosts[at];
        if host.gone {
            return;
        }
        host.gone = true;
        let (id, life) = (host.id, host.life);
        self.met(Situation::MemberRemoved);
        self.note(|| format!("member {id} was removed"));
        let pause = self.machine.spread(MS, SEC);
        self.queue.push(self.now + pause, Happening::Stops(at, life));
    }

    pub(super) fn removed_stops(&mut self, at: HostAt, life: Life) {
        if self.hosts[at].life == life {
            self.crash(at, Stop::Kill);
        }
    }

    /// What the server does after a start until it is done: it tells the others the member's name
    /// and disk.
    pub(super) fn announce(&mut self, at: HostAt, life: Life) {
        let host = &self.hosts[at];
        let Some(running) = &host.running else { return };
        if host.life != life || host.gone {
            return;
        }
        let known = running.node.status().members.iter().find(|member| member.id == host.id).cloned();
        let command = match known {
            Some(known) if known.name.is_empty() => codec::cluster::publish(&member(host.id, known.learner)),
            Some(known) if known.incarnation == 0 => codec::cluster::member_disk(host.id, host.incarnation),
            Some(_) => return,
            // It has not heard of itself yet.
            None => return self.queue.push(self.now + 500 * MS, Happening::Announce(at, life)),
        };
        self.ask_admin(ANNOUNCER, at, Admin::Command(command), SEC);
        self.queue.push(self.now + SEC, Happening::Announce(at, life));
    }
}
