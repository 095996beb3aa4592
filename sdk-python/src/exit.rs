//! What happens when the interpreter ends, or the process forks.
//!
//! A thread that asks for the interpreter's lock while the interpreter ends is ended by Python in the
//! middle of whatever it does, and what that means for the frames of Rust is not defined. So threads
//! that wait for us stay where they are from then on; the process is about to end anyway.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::prelude::*;

static ENDING: AtomicBool = AtomicBool::new(false);
/// Who ends the interpreter, and may still call us.
static ENDER: Mutex<Option<ThreadId>> = Mutex::new(None);
/// How many threads of ours are about to take the interpreter's lock, or hold it.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

const PATIENCE: Duration = Duration::from_secs(2);

/// Whether this thread must not take the interpreter's lock any more.
pub(crate) fn is_too_late() -> bool {
    ENDING.load(Ordering::SeqCst) && *ENDER.lock() != Some(thread::current().id())
}

/// Keeps this thread away from the interpreter for good.
pub(crate) fn stay_away() -> ! {
    loop {
        thread::park();
    }
}

/// A visit of the interpreter by a thread of ours; its end waits for it.
pub(crate) struct Visit;

impl Visit {
    /// `None` if it is too late for one.
    pub fn begin() -> Option<Self> {
        INSIDE.fetch_add(1, Ordering::SeqCst);
        let visit = Self;
        (!is_too_late()).then_some(visit)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Called by Python before the interpreter ends.
#[pyfunction]
#[pyo3(name = "_at_exit")]
pub(crate) fn at_exit(py: Python<'_>) {
    *ENDER.lock() = Some(thread::current().id());
    ENDING.store(true, Ordering::SeqCst);
    py.detach(|| {
        let until = Instant::now() + PATIENCE;
        // Callbacks that run end first, unless they take too long.
        while INSIDE.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Called by Python in a forked child, which has this thread only.
#[pyfunction]
#[pyo3(name = "_after_fork")]
pub(crate) fn after_fork() {
    INSIDE.store(0, Ordering::SeqCst);
}
