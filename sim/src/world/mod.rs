//! The world: everything that happens, in order, in one thread.
//!
//! A world is built from a [`Plan`], runs through its faults, heals, and then has a bounded time
//! to become whole again. Checkers look at every step; the first violation ends the run.

mod disks;
mod host;
mod hub;
mod members;
mod serve;
mod snapshots;
mod turn;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use folkmoot_check::history::History;
use folkmoot_core::types::{ClusterId, LogIndex, MemberId};
use folkmoot_core::watch::WatchFrame;

pub use host::{Host, Stop, member};
pub use hub::{HubInput, Stream};
pub use serve::{ADMINISTRATOR, ANNOUNCER, Admin, Answer, Call};
pub use snapshots::Parcel;

use crate::client::Client;
use crate::faults::Storm;
use crate::ledger::Ledger;
use crate::network::{HostAt, Network};
use crate::plan::Plan;
use crate::queue::Queue;
use crate::random::Random;
use crate::sometimes::{Situation, Sometimes};
use crate::time::{MS, Nanos, SEC, seconds};
use crate::trace::Trace;

/// The cluster of every world.
pub const CLUSTER: ClusterId = ClusterId(0xf01c);
/// How long the cluster may take to become whole after the faults have ended.
const HEAL_TIME_MAX: Nanos = 60 * SEC;

/// Which start of a member something belongs to; what belongs to an earlier one is void.
pub type Life = u32;

/// Something that happens.
#[derive(Debug)]
pub enum Happening {
    /// A member's core thread looks at its inbox.
    Turn(HostAt, Life),
    /// A message arrives.
    Message { from: HostAt, to: HostAt, to_life: Life, late: bool, message: Bytes },
    /// The log thread has finished.
    LogDone(HostAt, Life),
    /// The storage thread has finished.
    StorageDone(HostAt, Life),
    /// The storage thread may remove superseded rows.
    Garbage(HostAt, Life),
    /// A member that was removed stops.
    Stops(HostAt, Life),
    /// A job of an administrator goes on.
    Job(usize),
    /// Administrators tidy up after the faults.
    Tidy,
    /// A member notices that the process of another has ended.
    Ended(HostAt, Life, HostAt),
    /// A member tells the others about itself.
    Announce(HostAt, Life),
    /// A snapshot's files have arrived, or have not.
    Parcel(u64),
    /// The watch hub looks at its queue.
    HubTurn(HostAt, Life),
    /// A watch stream's transport takes more.
    Pump(u64),
    /// Frames arrive at a watch client.
    Frames(u64, Vec<WatchFrame>),
    /// A watch client's request arrives at the hub.
    WatchAsk(u64, Box<HubInput>),
    /// A watch client notices that its stream is gone.
    StreamLost(u64),
    /// A call arrives at its member.
    Arrives(u64),
    /// A call reads the published state.
    ReadNow(u64, Life),
    /// An answer arrives at its client.
    Answered(u64, Box<Answer>),
    /// A client gives up waiting.
    GivesUp(u64),
    /// A client does something.
    Client(usize),
    /// A fault begins.
    Begin(usize),
    /// A fault goes on.
    Step(usize),
    /// A fault ends.
    End(usize),
    /// A member that is down starts.
    Start(HostAt, Life),
    /// Faults are over.
    Heal,
    /// Whether the cluster is whole again is looked at.
    Look,
}

/// What a checker found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which checker.
    pub checker: &'static str,
    /// What, for people.
    pub text: String,
    /// When.
    pub at: Nanos,
    /// Faults in force then.
    pub in_force: Vec<String>,
}

/// Where the run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Things go wrong.
    Faults,
    /// Nothing goes wrong any more, since then.
    Healing(Nanos),
    /// Nothing goes wrong but that one member stays away.
    Apart(Apart),
    /// The cluster is whole and the clients are quiet.
    Done,
}

/// A time in which a minority is away and all others must serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Apart {
    until: Nanos,
    /// What was committed, and how many calls were made, when writes had to be possible.
    then: Option<(LogIndex, usize)>,
}

/// How long a member stays away in the end.
const APART: Nanos = 20 * SEC;
/// After this time the others must commit what is written: a new leader, a snapshot and a member that
/// starts again fit in.
const APART_SERVED_AFTER: Nanos = 12 * SEC;

/// Numbers of a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Things that happened.
    pub happenings: u64,
    /// Calls of clients that were answered.
    pub answered: u64,
    /// Faults begun.
    pub faults: u64,
    /// Crashes.
    pub crashes: u64,
}

/// See the module.
pub struct World {
    pub now: Nanos,
    pub plan: Plan,
    pub queue: Queue<Happening>,
    pub hosts: Vec<Host>,
    pub network: Network,
    pub ledger: Ledger,
    pub sometimes: Sometimes,
    pub trace: Trace,
    pub history: History,
    pub calls: BTreeMap<u64, Call>,
    pub parcels: BTreeMap<u64, Parcel>,
    pub streams: BTreeMap<u64, Stream>,
    pub clients: Vec<Option<Client>>,
    pub storm: Storm,
    pub finding: Option<Finding>,
    pub phase: Phase,
    /// Whether it was decided if a member stays away.
    was_apart: bool,
    /// When the faults ended.
    pub healed_since: Nanos,
    /// When a member ended last.
    pub last_crash: Nanos,
    /// What was judged at the end.
    pub judged: folkmoot_check::Counts,
    pub counts: Counts,
    /// Latencies inside of members.
    pub machine: Random,
    /// Latencies between clients and members.
    pub roads: Random,
    /// Who was the last to become leader.
    pub last_leader: Option<HostAt>,
    /// Ids given to members that were never there.
    pub unused_ids: u64,
    next_call: u64,
    next_stream: u64,
    next_parcel: u64,
    arrivals: Vec<Nanos>,
    /// Commands on their way to a leader, of late, for a network that brings them again.
    forwards: VecDeque<(HostAt, HostAt, Bytes)>,
}

impl World {
    /// The world of a plan, at its start.
    pub fn new(plan: Plan, trace: Trace) -> Self {
        let seed = plan.seed;
        let network = Network::new(Random::new(seed, "network", 0), plan.latency);
        let mut world = Self {
            now: 0,
            queue: Queue::default(),
            hosts: Vec::new(),
            network,
            ledger: Ledger::new(),
            sometimes: Sometimes::default(),
            trace,
            history: History::default(),
            calls: BTreeMap::new(),
            parcels: BTreeMap::new(),
            streams: BTreeMap::new(),
            clients: Vec::new(),
            storm: Storm::new(seed),
            finding: None,
            phase: Phase::Faults,
            was_apart: false,
            healed_since: 0,
            last_crash: 0,
            judged: folkmoot_check::Counts::default(),
            counts: Counts::default(),
            machine: Random::new(seed, "machine", 0),
            roads: Random::new(seed, "roads", 0),
            last_leader: None,
            unused_ids: 0,
            next_call: 0,
            next_stream: 0,
            next_parcel: 0,
            arrivals: Vec::new(),
            forwards: VecDeque::new(),
            plan,
        };
        world.found_cluster();
        world.invite_clients();
        for (at, episode) in world.plan.episodes.iter().enumerate() {
            if !world.plan.skip.contains(&episode.number) && episode.at < world.plan.fault_time {
                world.queue.push(episode.at, Happening::Begin(at));
            }
        }
        world.queue.push(world.plan.fault_time, Happening::Heal);
        world
    }

    /// Runs to the end, or to the first finding.
    pub fn run(&mut self) {
        while self.finding.is_none() && self.phase != Phase::Done {
            let Some((at, happening)) = self.queue.pop() else {
                self.fail("simulator", "nothing is going to happen any more".to_owned());
                return;
            };
            debug_assert!(at >= self.now);
            self.now = at;
            self.counts.happenings += 1;
            self.trace.mix(at);
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Turn(host, life) => self.turn(host, life),
            Happening::Message { from, to, to_life, late, message } => {
                self.message_arrives(from, to, to_life, late, message);
            }
            Happening::LogDone(host, life) => self.log_done(host, life),
            Happening::StorageDone(host, life) => self.storage_done(host, life),
            Happening::Garbage(host, life) => self.collect_garbage(host, life),
            Happening::Stops(host, life) => self.removed_stops(host, life),
            Happening::Job(at) => self.job_goes_on(at),
            Happening::Tidy => self.tidy(),
            Happening::Ended(host, life, other) => self.end_is_noticed(host, life, other),
            Happening::Announce(host, life) => self.announce(host, life),
            Happening::Parcel(parcel) => self.parcel_arrives(parcel),
            Happening::HubTurn(host, life) => self.hub_turn(host, life),
            Happening::Pump(stream) => self.pump(stream),
            Happening::Frames(stream, frames) => self.frames_arrive(stream, frames),
            Happening::WatchAsk(stream, input) => self.watch_ask_arrives(stream, *input),
            Happening::StreamLost(stream) => self.stream_lost(stream),
            Happening::Arrives(call) => self.call_arrives(call),
            Happening::ReadNow(call, life) => self.read_now(call, life),
            Happening::Answered(call, answer) => self.answered(call, *answer),
            Happening::GivesUp(call) => self.gives_up(call),
            Happening::Client(client) => self.client_wakes(client),
            Happening::Begin(at) => self.fault_begins(at),
            Happening::Step(at) => self.fault_goes_on(at),
            Happening::End(at) => self.fault_ends(at),
            Happening::Start(host, life) => {
                let there = &self.hosts[host];
                if there.life == life && there.running.is_none() && !there.gone {
                    self.start(host);
                }
            }
            Happening::Heal => self.heal(),
            Happening::Look => self.look(),
        }
    }

    /// A checker found something; the first finding counts.
    pub fn fail(&mut self, checker: &'static str, text: String) {
        if self.finding.is_none() {
            self.trace.line(self.now, || format!("FINDING {checker}: {text}"));
            let episodes = &self.plan.episodes;
            let in_force = self
                .storm
                .active
                .iter()
                .map(|(at, kind)| format!("#{} {}", episodes[*at].number, kind.name()));
            self.finding = Some(Finding { checker, text, at: self.now, in_force: in_force.collect() });
        }
    }

    /// Reports a failed check.
    pub fn check(&mut self, checker: &'static str, result: Result<(), String>) {
        if let Err(text) = result {
            self.fail(checker, text);
        }
    }

    /// A situation was met.
    pub fn met(&mut self, situation: Situation) {
        self.sometimes.met(situation);
    }

    /// Adds a line to the trace.
    pub fn note(&self, text: impl FnOnce() -> String) {
        self.trace.line(self.now, text);
    }

    /// The member's place.
    pub fn place_of(&self, id: MemberId) -> Option<HostAt> {
        self.hosts.iter().position(|host| host.id == id)
    }

    /// The member that leads, as far as anybody can tell: the one with the newest term of those
    /// that believe so.
    pub fn leader(&self) -> Option<HostAt> {
        let leads = |host: &Host| {
            let status = host.running.as_ref()?.node.status();
            (status.leader == Some(host.id)).then_some(status.term)
        };
        let leaders = self.hosts.iter().enumerate().filter_map(|(at, host)| Some((leads(host)?, at)));
        leaders.max().map(|(_, at)| at)
    }

    /// Faults have ended: everything is mended and the members get time to become whole.
    fn heal(&mut self) {
        self.note(|| "faults are over".to_owned());
        self.end_all_faults();
        self.phase = Phase::Healing(self.now);
        // A sync that hangs is not set free; its member says nothing until it returns.
        let stuck = |host: &Host| {
            let hangs = host.running.as_ref().is_some_and(|running| running.log_busy.is_some());
            if hangs { host.trouble.stuck_until } else { 0 }
        };
        self.healed_since = self.hosts.iter().map(stuck).fold(self.now, Nanos::max);
        for at in 0..self.hosts.len() {
            self.mend(at);
        }
        self.queue.push(self.now + SEC, Happening::Look);
    }

    /// Looks whether the cluster is whole again; gives up after a while.
    fn look(&mut self) {
        let since = match self.phase {
            Phase::Healing(since) => since,
            Phase::Apart(apart) => {
                self.look_at_majority(apart);
                return self.queue.push(self.now + 250 * MS, Happening::Look);
            }
            Phase::Faults | Phase::Done => return,
        };
        if !std::mem::replace(&mut self.was_apart, true) {
            self.part();
        }
        match self.is_whole(since) {
            Ok(()) => {
                self.note(|| "the cluster is whole".to_owned());
                self.phase = Phase::Done;
            }
            Err(missing) if self.now - since >= HEAL_TIME_MAX => {
                let after = seconds(self.now - since);
                self.fail("liveness", format!("not whole {after} s after the faults ended: {missing}"));
            }
            Err(_) => self.queue.push(self.now + 250 * MS, Happening::Look),
        }
    }

    /// Lets one voter stay away for a while, in some seeds and wherever a state is yet to be repaired. All
    /// members must be there and know each other, so that the others are surely a majority; and none may
    /// lag that much that it needs a snapshot, which it would not get of a state that is in dispute.
    fn part(&mut self) {
        let mut random = Random::new(self.plan.seed, "apart", 0);
        let Some(leader) = self.leader() else { return };
        let members = self.hosts[leader].status_members();
        let all_there = self.hosts.iter().filter(|host| !host.gone).all(|host| {
            host.running.is_some() && !host.damaged && !host.wiped && host.status_members() == members
        });
        let voters: Vec<HostAt> = members
            .iter()
            .filter(|member| !member.learner)
            .filter_map(|member| self.place_of(member.id))
            .collect();
        let count = members.iter().filter(|member| !member.learner).count();
        let none_gone = voters.len() == count && voters.iter().all(|at| !self.hosts[*at].gone);
        let spoiled = voters.iter().any(|at| self.hosts[*at].spoiled);
        let last = self.hosts[leader].applied();
        let lags =
            |host: &Host| !host.spoiled && host.applied().0 + self.plan.kept_entries as u64 / 2 < last.0;
        let all_there = all_there && !voters.iter().any(|at| lags(&self.hosts[*at]));
        if count < 3 || !all_there || !none_gone || !(spoiled || random.one_in(8)) {
            return;
        }
        let sound: Vec<HostAt> = voters.into_iter().filter(|at| !self.hosts[*at].spoiled).collect();
        let away = match sound.contains(&leader) && random.one_in(2) {
            true => leader,
            false => *random.pick(&sound),
        };
        self.note(|| format!("member {} stays away", self.hosts[away].id));
        self.restart(away, Stop::Kill, APART);
        self.phase = Phase::Apart(Apart { until: self.now + APART, then: None });
    }

    /// Whether the others commit what is written.
    fn look_at_majority(&mut self, apart: Apart) {
        let state = (self.ledger.last_committed(), self.history.operations.len());
        if apart.then.is_none() && self.now + APART >= apart.until + APART_SERVED_AFTER {
            self.phase = Phase::Apart(Apart { then: Some(state), ..apart });
        }
        if self.now < apart.until {
            return;
        }
        if let Some((committed, calls)) = apart.then
            && state.0 == committed
            && state.1 > calls
        {
            let text = format!("{} calls to a majority alone, and nothing was committed", state.1 - calls);
            return self.fail("liveness", text);
        }
        self.sometimes.met(Situation::MajorityAloneServed);
        self.healed_since = self.healed_since.max(self.now);
        self.phase = Phase::Healing(self.now);
    }

    /// What is still missing.
    fn is_whole(&mut self, since: Nanos) -> Result<(), String> {
        // Long enough for every lease without a keepalive to end.
        if self.now - since < 3 * SEC {
            return Err("it has just begun".to_owned());
        }
        let leader = self.leader().ok_or("nobody leads")?;
        let applied = self.hosts[leader].applied();
        for host in self.hosts.iter().filter(|host| !host.gone) {
            let running = host.running.as_ref().ok_or(format!("member {} is down", host.id))?;
            let status = running.node.status();
            if status.leader != Some(self.hosts[leader].id) {
                return Err(format!("member {} follows {:?}", host.id, status.leader));
            }
            if host.spoiled {
                return Err(format!("the state of member {} is still wrong", host.id));
            }
            if host.applied() != applied {
                return Err(format!("member {} applied {} of {applied}", host.id, host.applied()));
            }
            if status.members != self.hosts[leader].status_members() {
                return Err(format!("member {} knows other members than the leader", host.id));
            }
        }
        self.clients_are_quiet()
    }
}
