//! Equal state at equal log index on every member.

use std::collections::BTreeMap;

use crate::history::MemberId;
use crate::{Rule, Violation};

/// The state hashes that members reported.
///
/// The first report of an index is the reference for all others. Old indexes are forgotten with
/// [`StateHashes::forget_below`], otherwise the table grows with the log.
#[derive(Clone, Debug, Default)]
pub struct StateHashes {
    first: BTreeMap<u64, (MemberId, u64)>,
    compared: u64,
}

impl StateHashes {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds that `member`, having applied the log up to `index`, has `hash`. A member that applies
    /// an entry again after a restart reports it again, and must come to the same.
    pub fn record(&mut self, member: MemberId, index: u64, hash: u64) -> Option<Violation> {
        let (first, expected) = *self.first.entry(index).or_insert((member, hash));
        if first != member {
            self.compared += 1;
        }
        (expected != hash).then(|| Violation {
            rule: Rule::StateHash,
            text: format!(
                "member {member} has state hash {hash:016x} after log index {index}, where member {first} \
                 has {expected:016x}; the first index at which two members differ names the entry that \
                 was applied differently"
            ),
        })
    }

    /// How many reports were compared with another member's. Zero proves nothing.
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// Forgets all indexes below `index`.
    pub fn forget_below(&mut self, index: u64) {
        self.first = self.first.split_off(&index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_differ_at_one_index_are_told() {
        let mut table = StateHashes::new();
        assert!(table.record(1, 10, 0xa).is_none());
        assert!(table.record(2, 10, 0xa).is_none());
        assert!(table.record(1, 11, 0xb).is_none());
        let violation = table.record(3, 11, 0xc).unwrap();
        assert_eq!(violation.rule, Rule::StateHash);
        assert!(violation.text.contains("member 3") && violation.text.contains("index 11"));
        assert_eq!(table.compared(), 2);
    }

    #[test]
    fn a_member_that_replays_an_entry_must_come_to_the_same() {
        let mut table = StateHashes::new();
        assert!(table.record(1, 5, 1).is_none());
        assert!(table.record(1, 5, 1).is_none());
        assert!(table.record(1, 5, 2).is_some());
        table.forget_below(6);
        assert!(table.record(1, 5, 2).is_none());
    }
}
