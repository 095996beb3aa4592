//! Leases: the replicated part ([`Leases`]) and the deadlines that only a leader keeps
//! ([`Deadlines`]).
//!
//! Every member holds the same [`Leases`], changed by apply only. Nothing in them depends on
//! time, so a member may replay them at any speed. The leader alone knows when leases run out:
//! [`Deadlines`] live in its memory, start again from the full time to live with every new term,
//! and are told the time by their caller. A lease may live longer than it was promised, never
//! shorter.
//!
//! This room refuses to delete keys (it hands out which ones hang on a lease; apply deletes
//! them), to propose anything, and to read a clock.

mod deadlines;
mod keys;
mod leases;
pub mod rows;
#[cfg(test)]
mod twin_tests;
mod wheel;

use std::time::Duration;

pub use deadlines::{CHECKPOINT_INTERVAL, CHECKPOINTS_PER_ENTRY_MAX, Deadlines, RenewOutcome};
pub use keys::LeaseKeys;
pub use leases::{Lease, Leases};
pub use wheel::SLOT;

/// The shortest time to live that is granted, in seconds: one and a half election timeouts,
/// rounded up (etcd's rule), so that a lease survives a change of leader.
pub fn min_ttl(election_timeout: Duration) -> i64 {
    let millis = election_timeout.as_millis().saturating_mul(3).div_ceil(2);
    i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_lease_outlives_one_and_a_half_election_timeouts() {
        assert_eq!(min_ttl(Duration::from_millis(1000)), 2);
        assert_eq!(min_ttl(Duration::from_millis(2000)), 3);
        assert_eq!(min_ttl(Duration::from_millis(100)), 1);
        assert_eq!(min_ttl(Duration::from_millis(2001)), 4);
    }
}
