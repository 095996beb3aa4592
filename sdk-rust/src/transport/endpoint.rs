//! From the text of an endpoint to a connection that is made when first needed.
//!
//! Names are resolved afresh at every connect, because an address that was right once says nothing
//! about the next time.

use std::sync::Arc;
use std::time::Duration;

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

/// One member as a client reaches it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// For errors and logs.
    pub name: Arc<str>,
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

/// Turns `host:port`, `http://…`, `https://…` and `dns:///…` into a URL.
pub(crate) fn normalize(endpoint: &str, tls: bool) -> Result<String> {
    let endpoint = endpoint.trim();
    let refuse = |why: &str| Err(Error::invalid(format!("{why} endpoint={endpoint:?}")));
    let scheme = if tls { "https" } else { "http" };
    let url = match endpoint.split_once("://") {
        Some(("http", rest)) if tls => {
            return refuse(&format!("TLS is configured but the endpoint is not https://{rest},"));
        }
        Some(("http" | "https", _)) => endpoint.to_owned(),
        Some(("dns", rest)) => format!("{scheme}://{}", rest.trim_start_matches('/')),
        Some(_) => return refuse("an endpoint begins with http://, https:// or dns:///,"),
        None => format!("{scheme}://{endpoint}"),
    };
    if is_encrypted(&url) && !HAS_TLS {
        return refuse("this build has no TLS, switch on the feature `tls` of folkmoot-client,");
    }
    match url.parse::<http::Uri>() {
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) => {
            Ok(url.trim_end_matches('/').to_owned())
        }
        _ => refuse("an endpoint is a host and a port,"),
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
    pub fn new(urls: &[String], tls: Option<&Tls>, connect_timeout: Duration) -> Result<Self> {
        let certificates = match urls.iter().any(|url| is_encrypted(url)) {
            true => Some(Arc::new(Certificates::load(tls.cloned().unwrap_or_default())?)),
            false => None,
        };
        Ok(Self { connect_timeout, certificates })
    }

    #[cfg(not(feature = "tls"))]
    pub fn new(_urls: &[String], _tls: Option<&Tls>, connect_timeout: Duration) -> Result<Self> {
        Ok(Self { connect_timeout })
    }

    fn endpoint(&self, url: &str) -> Result<Endpoint> {
        Endpoint::from_shared(url.to_owned())
            .and_then(|endpoint| endpoint.user_agent(concat!("folkmoot-client/", env!("CARGO_PKG_VERSION"))))
            .map(|endpoint| {
                endpoint
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

    fn plain(&self, url: &str) -> Result<Endpoint> {
        Ok(self
            .endpoint(url)?
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
    fn encrypted(&self, url: &str) -> Result<Option<(Endpoint, Connector)>> {
        let Some(rest) = url.strip_prefix(ENCRYPTED) else { return Ok(None) };
        let certificates = self.certificates.as_ref().ok_or_else(|| {
            let text =
                format!("a member is reached by TLS, and this client was told of none endpoint={url:?}");
            Error::invalid(text)
        })?;
        let connector = Connector::new(url, certificates.clone(), self.connect_timeout, KEEPALIVE)?;
        let origin = connector.target().clone();
        // With `https` in it tonic would want to encrypt by itself.
        Ok(Some((self.endpoint(&format!("http://{rest}"))?.origin(origin), connector)))
    }

    /// Prepares a connection that is made when first needed. Must be called within the runtime that shall
    /// carry it.
    pub fn link(&self, url: &str) -> Result<Link> {
        let name = url.into();
        #[cfg(feature = "tls")]
        if let Some((endpoint, connector)) = self.encrypted(url)? {
            let attempts = Some(connector.attempts().clone());
            return Ok(Link { name, channel: endpoint.connect_with_connector_lazy(connector), attempts });
        }
        let channel = self.plain(url)?.connect_lazy();
        Ok(Link {
            name,
            channel,
            #[cfg(feature = "tls")]
            attempts: None,
        })
    }

    async fn connect(&self, url: &str) -> Result<Channel> {
        let unreachable = |error: tonic::transport::Error| {
            let cause = super::status::innermost(&error).to_string();
            Error::new(ErrorKind::Unavailable, cause).at(url).caused_by(error)
        };
        #[cfg(feature = "tls")]
        if let Some((endpoint, connector)) = self.encrypted(url)? {
            return endpoint.connect_with_connector(connector).await.map_err(unreachable);
        }
        self.plain(url)?.connect().await.map_err(unreachable)
    }
}

/// A connection to this one member, made now, as the clients of this crate make theirs: for the command
/// line, which asks members one by one. Promised to nobody else.
#[doc(hidden)]
pub async fn dial(endpoint: &str, tls: Option<&Tls>, connect_timeout: Duration) -> Result<Channel> {
    let url = normalize(endpoint, tls.is_some())?;
    Dialer::new(std::slice::from_ref(&url), tls, connect_timeout)?.connect(&url).await
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
}
