//! Whether this member's state equals the others'.
//!
//! Every member tells every other now and then the hash of its state at its newest index. Each
//! compares with its own at that index. A member that differs from a quorum and agrees with less
//! than one is wrong: its state, not its log. Two that differ where nobody else can tell leave it
//! undecided.
//!
//! Invariant: hashes of different indexes are never compared.

use std::collections::{BTreeMap, VecDeque};

use crate::limits;
use crate::types::{LogIndex, MemberId};

/// What is known about this member's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// Nobody differs, or fewer than a quorum.
    Sound,
    /// A quorum differs from this member.
    Wrong,
    /// Members differ, and neither side is a quorum.
    Undecided,
}

/// See the module.
#[derive(Default)]
pub struct Integrity {
    /// Own hashes of consecutive indexes, the newest last.
    own: VecDeque<u64>,
    newest: LogIndex,
    /// What others said about an index that is not applied here yet.
    early: BTreeMap<MemberId, (LogIndex, u64)>,
    /// The newest comparison with each other member.
    compared: BTreeMap<MemberId, Compared>,
}

#[derive(Clone, Copy)]
struct Compared {
    agrees: bool,
    /// The index of it.
    index: LogIndex,
    /// The index from which on it has come out this way.
    since: LogIndex,
}

impl Integrity {
    /// The state after `index` has this hash.
    pub fn applied(&mut self, index: LogIndex, hash: u64) {
        if index.0 != self.newest.0 + 1 {
            self.own.clear();
        }
        self.newest = index;
        self.own.push_back(hash);
        if self.own.len() > limits::STATE_HASHES_KEPT {
            self.own.pop_front();
        }
    }

    /// The state was replaced as a whole; what was known about it counts no more.
    pub fn replaced(&mut self) {
        *self = Self { newest: self.newest, ..Self::default() };
        self.own.clear();
    }

    /// The newest index and its hash.
    pub fn newest(&self) -> Option<(LogIndex, u64)> {
        self.own.back().map(|hash| (self.newest, *hash))
    }

    /// Another member's hash.
    pub fn heard(&mut self, from: MemberId, index: LogIndex, hash: u64) {
        if index > self.newest {
            self.early.insert(from, (index, hash));
        } else if let Some(own) = self.at(index) {
            let agrees = own == hash;
            let before = self.compared.get(&from).filter(|before| before.agrees == agrees);
            let since = before.map_or(index, |before| before.since.min(index));
            self.compared.insert(from, Compared { agrees, index, since });
        }
    }

    /// Compares what was heard too early and can be compared now.
    pub fn catch_up(&mut self) {
        for (from, (index, hash)) in std::mem::take(&mut self.early) {
            self.heard(from, index, hash);
        }
    }

    fn at(&self, index: LogIndex) -> Option<u64> {
        let back = usize::try_from(self.newest.0.checked_sub(index.0)?).ok()?;
        let position = self.own.len().checked_sub(back + 1)?;
        self.own.get(position).copied()
    }

    /// How many other members' states were compared with this one's.
    pub fn compared_count(&self) -> usize {
        self.compared.len()
    }

    /// How many others agree with this one, and how many differ. Who agreed before the dispute began
    /// proves nothing about it.
    fn count(&self) -> (usize, usize) {
        let differ = self.compared.values().filter(|compared| !compared.agrees);
        let disputed_from = differ.clone().map(|compared| compared.since).min().unwrap_or_default();
        let agrees = |compared: &&Compared| compared.agrees && compared.index >= disputed_from;
        (self.compared.values().filter(agrees).count(), differ.count())
    }

    /// Judges by the other voters; this member, called `me`, may be one of them or a learner.
    /// Learners have no voice: one that never starts would keep the others from deciding.
    pub fn judge(&mut self, voters: &[MemberId], me: MemberId) -> Judgement {
        self.compared.retain(|id, _| voters.contains(id) && *id != me);
        let quorum = voters.len() / 2 + 1;
        let own = usize::from(voters.contains(&me));
        match self.count() {
            (_, 0) => Judgement::Sound,
            (agree, _) if own + agree >= quorum => Judgement::Sound,
            (_, differ) if differ >= quorum => Judgement::Wrong,
            _ => Judgement::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::RangeInclusive<u64>) -> Vec<MemberId> {
        range.map(MemberId).collect()
    }

    fn at_ten(hash: u64) -> Integrity {
        let mut integrity = Integrity::default();
        for index in 1..=9 {
            integrity.applied(LogIndex(index), 0);
        }
        integrity.applied(LogIndex(10), hash);
        integrity
    }

    #[test]
    fn the_one_that_differs_from_two_that_agree_is_wrong_and_knows_it() {
        let mut wrong = at_ten(666);
        for id in ids(2..=3) {
            wrong.heard(id, LogIndex(10), 5);
        }
        assert_eq!(wrong.judge(&ids(1..=3), MemberId(1)), Judgement::Wrong);
        let mut right = at_ten(5);
        right.heard(MemberId(1), LogIndex(10), 666);
        assert_eq!(right.judge(&ids(1..=3), MemberId(2)), Judgement::Undecided);
        right.heard(MemberId(3), LogIndex(10), 5);
        assert_eq!(right.judge(&ids(1..=3), MemberId(2)), Judgement::Sound);
    }

    #[test]
    fn two_of_five_that_differ_each_in_their_way_are_wrong_and_three_are_right() {
        let mut wrong = at_ten(666);
        let mut right = at_ten(5);
        for (id, hash) in [(1, 667), (3, 5), (4, 5), (5, 5)] {
            wrong.heard(MemberId(id), LogIndex(10), hash);
        }
        for (id, hash) in [(1, 667), (2, 666), (4, 5), (5, 5)] {
            right.heard(MemberId(id), LogIndex(10), hash);
        }
        assert_eq!(wrong.judge(&ids(1..=5), MemberId(2)), Judgement::Wrong);
        assert_eq!(right.judge(&ids(1..=5), MemberId(3)), Judgement::Sound);
    }

    #[test]
    fn who_agreed_before_the_dispute_began_does_not_settle_it() {
        let mut wrong = at_ten(666);
        // The third lags: its state at 9 is everybody's.
        wrong.heard(MemberId(3), LogIndex(9), 0);
        wrong.heard(MemberId(2), LogIndex(10), 5);
        assert_eq!(wrong.judge(&ids(1..=3), MemberId(1)), Judgement::Undecided);
        wrong.heard(MemberId(3), LogIndex(10), 5);
        assert_eq!(wrong.judge(&ids(1..=3), MemberId(1)), Judgement::Wrong);
    }

    #[test]
    fn one_of_two_cannot_tell_who_is_wrong() {
        let mut one = at_ten(1);
        one.heard(MemberId(2), LogIndex(10), 2);
        assert_eq!(one.judge(&ids(1..=2), MemberId(1)), Judgement::Undecided);
        assert_eq!(one.judge(&ids(1..=1), MemberId(1)), Judgement::Sound, "the other left");
    }

    #[test]
    fn a_learner_can_be_wrong_and_has_no_voice() {
        let mut learner = at_ten(666);
        learner.heard(MemberId(1), LogIndex(10), 5);
        assert_eq!(learner.judge(&ids(1..=3), MemberId(4)), Judgement::Undecided);
        learner.heard(MemberId(2), LogIndex(10), 5);
        assert_eq!(learner.judge(&ids(1..=3), MemberId(4)), Judgement::Wrong);
        let mut voter = at_ten(666);
        for id in ids(2..=3) {
            voter.heard(id, LogIndex(10), 5);
        }
        voter.heard(MemberId(4), LogIndex(10), 666);
        assert_eq!(voter.judge(&ids(1..=3), MemberId(1)), Judgement::Wrong);
    }

    #[test]
    fn a_hash_of_the_future_is_compared_when_it_is_reached_and_an_old_one_is_not_guessed() {
        let mut integrity = at_ten(5);
        integrity.heard(MemberId(2), LogIndex(11), 7);
        integrity.heard(MemberId(3), LogIndex(11), 7);
        assert_eq!(integrity.judge(&ids(1..=3), MemberId(1)), Judgement::Sound);
        integrity.applied(LogIndex(11), 8);
        integrity.catch_up();
        assert_eq!(integrity.judge(&ids(1..=3), MemberId(1)), Judgement::Wrong);
        integrity.replaced();
        integrity.applied(LogIndex(40), 1);
        integrity.heard(MemberId(2), LogIndex(39), 7);
        assert_eq!(integrity.judge(&ids(1..=3), MemberId(1)), Judgement::Sound);
    }
}
