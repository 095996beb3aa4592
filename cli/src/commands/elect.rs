//! Elections: `elect`.

use std::ffi::OsString;

use clap::Args;
use folkmoot_proto::etcdserverpb::RangeResponse;
use folkmoot_proto::v3electionpb::{CampaignRequest, LeaderRequest, LeaderResponse, ResignRequest};

use super::Context;
use super::lock::key_of;
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::interval::argument_bytes;
use crate::output::plain::Show;
use crate::output::{json, plain};
use crate::session::Session;
use crate::signals::StopRequests;

/// Stand for election, or look on with -l
///
/// Waits until it leads, prints the key and the value of the leadership, and leads until Ctrl-C.
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot elect scheduler host-a                  leads as host-a until Ctrl-C
  folkmoot elect -l scheduler                      shows every leader
  folkmoot elect -l scheduler -w json              a JSON document for each")]
pub struct ElectArgs {
    /// Name of the election
    name: OsString,
    /// What the leader says of itself, mostly where to find it
    #[arg(required_unless_present = "listen", conflicts_with = "listen")]
    value: Option<OsString>,
    /// Look on instead of standing for election
    #[arg(short, long)]
    listen: bool,
    /// Seconds until others can lead if this process vanishes
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    ttl: i64,
}

impl ElectArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let client = context.client().await?;
        let name = argument_bytes(self.name);
        let mut stop_requests = StopRequests::listen()?;
        let Some(value) = self.value else {
            return observe(context, &client, LeaderRequest { name }, &mut stop_requests).await;
        };
        let session = Session::open(&client, self.ttl).await?;
        let request = CampaignRequest { name, lease: session.lease(), value: argument_bytes(value) };
        let outcome = lead(context, &client, &session, request, &mut stop_requests).await;
        // The lease takes the key with it, even where resigning failed or was not reached.
        let closed = session.close().await;
        outcome.and(closed)
    }
}

async fn lead(
    context: &Context,
    client: &Client,
    session: &Session,
    request: CampaignRequest,
    stop_requests: &mut StopRequests,
) -> Result<()> {
    let mut election_stub = client.election();
    let response = tokio::select! {
        response = election_stub.campaign(request) => response?.into_inner(),
        () = session.lost() => return Err(Failure::new("the lease ended before the election was won")),
        () = stop_requests.next() => return Err(Failure::new("interrupted before the election was won")),
    };
    let leader = response.leader.ok_or_else(|| Failure::new("the server did not say what was won"))?;
    let held = key_of(client, &leader.key).await?;
    context.printer.print(|| plain::range(&held, Show::Both), || json::range(&held))?;
    tokio::select! {
        () = session.lost() => {
            return Err(Failure::new("the leadership was lost: its lease could not be kept alive"));
        }
        () = stop_requests.next() => {}
    }
    client.answer(client.election().resign(ResignRequest { leader: Some(leader) })).await?;
    Ok(())
}

async fn observe(
    context: &Context,
    client: &Client,
    request: LeaderRequest,
    stop_requests: &mut StopRequests,
) -> Result<()> {
    let mut election_stub = client.election();
    let mut leaders = tokio::select! {
        leaders = election_stub.observe(request) => leaders?.into_inner(),
        () = stop_requests.next() => return Ok(()),
    };
    loop {
        let leader = tokio::select! {
            leader = leaders.message() => leader?,
            () = stop_requests.next() => return Ok(()),
        };
        let Some(leader) = leader else {
            return Err(Failure::new("the server closed the stream of leaders"));
        };
        let seen = as_range(leader);
        context.printer.print(|| plain::range(&seen, Show::Both), || json::range(&seen))?;
    }
}

/// A leader looks like a key that was read, as in etcdctl.
fn as_range(leader: LeaderResponse) -> RangeResponse {
    let kvs: Vec<_> = leader.kv.into_iter().collect();
    RangeResponse { header: leader.header, count: i64::from(!kvs.is_empty()), kvs, more: false }
}
