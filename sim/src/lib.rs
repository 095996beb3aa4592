//! A whole cluster in one thread under one seed: members, disks, network, clocks, clients and
//! administrators, with faults, and checkers that look all the time.
//!
//! Members are [`folkmoot_core::node::Node`]s and nothing less; everything outside of them is a
//! model that is at least as unkind as the real thing. One seed gives one run: no threads, no
//! clock, no randomness but the seed's, no order that a hash table chose. What the checkers report
//! is certain, and the seed that showed it is replayed with one command.
//!
//! - [`disk`]: the log's sectors and the engine's rows, and what a crash leaves of them.
//! - [`network`]: links between members.
//! - [`world`]: members as processes, and the loop that moves everything.
//! - [`client`]: what clients do and see.
//! - [`faults`]: what goes wrong when.
//! - [`ledger`]: what the cluster itself must keep true, whatever clients see.
//! - [`run`]: one seed from start to verdict.

pub mod batch;
mod client;
mod disk;
pub mod faults;
mod ledger;
pub mod mutants;
mod network;
pub mod plan;
mod queue;
mod random;
pub mod run;
pub mod shrink;
pub mod sometimes;
pub mod story;
pub mod time;
mod trace;
mod world;
