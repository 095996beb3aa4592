//! The keys, values, leases and names of one script.

use bytes::Bytes;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Names of locks and elections. None is another one plus a slash, since such names wait for each
/// other.
pub const NAMES: &[&str] = &["lock", "locks", "vote"];

/// Lease ids, with both signs and both ends of the range.
const LEASES: &[i64] = &[7, 8, -9, 0x1234_abcd, i64::MAX, i64::MIN];

/// What the requests of one script are about.
pub struct Universe {
    keys: Vec<Bytes>,
    leases: Vec<i64>,
    values: u32,
}

/// The end of the range of all keys with this prefix.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

impl Universe {
    /// Six to ten keys: short ones over an alphabet with both extreme bytes, and extensions of them.
    pub fn new(rng: &mut ChaCha8Rng) -> Universe {
        let alphabet = b"aab/\x00\xff";
        let mut keys: Vec<Bytes> = Vec::new();
        let count = rng.random_range(6..=10);
        while keys.len() < count {
            let mut key = Vec::new();
            if !keys.is_empty() && rng.random_bool(0.4) {
                key.extend_from_slice(&keys[rng.random_range(0..keys.len())]);
            }
            for _ in 0..rng.random_range(1..=2) {
                key.push(alphabet[rng.random_range(0..alphabet.len())]);
            }
            if !keys.iter().any(|known| known == &key) {
                keys.push(key.into());
            }
        }
        let start = rng.random_range(0..LEASES.len());
        let leases = (0..3).map(|i| LEASES[(start + i) % LEASES.len()]).collect();
        Universe { keys, leases, values: 0 }
    }

    /// Usually one of the universe, rarely an empty or an unknown one.
    pub fn key(&mut self, rng: &mut ChaCha8Rng) -> Bytes {
        match rng.random_range(0..200) {
            0..2 => Bytes::new(),
            2..6 => Bytes::from(vec![rng.random::<u8>(), rng.random::<u8>()]),
            6..8 => Bytes::from_static(b"\0"),
            _ => self.keys[rng.random_range(0..self.keys.len())].clone(),
        }
    }

    /// The end of a range that starts at `key`.
    pub fn range_end(&mut self, rng: &mut ChaCha8Rng, key: &Bytes) -> Bytes {
        match rng.random_range(0..20) {
            0..8 => Bytes::new(),
            8..11 => prefix_end(key),
            11..14 => Bytes::from_static(b"\0"),
            // As often inverted as not.
            14..18 => self.key(rng),
            18 => [key, &b"\0"[..]].concat().into(),
            _ => Bytes::from_static(b"\0\0"),
        }
    }

    /// All keys.
    pub fn everything() -> (Bytes, Bytes) {
        (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
    }

    /// A value: mostly a fresh one, sometimes empty, a repeated one, or a long one.
    pub fn value(&mut self, rng: &mut ChaCha8Rng) -> Bytes {
        match rng.random_range(0..1000) {
            0..80 => Bytes::new(),
            80..280 => Bytes::from(format!("w{}", rng.random_range(0..4))),
            280..300 => Bytes::from(vec![rng.random::<u8>(); rng.random_range(200..5000)]),
            _ => {
                self.values += 1;
                Bytes::from(format!("v{}", self.values))
            }
        }
    }

    /// A lease of the universe, granted or not.
    pub fn lease(&mut self, rng: &mut ChaCha8Rng) -> i64 {
        self.leases[rng.random_range(0..self.leases.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn the_end_of_a_prefix_is_its_successor() {
        assert_eq!(prefix_end(b"a"), &b"b"[..]);
        assert_eq!(prefix_end(b"a\xff\xff"), &b"b"[..]);
        assert_eq!(prefix_end(b"\xff"), &b"\0"[..]);
    }
}
