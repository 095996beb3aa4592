//! How long to wait before the next attempt: one place for all of them.

use std::time::Duration;

use rand::RngExt as _;

/// Doubles from `first` to `most`, each time with full jitter.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    attempt: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(5))
    }
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, attempt: 0 }
    }

    /// The most that the next wait may take.
    fn bound(&self) -> Duration {
        self.first.saturating_mul(1 << self.attempt.min(20)).min(self.most)
    }

    /// The next wait.
    pub fn next(&mut self) -> Duration {
        let bound = self.bound();
        self.attempt = self.attempt.saturating_add(1);
        bound.mul_f64(rand::rng().random_range(0.0..=1.0))
    }

    /// It worked: start small again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Waits.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_3_waits_double_up_to_the_most_and_start_small_again() {
        let mut backoff = Backoff::default();
        let bounds: Vec<u64> = (0..9)
            .map(|_| {
                let bound = backoff.bound();
                assert!(backoff.next() <= bound);
                bound.as_millis() as u64
            })
            .collect();
        assert_eq!(bounds, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.bound(), Duration::from_millis(50));
    }
}
