//! Care: `alarm`, `defrag` and `move-leader`.

use std::time::Instant;

use clap::{Args, Subcommand};
use folkmoot_proto::etcdserverpb::alarm_request::AlarmAction;
use folkmoot_proto::etcdserverpb::{AlarmRequest, DefragmentRequest, MoveLeaderRequest, StatusRequest};
use serde_json::{Value, json as value};

use super::endpoint::endpoints;
use super::{Context, member_id};
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::{json, plain};

/// Show or clear alarms
#[derive(Args)]
pub struct AlarmArgs {
    #[command(subcommand)]
    command: AlarmCommand,
}

#[derive(Subcommand)]
enum AlarmCommand {
    /// Show what needs a person
    #[command(after_help = "\
Examples:
  folkmoot alarm list                              nothing if all is well
  folkmoot alarm list -w json | jq '.alarms // []'")]
    List,
    /// Clear all alarms, after their cause is gone
    #[command(after_help = "\
Examples:
  A full store refuses writes until there is space and the alarm is cleared:
    folkmoot compact 1200 --physical
    folkmoot defrag
    folkmoot alarm disarm")]
    Disarm,
}

impl AlarmArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let client = context.client().await?;
        let request = AlarmRequest { action: AlarmAction::Get.into(), ..AlarmRequest::default() };
        let mut response = client.answer(client.maintenance().alarm(request)).await?;
        if matches!(self.command, AlarmCommand::Disarm) {
            let active = std::mem::take(&mut response.alarms);
            for alarm in active {
                let request = AlarmRequest {
                    action: AlarmAction::Deactivate.into(),
                    member_id: alarm.member_id,
                    alarm: alarm.alarm,
                };
                let cleared = client.answer(client.maintenance().alarm(request)).await?;
                response.header = cleared.header;
                response.alarms.extend(cleared.alarms);
            }
        }
        context
            .printer
            .print(|| plain::lines(response.alarms.iter().map(plain::alarm)), || json::alarms(&response))
    }
}

/// Return unused space of members to their file systems
///
/// A member may not answer while it is at it; take one after the other.
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot defrag                                  the members of --endpoints
  folkmoot defrag --cluster --command-timeout 60s  all, one after the other")]
pub struct DefragArgs {
    /// Take every member of the cluster, not only those of --endpoints
    #[arg(long)]
    cluster: bool,
}

impl DefragArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let mut done: Vec<Value> = Vec::new();
        let mut lines = Vec::new();
        for endpoint in endpoints(context, self.cluster).await? {
            let begun = Instant::now();
            let client = Client::connect_to(&endpoint, &context.connect).await?;
            let answer = client.answer(client.maintenance().defragment(DefragmentRequest {})).await;
            answer.map_err(|failure| {
                Failure::new(format!("failed to defragment {endpoint}: {}", failure.message()))
            })?;
            let took = begun.elapsed();
            lines.push(format!("Finished defragmenting etcd member[{endpoint}]. took {took:?}"));
            done.push(value!({ "endpoint": endpoint, "took": format!("{took:?}") }));
        }
        context.printer.print(|| plain::lines(lines), || done.into())
    }
}

/// Hand leadership over to another member
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot member list                             shows the members' numbers
  folkmoot move-leader bdae9bbc11dd390d --endpoints a:2379,b:2379,c:2379
                                                   the leader among them")]
pub struct MoveLeaderArgs {
    /// Who shall lead, a hexadecimal number
    #[arg(value_parser = member_id)]
    target: u64,
}

impl MoveLeaderArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let (leader, client) = leader(context).await?;
        let request = MoveLeaderRequest { target_id: self.target };
        let response = client.answer(client.maintenance().move_leader(request)).await?;
        context.printer.print(
            || plain::lines([format!("Leadership transferred from {leader:x} to {:x}", self.target)]),
            || json::header_only(response.header.as_ref()),
        )
    }
}

/// The leader's number and a connection to it.
async fn leader(context: &Context) -> Result<(u64, Client)> {
    for endpoint in &context.connect.endpoints {
        let Ok(client) = Client::connect_to(endpoint, &context.connect).await else {
            continue;
        };
        let Ok(status) = client.answer(client.maintenance().status(StatusRequest {})).await else {
            continue;
        };
        let member_id = status.header.map_or(0, |header| header.member_id);
        if member_id != 0 && member_id == status.leader {
            return Ok((member_id, client));
        }
    }
    Err(Failure::new(format!("no leader endpoint given at {}", context.connect.endpoints.join(","))))
}
