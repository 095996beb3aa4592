//! URLs of listeners and members: scheme, host and port, and nothing else.

use std::fmt;
use std::net::IpAddr;

/// How a connection is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scheme {
    /// TCP.
    Http,
    /// TCP with TLS.
    Https,
    /// A Unix socket.
    Unix,
    /// A Unix socket with TLS.
    Unixs,
}

impl Scheme {
    fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        }
    }
}

/// A URL of etcd's kind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ServiceUrl {
    /// How to connect.
    pub scheme: Scheme,
    /// Host name or address without brackets; the path of a Unix socket.
    pub host: String,
    /// TCP port; 0 for Unix sockets.
    pub port: u16,
}

/// Why a text is no such URL; the words are etcd's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(pub String);

impl ServiceUrl {
    /// Reads `scheme://host:port`.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| UrlError(format!("URL scheme must be http, https, unix, or unixs: {text}")))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(UrlError(format!("URL scheme must be http, https, unix, or unixs: {text}"))),
        };
        if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
            return Ok(Self { scheme, host: rest.to_owned(), port: 0 });
        }
        if rest.contains(['/', '?', '#']) {
            return Err(UrlError(format!("URL must not contain a path: {text}")));
        }
        let no_port = || UrlError(format!("URL address does not have the form \"host:port\": {text}"));
        let (host, port) = rest.rsplit_once(':').ok_or_else(no_port)?;
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']').ok_or_else(no_port)?,
            None if host.contains(':') => return Err(no_port()),
            None => host,
        };
        let port = port.parse().map_err(|_| no_port())?;
        Ok(Self { scheme, host: host.to_owned(), port })
    }

    /// The address to bind, if the host is one: an IP, `localhost`, or nothing for all addresses.
    pub fn bind_ip(&self) -> Option<IpAddr> {
        match self.host.as_str() {
            "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
            "" => Some(IpAddr::from([0, 0, 0, 0])),
            host => host.parse().ok(),
        }
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.text();
        match self.scheme {
            Scheme::Unix | Scheme::Unixs => write!(f, "{scheme}://{}", self.host),
            _ if self.host.contains(':') => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            _ => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_reads_back_as_it_was_written() {
        for text in ["http://localhost:2379", "https://10.0.0.1:1", "http://[::1]:2379", "unix://sock"] {
            assert_eq!(ServiceUrl::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_path_or_a_missing_port_is_refused() {
        for text in ["http://a", "http://a:1/", "http://a:1/x", "ftp://a:1", "a:1", "http://::1:5", ""] {
            assert!(ServiceUrl::parse(text).is_err(), "{text}");
        }
    }
}
