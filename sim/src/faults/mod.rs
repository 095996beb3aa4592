//! What goes wrong: kinds, when they strike, and how long they last.
//!
//! Which members are struck is decided when an episode begins, from the episode's own randomness
//! and the state of the world (a fault for "the leader" needs one), so that leaving one episode
//! out does not change what another means.

mod jobs;
mod strike;

use std::collections::{BTreeMap, BTreeSet};

pub use jobs::Job;

use crate::network::HostAt;
use crate::plan::Profile;
use crate::random::Random;
use crate::time::{MS, Nanos, SEC};

macro_rules! kinds {
    ($($name:ident: $class:ident, $text:literal;)*) => {
        /// What can go wrong.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[allow(missing_docs)]
        pub enum FaultKind { $($name,)* }

        impl FaultKind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it is done to.
            pub fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// The kind of this name.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.name() == name)
            }
        }
    };
}

/// What a fault is done to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Links between members, and between clients and members.
    Network,
    /// Processes.
    Process,
    /// Disks.
    Disk,
    /// Clocks.
    Clock,
    /// What administrators do.
    Admin,
}

kinds! {
    Loss: Network, "loss";
    Duplicate: Network, "duplicate";
    Reorder: Network, "reorder";
    Replay: Network, "replay";
    Delay: Network, "delay";
    SlowLink: Network, "slow-link";
    Partition: Network, "partition";
    OneWay: Network, "one-way";
    IsolateLeader: Network, "isolate-leader";
    Bridge: Network, "bridge";
    Flap: Network, "flap";
    Garbage: Network, "garbage";
    ClientCut: Network, "client-cut";
    Kill: Process, "kill";
    PowerCut: Process, "power-cut";
    CrashMidOutputs: Process, "crash-mid-outputs";
    CrashLoop: Process, "crash-loop";
    AllDown: Process, "all-down";
    Pause: Process, "pause";
    Sluggish: Process, "sluggish";
    Rolling: Process, "rolling-restart";
    SlowDisk: Disk, "slow-disk";
    StuckSync: Disk, "stuck-sync";
    SyncError: Disk, "sync-error";
    WriteError: Disk, "write-error";
    DiskFull: Disk, "disk-full";
    BitFlipLog: Disk, "bit-flip-log";
    BitFlipSnapshot: Disk, "bit-flip-snapshot";
    SpoiledState: Disk, "spoiled-state";
    Drift: Clock, "drift";
    Jump: Clock, "jump";
    MoveLeader: Admin, "move-leader";
    StepDown: Admin, "step-down";
    AddLearner: Admin, "add-learner";
    AddVoter: Admin, "add-voter";
    RemoveMember: Admin, "remove-member";
    ReplaceMember: Admin, "replace-member";
    WipedMember: Disk, "wiped-member";
    UpdateMember: Admin, "update-member";
    NoSpaceAlarm: Admin, "no-space-alarm";
}

/// One fault, once.
#[derive(Clone, Debug)]
pub struct Episode {
    /// Its number in the seed, which stays when others are left out.
    pub number: usize,
    /// What.
    pub kind: FaultKind,
    /// From when.
    pub at: Nanos,
    /// For how long.
    pub lasts: Nanos,
    /// Its own randomness.
    pub seed: u64,
}

/// Faults in force.
pub struct Storm {
    /// Place in the plan, and what to do at its end.
    pub active: BTreeMap<usize, FaultKind>,
    /// Clients and members that do not reach each other, by the episode that cut them.
    pub client_cuts: BTreeMap<usize, BTreeSet<(usize, HostAt)>>,
    /// Members touched by an episode that goes on.
    pub touched: BTreeMap<usize, Vec<HostAt>>,
    /// What administrators are doing.
    pub jobs: BTreeMap<usize, Job>,
    /// Time during which at least three classes overlapped was met.
    pub overlapped: bool,
    /// For what an episode does later.
    pub random: Random,
}

impl Storm {
    /// No faults yet.
    pub fn new(seed: u64) -> Self {
        Self {
            active: BTreeMap::new(),
            client_cuts: BTreeMap::new(),
            touched: BTreeMap::new(),
            jobs: BTreeMap::new(),
            overlapped: false,
            random: Random::new(seed, "storm", 0),
        }
    }

    /// Whether a client and a member do not reach each other.
    pub fn is_client_cut(&self, client: usize, host: HostAt) -> bool {
        self.client_cuts.values().any(|cut| cut.contains(&(client, host)))
    }
}

impl Storm {
    /// Whether snapshots on their way are damaged now.
    pub fn damages_snapshots(&self) -> bool {
        self.active.values().any(|kind| *kind == FaultKind::BitFlipSnapshot)
    }
}

fn duration(random: &mut Random, kind: FaultKind) -> Nanos {
    match kind.class() {
        Class::Network => random.spread(200 * MS, 12 * SEC),
        Class::Process if kind == FaultKind::Pause => random.spread(10 * MS, 20 * SEC),
        Class::Process => random.spread(10 * MS, 10 * SEC),
        Class::Disk => random.spread(500 * MS, 15 * SEC),
        Class::Clock => random.spread(SEC, 20 * SEC),
        Class::Admin => SEC,
    }
}

/// Draws what goes wrong when. In half of the seeds faults come in clusters of at least three
/// classes (or as many as are enabled) that overlap.
pub fn draw_episodes(
    random: &mut Random,
    enabled: &BTreeSet<FaultKind>,
    time: Nanos,
    profile: Profile,
) -> Vec<Episode> {
    let enabled: Vec<FaultKind> = enabled.iter().copied().collect();
    let mut episodes = Vec::new();
    if enabled.is_empty() {
        return episodes;
    }
    let gap = match profile {
        Profile::Hostile => SEC,
        _ => *random.pick(&[1500 * MS, 3 * SEC, 6 * SEC]),
    };
    let clustered = random.one_in(2);
    let mut at = 2 * SEC + random.wait(gap);
    while at < time {
        let size = if clustered && random.one_in(3) { random.between(3, 5) } else { 1 };
        let mut kinds = Vec::new();
        for _ in 0..size {
            let kind = *random.pick(&enabled);
            // Of a cluster's faults no two are of one class while there are others.
            if size == 1 || !kinds.iter().any(|other: &FaultKind| other.class() == kind.class()) {
                kinds.push(kind);
            }
        }
        for kind in kinds {
            let lasts = duration(random, kind);
            let at = at + if size > 1 { random.below(500 * MS) } else { 0 };
            let lasts = if size > 1 { lasts.max(SEC) } else { lasts };
            episodes.push(Episode { number: 0, kind, at, lasts, seed: random.number() });
        }
        at += random.wait(gap * size);
    }
    episodes.sort_by_key(|episode| episode.at);
    for (number, episode) in episodes.iter_mut().enumerate() {
        episode.number = number;
    }
    episodes
}
