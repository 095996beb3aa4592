//! What the cluster itself must keep true, whatever clients see: compared between members at every
//! step, online.
//!
//! - one leader a term;
//! - a committed entry never changes, is the same on all members, and is in the log of every later
//!   leader;
//! - an entry counts as committed only when a majority of the voters has it on its disk;
//! - the same revision has the same changes on every member, and the same state hash.

use std::collections::BTreeMap;
use std::sync::Arc;

use folkmoot_core::event::{EventBatch, EventKind};
use folkmoot_core::types::{LeaseId, LogIndex, MemberId, Term};
use folkmoot_core::wal::{LogEntry, LogPoint, Record, records};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::time::Nanos;

/// What makes an entry this entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Its term.
    pub term: Term,
    /// Hash over its kind and payload.
    pub hash: u64,
}

/// One change of a log, as its writer saw it.
#[derive(Clone, Copy, Debug)]
pub enum LogChange {
    /// An entry was written.
    Entry(LogIndex, Stamp),
    /// The log restarted after a snapshot.
    Reset(LogPoint),
    /// Everything up to here is committed.
    Commit(LogIndex),
}

/// The changes that a batch of records makes.
pub fn log_changes(bytes: &[u8], out: &mut Vec<LogChange>) {
    for record in records(bytes) {
        match record.expect("the core encodes records") {
            Record::Entry { point, kind, data } => {
                let hash = xxh3_64_with_seed(data, u64::from(kind));
                out.push(LogChange::Entry(point.index, Stamp { term: point.term, hash }));
            }
            Record::Reset(point) => out.push(LogChange::Reset(point)),
            Record::HardState(state) => out.push(LogChange::Commit(state.commit)),
        }
    }
}

/// A member's log without its payloads.
#[derive(Clone, Default, Debug)]
pub struct LogView {
    start: u64,
    entries: Vec<Stamp>,
    commit: u64,
}

impl LogView {
    /// The view of a log that was read back.
    pub fn recovered(start: LogPoint, entries: &[LogEntry], commit: LogIndex) -> Self {
        let stamp = |entry: &LogEntry| Stamp {
            term: entry.term,
            hash: xxh3_64_with_seed(&entry.data, u64::from(entry.kind)),
        };
        Self { start: start.index.0, entries: entries.iter().map(stamp).collect(), commit: commit.0 }
    }

    /// Follows a change.
    pub fn follow(&mut self, change: LogChange) {
        match change {
            LogChange::Entry(index, stamp) => {
                let keep = index.0.saturating_sub(self.start + 1) as usize;
                self.entries.truncate(keep);
                self.entries.push(stamp);
            }
            LogChange::Reset(point) => {
                self.start = point.index.0;
                self.entries.clear();
            }
            LogChange::Commit(index) => self.commit = self.commit.max(index.0),
        }
    }

    /// The entry at `index`: `None` if the log does not know any more, or not yet.
    pub fn get(&self, index: u64) -> Option<Stamp> {
        self.entries.get(usize::try_from(index.checked_sub(self.start + 1)?).ok()?).copied()
    }

    /// Whether the log once had an entry here and has forgotten it since.
    pub fn is_before_start(&self, index: u64) -> bool {
        index <= self.start
    }

    /// Up to where the log itself says that it is committed.
    pub fn commit(&self) -> u64 {
        self.commit.max(self.start)
    }

    /// The last index.
    pub fn last(&self) -> u64 {
        self.start + self.entries.len() as u64
    }

    /// Whether the entry is in the log, as far as it can tell.
    pub fn holds(&self, index: u64, stamp: Stamp) -> bool {
        self.is_before_start(index) || self.get(index) == Some(stamp)
    }
}

/// All changes of one revision, and the hash by which members are compared.
struct Applied {
    hash: u64,
    batch: Arc<EventBatch>,
    at: Nanos,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    /// By index, from 1 on; `None` where the cluster began with rows instead of entries.
    committed: Vec<Option<Stamp>>,
    /// In which term each of those was first called committed, at the latest; it never falls.
    committed_in: Vec<Term>,
    leaders: BTreeMap<Term, MemberId>,
    /// From revision 2 on.
    applied: Vec<Applied>,
    hashes: BTreeMap<u64, u64>,
}

/// The first revision a change can have.
const FIRST_REVISION: i64 = 2;

impl Ledger {
    /// A cluster that begins with rows as of entry 1.
    pub fn new() -> Self {
        Self { committed: vec![None], committed_in: vec![Term(0)], ..Self::default() }
    }

    /// A member says that `leader` leads `term`.
    pub fn leader(&mut self, term: Term, leader: MemberId) -> Result<bool, String> {
        let mut new = false;
        let known = *self.leaders.entry(term).or_insert_with(|| {
            new = true;
            leader
        });
        if known != leader {
            return Err(format!("two leaders of one term; term={term} leaders={known},{leader}"));
        }
        Ok(new)
    }

    /// A member that just became leader of `term`: all that was committed in earlier terms must be
    /// in its log. The leader of a term that is over by then, who has yet to hear of it, owes nothing
    /// for what came after.
    pub fn leader_is_complete(&self, term: Term, log: &LogView) -> Result<(), String> {
        let owed = self.committed_in.partition_point(|committed_in| *committed_in < term);
        match owed.checked_sub(1).map(|at| self.committed[at]) {
            Some(Some(stamp)) if !log.holds(owed as u64, stamp) => Err(format!(
                "a leader lacks a committed entry; index={owed} committed={stamp:?} leader_has={:?}",
                log.get(owed as u64)
            )),
            _ => Ok(()),
        }
    }

    /// The last entry that is committed as far as any member knows.
    pub fn last_committed(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    /// A member says in `term` that everything up to `index` is committed. `durable` counts for a stamp the
    /// voters that have it on disk, and says how many make a majority. Up to `snapshot` the member
    /// has rows instead of entries, or will have them when it has put them in place.
    pub fn committed(
        &mut self,
        term: Term,
        index: LogIndex,
        known_before: LogIndex,
        log: &LogView,
        snapshot: LogIndex,
        durable: impl Fn(u64, Stamp) -> Result<(), String>,
    ) -> Result<(), String> {
        for at in known_before.0.max(snapshot.0) + 1..=index.0 {
            let Some(stamp) = log.get(at) else {
                if log.is_before_start(at) {
                    continue;
                }
                return Err(format!("a member calls an entry committed that it does not have; index={at}"));
            };
            match self.committed.get(at as usize - 1) {
                Some(Some(known)) if *known == stamp => {}
                Some(known) => {
                    return Err(format!(
                        "a committed entry differs between members; index={at} first={known:?} now={stamp:?}"
                    ));
                }
                None if at as usize == self.committed.len() + 1 => {
                    durable(at, stamp)?;
                    self.committed.push(Some(stamp));
                    let latest = self.committed_in.last().copied().unwrap_or_default();
                    self.committed_in.push(term.max(latest));
                }
                None => return Err(format!("a committed entry was never seen; index={at}")),
            }
        }
        Ok(())
    }

    /// A member applied a revision.
    pub fn applied(&mut self, now: Nanos, batch: &Arc<EventBatch>) -> Result<(), String> {
        let hash = hash_of(batch);
        let place = usize::try_from(batch.revision - FIRST_REVISION)
            .map_err(|_| format!("a change has revision {}", batch.revision))?;
        match self.applied.get(place) {
            Some(known) if known.hash == hash => Ok(()),
            Some(known) => Err(format!(
                "one revision has two different changes; revision={} first={:?} now={:?}",
                batch.revision, known.batch, batch
            )),
            None if place == self.applied.len() => {
                self.applied.push(Applied { hash, batch: Arc::clone(batch), at: now });
                Ok(())
            }
            None => Err(format!("a revision was skipped; revision={}", batch.revision)),
        }
    }

    /// A member's state hash after a log entry.
    pub fn state_hash(&mut self, index: LogIndex, hash: u64) -> Result<(), String> {
        let known = *self.hashes.entry(index.0).or_insert(hash);
        if known != hash {
            return Err(format!(
                "states differ after one entry; index={index} first={known:016x} now={hash:016x}"
            ));
        }
        Ok(())
    }

    /// Whether this is the known state hash after an entry.
    pub fn has_state_hash(&self, index: LogIndex, hash: u64) -> bool {
        self.hashes.get(&index.0) == Some(&hash)
    }

    /// The last revision applied anywhere.
    pub fn revision(&self) -> i64 {
        self.applied.len() as i64 + FIRST_REVISION - 1
    }

    /// All changes, in order, each with the moment when it first took effect on a member.
    pub fn changes(&self) -> impl Iterator<Item = (Nanos, &EventBatch)> {
        self.applied.iter().map(|applied| (applied.at, applied.batch.as_ref()))
    }

    /// Leaders seen.
    pub fn leader_count(&self) -> usize {
        self.leaders.len()
    }
}

fn hash_of(batch: &EventBatch) -> u64 {
    batch.events.iter().fold(batch.revision as u64, |hash, event| {
        let kv = &event.kv;
        let numbers = [
            kv.create_revision,
            kv.mod_revision,
            kv.version,
            LeaseId::to_wire(kv.lease),
            i64::from(event.kind == EventKind::Delete),
            i64::from(event.sub),
        ];
        let mut bytes = [0u8; 48];
        for (at, number) in numbers.iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&number.to_le_bytes());
        }
        let hash = xxh3_64_with_seed(&bytes, hash);
        xxh3_64_with_seed(&kv.value, xxh3_64_with_seed(&kv.key, hash))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(term: u64, hash: u64) -> Stamp {
        Stamp { term: Term(term), hash }
    }

    fn log(stamps: &[Stamp]) -> LogView {
        LogView { start: 0, entries: stamps.to_vec(), commit: 0 }
    }

    #[test]
    fn a_second_leader_of_a_term_is_reported() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.leader(Term(1), MemberId(1)), Ok(true));
        assert_eq!(ledger.leader(Term(1), MemberId(1)), Ok(false));
        assert!(ledger.leader(Term(1), MemberId(2)).is_err());
    }

    #[test]
    fn a_committed_entry_that_changes_or_that_a_leader_lacks_is_reported() {
        let mut ledger = Ledger::default();
        let good = log(&[stamp(1, 10), stamp(1, 20)]);
        ledger.committed(Term(1), LogIndex(2), LogIndex(0), &good, LogIndex(0), |_, _| Ok(())).unwrap();
        let bad = log(&[stamp(1, 10), stamp(2, 30)]);
        assert!(
            ledger.committed(Term(2), LogIndex(2), LogIndex(0), &bad, LogIndex(0), |_, _| Ok(())).is_err()
        );
        let short = log(&[stamp(1, 10)]);
        assert!(ledger.leader_is_complete(Term(2), &good).is_ok());
        assert!(ledger.leader_is_complete(Term(2), &bad).is_err());
        assert!(ledger.leader_is_complete(Term(2), &short).is_err());
        // What the third term committed is owed by the fourth and not by the second.
        let more = log(&[stamp(1, 10), stamp(1, 20), stamp(3, 40)]);
        ledger.committed(Term(3), LogIndex(3), LogIndex(2), &more, LogIndex(0), |_, _| Ok(())).unwrap();
        assert!(ledger.leader_is_complete(Term(2), &good).is_ok());
        assert!(ledger.leader_is_complete(Term(2), &short).is_err());
        assert!(ledger.leader_is_complete(Term(4), &good).is_err());
        assert!(ledger.leader_is_complete(Term(4), &more).is_ok());
    }

    #[test]
    fn an_entry_committed_without_being_durable_is_reported() {
        let mut ledger = Ledger::default();
        let log = log(&[stamp(1, 10)]);
        let refused = ledger
            .committed(Term(1), LogIndex(1), LogIndex(0), &log, LogIndex(0), |_, _| Err("no quorum".into()));
        assert_eq!(refused, Err("no quorum".to_owned()));
    }

    #[test]
    fn an_entry_replaces_what_followed_it() {
        let mut view = log(&[stamp(1, 1), stamp(1, 2), stamp(1, 3)]);
        view.follow(LogChange::Entry(LogIndex(2), stamp(2, 9)));
        assert_eq!((view.last(), view.get(2)), (2, Some(stamp(2, 9))));
        view.follow(LogChange::Reset(LogPoint { index: LogIndex(7), term: Term(2) }));
        assert!(view.holds(7, stamp(5, 5)) && view.get(7).is_none());
        assert_eq!(view.last(), 7);
    }
}
