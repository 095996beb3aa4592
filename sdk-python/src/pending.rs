//! A call that is under way.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use folkmoot_bridge::{BridgeError, runtime};
use parking_lot::{Condvar, Mutex};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::convert::ToPy;
use crate::error::{Raise as _, raised};
use crate::exit;
use crate::port;

/// How often a thread that waits looks for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);
/// More than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(1_000_000_000);

type Convert = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

enum Phase {
    Running,
    Done(Result<Convert, BridgeError>),
    /// Fetched or cancelled.
    Over,
}

struct State {
    phase: Phase,
    /// Who waits in an event loop.
    waiter: Option<(Arc<port::Inner>, Py<PyAny>)>,
}

struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

impl Shared {
    fn complete(&self, outcome: Result<Convert, BridgeError>) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Running) {
            return;
        }
        state.phase = Phase::Done(outcome);
        let waiter = state.waiter.take();
        drop(state);
        self.done.notify_all();
        if let Some((port, future)) = waiter {
            port.push(future);
        }
    }
}

/// A call that is under way. An event loop waits for `future()`, a thread in `wait()`; the result is
/// fetched once. Dropping it cancels the call, and what it has got by then is given back.
#[pyclass(frozen, module = "folkmoot._native")]
pub(crate) struct Pending {
    pid: u32,
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// Begins a call on the bridge's runtime.
pub(crate) fn start<T, F>(py: Python<'_>, future: F) -> PyResult<Pending>
where
    T: ToPy + Send + 'static,
    F: Future<Output = Result<T, BridgeError>> + Send + 'static,
{
    let state = Mutex::new(State { phase: Phase::Running, waiter: None });
    let shared = Arc::new(Shared { state, done: Condvar::new() });
    let completed = shared.clone();
    let task = runtime().raise(py)?.spawn(async move {
        let outcome = future.await;
        // Made into Python's by whoever fetches it: here the interpreter's lock is out of bounds.
        completed.complete(outcome.map(|value| Box::new(move |py: Python<'_>| value.to_py(py)) as Convert));
    });
    Ok(Pending { pid: std::process::id(), shared, task: task.abort_handle() })
}

impl Pending {
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        if self.pid == std::process::id() {
            return Ok(());
        }
        let error = BridgeError {
            code: "FORKED".to_owned(),
            message: "the call was begun in another process, before a fork".to_owned(),
            retryable: false,
            maybe_applied: true,
            endpoint: None,
            details: "{}".to_owned(),
        };
        Err(raised(py, error))
    }

    fn give_up(&self) {
        if self.pid != std::process::id() {
            return;
        }
        self.task.abort();
        let mut state = self.shared.state.lock();
        let phase = std::mem::replace(&mut state.phase, Phase::Over);
        let waiter = state.waiter.take();
        drop(state);
        // What was won is given back here, and a future belongs to this thread's interpreter.
        drop((phase, waiter));
    }
}

#[pymethods]
impl Pending {
    /// A future of the running loop that is completed, with nothing, when there is something to fetch;
    /// `None` if there is already.
    fn future<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.check(py)?;
        let (running, port) = port::of_running_loop(py)?;
        let future = running.call_method0(intern!(py, "create_future"))?;
        let mut state = self.shared.state.lock();
        if !matches!(state.phase, Phase::Running) {
            return Ok(None);
        }
        state.waiter = Some((port, future.clone().unbind()));
        Ok(Some(future))
    }

    /// Fetches the result, or raises what went wrong.
    fn fetch(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.check(py)?;
        let mut state = self.shared.state.lock();
        let phase = match &state.phase {
            Phase::Running => return Err(PyRuntimeError::new_err("the call is not done yet")),
            Phase::Over => {
                return Err(PyRuntimeError::new_err("the result was fetched already, or given up"));
            }
            Phase::Done(_) => std::mem::replace(&mut state.phase, Phase::Over),
        };
        drop(state);
        match phase {
            Phase::Done(Ok(convert)) => convert(py),
            Phase::Done(Err(error)) => Err(raised(py, error)),
            Phase::Running | Phase::Over => unreachable!("was looked at above"),
        }
    }

    /// Waits in this thread, without the interpreter's lock, and fetches the result. A signal whose handler
    /// raises, Ctrl-C for one, cancels the call.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.check(py)?;
        loop {
            let done = py.detach(|| {
                let mut state = self.shared.state.lock();
                let mut done = !matches!(state.phase, Phase::Running);
                if !done {
                    self.shared.done.wait_for(&mut state, SIGNALS_EVERY);
                    done = !matches!(state.phase, Phase::Running);
                }
                drop(state);
                if exit::is_too_late() {
                    exit::stay_away();
                }
                done
            });
            if done {
                return self.fetch(py);
            }
            if let Err(signal) = py.check_signals() {
                self.give_up();
                return Err(signal);
            }
        }
    }

    /// Waits as `wait` does, for so many seconds at most, and fetches nothing. Says whether it is done.
    fn wait_for(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        self.check(py)?;
        let until = std::time::Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or(FOR_EVER);
        loop {
            let now = std::time::Instant::now();
            let patience = until.saturating_duration_since(now).min(SIGNALS_EVERY);
            let done = py.detach(|| {
                let mut state = self.shared.state.lock();
                if matches!(state.phase, Phase::Running) {
                    self.shared.done.wait_for(&mut state, patience);
                }
                let done = !matches!(state.phase, Phase::Running);
                drop(state);
                if exit::is_too_late() {
                    exit::stay_away();
                }
                done
            });
            if done || until <= std::time::Instant::now() {
                return Ok(done);
            }
            if let Err(signal) = py.check_signals() {
                self.give_up();
                return Err(signal);
            }
        }
    }

    /// Gives it up.
    fn cancel(&self) {
        self.give_up();
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // The state may be locked for ever here, and a result in it belongs to the parent.
            std::mem::forget(self.shared.clone());
            return;
        }
        self.give_up();
    }
}
