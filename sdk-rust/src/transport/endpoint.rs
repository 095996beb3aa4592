//! From the text of an endpoint to a connection that is made when first needed.
//!
//! Names are resolved afresh at every connect, because an address that was right once says nothing
//! about the next time.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use tonic::transport::{Channel, Endpoint};

#[cfg(feature = "tls")]
use super::certificates::Certificates;
#[cfg(feature = "tls")]
use super::connector::{Attempts, Connector};
use super::tls::Tls;
use crate::error::{Error, ErrorKind, Result};

/// Servers may end a connection that is pinged more than every five seconds, or that is pinged
/// while no call is open on it; so idle connections are not pinged. Watches and keepalives are open
/// calls.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// What TCP itself asks a silent peer, which no server minds: a connection whose other end is gone, or was
/// forgotten on the way, does not look alive for ever.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// More than the window of the protocol, so that a large answer does not wait for each 64 KiB.
const WINDOW_BYTES: u32 = 1 << 20;

const ENCRYPTED: &str = "https://";

/// An endpoint as a client was given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// One member, by its URL.
    Member(String),
    /// `dns:///host:port`: each address of the host is a member.
    Host { url: String, host: String, port: u16 },
    /// `dns+srv://domain`: each target of the SRV records is a member.
    Service(Service),
}

/// A service that SRV records tell about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// For errors and logs.
    pub name: String,
    pub scheme: &'static str,
    /// The name of the records.
    pub records: String,
    pub domain: String,
}

impl Given {
    pub fn parse(endpoint: &str, tls: bool) -> Result<Self> {
        let endpoint = endpoint.trim();
        match endpoint.split_once("://") {
            Some(("dns", _)) => {
                let url = normalize(endpoint, tls)?;
                let uri = parse(&url)?;
                match (uri.host(), uri.port_u16()) {
                    (Some(host), Some(port)) if uri.path() == "/" => {
                        // An address of IPv6 has brackets in a URL, and none where it is looked up.
                        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                        Ok(Self::Host { url, host, port })
                    }
                    _ => refuse(endpoint, "write a host and a port, dns:///store.example.org:2379,"),
                }
            }
            Some(("dns+srv", name)) => {
                Service::parse(endpoint, name.trim_matches('/'), tls).map(Self::Service)
            }
            _ => normalize(endpoint, tls).map(Self::Member),
        }
    }

    /// For errors and logs.
    pub fn name(&self) -> String {
        match self {
            Self::Member(url) => url.clone(),
            Self::Host { url, .. } => {
                format!("dns:///{}", url.split_once("://").map_or(&**url, |(_, rest)| rest))
            }
            Self::Service(service) => service.name.clone(),
        }
    }

    pub fn is_name(&self) -> bool {
        !matches!(self, Self::Member(_))
    }

    pub fn is_encrypted(&self) -> bool {
        match self {
            Self::Member(url) | Self::Host { url, .. } => is_encrypted(url),
            Self::Service(service) => is_encrypted(&format!("{}://", service.scheme)),
        }
    }

    /// What is asked before the name was looked up: the host itself, whichever of its addresses answers. A
    /// service has nothing like that; the name of its records has no address, and connecting fails.
    pub fn placeholder(&self) -> Target {
        match self {
            Self::Member(url) | Self::Host { url, .. } => Target::at(url),
            Self::Service(Service { name, scheme, records, domain }) => Target {
                name: name.clone(),
                url: format!("{scheme}://{records}:0"),
                origin: format!("{scheme}://{domain}"),
            },
        }
    }
}

impl Service {
    fn parse(endpoint: &str, name: &str, tls: bool) -> Result<Self> {
        if !HAS_SRV {
            return refuse(
                endpoint,
                "this build knows no SRV records, switch on the feature `srv` of folkmoot-client,",
            );
        }
        if tls && !HAS_TLS {
            return refuse(endpoint, NO_TLS);
        }
        if !name.parse::<Authority>().is_ok_and(|authority| authority.host() == name) {
            let why = "the records say host and port, so write the domain alone, dns+srv://example.org,";
            return refuse(endpoint, why);
        }
        let (records, domain) = if name.starts_with('_') {
            let mut labels = name.splitn(3, '.').skip(1);
            match (labels.next(), labels.next()) {
                (Some(protocol), Some(domain)) if protocol.starts_with('_') => (name.to_owned(), domain),
                _ => return refuse(endpoint, "write a service in full, dns+srv:///_name._tcp.example.org,"),
            }
        } else {
            let service = if tls { "_etcd-client-ssl" } else { "_etcd-client" };
            (format!("{service}._tcp.{name}"), name)
        };
        let domain = domain.trim_end_matches('.').to_owned();
        let scheme = if tls { "https" } else { "http" };
        Ok(Self { name: endpoint.to_owned(), scheme, records, domain })
    }
}

/// Where a member is, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// For errors and logs.
    pub name: String,
    /// Where connections go.
    pub url: String,
    /// The URL with the name that requests have and that the certificate must be for: the one that the
    /// caller gave. Whatever that was found to stand for is only DNS's word.
    pub origin: String,
}

impl Target {
    pub fn at(url: &str) -> Self {
        Self { name: url.to_owned(), url: url.to_owned(), origin: url.to_owned() }
    }

    /// A member that a name was found to stand for.
    pub fn found(url: String, origin: String) -> Self {
        Self { name: url.clone(), url, origin }
    }
}

/// One member as a client reaches it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// For errors and logs.
    pub name: Arc<str>,
    pub target: Arc<Target>,
    pub channel: Channel,
    /// Of encrypted connections.
    #[cfg(feature = "tls")]
    attempts: Option<Arc<Attempts>>,
}

impl Link {
    /// To be taken before a call is sent, for [`Link::refusal_since`].
    pub fn mark(&self) -> u64 {
        #[cfg(feature = "tls")]
        return self.attempts.as_ref().map_or(0, |attempts| attempts.mark());
        #[cfg(not(feature = "tls"))]
        0
    }

    /// Why a call has failed, if it is that the member did not take the client's certificate: it has read
    /// nothing then.
    #[cfg_attr(not(feature = "tls"), allow(unused_variables))]
    pub fn refusal_since(&self, mark: u64) -> Option<Error> {
        #[cfg(feature = "tls")]
        if let Some(alert) = self.attempts.as_ref().and_then(|attempts| attempts.refusal_since(mark)) {
            let text =
                format!("the member wants to see a certificate of the client that it trusts alert={alert:?}");
            return Some(Error::new(ErrorKind::AuthFailed, text).at(&self.name));
        }
        None
    }
}

/// Whether this build can encrypt.
const HAS_TLS: bool = cfg!(feature = "tls");
const NO_TLS: &str = "this build has no TLS, switch on the feature `tls` of folkmoot-client,";
/// Whether this build can ask for SRV records.
const HAS_SRV: bool = cfg!(feature = "srv");

fn refuse<T>(endpoint: &str, why: &str) -> Result<T> {
    Err(Error::invalid(format!("{why} endpoint={endpoint:?}")))
}

/// For what was found to be a URL before.
pub(super) fn parse(url: &str) -> Result<Uri> {
    url.parse::<Uri>().map_err(|error| {
        Error::invalid(format!("cannot use the endpoint: {error} endpoint={url:?}")).caused_by(error)
    })
}

/// Turns `host:port`, `http://…`, `https://…` and `dns:///…` into a URL of one member.
pub(crate) fn normalize(endpoint: &str, tls: bool) -> Result<String> {
    let endpoint = endpoint.trim();
    let scheme = if tls { "https" } else { "http" };
    let url = match endpoint.split_once("://") {
        Some(("http", rest)) if tls => {
            return refuse(endpoint, &format!("TLS is configured but the endpoint is not https://{rest},"));
        }
        Some(("http" | "https", _)) => endpoint.to_owned(),
        Some(("dns", rest)) => format!("{scheme}://{}", rest.trim_start_matches('/')),
        Some(("dns+srv", _)) => {
            return refuse(endpoint, "these are several members and one is wanted, write its host and port,");
        }
        Some(_) => {
            return refuse(endpoint, "an endpoint begins with http://, https://, dns:/// or dns+srv://,");
        }
        None => format!("{scheme}://{endpoint}"),
    };
    if is_encrypted(&url) && !HAS_TLS {
        return refuse(endpoint, NO_TLS);
    }
    match url.parse::<Uri>() {
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) => {
            Ok(url.trim_end_matches('/').to_owned())
        }
        _ => refuse(endpoint, "an endpoint is a host and a port,"),
    }
}

/// Prepares connections to members.
#[derive(Debug)]
pub(crate) struct Dialer {
    connect_timeout: Duration,
    /// Of all encrypted connections; `None` if there are none.
    #[cfg(feature = "tls")]
    certificates: Option<Arc<Certificates>>,
}

impl Dialer {
    /// # Errors
    /// Fails if a member is reached by TLS and the files for it cannot be used.
    #[cfg(feature = "tls")]
    pub fn new(encrypted: bool, tls: Option<&Tls>, connect_timeout: Duration) -> Result<Self> {
        let certificates = match encrypted {
            true => Some(Arc::new(Certificates::load(tls.cloned().unwrap_or_default())?)),
            false => None,
        };
        Ok(Self { connect_timeout, certificates })
    }

    #[cfg(not(feature = "tls"))]
    pub fn new(_encrypted: bool, _tls: Option<&Tls>, connect_timeout: Duration) -> Result<Self> {
        Ok(Self { connect_timeout })
    }

    fn endpoint(&self, url: &str, origin: &str) -> Result<Endpoint> {
        let origin = parse(origin)?;
        Endpoint::from_shared(url.to_owned())
            .and_then(|endpoint| endpoint.user_agent(concat!("folkmoot-client/", env!("CARGO_PKG_VERSION"))))
            .map(|endpoint| {
                endpoint
                    .origin(origin)
                    .http2_keep_alive_interval(PING_INTERVAL)
                    .keep_alive_timeout(PING_TIMEOUT)
                    .keep_alive_while_idle(false)
                    .initial_stream_window_size(WINDOW_BYTES)
                    .initial_connection_window_size(WINDOW_BYTES * 4)
            })
            .map_err(|error| {
                let cause = super::status::innermost(&error);
                Error::invalid(format!("cannot use the endpoint: {cause} endpoint={url:?}")).caused_by(error)
            })
    }

    fn plain(&self, target: &Target) -> Result<Endpoint> {
        Ok(self
            .endpoint(&target.url, &target.origin)?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(KEEPALIVE))
            .tcp_keepalive_interval(Some(KEEPALIVE)))
    }

    /// What connects by TLS, if the URL asks for it.
    ///
    /// The connector keeps `connect_timeout` itself: tonic's would end a connect with an error that does
    /// not say that nothing was sent yet.
    #[cfg(feature = "tls")]
    fn encrypted(&self, target: &Target) -> Result<Option<(Endpoint, Connector)>> {
        let Some(rest) = target.url.strip_prefix(ENCRYPTED) else { return Ok(None) };
        let certificates = self.certificates.as_ref().ok_or_else(|| {
            let url = &target.url;
            let text =
                format!("a member is reached by TLS, and this client was told of none endpoint={url:?}");
            Error::invalid(text)
        })?;
        let connector = Connector::new(target, certificates.clone(), self.connect_timeout, KEEPALIVE)?;
        // With `https` in it tonic would want to encrypt by itself.
        Ok(Some((self.endpoint(&format!("http://{rest}"), &target.origin)?, connector)))
    }

    /// Prepares a connection that is made when first needed. Must be called within the runtime that shall
    /// carry it.
    pub fn link(&self, target: &Target) -> Result<Link> {
        let name = target.name.as_str().into();
        #[cfg(feature = "tls")]
        if let Some((endpoint, connector)) = self.encrypted(target)? {
            let (target, attempts) = (Arc::new(target.clone()), Some(connector.attempts().clone()));
            let channel = endpoint.connect_with_connector_lazy(connector);
            return Ok(Link { name, target, channel, attempts });
        }
        let channel = self.plain(target)?.connect_lazy();
        Ok(Link {
            name,
            target: Arc::new(target.clone()),
            channel,
            #[cfg(feature = "tls")]
            attempts: None,
        })
    }

    async fn connect(&self, target: &Target) -> Result<Channel> {
        let unreachable = |error: tonic::transport::Error| {
            let cause = super::status::innermost(&error).to_string();
            Error::new(ErrorKind::Unavailable, cause).at(&target.name).caused_by(error)
        };
        #[cfg(feature = "tls")]
        if let Some((endpoint, connector)) = self.encrypted(target)? {
            return endpoint.connect_with_connector(connector).await.map_err(unreachable);
        }
        self.plain(target)?.connect().await.map_err(unreachable)
    }
}

/// A connection to this one member, made now, as the clients of this crate make theirs: for the command
/// line, which asks members one by one. Promised to nobody else.
#[doc(hidden)]
pub async fn dial(endpoint: &str, tls: Option<&Tls>, connect_timeout: Duration) -> Result<Channel> {
    let url = normalize(endpoint, tls.is_some())?;
    Dialer::new(is_encrypted(&url), tls, connect_timeout)?.connect(&Target::at(&url)).await
}

fn is_encrypted(url: &str) -> bool {
    url.starts_with(ENCRYPTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_1_endpoints_come_in_several_forms() {
        assert_eq!(normalize("n1:2379", false).unwrap(), "http://n1:2379");
        assert_eq!(normalize(" http://n1:2379/", false).unwrap(), "http://n1:2379");
        let encrypted = [
            ("n1:2379", true, "https://n1:2379"),
            ("dns:///store:2379", true, "https://store:2379"),
            ("https://[::1]:2379", false, "https://[::1]:2379"),
        ];
        for (endpoint, tls, url) in encrypted {
            match normalize(endpoint, tls) {
                Ok(normal) => assert!(HAS_TLS && normal == url, "{normal}"),
                Err(error) => assert!(!HAS_TLS && error.to_string().contains("has no TLS"), "{error}"),
            }
        }
    }

    #[test]
    fn a_senseless_endpoint_is_named() {
        for (endpoint, tls) in [("", false), ("ftp://n1", false), ("http://n1:2379", true), ("a b", false)] {
            let error = normalize(endpoint, tls).expect_err("makes no sense");
            assert_eq!(error.code(), "INVALID_ARGUMENT");
            assert!(error.to_string().contains(&format!("endpoint={endpoint:?}")), "{error}");
        }
    }

    #[test]
    fn c_1_a_host_stands_for_all_its_addresses() {
        let given = |host: &str, url: &str| Given::Host { url: url.into(), host: host.into(), port: 2379 };
        let parse = |endpoint| Given::parse(endpoint, false).unwrap();
        assert_eq!(parse("dns:///store:2379"), given("store", "http://store:2379"));
        assert_eq!(parse(" dns://store:2379/"), given("store", "http://store:2379"));
        assert_eq!(parse("dns:///[::1]:2379"), given("::1", "http://[::1]:2379"));
        assert_eq!(parse("store:2379"), Given::Member("http://store:2379".into()));
    }

    #[cfg(feature = "srv")]
    #[test]
    fn c_1_a_service_is_asked_for_as_etcd_does_or_as_it_stands() {
        let (etcd, ssl) = ("_etcd-client._tcp.example.org", "_etcd-client-ssl._tcp.example.org");
        let services = [
            ("dns+srv://example.org", false, etcd, "example.org"),
            ("dns+srv:///example.org./", false, "_etcd-client._tcp.example.org.", "example.org"),
            ("dns+srv://example.org", true, ssl, "example.org"),
            ("dns+srv:///_client._tcp.store.svc", true, "_client._tcp.store.svc", "store.svc"),
            ("dns+srv://_client._tcp.store.svc", false, "_client._tcp.store.svc", "store.svc"),
        ];
        for (endpoint, tls, records, domain) in services {
            match Given::parse(endpoint, tls) {
                Ok(Given::Service(service)) => {
                    assert_eq!((&*service.records, &*service.domain), (records, domain));
                    assert_eq!((&*service.name, service.scheme == "https"), (endpoint, tls));
                }
                Ok(other) => panic!("not a service: {other:?}"),
                Err(error) => assert!(tls && !HAS_TLS && error.to_string().contains("has no TLS"), "{error}"),
            }
        }
    }

    #[test]
    fn a_name_that_cannot_be_looked_up_is_refused_with_what_to_write() {
        let host = "dns:///store.example.org:2379";
        let (domain, service) = ("dns+srv://example.org", "dns+srv:///_name._tcp.example.org");
        let wrong = [
            ("dns:///", "a host and a port"),
            ("dns:///store", host),
            ("dns:///store:", host),
            ("dns:///store:65536", host),
            ("dns:///store:2379/path", host),
            ("dns+srv://", domain),
            ("dns+srv://example.org:2379", domain),
            ("dns+srv://example.org/path", domain),
            ("dns+srv://a b", domain),
            ("dns+srv:///_name", service),
            ("dns+srv:///_name.example.org", service),
            ("dns+srv:///_name._tcp", service),
        ];
        for (endpoint, advice) in wrong {
            let error = Given::parse(endpoint, false).expect_err(endpoint).to_string();
            assert!(error.contains(&format!("endpoint={endpoint:?}")), "{error}");
            let is_unknown = endpoint.starts_with("dns+srv") && !HAS_SRV;
            assert!(error.contains(if is_unknown { "the feature `srv`" } else { advice }), "{error}");
        }
        let error = normalize("dns+srv://example.org", false).expect_err("is not one member").to_string();
        assert!(error.contains("host and port"), "{error}");
    }
}
