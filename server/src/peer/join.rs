//! What a member without data asks the others before it starts: who it is in a cluster that
//! exists, and whether it has been in a new one before.

use std::collections::BTreeSet;
use std::time::Duration;

use folkmoot_core::types::MemberId;
use folkmoot_peer::{ClusterInfo, FetchError, MemberInfo};
use folkmoot_storage::DirIdentity;
use futures_util::future::join_all;

use crate::config::InitialCluster;

/// How long each URL has to answer.
const WITHIN: Duration = Duration::from_secs(2);

/// Why a member cannot join or begin.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody could be asked.
    #[error("cannot fetch cluster info from peer urls: {0}")]
    Fetch(#[from] FetchError),
    /// The members given are not those of the cluster.
    #[error(
        "error validating peerURLs {given}: member count is unequal; the cluster has {expected} members: add this one to it first, and name all of them in --initial-cluster"
    )]
    CountUnequal {
        /// `--initial-cluster`.
        given: String,
        /// How many the cluster has.
        expected: usize,
    },
    /// A member of the cluster is not among those given.
    #[error(
        "error validating peerURLs {given}: PeerURLs: no match found for existing member ({id}, [{urls}])"
    )]
    NoMatch {
        /// `--initial-cluster`.
        given: String,
        /// The member.
        id: MemberId,
        /// Its URLs.
        urls: String,
    },
    /// The member has taken part before, on a disk that is not this one.
    #[error(
        "member {id} has already been bootstrapped; its data is not here: if it was lost, remove the member from \
         the cluster and add it again, then start with --initial-cluster-state=existing and an empty data directory"
    )]
    Bootstrapped {
        /// The member.
        id: MemberId,
    },
    /// No runtime for the questions.
    #[error("cannot ask the other members: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Asks all at the same time. On a thread of its own, because whoever starts a server may be inside
/// a runtime already.
fn ask_all(urls: &[String]) -> Result<Vec<Result<ClusterInfo, FetchError>>, std::io::Error> {
    let ask = |url: &String| {
        let url = url.clone();
        async move { folkmoot_peer::fetch_cluster(&[url], WITHIN).await }
    };
    std::thread::scope(|scope| {
        let asking = std::thread::Builder::new().name("join".into()).spawn_scoped(scope, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(join_all(urls.iter().map(ask))))
        })?;
        asking.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread that asks panicked")))
    })
}

fn urls_of_others(cluster: &InitialCluster, own_name: &str) -> Vec<String> {
    let others = cluster.members.iter().filter(|member| member.name != own_name);
    others.flat_map(|member| member.peer_urls.clone()).collect()
}

/// The cluster that a member is to join, and who it is there.
///
/// # Errors
/// Nobody answers, or the members given differ from those of the cluster, in etcd's words.
pub fn find_cluster(
    cluster: &InitialCluster,
    own_name: &str,
) -> Result<(DirIdentity, ClusterInfo), JoinError> {
    choose(ask_all(&urls_of_others(cluster, own_name))?, cluster, own_name)
}

/// Chooses among the answers. One that knows the members that were given is enough: who lags behind may
/// not have heard yet that this one was added. But if anybody has heard that somebody was it before,
/// elsewhere, then that is so.
fn choose(
    answers: Vec<Result<ClusterInfo, FetchError>>,
    cluster: &InitialCluster,
    own_name: &str,
) -> Result<(DirIdentity, ClusterInfo), JoinError> {
    let known: Vec<ClusterInfo> = answers.iter().filter_map(|answer| answer.as_ref().ok()).cloned().collect();
    let (info, own) = find_own_id(answers, cluster, own_name)?;
    let has_served = |known: &ClusterInfo| {
        let served = |member: &MemberInfo| member.id == own && member.incarnation.is_some();
        known.cluster_id == info.cluster_id
            && (known.members.iter().any(served) || known.removed.contains(&own))
    };
    if known.iter().any(has_served) {
        return Err(JoinError::Bootstrapped { id: own });
    }
    Ok((DirIdentity { cluster_id: info.cluster_id, member_id: own }, info))
}

fn find_own_id(
    answers: Vec<Result<ClusterInfo, FetchError>>,
    cluster: &InitialCluster,
    own_name: &str,
) -> Result<(ClusterInfo, MemberId), JoinError> {
    let (mut mismatch, mut tried) = (None, Vec::new());
    for answer in answers {
        match answer {
            Ok(info) => match own_id(&info, cluster, own_name) {
                Ok(own) => return Ok((info, own)),
                // A list of as many members says more than the list of one that lags behind.
                Err(error) if matches!(mismatch, Some(JoinError::NoMatch { .. })) => drop(error),
                Err(error) => mismatch = Some(error),
            },
            Err(error) => tried.extend(error.tried),
        }
    }
    Err(mismatch.unwrap_or(JoinError::Fetch(FetchError { tried })))
}

fn own_id(info: &ClusterInfo, cluster: &InitialCluster, own_name: &str) -> Result<MemberId, JoinError> {
    let given = || cluster.to_string();
    if info.members.len() != cluster.members.len() {
        return Err(JoinError::CountUnequal { given: given(), expected: info.members.len() });
    }
    let set = |urls: &[String]| urls.iter().cloned().collect::<BTreeSet<_>>();
    let mut own = None;
    for member in &info.members {
        let found = cluster.members.iter().find(|one| set(&one.peer_urls) == set(&member.peer_urls));
        match found {
            Some(found) if found.name == own_name => own = Some(member.id),
            Some(_) => {}
            None => {
                return Err(JoinError::NoMatch {
                    given: given(),
                    id: member.id,
                    urls: member.peer_urls.join(","),
                });
            }
        }
    }
    own.ok_or_else(|| JoinError::CountUnequal { given: given(), expected: info.members.len() })
}

/// A member of a new cluster starts without data: if the others know it as one that has served,
/// its data is lost, and starting again from nothing would break what it promised.
///
/// # Errors
/// `Bootstrapped`. That nobody answers is no error: then the cluster may really be new.
pub fn check_not_bootstrapped(
    cluster: &InitialCluster,
    own_name: &str,
    identity: DirIdentity,
) -> Result<(), JoinError> {
    for info in ask_all(&urls_of_others(cluster, own_name))?.into_iter().flatten() {
        let has_served = |member: &MemberInfo| {
            member.id == identity.member_id
                && (member.incarnation.is_some() || !member.client_urls.is_empty())
        };
        let known = info.members.iter().any(has_served) || info.removed.contains(&identity.member_id);
        if info.cluster_id == identity.cluster_id && known {
            return Err(JoinError::Bootstrapped { id: identity.member_id });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use folkmoot_core::types::ClusterId;

    use super::*;
    use crate::config::InitialMember;

    fn member(id: u64, urls: &[&str]) -> MemberInfo {
        MemberInfo {
            id: MemberId(id),
            name: String::new(),
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            client_urls: vec![],
            learner: false,
            incarnation: None,
        }
    }

    #[test]
    fn who_has_served_is_no_beginner_whoever_knows_of_it() {
        let given = cluster(&[("a", &["http://a:1"]), ("b", &["http://b:1"]), ("c", &["http://c:1"])]);
        let behind = ClusterInfo {
            cluster_id: ClusterId(7),
            members: vec![member(1, &["http://a:1"]), member(2, &["http://b:1"]), member(3, &["http://c:1"])],
            removed: vec![],
            leader: None,
            version: String::new(),
        };
        let chosen = choose(vec![Ok(behind.clone())], &given, "c").expect("a beginner");
        assert_eq!(chosen.0.member_id, MemberId(3));
        let mut ahead = behind.clone();
        ahead.members[2].incarnation = Some(5);
        let gone = ClusterInfo { removed: vec![MemberId(3)], ..behind.clone() };
        for other in [ahead, gone] {
            let refused = choose(vec![Ok(behind.clone()), Ok(other)], &given, "c");
            assert!(matches!(refused, Err(JoinError::Bootstrapped { id: MemberId(3) })), "{refused:?}");
        }
    }

    fn cluster(members: &[(&str, &[&str])]) -> InitialCluster {
        let members = members.iter().map(|(name, urls)| InitialMember {
            name: (*name).to_owned(),
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        });
        InitialCluster { members: members.collect() }
    }

    fn info(members: Vec<MemberInfo>) -> ClusterInfo {
        ClusterInfo {
            cluster_id: ClusterId(1),
            members,
            removed: vec![],
            leader: None,
            version: String::new(),
        }
    }

    #[test]
    fn a_member_that_joins_finds_itself_by_its_urls() {
        let given = cluster(&[("a", &["http://a:1"]), ("b", &["http://b:1", "http://b:2"])]);
        let found = info(vec![member(5, &["http://b:2", "http://b:1"]), member(6, &["http://a:1"])]);
        assert_eq!(own_id(&found, &given, "b").ok(), Some(MemberId(5)));
        assert_eq!(own_id(&found, &given, "a").ok(), Some(MemberId(6)));
    }

    #[test]
    fn members_that_are_not_those_of_the_cluster_are_refused_in_etcds_words() {
        let given = cluster(&[("a", &["http://a:1"]), ("b", &["http://b:1"])]);
        let text = |members| own_id(&info(members), &given, "b").unwrap_err().to_string();
        let one = text(vec![member(6, &["http://a:1"])]);
        assert!(
            one.contains("error validating peerURLs a=http://a:1,b=http://b:1: member count is unequal"),
            "{one}"
        );
        let other = text(vec![member(6, &["http://a:1"]), member(0x1f, &["http://c:1"])]);
        assert!(other.contains("PeerURLs: no match found for existing member (1f, [http://c:1])"), "{other}");
    }
}
