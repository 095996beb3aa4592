//! Time that goes on while the machine sleeps.
//!
//! `std::time::Instant` stands still during suspend and while a virtual machine is paused, and a
//! lease does not. Deadlines of sessions are therefore kept on this clock, never on a wall clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on the boot-time clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BootInstant(Duration);

impl BootInstant {
    /// Now.
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        // CLOCK_MONOTONIC of macOS goes on during sleep.
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(clock);
        Self(Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32))
    }

    /// So many nanoseconds after boot.
    #[cfg(test)]
    pub fn from_nanos(nanos: u64) -> Self {
        Self(Duration::from_nanos(nanos))
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl Sub<Duration> for BootInstant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_4_the_clock_counts_from_boot() {
        let uptime = std::fs::read_to_string("/proc/uptime").expect("is there on Linux");
        let seconds: f64 = uptime.split(' ').next().expect("has two numbers").parse().expect("is a number");
        assert!((BootInstant::now().0.as_secs_f64() - seconds).abs() < 5.0);
    }

    #[test]
    fn there_is_no_negative_time() {
        let now = BootInstant::now();
        assert_eq!(now.since(now + Duration::from_secs(1)), Duration::ZERO);
    }
}
