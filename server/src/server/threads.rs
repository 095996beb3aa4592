//! Builds the member's threads and the runtimes around them.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use folkmoot_core::env::Engine;
use folkmoot_core::limits;
use folkmoot_core::mvcc::Reader;
use folkmoot_core::node::{Node, NodeConfig};
use folkmoot_core::watch::{Hub, HubConfig};
use tokio::sync::watch;

use super::store::Opened;
use super::{Server, StartError};
use crate::config::Settings;
use crate::node::{
    CoreThread, Inbox, NodeHandle, Port, Published, Reports, Shared, StorageHandle, run_wal, storage_thread,
};
use crate::peer::{self, PeerSocket, PeersSetup, PeersThread, SnapshotDesk};
use crate::runtimes::{self, RuntimeParts, Runtimes};
use crate::tasks::{Fate, spawn_thread};
use crate::upkeep;
use crate::watch::{HubHandle, WakePort, hub_thread};

/// How fast a snapshot is sent at most: fast enough for ten gigabytes in under two minutes, and
/// slow enough to leave disk and network to the leader's work.
const SNAPSHOT_BYTES_PER_SECOND: u64 = 96 << 20;

/// The member's own threads and how each is told to end.
pub struct Threads {
    inbox: Arc<Inbox>,
    hub: HubHandle,
    storage: StorageHandle,
    peers: PeersThread,
    core_thread: Option<JoinHandle<()>>,
    wal_thread: Option<JoinHandle<()>>,
    hub_thread: Option<JoinHandle<()>>,
    storage_thread: Option<JoinHandle<()>>,
}

impl Threads {
    /// Ends all watch streams, which would otherwise hold their connections open.
    pub fn stop_watching(&mut self) {
        self.hub.stop();
        join(&mut self.hub_thread);
    }

    /// Ends all of them; each only after those that could still hand it something.
    pub fn stop(&mut self) {
        self.stop_watching();
        self.inbox.close();
        join(&mut self.core_thread);
        self.peers.stop();
        // The log's thread ends with the core thread, which held the way to it.
        join(&mut self.wal_thread);
        self.storage.stop();
        join(&mut self.storage_thread);
    }
}

fn join(thread: &mut Option<JoinHandle<()>>) {
    if let Some(thread) = thread.take() {
        // A panic was told to the fate.
        let _ = thread.join();
    }
}

/// Starts the member's threads and the runtimes, which serve nothing yet.
pub fn start(
    settings: Settings,
    opened: Opened,
    peer_sockets: Vec<PeerSocket>,
) -> Result<Server, StartError> {
    let Opened { dir, engine, wal, recovered, identity, boot, contacts } = opened;
    let config = &settings.config;
    let node_config = NodeConfig {
        tick: Duration::from_millis(config.heartbeat_ms),
        election_ticks: usize::try_from(config.election_ms / config.heartbeat_ms).unwrap_or(usize::MAX),
        value_cache_bytes: config.value_cache_bytes,
        request_timeout: settings.request_timeout,
        disk_stall: (2 * Duration::from_millis(config.election_ms)).max(Duration::from_secs(1)),
        strict_reconfig: config.strict_reconfig_check,
        max_learners: config.max_learners,
        auto_repair: config.auto_repair,
        kept_entries: usize::try_from(config.snapshot_catchup_entries).unwrap_or(usize::MAX),
        ..NodeConfig::new(identity.cluster_id, identity.member_id, boot, rand::random())
    };
    let node = Node::new(node_config, Arc::clone(&engine) as Arc<dyn Engine>, recovered)?;
    let reader = node.reader();
    let hub_state = new_hub(&settings, &reader);
    let published = Arc::new(Published::new(node.status()));
    if node.status().removed.contains(&identity.member_id) {
        // It was told before it was stopped, and need not hear it from the others again.
        published.set_removed_self();
    }
    let (hub, hub_work) = hub_thread();
    let (storage, storage_work) =
        storage_thread(Arc::clone(&engine), reader.compact_revision(), reader.revision(), &settings.config);
    let (wal_jobs, wal_queue) = crossbeam_channel::unbounded();
    let inbox = Arc::new(Inbox::new());
    let ports: Vec<Arc<Port>> =
        (0..settings.runtime_threads).map(|index| Arc::new(Port::new(index as u8))).collect();
    let fate = Fate::default();
    let snapshots = Arc::new(SnapshotDesk::default());
    let setup = PeersSetup {
        identity: folkmoot_peer::Identity {
            cluster: identity.cluster_id,
            member: identity.member_id,
            boot,
            incarnation: dir.incarnation(),
        },
        sockets: peer_sockets,
        dir: Arc::clone(&dir),
        snapshots: Arc::clone(&snapshots),
        inbox: Arc::clone(&inbox),
        published: Arc::clone(&published),
        snapshot_rate: Some(SNAPSHOT_BYTES_PER_SECOND),
    };
    let (peers, peers_thread) = peer::start(setup, &fate)?;
    match node.status().members.is_empty() {
        // It has yet to hear from the cluster who belongs to it.
        true => peers.set_first_contacts(contacts),
        false => peers.set_members(node.status()),
    }
    let (stopping, stopped) = watch::channel(false);
    let (leaderless_sender, leaderless) = watch::channel(false);

    let shared = Arc::new(Shared {
        cluster_id: identity.cluster_id,
        member_id: identity.member_id,
        settings,
        published: Arc::clone(&published),
        reader,
        dir: Arc::clone(&dir),
        storage: storage.clone(),
        hub: hub.clone(),
        peers: peers.clone(),
        room: tokio::sync::Semaphore::new(crate::node::ROOM_UNITS),
        inbox: Arc::clone(&inbox),
        fate: fate.clone(),
        leaderless,
        stopping: stopped.clone(),
    });
    let core = CoreThread {
        node,
        inbox: Arc::clone(&inbox),
        ports: ports.clone(),
        published: Arc::clone(&published),
        wal: wal_jobs,
        storage: storage.clone(),
        hub: hub.clone(),
        peers,
        snapshots: Arc::clone(&snapshots),
        known_members: None,
        fate: fate.clone(),
    };
    let reports =
        Reports { inbox: Arc::clone(&inbox), hub: hub.clone(), published, snapshots, dir: Arc::clone(&dir) };

    // When one of the member's threads ends early, the core thread must end too, and with it
    // everybody's wait.
    let close_inbox = || {
        let inbox = Arc::clone(&inbox);
        move || inbox.close()
    };
    // The hub's thread ends before the others when the server stops.
    let close_inbox_on_failure = {
        let (close_inbox, fate) = (close_inbox(), fate.clone());
        move || {
            if fate.failure().is_some() {
                close_inbox();
            }
        }
    };
    let stop_ports = {
        let ports = ports.clone();
        move || ports.iter().for_each(|port| port.stop())
    };
    let may_sync = !shared.settings.config.unsafe_no_fsync;
    let (wal_inbox, wal_fate) = (Arc::clone(&inbox), fate.clone());
    let wal_work = move || run_wal(wal, &wal_queue, &wal_inbox, &wal_fate, may_sync);
    let (storage_fate, hub_fate) = (fate.clone(), fate.clone());
    let storage_work = move || storage_work.run(&reports, &storage_fate);
    let hub_work = move || hub_work.run(hub_state, &hub_fate);
    let started = |result: std::io::Result<JoinHandle<()>>| result.map(Some).map_err(StartError::Thread);
    let threads = Threads {
        core_thread: started(spawn_thread("core", &fate, move || core.run(), stop_ports))?,
        wal_thread: started(spawn_thread("wal", &fate, wal_work, close_inbox()))?,
        hub_thread: started(spawn_thread("watch", &fate, hub_work, close_inbox_on_failure))?,
        storage_thread: started(spawn_thread("storage", &fate, storage_work, close_inbox()))?,
        inbox,
        hub,
        storage,
        peers: peers_thread,
    };

    let mut runtimes = Vec::new();
    let mut first = None;
    for (number, port) in ports.into_iter().enumerate() {
        let wake_port = Arc::new(WakePort::new());
        let node = NodeHandle::new(Arc::clone(&shared), Arc::clone(&port), Arc::clone(&wake_port));
        first.get_or_insert_with(|| node.clone());
        let parts = RuntimeParts { port, wake_port, node };
        runtimes.push(runtimes::start(number, parts, &fate, stopped.clone()).map_err(StartError::Thread)?);
    }
    let runtimes = Runtimes::new(runtimes);
    let node = first.expect("settings name at least one runtime");
    runtimes.spawn(upkeep::watch_for_a_leader(node.clone(), leaderless_sender));
    runtimes.spawn(upkeep::compact_from_time_to_time(node.clone()));
    Ok(Server { addresses: Vec::new(), node, fate, stopping, runtimes: Some(runtimes), threads, _dir: dir })
}

fn new_hub(settings: &Settings, reader: &Reader) -> Hub {
    let config = &settings.config;
    let hub_config = HubConfig {
        fragment_bytes: config.max_request_bytes + limits::REQUEST_OVERHEAD_BYTES,
        progress_interval: match config.watch_progress_notify_interval {
            Duration::ZERO => Duration::from_secs(600),
            interval => interval,
        },
        hash_seed: rand::random(),
        ..HubConfig::default()
    };
    Hub::new(hub_config, Arc::new(reader.clone()), reader.revision(), reader.compact_revision())
}
