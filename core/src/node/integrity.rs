//! Whether this member's state equals the others'.
//!
//! Every member tells every other now and then the hash of its state at its newest index. Each
//! compares with its own at that index, and tells its own back if they differ. A member from which
//! a quorum differs in the same way at one index is wrong: its state, not its log. Two that differ
//! where nobody else can tell leave it undecided.
//!
//! Invariant: hashes of different indexes are never compared. Nor are members that differ at
//! different indexes counted together: the first may have been repaired before the second went
//! wrong, and the one in the middle is right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::limits;
use crate::mutant::mutant;
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
    /// What this member told last; an answer to it may come when `own` has moved on.
    told: VecDeque<(LogIndex, u64)>,
    /// Own hashes for those who told another one, not sent yet.
    answers: BTreeMap<MemberId, (LogIndex, u64)>,
    /// Who had which other hash at which index.
    apart: BTreeMap<(LogIndex, u64), BTreeSet<MemberId>>,
}

/// How many own messages are remembered; there is one in a second.
const TOLD_KEPT: usize = 16;
/// How many different hashes of others are remembered.
const APART_KEPT: usize = 128;

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

    /// What the others are to be told: the newest index and its hash to everybody, and to those that
    /// told another hash this member's own at the same index.
    pub fn tell(&mut self) -> Option<Told> {
        let (index, hash) = (self.newest, *self.own.back()?);
        if self.told.back() != Some(&(index, hash)) {
            self.told.push_back((index, hash));
        }
        if self.told.len() > TOLD_KEPT {
            self.told.pop_front();
        }
        Some(Told { everybody: (index, hash), answers: std::mem::take(&mut self.answers) })
    }

    /// Another member's hash.
    pub fn heard(&mut self, from: MemberId, index: LogIndex, hash: u64) {
        if index > self.newest {
            self.early.insert(from, (index, hash));
        } else if let Some(own) = self.at(index) {
            let agrees = own == hash;
            if !agrees {
                self.apart.entry((index, hash)).or_default().insert(from);
                if self.apart.len() > APART_KEPT {
                    self.apart.pop_first();
                }
                self.answers.insert(from, (index, own));
            }
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
        let kept = self.own.len().checked_sub(back + 1).and_then(|position| self.own.get(position));
        kept.copied().or_else(|| self.told.iter().find(|told| told.0 == index).map(|told| told.1))
    }

    /// How many other members' states were compared with this one's.
    pub fn compared_count(&self) -> usize {
        self.compared.len()
    }

    /// How many others agree with this one, and whether any differs. Who agreed before the dispute
    /// began proves nothing about it.
    fn count(&self) -> (usize, bool) {
        let differ = self.compared.values().filter(|compared| !compared.agrees);
        let Some(disputed_from) = differ.map(|compared| compared.since).min() else {
            return (self.compared.len(), false);
        };
        let agrees = |compared: &&Compared| compared.agrees && compared.index >= disputed_from;
        (self.compared.values().filter(agrees).count(), true)
    }

    /// How many others differed when they were last compared, each at its time.
    fn all_differ(&self) -> usize {
        self.compared.values().filter(|compared| !compared.agrees).count()
    }

    /// Judges by the other voters; this member, called `me`, may be one of them or a learner.
    /// Learners have no voice: one that never starts would keep the others from deciding.
    pub fn judge(&mut self, voters: &[MemberId], me: MemberId) -> Judgement {
        let has_voice = |id: &MemberId| voters.contains(id) && *id != me;
        self.compared.retain(|id, _| has_voice(id));
        let quorum = voters.len() / 2 + 1;
        let own = usize::from(voters.contains(&me));
        let outvoted = |side: &BTreeSet<MemberId>| side.iter().filter(|id| has_voice(id)).count() >= quorum;
        match self.count() {
            (_, false) => Judgement::Sound,
            (agree, true) if own + agree >= quorum => Judgement::Sound,
            _ if self.apart.values().any(outvoted) => Judgement::Wrong,
            _ if mutant!("differences_of_any_time_count_together") && self.all_differ() >= quorum => {
                Judgement::Wrong
            }
            _ => Judgement::Undecided,
        }
    }
}

/// See [`Integrity::tell`].
pub struct Told {
    /// For all other members.
    pub everybody: (LogIndex, u64),
    /// For one other member each.
    pub answers: BTreeMap<MemberId, (LogIndex, u64)>,
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
    fn two_that_differ_one_after_the_other_do_not_outvote_the_third() {
        let mut right = at_ten(5);
        right.heard(MemberId(2), LogIndex(9), 666);
        // The second is repaired, which is not heard of, and the third goes wrong.
        right.heard(MemberId(3), LogIndex(10), 667);
        assert_eq!(right.judge(&ids(1..=3), MemberId(1)), Judgement::Undecided);
        right.heard(MemberId(2), LogIndex(10), 5);
        assert_eq!(right.judge(&ids(1..=3), MemberId(1)), Judgement::Sound);
    }

    #[test]
    fn who_differs_answers_at_the_same_index_so_that_two_who_never_speak_of_one_index_decide_it() {
        let (mut wrong, mut second, mut third) = (at_ten(666), at_ten(5), at_ten(5));
        second.applied(LogIndex(11), 50);
        for index in 11..=12 {
            third.applied(LogIndex(index), index + 39);
        }
        for (other, id) in [(&mut second, 2), (&mut third, 3)] {
            let (index, hash) = other.tell().unwrap().everybody;
            wrong.heard(MemberId(id), index, hash);
        }
        wrong.applied(LogIndex(11), 6660);
        wrong.applied(LogIndex(12), 6661);
        wrong.catch_up();
        assert_eq!(wrong.judge(&ids(1..=3), MemberId(1)), Judgement::Undecided, "at 11 and at 12");
        let (index, hash) = wrong.tell().unwrap().everybody;
        second.applied(LogIndex(12), 51);
        for (other, id) in [(&mut second, 2), (&mut third, 3)] {
            other.heard(MemberId(1), index, hash);
            let answers = other.tell().unwrap().answers;
            assert_eq!(answers, BTreeMap::from([(MemberId(1), (LogIndex(12), 51))]));
            assert!(other.tell().unwrap().answers.is_empty(), "once");
            wrong.heard(MemberId(id), LogIndex(12), 51);
        }
        assert_eq!(wrong.judge(&ids(1..=3), MemberId(1)), Judgement::Wrong);
    }

    #[test]
    fn an_answer_to_what_was_told_counts_when_the_hashes_have_moved_on_and_not_after_a_repair() {
        let mut wrong = at_ten(666);
        wrong.tell().unwrap();
        for index in 11..=10 + limits::STATE_HASHES_KEPT as u64 {
            wrong.applied(LogIndex(index), 0);
        }
        let mut repaired = at_ten(666);
        repaired.tell().unwrap();
        repaired.replaced();
        for id in ids(2..=3) {
            wrong.heard(id, LogIndex(10), 5);
            repaired.heard(id, LogIndex(10), 5);
        }
        assert_eq!(wrong.judge(&ids(1..=3), MemberId(1)), Judgement::Wrong);
        assert_eq!(repaired.judge(&ids(1..=3), MemberId(1)), Judgement::Sound);
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
