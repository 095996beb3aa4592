//! The process around the core: threads, gRPC services, configuration.
//!
//! [`run`] serves until the process is asked to stop; [`Server`] does the same inside a program
//! that goes on, such as a test. Everything that may be called from outside goes through a
//! [`config::Config`].
//!
//! Rooms: [`config`] reads settings, [`node`] holds the threads around the state machine,
//! [`watch`] those around the watch hub, [`http`] turns connections into calls, [`api`] answers
//! them, [`read`] runs reads, [`observe`] tells the outside. Refuses: storage formats, and every
//! rule of the state machine.

pub mod api;
pub mod config;
pub mod http;
pub mod node;
pub mod observe;
pub mod peer;
pub mod read;
pub mod version;
pub mod watch;

mod identity;
mod restore;
mod runtimes;
mod server;
mod tasks;
mod upkeep;

pub use config::Config;
pub use folkmoot_storage::archive::{ArchiveSummary, verify_archive};
pub use restore::{RestoreError, Restored, restore};
pub use server::{RunError, Server, StartError, run};
