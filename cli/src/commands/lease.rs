//! Leases: `lease grant`, `revoke`, `timetolive`, `list` and `keep-alive`.

use std::time::Duration;

use clap::{Args, Subcommand};
use folkmoot_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Context, lease_id};
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::{json, plain};
use crate::signals::StopRequests;

/// Manage leases: keys attached to a lease go when it ends
#[derive(Args)]
pub struct LeaseArgs {
    #[command(subcommand)]
    command: LeaseCommand,
}

#[derive(Subcommand)]
enum LeaseCommand {
    /// Make a lease that ends after some seconds unless it is kept alive
    #[command(after_help = "\
Examples:
  folkmoot lease grant 60                          prints the lease's number
  folkmoot put workers/a up --lease 694d77aa9e38260f
                                                   attaches a key to it
  folkmoot lease grant 60 -w json                  decimal there, hex elsewhere")]
    Grant {
        /// Time to live in seconds
        #[arg(allow_negative_numbers = true)]
        ttl: i64,
    },
    /// End a lease now and delete its keys
    #[command(after_help = "\
Examples:
  folkmoot lease revoke 694d77aa9e38260f
  folkmoot lease revoke 694d77aa9e38260f -w json   with the revision")]
    Revoke {
        /// The lease, a hexadecimal number
        #[arg(value_parser = lease_id, allow_negative_numbers = true)]
        id: i64,
    },
    /// Show how long a lease still lives
    #[command(after_help = "\
Examples:
  folkmoot lease timetolive 694d77aa9e38260f
  folkmoot lease timetolive 694d77aa9e38260f --keys
                                                   with its keys")]
    Timetolive {
        /// The lease, a hexadecimal number
        #[arg(value_parser = lease_id, allow_negative_numbers = true)]
        id: i64,
        /// Show the keys of the lease, too
        #[arg(long)]
        keys: bool,
    },
    /// Show all leases
    #[command(after_help = "\
Examples:
  folkmoot lease list
  folkmoot lease list -w json | jq '.leases[].id'")]
    List,
    /// Keep a lease alive until Ctrl-C
    #[command(after_help = "\
Examples:
  folkmoot lease keep-alive 694d77aa9e38260f       until Ctrl-C
  folkmoot lease keep-alive 694d77aa9e38260f --once
                                                   one time")]
    KeepAlive {
        /// The lease, a hexadecimal number
        #[arg(value_parser = lease_id, allow_negative_numbers = true)]
        id: i64,
        /// Start its time again once and return
        #[arg(long)]
        once: bool,
    },
}

impl LeaseArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        match self.command {
            LeaseCommand::Grant { ttl } => grant(context, ttl).await,
            LeaseCommand::Revoke { id } => revoke(context, id).await,
            LeaseCommand::Timetolive { id, keys } => time_to_live(context, id, keys).await,
            LeaseCommand::List => list(context).await,
            LeaseCommand::KeepAlive { id, once } => keep_alive(context, id, once).await,
        }
    }
}

async fn grant(context: &Context, ttl: i64) -> Result<()> {
    let client = context.client().await?;
    let request = LeaseGrantRequest { ttl, id: 0 };
    let response = client.answer(client.lease().lease_grant(request)).await?;
    context.printer.print(
        || plain::lines([format!("lease {:016x} granted with TTL({}s)", response.id, response.ttl)]),
        || json::lease_grant(&response),
    )
}

async fn revoke(context: &Context, id: i64) -> Result<()> {
    let client = context.client().await?;
    let response = client.answer(client.lease().lease_revoke(LeaseRevokeRequest { id })).await?;
    context.printer.print(
        || plain::lines([format!("lease {id:016x} revoked")]),
        || json::header_only(response.header.as_ref()),
    )
}

async fn time_to_live(context: &Context, id: i64, keys: bool) -> Result<()> {
    let client = context.client().await?;
    let request = LeaseTimeToLiveRequest { id, keys };
    let response = client.answer(client.lease().lease_time_to_live(request)).await?;
    context
        .printer
        .print(|| plain::lease_time_to_live(&response, keys), || json::lease_time_to_live(&response))
}

async fn list(context: &Context) -> Result<()> {
    let client = context.client().await?;
    let response = client.answer(client.lease().lease_leases(LeaseLeasesRequest {})).await?;
    context.printer.print(
        || {
            let count = format!("found {} leases", response.leases.len());
            let ids = response.leases.iter().map(|lease| format!("{:016x}", lease.id));
            plain::lines(std::iter::once(count).chain(ids))
        },
        || json::lease_list(&response),
    )
}

async fn keep_alive(context: &Context, id: i64, once: bool) -> Result<()> {
    let mut stop_requests = StopRequests::listen()?;
    let client = context.client().await?;
    let mut stream = client.within_timeout(KeepAlive::open(&client, id)).await?;
    loop {
        let response = tokio::select! {
            response = client.within_timeout(stream.renew()) => response?,
            () = stop_requests.next() => return Ok(()),
        };
        if response.ttl <= 0 {
            return Err(Failure::new(format!("lease {id:016x} expired or revoked")));
        }
        context.printer.print(
            || plain::lines([format!("lease {id:016x} keepalived with TTL({})", response.ttl)]),
            || json::lease_keep_alive(&response),
        )?;
        if once {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(KeepAlive::pause(response.ttl)) => {}
            () = stop_requests.next() => return Ok(()),
        }
    }
}

/// A stream that starts one lease's time again and again.
struct KeepAlive {
    lease: i64,
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    responses: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAlive {
    /// Opens the stream.
    async fn open(client: &Client, lease: i64) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(1);
        // Servers may answer only after the first message, so it must already be on its way.
        let first = LeaseKeepAliveRequest { id: lease };
        requests.send(first).await.expect("the receiver is at hand");
        let responses = client.lease().lease_keep_alive(ReceiverStream::new(receiver)).await?.into_inner();
        let mut stream = Self { lease, requests, responses };
        stream.next().await?;
        Ok(stream)
    }

    async fn next(&mut self) -> Result<LeaseKeepAliveResponse> {
        let response = self.responses.message().await?;
        response.ok_or_else(|| Failure::new("the server closed the keep-alive stream"))
    }

    /// Starts the lease's time again; a time to live of 0 in the answer means that it is gone.
    async fn renew(&mut self) -> Result<LeaseKeepAliveResponse> {
        let request = LeaseKeepAliveRequest { id: self.lease };
        if self.requests.send(request).await.is_err() {
            return Err(Failure::new("the server closed the keep-alive stream"));
        }
        self.next().await
    }

    /// How long to wait before the next time: a third, so that one lost message does no harm.
    fn pause(ttl_seconds: i64) -> Duration {
        Duration::from_millis(ttl_seconds.max(1).unsigned_abs().saturating_mul(1000) / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_kept_alive_three_times_in_its_time() {
        assert_eq!(KeepAlive::pause(60), Duration::from_secs(20));
        assert_eq!(KeepAlive::pause(0), Duration::from_millis(333));
        assert_eq!(KeepAlive::pause(-1), Duration::from_millis(333));
    }
}
