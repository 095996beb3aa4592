//! What can be built of keys, leases and watches.

#[cfg(feature = "config")]
pub mod config;
pub(crate) mod contest;
pub mod election;
pub(crate) mod fence;
pub mod mutex;
pub(crate) mod place;
pub mod registry;
pub(crate) mod sweep;
