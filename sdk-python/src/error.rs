//! From the bridge's error to the exceptions of the package.

use folkmoot_bridge::BridgeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The exception for an error. The classes are written in Python.
pub(crate) fn exception<'py>(py: Python<'py>, error: BridgeError) -> PyResult<Bound<'py, PyAny>> {
    static FACTORY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let factory = FACTORY.get_or_try_init(py, || {
        PyResult::Ok(py.import("folkmoot._errors")?.getattr("from_native")?.unbind())
    })?;
    let BridgeError { code, message, retryable, maybe_applied, endpoint, details } = error;
    factory.bind(py).call1((code, message, retryable, maybe_applied, endpoint, details))
}

/// The same, to be raised.
pub(crate) fn raised(py: Python<'_>, error: BridgeError) -> PyErr {
    match exception(py, error) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// Raises what went wrong.
pub(crate) trait Raise<T> {
    fn raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> Raise<T> for Result<T, BridgeError> {
    fn raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| raised(py, error))
    }
}
