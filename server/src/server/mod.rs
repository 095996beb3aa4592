//! Builds everything, in order, and takes it down again.
//!
//! Start: check the settings, take the listeners' ports, ask the other members if this one is new,
//! lock the data directory, open engine and log, start the threads, wait for leadership and for this
//! member's own announcement, and only then serve. Stop: end the calls, then the core, the log, the hub, and last the engine, flushed
//! so that the next start has little to read.

mod signals;
mod store;
mod threads;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use folkmoot_core::cluster::Member;
use folkmoot_core::codec;
use folkmoot_core::command::{Command, Kind};
use folkmoot_core::error::Fatal;
use folkmoot_storage::{DataDir, StorageError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpSocket;
use tokio::sync::watch;

use crate::config::{Config, ConfigError, ServiceUrl, Settings};
use crate::node::NodeHandle;
use crate::peer::PeerSocket;
use crate::runtimes::Runtimes;
use crate::tasks::Fate;
use crate::version::{CLUSTER_VERSION, ETCD_VERSION};
use threads::Threads;

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings do not fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener's address cannot be used.
    #[error("cannot listen for {whom}: {source}; url={url}")]
    Listen {
        /// Clients or peers.
        whom: &'static str,
        /// The listener.
        url: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What is stored cannot be used, or the engine failed.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The other members keep this one from starting.
    #[error(transparent)]
    Join(#[from] crate::peer::JoinError),
    /// The way to the other members could not be opened.
    #[error(transparent)]
    Peers(#[from] crate::peer::PeersError),
    /// The system refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The member failed before it could serve.
    #[error("member failed while it started: {0}")]
    Failed(String),
}

/// Why a server ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It failed.
    #[error("server failed: {0}")]
    Failed(String),
}

/// A server that runs in this process. Dropping it shuts it down.
pub struct Server {
    addresses: Vec<SocketAddr>,
    node: NodeHandle,
    fate: Fate,
    stopping: watch::Sender<bool>,
    runtimes: Option<Runtimes>,
    threads: Threads,
    /// Held to the end: nobody else may open the directory before everything is written.
    _dir: Arc<DataDir>,
}

impl Server {
    /// Starts a server and returns once it serves.
    ///
    /// # Errors
    /// The first thing that went wrong; nothing is left running then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let mut settings = config.validate()?;
        log_settings(&settings);
        let listeners = bind(&settings.listen_client, "clients")?;
        let peer_sockets = take_ports(&settings.listen_peer)?;
        if settings.advertise_client.is_empty() {
            settings.advertise_client = advertised(&settings, &listeners);
        }
        let opened = store::open(&settings)?;
        let mut server = threads::start(settings, opened, peer_sockets)?;
        server.announce()?;
        server.accept(listeners)?;
        Ok(server)
    }

    /// Where clients are served; the first listener.
    pub fn client_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where clients are served.
    pub fn client_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// This member's id.
    pub fn member_id(&self) -> u64 {
        self.node.member_id().0
    }

    /// Waits until this member was removed from its cluster.
    pub async fn removed(&self) {
        removed(&self.node).await;
    }

    /// Waits until the server cannot go on; gives the reason.
    pub async fn failed(&self) -> String {
        self.fate.failed().await
    }

    /// Ends all calls, writes everything, and stops.
    ///
    /// # Errors
    /// The reason, if the server had failed before or fails now.
    pub fn shutdown(mut self) -> Result<(), String> {
        self.stop();
        self.fate.failure().map_or(Ok(()), Err)
    }

    /// Stops without handing leadership over, so that the others have to notice by themselves that
    /// it is gone; for tests of what they do then. Everything acknowledged is kept.
    #[doc(hidden)]
    pub fn abandon(mut self) {
        self.end();
    }

    /// Waits for leadership, and announces name and client URLs to the cluster.
    fn announce(&mut self) -> Result<(), StartError> {
        let runtimes = self.runtimes.as_ref().expect("not stopped yet");
        let (sender, receiver) = std::sync::mpsc::channel();
        let (node, fate) = (self.node.clone(), self.fate.clone());
        runtimes.spawn(async move {
            let result = tokio::select! {
                checked = announce(&node) => checked,
                () = removed(&node) => Ok(()),
                reason = fate.failed() => Err(reason),
            };
            // The starting thread waits for exactly this.
            let _ = sender.send(result);
        });
        match receiver.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(StartError::Failed(reason)),
            Err(_) => Err(StartError::Failed("the first runtime ended".into())),
        }
    }

    fn accept(&mut self, listeners: Vec<TcpListener>) -> Result<(), StartError> {
        let runtimes = self.runtimes.as_ref().expect("not stopped yet");
        for listener in listeners {
            let address = runtimes.accept(listener, self.stopping.subscribe()).map_err(StartError::Thread)?;
            tracing::info!("ready to serve client requests");
            let text = address.to_string();
            tracing::info!(
                traffic = "grpc+http",
                address = text,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
            self.addresses.push(address);
        }
        Ok(())
    }

    /// Hands leadership over while this member still serves, so that the others need not wait for
    /// an election. Waits no longer than an election would take.
    fn hand_over(&self) {
        let Some(runtimes) = &self.runtimes else { return };
        if self.fate.failure().is_some() || self.node.status().leader() != Some(self.node.member_id()) {
            return;
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let node = self.node.clone();
        runtimes.spawn(async move {
            if let Err(error) = node.step_down().await {
                tracing::warn!(?error, "leadership could not be handed over before the stop");
            }
            // Nobody may wait any more.
            let _ = sender.send(());
        });
        let election = Duration::from_millis(self.node.settings().config.election_ms);
        // Without an answer the others elect.
        let _ = receiver.recv_timeout(2 * election);
    }

    fn stop(&mut self) {
        self.hand_over();
        self.end();
    }

    fn end(&mut self) {
        let Some(runtimes) = self.runtimes.take() else { return };
        self.stopping.send_replace(true);
        self.threads.stop_watching();
        runtimes.join();
        self.threads.stop();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Serves until the process is asked to stop by SIGINT or SIGTERM, and then ends it by that
/// signal, as whoever sent it expects. Returns only if there was an error, or in a process that
/// cannot die by a signal (the first of a container).
///
/// # Errors
/// Why the server did not start, or what made it fail.
pub fn run(config: Config) -> Result<(), RunError> {
    raise_file_limit();
    let server = Server::start(config)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    let ended =
        runtime.block_on(signals::wait(server.failed(), server.removed())).map_err(StartError::Thread)?;
    match ended {
        signals::Ended::Removed => {
            // Others may still learn from this member that it knows.
            std::thread::sleep(Duration::from_secs(1));
            tracing::warn!(
                error = "the member has been permanently removed from the cluster",
                "server error"
            );
            tracing::warn!("data-dir used by this member must be removed");
            server.shutdown().map_err(RunError::Failed)?;
            tracing::info!("closed etcd server");
            Ok(())
        }
        signals::Ended::Failed(reason) => {
            // Dropping it lets everybody go who waits; nothing more is written.
            drop(server);
            Err(RunError::Failed(reason))
        }
        signals::Ended::Signal(signal) => {
            tracing::info!(signal = signal.name(), "received signal; shutting down");
            tracing::info!("closing etcd server");
            server.shutdown().map_err(RunError::Failed)?;
            tracing::info!("closed etcd server");
            signal.die();
            Ok(())
        }
    }
}

/// Every connection takes a file descriptor, and the usual limit of 1024 is meant for programs
/// that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "could not raise the limit of open files, which also bounds connections");
    }
}

fn log_settings(settings: &Settings) {
    let config = &settings.config;
    tracing::info!(
        "etcd-version" = ETCD_VERSION,
        "folkmoot-version" = env!("CARGO_PKG_VERSION"),
        name = config.name,
        "data-dir" = %config.data_dir.display(),
        "heartbeat-interval" = format!("{}ms", config.heartbeat_ms),
        "election-timeout" = format!("{}ms", config.election_ms),
        "snapshot-count" = config.snapshot_count,
        "snapshot-catchup-entries" = config.snapshot_catchup_entries,
        "max-txn-ops" = config.max_txn_ops,
        "max-request-bytes" = config.max_request_bytes,
        "quota-backend-bytes" = config.quota_backend_bytes,
        "listen-client-urls" = config.listen_client_urls.join(","),
        "advertise-client-urls" = settings.advertise_client.join(","),
        "initial-advertise-peer-urls" = settings.advertise_peer.join(","),
        "auto-compaction-mode" = config.auto_compaction_mode,
        "auto-compaction-retention" = config.auto_compaction_retention,
        "starting an etcd server"
    );
    if config.name == "default" {
        tracing::warn!("'default' is the name of every member that was not given one");
    }
    if config.unsafe_no_fsync {
        tracing::warn!("acknowledged writes may be lost with the machine: --unsafe-no-fsync is set");
    }
}

fn bind(urls: &[ServiceUrl], whom: &'static str) -> Result<Vec<TcpListener>, StartError> {
    urls.iter()
        .map(|url| {
            let ip = url.bind_ip().expect("checked with the settings");
            TcpListener::bind((ip, url.port)).map_err(|source| StartError::Listen {
                whom,
                url: url.to_string(),
                source,
            })
        })
        .collect()
}

/// Takes the ports for other members, without listening: whoever asks this member before it can
/// answer must be refused at once. Members that start a cluster together ask each other.
fn take_ports(urls: &[ServiceUrl]) -> Result<Vec<PeerSocket>, StartError> {
    let take = |url: &ServiceUrl| {
        let ip = url.bind_ip().expect("checked with the settings");
        let socket = match ip {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // As the standard library does: connections that ended a moment ago keep nobody from it.
        socket.set_reuseaddr(true)?;
        socket.bind((ip, url.port).into())?;
        Ok(PeerSocket { url: url.to_string(), socket })
    };
    let failed =
        |url: &ServiceUrl, source| StartError::Listen { whom: "peers", url: url.to_string(), source };
    urls.iter().map(|url| take(url).map_err(|source| failed(url, source))).collect()
}

/// What clients are told when the operator said nothing: where the listeners ended up.
fn advertised(settings: &Settings, listeners: &[TcpListener]) -> Vec<String> {
    let bound = settings.listen_client.iter().zip(listeners);
    bound
        .map(|(url, listener)| {
            let port = listener.local_addr().map_or(url.port, |address| address.port());
            crate::config::ServiceUrl { port, ..url.clone() }.to_string()
        })
        .collect()
}

/// Waits until the member was removed.
async fn removed(node: &NodeHandle) {
    let mut removed = node.status().removed_self();
    // It lives as long as the node.
    let _ = removed.wait_for(|removed| *removed).await;
}

/// Tells the cluster who this member is, once there is a leader to tell.
///
/// # Errors
/// The state of this member was to be compared first, and is wrong.
async fn announce(node: &NodeHandle) -> Result<(), String> {
    let settings = node.settings();
    if settings.initial_corrupt_check {
        check_state(node).await?;
    }
    let publish = codec::cluster::publish(&Member {
        id: node.member_id(),
        name: settings.config.name.clone(),
        peer_urls: settings.advertise_peer.clone(),
        client_urls: settings.advertise_client.clone(),
        learner: false,
        incarnation: 0,
    });
    propose_until_done(node, publish, "publish the member").await;
    let disk = codec::cluster::member_disk(node.member_id(), node.data_dir().incarnation());
    propose_until_done(node, disk, "publish the member's disk").await;
    if node.status().cluster_version().is_empty() {
        let version = Command { kind: Kind::ClusterVersion, body: CLUSTER_VERSION.into() };
        propose_until_done(node, version, "set the cluster version").await;
    }
    Ok(())
}

/// Waits until this member's state was compared with another's, which needs one that runs and has
/// not forgotten the index at which this one stopped.
async fn check_state(node: &NodeHandle) -> Result<(), String> {
    if node.status().members().len() < 2 {
        return Ok(());
    }
    let mut comparison = node.status().comparison();
    let compared = comparison.wait_for(|(compared, wrong)| *compared > 0 || *wrong);
    let found = tokio::time::timeout(node.settings().request_timeout, compared).await;
    match found {
        Ok(Ok(found)) if found.1 => Err(format!("{} found data inconsistency with peers", node.member_id())),
        Ok(Ok(_)) => {
            tracing::info!("finished initial corruption check: no corruption found");
            Ok(())
        }
        // As in etcd, a peer that cannot be asked keeps nobody from starting.
        Ok(Err(_)) | Err(_) => {
            tracing::warn!("no other member could be asked; the initial corruption check was left out");
            Ok(())
        }
    }
}

async fn propose_until_done(node: &NodeHandle, command: Command, what: &str) {
    const PAUSE: Duration = Duration::from_millis(100);
    while let Err(error) = node.propose(command.clone()).await {
        tracing::warn!(?error, "could not {what}, trying again");
        tokio::time::sleep(PAUSE).await;
    }
}
