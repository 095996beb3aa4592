//! Peer URLs: `http://host:port`, and nothing else until there is TLS between members.

use std::fmt;

/// Where a member listens for the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerUrl {
    /// Host name, or address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a text is no peer URL.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UrlError {
    /// Not of the form.
    #[error("peer URL must have the form http://host:port: url={0:?}")]
    Form(String),
    /// TLS is asked for.
    #[error("peer URLs with https are not supported yet, use http: url={0:?}")]
    Tls(String),
}

impl PeerUrl {
    /// Reads `http://host:port`.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let malformed = || UrlError::Form(text.to_owned());
        if text.starts_with("https://") {
            return Err(UrlError::Tls(text.to_owned()));
        }
        let (host, port) =
            text.strip_prefix("http://").and_then(|rest| rest.rsplit_once(':')).ok_or_else(malformed)?;
        let (host, bracketed) = match host.strip_prefix('[') {
            Some(v6) => (v6.strip_suffix(']').ok_or_else(malformed)?, true),
            None => (host, false),
        };
        let odd = |c: char| c.is_control() || c.is_whitespace() || "/?#@[]".contains(c);
        if host.is_empty() || host.contains(odd) || host.contains(':') != bracketed {
            return Err(malformed());
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(malformed)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_reads_back_as_it_was_written() {
        for text in ["http://localhost:2380", "http://10.0.0.1:1", "http://[::1]:2380"] {
            assert_eq!(PeerUrl::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_peer_url_is_refused() {
        let odd =
            ["http://a", "http://a:1/", "ftp://a:1", "a:1", "http://::1:5", "", "http://:1", "http://[a]:1"];
        for text in odd.into_iter().chain(["http://a:0", "http://a:65536", "http://a b:1", "http://u@a:1"]) {
            assert_eq!(PeerUrl::parse(text), Err(UrlError::Form(text.to_owned())), "{text}");
        }
        assert!(matches!(PeerUrl::parse("https://a:1"), Err(UrlError::Tls(_))));
    }
}
