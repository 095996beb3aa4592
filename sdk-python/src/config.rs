//! Typed configuration: what the type is, Python says.

use std::sync::Arc;

use folkmoot_bridge as bridge;
use pyo3::prelude::*;

use crate::callback::Callback;
use crate::client::calls;
use crate::convert::{ToPy as _, durations};
use crate::error::Raise as _;
use crate::pending::{Pending, start};
use crate::recipes::class;
use crate::stream::Stream;

class! { Config ConfigReader }

/// A configuration that may be taken.
#[pyclass(frozen, module = "folkmoot._native")]
pub(crate) struct Candidate(bridge::Candidate);

impl Candidate {
    pub fn new(candidate: bridge::Candidate) -> Self {
        Self(candidate)
    }
}

#[pymethods]
impl Candidate {
    /// Its value as the text of a JSON object.
    fn json(&self) -> String {
        self.0.document().json.to_string()
    }

    /// What was made of the one that it would replace, or `None`.
    fn old(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.old().to_py(py)
    }

    /// Takes it, as this object.
    fn accept(&self, object: Py<PyAny>) {
        self.0.accept(Some(Arc::new(object)));
    }

    /// It does not fit the type: `InvalidConfig`.
    fn misfit(&self, why: String) {
        self.0.misfit(why);
    }

    /// Refuses it: `Rejected`.
    fn reject(&self, why: String) {
        self.0.reject(why);
    }
}

calls! { Config {
    get(path: String);
    items();
} and {
    fn publish(
        &self,
        py: Python<'_>,
        items: Vec<(String, Option<Vec<u8>>)>,
        based_on: Option<i64>,
    ) -> PyResult<Pending> {
        let item = |(path, value): (String, Option<Vec<u8>>)| bridge::ConfigItem {
            path,
            value: value.map(Into::into),
        };
        let items = items.into_iter().map(item).collect();
        let config = self.0.clone();
        start(py, async move { config.publish(items, based_on).await })
    }

    fn open(
        &self,
        py: Python<'_>,
        check: Py<PyAny>,
        extends: Vec<String>,
        cache_dir: Option<String>,
        initial_timeout: Option<f64>,
        debounce: Option<f64>,
    ) -> PyResult<Pending> {
        let options = bridge::ConfigOptions {
            extends,
            cache_dir,
            initial_timeout: durations(initial_timeout)?,
            debounce: durations(debounce)?,
        };
        let config = self.0.clone();
        start(py, async move { config.open(options, Some(Arc::new(Callback(check)))).await })
    }
} }

#[pymethods]
impl ConfigReader {
    fn current(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.current().raise(py)?.to_py(py)
    }

    /// What is current, as of when, and where it comes from.
    fn state(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.state().raise(py)?.to_py(py)
    }

    fn watch(&self, py: Python<'_>) -> PyResult<Stream> {
        Ok(self.0.watch().raise(py)?.into())
    }

    fn stop(&self) {
        self.0.stop();
    }
}
