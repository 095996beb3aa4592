//! The members of a new cluster, as `--initial-cluster` names them, and the checks that they pass
//! before any id is made of them: in etcd's order and with etcd's words.
//!
//! Unlike etcd, names of hosts are not looked up: a member's own URLs must be given alike in
//! `--initial-cluster` and `--initial-advertise-peer-urls`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{ClusterState, ConfigError, ServiceUrl};

/// One member of a new cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitialMember {
    /// Its `--name`.
    pub name: String,
    /// Where other members reach it, sorted; at least one.
    pub peer_urls: Vec<String>,
}

/// All members of a new cluster, by name; at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitialCluster {
    /// See the type.
    pub members: Vec<InitialMember>,
}

impl InitialCluster {
    /// A member that starts a cluster by itself.
    pub fn alone(name: &str, peer_urls: &[String]) -> Self {
        let urls = peer_urls.iter().map(|url| (name.to_owned(), url.clone()));
        Self::from_pairs(urls.collect())
    }

    /// Reads `name=url,name=url`; a name that comes again adds a URL.
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let pairs = parts.map(|part| {
            let (name, url) = part.split_once('=').unwrap_or((part, ""));
            match ServiceUrl::parse(url) {
                Ok(url) => Ok((name.trim().to_owned(), url.to_string())),
                Err(error) => Err(ConfigError(format!("error setting up initial cluster: {error}"))),
            }
        });
        Ok(Self::from_pairs(pairs.collect::<Result<_, _>>()?))
    }

    fn from_pairs(pairs: Vec<(String, String)>) -> Self {
        let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, url) in pairs {
            by_name.entry(name).or_default().push(url);
        }
        let members = by_name.into_iter().map(|(name, mut peer_urls)| {
            peer_urls.sort();
            InitialMember { name, peer_urls }
        });
        Self { members: members.collect() }
    }

    /// The member of this name.
    pub fn member(&self, name: &str) -> Option<&InitialMember> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Whether a member called `own_name` that tells others `advertise_peer` can start with it.
    pub(super) fn check(
        &self,
        own_name: &str,
        advertise_peer: &[String],
        state: ClusterState,
    ) -> Result<(), ConfigError> {
        let own = self.member(own_name).ok_or_else(|| {
            ConfigError(format!("couldn't find local name {own_name:?} in the initial cluster configuration"))
        })?;
        // Who joins was announced to the cluster before, with its URLs.
        if state == ClusterState::New {
            check_own_urls(own, advertise_peer)?;
        }
        let mut seen = BTreeSet::new();
        if !self.members.iter().flat_map(|member| &member.peer_urls).all(|url| seen.insert(url)) {
            return Err(ConfigError(format!("initial cluster {self} has duplicate url")));
        }
        Ok(())
    }
}

/// Pairs of name and URL, sorted.
impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.members.iter().flat_map(|InitialMember { name, peer_urls }| {
            peer_urls.iter().map(move |url| format!("{name}={url}"))
        });
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort();
        f.write_str(&pairs.join(","))
    }
}

fn check_own_urls(own: &InitialMember, advertise_peer: &[String]) -> Result<(), ConfigError> {
    let mut advertised = advertise_peer.to_vec();
    advertised.sort();
    let listed = &own.peer_urls;
    if advertised == *listed {
        return Ok(());
    }
    let difference = difference(&advertised, listed);
    // What one has and the other lacks, each once.
    let missing = |from: &[String], to: &[String], name: &str| -> Option<String> {
        let urls: BTreeSet<_> = from.iter().filter(|url| !to.contains(url)).collect();
        let texts: Vec<_> = urls.into_iter().map(|url| format!("{name}{url}")).collect();
        (!texts.is_empty()).then(|| texts.join(","))
    };
    // The cluster in these messages is made of what is advertised, as in etcd.
    let as_advertised = InitialCluster::alone(&own.name, &advertised);
    let joined = advertised.join(",");
    Err(ConfigError(if let Some(missing) = missing(listed, &advertised, &format!("{}=", own.name)) {
        format!(
            "--initial-cluster has {missing} but missing from --initial-advertise-peer-urls={joined} ({difference})"
        )
    } else if let Some(missing) = missing(&advertised, listed, "") {
        format!(
            "--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={as_advertised}"
        )
    } else {
        format!("failed to resolve {joined} to match --initial-cluster={as_advertised} ({difference})")
    }))
}

/// How two sorted lists differ first.
fn difference(one: &[String], other: &[String]) -> String {
    if one.len() != other.len() {
        let quoted = |list: &[String]| {
            let quoted: Vec<_> = list.iter().map(|url| format!("{url:?}")).collect();
            format!("[{}]", quoted.join(" "))
        };
        return format!("len({}) != len({})", quoted(one), quoted(other));
    }
    let first = one.iter().zip(other).find(|(one, other)| one != other);
    first.map_or_else(String::new, |(one, other)| {
        format!("{one:?}(resolved from {one:?}) != {other:?}(resolved from {other:?})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380";

    fn urls(list: &[&str]) -> Vec<String> {
        list.iter().map(|url| (*url).to_owned()).collect()
    }

    fn refusal(text: &str, name: &str, advertised: &[&str]) -> String {
        let cluster = InitialCluster::parse(text).expect("reads");
        cluster.check(name, &urls(advertised), ClusterState::New).expect_err("is refused").0
    }

    #[test]
    fn members_are_named_with_their_urls() {
        let cluster = InitialCluster::parse(THREE).expect("reads");
        assert_eq!(cluster.to_string(), THREE);
        assert_eq!(cluster.members.len(), 3);
        let own = urls(&["http://10.0.0.2:2380"]);
        assert_eq!(cluster.member("b").expect("there").peer_urls, own);
        cluster.check("b", &own, ClusterState::New).expect("is good");
    }

    #[test]
    fn a_name_that_comes_again_adds_a_url() {
        let cluster = InitialCluster::parse(" b=http://h:2, a=http://h:9,,b=http://h:1,").expect("reads");
        assert_eq!(cluster.to_string(), "a=http://h:9,b=http://h:1,b=http://h:2");
        assert_eq!(cluster.members[1].peer_urls, urls(&["http://h:1", "http://h:2"]));
        // The order in which they are advertised is of no account.
        cluster.check("b", &urls(&["http://h:2", "http://h:1"]), ClusterState::New).expect("is good");
    }

    #[test]
    fn something_that_is_no_url_is_refused() {
        let refusal = |text| InitialCluster::parse(text).expect_err("is refused").0;
        let scheme = "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ";
        assert_eq!(refusal("a"), scheme);
        assert_eq!(refusal("a="), scheme);
        assert_eq!(refusal("a=10.0.0.1:2380"), format!("{scheme}10.0.0.1:2380"));
        assert_eq!(
            refusal("a=http://10.0.0.1:1/x"),
            "error setting up initial cluster: URL must not contain a path: http://10.0.0.1:1/x"
        );
        assert_eq!(
            refusal("a=http://10.0.0.1"),
            "error setting up initial cluster: URL address does not have the form \"host:port\": http://10.0.0.1"
        );
    }

    #[test]
    fn a_cluster_without_this_member_is_refused() {
        let absent = "couldn't find local name \"d\" in the initial cluster configuration";
        assert_eq!(refusal(THREE, "d", &["http://10.0.0.1:2380"]), absent);
        let cluster = InitialCluster::parse(THREE).expect("reads");
        assert_eq!(cluster.check("d", &[], ClusterState::Existing).expect_err("is refused").0, absent);
    }

    #[test]
    fn a_url_that_is_not_advertised_is_refused() {
        assert_eq!(
            refusal(THREE, "a", &["http://10.0.0.9:2380"]),
            "--initial-cluster has a=http://10.0.0.1:2380 but missing from \
             --initial-advertise-peer-urls=http://10.0.0.9:2380 (\"http://10.0.0.9:2380\"(resolved from \
             \"http://10.0.0.9:2380\") != \"http://10.0.0.1:2380\"(resolved from \"http://10.0.0.1:2380\"))"
        );
        assert_eq!(
            refusal("a=http://h:1,a=http://h:2,a=http://h:3", "a", &["http://h:2"]),
            "--initial-cluster has a=http://h:1,a=http://h:3 but missing from \
             --initial-advertise-peer-urls=http://h:2 (len([\"http://h:2\"]) != len([\"http://h:1\" \
             \"http://h:2\" \"http://h:3\"]))"
        );
    }

    #[test]
    fn an_advertised_url_that_the_cluster_lacks_is_refused() {
        assert_eq!(
            refusal(THREE, "a", &["http://10.0.0.9:2380", "http://10.0.0.1:2380"]),
            "--initial-advertise-peer-urls has http://10.0.0.9:2380 but missing from \
             --initial-cluster=a=http://10.0.0.1:2380,a=http://10.0.0.9:2380"
        );
    }

    #[test]
    fn a_url_advertised_twice_is_refused() {
        assert_eq!(
            refusal("a=http://h:1", "a", &["http://h:1", "http://h:1"]),
            "failed to resolve http://h:1,http://h:1 to match --initial-cluster=a=http://h:1,a=http://h:1 \
             (len([\"http://h:1\" \"http://h:1\"]) != len([\"http://h:1\"]))"
        );
    }

    #[test]
    fn a_url_of_two_members_is_refused() {
        let text = "b=http://h:1,a=http://h:1";
        let duplicate = "initial cluster a=http://h:1,b=http://h:1 has duplicate url";
        assert_eq!(refusal(text, "a", &["http://h:1"]), duplicate);
        assert_eq!(
            refusal("a=http://h:1,a=http://h:1", "a", &["http://h:1", "http://h:1"]),
            "initial cluster a=http://h:1,a=http://h:1 has duplicate url"
        );
        let cluster = InitialCluster::parse(text).expect("reads");
        assert_eq!(cluster.check("a", &[], ClusterState::Existing).expect_err("is refused").0, duplicate);
    }

    #[test]
    fn who_joins_need_not_advertise_what_the_cluster_knows_already() {
        let cluster = InitialCluster::parse(THREE).expect("reads");
        let advertised = urls(&["http://localhost:2380"]);
        cluster.check("c", &advertised, ClusterState::Existing).expect("is good");
    }
}
