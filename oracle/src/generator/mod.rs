//! Random scripts. The same seed always gives the same script.
//!
//! Each script has a small universe of keys, so that most requests meet existing keys, and names
//! revisions relative to the current one, so that they meet existing revisions. Unusual input (empty
//! keys, unknown enum numbers, mismatched fields) is rare within one request but present in almost
//! every script.

mod kv;
mod lease;
mod universe;
mod watch;

use folkmoot_proto::etcdserverpb as pb;
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::request::{CURRENT, Request};
use universe::Universe;

/// Makes one script.
pub struct Generator {
    rng: ChaCha8Rng,
    universe: Universe,
    /// Whether watchers of this script may ask for history. etcd serves history only ten times a
    /// second, so this is kept for some of the scripts.
    history: bool,
    /// The lease that holds each lock or election of the script, so that nothing ever blocks.
    holders: Vec<i64>,
    script: Vec<Request>,
}

/// The script of a seed, with about `steps` requests.
pub fn script(seed: u64, steps: usize) -> Vec<Request> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let universe = Universe::new(&mut rng);
    let history = rng.random_bool(0.3);
    let mut generator = Generator { rng, universe, history, holders: Vec::new(), script: Vec::new() };
    generator.prepare();
    while generator.script.len() < steps {
        generator.step();
    }
    generator.script
}

/// Requests that give a fresh store a past: some revisions, most of them compacted.
pub fn past() -> Vec<Request> {
    let put = Request::Put(pb::PutRequest { key: "past".into(), ..Default::default() });
    let compact = Request::Compact(pb::CompactionRequest { revision: CURRENT - 2, physical: true });
    let delete = Request::DeleteRange(pb::DeleteRangeRequest { key: "past".into(), ..Default::default() });
    [vec![put; 20], vec![compact, delete]].concat()
}

impl Generator {
    /// Some leases and keys to begin with.
    fn prepare(&mut self) {
        for _ in 0..universe::NAMES.len() {
            let lease = self.universe.lease(&mut self.rng);
            self.holders.push(lease);
        }
        if self.rng.random_bool(0.3) {
            self.compact();
        }
        for _ in 0..self.rng.random_range(1..6) {
            self.grant_long();
        }
        if self.rng.random_bool(0.7) {
            self.watch();
        }
        for _ in 0..self.rng.random_range(2..6) {
            self.put();
        }
    }

    fn step(&mut self) {
        // Weights out of 100.
        match self.rng.random_range(0..100) {
            0..24 => self.put(),
            24..46 => self.range(),
            46..52 => self.delete_range(),
            52..69 => self.txn(),
            69..73 => self.compact(),
            73..76 => self.grant(),
            76..78 => self.revoke(),
            78..81 => self.time_to_live(),
            81..82 => self.script.push(Request::Leases),
            82..83 => self.keep_alive(),
            83..88 => self.watch(),
            88..90 => self.cancel(),
            90..91 => self.progress(),
            91..93 => self.hash(),
            93..96 => self.lock(),
            _ => self.election(),
        }
    }

    /// True once in `n`.
    fn once_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    /// One of the given choices.
    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.rng.random_range(0..choices.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_always_gives_the_same_script() {
        assert_eq!(script(7, 40), script(7, 40));
        assert_ne!(script(7, 40), script(8, 40));
    }

    #[test]
    fn some_hundred_scripts_ask_for_everything() {
        let kinds: BTreeSet<&str> =
            (0..200).flat_map(|seed| script(seed, 40)).map(|request| request.kind()).collect();
        // Settle is the driver's own.
        assert_eq!(kinds.len(), 20, "{kinds:?}");
    }
}
