//! Clusters under measurement: one or more members on this machine, all of one program.
//!
//! The members talk over the loopback interface and share the disk and the CPUs with each other and
//! with the load, which is the same for both sides of a comparison. A cluster knows who leads and
//! refuses to guess: where members do not agree, it asks again.

mod member;

use std::path::Path;
use std::time::{Duration, Instant};

use folkmoot_proto::etcdserverpb as pb;
use serde::Serialize;
use tokio::time::sleep;

use member::Founding;
pub use member::{Member, Program, ServerError};

/// A server that takes longer to start is taken for broken.
const START_MAX: Duration = Duration::from_secs(120);
/// Members that take longer to agree on a leader never will.
const AGREE_MAX: Duration = Duration::from_secs(30);
const AGREE_POLL: Duration = Duration::from_millis(20);
/// How often a learner's promotion is tried; it is refused until the learner has caught up.
const PROMOTE_POLL: Duration = Duration::from_millis(50);
/// The space quota that etcd recommends as the highest.
const QUOTA_BYTES: u64 = 8 << 30;

/// The two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// What we compare with.
    Etcd,
    /// What we build.
    Folkmoot,
}

impl Side {
    /// The name as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Side::Etcd => "etcd",
            Side::Folkmoot => "Folkmoot",
        }
    }
}

/// The flag that gives a server room for this many bytes of data, never less than etcd's usual
/// highest quota.
pub fn quota_flag(data_bytes: u64) -> String {
    format!("--quota-backend-bytes={}", QUOTA_BYTES.max(data_bytes))
}

/// What the program says about itself: the first line of `--version`.
pub fn program_version(program: &Path) -> Result<String, String> {
    let cannot =
        |error: &dyn std::fmt::Display| format!("cannot run server: {error} path={}", program.display());
    let output = std::process::Command::new(program)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| cannot(&error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(first) if output.status.success() && !first.is_empty() => {
            Ok(first.replace("etcd Version:", "etcd"))
        }
        _ => Err(cannot(&"it does not answer --version")),
    }
}

/// Members that belong together.
#[derive(Debug)]
pub struct Cluster {
    program: Program,
    members: Vec<Member>,
}

impl Cluster {
    /// Prepares a cluster with empty data directories; nothing runs yet.
    pub fn new(mut program: Program, size: usize) -> Result<Self, ServerError> {
        // Relative to where we are, not to the directory that a member will run in.
        program.path = std::path::absolute(&program.path).unwrap_or(program.path);
        let members = (1..=size).map(|number| Member::new(format!("m{number}"), &program));
        Ok(Self { members: members.collect::<Result<_, _>>()?, program })
    }

    /// Starts all members and returns the time until each has answered a linearizable read.
    pub async fn start(&mut self) -> Result<Duration, ServerError> {
        let began = Instant::now();
        let founding = Founding { initial_cluster: self.named_urls(), state: "new" };
        for member in &mut self.members {
            member.start(&founding)?;
        }
        for member in &mut self.members {
            member.serving(START_MAX).await?;
        }
        Ok(began.elapsed())
    }

    /// Asks all processes to end, and waits for them.
    pub async fn stop(&mut self) -> Result<(), ServerError> {
        for member in &mut self.members {
            member.terminate()?;
        }
        for member in &mut self.members {
            member.gone().await?;
        }
        Ok(())
    }

    /// Kills all processes as a crash would, and waits for them.
    pub async fn kill(&mut self) -> Result<(), ServerError> {
        for member in &mut self.members {
            member.kill()?;
        }
        for member in &mut self.members {
            member.gone().await?;
        }
        Ok(())
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member that all members take for the leader.
    pub async fn leader(&self) -> Result<Leader, ServerError> {
        let began = Instant::now();
        loop {
            let mut statuses = Vec::new();
            for member in &self.members {
                statuses.push(member.status().await?);
            }
            if let Some(leader) = agreed(&statuses) {
                return Ok(leader);
            }
            if began.elapsed() > AGREE_MAX {
                return Err(ServerError::Wrong(format!(
                    "members of {} do not agree on a leader after={AGREE_MAX:?}",
                    self.program.side.name()
                )));
            }
            sleep(AGREE_POLL).await;
        }
    }

    /// All members, beginning with this one.
    pub fn beginning_with(&self, index: usize) -> impl Iterator<Item = &Member> {
        self.members[index..].iter().chain(&self.members[..index])
    }

    /// Admits one more member through another one and starts it. It serves some time later.
    pub async fn add(&mut self, through: usize, learner: bool) -> Result<Newcomer, ServerError> {
        let mut member = Member::new(format!("m{}", self.members.len() + 1), &self.program)?;
        let request = pb::MemberAddRequest { peer_urls: vec![member.peer_url()], is_learner: learner };
        let answer: pb::MemberAddResponse =
            self.members[through].ask("/etcdserverpb.Cluster/MemberAdd", &request).await?;
        let id = answer.member.map_or(0, |member| member.id);
        let initial_cluster = format!("{},{}", self.named_urls(), member.named_url());
        let began = Instant::now();
        member.start(&Founding { initial_cluster, state: "existing" })?;
        self.members.push(member);
        Ok(Newcomer { id, began, learner, index: self.members.len() - 1 })
    }

    /// Waits until the newcomer, promoted if it is a learner, has answered a linearizable read;
    /// returns the time since its process was started.
    pub async fn settle(
        &mut self,
        newcomer: &Newcomer,
        through: usize,
        patience: Duration,
    ) -> Result<Duration, ServerError> {
        if newcomer.learner {
            self.promote(newcomer, through, patience).await?;
        }
        self.members[newcomer.index].serving(patience).await?;
        Ok(newcomer.began.elapsed())
    }

    async fn promote(
        &self,
        newcomer: &Newcomer,
        through: usize,
        patience: Duration,
    ) -> Result<(), ServerError> {
        let request = pb::MemberPromoteRequest { id: newcomer.id };
        loop {
            let answer: Result<pb::MemberPromoteResponse, _> =
                self.members[through].ask("/etcdserverpb.Cluster/MemberPromote", &request).await;
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if newcomer.began.elapsed() > patience => return Err(error),
                Err(_) => sleep(PROMOTE_POLL).await,
            }
        }
    }

    fn named_urls(&self) -> String {
        self.members.iter().map(Member::named_url).collect::<Vec<_>>().join(",")
    }
}

/// Who leads, and since which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Its place among the members.
    pub index: usize,
    /// Its term.
    pub term: u64,
}

/// A member that was admitted and started.
#[derive(Debug)]
pub struct Newcomer {
    /// Its place among the members.
    pub index: usize,
    id: u64,
    began: Instant,
    learner: bool,
}

/// The leader, if all of these answers name the same one in the same term.
fn agreed(statuses: &[pb::StatusResponse]) -> Option<Leader> {
    let first = statuses.first()?;
    let same =
        |status: &pb::StatusResponse| status.leader == first.leader && status.raft_term == first.raft_term;
    if !statuses.iter().all(same) {
        return None;
    }
    let is_leader = |status: &pb::StatusResponse| {
        status.header.as_ref().is_some_and(|header| header.member_id == first.leader)
    };
    Some(Leader { index: statuses.iter().position(is_leader)?, term: first.raft_term })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(member_id: u64, leader: u64, raft_term: u64) -> pb::StatusResponse {
        let header = Some(pb::ResponseHeader { member_id, ..Default::default() });
        pb::StatusResponse { header, leader, raft_term, ..Default::default() }
    }

    #[test]
    fn a_leader_is_one_that_all_members_name_in_the_same_term() {
        let all = [status(1, 2, 5), status(2, 2, 5), status(3, 2, 5)];
        assert_eq!(agreed(&all), Some(Leader { index: 1, term: 5 }));
        assert_eq!(agreed(&[status(1, 2, 5), status(2, 2, 6)]), None, "one has not heard yet");
        assert_eq!(agreed(&[status(1, 2, 5), status(2, 1, 5)]), None);
        assert_eq!(agreed(&[status(1, 0, 5)]), None, "nobody leads");
        assert_eq!(agreed(&[]), None);
    }

    #[test]
    fn the_quota_grows_with_the_data() {
        assert_eq!(quota_flag(1), "--quota-backend-bytes=8589934592");
        assert_eq!(quota_flag(20 << 30), "--quota-backend-bytes=21474836480");
    }
}
