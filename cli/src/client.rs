//! A connection to one member: as little client as the commands need.
//!
//! Refuses: retries, balancing and sessions. An endpoint that cannot be reached is passed over for
//! the next one; after that, an error is an error.

use std::future::Future;
use std::time::Duration;

use folkmoot_proto::etcdserverpb::cluster_client::ClusterClient;
use folkmoot_proto::etcdserverpb::kv_client::KvClient;
use folkmoot_proto::etcdserverpb::lease_client::LeaseClient;
use folkmoot_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use folkmoot_proto::etcdserverpb::watch_client::WatchClient;
use folkmoot_proto::v3electionpb::election_client::ElectionClient;
use folkmoot_proto::v3lockpb::lock_client::LockClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::failure::{Failure, Result, root_cause};

/// Pings on a connection with open calls, so that a dead member is noticed while watching. Servers
/// may refuse more than one in five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(6);

/// How to reach the members.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Where the members are, `host:port` or `http://host:port`.
    pub endpoints: Vec<String>,
    /// How long one connection attempt may take.
    pub dial_timeout: Duration,
    /// How long one call may take, where it does not wait by design.
    pub command_timeout: Duration,
}

/// A connection to one member.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    command_timeout: Duration,
}

macro_rules! stub {
    ($(#[$doc:meta])* $name:ident, $stub:ident) => {
        $(#[$doc])*
        pub fn $name(&self) -> $stub<Channel> {
            // A range can be as large as the store; what is asked for is wanted.
            $stub::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
        }
    };
}

impl Client {
    /// Connects to the first endpoint that can be reached.
    pub async fn connect(options: &ConnectOptions) -> Result<Self> {
        let mut refusals = Vec::new();
        for endpoint in &options.endpoints {
            match Self::connect_to(endpoint, options).await {
                Ok(client) => return Ok(client),
                Err(failure) => refusals.push(failure.message().to_owned()),
            }
        }
        Err(Failure::new(match refusals.as_slice() {
            [] => "no endpoint given; see --endpoints".to_owned(),
            refusals => refusals.join("; "),
        }))
    }

    /// Connects to one endpoint.
    pub async fn connect_to(endpoint: &str, options: &ConnectOptions) -> Result<Self> {
        let url = endpoint_url(endpoint)?;
        let unreachable = |reason: &str| Failure::new(format!("cannot reach endpoint {endpoint}: {reason}"));
        let dialer = Endpoint::from_shared(url)
            .map_err(|error| unreachable(&error.to_string()))?
            .connect_timeout(options.dial_timeout)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let channel = match tokio::time::timeout(options.dial_timeout, dialer.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(unreachable(&root_cause(&error))),
            Err(_) => {
                return Err(unreachable(&format!(
                    "no connection within --dial-timeout={:?}",
                    options.dial_timeout
                )));
            }
        };
        Ok(Self { channel, command_timeout: options.command_timeout })
    }

    /// Waits for the answer to a call, but no longer than `--command-timeout`.
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        self.within_timeout(async { Ok(call.await?.into_inner()) }).await
    }

    /// Waits for anything, but no longer than `--command-timeout`.
    pub async fn within_timeout<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.command_timeout, work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(Failure::new(format!("no answer within --command-timeout={:?}", self.command_timeout)))
            }
        }
    }

    stub!(
        /// Keys.
        kv, KvClient
    );
    stub!(
        /// Watches.
        watch, WatchClient
    );
    stub!(
        /// Leases.
        lease, LeaseClient
    );
    stub!(
        /// Members.
        cluster, ClusterClient
    );
    stub!(
        /// Care.
        maintenance, MaintenanceClient
    );
    stub!(
        /// Locks.
        lock, LockClient
    );
    stub!(
        /// Elections.
        election, ElectionClient
    );
}

/// The URL of an endpoint; a bare `host:port` means plain HTTP.
fn endpoint_url(endpoint: &str) -> Result<String> {
    match endpoint.split_once("://") {
        None if endpoint.is_empty() => Err(Failure::usage("an endpoint is empty; see --endpoints")),
        None => Ok(format!("http://{endpoint}")),
        Some(("http", _)) => Ok(endpoint.to_owned()),
        Some((scheme, _)) => Err(Failure::usage(format!(
            "endpoints are reached by http only in this version; endpoint={endpoint} scheme={scheme}"
        ))),
    }
}

/// The endpoints of a comma separated list, in order, without blanks around them.
pub fn split_endpoints(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_scheme_is_plain_http() {
        assert_eq!(endpoint_url("a:1").as_deref(), Ok("http://a:1"));
        assert_eq!(endpoint_url("http://a:1").as_deref(), Ok("http://a:1"));
        assert_eq!(endpoint_url("[::1]:1").as_deref(), Ok("http://[::1]:1"));
    }

    #[test]
    fn an_endpoint_that_needs_tls_is_refused() {
        let failure = endpoint_url("https://a:1").expect_err("is not plain http");
        assert!(failure.message().contains("endpoint=https://a:1"));
    }

    #[test]
    fn endpoints_are_separated_by_commas() {
        assert_eq!(split_endpoints("a:1, b:2,,"), ["a:1", "b:2"]);
        assert!(split_endpoints("").is_empty());
    }
}
