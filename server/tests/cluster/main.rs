//! Clusters of several servers in this process, from their clients' side: starting, losing and
//! moving the leader, changing the members, and what is refused.
//!
//! Each test has a cluster of its own. Nothing waits for a certain time: whatever has to come is
//! looked for until it is there.

#[path = "../common/mod.rs"]
mod common;

mod alarms;
mod bootstrap;
mod leader;
mod learners;
mod leases;
mod link;
mod members;
mod quorum;
mod removal;
mod start_errors;
mod support;
mod watches;
