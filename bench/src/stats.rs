//! What is counted while a load runs, and which calls belong to the measured window.
//!
//! In a closed loop each worker sends its next call when the last one is answered: a latency
//! runs from sending to answer, and a stalled server is asked less often while it stalls, which
//! flatters its percentiles. In an open loop calls start by the clock: a latency runs from the
//! intended start to the answer, so the wait behind a stalled call counts for every call that
//! should have been made meanwhile (no "coordinated omission"), and calls that are never
//! answered count with the time they have waited so far.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies are kept in nanoseconds with three significant digits, up to ten minutes.
const HIGHEST_NANOS: u64 = 600_000_000_000;
const LOWEST_NANOS: u64 = 1_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// How calls are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Loop {
    /// The next call starts when the last one is answered.
    Closed,
    /// Calls start by the clock.
    Open,
}

/// The part of a run that is measured; before it, the server warms up.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// First instant of the window.
    pub from: Instant,
    /// First instant after the window.
    pub until: Instant,
}

impl Window {
    fn holds(&self, at: Instant) -> bool {
        self.from <= at && at < self.until
    }
}

/// Counts of one load thread.
#[derive(Debug)]
pub struct Recorder {
    window: Window,
    looping: Loop,
    latency: Histogram<u64>,
    ops: u64,
    errors: u64,
    unfinished: u64,
    first_error: Option<String>,
}

impl Recorder {
    /// An empty recorder.
    pub fn new(window: Window, looping: Loop) -> Self {
        let latency = Histogram::new_with_bounds(LOWEST_NANOS, HIGHEST_NANOS, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants in the right order");
        Self { window, looping, latency, ops: 0, errors: 0, unfinished: 0, first_error: None }
    }

    /// Counts an answer. `start` is when the call was sent (closed) or should have been (open).
    pub fn answered(&mut self, start: Instant, done: Instant) {
        let done_inside = self.window.holds(done);
        self.ops += u64::from(done_inside);
        let latency_counts = match self.looping {
            Loop::Closed => done_inside,
            Loop::Open => self.window.holds(start),
        };
        if latency_counts {
            self.record(done.saturating_duration_since(start));
        }
    }

    /// Counts a call that failed, whenever it did: even a failed warm-up spoils a measurement.
    pub fn failed(&mut self, error: &impl ToString) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// Counts a call that was still without an answer at `gave_up`.
    pub fn unfinished(&mut self, start: Instant, gave_up: Instant) {
        self.unfinished += 1;
        if self.looping == Loop::Open && self.window.holds(start) {
            self.record(gave_up.saturating_duration_since(start));
        }
    }

    fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(HIGHEST_NANOS);
        self.latency.saturating_record(nanos.max(LOWEST_NANOS));
    }

    /// Adds the counts of another thread of the same run.
    pub fn merge(&mut self, other: &Recorder) {
        self.latency.add(&other.latency).expect("all recorders have the same bounds");
        self.ops += other.ops;
        self.errors += other.errors;
        self.unfinished += other.unfinished;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }

    /// Answers that arrived inside the window.
    pub fn ops(&self) -> u64 {
        self.ops
    }

    /// Calls that failed, over the whole run.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Calls that nobody answered.
    pub fn unfinished_count(&self) -> u64 {
        self.unfinished
    }

    /// The first failure, as text.
    pub fn first_error(&self) -> Option<&str> {
        self.first_error.as_deref()
    }

    /// Percentiles so far.
    pub fn latency(&self) -> Latency {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let at = |quantile| micros(self.latency.value_at_quantile(quantile));
        Latency {
            count: self.latency.len(),
            mean_us: self.latency.mean() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.latency.max()),
        }
    }
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// How many calls these percentiles are of.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Slowest.
    pub max_us: f64,
}

/// The middle value; the mean of the two middle ones for an even number of values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn recorder(looping: Loop) -> (Instant, Recorder) {
        let zero = Instant::now();
        let window = Window { from: zero + ms(1000), until: zero + ms(2000) };
        (zero, Recorder::new(window, looping))
    }

    /// Within the three digits that the histogram keeps.
    fn near(actual_us: f64, expected_ms: f64) -> bool {
        (actual_us / 1000.0 / expected_ms - 1.0).abs() < 0.002
    }

    #[test]
    fn a_closed_loop_counts_what_is_answered_inside_the_window() {
        let (zero, mut recorder) = recorder(Loop::Closed);
        recorder.answered(zero + ms(900), zero + ms(999));
        recorder.answered(zero + ms(990), zero + ms(1010));
        recorder.answered(zero + ms(1990), zero + ms(2000));
        assert_eq!((recorder.ops(), recorder.latency().count), (1, 1));
        assert!(near(recorder.latency().max_us, 20.0));
    }

    #[test]
    fn an_open_loop_counts_the_latency_of_what_should_have_started_inside_the_window() {
        let (zero, mut recorder) = recorder(Loop::Open);
        recorder.answered(zero + ms(990), zero + ms(1010));
        recorder.answered(zero + ms(1990), zero + ms(2500));
        assert_eq!(recorder.ops(), 1, "only the first answer came inside");
        assert_eq!(recorder.latency().count, 1);
        assert!(near(recorder.latency().max_us, 510.0));
    }

    #[test]
    fn a_stall_in_an_open_loop_counts_for_every_call_that_waited_behind_it() {
        let (zero, mut recorder) = recorder(Loop::Open);
        // One call a millisecond; the server answers nothing from 1100 ms to 1600 ms.
        for at in 1000..2000 {
            let done = if (1100..1600).contains(&at) { 1600 } else { at };
            recorder.answered(zero + ms(at), zero + ms(done));
        }
        let latency = recorder.latency();
        assert_eq!(latency.count, 1000);
        assert!(near(latency.p90_us, 400.0), "p90 {}", latency.p90_us);
        assert!(near(latency.p99_us, 490.0), "p99 {}", latency.p99_us);
    }

    #[test]
    fn a_call_without_an_answer_still_counts_its_wait_in_an_open_loop() {
        let (zero, mut recorder) = recorder(Loop::Open);
        recorder.unfinished(zero + ms(1500), zero + ms(4500));
        assert_eq!(recorder.unfinished_count(), 1);
        assert_eq!(recorder.ops(), 0);
        assert!(near(recorder.latency().max_us, 3000.0));
    }

    #[test]
    fn merging_adds_counts_and_keeps_the_first_error() {
        let (zero, mut left) = recorder(Loop::Closed);
        let mut right = Recorder::new(left.window, Loop::Closed);
        left.answered(zero + ms(1000), zero + ms(1010));
        right.answered(zero + ms(1000), zero + ms(1030));
        right.failed(&"no leader");
        right.failed(&"later");
        left.merge(&right);
        assert_eq!((left.ops(), left.errors()), (2, 2));
        assert_eq!(left.first_error(), Some("no leader"));
        assert!(near(left.latency().max_us, 30.0));
    }

    #[test]
    fn a_wait_beyond_the_histogram_counts_as_its_highest_value() {
        let (zero, mut recorder) = recorder(Loop::Open);
        recorder.answered(zero + ms(1000), zero + ms(10_000_000));
        assert!(near(recorder.latency().max_us, 600_000.0));
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }
}
