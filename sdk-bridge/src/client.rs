//! The client handle.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use folkmoot_client as sdk;

use crate::edge::{Result, at_once, edge};
use crate::error::BridgeError;

/// How connections are encrypted. Each file may be given as its text instead, not both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// File of the authorities to trust; the system's if neither this nor the text is given.
    pub ca_file: Option<String>,
    /// The same as PEM text.
    pub ca_pem: Option<Bytes>,
    /// File of the certificate to show.
    pub cert_file: Option<String>,
    /// The same as PEM text.
    pub cert_pem: Option<Bytes>,
    /// File of its key.
    pub key_file: Option<String>,
    /// The same as PEM text.
    pub key_pem: Option<Bytes>,
    /// The name to expect in the members' certificates instead of the endpoint's host.
    pub server_name: Option<String>,
    /// Trust anybody, whatever the certificate says: dangerous, for tests. Authorities to trust make no sense
    /// beside it.
    pub skip_verify: bool,
}

/// Where the store is and how to reach it. `None` leaves it to `folkmoot-client`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// `host:port`, `http://…`, `https://…` or `dns:///host:port`; one text may hold several, with commas
    /// between.
    pub endpoints: Vec<String>,
    /// User name; with a password.
    pub user: Option<String>,
    /// Password; with a user name.
    pub password: Option<String>,
    /// Encryption.
    pub tls: Option<TlsOptions>,
    /// In front of every key.
    pub namespace: Bytes,
    /// How long one attempt to connect may take.
    pub connect_timeout: Option<Duration>,
    /// How long a call may take that does not wait by design.
    pub request_timeout: Option<Duration>,
    /// How often the members are asked who the members are; not at all if not said.
    pub auto_sync: Option<Duration>,
}

fn tls(options: TlsOptions) -> Result<sdk::Tls> {
    let TlsOptions { ca_file, ca_pem, cert_file, cert_pem, key_file, key_pem, server_name, skip_verify } =
        options;
    let both = |what: &str| {
        Err(BridgeError::argument(what, format!("{what} is given both as a file and as a text")))
    };
    if skip_verify && (ca_file.is_some() || ca_pem.is_some()) {
        let text = "authorities to trust make no sense if skip_verify trusts anybody";
        return Err(BridgeError::argument("ca", text));
    }
    let mut tls = match (ca_file, ca_pem) {
        (Some(_), Some(_)) => return both("ca"),
        (Some(file), None) => sdk::Tls::from_files(file),
        (None, Some(pem)) => sdk::Tls::from_pem(pem),
        (None, None) if skip_verify => sdk::Tls::skip_verify(),
        (None, None) => sdk::Tls::system(),
    };
    tls = match (cert_file, key_file, cert_pem, key_pem) {
        (None, None, None, None) => tls,
        (Some(cert), Some(key), None, None) => tls.identity(cert, key),
        (None, None, Some(cert), Some(key)) => tls.identity_pem(cert, key),
        _ => {
            let text = "a certificate and its key come together, both as files or both as texts";
            return Err(BridgeError::argument("cert", text));
        }
    };
    Ok(match server_name {
        Some(name) => tls.server_name(name),
        None => tls,
    })
}

#[derive(Debug)]
struct Life {
    pid: u32,
    stopped: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    life: Arc<Life>,
    client: ManuallyDrop<sdk::Client>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.life.pid != std::process::id() {
            // The parent's connections are not touched, and what the child made of it ends with the child.
            return;
        }
        // SAFETY: it is not used after this, because it is dropped only once, here.
        let drop = || unsafe { ManuallyDrop::drop(&mut self.client) };
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(drop)) {
            tracing::error!(error = %BridgeError::panicked(&*panic), "a client was not dropped properly");
        }
    }
}

/// A connection to one store. In a forked child it connects afresh by itself.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

impl Client {
    /// Makes a client and asks nobody yet.
    pub fn create(options: ConnectOptions) -> Result<Self, BridgeError> {
        at_once(|| {
            let ConnectOptions { endpoints, user, password, .. } = options;
            let mut builder = sdk::Client::builder().endpoints(endpoints).namespace(options.namespace);
            builder = match (user, password) {
                (None, None) => builder,
                (Some(user), Some(password)) => builder.auth(user, password),
                (Some(_), None) => {
                    return Err(BridgeError::argument("password", "a user without a password"));
                }
                (None, Some(_)) => return Err(BridgeError::argument("user", "a password without a user")),
            };
            if let Some(options) = options.tls {
                builder = builder.tls(tls(options)?);
            }
            for (what, timeout) in
                [("connect_timeout", options.connect_timeout), ("request_timeout", options.request_timeout)]
            {
                if timeout.is_some_and(|timeout| timeout.is_zero()) {
                    return Err(BridgeError::argument(what, format!("{what} is more than nothing")));
                }
            }
            if let Some(timeout) = options.connect_timeout {
                builder = builder.connect_timeout(timeout);
            }
            if let Some(timeout) = options.request_timeout {
                builder = builder.request_timeout(timeout);
            }
            if let Some(interval) = options.auto_sync {
                if interval < Duration::from_secs(1) {
                    let text = format!("auto_sync is one second at least, not {interval:?}");
                    return Err(BridgeError::argument("auto_sync", text));
                }
                builder = builder.auto_sync(interval);
            }
            let life = Arc::new(Life { pid: std::process::id(), stopped: AtomicBool::new(false) });
            Ok(Self::wrap(life, builder.connect_lazy()?))
        })
    }

    fn wrap(life: Arc<Life>, client: sdk::Client) -> Self {
        Self(Arc::new(Inner { life, client: ManuallyDrop::new(client) }))
    }

    pub(crate) fn sdk(&self) -> Result<&sdk::Client> {
        if self.0.life.stopped.load(Ordering::Acquire) {
            return Err(BridgeError::closed("the client"));
        }
        Ok(&self.0.client)
    }

    /// Waits for one answer of one member, to see early whether the options are right.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn verify(&self) -> Result<(), BridgeError> {
        let client = self.sdk()?;
        edge(async {
            client.verify().await?;
            Ok(())
        })
        .await
    }

    /// The same store, with this prefix in front of every key.
    pub fn namespace(&self, prefix: Bytes) -> Result<Self, BridgeError> {
        Ok(Self::wrap(self.0.life.clone(), self.sdk()?.namespace(prefix)))
    }

    /// The id of the cluster that answers; 0 before the first answer.
    pub fn cluster_id(&self) -> u64 {
        self.0.client.cluster_id()
    }

    /// The endpoints.
    pub fn endpoints(&self) -> Result<Vec<String>, BridgeError> {
        let client = self.sdk()?;
        at_once(|| Ok(client.endpoints()?))
    }

    /// Whether [`Client::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.0.life.stopped.load(Ordering::Acquire)
    }

    /// Ends the client, all its clones and namespaces: calls are refused, streams end. Sessions that are
    /// still open are left to their time. In a forked child the parent is not affected.
    pub fn stop(&self) {
        if !self.0.life.stopped.swap(true, Ordering::AcqRel) && self.0.life.pid == std::process::id() {
            self.0.client.close();
        }
    }

    /// How many watch streams are open.
    #[doc(hidden)]
    pub fn watch_stream_count(&self) -> usize {
        self.0.client.watch_stream_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_and_trust_in_anybody_exclude_each_other() {
        let skipping = || TlsOptions { skip_verify: true, ..TlsOptions::default() };
        assert!(tls(skipping()).is_ok());
        let both = TlsOptions { ca_file: Some("ca.pem".to_owned()), ..skipping() };
        let error = tls(both).expect_err("makes no sense");
        assert!(error.message.contains("skip_verify"), "{}", error.message);
    }
}
