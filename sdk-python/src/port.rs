//! The way back to an event loop: a socket that the loop reads from, and a list of futures to wake.
//!
//! Threads of the runtime write a byte and never take the interpreter's lock, so a loop that is busy,
//! or a call that keeps the lock for seconds, holds nothing up. The loop owns its port, by having it
//! as a reader; when the loop is closed the port goes.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{PyTraverseError, PyVisit, intern};

/// What the runtime's threads have of a port.
#[derive(Debug)]
pub(crate) struct Inner {
    pid: u32,
    wake: UnixStream,
    woken: UnixStream,
    ready: Mutex<Vec<Py<PyAny>>>,
    /// Whether the loop still reads.
    open: AtomicBool,
}

impl Inner {
    /// Lets the loop complete this future.
    pub fn push(&self, future: Py<PyAny>) {
        let mut ready = self.ready.lock();
        ready.push(future);
        if ready.len() == 1 {
            drop(ready);
            // A full socket has woken the loop already; one without a reader wakes nobody any more.
            let _ = (&self.wake).write(&[1]);
        }
    }
}

/// Reads for one event loop.
#[pyclass(frozen, module = "folkmoot._native")]
pub(crate) struct Port(Arc<Inner>);

#[pymethods]
impl Port {
    /// Completes what is ready. Called by the loop.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        let mut bytes = [0; 64];
        // Before the list is taken: who adds to it afterwards writes again.
        while matches!((&self.0.woken).read(&mut bytes), Ok(64)) {}
        let ready = std::mem::take(&mut *self.0.ready.lock());
        for future in ready {
            let future = future.bind(py);
            if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
                future.call_method1(intern!(py, "set_result"), (py.None(),))?;
            }
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(ready) = self.0.ready.try_lock() {
            for future in &*ready {
                visit.call(future)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        if let Some(mut ready) = self.0.ready.try_lock() {
            ready.clear();
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.0.open.store(false, Ordering::SeqCst);
    }
}

/// Ports by the address of their loop. Used under the interpreter's lock only, so that no other thread
/// can hold it at a fork.
static PORTS: Mutex<Option<HashMap<usize, Weak<Inner>>>> = Mutex::new(None);

fn known(address: usize) -> Option<Arc<Inner>> {
    let ports = PORTS.lock();
    let inner = ports.as_ref()?.get(&address)?.upgrade()?;
    // Another loop may have got the address of one that is gone, but not its port.
    (inner.open.load(Ordering::SeqCst) && inner.pid == std::process::id()).then_some(inner)
}

/// The running loop and its port.
pub(crate) fn of_running_loop(py: Python<'_>) -> PyResult<(Bound<'_, PyAny>, Arc<Inner>)> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let running = RUNNING
        .get_or_try_init(py, || PyResult::Ok(py.import("asyncio")?.getattr("get_running_loop")?.unbind()))?;
    let running = running.bind(py).call0()?;
    let address = running.as_ptr() as usize;
    if let Some(inner) = known(address) {
        return Ok((running, inner));
    }
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let fd = woken.as_raw_fd();
    let inner = Arc::new(Inner {
        pid: std::process::id(),
        wake,
        woken,
        ready: Mutex::default(),
        open: AtomicBool::new(true),
    });
    let port = Bound::new(py, Port(inner.clone()))?;
    running.call_method1(intern!(py, "add_reader"), (fd, port.getattr(intern!(py, "drain"))?))?;
    let mut ports = PORTS.lock();
    let ports = ports.get_or_insert_default();
    ports.retain(|_, inner| inner.upgrade().is_some_and(|inner| inner.open.load(Ordering::SeqCst)));
    ports.insert(address, Arc::downgrade(&inner));
    Ok((running, inner))
}
