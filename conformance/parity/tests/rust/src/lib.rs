//! A crate to read.

mod client;
pub mod kinds;
mod watch;

pub use client::Client;

pub fn free() {}

pub(crate) fn hidden() {}

#[cfg(test)]
mod tests;
