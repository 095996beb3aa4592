//! The ids of members and clusters, by etcd's rule.

use std::collections::BTreeSet;

use folkmoot_core::cluster::{Member, cluster_id, member_id};
use folkmoot_core::types::MemberId;
use folkmoot_storage::DirIdentity;
use sha1::{Digest as _, Sha1};

use crate::config::{ConfigError, InitialCluster};

fn sha1(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

/// The identity of a member that starts a new cluster alone.
#[cfg(test)]
fn alone(peer_urls: &[String], token: &str) -> DirIdentity {
    let member_id = member_id(sha1, peer_urls, token);
    DirIdentity { cluster_id: cluster_id(sha1, &[member_id]), member_id }
}

/// The id of a member that is added to a cluster `now` (seconds since 1970).
pub fn of_added_member(peer_urls: &[String], now: u64) -> MemberId {
    member_id(sha1, peer_urls, &now.to_string())
}

/// A new cluster, as every one of its members works it out for itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewCluster {
    /// The cluster, and the member that asks.
    pub identity: DirIdentity,
    /// All members by id, with their names; none is a learner.
    pub members: Vec<Member>,
}

/// Who is who in a new cluster with these members, seen by the one called `own_name`.
///
/// # Errors
/// The member is not among them, or two would have the same id.
pub fn of_new_cluster(
    cluster: &InitialCluster,
    own_name: &str,
    token: &str,
) -> Result<NewCluster, ConfigError> {
    let mut members: Vec<_> = cluster
        .members
        .iter()
        .map(|member| Member {
            id: member_id(sha1, &member.peer_urls, token),
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: Vec::new(),
            learner: false,
            incarnation: 0,
        })
        .collect();
    members.sort_by_key(|member| member.id);
    let ids: Vec<_> = members.iter().map(|member| member.id).collect();
    if ids.iter().collect::<BTreeSet<_>>().len() < ids.len() {
        return Err(ConfigError(format!("member exists with identical ID: initial cluster {cluster}")));
    }
    let own = members.iter().find(|member| member.name == own_name).ok_or_else(|| {
        ConfigError(format!("couldn't find local name {own_name:?} in the initial cluster configuration"))
    })?;
    let identity = DirIdentity { cluster_id: cluster_id(sha1, &ids), member_id: own.id };
    Ok(NewCluster { identity, members })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::InitialMember;

    fn member(name: &str, urls: &[&str]) -> InitialMember {
        let peer_urls = urls.iter().map(|url| (*url).to_owned()).collect();
        InitialMember { name: name.to_owned(), peer_urls }
    }

    #[test]
    fn ids_are_those_that_etcd_computes() {
        // What etcd logs for `etcd` without any flags.
        let identity = alone(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(identity.member_id.to_string(), "8e9e05c52164694d");
        assert_eq!(identity.cluster_id.to_string(), "cdf818194e3a8c32");
    }

    #[test]
    fn a_member_alone_is_a_cluster_of_one() {
        let cluster = InitialCluster { members: vec![member("default", &["http://localhost:2380"])] };
        let new = of_new_cluster(&cluster, "default", "etcd-cluster").unwrap();
        assert_eq!(new.identity, alone(&["http://localhost:2380".to_owned()], "etcd-cluster"));
    }

    #[test]
    fn ids_of_three_members_are_those_that_etcd_computes() {
        // The members of etcd's Procfile and their ids there.
        let urls = ["http://127.0.0.1:12380", "http://127.0.0.1:22380", "http://127.0.0.1:32380"];
        let names = ["infra1", "infra2", "infra3"];
        let members = names.iter().zip(urls).map(|(name, url)| member(name, &[url])).collect();
        let cluster = InitialCluster { members };
        let seen = names.map(|name| of_new_cluster(&cluster, name, "etcd-cluster-1").unwrap());
        let ids = seen.each_ref().map(|new| new.identity.member_id.to_string());
        assert_eq!(ids, ["8211f1d0f64f3269", "91bc3c398fb3c146", "fd422379fda50e48"]);
        for new in &seen {
            assert_eq!(new.identity.cluster_id.to_string(), "ef37ad9dc622a7c4");
            assert_eq!(new.members, seen[0].members);
            assert_eq!(new.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn two_members_with_one_id_and_a_name_that_is_missing_are_refused() {
        let members = vec![member("a", &["http://h:1"]), member("b", &["http://h:1"])];
        let cluster = InitialCluster { members };
        let refusal = of_new_cluster(&cluster, "a", "t").expect_err("is refused").0;
        assert_eq!(refusal, "member exists with identical ID: initial cluster a=http://h:1,b=http://h:1");
        let cluster = InitialCluster { members: vec![member("a", &["http://h:1"])] };
        let refusal = of_new_cluster(&cluster, "b", "t").expect_err("is refused").0;
        assert_eq!(refusal, "couldn't find local name \"b\" in the initial cluster configuration");
    }
}
