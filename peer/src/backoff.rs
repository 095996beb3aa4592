//! How long to wait before the next try.

use std::time::Duration;

/// Doubles from a minimum to a maximum; each wait is cut at random by up to a half, so that
/// members that lost each other at the same time do not come back at the same time.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// A try succeeded.
    pub fn reset(&mut self) {
        self.next = self.min;
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next.mul_f64(rand::random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_again_after_a_success() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut backoff = Backoff::new(min, max);
        for bound in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            let bound = Duration::from_millis(bound);
            let wait = backoff.wait();
            assert!(bound / 2 <= wait && wait <= bound, "bound={bound:?} wait={wait:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= min);
    }
}
