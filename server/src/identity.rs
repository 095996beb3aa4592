//! The ids of members and clusters, by etcd's rule.

use folkmoot_core::cluster::{cluster_id, member_id};
use folkmoot_storage::DirIdentity;
use sha1::{Digest as _, Sha1};

fn sha1(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

/// The identity of a member that starts a new cluster alone.
pub fn alone(peer_urls: &[String], token: &str) -> DirIdentity {
    let member_id = member_id(sha1, peer_urls, token);
    DirIdentity { cluster_id: cluster_id(sha1, &[member_id]), member_id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_that_etcd_computes() {
        // What etcd logs for `etcd` without any flags.
        let identity = alone(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(identity.member_id.to_string(), "8e9e05c52164694d");
        assert_eq!(identity.cluster_id.to_string(), "cdf818194e3a8c32");
    }
}
