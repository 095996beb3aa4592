//! A crate to read.

mod client;
pub mod kinds;
mod watch;

pub use client::Client;

pub fn free() {}

#[doc(hidden)]
pub use client::Client as Inner;

pub(crate) fn hidden() {}

#[cfg(test)]
mod tests;
