//! Randomness: one seed, split by purpose, so that a draw more in one place does not change what
//! is drawn in another.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::time::Nanos;

/// A stream of random numbers for one purpose.
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream of `purpose`, number `number`, under `seed`.
    pub fn new(seed: u64, purpose: &str, number: u64) -> Self {
        let mut bytes = purpose.as_bytes().to_vec();
        bytes.extend_from_slice(&number.to_le_bytes());
        Self(ChaCha8Rng::seed_from_u64(xxh3_64_with_seed(&bytes, seed)))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.random()
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.random_range(0..bound) }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high.max(low))
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.0.random::<f64>() < probability
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// A waiting time with this mean, memoryless, at most ten times the mean.
    pub fn wait(&mut self, mean: Nanos) -> Nanos {
        let uniform: f64 = self.0.random::<f64>().max(1e-5);
        ((-uniform.ln()).min(10.0) * mean as f64) as Nanos
    }

    /// A time between two bounds, small ones as likely as large ones.
    pub fn spread(&mut self, low: Nanos, high: Nanos) -> Nanos {
        let (low, high) = ((low.max(1) as f64).ln(), (high.max(1) as f64).ln());
        (low + (high - low).max(0.0) * self.0.random::<f64>()).exp() as Nanos
    }

    /// The items in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_by_purpose_and_number_and_repeat() {
        let first = |purpose: &str, number| Random::new(7, purpose, number).number();
        assert_eq!(first("disk", 1), first("disk", 1));
        assert_ne!(first("disk", 1), first("disk", 2));
        assert_ne!(first("disk", 1), first("net", 1));
    }

    #[test]
    fn a_spread_time_stays_within_its_bounds() {
        let mut random = Random::new(1, "test", 0);
        for _ in 0..1000 {
            let time = random.spread(1_000, 1_000_000);
            assert!((999..=1_000_000).contains(&time), "{time}");
        }
    }
}
