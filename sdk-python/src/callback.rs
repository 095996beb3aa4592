//! Code of the user's that the bridge asks.

use std::fmt;

use folkmoot_bridge as bridge;
use pyo3::prelude::*;

use crate::config::Candidate;
use crate::exit::Visit;
use crate::registry::Probe;

/// A callable that answers a question, itself or by somebody later.
pub(crate) struct Callback(pub Py<PyAny>);

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

impl Callback {
    /// Calls it with the question. A question that cannot be put is dropped, which is an answer too.
    fn ask<Q: pyo3::PyClass + Into<PyClassInitializer<Q>>>(&self, question: Q) {
        let Some(_visit) = Visit::begin() else { return };
        Python::try_attach(|py| {
            let asked = Bound::new(py, question).and_then(|question| self.0.bind(py).call1((question,)));
            if let Err(error) = asked {
                // The wrapper in Python answers for whatever the user's code raises.
                error.write_unraisable(py, Some(self.0.bind(py)));
            }
        });
    }
}

impl bridge::ConfigCheck for Callback {
    fn check(&self, candidate: bridge::Candidate) {
        self.ask(Candidate::new(candidate));
    }
}

impl bridge::HealthCheck for Callback {
    fn check(&self, probe: bridge::Probe) {
        self.ask(Probe::new(probe));
    }
}
