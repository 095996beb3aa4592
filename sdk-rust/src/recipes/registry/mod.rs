//! Services that find each other, and balance their calls by themselves.
//!
//! # What it guarantees
//! - A registration stays for as long as the process lives and wants it: a lost session, a restart
//!   or a partition of the store are made good without a line of code.
//! - A process that dies disappears after its session's time; one that drains disappears without a
//!   failed call.
//! - Subscribers see every change of the store once and in order, and after a gap the difference.
//! - When the store cannot be reached, clients go on with the instances they know.
//!
//! # What it does not
//! An instance that is registered need not answer: between its death and the end of its session it
//! is still there. Say how calls went ([`Pick::done`]), and it is left out after a few failures.
//!
//! The key is `services/<namespace>/<service>/<id>`; the value is read and written by etcd's naming
//! package and its gRPC resolvers too.

mod balance;
mod instance;
mod registration;
mod subscribe;

pub use balance::{Outcome, Policy};
#[cfg(feature = "config")]
pub(crate) use instance::unique;
pub use instance::{Health, Instance};
pub use registration::{OnConflict, RegisterBuilder, Registration, RegistrationEvent, RegistrationEvents};
pub use subscribe::{Balancer, Pick, ServiceEvent, Subscription};

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Compare, Get, Is, Put, Txn};
use crate::view::PrefixView;

/// The services of a namespace.
#[derive(Clone, Debug)]
pub struct Registry {
    client: Client,
    namespace: String,
    zone: String,
}

impl Client {
    /// The services of this namespace.
    pub fn registry(&self, namespace: impl Into<String>) -> Registry {
        Registry { client: self.clone(), namespace: namespace.into(), zone: String::new() }
    }
}

impl Registry {
    /// Where this process runs: balancers prefer instances of the same zone.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    fn prefix(&self, service: &str) -> Result<String> {
        for (what, text) in [("namespace", self.namespace.as_str()), ("service", service)] {
            if text.is_empty() || text.contains('/') {
                return Err(Error::invalid(format!("a {what} is a text without slashes {what}={text:?}")));
            }
        }
        Ok(format!("services/{}/{service}/", self.namespace))
    }

    /// Prepares to register an instance.
    pub fn register(&self, instance: Instance) -> RegisterBuilder {
        RegisterBuilder::new(self.clone(), instance)
    }

    /// The instances of a service, now.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn resolve(&self, service: &str) -> Result<Vec<Instance>> {
        let prefix = self.prefix(service)?;
        let answer = self.client.get(Get::prefix(&prefix)).await?;
        let read = |kv: &crate::kv::KeyValue| {
            let id = std::str::from_utf8(&kv.key).ok()?.strip_prefix(&prefix)?;
            Instance::decode(&self.namespace, service, id, &kv.value)
        };
        Ok(answer.kvs.iter().filter_map(read).collect())
    }

    /// Changes how an instance says it is, also one of another process: an operator drains it, or
    /// takes it out for maintenance. Its session, and everything else in its record, stay.
    ///
    /// The process that registered it goes on as before: when it puts its record again — because its
    /// own health changes, or its session was lost — that is what counts.
    ///
    /// # Errors
    /// `NotFound` if no such instance is registered, `InvalidArgument` if its record cannot be read or changed,
    /// `Conflict` if the record changes again and again meanwhile.
    ///
    /// # Cancel safety
    /// It may have been changed if the future is dropped.
    pub async fn set_health(&self, service: &str, id: &str, health: Health) -> Result<()> {
        const TRIES_MAX: usize = 16;
        let prefix = self.prefix(service)?;
        if id.is_empty() || id.contains('/') {
            return Err(Error::invalid(format!("an instance's id is a text without slashes id={id:?}")));
        }
        let key = format!("{prefix}{id}");
        let mut known = self.client.get(Get::new(&key)).await?.kvs.into_iter().next();
        for _ in 0..TRIES_MAX {
            let Some(kv) = known else {
                let text = format!("no such instance is registered; look at the service's list key={key:?}");
                return Err(Error::new(ErrorKind::NotFound, text));
            };
            let read = |value: &[u8]| Instance::decode(&self.namespace, service, id, value);
            if read(&kv.value).is_some_and(|instance| instance.health == health) {
                return Ok(());
            }
            let changed = Instance::with_health(&kv.value, health)
                .filter(|value| read(value).is_some_and(|instance| instance.health == health));
            let Some(value) = changed else {
                let text = format!("the record is none that could say how the instance is key={key:?}");
                return Err(Error::invalid(text));
            };
            // Under the lease of its session, so that its owner takes it for its own record.
            let put = Put::new(&key, value).lease(kv.lease);
            let same = Compare::mod_revision(key.clone(), Is::Equal, kv.mod_revision);
            let txn = Txn::new().when(same).and_then(put).or_else(Get::new(&key));
            let answer = self.client.commit_idempotent(txn).await?;
            if answer.succeeded {
                return Ok(());
            }
            known = answer.get(0).and_then(|get| get.first()).cloned();
        }
        Err(Error::new(ErrorKind::Conflict, format!("the record changed again and again key={key:?}")))
    }

    /// Follows the instances of a service.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn subscribe(&self, service: &str) -> Result<Subscription> {
        let prefix = self.prefix(service)?;
        let view = PrefixView::open(&self.client, prefix.clone()).await?;
        Ok(Subscription::new(view, &self.namespace, service, prefix))
    }

    /// Picks instances of a service.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn balancer(&self, service: &str, policy: Policy) -> Result<Balancer> {
        let subscription = self.subscribe(service).await?;
        let core = self.client.core()?;
        Ok(Balancer::start(subscription, policy, self.zone.clone(), &core.handle))
    }
}
