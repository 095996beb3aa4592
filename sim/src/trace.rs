//! What happened, for people (the last lines) and for comparing two runs (a hash over all).

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::time::{Nanos, seconds};

/// Lines that outlive the world, so that they can be shown after a panic.
pub type Lines = Arc<Mutex<VecDeque<String>>>;

/// Lines kept.
const LINES_MAX: usize = 400_000;

/// See the module.
#[derive(Default)]
pub struct Trace {
    lines: Option<Lines>,
    hash: u64,
}

impl Trace {
    /// A trace that also keeps lines.
    pub fn with_lines(lines: Lines) -> Self {
        Self { lines: Some(lines), hash: 0 }
    }

    /// Mixes a number into the hash.
    pub fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// The hash over all that was mixed in.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Adds a line, if lines are kept.
    pub fn line(&self, now: Nanos, text: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock();
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(format!("{:>9} {}", seconds(now), text()));
        }
    }
}
