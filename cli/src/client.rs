//! How members are reached: the client of `sdk-rust`, and a connection to one member.
//!
//! Commands about keys and the recipes use the client library, which goes on when a member fails.
//! What is asked of one member in particular, or printed with who answered it (members, leases,
//! alarms, snapshots), goes through [`Client`]. Refuses: retries and sessions. An endpoint that
//! cannot be reached is passed over for the next one; after that, an error is an error.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use folkmoot_client::{ErrorKind, Tls};
use folkmoot_proto::etcdserverpb::AuthenticateRequest;
use folkmoot_proto::etcdserverpb::auth_client::AuthClient;
use folkmoot_proto::etcdserverpb::cluster_client::ClusterClient;
use folkmoot_proto::etcdserverpb::kv_client::KvClient;
use folkmoot_proto::etcdserverpb::lease_client::LeaseClient;
use folkmoot_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tokio::net::TcpStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::failure::{Failure, Result};

/// How long the first answer may take before it is looked whether anybody listens at all.
const LISTENS_AFTER: Duration = Duration::from_millis(100);
/// What a store without users says to a name and a password.
const NO_USERS: &str = "etcdserver: authentication is not enabled";

/// How to reach the members.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Where the members are, `host:port`, `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// How long one connection attempt may take.
    pub dial_timeout: Duration,
    /// How long one call may take, where it does not wait by design.
    pub command_timeout: Duration,
    /// How connections are encrypted; without it, only those to `https://` endpoints are, and the
    /// system says whom to trust.
    pub tls: Option<TlsOptions>,
    /// Name and password.
    pub credentials: Option<(String, String)>,
}

/// How connections are encrypted; files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Authorities to trust; without, those of the system.
    pub authorities: Option<PathBuf>,
    /// Certificate and key to show to the members.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Trust anybody, whoever the authorities are.
    pub skip_verify: bool,
}

impl TlsOptions {
    fn for_library(&self) -> Tls {
        let tls = match &self.authorities {
            _ if self.skip_verify => Tls::skip_verify(),
            Some(file) => Tls::from_files(file),
            None => Tls::system(),
        };
        match &self.identity {
            Some((certificate, key)) => tls.identity(certificate, key),
            None => tls,
        }
    }
}

impl ConnectOptions {
    /// A client of the store, after it has had a first answer.
    ///
    /// The library goes on trying for as long as a call may take. Whoever has forgotten to start the
    /// server, or to name the right port, should hear it at once.
    pub async fn store(&self) -> Result<folkmoot_client::Client> {
        let mut builder = folkmoot_client::Client::builder()
            .endpoints(self.endpoints.clone())
            .connect_timeout(self.dial_timeout)
            .request_timeout(self.command_timeout);
        if let Some(tls) = &self.tls {
            builder = builder.tls(tls.for_library());
        }
        if let Some((name, password)) = &self.credentials {
            builder = builder.auth(name, password);
        }
        let store = builder.connect_lazy()?;
        tokio::select! {
            biased;
            verified = store.verify() => verified?,
            nobody = self.nobody_listens() => match nobody {
                Err(failure) => return Err(failure),
                Ok(never) => match never {},
            },
        }
        Ok(store)
    }

    /// Fails if no endpoint accepts connections, and waits for ever if one does.
    async fn nobody_listens(&self) -> Result<Infallible> {
        tokio::time::sleep(LISTENS_AFTER).await;
        let mut refusals = Vec::new();
        for endpoint in &self.endpoints {
            let address = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
            let dial = TcpStream::connect(address.trim_matches('/'));
            refusals.push(match tokio::time::timeout(self.dial_timeout, dial).await {
                Ok(Ok(_)) => return Ok(std::future::pending().await),
                Ok(Err(error)) => unreachable_endpoint(endpoint, &error.to_string()),
                Err(_) => unreachable_endpoint(endpoint, &self.no_connection()),
            });
        }
        Err(Failure::new(refusals.join("; ")))
    }

    fn no_connection(&self) -> String {
        format!("no connection within --dial-timeout={:?}", self.dial_timeout)
    }
}

fn unreachable_endpoint(endpoint: &str, reason: &str) -> String {
    format!("cannot reach endpoint {endpoint}: {reason}")
}

/// Shows the token of a login with every call, if there is one.
#[derive(Clone)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// A connection to one member.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    token: Token,
    command_timeout: Duration,
}

macro_rules! stub {
    ($(#[$doc:meta])* $name:ident, $stub:ident) => {
        $(#[$doc])*
        pub fn $name(&self) -> $stub<InterceptedService<Channel, Token>> {
            // An answer can be as large as the store; what is asked for is wanted.
            $stub::with_interceptor(self.channel.clone(), self.token.clone())
                .max_decoding_message_size(usize::MAX)
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
                Err(failure) if failure.is_usage() => return Err(failure),
                Err(failure) => refusals.push(failure.message().to_owned()),
            }
        }
        Err(Failure::new(match refusals.as_slice() {
            [] => "no endpoint given; see --endpoints".to_owned(),
            refusals => refusals.join("; "),
        }))
    }

    /// Connects to one endpoint, and logs in if there is a name.
    pub async fn connect_to(endpoint: &str, options: &ConnectOptions) -> Result<Self> {
        let url = endpoint_url(endpoint, options.tls.is_some())?;
        let unreachable = |reason: &str| Failure::new(unreachable_endpoint(endpoint, reason));
        let tls = options.tls.as_ref().map(TlsOptions::for_library);
        let dialing = folkmoot_client::dial(&url, tls.as_ref(), options.dial_timeout);
        let channel = match tokio::time::timeout(options.dial_timeout, dialing).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) if error.kind() == ErrorKind::InvalidArgument => return Err(error.into()),
            Ok(Err(error)) => return Err(unreachable(error.message())),
            Err(_) => return Err(unreachable(&options.no_connection())),
        };
        let mut client = Self { channel, token: Token(None), command_timeout: options.command_timeout };
        if let Some((name, password)) = &options.credentials {
            client.token = client.log_in(name, password).await?;
        }
        Ok(client)
    }

    async fn log_in(&self, name: &str, password: &str) -> Result<Token> {
        let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let mut stub = AuthClient::new(self.channel.clone());
        match self.answer(stub.authenticate(request)).await {
            Ok(response) => match response.token.parse() {
                Ok(token) => Ok(Token(Some(token))),
                Err(_) => Err(Failure::new("the server gave a token that cannot be sent")),
            },
            Err(failure) if failure.message() == NO_USERS => Ok(Token(None)),
            Err(failure) => Err(failure),
        }
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
        /// Keys, as this very member answers.
        kv, KvClient
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
}

/// The URL of an endpoint; a bare `host:port` is encrypted if there are files for it.
fn endpoint_url(endpoint: &str, tls: bool) -> Result<String> {
    match endpoint.split_once("://") {
        None if endpoint.is_empty() => Err(Failure::usage("an endpoint is empty; see --endpoints")),
        None if tls => Ok(format!("https://{endpoint}")),
        None => Ok(format!("http://{endpoint}")),
        Some(("http", rest)) if tls => Err(Failure::usage(format!(
            "TLS is configured but the endpoint is not https://{rest}; endpoint={endpoint}"
        ))),
        Some(("http" | "https", _)) => Ok(endpoint.to_owned()),
        Some((scheme, _)) => Err(Failure::usage(format!(
            "an endpoint is host:port, http://host:port or https://host:port; \
             endpoint={endpoint} scheme={scheme}"
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
    fn an_endpoint_without_a_scheme_is_encrypted_if_there_are_files_for_it() {
        assert_eq!(endpoint_url("a:1", false).as_deref(), Ok("http://a:1"));
        assert_eq!(endpoint_url("a:1", true).as_deref(), Ok("https://a:1"));
        assert_eq!(endpoint_url("http://a:1", false).as_deref(), Ok("http://a:1"));
        assert_eq!(endpoint_url("https://a:1", false).as_deref(), Ok("https://a:1"));
        assert_eq!(endpoint_url("[::1]:1", false).as_deref(), Ok("http://[::1]:1"));
    }

    #[test]
    fn an_endpoint_that_cannot_be_meant_is_named() {
        for (endpoint, tls) in [("http://a:1", true), ("ftp://a:1", false)] {
            let failure = endpoint_url(endpoint, tls).expect_err("makes no sense");
            assert!(failure.is_usage());
            assert!(failure.message().contains(&format!("endpoint={endpoint}")), "{}", failure.message());
        }
    }

    #[test]
    fn endpoints_are_separated_by_commas() {
        assert_eq!(split_endpoints("a:1, b:2,,"), ["a:1", "b:2"]);
        assert!(split_endpoints("").is_empty());
    }
}
