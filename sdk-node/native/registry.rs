//! The registry.

use std::collections::HashMap;

use folkmoot_bridge as bridge;
use napi::bindgen_prelude::*;
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;

use super::call::{Table, Weak, bytes, call, fail, maybe_millis, millis, weak};
use super::client::Client;
use super::stream::stream;

fn health_name(health: bridge::HealthRecord) -> &'static str {
    match health {
        bridge::HealthRecord::Starting => "starting",
        bridge::HealthRecord::Up => "up",
        bridge::HealthRecord::Degraded => "degraded",
        bridge::HealthRecord::Draining => "draining",
        bridge::HealthRecord::Down => "down",
        bridge::HealthRecord::Maintenance => "maintenance",
    }
}

fn health_named(name: &str) -> Result<bridge::HealthRecord> {
    Ok(match name {
        "starting" => bridge::HealthRecord::Starting,
        "up" => bridge::HealthRecord::Up,
        "degraded" => bridge::HealthRecord::Degraded,
        "draining" => bridge::HealthRecord::Draining,
        "down" => bridge::HealthRecord::Down,
        "maintenance" => bridge::HealthRecord::Maintenance,
        other => return Err(Error::new(Status::InvalidArg, format!("unknown health: {other}"))),
    })
}

#[napi(object)]
pub struct Instance {
    pub id: String,
    pub service: String,
    pub namespace: String,
    pub host: String,
    pub port: u16,
    pub ports: HashMap<String, u16>,
    pub weight: u32,
    pub health: String,
    pub version: String,
    pub zone: String,
    pub attrs: HashMap<String, String>,
    pub incarnation: String,
    /// Seconds.
    pub ttl: f64,
    pub addr: String,
}

impl From<bridge::InstanceRecord> for Instance {
    fn from(one: bridge::InstanceRecord) -> Self {
        Self {
            id: one.id,
            service: one.service,
            namespace: one.namespace,
            host: one.host,
            port: one.port,
            ports: one.ports.into_iter().collect(),
            weight: one.weight,
            health: health_name(one.health).to_owned(),
            version: one.version,
            zone: one.zone,
            attrs: one.attrs.into_iter().collect(),
            incarnation: one.incarnation,
            ttl: one.ttl as f64,
            addr: one.addr,
        }
    }
}

fn instances(found: Vec<bridge::InstanceRecord>) -> Vec<Instance> {
    found.into_iter().map(Into::into).collect()
}

#[napi(object)]
pub struct RegisterIn {
    pub service: String,
    pub id: String,
    pub host: String,
    pub port: u16,
    pub ports: HashMap<String, u16>,
    pub weight: u32,
    pub health: String,
    pub version: String,
    pub zone: String,
    pub attrs: HashMap<String, String>,
    pub ttl_ms: Option<f64>,
    /// `fail`, `takeover` or `suffix`.
    pub conflict: String,
}

#[napi(object, object_from_js = false)]
pub struct ServiceEvent {
    /// `snapshot`, `delta`, `stale` or `fresh`.
    pub kind: &'static str,
    pub instances: Vec<Instance>,
    pub added: Vec<Instance>,
    pub updated: Vec<Instance>,
    pub removed: Vec<Instance>,
    pub revision: BigInt,
    pub resync: bool,
}

impl From<bridge::ServiceEventRecord> for ServiceEvent {
    fn from(event: bridge::ServiceEventRecord) -> Self {
        let mut out = Self {
            kind: "stale",
            instances: vec![],
            added: vec![],
            updated: vec![],
            removed: vec![],
            revision: 0i64.into(),
            resync: false,
        };
        match event {
            bridge::ServiceEventRecord::Snapshot { instances: found, revision } => {
                out.kind = "snapshot";
                out.instances = instances(found);
                out.revision = revision.into();
            }
            bridge::ServiceEventRecord::Delta { added, updated, removed, revision, resync } => {
                out.kind = "delta";
                out.added = instances(added);
                out.updated = instances(updated);
                out.removed = instances(removed);
                out.revision = revision.into();
                out.resync = resync;
            }
            bridge::ServiceEventRecord::Stale => {}
            bridge::ServiceEventRecord::Fresh => out.kind = "fresh",
        }
        out
    }
}

stream!(ServiceStream(ServiceStream) -> ServiceEvent, ServiceEvent::from);

#[napi(object, object_from_js = false)]
pub struct RegistrationEvent {
    /// `reregistered` or `conflict`.
    pub kind: &'static str,
    /// How often it was registered again.
    pub epoch: f64,
}

impl From<bridge::RegistrationEventRecord> for RegistrationEvent {
    fn from(event: bridge::RegistrationEventRecord) -> Self {
        match event {
            bridge::RegistrationEventRecord::Reregistered(epoch) => {
                Self { kind: "reregistered", epoch: epoch as f64 }
            }
            bridge::RegistrationEventRecord::Conflict => Self { kind: "conflict", epoch: 0.0 },
        }
    }
}

stream!(RegistrationStream(RegistrationStream) -> RegistrationEvent, RegistrationEvent::from);

static PROBES: Table<bridge::Probe> = Table::new();

/// Answers a question how an instance is; an answer to an old one does nothing.
#[napi]
pub fn answer_probe(number: u32, health: String) -> Result<()> {
    let health = health_named(&health)?;
    if let Some(probe) = PROBES.take(number) {
        probe.answer(health);
    }
    Ok(())
}

struct Check(Weak<u32>);

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Check")
    }
}

impl bridge::HealthCheck for Check {
    fn check(&self, probe: bridge::Probe) {
        let number = PROBES.put(probe);
        if self.0.call(number, ThreadsafeFunctionCallMode::NonBlocking) != Status::Ok {
            PROBES.take(number);
        }
    }
}

#[napi]
pub struct Registry(bridge::Registry);

#[napi]
impl Client {
    #[napi]
    pub fn registry(&self, namespace: String, zone: String) -> Registry {
        Registry(self.0.registry(namespace, zone))
    }
}

#[napi]
impl Registry {
    #[napi]
    pub fn register<'e>(
        &self,
        env: &'e Env,
        register: RegisterIn,
        check: Option<Function<u32, ()>>,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Registration>> {
        let conflict = match register.conflict.as_str() {
            "fail" => bridge::RegistrationConflict::Fail,
            "takeover" => bridge::RegistrationConflict::Takeover,
            "suffix" => bridge::RegistrationConflict::Suffix,
            other => return Err(Error::new(Status::InvalidArg, format!("unknown conflict: {other}"))),
        };
        let options = bridge::RegisterOptions { ttl: maybe_millis(register.ttl_ms)?, conflict };
        let instance = bridge::InstanceRecord {
            id: register.id,
            service: register.service,
            host: register.host,
            port: register.port,
            ports: register.ports.into_iter().collect(),
            weight: register.weight,
            health: health_named(&register.health)?,
            version: register.version,
            zone: register.zone,
            attrs: register.attrs.into_iter().collect(),
            ..Default::default()
        };
        let check = match check {
            Some(check) => {
                Some(std::sync::Arc::new(Check(weak(&check)?)) as std::sync::Arc<dyn bridge::HealthCheck>)
            }
            None => None,
        };
        let registry = self.0.clone();
        call(env, cancel, async move { registry.register(instance, options, check).await }, Registration)
    }

    #[napi]
    pub fn resolve<'e>(
        &self,
        env: &'e Env,
        service: String,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Vec<Instance>>> {
        let registry = self.0.clone();
        call(env, cancel, async move { registry.resolve(service).await }, instances)
    }

    #[napi]
    pub fn subscribe<'e>(
        &self,
        env: &'e Env,
        service: String,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, ServiceStream>> {
        let registry = self.0.clone();
        call(env, cancel, async move { registry.subscribe(service).await }, ServiceStream)
    }

    #[napi]
    pub fn balancer<'e>(
        &self,
        env: &'e Env,
        service: String,
        policy: String,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Balancer>> {
        let policy = match policy.as_str() {
            "round-robin" => bridge::BalancerPolicy::RoundRobin,
            "weighted-random" => bridge::BalancerPolicy::WeightedRandom,
            "p2c" => bridge::BalancerPolicy::P2c,
            "ring-hash" => bridge::BalancerPolicy::RingHash,
            other => return Err(Error::new(Status::InvalidArg, format!("unknown policy: {other}"))),
        };
        let registry = self.0.clone();
        call(env, cancel, async move { registry.balancer(service, policy).await }, Balancer)
    }
}

#[napi]
pub struct Registration(bridge::Registration);

#[napi]
impl Registration {
    #[napi]
    pub fn id(&self) -> Result<String> {
        self.0.id().map_err(fail)
    }

    #[napi]
    pub fn set_health(&self, health: String) -> Result<()> {
        self.0.set_health(health_named(&health)?).map_err(fail)
    }

    #[napi]
    pub fn events(&self) -> Result<RegistrationStream> {
        Ok(RegistrationStream(self.0.events().map_err(fail)?))
    }

    #[napi]
    pub fn drain<'e>(&self, env: &'e Env, grace_ms: f64, cancel: Option<u32>) -> Result<PromiseRaw<'e, ()>> {
        let (registration, grace) = (self.0.clone(), millis(grace_ms)?);
        call(env, cancel, async move { registration.drain(grace).await }, |()| ())
    }

    #[napi]
    pub fn deregister<'e>(&self, env: &'e Env) -> Result<PromiseRaw<'e, ()>> {
        let registration = self.0.clone();
        call(env, None, async move { registration.deregister().await }, |()| ())
    }
}

#[napi]
pub struct Balancer(bridge::Balancer);

#[napi]
impl Balancer {
    #[napi]
    pub fn pick(&self, key: Option<Buffer>) -> Result<Pick> {
        Ok(Pick(self.0.pick(key.as_ref().map(bytes)).map_err(fail)?))
    }

    #[napi]
    pub fn instances(&self) -> Result<Vec<Instance>> {
        Ok(instances(self.0.instances().map_err(fail)?))
    }
}

#[napi]
pub struct Pick(bridge::Pick);

#[napi]
impl Pick {
    #[napi]
    pub fn instance(&self) -> Result<Instance> {
        Ok(self.0.instance().map_err(fail)?.into())
    }

    #[napi]
    pub fn finish(&self, success: bool, latency_ms: Option<f64>) -> Result<()> {
        self.0.finish(success, maybe_millis(latency_ms)?).map_err(fail)
    }
}
