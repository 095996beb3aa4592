//! The monotonic clock that the core is told.

use std::time::{Duration, Instant};

use folkmoot_core::types::Instant64;
use rustix::time::{ClockId, clock_gettime};

/// Time since the machine started, time asleep included: a lease must not live longer because
/// the machine was suspended.
pub fn now() -> Instant64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).expect("time since boot is positive");
    let nanos = u64::try_from(now.tv_nsec).expect("nanoseconds are positive");
    Instant64(seconds * 1_000_000_000 + nanos)
}

/// The same moment for condition variables, which know only [`Instant`].
pub fn to_instant(at: Instant64) -> Instant {
    let ahead = at.since(now());
    // Nothing waits that long; far deadlines need no more than to be far.
    Instant::now() + ahead.min(Duration::from_secs(3600))
}
