//! The native part of the Python package `folkmoot`: one thin function for each of the bridge's, no
//! logic. The typed classes that people use are written in Python, over this.
//!
//! Every call that waits gives a [`Pending`](pending::Pending), on which an event loop or a thread can
//! wait. Invariant: no thread of the bridge's runtime ever takes the interpreter's lock, because one
//! that waits for it would keep no lease alive. Callbacks run on threads made for blocking work.

#![allow(clippy::too_many_arguments, reason = "arguments are what Python passes")]

mod callback;
mod client;
mod config;
mod convert;
mod error;
mod exit;
mod pending;
mod port;
mod recipes;
mod registry;
mod stream;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::client::{Auth, Client};
    #[pymodule_export]
    use crate::config::{Candidate, Config, ConfigReader};
    #[pymodule_export]
    use crate::exit::{after_fork, at_exit};
    #[pymodule_export]
    use crate::pending::Pending;
    #[pymodule_export]
    use crate::port::Port;
    #[pymodule_export]
    use crate::recipes::{Election, Guard, Leadership, Mutex, Session};
    #[pymodule_export]
    use crate::registry::{Balancer, Pick, Probe, Registration, Registry};
    #[pymodule_export]
    use crate::stream::Stream;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
