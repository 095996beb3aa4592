//! Who belongs to the cluster, which alarms are on, which version everybody speaks: small
//! replicated state, kept in the engine's `Sys` family.
//!
//! Refuses: consensus (raft's own configuration is checked against it in the raft room), files.
//! Invariants: an id that was removed never comes back; rows and memory hold the same.

mod alarm;
mod member;
pub mod reconfig;
pub mod rows;

pub use alarm::{Alarm, AlarmKind, Alarms};
pub use member::{Member, Members, cluster_id, member_id};
