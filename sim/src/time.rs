//! Virtual time, and each member's own idea of it.

use folkmoot_core::types::Instant64;

/// Nanoseconds since the start of the world.
pub type Nanos = u64;

/// One microsecond.
pub const US: Nanos = 1_000;
/// One millisecond.
pub const MS: Nanos = 1_000_000;
/// One second.
pub const SEC: Nanos = 1_000_000_000;

/// Seconds with three digits, for people.
pub fn seconds(at: Nanos) -> String {
    format!("{}.{:03}", at / SEC, at % SEC / MS)
}

/// A monotonic clock that may run at another speed and jump forward.
#[derive(Clone, Debug)]
pub struct Clock {
    true_from: Nanos,
    local_from: Nanos,
    /// Parts per million that the clock is too fast.
    drift: i64,
}

impl Clock {
    /// A clock that shows `local` when the world starts.
    pub fn new(local: Nanos) -> Self {
        Self { true_from: 0, local_from: local, drift: 0 }
    }

    /// What the clock shows.
    pub fn local(&self, now: Nanos) -> Instant64 {
        let passed = i128::from(now.saturating_sub(self.true_from));
        let passed = passed * (1_000_000 + i128::from(self.drift)) / 1_000_000;
        Instant64(self.local_from + u64::try_from(passed).unwrap_or(0))
    }

    /// When the clock will show at least `local`, if nothing changes.
    pub fn when(&self, local: Instant64) -> Nanos {
        let ahead = i128::from(local.0.saturating_sub(self.local_from));
        let speed = 1_000_000 + i128::from(self.drift);
        let ahead = (ahead * 1_000_000 + speed - 1) / speed;
        self.true_from.saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX))
    }

    /// From now on the clock is this many parts per million too fast.
    pub fn set_drift(&mut self, now: Nanos, drift: i64) {
        self.local_from = self.local(now).0;
        self.true_from = now;
        self.drift = drift;
    }

    /// The clock jumps forward.
    pub fn jump(&mut self, now: Nanos, by: Nanos) {
        self.local_from = self.local(now).0 + by;
        self.true_from = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_runs_fast_reaches_its_times_early_and_never_goes_back() {
        let mut clock = Clock::new(500);
        assert_eq!(clock.local(SEC), Instant64(500 + SEC));
        clock.set_drift(SEC, 100_000);
        assert_eq!(clock.local(2 * SEC), Instant64(500 + SEC + SEC + SEC / 10));
        let target = Instant64(clock.local(2 * SEC).0 + 11 * SEC);
        assert_eq!(clock.when(target), 12 * SEC);
        assert!(clock.local(clock.when(target)) >= target);
        clock.jump(3 * SEC, SEC);
        assert_eq!(clock.local(3 * SEC), Instant64(500 + SEC + 2 * (SEC + SEC / 10) + SEC));
    }
}
