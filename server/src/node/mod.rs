//! The member in its process: the threads around the core, and the handle by which the API
//! reaches them.
//!
//! One thread owns the core's [`folkmoot_core::node::Node`], one the log's files, one the engine's
//! writes. They hand each other what the core's inputs and outputs say and decide nothing.

pub mod clock;
mod core_thread;
mod handle;
mod inbox;
mod published;
mod read_desk;
mod slots;
mod storage_thread;
mod wal_thread;

pub use core_thread::CoreThread;
pub use handle::{CallError, LeaseInfo, NodeHandle, ROOM_UNITS, Shared};
pub use inbox::Inbox;
pub use published::Published;
pub use slots::Port;
pub use storage_thread::{Reports, StorageHandle, StorageThread, storage_thread};
pub use wal_thread::{WalJob, run as run_wal};
