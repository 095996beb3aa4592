//! From the text of an endpoint to a connection that is made when first needed.
//!
//! Names are resolved afresh at every connect, because an address that was right once says nothing
//! about the next time.

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::options::Options;
use crate::error::{Error, Result};

/// Servers may end a connection that is pinged more than every five seconds, or that is pinged
/// while no call is open on it; so idle connections are not pinged. Watches and keepalives are open
/// calls.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// More than the window of the protocol, so that a large answer does not wait for each 64 KiB.
const WINDOW_BYTES: u32 = 1 << 20;

/// One member as a client reaches it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// For errors and logs.
    pub name: Arc<str>,
    pub channel: Channel,
}

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
    match url.parse::<http::Uri>() {
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) => {
            Ok(url.trim_end_matches('/').to_owned())
        }
        _ => refuse("an endpoint is a host and a port,"),
    }
}

/// Prepares a connection to one member. Must be called within the runtime that shall carry it.
pub(crate) fn link(url: &str, options: &Options) -> Result<Link> {
    let invalid = |error: tonic::transport::Error| {
        let cause = super::status::innermost(&error);
        Error::invalid(format!("cannot use the endpoint: {cause} endpoint={url:?}")).caused_by(error)
    };
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .and_then(|endpoint| endpoint.user_agent(concat!("folkmoot-client/", env!("CARGO_PKG_VERSION"))))
        .map_err(invalid)?
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4)
        .tcp_nodelay(true);
    if url.starts_with("https://") {
        endpoint = super::tls::apply(endpoint, options.tls.as_ref(), invalid)?;
    }
    Ok(Link { name: url.into(), channel: endpoint.connect_lazy() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_1_endpoints_come_in_several_forms() {
        assert_eq!(normalize("n1:2379", false).unwrap(), "http://n1:2379");
        assert_eq!(normalize("n1:2379", true).unwrap(), "https://n1:2379");
        assert_eq!(normalize(" http://n1:2379/", false).unwrap(), "http://n1:2379");
        assert_eq!(normalize("dns:///store:2379", true).unwrap(), "https://store:2379");
        assert_eq!(normalize("https://[::1]:2379", false).unwrap(), "https://[::1]:2379");
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
