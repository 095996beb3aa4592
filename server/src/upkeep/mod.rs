//! What a member does by itself from time to time.

mod compactor;
mod leader_monitor;

pub use compactor::compact_from_time_to_time;
pub use leader_monitor::watch_for_a_leader;
