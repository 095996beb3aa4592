//! The client, and what operators ask of it.

use folkmoot_bridge as bridge;
use pyo3::prelude::*;

use crate::config::Config;
use crate::convert::{Get, Keys, Txn, bytes, duration, durations};
use crate::error::Raise as _;
use crate::pending::{Pending, start};
use crate::registry::Registry;

/// CA, certificate and key, each as a file or as a text, the server's name, and whether nothing is verified.
type TlsTuple = (
    Option<String>,
    Option<Vec<u8>>,
    Option<String>,
    Option<Vec<u8>>,
    Option<String>,
    Option<Vec<u8>>,
    Option<String>,
    bool,
);

#[pyclass(frozen, module = "folkmoot._native")]
pub(crate) struct Client(bridge::Client);

/// Methods that pass their arguments on and begin a call.
macro_rules! calls {
    ($class:ident {
        $($name:ident($($arg:ident: $type:ty $(=> $pass:expr)?),*);)*
    } $(and { $($rest:tt)* })?) => {
        #[pymethods]
        impl $class {
            $($($rest)*)?
            $(fn $name(&self, py: Python<'_>, $($arg: $type),*) -> PyResult<Pending> {
                let handle = self.0.clone();
                $($(let $arg = $pass;)?)*
                start(py, async move { handle.$name($($arg),*).await })
            })*
        }
    };
}
pub(crate) use calls;

calls! { Client {
    verify();
    compact(revision: i64, physical: bool);
    leader(name: String);
    observe(name: String);
    lease_grant(ttl: f64 => duration(ttl)?, id: Option<i64>);
    lease_revoke(id: i64);
    lease_ttl(id: i64, keys: bool);
    lease_renew(id: i64);
    leases();
    members();
    member_add(peer_urls: Vec<String>, learner: bool);
    member_remove(id: u64);
    member_update(id: u64, peer_urls: Vec<String>);
    member_promote(id: u64);
    status(endpoint: String);
    alarms();
    defragment(endpoint: String);
    hash_kv(endpoint: String, revision: i64);
    move_leader(endpoint: String, target: u64);
    snapshot(endpoint: String);
} and {
    #[new]
    fn new(
        py: Python<'_>,
        endpoints: Vec<String>,
        user: Option<String>,
        password: Option<String>,
        tls: Option<TlsTuple>,
        namespace: &[u8],
        connect_timeout: Option<f64>,
        request_timeout: Option<f64>,
        auto_sync: Option<f64>,
    ) -> PyResult<Self> {
        let tls = tls.map(|tls| {
            let (ca_file, ca_pem, cert_file, cert_pem, key_file, key_pem, server_name, skip_verify) = tls;
            bridge::TlsOptions {
                ca_file,
                ca_pem: ca_pem.map(Into::into),
                cert_file,
                cert_pem: cert_pem.map(Into::into),
                key_file,
                key_pem: key_pem.map(Into::into),
                server_name,
                skip_verify,
            }
        });
        let options = bridge::ConnectOptions {
            endpoints,
            user,
            password,
            tls,
            namespace: bytes(namespace),
            connect_timeout: durations(connect_timeout)?,
            request_timeout: durations(request_timeout)?,
            auto_sync: durations(auto_sync)?,
        };
        Ok(Self(bridge::Client::create(options).raise(py)?))
    }

    fn namespace(&self, py: Python<'_>, prefix: &[u8]) -> PyResult<Self> {
        Ok(Self(self.0.namespace(bytes(prefix)).raise(py)?))
    }

    fn cluster_id(&self) -> u64 {
        self.0.cluster_id()
    }

    fn endpoints(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.0.endpoints().raise(py)
    }

    fn stop(&self) {
        self.0.stop();
    }

    fn is_stopped(&self) -> bool {
        self.0.is_stopped()
    }

    fn watch_stream_count(&self) -> usize {
        self.0.watch_stream_count()
    }

    fn get(&self, py: Python<'_>, get: Get) -> PyResult<Pending> {
        let client = self.0.clone();
        start(py, async move { client.get(get.0).await })
    }

    fn put(
        &self,
        py: Python<'_>,
        key: &[u8],
        value: &[u8],
        lease: i64,
        prev: bool,
        keep_value: bool,
        keep_lease: bool,
    ) -> PyResult<Pending> {
        let put =
            bridge::PutRecord { key: bytes(key), value: bytes(value), lease, prev, keep_value, keep_lease };
        let client = self.0.clone();
        start(py, async move { client.put(put).await })
    }

    fn delete(&self, py: Python<'_>, keys: Keys, prev: bool) -> PyResult<Pending> {
        let client = self.0.clone();
        start(py, async move { client.delete(bridge::DeleteRecord { keys: keys.0, prev }).await })
    }

    fn commit(&self, py: Python<'_>, txn: Txn) -> PyResult<Pending> {
        let client = self.0.clone();
        start(py, async move { client.commit(txn.0).await })
    }

    fn watch(
        &self,
        py: Python<'_>,
        keys: Keys,
        from_revision: Option<i64>,
        prev: bool,
        no_puts: bool,
        no_deletes: bool,
        progress: bool,
        fail_when_full: bool,
        buffer: Option<(usize, usize)>,
    ) -> PyResult<Pending> {
        let options = bridge::WatchOptions {
            keys: keys.0,
            from_revision,
            prev,
            no_puts,
            no_deletes,
            progress,
            fail_when_full,
            buffer,
        };
        let client = self.0.clone();
        start(py, async move { client.watch(options).await })
    }

    fn session(&self, py: Python<'_>, ttl: Option<f64>, allow_short_ttl: bool) -> PyResult<Pending> {
        let options = bridge::SessionOptions { ttl: durations(ttl)?, allow_short_ttl };
        let client = self.0.clone();
        start(py, async move { client.session(options).await })
    }

    fn alarm_disarm(&self, py: Python<'_>, member_id: u64, is_corrupt: bool) -> PyResult<Pending> {
        let client = self.0.clone();
        start(py, async move { client.alarm_disarm(bridge::AlarmRecord { member_id, is_corrupt }).await })
    }

    fn registry(&self, namespace: String, zone: String) -> Registry {
        self.0.registry(namespace, zone).into()
    }

    fn config(&self, namespace: String) -> Config {
        self.0.config(namespace).into()
    }

    fn auth(&self) -> Auth {
        Auth(self.0.auth())
    }
} }

#[pyclass(frozen, module = "folkmoot._native")]
pub(crate) struct Auth(bridge::Auth);

calls! { Auth {
    enable();
    disable();
    is_enabled();
    user_add(name: String, password: Option<String>);
    user_delete(name: String);
    user_change_password(name: String, password: String);
    user_roles(name: String);
    users();
    user_grant_role(user: String, role: String);
    user_revoke_role(user: String, role: String);
    role_add(name: String);
    role_delete(role: String);
    roles();
    role_grant(role: String, keys: Keys => keys.0, read: bool, write: bool);
    role_revoke(role: String, keys: Keys => keys.0);
    role_permissions(role: String);
} }
