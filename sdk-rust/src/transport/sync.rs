//! Learning from the members who the members are.

use std::sync::Weak;
use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::cluster_client::ClusterClient;

use super::core::{Call, Core};
use super::endpoint::{self, Given};
use crate::error::Result;

/// Asks for the list of members, at once and then so often, for as long as the client is there.
pub(crate) async fn follow(core: Weak<Core>, interval: Duration) {
    loop {
        let Some(strong) = core.upgrade().filter(|core| core.check().is_ok()) else { return };
        let mut closing = strong.closing();
        match members(&strong).await {
            Ok(urls) if urls.is_empty() => {}
            Ok(urls) => strong.set_members(&urls),
            // Those that are known go on to be asked.
            Err(error) => tracing::debug!(%error, "the list of members was not to be had"),
        }
        drop(strong);
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = closing.changed() => return,
        }
    }
}

/// Where the members say that clients reach them. Learners answer nearly nothing.
async fn members(core: &Core) -> Result<Vec<String>> {
    let rpc = |channel, request| async move { ClusterClient::new(channel).member_list(request).await };
    let message = pb::MemberListRequest { linearizable: true };
    let answer: pb::MemberListResponse = core.unary(Call::read(), message, rpc).await?;
    // Who was told to encrypt does not stop because a member also listens without.
    let tls = core.options.tls.is_some() || core.options.endpoints.iter().any(Given::is_encrypted);
    let voters = answer.members.into_iter().filter(|member| !member.is_learner);
    let mut urls = Vec::new();
    for url in voters.flat_map(|member| member.client_urls) {
        match endpoint::normalize(&url, tls) {
            Ok(url) => urls.push(url),
            Err(error) => tracing::debug!(%error, "a member's URL is of no use"),
        }
    }
    Ok(urls)
}
