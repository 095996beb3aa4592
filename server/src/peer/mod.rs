//! The other members: what this member says to them and hears from them, snapshots on their way,
//! and what a new member asks before it can be one.
//!
//! The transport itself is the crate `folkmoot-peer`; here its events become inputs of the core,
//! and the core's outputs its calls. Refuses: deciding anything that the core decides.

mod introductions;
mod join;
mod snapshots;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use folkmoot_core::node::{Input, SnapshotId, Status};
use folkmoot_core::types::{ClusterId, MemberId};
use folkmoot_peer::{ClusterInfo, Event, Flow, Identity, MemberInfo, PeerConfig, PeerHandle, PeerMember};
use folkmoot_storage::DataDir;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::node::{Inbox, Published};
use crate::tasks::{Fate, spawn_thread};

use introductions::Contacts;
pub use introductions::contacts;
pub use join::{JoinError, check_not_bootstrapped, find_cluster};
pub use snapshots::SnapshotDesk;

/// Messages and snapshots of the others come through here.
#[derive(Clone)]
pub struct Peers {
    handle: PeerHandle,
    snapshots: Arc<SnapshotDesk>,
    contacts: Arc<Contacts>,
}

/// Connections that wait until they are accepted.
const BACKLOG: u32 = 1024;

/// A port that is taken, and not listened at yet.
pub struct PeerSocket {
    /// The URL it was given as.
    pub url: String,
    /// The socket, bound.
    pub socket: TcpSocket,
}

/// Why the transport could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The address cannot be listened at.
    #[error("cannot listen for peers: {source}; url={url}")]
    Listen {
        /// The listener.
        url: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The system refused a thread or a runtime.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    /// The transport's own reasons.
    #[error(transparent)]
    Transport(#[from] folkmoot_peer::StartError),
}

/// What the transport is built from.
pub struct PeersSetup {
    /// Who this member is.
    pub identity: Identity,
    /// Where the others connect; not listened at before.
    pub sockets: Vec<PeerSocket>,
    /// The data directory, for snapshots that arrive.
    pub dir: Arc<DataDir>,
    /// Snapshots by number.
    pub snapshots: Arc<SnapshotDesk>,
    /// The core thread's inbox.
    pub inbox: Arc<Inbox>,
    /// What everybody may know about the member.
    pub published: Arc<Published>,
    /// How many bytes a second a snapshot may take; `None` without a limit.
    pub snapshot_rate: Option<u64>,
}

/// The transport's thread; it ends when this is dropped, after everything was sent that could be.
pub struct PeersThread {
    handle: PeerHandle,
    runtime: tokio::runtime::Handle,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl PeersThread {
    /// Ends all connections and the thread.
    pub fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let (handle, stop) = (self.handle.clone(), self.stop.clone());
        self.runtime.spawn(async move {
            handle.shutdown().await;
            stop.send_replace(true);
        });
        // A panic was told to the fate.
        let _ = thread.join();
    }
}

impl Drop for PeersThread {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts the transport on a thread of its own.
///
/// # Errors
/// A port was taken by somebody else, the system refused a thread, or the directory for snapshots
/// cannot be used.
pub fn start(setup: PeersSetup, fate: &Fate) -> Result<(Peers, PeersThread), PeersError> {
    let PeersSetup { identity, sockets, dir, snapshots, inbox, published, snapshot_rate } = setup;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_name("peers-files")
        .build()?;
    let listeners = listen(sockets, &runtime)?;
    let (strangers, strangers_heard) = watch::channel(None);
    let events = Events {
        strangers,
        cluster_id: identity.cluster,
        inbox,
        snapshots: Arc::clone(&snapshots),
        published: Arc::clone(&published),
        fate: fate.clone(),
    };
    let mut config = PeerConfig::new(dir.snap_dir());
    config.queue_frames_max = 65_536;
    let handle = PeerHandle::start(
        config,
        identity,
        listeners,
        runtime.handle().clone(),
        move |event| events.take(event),
        {
            let published = Arc::clone(&published);
            move || describe(identity.cluster, &published)
        },
    )?;
    snapshots.set_rate(snapshot_rate);
    let contacts = Arc::new(Contacts::default());
    let peers = Peers { handle: handle.clone(), snapshots, contacts: Arc::clone(&contacts) };
    runtime.spawn(introductions::run(
        introductions::Introductions {
            cluster_id: identity.cluster,
            published,
            contacts,
            handle: handle.clone(),
        },
        strangers_heard,
    ));
    let (stop, mut stopped) = watch::channel(false);
    let runtime_handle = runtime.handle().clone();
    let work = move || {
        // An error means that nobody can ask to stop any more.
        let _ = runtime.block_on(stopped.wait_for(|stopped| *stopped));
        runtime.shutdown_background();
    };
    let thread = spawn_thread("peers", fate, work, || {})?;
    Ok((peers, PeersThread { handle, runtime: runtime_handle, stop, thread: Some(thread) }))
}

fn listen(sockets: Vec<PeerSocket>, runtime: &Runtime) -> Result<Vec<TcpListener>, PeersError> {
    let _inside = runtime.enter();
    let listen = |PeerSocket { url, socket }| {
        let listener = socket.listen(BACKLOG).and_then(tokio::net::TcpListener::into_std);
        listener.map_err(|source| PeersError::Listen { url, source })
    };
    sockets.into_iter().map(listen).collect()
}

/// The cluster as this member knows it, for those who want to join.
fn describe(cluster_id: ClusterId, published: &Published) -> ClusterInfo {
    let members = published.members();
    ClusterInfo {
        cluster_id,
        members: members
            .iter()
            .map(|member| MemberInfo {
                id: member.id,
                name: member.name.clone(),
                peer_urls: member.peer_urls.clone(),
                client_urls: member.client_urls.clone(),
                learner: member.learner,
                incarnation: Some(member.incarnation).filter(|incarnation| *incarnation != 0),
            })
            .collect(),
        removed: published.removed().as_ref().clone(),
        leader: published.leader(),
        version: published.cluster_version().to_string(),
    }
}

struct Events {
    strangers: watch::Sender<Option<MemberId>>,
    cluster_id: ClusterId,
    inbox: Arc<Inbox>,
    snapshots: Arc<SnapshotDesk>,
    published: Arc<Published>,
    fate: Fate,
}

impl Events {
    fn take(&self, event: Event) -> Flow {
        match event {
            Event::Message { from, bytes } => {
                return match self.inbox.peer(from, bytes) {
                    true => Flow::Continue,
                    false => Flow::Pause,
                };
            }
            Event::Unreachable { peer } => self.inbox.complete(Input::PeerUnreachable { peer }),
            Event::Connected { peer, boot, .. } => {
                tracing::info!("remote-peer-id" = %peer, boot, "established TCP streaming connection with remote peer");
            }
            Event::Disconnected { peer } => {
                tracing::warn!("remote-peer-id" = %peer, "lost TCP streaming connection with remote peer");
                self.inbox.complete(Input::PeerLost { peer });
            }
            Event::Removed { by } => {
                tracing::warn!("remote-peer-id" = %by, "a member says that this one was removed");
                self.published.set_removed_self();
            }
            // The transport has logged it.
            Event::Refused { .. } => {}
            Event::Stranger { member } => drop(self.strangers.send_replace(Some(member))),
            Event::SnapshotArrived { from, message, dir, bytes, .. } => {
                tracing::info!("remote-peer-id" = %from, bytes, "received and saved database snapshot");
                self.snapshots.arrived(self.cluster_id, from, message, dir, &self.inbox, &self.fate);
            }
            Event::SnapshotSent { to, id, outcome } => {
                match &outcome {
                    Ok(()) => tracing::info!("remote-peer-id" = %to, "sent merged snapshot"),
                    Err(error) => {
                        tracing::warn!("remote-peer-id" = %to, %error, "failed to send merged snapshot");
                    }
                }
                let id = SnapshotId(id);
                self.snapshots.sent(id);
                self.inbox.complete(Input::SnapshotSent { to, id, ok: outcome.is_ok() });
            }
        }
        Flow::Continue
    }
}

impl Peers {
    /// Sends a message; it may be lost.
    pub fn send(&self, to: MemberId, message: Bytes) {
        self.handle.send(to, message);
    }

    /// Sends a copy of the engine. How it ended comes back as an input of the core.
    pub fn send_snapshot(&self, to: MemberId, id: SnapshotId, message: Bytes, inbox: &Inbox) {
        match self.snapshots.to_send(id, message) {
            Some(snapshot) => self.handle.send_snapshot(to, snapshot),
            None => inbox.complete(Input::SnapshotSent { to, id, ok: false }),
        }
    }

    /// Takes over who the members are.
    pub fn set_members(&self, status: &Status) {
        let members = status
            .members
            .iter()
            .map(|member| PeerMember {
                id: member.id,
                urls: member.peer_urls.clone(),
                incarnation: Some(member.incarnation).filter(|incarnation| *incarnation != 0),
            })
            .collect();
        self.contacts.set_rows(&self.handle, members, &status.removed);
    }

    /// Connects to members of a cluster that this one does not know yet from its own rows.
    pub fn set_first_contacts(&self, members: Vec<PeerMember>) {
        self.contacts.add(&self.handle, members);
    }

    /// Since when messages to a member leave.
    pub fn connected(&self, member: MemberId) -> Option<Instant> {
        self.handle.connected(member)
    }
}
