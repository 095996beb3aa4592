//! Questions to members by those who need not be members themselves.

use std::time::Duration;

use crate::dial::{DialError, ask, malformed};
use crate::handshake::{BlockKind, ClusterInfo, HANDSHAKE_BYTES_MAX, INFO_BYTES_MAX, ProbeAnswer};
use crate::url::PeerUrl;

/// Nobody described the cluster.
#[derive(Debug, thiserror::Error)]
#[error("no member answered, check the peer URLs of the existing members: {}", list(tried))]
pub struct FetchError {
    /// Each URL that was tried, and why it gave no answer.
    pub tried: Vec<(String, DialError)>,
}

fn list(tried: &[(String, DialError)]) -> String {
    if tried.is_empty() {
        return "no URL given".to_owned();
    }
    tried.iter().map(|(_, error)| error.to_string()).collect::<Vec<_>>().join("; ")
}

/// Asks the members at these URLs in turn to describe their cluster; each has `within` to answer.
pub async fn fetch_cluster(urls: &[String], within: Duration) -> Result<ClusterInfo, FetchError> {
    let mut tried = Vec::new();
    for url in urls {
        match fetch_from(url, within).await {
            Ok(info) => return Ok(info),
            Err(error) => tried.push((url.clone(), error)),
        }
    }
    Err(FetchError { tried })
}

async fn fetch_from(url: &str, within: Duration) -> Result<ClusterInfo, DialError> {
    let url = PeerUrl::parse(url)?;
    let (question, answer) = (BlockKind::ClusterInfo, BlockKind::ClusterInfoAnswer);
    let block = ask(&url, question, answer, INFO_BYTES_MAX, within).await?;
    ClusterInfo::decode(&block.body).map_err(|error| malformed(&url, error))
}

/// Asks who answers at a URL.
pub async fn probe(url: &str, within: Duration) -> Result<ProbeAnswer, DialError> {
    let url = PeerUrl::parse(url)?;
    let (question, answer) = (BlockKind::Probe, BlockKind::ProbeAnswer);
    let block = ask(&url, question, answer, HANDSHAKE_BYTES_MAX, within).await?;
    ProbeAnswer::decode(&block.body).map_err(|error| malformed(&url, error))
}
