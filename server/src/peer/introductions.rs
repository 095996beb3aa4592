//! Members that this one has not heard of by the log: a joining member knows nobody yet, and one that was
//! away may find that others have come meanwhile, and that one of them leads. Only the log would tell it,
//! and only the leader sends the log; so it asks the members it knows.

use std::sync::Arc;
use std::time::Duration;

use folkmoot_core::types::{ClusterId, MemberId};
use folkmoot_peer::{ClusterInfo, MemberInfo, PeerHandle, PeerMember, fetch_cluster};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::node::Published;

/// How long one member has to describe the cluster.
const WITHIN: Duration = Duration::from_secs(2);
/// How long it rests between two rounds of asking.
const PAUSE: Duration = Duration::from_secs(1);

/// Who may connect and is connected to: the members by this member's own rows, and contacts that others
/// have named.
///
/// Invariants: the own rows come first, whatever others say; nobody who was removed is a contact; a contact
/// stays until the rows name it, so that it is there while the log is read that was written without it.
#[derive(Default)]
pub(super) struct Contacts(Mutex<Known>);

#[derive(Default)]
struct Known {
    rows: Vec<PeerMember>,
    removed: Vec<MemberId>,
    others: Vec<PeerMember>,
}

impl Contacts {
    /// Takes over the own rows.
    pub fn set_rows(&self, handle: &PeerHandle, rows: Vec<PeerMember>, removed: &[MemberId]) {
        let mut known = self.0.lock();
        known.rows = rows;
        known.removed = removed.to_vec();
        known.tell(handle);
    }

    /// Takes over what another member says.
    pub fn add(&self, handle: &PeerHandle, others: Vec<PeerMember>) {
        let mut known = self.0.lock();
        known.others.retain(|old| others.iter().all(|new| new.id != old.id));
        known.others.extend(others);
        known.tell(handle);
    }
}

impl Known {
    fn tell(&mut self, handle: &PeerHandle) {
        let Self { rows, removed, others } = self;
        others.retain(|one| rows.iter().all(|row| row.id != one.id) && !removed.contains(&one.id));
        handle.set_members(rows.iter().chain(others.iter()).cloned().collect(), removed);
    }
}

pub(super) struct Introductions {
    pub cluster_id: ClusterId,
    pub published: Arc<Published>,
    pub contacts: Arc<Contacts>,
    pub handle: PeerHandle,
}

/// Asks about strangers until the transport ends.
pub(super) async fn run(introductions: Introductions, mut strangers: watch::Receiver<Option<MemberId>>) {
    while strangers.changed().await.is_ok() {
        let Some(stranger) = *strangers.borrow_and_update() else { continue };
        introductions.ask_about(stranger).await;
        tokio::time::sleep(PAUSE).await;
    }
}

impl Introductions {
    async fn ask_about(&self, stranger: MemberId) {
        for member in self.published.members().iter() {
            let Ok(info) = fetch_cluster(&member.peer_urls, WITHIN).await else { continue };
            if info.cluster_id == self.cluster_id && info.members.iter().any(|one| one.id == stranger) {
                tracing::info!(
                    "remote-peer-id" = %stranger, told_by = %member.id,
                    "found a member that was added while this one was away"
                );
                self.contacts.add(&self.handle, contacts(info));
                return;
            }
        }
        tracing::warn!(
            "remote-peer-id" = %stranger,
            "a member of this cluster calls that nobody known here can tell of; if all other members were \
             replaced, remove this one with `member remove` and add it again with an empty data directory"
        );
    }
}

/// The members that a description names.
pub fn contacts(info: ClusterInfo) -> Vec<PeerMember> {
    let contact = |member: MemberInfo| PeerMember {
        id: member.id,
        urls: member.peer_urls,
        incarnation: member.incarnation,
    };
    info.members.into_iter().map(contact).collect()
}
