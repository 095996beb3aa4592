//! Following the instances of a service, and picking among them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use parking_lot::Mutex;

use super::balance::{Engine, Outcome, Policy};
use super::instance::Instance;
use crate::backoff::Backoff;
use crate::clock::BootInstant;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::KeyValue;
use crate::view::{PrefixView, ViewEvent};

/// What changed among the instances of a service.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceEvent {
    /// All instances; at first.
    Snapshot {
        /// The instances.
        instances: Vec<Instance>,
        /// As of when.
        revision: i64,
    },
    /// A change; one for each revision of the store.
    Delta {
        /// New ones.
        added: Vec<Instance>,
        /// Those that say something else about themselves.
        updated: Vec<Instance>,
        /// Those that are gone.
        removed: Vec<Instance>,
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

/// Follows the instances of a service.
#[derive(Debug)]
pub struct Subscription {
    view: PrefixView,
    namespace: String,
    service: String,
    prefix: String,
    known: BTreeMap<String, Instance>,
    /// Values that are no instances.
    skipped: u64,
    ready: VecDeque<ServiceEvent>,
}

impl Subscription {
    pub(crate) fn new(view: PrefixView, namespace: &str, service: &str, prefix: String) -> Self {
        let mut subscription = Self {
            view,
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            prefix,
            known: BTreeMap::new(),
            skipped: 0,
            ready: VecDeque::new(),
        };
        let all: Vec<KeyValue> = subscription.view.values().cloned().collect();
        for kv in &all {
            if let Some(instance) = subscription.read(kv) {
                subscription.known.insert(instance.id.clone(), instance);
            }
        }
        let (instances, revision) = (subscription.instances(), subscription.view.revision());
        subscription.ready.push_back(ServiceEvent::Snapshot { instances, revision });
        subscription
    }

    fn id<'a>(&self, kv: &'a KeyValue) -> Option<&'a str> {
        std::str::from_utf8(&kv.key).ok()?.strip_prefix(&self.prefix)
    }

    fn read(&mut self, kv: &KeyValue) -> Option<Instance> {
        let id = self.id(kv)?;
        let instance = Instance::decode(&self.namespace, &self.service, id, &kv.value);
        self.skipped += u64::from(instance.is_none());
        instance
    }

    /// The last known instances.
    pub fn instances(&self) -> Vec<Instance> {
        self.known.values().cloned().collect()
    }

    /// How many values were skipped because they are no instances.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// As of when.
    pub fn revision(&self) -> i64 {
        self.view.revision()
    }

    /// A snapshot at first, then each change.
    ///
    /// # Cancel safety
    /// May be dropped and called again; nothing is lost.
    pub async fn next(&mut self) -> Result<ServiceEvent> {
        if let Some(event) = self.ready.pop_front() {
            return Ok(event);
        }
        loop {
            let change = match self.view.next().await? {
                ViewEvent::Change(change) => change,
                ViewEvent::Stale => return Ok(ServiceEvent::Stale),
                ViewEvent::Fresh => return Ok(ServiceEvent::Fresh),
                ViewEvent::Reset => continue,
            };
            let (mut added, mut updated, mut removed) = (Vec::new(), Vec::new(), Vec::new());
            for kv in &change.put {
                let Some(instance) = self.read(kv) else {
                    // What was an instance and is none any more is gone.
                    removed.extend(self.id(kv).and_then(|id| self.known.remove(id)));
                    continue;
                };
                match self.known.insert(instance.id.clone(), instance.clone()) {
                    None => added.push(instance),
                    Some(old) if old != instance => updated.push(instance),
                    Some(_) => {}
                }
            }
            for kv in &change.gone {
                removed.extend(self.id(kv).and_then(|id| self.known.remove(id)));
            }
            if added.is_empty() && updated.is_empty() && removed.is_empty() {
                continue;
            }
            let (revision, resync) = (change.revision, change.resync);
            return Ok(ServiceEvent::Delta { added, updated, removed, revision, resync });
        }
    }

    /// The same as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<ServiceEvent>> + Send + Unpin + use<> {
        crate::stream::endless(self, |subscription| Box::pin(subscription.next()))
    }
}

#[derive(Debug)]
struct Shared {
    service: String,
    engine: Mutex<Engine>,
    revision: std::sync::atomic::AtomicI64,
}

/// Picks instances of a service. Clones share what they have experienced.
///
/// While the store is not heard it goes on with the last known instances.
#[derive(Clone, Debug)]
pub struct Balancer {
    shared: Arc<Shared>,
    /// Ends the task that follows the service when the last clone is gone.
    _following: Arc<Following>,
}

#[derive(Debug)]
struct Following(tokio::task::AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Balancer {
    pub(crate) fn start(
        mut subscription: Subscription,
        policy: Policy,
        zone: String,
        handle: &tokio::runtime::Handle,
    ) -> Self {
        let shared = Arc::new(Shared {
            service: subscription.service.clone(),
            engine: Mutex::new(Engine::new(policy, zone)),
            revision: subscription.revision().into(),
        });
        shared.engine.lock().set(subscription.instances());
        let follower = shared.clone();
        let task = handle.spawn(async move {
            let mut backoff = Backoff::default();
            loop {
                match subscription.next().await {
                    Ok(event) => {
                        backoff.reset();
                        if let ServiceEvent::Delta { revision, .. } = event {
                            follower.engine.lock().set(subscription.instances());
                            follower.revision.store(revision, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::Closed | ErrorKind::Forked) => return,
                    // Whatever it is may be put right, a right that was taken away for instance; a balancer
                    // that stays with what it knows would send calls to the dead for ever.
                    Err(error) => {
                        tracing::warn!(%error, service = follower.service, "a service is not followed for now");
                        backoff.wait().await;
                    }
                }
            }
        });
        Self { shared, _following: Arc::new(Following(task.abort_handle())) }
    }

    /// Picks an instance.
    pub fn pick(&self) -> Result<Pick> {
        self.pick_for(b"")
    }

    /// Picks the instance for a key, with [`Policy::RingHash`].
    pub fn pick_for(&self, key: impl AsRef<[u8]>) -> Result<Pick> {
        let now = BootInstant::now();
        let picked = self.shared.engine.lock().pick(now, key.as_ref(), &mut rand::rng());
        match picked {
            Some(instance) => Ok(Pick { shared: self.shared.clone(), instance, begun: now, done: false }),
            None => {
                let revision = self.shared.revision.load(std::sync::atomic::Ordering::Relaxed);
                let text = format!(
                    "no instance is there service={:?} last_seen_revision={revision}",
                    self.shared.service
                );
                Err(Error::new(ErrorKind::NoInstances, text))
            }
        }
    }

    /// The last known instances.
    pub fn instances(&self) -> Vec<Instance> {
        self.shared.engine.lock().instances()
    }
}

/// An instance that was picked for one call. Dropping it counts as success.
#[derive(Debug)]
pub struct Pick {
    shared: Arc<Shared>,
    instance: Instance,
    begun: BootInstant,
    done: bool,
}

impl Pick {
    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Its `host:port`.
    pub fn addr(&self) -> String {
        self.instance.addr()
    }

    /// Says how the call went, by its result.
    pub fn done<T, E>(self, result: &Result<T, E>) {
        let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Failure };
        let latency = BootInstant::now().since(self.begun);
        self.done_with(outcome, latency);
    }

    /// Says how the call went and how long it took.
    pub fn done_with(mut self, outcome: Outcome, latency: Duration) {
        self.finish(outcome, latency);
    }

    fn finish(&mut self, outcome: Outcome, latency: Duration) {
        if !std::mem::replace(&mut self.done, true) {
            self.shared.engine.lock().done(&self.instance, outcome, latency, BootInstant::now());
        }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        let latency = BootInstant::now().since(self.begun);
        self.finish(Outcome::Success, latency);
    }
}
