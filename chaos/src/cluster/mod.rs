//! A cluster of real members: starting, ending, holding and asking them.
//!
//! Many faults work on one cluster at the same time, so every method takes `&self` and holds one
//! member's lock for one short step. A cluster that is dropped leaves no process, no mount and, unless
//! it is to be kept, no file behind.

mod member;
mod membership;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;
use tempfile::TempDir;
use tokio::time::Instant;

pub use member::{Member, State};
pub use membership::Replacement;

use crate::network::{Carrier, Network, NodeIndex};
use crate::program::Program;
use crate::wire;

/// How long a member may take from its start until it answers.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long a member may take to end after SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks at a process or a member that is not there yet.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Lines of a log that are worth showing.
const LOG_LINES: usize = 30;

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The program.
    pub program: Program,
    /// Members.
    pub member_count: usize,
    /// What carries their traffic.
    pub carrier: Carrier,
    /// More flags for every member.
    pub member_args: Vec<String>,
    /// Parent of the directory that holds everything.
    pub data_root: PathBuf,
    /// Seed of the network's dice.
    pub seed: u64,
    /// Bytes of the file system in memory on which this member's data is, if any.
    pub small_disk: Option<(NodeIndex, u64)>,
}

/// A cluster.
pub struct Cluster {
    config: ClusterConfig,
    /// The network between all members and clients.
    pub network: Network,
    token: String,
    members: Vec<Mutex<Member>>,
    /// Numbers of the members that live at each place now; 0 while unknown.
    ids: Vec<AtomicU64>,
    root: Option<TempDir>,
}

impl Cluster {
    /// Starts all members of a new cluster and waits until all answer.
    pub async fn start(config: ClusterConfig) -> Result<Arc<Cluster>, String> {
        let mut problem = String::new();
        // On loopback another process may take a chosen port first, so a failed start gets another
        // chance.
        for _ in 0..3 {
            let cluster = Cluster::prepare(config.clone()).await?;
            match cluster.start_all().await {
                Ok(()) => return Ok(Arc::new(cluster)),
                Err(e) => problem = e,
            }
        }
        Err(problem)
    }

    async fn prepare(config: ClusterConfig) -> Result<Cluster, String> {
        let root = tempfile::Builder::new().prefix("folkmoot-chaos-").tempdir_in(&config.data_root);
        let root =
            root.map_err(|e| format!("cannot create directory in={}: {e}", config.data_root.display()))?;
        let network = Network::open(config.carrier, config.member_count, config.seed).await?;
        let mut members = Vec::new();
        for node in 0..config.member_count {
            let member = Member::new(node, root.path());
            members.push(Mutex::new(member.map_err(|e| format!("cannot create a member's directory: {e}"))?));
        }
        let token = root.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ids = (0..config.member_count).map(|_| AtomicU64::new(0)).collect();
        let cluster = Cluster { config, network, token, members, ids, root: Some(root) };
        if let (Some((node, bytes)), Carrier::Namespaces(isolated)) =
            (cluster.config.small_disk, cluster.config.carrier)
        {
            isolated.mount_memory(&cluster.member(node).home, bytes)?;
        }
        let part = |node| format!("{}=http://{}", cluster.name(node), cluster.peer_address(node));
        let initial_cluster = cluster.nodes().map(part).collect::<Vec<_>>().join(",");
        for node in cluster.nodes() {
            cluster.member(node).initial_cluster.clone_from(&initial_cluster);
        }
        Ok(cluster)
    }

    async fn start_all(&self) -> Result<(), String> {
        for node in self.nodes() {
            self.start_member(node)?;
        }
        for node in self.nodes() {
            self.ready(node, START_PATIENCE).await?;
        }
        Ok(())
    }

    /// What it was started with.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// All places of members.
    pub fn nodes(&self) -> std::ops::Range<NodeIndex> {
        0..self.config.member_count
    }

    /// How the network calls the clients.
    pub fn clients(&self) -> NodeIndex {
        self.config.member_count
    }

    fn member(&self, node: NodeIndex) -> MutexGuard<'_, Member> {
        self.members[node].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where clients reach each member.
    pub fn client_addresses(&self) -> Vec<SocketAddr> {
        self.nodes().map(|node| self.client_address(node)).collect()
    }

    /// Where clients reach a member.
    pub fn client_address(&self, node: NodeIndex) -> SocketAddr {
        self.network.place(node).client
    }

    fn peer_address(&self, node: NodeIndex) -> SocketAddr {
        self.network.place(node).peer_advertise
    }

    /// A member's name.
    pub fn name(&self, node: NodeIndex) -> String {
        self.member(node).name.clone()
    }

    /// The number of the member that lives at a place, 0 if it is not known yet.
    pub fn id(&self, node: NodeIndex) -> u64 {
        self.ids[node].load(Ordering::SeqCst)
    }

    fn set_id(&self, node: NodeIndex, id: u64) {
        self.ids[node].store(id, Ordering::SeqCst);
    }

    /// The directory that holds everything.
    pub fn root(&self) -> &Path {
        self.root.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// Lets all files stay, and says where.
    pub fn keep(&mut self) -> PathBuf {
        self.root.take().map(TempDir::keep).unwrap_or_default()
    }

    /// What a member's process does now.
    pub fn state(&self, node: NodeIndex) -> State {
        self.member(node).state()
    }

    /// Whether a member's process runs and is not held.
    pub fn is_running(&self, node: NodeIndex) -> bool {
        self.state(node) == State::Running
    }

    /// Starts a member on the data it has, if it does not run, and does not wait.
    pub fn start_member(&self, node: NodeIndex) -> Result<(), String> {
        self.member(node).start(&self.config.program, &self.network, &self.token, &self.config.member_args)
    }

    /// SIGKILL.
    pub fn kill(&self, node: NodeIndex) {
        self.member(node).kill();
    }

    /// SIGSTOP.
    pub fn pause(&self, node: NodeIndex) {
        self.member(node).pause();
    }

    /// SIGCONT; false if it was not held.
    pub fn resume(&self, node: NodeIndex) -> bool {
        self.member(node).resume()
    }

    /// SIGTERM, and waits until the process is gone; one that does not end is killed.
    pub async fn stop(&self, node: NodeIndex) -> Result<(), String> {
        self.signal_stop(node);
        let deadline = Instant::now() + TERM_PATIENCE;
        let mut result = Ok(());
        while self.is_running(node) {
            if Instant::now() > deadline {
                result = Err(format!("member did not end after SIGTERM name={}", self.name(node)));
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.kill(node);
        result
    }

    /// SIGTERM without waiting.
    pub fn signal_stop(&self, node: NodeIndex) {
        self.member(node).terminate();
    }

    /// Nobody minds if a member ends by itself until it is started again.
    pub fn may_end(&self, node: NodeIndex) {
        self.member(node).may_end();
    }

    /// Nobody minds that while its disk is full.
    pub fn disk_full(&self, node: NodeIndex, full: bool) {
        self.member(node).disk_full(full);
    }

    /// Ends of a member that nobody wanted, such as after a panic.
    pub fn unwanted_ends(&self, node: NodeIndex) -> Vec<std::process::ExitStatus> {
        self.member(node).unwanted_ends()
    }

    /// The directory in which a member's data is, and which may be a small disk of its own.
    pub fn home(&self, node: NodeIndex) -> PathBuf {
        self.member(node).home.clone()
    }

    /// The last lines a member printed.
    pub fn log_tail(&self, node: NodeIndex) -> String {
        self.member(node).log_tail(LOG_LINES)
    }

    /// Waits until a member answers a linearizable read; fails at once if its process ends first.
    pub async fn ready(&self, node: NodeIndex, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        let address = self.client_address(node);
        loop {
            let problem = match wire::barrier(address, Duration::from_secs(1)).await {
                Ok(response) => {
                    if let Some(header) = response.header {
                        self.set_id(node, header.member_id);
                    }
                    return Ok(());
                }
                Err(status) => status.message().to_owned(),
            };
            let state = self.state(node);
            if !matches!(state, State::Running) || Instant::now() > deadline {
                return Err(format!(
                    "member is not ready name={} state={state:?}: {problem}\nits log:\n{}",
                    self.name(node),
                    self.log_tail(node)
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The states of all running members, as far as they answer.
    pub async fn statuses(&self) -> Vec<(NodeIndex, pb::StatusResponse)> {
        let ask = |node| async move {
            let status = wire::status(self.client_address(node)).await.ok()?;
            Some((node, status))
        };
        let running = self.nodes().filter(|node| self.is_running(*node));
        futures_util::future::join_all(running.map(ask)).await.into_iter().flatten().collect()
    }

    /// Who leads: of those that believe they do, the one with the highest term.
    pub async fn leader(&self) -> Option<NodeIndex> {
        let leads = |status: &pb::StatusResponse| {
            status.header.as_ref().is_some_and(|header| header.member_id == status.leader)
        };
        let leaders = self.statuses().await.into_iter().filter(|(_, status)| leads(status));
        leaders.max_by_key(|(_, status)| status.raft_term).map(|(node, _)| node)
    }

    /// Waits for a leader.
    pub async fn await_leader(&self, patience: Duration) -> Result<NodeIndex, String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(leader) = self.leader().await {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                return Err("there is no leader".into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until all members run, agree on a leader, vote, and have applied the same entries.
    pub async fn await_agreement(&self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        for node in self.nodes() {
            self.ready(node, deadline.saturating_duration_since(Instant::now())).await?;
        }
        loop {
            let statuses = self.statuses().await;
            let view = |status: &pb::StatusResponse| {
                let learner = status.is_learner;
                (status.leader, status.raft_term, status.raft_applied_index, learner)
            };
            let views: Vec<_> = statuses.iter().map(|(_, status)| view(status)).collect();
            let same = views.windows(2).all(|two| two[0] == two[1]);
            let settled = views.first().is_some_and(|(leader, _, _, learner)| *leader != 0 && !learner);
            if views.len() == self.config.member_count && same && settled {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "members do not agree (leader, term, applied index, is learner): {views:?}"
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.get_mut().unwrap_or_else(PoisonError::into_inner).kill();
        }
        if let (Some((node, _)), Carrier::Namespaces(isolated)) =
            (self.config.small_disk, self.config.carrier)
        {
            // If this fails the mount goes with the program, and a directory stays.
            let _ = isolated.unmount(&self.member(node).home);
        }
    }
}
