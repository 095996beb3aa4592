//! Starting the transport, and the handle by which its owner reaches it.

use std::fmt;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use folkmoot_core::types::MemberId;
use tokio::runtime::Handle;

use crate::config::{Identity, PeerConfig, StartError};
use crate::event::{Event, Flow, PeerMember, SnapshotToSend};
use crate::handshake::ClusterInfo;
use crate::shared::{Peer, Shared};
use crate::snapshot::{SnapshotError, clear_stale, discard};
use crate::warnings::About;
use crate::{listener, outbound, snapshot};

/// The way to the other members. A cheap clone.
#[derive(Clone)]
pub struct PeerHandle {
    shared: Arc<Shared>,
}

impl fmt::Debug for PeerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerHandle").field("me", &self.shared.me).finish_non_exhaustive()
    }
}

impl PeerHandle {
    /// Starts the transport without any other member; [`Self::set_members`] names them. Removes
    /// unfinished snapshots from the staging directory.
    ///
    /// Tasks run on `runtime`, which is meant to have one thread. `on_event` and `cluster_info`
    /// are called from there; neither may block or panic.
    pub fn start(
        config: PeerConfig,
        me: Identity,
        listeners: Vec<TcpListener>,
        runtime: Handle,
        on_event: impl Fn(Event) -> Flow + Send + Sync + 'static,
        cluster_info: impl Fn() -> ClusterInfo + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        config.check()?;
        clear_stale(&config.staging_dir)
            .map_err(|source| StartError::Staging { dir: config.staging_dir.clone(), source })?;
        let listeners = {
            let _on_runtime = runtime.enter();
            let listeners: Result<Vec<_>, _> = listeners.into_iter().map(listener::listen).collect();
            listeners.map_err(StartError::Listener)?
        };
        let shared = Arc::new(Shared::new(config, me, runtime, Box::new(on_event), Box::new(cluster_info)));
        for listener in listeners {
            shared.tasks.spawn(listener::run(Arc::clone(&shared), listener));
        }
        shared.tasks.spawn(Arc::clone(&shared).tell_unreachable());
        Ok(Self { shared })
    }

    /// Takes a new membership: connects to new members, leaves those that are gone, and ends the
    /// connections that are not allowed any more, telling their diallers why. What waits for one
    /// that is gone is still written to it. `members` may name this member, too.
    pub fn set_members(&self, members: Vec<PeerMember>, removed: &[MemberId]) {
        let shared = &self.shared;
        if shared.tasks.stopped() {
            return;
        }
        let mut fresh = Vec::new();
        let mut left_slots = Vec::new();
        {
            let mut state = shared.state.lock();
            state.roster.update(&members, removed);
            state.end_refused();
            let stays =
                |id: &MemberId| members.iter().any(|member| member.id == *id) && !removed.contains(id);
            for (_, peer) in state.peers.extract_if(|id, _| !stays(id)) {
                peer.leave();
            }
            for (_, outgoing) in state.outgoing.extract_if(|id, _| !stays(id)) {
                outgoing.cancel(SnapshotError::UnknownMember);
            }
            left_slots.extend(state.slots.extract_if(|id, _| !stays(id)).map(|(_, slot)| slot));
            for member in members {
                if member.id == shared.me.member || removed.contains(&member.id) {
                    continue;
                }
                match state.peers.get(&member.id) {
                    Some(peer) => retarget(peer, member),
                    None => {
                        let peer = Arc::new(Peer::new(member));
                        state.peers.insert(peer.id, Arc::clone(&peer));
                        fresh.push(peer);
                    }
                }
            }
        }
        for peer in fresh {
            shared.tasks.spawn(outbound::run(Arc::clone(shared), peer));
        }
        for slot in left_slots {
            shared.tasks.spawn_blocking(move || discard(&mut slot.blocking_lock()));
        }
    }

    /// Sends a message. Never blocks: when there is no connection or too much waits for it, the
    /// message is dropped and the peer reported as unreachable.
    pub fn send(&self, to: MemberId, message: Bytes) {
        let config = &self.shared.config;
        let bytes = message.len();
        if bytes > config.frame_bytes_max {
            if let Some(left_out) = self.shared.warnings.admit(About::Peer(to), "message_too_large") {
                let bytes_max = config.frame_bytes_max;
                tracing::error!(%to, bytes, bytes_max, left_out, "message to a peer is too large and was dropped");
            }
        } else if let Some(peer) = self.shared.peer(to)
            && peer.outbox.lock().push(message, config.queue_frames_max, config.queue_bytes_max)
        {
            peer.filled.notify_one();
            return;
        }
        self.shared.report_unreachable(to);
    }

    /// Sends a snapshot, in place of an older one that is on its way to the same member. How it
    /// ended is told by [`Event::SnapshotSent`], exactly once; after [`Self::shutdown`] nothing is
    /// sent or told any more.
    pub fn send_snapshot(&self, to: MemberId, snapshot: SnapshotToSend) {
        snapshot::send(&self.shared, to, snapshot);
    }

    /// Since when messages to a peer leave; `None` when they do not.
    pub fn connected(&self, peer: MemberId) -> Option<Instant> {
        self.shared.peer(peer)?.connected()
    }

    /// Why the last connection, or attempt at one, to a peer ended; `None` while connected and
    /// before the first attempt did.
    pub fn problem(&self, peer: MemberId) -> Option<String> {
        self.shared.peer(peer)?.problem.lock().text.clone()
    }

    /// Ends everything, within about a second: only disk work that hangs is not waited for.
    pub async fn shutdown(&self) {
        let shared = Arc::clone(&self.shared);
        let stopped = self.shared.tasks.runtime().spawn(async move { shared.tasks.stop().await });
        // It only fails when the runtime is gone, and all tasks with it.
        let _ = stopped.await;
    }
}

fn retarget(peer: &Peer, member: PeerMember) {
    let mut target = peer.target.lock();
    if *target == member {
        return;
    }
    *target = member;
    drop(target);
    peer.retargeted.notify_one();
    if peer.connected().is_none() {
        peer.nudge.notify_one();
    }
}
