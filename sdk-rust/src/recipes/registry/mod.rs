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

    /// Says how an instance is, whoever registered it: an operator takes it out of the balancing with
    /// [`Health::Draining`] or [`Health::Maintenance`], and lets it in again with [`Health::Up`].
    ///
    /// The process that registered it hears of it and keeps it so, over a lost session too, until it says
    /// something else itself; its own health check does not end a draining or a maintenance.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if it is not registered,
    /// [`FailedPrecondition`](crate::ErrorKind::FailedPrecondition) if somebody else's software wrote the
    /// record and it has no place for a health,
    /// [`Conflict`](crate::ErrorKind::Conflict) if the record changes all the time.
    ///
    /// # Cancel safety
    /// If the future is dropped it may have been said or not.
    pub async fn set_health(&self, service: &str, id: &str, health: Health) -> Result<()> {
        if id.is_empty() || id.contains('/') {
            return Err(Error::invalid(format!("an id is a text without slashes id={id:?}")));
        }
        let key = format!("{}{id}", self.prefix(service)?);
        for _ in 0..16 {
            let answer = self.client.get(Get::new(&key)).await?;
            let Some(kv) = answer.first() else {
                let text = format!("there is no such instance service={service:?} id={id:?}");
                return Err(Error::new(ErrorKind::NotFound, text));
            };
            let Some(record) = Instance::with_health(&kv.value, health) else {
                let text = format!("the record has no place for a health key={key:?}");
                return Err(Error::new(ErrorKind::FailedPrecondition, text));
            };
            if Instance::decode(&self.namespace, service, id, &kv.value)
                .is_some_and(|known| known.health == health)
            {
                return Ok(());
            }
            let same = Compare::mod_revision(key.clone(), Is::Equal, kv.mod_revision);
            let put = Put::new(&key, record).keep_lease();
            if self.client.commit_idempotent(Txn::new().when(same).and_then(put)).await?.succeeded {
                return Ok(());
            }
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
