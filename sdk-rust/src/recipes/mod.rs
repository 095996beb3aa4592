//! What can be built of keys, leases and watches.

#[cfg(feature = "config")]
pub mod config;
pub(crate) mod contest;
pub mod election;
pub mod mutex;
pub mod registry;
