//! The client: a cheap handle that is shared and cloned freely.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::error::{Error, Result};
use crate::namespace::Namespace;
use crate::transport::endpoint::Given;
use crate::transport::names::Resolver;
use crate::transport::options::Options;
use crate::transport::tls::Tls;
use crate::transport::{Call, Core};

/// A list that changes by hand is not worth more questions.
const AUTO_SYNC_MIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Shared {
    /// Replaced in a forked child.
    core: ArcSwap<Core>,
}

/// A connection to one store, by as many of its members as are known.
///
/// Clones share everything. All methods take `&self` and may be called from any thread and any
/// async runtime, also from none. In a forked child a client connects afresh by itself; sessions,
/// watches and whatever is held do not follow and answer [`Forked`](crate::ErrorKind::Forked).
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    namespace: Namespace,
}

impl Client {
    /// Says where the store is and how to reach it.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Connects with nothing but endpoints.
    pub async fn connect<I>(endpoints: I) -> Result<Self>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::builder().endpoints(endpoints).connect().await
    }

    /// The same store, with this prefix in front of every key. Namespaces nest.
    pub fn namespace(&self, prefix: impl AsRef<[u8]>) -> Self {
        Self { shared: self.shared.clone(), namespace: self.namespace.nested(prefix.as_ref()) }
    }

    /// The id of the cluster that answers; 0 before the first answer.
    pub fn cluster_id(&self) -> u64 {
        self.shared.core.load().seen.cluster_id()
    }

    /// Ends the client and all its clones: calls are refused, streams end. Sessions that are still
    /// open are left to their time; close them first.
    pub fn close(&self) {
        self.shared.core.load().close();
    }

    /// Logs in, if there is a name and a password, and waits for one answer of one member.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn verify(&self) -> Result<()> {
        self.core()?.log_in().await?;
        self.ask(Call::read()).await
    }

    pub(crate) fn keys(&self) -> &Namespace {
        &self.namespace
    }

    /// The heart in this process.
    pub(crate) fn core(&self) -> Result<Arc<Core>> {
        let core = self.shared.core.load_full();
        if core.is_foreign() {
            let fresh = Core::start(core.options.clone())?;
            self.shared.core.store(fresh.clone());
            // The parent's connections belong to threads that are not here; they are not touched.
            std::mem::forget(core);
            return Ok(fresh);
        }
        core.check()?;
        Ok(core)
    }
}

/// What a client needs to know before it begins.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    namespace: Vec<u8>,
    options: Options,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        let options = Options {
            endpoints: Vec::new(),
            resolver: Resolver::default(),
            credentials: None,
            tls: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            auto_sync: None,
            runtime: None,
        };
        Self { endpoints: Vec::new(), namespace: Vec::new(), options }
    }
}

impl ClientBuilder {
    /// Where the members are: `host:port`, `http://…` or `https://…`. One text may hold several, with commas
    /// between.
    ///
    /// Two more name all members at once. They are looked up every 30 seconds and when a member fails, and
    /// whoever comes or goes is followed; while nothing is found, those that were found last are asked:
    ///
    /// - `dns:///host:port`: each address of the host is a member.
    /// - `dns+srv://domain`: the targets of the SRV records `_etcd-client._tcp.domain` are the members, with
    ///   TLS those of `_etcd-client-ssl._tcp.domain`; of several priorities only those of the first, and
    ///   whatever their weights. `dns+srv:///_name._tcp.domain` asks for these records as they stand. Needs
    ///   the feature `srv`.
    ///
    /// With TLS a member's certificate must be for the host or the domain that is written here, unless
    /// [`Tls::server_name`] says another: what DNS answers is not proven.
    pub fn endpoints<I>(mut self, endpoints: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        for endpoint in endpoints {
            self.endpoints.extend(endpoint.into().split(',').map(str::to_owned));
        }
        self
    }

    /// Logs in with name and password; tokens are renewed by themselves.
    pub fn auth(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.options.credentials = Some((name.into(), password.into()));
        self
    }

    /// Encrypts, and says whom to trust. Endpoints with `https://` are encrypted also without.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.options.tls = Some(tls);
        self
    }

    /// Puts this prefix in front of every key.
    pub fn namespace(mut self, prefix: impl AsRef<[u8]>) -> Self {
        self.namespace = prefix.as_ref().to_owned();
        self
    }

    /// How long one attempt to connect may take; 2 s if not said.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// How long a call may take that does not wait by design, repeats included; 5 s if not said.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// Asks the members so often who the members are, at least one second apart, and adds those that are
    /// new to the endpoints that it was given; not done if not said. Members must advertise URLs that this
    /// client can reach. Those that names such as `dns:///host:port` stand for are asked until the members
    /// have told, and when all of them fail.
    pub fn auto_sync(mut self, interval: Duration) -> Self {
        self.options.auto_sync = Some(interval);
        self
    }

    /// Runs on the caller's tokio runtime instead of two threads of this crate's own. A caller that
    /// keeps that runtime busy for longer than a session's time loses the session.
    ///
    /// # Panics
    /// If there is no runtime.
    pub fn on_current_runtime(mut self) -> Self {
        self.options.runtime = Some(tokio::runtime::Handle::current());
        self
    }

    #[cfg(all(test, feature = "srv"))]
    pub(crate) fn name_server(mut self, address: std::net::SocketAddr) -> Self {
        self.options.resolver = Resolver { server: Some(address) };
        self
    }

    /// Makes the client without asking anybody.
    pub fn connect_lazy(self) -> Result<Client> {
        let Self { endpoints, namespace, mut options } = self;
        let tls = options.tls.is_some();
        options.endpoints = endpoints
            .iter()
            .filter(|endpoint| !endpoint.trim().is_empty())
            .map(|endpoint| Given::parse(endpoint, tls))
            .collect::<Result<_>>()?;
        options.endpoints.dedup();
        if options.endpoints.is_empty() {
            return Err(Error::invalid("a client needs at least one endpoint"));
        }
        if let Some(interval) = options.auto_sync.filter(|interval| *interval < AUTO_SYNC_MIN) {
            return Err(Error::invalid(format!(
                "members are asked once a second at most auto_sync={interval:?}"
            )));
        }
        let core = ArcSwap::new(Core::start(options)?);
        Ok(Client { shared: Arc::new(Shared { core }), namespace: Namespace::new(namespace) })
    }

    /// Makes the client, looks names up, logs in, and waits for one answer of one member.
    pub async fn connect(self) -> Result<Client> {
        let client = self.connect_lazy()?;
        client.core()?.names_looked_up().await?;
        client.verify().await?;
        Ok(client)
    }
}
