//! Who was heard from lately, and since when without a pause.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::{Instant64, MemberId};

/// A silence longer than this is a lost connection. Members say something to each other once a
/// second at least.
const SILENCE: Duration = Duration::from_millis(2500);

#[derive(Clone, Copy)]
struct Contact {
    since: Instant64,
    last: Instant64,
}

/// See the module.
#[derive(Default)]
pub struct Contacts {
    by_id: BTreeMap<MemberId, Contact>,
}

impl Contacts {
    /// A message came.
    pub fn heard(&mut self, from: MemberId, now: Instant64) {
        let contact = self.by_id.entry(from).or_insert(Contact { since: now, last: now });
        if now.since(contact.last) > SILENCE {
            contact.since = now;
        }
        contact.last = now;
    }

    /// The connection was lost, or the member is gone for good.
    pub fn lost(&mut self, id: MemberId) {
        self.by_id.remove(&id);
    }

    /// Whether there is no long silence now.
    pub fn is_in_touch(&self, id: MemberId, now: Instant64) -> bool {
        self.by_id.get(&id).is_some_and(|contact| now.since(contact.last) <= SILENCE)
    }

    /// For how long there was no long silence; zero for one that is silent now.
    pub fn in_touch_for(&self, id: MemberId, now: Instant64) -> Duration {
        match self.by_id.get(&id) {
            Some(contact) if now.since(contact.last) <= SILENCE => now.since(contact.since),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_silence_starts_the_count_again() {
        let at = |millis: u64| Instant64(millis * 1_000_000);
        let mut contacts = Contacts::default();
        let id = MemberId(1);
        assert_eq!(contacts.in_touch_for(id, at(5)), Duration::ZERO);
        for second in 1..=6 {
            contacts.heard(id, at(second * 1000));
        }
        assert_eq!(contacts.in_touch_for(id, at(6500)), Duration::from_millis(5500));
        assert_eq!(contacts.in_touch_for(id, at(9000)), Duration::ZERO);
        contacts.heard(id, at(9000));
        assert_eq!(contacts.in_touch_for(id, at(9500)), Duration::from_millis(500));
        contacts.lost(id);
        assert!(!contacts.is_in_touch(id, at(9500)));
        contacts.heard(id, at(9600));
        assert_eq!(contacts.in_touch_for(id, at(9700)), Duration::from_millis(100));
    }
}
