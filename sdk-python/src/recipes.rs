//! Sessions, locks and elections.

use folkmoot_bridge as bridge;
use pyo3::prelude::*;

use crate::client::calls;
use crate::convert::{ToPy as _, Txn, bytes, duration, durations};
use crate::error::Raise as _;
use crate::pending::{Pending, start};
use crate::stream::Stream;

/// A class over a handle.
macro_rules! class {
    ($($name:ident)*) => {$(
        #[pyclass(frozen, module = "folkmoot._native")]
        pub(crate) struct $name(bridge::$name);

        impl From<bridge::$name> for $name {
            fn from(handle: bridge::$name) -> Self {
                Self(handle)
            }
        }
    )*};
}
pub(crate) use class;

class! { Session Mutex Guard Election Leadership }

calls! { Session {
    lost();
    end();
} and {
    fn lease(&self, py: Python<'_>) -> PyResult<i64> {
        self.0.lease().raise(py)
    }

    fn ttl(&self, py: Python<'_>) -> PyResult<f64> {
        Ok(self.0.ttl().raise(py)?.as_secs_f64())
    }

    fn state(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.state().raise(py)?.to_py(py)
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.0.check().raise(py)
    }

    fn remaining(&self, py: Python<'_>) -> PyResult<f64> {
        Ok(self.0.remaining().raise(py)?.as_secs_f64())
    }

    fn watch_state(&self, py: Python<'_>) -> PyResult<Stream> {
        Ok(self.0.watch_state().raise(py)?.into())
    }

    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        self.0.detach().raise(py)
    }

    fn mutex(&self, py: Python<'_>, name: String, owner: &[u8], lock_delay: f64) -> PyResult<Mutex> {
        let options = bridge::MutexOptions { owner: bytes(owner), lock_delay: duration(lock_delay)? };
        Ok(self.0.mutex(name, options).raise(py)?.into())
    }

    fn election(&self, py: Python<'_>, name: String) -> PyResult<Election> {
        Ok(self.0.election(name).raise(py)?.into())
    }
} }

calls! { Mutex {
    lock(timeout: Option<f64> => durations(timeout)?);
    try_lock();
    contenders();
} }

calls! { Guard {
    commit(txn: Txn => txn.0);
    lost();
    unlock();
} and {
    fn token(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.token().raise(py)?.to_py(py)
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.0.check().raise(py)
    }

    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        self.0.detach().raise(py)
    }
} }

calls! { Election {
    leader();
    observe();
} and {
    fn campaign(&self, py: Python<'_>, value: &[u8], timeout: Option<f64>) -> PyResult<Pending> {
        let (election, value, timeout) = (self.0.clone(), bytes(value), durations(timeout)?);
        start(py, async move { election.campaign(value, timeout).await })
    }
} }

calls! { Leadership {
    commit(txn: Txn => txn.0);
    lost();
    resign();
} and {
    fn token(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.token().raise(py)?.to_py(py)
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.0.check().raise(py)
    }

    fn proclaim(&self, py: Python<'_>, value: &[u8]) -> PyResult<Pending> {
        let (leadership, value) = (self.0.clone(), bytes(value));
        start(py, async move { leadership.proclaim(value).await })
    }
} }
