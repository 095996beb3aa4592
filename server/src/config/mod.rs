//! What an operator can set, and the checks that a setting passes before anything is started.
//!
//! [`Config`] holds the settings as they were given, with etcd's names and defaults; filling it
//! from flags, environment and files is the binary's work. [`Config::validate`] turns it into
//! [`Settings`], the form that the rest of the server reads. Refuses: touching disk or network.

mod duration;
mod gates;
mod initial_cluster;
mod url;
mod validate;

use std::path::PathBuf;
use std::time::Duration;

use folkmoot_core::limits;

pub use duration::parse_duration;
pub use gates::{FeatureGates, Gate, parse_bool};
pub use initial_cluster::{InitialCluster, InitialMember};
pub use url::{Scheme, ServiceUrl, UrlError};
pub use validate::ConfigError;

/// Client listener when none is given.
pub const LISTEN_CLIENT_URL_DEFAULT: &str = "http://localhost:2379";
/// Peer listener when none is given.
pub const LISTEN_PEER_URL_DEFAULT: &str = "http://localhost:2380";
/// Space quota when 0 is given.
pub const QUOTA_BYTES_DEFAULT: i64 = 2 << 30;

/// How much is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What an operator wants to know in normal operation.
    #[default]
    Info,
    /// What may need attention.
    Warn,
    /// What went wrong.
    Error,
}

/// The shape of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Tab separated, for people.
    Console,
}

/// Settings as given, with etcd's names.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--name`: this member's name.
    pub name: String,
    /// `--data-dir`: where everything is kept.
    pub data_dir: PathBuf,
    /// `--listen-client-urls`: where clients are accepted; port 0 takes a free one.
    pub listen_client_urls: Vec<String>,
    /// `--advertise-client-urls`: what clients are told; empty means not given.
    pub advertise_client_urls: Vec<String>,
    /// `--listen-peer-urls`: where other members are accepted.
    pub listen_peer_urls: Vec<String>,
    /// `--initial-advertise-peer-urls`: what other members are told; empty means not given.
    pub initial_advertise_peer_urls: Vec<String>,
    /// `--initial-cluster`: `name=url,name=url`, a name may come again with another URL; empty means
    /// this member alone.
    pub initial_cluster: String,
    /// `--initial-cluster-token`: salt of the member and cluster ids of a new cluster.
    pub initial_cluster_token: String,
    /// `--initial-cluster-state`: `new` or `existing`.
    pub initial_cluster_state: String,
    /// `--heartbeat-interval` in milliseconds.
    pub heartbeat_ms: u64,
    /// `--election-timeout` in milliseconds.
    pub election_ms: u64,
    /// `--initial-election-tick-advance`: accepted for compatibility.
    pub initial_election_tick_advance: bool,
    /// `--pre-vote`: whether a member asks if it could win before it calls an election.
    pub pre_vote: bool,
    /// `--strict-reconfig-check`: refuse changes of the members that would cost the quorum.
    pub strict_reconfig_check: bool,
    /// `--max-learners`: members at a time that only listen.
    pub max_learners: usize,
    /// `--snapshot-count`: applied entries between two snapshots.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`: log entries kept for members that lag behind.
    pub snapshot_catchup_entries: u64,
    /// `--feature-gates`.
    pub feature_gates: FeatureGates,
    /// `--experimental-initial-corrupt-check`, the older spelling of a gate; `None`: not given.
    pub experimental_initial_corrupt_check: Option<bool>,
    /// `--auto-repair`: a member that finds its store damaged takes it anew from another one.
    pub auto_repair: bool,
    /// `--quota-backend-bytes`: 0 means 2 GiB, below 0 none.
    pub quota_backend_bytes: i64,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--max-concurrent-streams`: HTTP/2 streams of one connection.
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-interval`: how often idle connections are pinged; zero is never.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`: how long a ping may stay unanswered.
    pub keepalive_timeout: Duration,
    /// `--auto-compaction-mode`: `periodic` or `revision`.
    pub auto_compaction_mode: String,
    /// `--auto-compaction-retention`: a duration, hours, or a number of revisions; `0` is off.
    pub auto_compaction_retention: String,
    /// `--watch-progress-notify-interval`; zero means ten minutes.
    pub watch_progress_notify_interval: Duration,
    /// `--compaction-batch-limit`: rows one step of physical compaction looks at; 0 means 1000.
    pub compaction_batch_limit: usize,
    /// `--compaction-sleep-interval`: pause between such steps; zero means 10 ms.
    pub compaction_sleep_interval: Duration,
    /// `--warning-unary-request-duration`: slower requests are logged; zero means 300 ms.
    pub warning_unary_request_duration: Duration,
    /// `--log-level`.
    pub log_level: LogLevel,
    /// `--log-format`.
    pub log_format: LogFormat,
    /// `--unsafe-no-fsync`: acknowledged writes may be lost with the machine. For tests only.
    pub unsafe_no_fsync: bool,
    /// Threads that serve clients; 0 means two for each processor, 16 at most.
    pub runtime_threads: usize,
    /// Memory for values kept beside the index, in bytes.
    pub value_cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "default".into(),
            data_dir: "default.folkmoot".into(),
            listen_client_urls: vec![LISTEN_CLIENT_URL_DEFAULT.into()],
            advertise_client_urls: Vec::new(),
            listen_peer_urls: vec![LISTEN_PEER_URL_DEFAULT.into()],
            initial_advertise_peer_urls: Vec::new(),
            initial_cluster: String::new(),
            initial_cluster_token: "etcd-cluster".into(),
            initial_cluster_state: "new".into(),
            heartbeat_ms: 100,
            election_ms: 1000,
            initial_election_tick_advance: true,
            pre_vote: true,
            strict_reconfig_check: true,
            max_learners: 1,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            feature_gates: FeatureGates::default(),
            experimental_initial_corrupt_check: None,
            auto_repair: false,
            quota_backend_bytes: 0,
            max_txn_ops: limits::TXN_OPS_MAX_DEFAULT,
            max_request_bytes: limits::REQUEST_BYTES_MAX_DEFAULT,
            max_concurrent_streams: 4096,
            keepalive_interval: Duration::from_secs(2 * 3600),
            keepalive_timeout: Duration::from_secs(20),
            auto_compaction_mode: "periodic".into(),
            auto_compaction_retention: "0".into(),
            watch_progress_notify_interval: Duration::ZERO,
            compaction_batch_limit: 0,
            compaction_sleep_interval: Duration::ZERO,
            warning_unary_request_duration: Duration::ZERO,
            log_level: LogLevel::default(),
            log_format: LogFormat::default(),
            unsafe_no_fsync: false,
            runtime_threads: 0,
            value_cache_bytes: limits::VALUE_CACHE_BYTES_DEFAULT,
        }
    }
}

impl Config {
    /// A member alone on free ports of the loopback interface, for tests and embedding.
    pub fn alone_in(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen_client_urls: vec!["http://127.0.0.1:0".into()],
            listen_peer_urls: vec!["http://127.0.0.1:0".into()],
            ..Self::default()
        }
    }
}

/// Whether a member without data starts a new cluster or joins one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterState {
    /// It starts a new cluster, with the other initial members.
    New,
    /// It joins, having been added there.
    Existing,
}

/// When old history is compacted without being asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutoCompaction {
    /// Never.
    Off,
    /// What is older than this.
    Periodic(Duration),
    /// All but this many revisions.
    Revision(i64),
}

/// A [`Config`] that was found good, in the form in which the server reads it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration itself, for what needs no other form.
    pub config: Config,
    /// Where clients are accepted.
    pub listen_client: Vec<ServiceUrl>,
    /// What clients are told; empty means: where the listeners ended up.
    pub advertise_client: Vec<String>,
    /// Where other members are accepted.
    pub listen_peer: Vec<ServiceUrl>,
    /// This member's peer URLs.
    pub advertise_peer: Vec<String>,
    /// Whether the initial cluster is new. Of interest only for a member without data.
    pub cluster_state: ClusterState,
    /// The members of a new cluster, or of the one that is joined; this one is among them. Of
    /// interest only for a member without data.
    pub initial_cluster: InitialCluster,
    /// Whether the store is compared with other members' before this one serves.
    pub initial_corrupt_check: bool,
    /// Automatic compaction.
    pub auto_compaction: AutoCompaction,
    /// Largest store in bytes; `None` without a quota.
    pub quota_bytes: Option<u64>,
    /// How long the server waits for its own cluster before it gives up a request: five seconds
    /// and two election timeouts, as etcd.
    pub request_timeout: Duration,
    /// Threads that serve clients.
    pub runtime_threads: usize,
}
