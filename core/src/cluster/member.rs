//! The members and their ids.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{ClusterId, MemberId};

/// A server of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty until it has started and published itself.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has published itself.
    pub client_urls: Vec<String>,
    /// Whether it only listens.
    pub learner: bool,
    /// The disk that it keeps its data on, a random number; 0 until it has told. A member that
    /// comes with another one has lost what it promised.
    pub incarnation: u64,
}

/// The members, and the ids that may never be used again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    by_id: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
}

impl Members {
    /// Adds a member or replaces one with the same id.
    pub fn put(&mut self, member: Member) {
        self.by_id.insert(member.id, member);
    }

    /// Marks an id as gone for ever.
    pub fn remove(&mut self, id: MemberId) -> Option<Member> {
        self.removed.insert(id);
        self.by_id.remove(&id)
    }

    /// One member.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.by_id.get(&id)
    }

    /// Whether the id belonged to a member that was removed.
    pub fn was_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The members, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values()
    }

    /// The ids of members that were removed, ascending.
    pub fn removed(&self) -> Vec<MemberId> {
        self.removed.iter().copied().collect()
    }

    /// All members by id.
    pub fn list(&self) -> Vec<Member> {
        self.by_id.values().cloned().collect()
    }
}

/// The id of a member that starts with a new cluster, from etcd's rule: the first eight bytes of
/// SHA-1 over the sorted peer URLs and the cluster token. `sha1` is the caller's hash function,
/// so that this crate needs none.
pub fn member_id(sha1: impl Fn(&[u8]) -> [u8; 20], peer_urls: &[String], token: &str) -> MemberId {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    MemberId(first_eight(sha1((sorted.concat() + token).as_bytes())))
}

/// The id of a new cluster, from etcd's rule: the first eight bytes of SHA-1 over the sorted
/// member ids, eight bytes each, big-endian.
pub fn cluster_id(sha1: impl Fn(&[u8]) -> [u8; 20], members: &[MemberId]) -> ClusterId {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    let bytes: Vec<u8> = sorted.iter().flat_map(|id| id.0.to_be_bytes()).collect();
    ClusterId(first_eight(sha1(&bytes)))
}

fn first_eight(hash: [u8; 20]) -> u64 {
    u64::from_be_bytes(hash[..8].try_into().expect("eight of twenty bytes"))
}
