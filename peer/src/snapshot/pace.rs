//! How fast a snapshot is sent: a token bucket that holds one chunk.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When what was sent so far is paid for.
    paid: Instant,
}

impl Pace {
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, paid: Instant::now() }
    }

    /// Waits until `bytes` more may be sent.
    pub async fn wait(&mut self, bytes: usize) {
        if let Some(rate) = self.bytes_per_second {
            let start = self.paid.max(Instant::now());
            sleep_until(start).await;
            // A rate of zero would be a wait without end.
            self.paid = start + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_leave_at_the_given_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(1000));
        for _ in 0..11 {
            pace.wait(500).await;
        }
        let elapsed = start.elapsed();
        assert!((Duration::from_secs(5)..Duration::from_millis(5100)).contains(&elapsed), "{elapsed:?}");
        let mut pace = Pace::new(None);
        pace.wait(1 << 40).await;
        assert_eq!(start.elapsed(), elapsed);
    }
}
