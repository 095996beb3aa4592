//! What was done when: printed as it happens and kept for the report.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The timeline of one round.
pub struct Timeline {
    began: Instant,
    label: String,
    lines: Mutex<Vec<String>>,
    quiet: bool,
}

impl Timeline {
    /// Begins now.
    pub fn begin(label: &str, quiet: bool) -> Timeline {
        Timeline { began: Instant::now(), label: label.to_owned(), lines: Mutex::new(Vec::new()), quiet }
    }

    /// Notes what happens now.
    pub fn note(&self, text: &str) {
        let line = format!("{} {:7.3} s  {text}", self.label, self.began.elapsed().as_secs_f64());
        if !self.quiet {
            crate::say(&line);
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
