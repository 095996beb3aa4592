//! Services and their instances.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use folkmoot_client as sdk;
use folkmoot_client::recipes::registry as recipe;
use parking_lot::Mutex as Lock;
use tokio::sync::{oneshot, watch};

use crate::client::Client;
use crate::edge::{Mine, Result, at_once, edge, runtime};
use crate::error::BridgeError;
use crate::stream::{Cell, Source, stream};

/// How an instance is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthRecord {
    /// Not ready yet.
    Starting,
    /// Ready.
    #[default]
    Up,
    /// Works, but is used only if nothing better is there.
    Degraded,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Does not work.
    Down,
    /// Taken out by an operator.
    Maintenance,
}

impl From<recipe::Health> for HealthRecord {
    fn from(health: recipe::Health) -> Self {
        match health {
            recipe::Health::Starting => Self::Starting,
            recipe::Health::Up => Self::Up,
            recipe::Health::Degraded => Self::Degraded,
            recipe::Health::Draining => Self::Draining,
            recipe::Health::Down => Self::Down,
            recipe::Health::Maintenance => Self::Maintenance,
        }
    }
}

impl From<HealthRecord> for recipe::Health {
    fn from(health: HealthRecord) -> Self {
        match health {
            HealthRecord::Starting => Self::Starting,
            HealthRecord::Up => Self::Up,
            HealthRecord::Degraded => Self::Degraded,
            HealthRecord::Draining => Self::Draining,
            HealthRecord::Down => Self::Down,
            HealthRecord::Maintenance => Self::Maintenance,
        }
    }
}

/// An instance of a service. `namespace`, `incarnation` and `ttl` are ignored in a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceRecord {
    /// Its id within the service; made up if empty.
    pub id: String,
    /// The service.
    pub service: String,
    /// The namespace of the registry.
    pub namespace: String,
    /// Host or address.
    pub host: String,
    /// Port; 0 for none.
    pub port: u16,
    /// More ports by name.
    pub ports: BTreeMap<String, u16>,
    /// Its share of the work; 0 takes none. 100 is usual.
    pub weight: u32,
    /// How it is.
    pub health: HealthRecord,
    /// The version of its program.
    pub version: String,
    /// Where it runs.
    pub zone: String,
    /// Anything else.
    pub attrs: BTreeMap<String, String>,
    /// Tells one start of an instance from the next.
    pub incarnation: String,
    /// The time of its session, in seconds.
    pub ttl: u64,
    /// `host:port`; ignored in a registration.
    pub addr: String,
}

impl From<recipe::Instance> for InstanceRecord {
    fn from(instance: recipe::Instance) -> Self {
        Self {
            addr: instance.addr(),
            id: instance.id,
            service: instance.service,
            namespace: instance.namespace,
            host: instance.host,
            port: instance.port,
            ports: instance.ports,
            weight: instance.weight,
            health: instance.health.into(),
            version: instance.version,
            zone: instance.zone,
            attrs: instance.attrs,
            incarnation: instance.incarnation,
            ttl: instance.ttl,
        }
    }
}

impl From<InstanceRecord> for recipe::Instance {
    fn from(record: InstanceRecord) -> Self {
        let mut instance = Self::new(record.service, "")
            .id(record.id)
            .weight(record.weight)
            .zone(record.zone)
            .version(record.version)
            .health(record.health.into());
        instance.host = record.host;
        instance.port = record.port;
        instance.ports = record.ports;
        instance.attrs = record.attrs;
        instance
    }
}

fn records(instances: Vec<recipe::Instance>) -> Vec<InstanceRecord> {
    instances.into_iter().map(Into::into).collect()
}

/// What to do if somebody else is registered under the id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegistrationConflict {
    /// Refuse.
    #[default]
    Fail,
    /// Take its place.
    Takeover,
    /// Register under the id with something behind it.
    Suffix,
}

/// How to register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegisterOptions {
    /// How long it stays registered without contact to the store.
    pub ttl: Option<Duration>,
    /// What to do if somebody else is registered under the id.
    pub conflict: RegistrationConflict,
}

/// A question how an instance is. Dropping it counts as [`HealthRecord::Down`].
#[derive(Debug)]
pub struct Probe(Lock<Option<oneshot::Sender<HealthRecord>>>);

impl Probe {
    /// Answers. The first answer counts.
    pub fn answer(&self, health: HealthRecord) {
        if let Some(answer) = self.0.lock().take() {
            // Nobody waits any more if it took too long.
            let _ = answer.send(health);
        }
    }
}

/// Asked every five seconds how an instance is. Three bad answers in a row, or answers that take more than
/// three seconds, change it for the worse, two good ones for the better.
pub trait HealthCheck: Send + Sync + fmt::Debug {
    /// Answers, now or later. Called on a thread where it may block.
    fn check(&self, probe: Probe);
}

/// What happened to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationEventRecord {
    /// It was registered again, for the so-manieth time.
    Reregistered(u64),
    /// Somebody else has taken the id, and it is given up.
    Conflict,
}

#[derive(Debug)]
pub(crate) struct RegistrationEvents(recipe::RegistrationEvents);

impl Source for RegistrationEvents {
    type Item = RegistrationEventRecord;
    const QUICK: bool = true;

    async fn pull(&mut self) -> Option<Result<RegistrationEventRecord>> {
        Some(Ok(match self.0.next().await? {
            recipe::RegistrationEvent::Reregistered { epoch } => RegistrationEventRecord::Reregistered(epoch),
            recipe::RegistrationEvent::Conflict => RegistrationEventRecord::Conflict,
        }))
    }
}

stream! {
    /// What happens to a registration. What nobody takes is forgotten after 64.
    RegistrationStream(RegistrationEvents) -> RegistrationEventRecord
}

/// What changed among the instances of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceEventRecord {
    /// All instances; at first.
    Snapshot {
        /// The instances.
        instances: Vec<InstanceRecord>,
        /// As of when.
        revision: i64,
    },
    /// A change; one for each revision of the store.
    Delta {
        /// New ones.
        added: Vec<InstanceRecord>,
        /// Those that say something else about themselves.
        updated: Vec<InstanceRecord>,
        /// Those that are gone.
        removed: Vec<InstanceRecord>,
        /// As of when.
        revision: i64,
        /// The difference of two snapshots: what happened in between is not known.
        resync: bool,
    },
    /// The store is not heard; the last known instances still count.
    Stale,
    /// It is heard again.
    Fresh,
}

impl From<recipe::ServiceEvent> for ServiceEventRecord {
    fn from(event: recipe::ServiceEvent) -> Self {
        match event {
            recipe::ServiceEvent::Snapshot { instances, revision } => {
                Self::Snapshot { instances: records(instances), revision }
            }
            recipe::ServiceEvent::Delta { added, updated, removed, revision, resync } => Self::Delta {
                added: records(added),
                updated: records(updated),
                removed: records(removed),
                revision,
                resync,
            },
            recipe::ServiceEvent::Stale => Self::Stale,
            recipe::ServiceEvent::Fresh => Self::Fresh,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Services(recipe::Subscription);

impl Source for Services {
    type Item = ServiceEventRecord;
    // It may be about to read the store afresh.
    const QUICK: bool = false;

    async fn pull(&mut self) -> Option<Result<ServiceEventRecord>> {
        Some(self.0.next().await.map(Into::into).map_err(Into::into))
    }
}

stream! {
    /// All instances of a service at first, then each change.
    ServiceStream(Services) -> ServiceEventRecord
}

/// How to choose an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalancerPolicy {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// By chance, by weight.
    WeightedRandom,
    /// The less loaded of two taken by chance.
    P2c,
    /// By a key.
    RingHash,
}

/// The services of a namespace. As harmless as a client: a forked child may use it.
#[derive(Clone, Debug)]
pub struct Registry {
    client: Client,
    namespace: String,
    zone: String,
}

impl Client {
    /// The services of this namespace; `zone` says where this process runs, empty for nowhere.
    pub fn registry(&self, namespace: String, zone: String) -> Registry {
        Registry { client: self.clone(), namespace, zone }
    }
}

impl Registry {
    fn sdk(&self) -> Result<recipe::Registry> {
        Ok(self.client.sdk()?.registry(&self.namespace).zone(&self.zone))
    }

    /// Registers an instance, and keeps it registered; `check`, if given, is asked how it is.
    ///
    /// # Cancel safety
    /// If the future is dropped the instance is deregistered in the background.
    pub async fn register(
        &self,
        instance: InstanceRecord,
        options: RegisterOptions,
        check: Option<Arc<dyn HealthCheck>>,
    ) -> Result<Registration, BridgeError> {
        let registry = self.sdk()?;
        edge(async {
            let conflict = match options.conflict {
                RegistrationConflict::Fail => recipe::OnConflict::Fail,
                RegistrationConflict::Takeover => recipe::OnConflict::Takeover,
                RegistrationConflict::Suffix => recipe::OnConflict::Suffix,
            };
            let mut register = registry.register(instance.into()).on_conflict(conflict);
            if let Some(ttl) = options.ttl {
                register = register.ttl(ttl);
            }
            let registration = match check {
                Some(check) => register.health(move || ask(check.clone())).await?,
                None => register.open().await?,
            };
            Ok(Registration::new(registration))
        })
        .await
    }

    /// The instances of a service, now.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn resolve(&self, service: String) -> Result<Vec<InstanceRecord>, BridgeError> {
        let registry = self.sdk()?;
        edge(async { Ok(records(registry.resolve(&service).await?)) }).await
    }

    /// Follows the instances of a service.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn subscribe(&self, service: String) -> Result<ServiceStream, BridgeError> {
        let registry = self.sdk()?;
        edge(async { Ok(ServiceStream(Cell::new(Services(registry.subscribe(&service).await?)))) }).await
    }

    /// Picks instances of a service.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn balancer(&self, service: String, policy: BalancerPolicy) -> Result<Balancer, BridgeError> {
        let registry = self.sdk()?;
        edge(async {
            let policy = match policy {
                BalancerPolicy::RoundRobin => recipe::Policy::RoundRobin,
                BalancerPolicy::WeightedRandom => recipe::Policy::WeightedRandom,
                BalancerPolicy::P2c => recipe::Policy::P2c,
                BalancerPolicy::RingHash => recipe::Policy::RingHash,
            };
            Ok(Balancer(Arc::new(Mine::new(registry.balancer(&service, policy).await?))))
        })
        .await
    }
}

async fn ask(check: Arc<dyn HealthCheck>) -> recipe::Health {
    let (answer, answered) = oneshot::channel();
    let probe = Probe(Lock::new(Some(answer)));
    // Where it may wait for the lock of a language. A panic drops the probe.
    tokio::task::spawn_blocking(move || check.check(probe));
    answered.await.unwrap_or(HealthRecord::Down).into()
}

#[derive(Debug)]
struct Entry {
    id: String,
    registration: Lock<Option<Arc<recipe::Registration>>>,
    events: RegistrationStream,
    /// Whether it is being taken out: then nobody drains any more.
    over: watch::Sender<bool>,
}

/// An instance that is registered. It is deregistered when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Registration(Arc<Mine<Entry>>);

impl Registration {
    fn new(mut registration: recipe::Registration) -> Self {
        let events = RegistrationStream(Cell::new(RegistrationEvents(registration.events())));
        let id = registration.id().to_owned();
        let registration = Lock::new(Some(Arc::new(registration)));
        Self(Arc::new(Mine::new(Entry { id, registration, events, over: watch::Sender::new(false) })))
    }

    /// Its id within the service.
    pub fn id(&self) -> Result<String, BridgeError> {
        Ok(self.0.get()?.id.clone())
    }

    /// Says how it is.
    pub fn set_health(&self, health: HealthRecord) -> Result<(), BridgeError> {
        let entry = self.0.get()?;
        at_once(|| match &*entry.registration.lock() {
            Some(registration) => {
                registration.set_health(health.into());
                Ok(())
            }
            None => Err(BridgeError::closed("the registration")),
        })
    }

    /// What happens to it. Clones of this stream take from the same events.
    pub fn events(&self) -> Result<RegistrationStream, BridgeError> {
        Ok(self.0.get()?.events.clone())
    }

    /// Says that it takes nothing new, and waits so long that clients can notice, or until it is deregistered.
    ///
    /// # Cancel safety
    /// It stays draining if the future is dropped.
    pub async fn drain(&self, grace: Duration) -> Result<(), BridgeError> {
        let entry = self.0.get()?;
        let mut over = entry.over.subscribe();
        let registration = entry.registration.lock().clone();
        let Some(registration) = registration else { return Err(BridgeError::closed("the registration")) };
        edge(async {
            let drained = tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => Ok(()),
                drained = registration.drain(grace) => drained,
            };
            // Before whoever deregisters looks for the only one.
            drop(registration);
            Ok(drained?)
        })
        .await
    }

    /// Takes it out of the registry. Once it is out this does nothing.
    ///
    /// # Cancel safety
    /// It is taken out in the background if the future is dropped.
    pub async fn deregister(&self) -> Result<(), BridgeError> {
        let entry = self.0.get()?;
        entry.over.send_replace(true);
        let Some(mut registration) = entry.registration.lock().take() else { return Ok(()) };
        let leaving = async move {
            let alone = loop {
                match Arc::try_unwrap(registration) {
                    Ok(alone) => break alone,
                    // Somebody who drained has not yet let go; he has been told.
                    Err(shared) => registration = shared,
                }
                tokio::task::yield_now().await;
            };
            Ok(alone.deregister().await?)
        };
        // A caller that goes away does not stop it.
        let leaving = runtime()?.spawn(edge(leaving));
        edge(async {
            let ended = |error| {
                BridgeError::new(sdk::ErrorKind::Internal, format!("a deregistration ended: {error}"))
            };
            leaving.await.map_err(ended)?
        })
        .await
    }
}

/// Picks instances of a service. While the store is not heard it goes on with the last known ones.
#[derive(Clone, Debug)]
pub struct Balancer(Arc<Mine<recipe::Balancer>>);

impl Balancer {
    /// Picks an instance; `key` is for [`BalancerPolicy::RingHash`]. `NO_INSTANCES` if there is none.
    pub fn pick(&self, key: Option<Bytes>) -> Result<Pick, BridgeError> {
        let balancer = self.0.get()?;
        at_once(|| {
            let pick = match key {
                Some(key) => balancer.pick_for(key)?,
                None => balancer.pick()?,
            };
            let instance = pick.instance().clone().into();
            Ok(Pick(Arc::new(Mine::new(Picked {
                instance,
                pick: Lock::new(Some((pick, std::time::Instant::now()))),
            }))))
        })
    }

    /// The last known instances.
    pub fn instances(&self) -> Result<Vec<InstanceRecord>, BridgeError> {
        let balancer = self.0.get()?;
        at_once(|| Ok(records(balancer.instances())))
    }
}

#[derive(Debug)]
struct Picked {
    instance: InstanceRecord,
    pick: Lock<Option<(recipe::Pick, std::time::Instant)>>,
}

/// An instance that was picked for one call. Dropping the last clone counts as success.
#[derive(Clone, Debug)]
pub struct Pick(Arc<Mine<Picked>>);

impl Pick {
    /// The instance.
    pub fn instance(&self) -> Result<InstanceRecord, BridgeError> {
        Ok(self.0.get()?.instance.clone())
    }

    /// Says how the call went; the time it took is counted since the pick if it is not said. The first word
    /// counts.
    pub fn finish(&self, success: bool, latency: Option<Duration>) -> Result<(), BridgeError> {
        let picked = self.0.get()?;
        at_once(|| {
            if let Some((pick, since)) = picked.pick.lock().take() {
                let outcome = if success { recipe::Outcome::Success } else { recipe::Outcome::Failure };
                pick.done_with(outcome, latency.unwrap_or_else(|| since.elapsed()));
            }
            Ok(())
        })
    }
}
