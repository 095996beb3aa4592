//! What a client was told when it was made.

use std::time::Duration;

use super::endpoint::Given;
use super::names::Resolver;
use super::tls::Tls;

/// Everything that a client needs to start again, also in another process.
#[derive(Clone)]
pub(crate) struct Options {
    /// At least one.
    pub endpoints: Vec<Given>,
    /// Who looks names up.
    pub resolver: Resolver,
    /// Name and password.
    pub credentials: Option<(String, String)>,
    pub tls: Option<Tls>,
    pub connect_timeout: Duration,
    /// For calls that do not wait by design.
    pub request_timeout: Duration,
    /// How often the members are asked who the members are.
    pub auto_sync: Option<Duration>,
    /// The caller's runtime, if the client shall run there.
    pub runtime: Option<tokio::runtime::Handle>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("endpoints", &self.endpoints)
            .field("user", &self.credentials.as_ref().map(|(user, _)| user))
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}
