//! Services and their instances.

use std::collections::BTreeMap;
use std::sync::Arc;

use folkmoot_bridge as bridge;
use pyo3::prelude::*;

use crate::callback::Callback;
use crate::client::calls;
use crate::convert::{ToPy as _, bytes, duration, durations, health, named};
use crate::error::Raise as _;
use crate::pending::{Pending, start};
use crate::recipes::class;
use crate::stream::Stream;

class! { Registry Registration Balancer Pick }

/// A question how an instance is.
#[pyclass(frozen, module = "folkmoot._native")]
pub(crate) struct Probe(bridge::Probe);

impl Probe {
    pub fn new(probe: bridge::Probe) -> Self {
        Self(probe)
    }
}

#[pymethods]
impl Probe {
    fn answer(&self, status: &str) -> PyResult<()> {
        self.0.answer(health(status)?);
        Ok(())
    }
}

const CONFLICTS: [(&str, bridge::RegistrationConflict); 3] = [
    ("fail", bridge::RegistrationConflict::Fail),
    ("takeover", bridge::RegistrationConflict::Takeover),
    ("suffix", bridge::RegistrationConflict::Suffix),
];

const POLICIES: [(&str, bridge::BalancerPolicy); 4] = [
    ("round_robin", bridge::BalancerPolicy::RoundRobin),
    ("weighted_random", bridge::BalancerPolicy::WeightedRandom),
    ("p2c", bridge::BalancerPolicy::P2c),
    ("ring_hash", bridge::BalancerPolicy::RingHash),
];

calls! { Registry {
    resolve(service: String);
    subscribe(service: String);
} and {
    fn register(
        &self,
        py: Python<'_>,
        id: String,
        service: String,
        host: String,
        port: u16,
        ports: BTreeMap<String, u16>,
        weight: u32,
        status: &str,
        version: String,
        zone: String,
        attrs: BTreeMap<String, String>,
        ttl: Option<f64>,
        on_conflict: &str,
        check: Option<Py<PyAny>>,
    ) -> PyResult<Pending> {
        let instance = bridge::InstanceRecord {
            id,
            service,
            host,
            port,
            ports,
            weight,
            health: health(status)?,
            version,
            zone,
            attrs,
            ..bridge::InstanceRecord::default()
        };
        let conflict = named("on_conflict", on_conflict, &CONFLICTS)?;
        let options = bridge::RegisterOptions { ttl: durations(ttl)?, conflict };
        let check = check.map(|check| Arc::new(Callback(check)) as Arc<dyn bridge::HealthCheck>);
        let registry = self.0.clone();
        start(py, async move { registry.register(instance, options, check).await })
    }

    fn balancer(&self, py: Python<'_>, service: String, policy: &str) -> PyResult<Pending> {
        let (registry, policy) = (self.0.clone(), named("policy", policy, &POLICIES)?);
        start(py, async move { registry.balancer(service, policy).await })
    }
} }

calls! { Registration {
    drain(grace: f64 => duration(grace)?);
    deregister();
} and {
    fn id(&self, py: Python<'_>) -> PyResult<String> {
        self.0.id().raise(py)
    }

    fn set_health(&self, py: Python<'_>, status: &str) -> PyResult<()> {
        self.0.set_health(health(status)?).raise(py)
    }

    fn events(&self, py: Python<'_>) -> PyResult<Stream> {
        Ok(self.0.events().raise(py)?.into())
    }
} }

#[pymethods]
impl Balancer {
    fn pick(&self, py: Python<'_>, key: Option<&[u8]>) -> PyResult<Pick> {
        Ok(self.0.pick(key.map(bytes)).raise(py)?.into())
    }

    fn instances(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.instances().raise(py)?.to_py(py)
    }
}

#[pymethods]
impl Pick {
    fn instance(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.instance().raise(py)?.to_py(py)
    }

    fn finish(&self, py: Python<'_>, success: bool, latency: Option<f64>) -> PyResult<()> {
        self.0.finish(success, durations(latency)?).raise(py)
    }
}
