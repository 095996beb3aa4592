//! Watch streams: the thread that owns the hub, and the sessions that clients hold with it.
//!
//! The core thread tells the hub what was applied; the hub matches and queues; frames go to the
//! outlet of each session. Waking sessions is left to a task on their own runtime, so that an
//! event for ten thousand streams costs each runtime one wake-up from outside, not ten thousand.
//! Refuses: the wire format, which [`crate::api`] knows.

mod hub_thread;
mod outlet;
mod session;

pub use hub_thread::{HubHandle, HubThread, hub_thread};
pub use outlet::WakePort;
pub use session::Session;
