//! Answers to those who are not, or not yet, members.

use bytes::BufMut;
use folkmoot_core::types::{ClusterId, MemberId};

use super::block::INFO_BYTES_MAX;
use crate::codec::{Malformed, Reader, put_bytes, put_count};

const MEMBERS_MAX: usize = 1024;
const REMOVED_MAX: usize = INFO_BYTES_MAX / 8;
/// Two empty texts, two empty lists, an id, two flags.
const MEMBER_BYTES_MIN: usize = 8 + 4 * 4 + 2;

/// A member as the cluster describes it to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberInfo {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty until it has started.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Whether it only listens.
    pub learner: bool,
    /// Its disk, once it is known.
    pub incarnation: Option<u64>,
}

/// What a member that wants to join has to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterInfo {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its members.
    pub members: Vec<MemberInfo>,
    /// Ids that may never be used again.
    pub removed: Vec<MemberId>,
    /// Who leads, if the answering member knows.
    pub leader: Option<MemberId>,
    /// The cluster version, as `major.minor.patch`.
    pub version: String,
}

impl MemberInfo {
    /// The longest name or URL that is read, in bytes. Longer ones must not become part of a cluster:
    /// nobody could read its description any more.
    pub const TEXT_BYTES_MAX: usize = 4 * 1024;
    /// The most URLs of a kind that are read.
    pub const URLS_MAX: usize = 64;
}

impl ClusterInfo {
    /// The body, unless it is larger than a dialler would take.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        out.put_u64_le(self.cluster_id.0);
        put_count(&mut out, self.members.len());
        for member in &self.members {
            out.put_u64_le(member.id.0);
            put_bytes(&mut out, member.name.as_bytes());
            for urls in [&member.peer_urls, &member.client_urls] {
                put_count(&mut out, urls.len());
                urls.iter().for_each(|url| put_bytes(&mut out, url.as_bytes()));
            }
            out.put_u8(u8::from(member.learner));
            put_optional(&mut out, member.incarnation);
        }
        put_count(&mut out, self.removed.len());
        self.removed.iter().for_each(|id| out.put_u64_le(id.0));
        put_optional(&mut out, self.leader.map(|id| id.0));
        put_bytes(&mut out, self.version.as_bytes());
        (out.len() <= INFO_BYTES_MAX).then_some(out)
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut body = Reader::new(body);
        let cluster_id = ClusterId(body.u64("cluster")?);
        let count = body.count(MEMBERS_MAX, MEMBER_BYTES_MIN, "members")?;
        let members = (0..count).map(|_| member(&mut body)).collect::<Result<_, _>>()?;
        let count = body.count(REMOVED_MAX, 8, "removed")?;
        let removed = (0..count).map(|_| body.u64("removed").map(MemberId)).collect::<Result<_, _>>()?;
        let leader = optional(&mut body, "leader")?.map(MemberId);
        let version = body.text(MemberInfo::TEXT_BYTES_MAX, "version")?;
        body.end()?;
        Ok(Self { cluster_id, members, removed, leader, version })
    }
}

/// Who answers at a peer URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeAnswer {
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Its id.
    pub member: MemberId,
    /// Its disk.
    pub incarnation: u64,
    /// Which start of its process.
    pub boot: u64,
}

impl ProbeAnswer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        for number in [self.cluster_id.0, self.member.0, self.incarnation, self.boot] {
            out.put_u64_le(number);
        }
        out
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut body = Reader::new(body);
        let answer = Self {
            cluster_id: ClusterId(body.u64("cluster")?),
            member: MemberId(body.u64("member")?),
            incarnation: body.u64("incarnation")?,
            boot: body.u64("boot")?,
        };
        body.end()?;
        Ok(answer)
    }
}

fn member(body: &mut Reader<'_>) -> Result<MemberInfo, Malformed> {
    let id = MemberId(body.u64("member id")?);
    let name = body.text(MemberInfo::TEXT_BYTES_MAX, "name")?;
    let urls = |body: &mut Reader<'_>| {
        let count = body.count(MemberInfo::URLS_MAX, 4, "urls")?;
        (0..count).map(|_| body.text(MemberInfo::TEXT_BYTES_MAX, "url")).collect::<Result<_, _>>()
    };
    let (peer_urls, client_urls) = (urls(body)?, urls(body)?);
    let learner = body.flag("learner")?;
    let incarnation = optional(body, "incarnation")?;
    Ok(MemberInfo { id, name, peer_urls, client_urls, learner, incarnation })
}

fn put_optional(out: &mut Vec<u8>, number: Option<u64>) {
    out.put_u8(u8::from(number.is_some()));
    if let Some(number) = number {
        out.put_u64_le(number);
    }
}

fn optional(body: &mut Reader<'_>, field: &'static str) -> Result<Option<u64>, Malformed> {
    body.flag(field)?.then(|| body.u64(field)).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info() -> impl Strategy<Value = ClusterInfo> {
        let urls = || proptest::collection::vec("http://[a-z]{1,8}:[0-9]{1,5}", 0..3);
        let member = (any::<u64>(), ".{0,9}", urls(), urls(), any::<bool>(), any::<Option<u64>>());
        let member = member.prop_map(|(id, name, peer_urls, client_urls, learner, incarnation)| MemberInfo {
            id: MemberId(id),
            name,
            peer_urls,
            client_urls,
            learner,
            incarnation,
        });
        let members = proptest::collection::vec(member, 0..5);
        let removed = proptest::collection::vec(any::<u64>().prop_map(MemberId), 0..5);
        (any::<u64>(), members, removed, any::<Option<u64>>(), ".{0,9}").prop_map(
            |(cluster, members, removed, leader, version)| ClusterInfo {
                cluster_id: ClusterId(cluster),
                members,
                removed,
                leader: leader.map(MemberId),
                version,
            },
        )
    }

    proptest! {
        #[test]
        fn a_cluster_reads_back_as_written_and_never_when_cut(info in info()) {
            let bytes = info.encode().unwrap();
            for end in 0..bytes.len() {
                prop_assert!(ClusterInfo::decode(&bytes[..end]).is_err());
            }
            prop_assert_eq!(ClusterInfo::decode(&bytes), Ok(info));
        }

        #[test]
        fn any_change_of_a_byte_is_read_without_a_panic(info in info(), at in any::<usize>(), to in any::<u8>()) {
            let mut bytes = info.encode().unwrap();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = ClusterInfo::decode(&bytes);
            let _ = ProbeAnswer::decode(&bytes);
        }
    }
}
