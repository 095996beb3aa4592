//! One member at a time: `endpoint status`, `health` and `hashkv`.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use folkmoot_proto::etcdserverpb::alarm_request::AlarmAction;
use folkmoot_proto::etcdserverpb::{
    AlarmRequest, HashKvRequest, MemberListRequest, RangeRequest, StatusRequest,
};
use serde_json::{Value, json as value};

use super::Context;
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::{json, plain};

/// Ask members how they are, each by itself
#[derive(Args)]
pub struct EndpointArgs {
    #[command(subcommand)]
    command: EndpointCommand,
    /// Ask every member of the cluster, not only those of --endpoints
    #[arg(long, global = true)]
    cluster: bool,
}

#[derive(Subcommand)]
enum EndpointCommand {
    /// Show version, size, role and raft state
    ///
    /// Endpoint, member, version, size, whether it leads, whether it is a learner, term, last raft
    /// entry, last entry applied, what is wrong.
    #[command(after_help = "\
Examples:
  folkmoot endpoint status
  folkmoot endpoint status --cluster               every member
  folkmoot endpoint status -w json | jq '.[].Status.dbSize'")]
    Status,
    /// Find out whether requests succeed, and how fast
    #[command(after_help = "\
Examples:
  folkmoot endpoint health                         exit code 1 if one is ill
  folkmoot endpoint health --cluster -w json")]
    Health,
    /// Show the checksum of the keys and their history
    ///
    /// The same on every member, if nothing is written meanwhile or a revision is given.
    #[command(after_help = "\
Examples:
  folkmoot endpoint hashkv --cluster
  folkmoot endpoint hashkv --rev 1200 -w json      up to a revision")]
    Hashkv {
        /// Count up to this revision; 0 for all
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        rev: i64,
    },
}

impl EndpointArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let endpoints = endpoints(context, self.cluster).await?;
        match self.command {
            EndpointCommand::Status => status(context, &endpoints).await,
            EndpointCommand::Health => health(context, &endpoints).await,
            EndpointCommand::Hashkv { rev } => hash_kv(context, &endpoints, rev).await,
        }
    }
}

/// The endpoints that were given, or with `--cluster` those of all members.
pub async fn endpoints(context: &Context, cluster: bool) -> Result<Vec<String>> {
    if !cluster {
        return Ok(context.connect.endpoints.clone());
    }
    let client = context.client().await?;
    let request = MemberListRequest { linearizable: true };
    let response = client.answer(client.cluster().member_list(request)).await?;
    Ok(response.members.into_iter().flat_map(|member| member.client_urls).collect())
}

/// Prints what the endpoints answered, and fails if one of them failed.
fn finish<T>(
    context: &Context,
    answers: Vec<(String, Result<T>)>,
    line: impl Fn(&str, &T) -> String,
    document: impl Fn(&str, &T) -> Value,
) -> Result<()> {
    let good = || answers.iter().filter_map(|(endpoint, answer)| Some((endpoint, answer.as_ref().ok()?)));
    context.printer.print(
        || plain::lines(good().map(|(endpoint, answer)| line(endpoint, answer))),
        || good().map(|(endpoint, answer)| document(endpoint, answer)).collect(),
    )?;
    let failures: Vec<String> = answers
        .iter()
        .filter_map(|(endpoint, answer)| Some((endpoint, answer.as_ref().err()?)))
        .map(|(endpoint, failure)| match failure.message().contains(endpoint.as_str()) {
            true => failure.message().to_owned(),
            false => format!("{endpoint}: {}", failure.message()),
        })
        .collect();
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(failures.join("; "))),
    }
}

async fn status(context: &Context, endpoints: &[String]) -> Result<()> {
    let mut answers = Vec::new();
    for endpoint in endpoints {
        let ask = async {
            let client = Client::connect_to(endpoint, &context.connect).await?;
            client.answer(client.maintenance().status(StatusRequest {})).await
        };
        answers.push((endpoint.clone(), ask.await));
    }
    finish(context, answers, plain::status, json::status)
}

async fn hash_kv(context: &Context, endpoints: &[String], revision: i64) -> Result<()> {
    let mut answers = Vec::new();
    for endpoint in endpoints {
        let ask = async {
            let client = Client::connect_to(endpoint, &context.connect).await?;
            client.answer(client.maintenance().hash_kv(HashKvRequest { revision })).await
        };
        answers.push((endpoint.clone(), ask.await));
    }
    let line = |endpoint: &str, answer: &_| plain::hash_kv(endpoint, answer);
    finish(context, answers, line, json::hash_kv)
}

struct Health {
    endpoint: String,
    took: Duration,
    /// Why it is not well.
    error: Option<String>,
}

async fn health(context: &Context, endpoints: &[String]) -> Result<()> {
    let mut all = Vec::new();
    for endpoint in endpoints {
        let asked = Instant::now();
        let outcome = check(context, endpoint).await;
        let error = outcome.err().map(|failure| failure.message().to_owned());
        all.push(Health { endpoint: endpoint.clone(), took: asked.elapsed(), error });
    }
    let lines = || plain::lines(all.iter().map(health_line));
    context.printer.print(lines, || all.iter().map(health_document).collect())?;
    match all.iter().all(|health| health.error.is_none()) {
        true => Ok(()),
        false => Err(Failure::new("unhealthy cluster")),
    }
}

/// A member is well if it answers a linearizable read and there is no alarm.
async fn check(context: &Context, endpoint: &str) -> Result<()> {
    let client = Client::connect_to(endpoint, &context.connect).await?;
    let request = RangeRequest { key: "health".into(), ..RangeRequest::default() };
    let read = client.answer(client.kv().range(request)).await;
    match read {
        // A refusal by permission has gone through the whole cluster as well.
        Err(failure) if failure.message() == "etcdserver: permission denied" => {}
        read => {
            read?;
        }
    }
    let request = AlarmRequest { action: AlarmAction::Get.into(), ..AlarmRequest::default() };
    let alarms = client.answer(client.maintenance().alarm(request)).await?.alarms;
    match alarms.is_empty() {
        true => Ok(()),
        false => {
            let alarms: Vec<String> = alarms.iter().map(plain::alarm_kind).collect();
            Err(Failure::new(format!("Active Alarm(s): {}", alarms.join(", "))))
        }
    }
}

fn health_line(health: &Health) -> String {
    let (endpoint, took) = (&health.endpoint, health.took);
    match &health.error {
        None => format!("{endpoint} is healthy: successfully committed proposal: took = {took:?}"),
        Some(error) => format!("{endpoint} is unhealthy: failed to commit proposal: {error}"),
    }
}

fn health_document(health: &Health) -> Value {
    let mut document = value!({
        "endpoint": health.endpoint,
        "health": health.error.is_none(),
        "took": format!("{:?}", health.took),
    });
    if let Some(error) = &health.error {
        document["error"] = error.as_str().into();
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_tells_how_long_it_took_or_what_is_wrong() {
        let mut health = Health { endpoint: "a:1".into(), took: Duration::from_micros(1058), error: None };
        assert_eq!(health_line(&health), "a:1 is healthy: successfully committed proposal: took = 1.058ms");
        assert_eq!(
            health_document(&health).to_string(),
            r#"{"endpoint":"a:1","health":true,"took":"1.058ms"}"#
        );
        health.error = Some("etcdserver: no leader".into());
        assert_eq!(
            health_line(&health),
            "a:1 is unhealthy: failed to commit proposal: etcdserver: no leader"
        );
        assert_eq!(health_document(&health)["error"], "etcdserver: no leader");
    }
}
