//! The enemy: carries out a plan of faults on a cluster, and makes good again afterwards.
//!
//! Each fault runs by itself, so faults overlap. A fault never outlasts its time, except a replacement,
//! which is carried through. Whatever happens, [`Nemesis::heal`] ends with all members running on
//! faultless links, or says what does not work.

mod plan;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use folkmoot_check::history as h;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use plan::{Fault, Permits, Planned, Who, draw_plan};

use crate::cluster::{Cluster, Replacement, State};
use crate::load::session::Session;
use crate::network::NodeIndex;
use crate::network::links::{Trouble, between, one_way};
use crate::timeline::Timeline;
use crate::wire;

/// How long a replacement may take, from its begin and beyond all other faults.
const REPLACE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a change of leader may take.
const MOVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a member may take to notice that its disk was full.
const END_PATIENCE: Duration = Duration::from_millis(500);
/// Pause between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Pause between two compactions.
const COMPACT_PAUSE: Duration = Duration::from_millis(300);
/// Written at once when a disk is filled.
const FILL_BYTES: usize = 64 * 1024;

/// How compactions are made, so that they are in the history and hide nothing.
pub struct Compactor {
    /// The client that asks.
    pub session: Session,
    /// What was seen and may be forgotten.
    pub observed: Box<dyn Fn() -> h::Revision + Send + Sync>,
    /// Tells others.
    pub note: Box<dyn Fn(h::Revision) + Send + Sync>,
    /// The newest revision that was asked to be compacted.
    pub newest: h::Revision,
}

/// The enemy.
pub struct Nemesis {
    cluster: Arc<Cluster>,
    timeline: Arc<Timeline>,
    compactor: tokio::sync::Mutex<Compactor>,
    /// The member that is being replaced; nobody else touches it.
    replacing: Mutex<Option<NodeIndex>>,
    /// What must be put right in the end.
    problems: Mutex<Vec<String>>,
}

impl Nemesis {
    /// An enemy of a cluster.
    pub fn new(cluster: Arc<Cluster>, timeline: Arc<Timeline>, compactor: Compactor) -> Nemesis {
        Nemesis {
            cluster,
            timeline,
            compactor: tokio::sync::Mutex::new(compactor),
            replacing: Mutex::default(),
            problems: Mutex::default(),
        }
    }

    /// Carries out a plan and waits for its end.
    pub async fn run(&self, plan: &[Planned], seed: u64) {
        let faults = plan.iter().copied().enumerate().map(|(index, planned)| {
            let rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(index as u64));
            async move {
                tokio::time::sleep(planned.at).await;
                self.carry_out(planned, rng).await;
            }
        });
        futures_util::future::join_all(faults).await;
    }

    /// Starts what does not run, lets go what is held. Links are free when no fault is left.
    pub async fn heal(&self) -> Result<(), String> {
        for node in self.cluster.nodes() {
            self.cluster.resume(node);
            if !self.cluster.is_running(node) {
                self.cluster.start_member(node)?;
            }
        }
        let problems = std::mem::take(&mut *self.problems.lock().unwrap_or_else(PoisonError::into_inner));
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }

    /// Everything the compacting client did.
    pub async fn take_operations(&self) -> Vec<h::Operation> {
        std::mem::take(&mut self.compactor.lock().await.session.operations)
    }

    fn problem(&self, text: String) {
        self.timeline.note(&text);
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn is_replaced(&self, node: NodeIndex) -> bool {
        *self.replacing.lock().unwrap_or_else(PoisonError::into_inner) == Some(node)
    }

    fn names(&self, nodes: &[NodeIndex]) -> String {
        nodes.iter().map(|node| self.cluster.name(*node)).collect::<Vec<_>>().join(" ")
    }

    /// Who that is now.
    async fn choose(&self, who: Who, rng: &mut ChaCha8Rng) -> Vec<NodeIndex> {
        let leader = self.cluster.leader().await;
        let mut all: Vec<NodeIndex> = self.cluster.nodes().collect();
        all.shuffle(rng);
        match who {
            Who::Leader => vec![leader.unwrap_or(all[0])],
            Who::Follower => all.into_iter().filter(|node| Some(*node) != leader).take(1).collect(),
            Who::Minority => {
                let count = (all.len() - 1) / 2;
                all.into_iter().take(count).collect()
            }
            Who::All => all,
        }
    }

    async fn carry_out(&self, planned: Planned, mut rng: ChaCha8Rng) {
        let Planned { lasts, fault, .. } = planned;
        match fault {
            Fault::Kill(who) => {
                let nodes = self.hit(fault, who, &mut rng).await;
                nodes.iter().for_each(|node| self.cluster.kill(*node));
                tokio::time::sleep(lasts).await;
                self.start_again(&nodes);
            }
            Fault::Restart(who) => {
                let nodes = self.hit(fault, who, &mut rng).await;
                for node in &nodes {
                    if let Err(problem) = self.cluster.stop(*node).await {
                        self.problem(problem);
                    }
                }
                tokio::time::sleep(lasts / 3).await;
                self.start_again(&nodes);
            }
            Fault::Pause(who) => {
                let nodes = self.hit(fault, who, &mut rng).await;
                nodes.iter().for_each(|node| self.cluster.pause(*node));
                // Longer than the others, since nobody notices a short one.
                tokio::time::sleep(lasts.mul_f64(1.4)).await;
                for node in nodes {
                    if self.cluster.resume(node) {
                        self.timeline.note(&format!("{} goes on", self.cluster.name(node)));
                    }
                }
            }
            Fault::Isolate(who) | Fault::Deaf(who) | Fault::Mute(who) => {
                let hit = self.choose(who, &mut rng).await;
                let others: Vec<NodeIndex> =
                    self.cluster.nodes().filter(|node| !hit.contains(node)).collect();
                let pairs = match fault {
                    Fault::Deaf(_) => one_way(&others, &hit),
                    Fault::Mute(_) => one_way(&hit, &others),
                    _ => between(&hit, &others),
                };
                self.spoil(&format!("{fault}: {}", self.names(&hit)), pairs, Trouble::Blocked, lasts).await;
            }
            Fault::Halves => {
                let (left, right) = self.halves(0, &mut rng);
                let text = format!("{fault}: {} | {}", self.names(&left), self.names(&right));
                self.spoil(&text, between(&left, &right), Trouble::Blocked, lasts).await;
            }
            Fault::Bridge => {
                let (left, right) = self.halves(1, &mut rng);
                let text = format!("{fault}: {} | {}", self.names(&left), self.names(&right));
                self.spoil(&text, between(&left, &right), Trouble::Blocked, lasts).await;
            }
            Fault::Slow { delay_ms, jitter_ms } => {
                let ms = Duration::from_millis;
                let trouble = Trouble::Delay { base: ms(delay_ms), jitter: ms(jitter_ms) };
                self.spoil(&fault.to_string(), self.all_links(), trouble, lasts).await;
            }
            Fault::Lossy { percent } => {
                let trouble = Trouble::Loss(f64::from(percent) / 100.0);
                self.spoil(&fault.to_string(), self.all_links(), trouble, lasts).await;
            }
            Fault::Narrow { bytes_per_second } => {
                let trouble = Trouble::Rate(bytes_per_second);
                self.spoil(&fault.to_string(), self.all_links(), trouble, lasts).await;
            }
            Fault::FullDisk { killed } => self.fill_disk(killed, lasts).await,
            Fault::MoveLeader => self.move_leader(&mut rng).await,
            Fault::Replace { dead, learner } => self.replace(Replacement { dead, learner }, &mut rng).await,
            Fault::Compact => self.compact(lasts, &mut rng).await,
        }
    }

    /// Notes whom a fault hits, without those that are being replaced.
    async fn hit(&self, fault: Fault, who: Who, rng: &mut ChaCha8Rng) -> Vec<NodeIndex> {
        let mut nodes = self.choose(who, rng).await;
        nodes.retain(|node| !self.is_replaced(*node));
        self.timeline.note(&format!("{fault}: {}", self.names(&nodes)));
        nodes
    }

    fn start_again(&self, nodes: &[NodeIndex]) {
        for node in nodes.iter().filter(|node| !self.is_replaced(**node)) {
            if self.cluster.state(*node) == State::Stopped {
                self.timeline.note(&format!("{} is started", self.cluster.name(*node)));
                if let Err(problem) = self.cluster.start_member(*node) {
                    self.problem(problem);
                }
            }
        }
    }

    async fn spoil(&self, text: &str, pairs: Vec<(NodeIndex, NodeIndex)>, trouble: Trouble, lasts: Duration) {
        self.timeline.note(text);
        let hold = self.cluster.network.links.impose(pairs, trouble);
        tokio::time::sleep(lasts).await;
        drop(hold);
        self.timeline.note(&format!("over: {text}"));
    }

    fn all_links(&self) -> Vec<(NodeIndex, NodeIndex)> {
        let all: Vec<NodeIndex> = self.cluster.nodes().collect();
        one_way(&all, &all)
    }

    /// Two random groups, without some members that belong to neither.
    fn halves(&self, without: usize, rng: &mut ChaCha8Rng) -> (Vec<NodeIndex>, Vec<NodeIndex>) {
        let mut all: Vec<NodeIndex> = self.cluster.nodes().collect();
        all.shuffle(rng);
        all.truncate(all.len() - without);
        let right = all.split_off(all.len() / 2);
        (all, right)
    }

    async fn fill_disk(&self, killed: bool, lasts: Duration) {
        let Some((node, _)) = self.cluster.config().small_disk else { return };
        let filler = self.cluster.home(node).join("filler");
        self.cluster.disk_full(node, true);
        let bytes = fill(filler.clone()).await;
        self.timeline.note(&format!("FullDisk: {} after {bytes} more bytes", self.cluster.name(node)));
        if killed && !self.is_replaced(node) {
            self.cluster.kill(node);
            self.start_again(&[node]);
        }
        tokio::time::sleep(lasts).await;
        if let Err(e) = std::fs::remove_file(&filler) {
            self.problem(format!("cannot free the disk path={}: {e}", filler.display()));
        }
        // One that is about to end is given time for it, so that it is not found dead later.
        let ended = || matches!(self.cluster.state(node), State::Ended(_));
        let deadline = tokio::time::Instant::now() + END_PATIENCE;
        while !ended() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let ended = ended();
        self.cluster.disk_full(node, false);
        let text = if ended { "has ended, is started" } else { "lives" };
        self.timeline.note(&format!("over: FullDisk: {} {text}", self.cluster.name(node)));
        if ended
            && !self.is_replaced(node)
            && let Err(problem) = self.cluster.start_member(node)
        {
            self.problem(problem);
        }
    }

    async fn move_leader(&self, rng: &mut ChaCha8Rng) {
        let Some(leader) = self.cluster.leader().await else {
            return self.timeline.note("MoveLeader: nobody leads");
        };
        let others: Vec<NodeIndex> = self.cluster.nodes().filter(|node| *node != leader).collect();
        let to = others[rng.random_range(0..others.len())];
        let id = self.cluster.id(to);
        let result = wire::move_leader(self.cluster.client_address(leader), id, MOVE_PATIENCE).await;
        let outcome = result.map_or_else(|status| status.message().to_owned(), |()| "done".into());
        let (from, to) = (self.cluster.name(leader), self.cluster.name(to));
        self.timeline.note(&format!("MoveLeader: {from} to {to}: {outcome}"));
    }

    async fn replace(&self, how: Replacement, rng: &mut ChaCha8Rng) {
        let who = if rng.random_bool(0.3) { Who::Leader } else { Who::Follower };
        let Some(node) = self.choose(who, rng).await.first().copied() else { return };
        *self.replacing.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
        self.timeline.note(&format!("{how:?}: {}", self.cluster.name(node)));
        let note = |text: &str| self.timeline.note(text);
        if let Err(problem) = self.cluster.replace(node, how, REPLACE_PATIENCE, note).await {
            self.problem(problem);
        }
        *self.replacing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Compacts again and again, never beyond what the observer has seen.
    async fn compact(&self, lasts: Duration, rng: &mut ChaCha8Rng) {
        let ends = tokio::time::Instant::now() + lasts;
        while tokio::time::Instant::now() < ends {
            self.compact_once(rng).await;
            tokio::time::sleep(COMPACT_PAUSE).await;
        }
    }

    async fn compact_once(&self, rng: &mut ChaCha8Rng) {
        let mut compactor = self.compactor.lock().await;
        let (oldest, newest) = (compactor.newest + 1, (compactor.observed)());
        if oldest > newest {
            return;
        }
        // Half of them reach what watches have just seen, or have not seen yet.
        let revision = match rng.random_bool(0.5) {
            true => newest,
            false => rng.random_range(oldest..=newest),
        };
        compactor.newest = revision;
        let answered = compactor.session.call(h::Request::Compact { revision }).await.is_some();
        if answered {
            (compactor.note)(revision);
        }
        self.timeline.note(&format!("Compact: {revision}{}", if answered { "" } else { ", not answered" }));
    }
}

/// Writes until the disk is full.
async fn fill(path: PathBuf) -> usize {
    let fill = move || {
        let Ok(mut file) = File::create(path) else { return 0 };
        let chunk = vec![0; FILL_BYTES];
        let mut bytes = 0;
        let mut step = FILL_BYTES;
        while step > 0 {
            match file.write(&chunk[..step]) {
                Ok(written) if written > 0 => bytes += written,
                _ => step /= 2,
            }
        }
        bytes
    };
    // It only fails if the program is ending.
    tokio::task::spawn_blocking(fill).await.unwrap_or_default()
}
