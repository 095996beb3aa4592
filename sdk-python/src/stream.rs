//! Streams of the bridge, all behind one class.

use std::sync::Arc;

use folkmoot_bridge as bridge;
use pyo3::prelude::*;

use crate::convert::ToPy as _;
use crate::error::Raise as _;
use crate::pending::{Pending, start};

trait AnyStream: Send + Sync {
    fn ready(&self, py: Python<'_>) -> PyResult<Pending>;
    fn take(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>>;
    fn done(&self, py: Python<'_>) -> PyResult<bool>;
    fn stop(&self);
}

/// A stream: `ready()` waits and takes nothing, `take()` takes and does not wait.
#[pyclass(frozen, module = "folkmoot._native")]
pub(crate) struct Stream(Arc<dyn AnyStream>);

macro_rules! streams {
    ($($name:ident)*) => {$(
        impl AnyStream for bridge::$name {
            fn ready(&self, py: Python<'_>) -> PyResult<Pending> {
                let stream = self.clone();
                start(py, async move { stream.ready().await })
            }

            fn take(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
                Self::take(self).raise(py)?.map(|item| item.to_py(py)).transpose()
            }

            fn done(&self, py: Python<'_>) -> PyResult<bool> {
                Self::done(self).raise(py)
            }

            fn stop(&self) {
                Self::stop(self);
            }
        }

        impl From<bridge::$name> for Stream {
            fn from(stream: bridge::$name) -> Self {
                Self(Arc::new(stream))
            }
        }
    )*};
}

streams! { WatchStream StateStream LeaderStream RegistrationStream ServiceStream ConfigStream SnapshotStream }

#[pymethods]
impl Stream {
    fn ready(&self, py: Python<'_>) -> PyResult<Pending> {
        self.0.ready(py)
    }

    /// One item, or `None` if none is there yet.
    fn take(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.0.take(py)
    }

    fn done(&self, py: Python<'_>) -> PyResult<bool> {
        self.0.done(py)
    }

    fn stop(&self) {
        self.0.stop();
    }
}
