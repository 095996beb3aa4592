//! What a seed means: the cluster, its surroundings, who uses it and what goes wrong when. All of
//! it is drawn before the world starts, so that a part can be left out without changing the rest.

use std::collections::BTreeSet;

use folkmoot_core::node::NodeConfig;

use crate::faults::{Episode, FaultKind, draw_episodes};
use crate::random::Random;
use crate::time::{MS, Nanos, SEC, US};

/// Families of seeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// What most seeds are: a random half of the faults, about two hundred operations a second.
    Default,
    /// Short and without much load; for a first look.
    Quick,
    /// Every fault, often, and a network that duplicates and reorders.
    Hostile,
    /// Many leases, some of them long, and the faults that stop a leader without ending it.
    Leases,
    /// One or two members, which learners and more voters may join: nobody else remembers what a power
    /// cut takes.
    Small,
    /// No faults: measures speed and shows that the checkers do not cry wolf.
    Calm,
}

impl Profile {
    /// All names.
    pub const NAMES: [&'static str; 6] = ["default", "quick", "hostile", "leases", "small", "calm"];

    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "default" => Self::Default,
            "quick" => Self::Quick,
            "hostile" => Self::Hostile,
            "leases" => Self::Leases,
            "small" => Self::Small,
            "calm" => Self::Calm,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Quick => "quick",
            Self::Hostile => "hostile",
            Self::Leases => "leases",
            Self::Small => "small",
            Self::Calm => "calm",
        }
    }
}

/// What is left out of a seed, to find the part that matters.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Overrides {
    /// Kinds of fault that do not happen.
    pub without: BTreeSet<FaultKind>,
    /// Episodes, by number, that do not happen.
    pub skip: BTreeSet<usize>,
    /// Clients, by number, that do nothing.
    pub idle: BTreeSet<usize>,
    /// When faults end, if earlier.
    pub end: Option<Nanos>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Members at the start.
    pub members: usize,
    /// Every other learner stays one.
    pub learners_stay: bool,
    /// How long faults go on.
    pub fault_time: Nanos,
    /// Latency of links between members.
    pub latency: (Nanos, Nanos),
    /// Latency between clients and members.
    pub client_latency: (Nanos, Nanos),
    /// How long a sync of the log takes.
    pub sync_time: (Nanos, Nanos),
    /// How long a write to the engine takes.
    pub store_time: (Nanos, Nanos),
    /// Size of a log segment.
    pub segment_bytes: usize,
    /// Values kept in memory beside the index.
    pub value_cache_bytes: usize,
    /// Time between two flushes that the member asks for.
    pub flush_every: Nanos,
    /// Entries kept for followers that lag.
    pub kept_entries: usize,
    /// A member whose state is wrong repairs itself.
    pub auto_repair: bool,
    /// Leases' remaining times are stored.
    pub lease_checkpoints: bool,
    /// Members notice at once when the process of another ends, and not by its silence alone.
    pub ends_are_noticed: bool,
    /// Recent events kept for watchers.
    pub ring_bytes: usize,
    /// Room of a watch stream.
    pub outbox_bytes: usize,
    /// Rows looked at by one step of garbage collection.
    pub gc_rows: usize,
    /// Once in how many writes the engine flushes by itself.
    pub flush_one_in: u64,
    /// Clients that read and write keys.
    pub kv_clients: usize,
    /// Time that such a client thinks between two calls, on average.
    pub think_time: Nanos,
    /// Clients that watch.
    pub watch_clients: usize,
    /// Clients that use leases.
    pub lease_clients: usize,
    /// Clients that take locks.
    pub lock_clients: usize,
    /// How large values are at most.
    pub value_bytes: u64,
    /// Keys that everybody fights over.
    pub hot_keys: u64,
    /// Time between two compactions, on average.
    pub compact_every: Nanos,
    /// Clients, by number, that do nothing.
    pub idle: BTreeSet<usize>,
    /// Kinds of fault that may happen.
    pub enabled: BTreeSet<FaultKind>,
    /// What goes wrong, in order of its start.
    pub episodes: Vec<Episode>,
    /// Episodes that are left out.
    pub skip: BTreeSet<usize>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, profile: Profile, overrides: &Overrides) -> Self {
        let mut random = Random::new(seed, "plan", 0);
        let fault_time = match profile {
            Profile::Quick => 15 * SEC,
            // Long enough for the engine to be flushed and the log to be purged.
            _ if random.one_in(8) => 140 * SEC,
            _ => 40 * SEC,
        };
        let members = match profile {
            Profile::Small => *random.pick(&[1, 1, 1, 1, 2]),
            _ => *random.pick(&[3, 3, 3, 3, 5]),
        };
        let fast = random.one_in(2);
        let enabled = draw_enabled(&mut random, profile);
        let small = random.one_in(2);
        let mut plan = Self {
            seed,
            members,
            learners_stay: profile == Profile::Small,
            fault_time,
            latency: if fast { (50 * US, 500 * US) } else { (200 * US, 10 * MS) },
            client_latency: (30 * US, 300 * US),
            sync_time: if random.one_in(2) { (100 * US, MS) } else { (500 * US, 20 * MS) },
            store_time: if random.one_in(2) { (100 * US, 2 * MS) } else { (MS, 50 * MS) },
            segment_bytes: *random.pick(&[16 << 10, 64 << 10, 256 << 10]),
            value_cache_bytes: *random.pick(&[0, 2048, 32 << 20]),
            flush_every: *random.pick(&[2 * SEC, 10 * SEC, 60 * SEC]),
            kept_entries: *random.pick(&[5, 100, 5_000]),
            auto_repair: random.one_in(2),
            lease_checkpoints: random.one_in(3),
            ends_are_noticed: Random::new(seed, "ends", 0).one_in(2),
            ring_bytes: *random.pick(&[1024, 16 << 10, 16 << 20]),
            outbox_bytes: *random.pick(&[600, 8 << 10, 256 << 10]),
            gc_rows: *random.pick(&[3, 50, 1000]),
            flush_one_in: *random.pick(&[5, 50, 1_000_000]),
            kv_clients: random.between(6, 12) as usize,
            think_time: 0,
            watch_clients: random.between(2, 5) as usize,
            lease_clients: random.between(1, 3) as usize,
            lock_clients: random.between(0, 3) as usize,
            value_bytes: if small { 16 } else { 400 },
            hot_keys: random.between(2, 8),
            compact_every: random.spread(2 * SEC, 20 * SEC),
            idle: overrides.idle.clone(),
            enabled,
            episodes: Vec::new(),
            skip: overrides.skip.clone(),
        };
        // About two hundred calls a second with the time that answers take.
        plan.think_time = plan.kv_clients as u64 * SEC / 320;
        if profile == Profile::Quick {
            plan.think_time *= 2;
        }
        if profile == Profile::Leases {
            plan.lease_clients = 10;
            plan.kv_clients = 3;
        }
        let mut random = Random::new(seed, "episodes", 0);
        plan.episodes = draw_episodes(&mut random, &plan.enabled, plan.fault_time, profile);
        plan.episodes.retain(|episode| !overrides.without.contains(&episode.kind));
        if let Some(end) = overrides.end {
            plan.fault_time = plan.fault_time.min(end);
        }
        plan
    }
}

impl Plan {
    /// Settings of a member.
    pub fn tune(&self, config: &mut NodeConfig) {
        config.value_cache_bytes = self.value_cache_bytes;
        config.kept_entries = self.kept_entries;
        config.time_between_flushes = std::time::Duration::from_nanos(self.flush_every);
        config.auto_repair = self.auto_repair;
        config.lease_checkpoints = self.lease_checkpoints;
    }
}

/// Swarm testing (Groce et al. 2012): a seed without some of the faults finds what the noise of
/// all of them together would hide.
fn draw_enabled(random: &mut Random, profile: Profile) -> BTreeSet<FaultKind> {
    let mut kinds = FaultKind::ALL.to_vec();
    match profile {
        Profile::Calm => return BTreeSet::new(),
        Profile::Hostile => {}
        Profile::Leases => {
            use FaultKind::{
                Delay, Drift, IsolateLeader, Kill, MoveLeader, OneWay, Partition, Pause, SlowDisk, SlowLink,
                StepDown, StuckSync,
            };
            let delaying = [
                Pause,
                IsolateLeader,
                Partition,
                OneWay,
                Delay,
                SlowLink,
                SlowDisk,
                StuckSync,
                MoveLeader,
                StepDown,
                Kill,
                Drift,
            ];
            kinds = delaying.to_vec();
            random.shuffle(&mut kinds);
            kinds.truncate(6);
        }
        Profile::Small => {
            // What needs more members to be survived, or is survived in the same way by more, is left out.
            use FaultKind::{
                AddLearner, AddVoter, AllDown, CrashLoop, CrashMidOutputs, Delay, DiskFull, Drift, Jump,
                Kill, Loss, Pause, PowerCut, Reorder, SlowDisk, Sluggish, StuckSync, SyncError, UpdateMember,
                WriteError,
            };
            let rest = [
                AddVoter,
                AllDown,
                CrashLoop,
                Delay,
                DiskFull,
                Drift,
                Jump,
                Kill,
                Loss,
                Pause,
                Reorder,
                Sluggish,
                StuckSync,
                SyncError,
                UpdateMember,
                WriteError,
            ];
            let mut rest = rest.to_vec();
            random.shuffle(&mut rest);
            rest.truncate(6);
            kinds = [AddLearner, PowerCut, CrashMidOutputs, SlowDisk].into_iter().chain(rest).collect();
        }
        Profile::Default | Profile::Quick => {
            random.shuffle(&mut kinds);
            kinds.truncate(kinds.len().div_ceil(2));
        }
    }
    kinds.into_iter().collect()
}
