//! Warnings that repeat with every attempt are logged once in a while, with how many were left
//! out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use folkmoot_core::types::MemberId;
use parking_lot::Mutex;

/// Strangers can add an entry by each address they call from.
const ENTRIES_MAX: usize = 256;

/// Whom a warning is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum About {
    Peer(MemberId),
    Address(IpAddr),
    /// Stands for all that there is no room for.
    Anybody,
}

struct Entry {
    logged: Instant,
    left_out: u64,
}

/// Decides which warnings are logged.
pub(crate) struct Warnings {
    interval: Duration,
    entries: Mutex<HashMap<(About, &'static str), Entry>>,
}

impl Warnings {
    pub fn new(interval: Duration) -> Self {
        Self { interval, entries: Mutex::new(HashMap::new()) }
    }

    /// Whether to log this one, and how many were left out since the last.
    pub fn admit(&self, about: About, kind: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        let fresh = |entry: &Entry| now.saturating_duration_since(entry.logged) < self.interval;
        let mut key = (about, kind);
        if entries.len() >= ENTRIES_MAX && !entries.contains_key(&key) {
            entries.retain(|_, entry| fresh(entry));
            if entries.len() >= ENTRIES_MAX {
                key = (About::Anybody, kind);
            }
        }
        match entries.get_mut(&key) {
            Some(entry) if fresh(entry) => {
                entry.left_out += 1;
                None
            }
            Some(entry) => {
                entry.logged = now;
                Some(std::mem::take(&mut entry.left_out))
            }
            None => {
                entries.insert(key, Entry { logged: now, left_out: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_warning_is_left_out_and_counted() {
        let warnings = Warnings::new(Duration::from_secs(3600));
        let about = About::Peer(MemberId(1));
        assert_eq!(warnings.admit(about, "busy"), Some(0));
        assert_eq!(warnings.admit(about, "busy"), None);
        assert_eq!(warnings.admit(about, "removed"), Some(0));
        let warnings = Warnings::new(Duration::ZERO);
        assert_eq!(warnings.admit(about, "busy"), Some(0));
        assert_eq!(warnings.admit(about, "busy"), Some(0));
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let warnings = Warnings::new(Duration::from_secs(3600));
        let logged = (0..10_000_u32)
            .filter(|n| warnings.admit(About::Address(IpAddr::from(n.to_be_bytes())), "magic").is_some())
            .count();
        assert_eq!(logged, ENTRIES_MAX + 1);
        assert!(warnings.entries.lock().len() <= ENTRIES_MAX + 1);
    }
}
