//! Judges what clients of an etcd-v3-compatible store saw.
//!
//! [`history`] is what was seen, as plain values; the checkers say where it cannot have come from
//! a store that keeps its promises. Everything a checker reports is certain: where outcomes are
//! unknown, every possibility that would excuse the store is granted to it.
//!
//! The crate refuses to run anything, to read clocks and to know wire formats. It never panics on
//! a history, however broken: what contradicts itself is a [`Violation`] too.

pub mod history;
mod report;

pub use report::{Report, Rule, Violation};
