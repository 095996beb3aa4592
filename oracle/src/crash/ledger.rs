//! What a server must hold, because it said so.
//!
//! The ledger is a small store of its own: it replays the history it reads from the server and asks
//! of every revision which request it came from. Acknowledged requests must be there, at the revision
//! that was acknowledged, exactly once and with exactly their effect; unanswered ones may be there
//! once; nothing else may. The remembered history must not change either, and the keys and leases
//! must be what the history says. Compactions stay below what the ledger has already seen, so no
//! revision escapes it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use bytes::Bytes;
use folkmoot_proto::mvccpb::{Event, KeyValue};

use super::inspect::Found;
use super::load::{Action, Change, Outcome, Record};

/// Everything known about a server.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The newest revision that was checked.
    known: i64,
    /// The last acknowledged or seen compaction.
    compacted: i64,
    /// The keys at the known revision.
    keys: BTreeMap<Bytes, KeyValue>,
    /// Leases that must be there.
    leases: BTreeSet<i64>,
    /// Checked events after the compacted revision.
    history: BTreeMap<i64, Vec<Event>>,
    /// Requests since the last check.
    records: Vec<Record>,
}

impl Ledger {
    /// The newest checked revision.
    pub fn known(&self) -> i64 {
        self.known
    }

    /// Revisions that may be compacted without hiding anything from the ledger.
    pub fn compactable(&self) -> Option<RangeInclusive<i64>> {
        Some(self.compacted + 1..=self.known).filter(|range| !range.is_empty() && self.known > 1)
    }

    /// Notes a compaction that was acknowledged.
    pub fn compacted(&mut self, revision: i64) {
        self.compacted = revision;
        self.history.retain(|known, _| *known > revision);
    }

    /// Notes the requests of a round.
    pub fn add(&mut self, records: Vec<Record>) {
        self.records = records;
    }

    /// Checks what a server holds and takes it over. Returns how many unanswered requests had taken
    /// effect and how many had not.
    pub fn settle(&mut self, found: &Found) -> Result<(u64, u64), String> {
        let records = std::mem::take(&mut self.records);
        if let Some(refused) = records.iter().find(|record| matches!(record.outcome, Outcome::Refused(_))) {
            return Err(format!("a legal request was refused: {refused:?}"));
        }
        self.check_compaction(found, &records)?;
        let old: Vec<_> = found.history.range(..=self.known).collect();
        if old != self.history.iter().collect::<Vec<_>>() {
            return Err(format!("history that was checked before has changed up to revision={}", self.known));
        }

        let mut writes: BTreeMap<i64, &Record> = BTreeMap::new();
        let mut revokes: Vec<(i64, &Record)> = Vec::new();
        let mut open: Vec<&Record> = Vec::new();
        for record in &records {
            if let Outcome::Acked(revision) | Outcome::Idle(revision) = record.outcome
                && revision > found.revision
            {
                return Err(format!("an acknowledged revision is gone now={}: {record:?}", found.revision));
            }
            match (&record.action, &record.outcome) {
                (Action::Write(_), Outcome::Acked(revision)) => {
                    if *revision <= record.floor {
                        return Err(format!("a write got an old revision: {record:?}"));
                    }
                    if let Some(other) = writes.insert(*revision, record) {
                        return Err(format!("two writes got the same revision: {other:?} {record:?}"));
                    }
                }
                (Action::Revoke(_), Outcome::Acked(revision)) => revokes.push((*revision, record)),
                (_, Outcome::Open) => open.push(record),
                _ => {}
            }
        }
        let unanswered =
            open.iter().filter(|record| !matches!(record.action, Action::Compact(_))).count() as u64;
        let mut absent = unanswered;

        for revision in self.known.max(1) + 1..=found.revision {
            let write = writes.remove(&revision);
            let Some(events) = found.history.get(&revision) else {
                return Err(format!(
                    "a revision is missing from the history revision={revision} asked by {write:?}"
                ));
            };
            let fits = |record: &Record| self.expected(&record.action, revision) == *events;
            let record = if let Some(record) = write {
                if !fits(record) {
                    return Err(format!(
                        "an acknowledged request has another effect: {record:?}\n{}",
                        tell(events)
                    ));
                }
                record
            // A lease without keys ends without a revision of its own, and shows somebody else's.
            } else if let Some((_, record)) =
                revokes.iter().find(|(at, record)| *at == revision && fits(record))
            {
                record
            } else if let Some(at) = open.iter().position(|record| fits(record)) {
                absent -= 1;
                open.remove(at)
            } else {
                return Err(format!(
                    "nobody asked for what happened at revision={revision}\n{}",
                    tell(events)
                ));
            };
            if let Action::Revoke(id) = record.action {
                self.leases.remove(&id);
            }
            self.apply(events);
        }
        if let Some(record) = writes.values().next() {
            return Err(format!("an acknowledged request is missing: {record:?}"));
        }
        if self.keys != found.keys {
            return Err(format!("the keys are not what the history says revision={}", found.revision));
        }
        self.check_leases(found, &records)?;
        self.known = found.revision;
        self.compacted = found.compacted.max(0);
        self.history = found.history.clone();
        Ok((unanswered - absent, absent))
    }

    /// The events a request causes if it runs at this revision, on the keys as they are.
    fn expected(&self, action: &Action, revision: i64) -> Vec<Event> {
        let delete = |key: &Bytes| {
            let kv = KeyValue { key: key.clone(), mod_revision: revision, ..Default::default() };
            self.keys.contains_key(key).then(|| Event { r#type: 1, kv: Some(kv), prev_kv: None })
        };
        match action {
            Action::Write(changes) => changes
                .iter()
                .filter_map(|change| match change {
                    Change::Put { key, value, lease } => {
                        let old = self.keys.get(key);
                        let kv = KeyValue {
                            key: key.clone(),
                            value: value.clone(),
                            lease: *lease,
                            create_revision: old.map_or(revision, |kv| kv.create_revision),
                            mod_revision: revision,
                            version: old.map_or(1, |kv| kv.version + 1),
                        };
                        Some(Event { r#type: 0, kv: Some(kv), prev_kv: None })
                    }
                    Change::Delete { key } => delete(key),
                })
                .collect(),
            Action::Revoke(id) => self.keys_of(*id).iter().filter_map(delete).collect(),
            Action::Grant(_) | Action::Compact(_) => Vec::new(),
        }
    }

    fn keys_of(&self, lease: i64) -> BTreeSet<Bytes> {
        self.keys.values().filter(|kv| kv.lease == lease).map(|kv| kv.key.clone()).collect()
    }

    fn apply(&mut self, events: &[Event]) {
        for event in events {
            let Some(kv) = &event.kv else { continue };
            if event.r#type == 0 {
                self.keys.insert(kv.key.clone(), kv.clone());
            } else {
                self.keys.remove(&kv.key);
            }
        }
    }

    /// An acknowledged compaction must not be forgotten; an unanswered one may have happened.
    fn check_compaction(&mut self, found: &Found, records: &[Record]) -> Result<(), String> {
        let mut possible = BTreeSet::from([self.compacted]);
        for record in records {
            if let Action::Compact(revision) = record.action {
                if record.is_acked() {
                    possible.clear();
                }
                possible.insert(revision);
            }
        }
        let compacted = found.compacted.max(0);
        if !possible.contains(&compacted) {
            return Err(format!("the compacted revision is {compacted}, expected one of {possible:?}"));
        }
        self.compacted(compacted);
        Ok(())
    }

    /// Checks leases and takes over what unanswered requests left open.
    fn check_leases(&mut self, found: &Found, records: &[Record]) -> Result<(), String> {
        let mut uncertain = BTreeSet::new();
        for record in records {
            match (&record.action, record.is_acked()) {
                (Action::Grant(id), true) => {
                    self.leases.insert(*id);
                }
                (Action::Grant(id), false) => {
                    uncertain.insert(*id);
                }
                _ => {}
            }
        }
        for record in records {
            match (&record.action, record.is_acked()) {
                (Action::Revoke(id), true) => {
                    self.leases.remove(id);
                }
                // With keys the history has told; without, nothing can.
                (Action::Revoke(id), false) if self.leases.contains(id) && self.keys_of(*id).is_empty() => {
                    self.leases.remove(id);
                    uncertain.insert(*id);
                }
                _ => {}
            }
        }
        for id in &self.leases {
            let keys =
                found.leases.get(id).ok_or_else(|| format!("an acknowledged lease is gone id={id}"))?;
            if *keys != self.keys_of(*id) {
                return Err(format!(
                    "a lease has other keys id={id} has={keys:?} expected={:?}",
                    self.keys_of(*id)
                ));
            }
        }
        let orphan = |kv: &&KeyValue| kv.lease != 0 && !found.leases.contains_key(&kv.lease);
        if let Some(kv) = self.keys.values().find(orphan) {
            return Err(format!("a key outlived its lease key={:?} id={}", kv.key, kv.lease));
        }
        if let Some(id) = found.leases.keys().find(|id| !self.leases.contains(id) && !uncertain.contains(id))
        {
            return Err(format!("a lease that nobody has granted, or that was revoked id={id}"));
        }
        self.leases = found.leases.keys().copied().collect();
        Ok(())
    }
}

fn tell(events: &[Event]) -> String {
    events.iter().map(crate::text::event).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &'static str, outcome: Outcome) -> Record {
        let change = Change::Put { key: "k".into(), value: value.into(), lease: 0 };
        Record { action: Action::Write(vec![change]), outcome, floor: 1 }
    }

    /// A server that holds exactly these values of one key, from revision 2 on.
    fn found(values: &[&'static str]) -> Found {
        let mut ledger = Ledger::default();
        let mut found = Found { revision: 1, compacted: -1, ..Found::default() };
        for value in values {
            found.revision += 1;
            let events = ledger.expected(&put(value, Outcome::Open).action, found.revision);
            ledger.apply(&events);
            found.history.insert(found.revision, events);
        }
        found.keys = ledger.keys;
        found
    }

    fn check(records: Vec<Record>, found: &Found) -> Result<(u64, u64), String> {
        let mut ledger = Ledger::default();
        ledger.add(records);
        ledger.settle(found)
    }

    #[test]
    fn acknowledged_writes_must_be_there() {
        let records = || vec![put("a", Outcome::Acked(2)), put("b", Outcome::Acked(3))];
        assert_eq!(check(records(), &found(&["a", "b"])), Ok((0, 0)));
        assert!(check(records(), &found(&["a"])).is_err());
        assert!(check(records(), &found(&["b", "a"])).is_err());
        assert!(check(records(), &found(&["a", "c"])).is_err());
        assert!(check(records(), &found(&["a", "b", "b"])).is_err());
    }

    #[test]
    fn unanswered_writes_may_be_there_once() {
        let records = || vec![put("a", Outcome::Acked(2)), put("b", Outcome::Open)];
        assert_eq!(check(records(), &found(&["a"])), Ok((0, 1)));
        assert_eq!(check(records(), &found(&["a", "b"])), Ok((1, 0)));
        assert!(check(records(), &found(&["a", "b", "b"])).is_err());
    }

    #[test]
    fn keys_must_agree_with_the_history() {
        let mut found = found(&["a", "b"]);
        found.keys.clear();
        assert!(check(vec![put("a", Outcome::Acked(2)), put("b", Outcome::Acked(3))], &found).is_err());
    }

    #[test]
    fn checked_history_must_not_change_later() {
        let mut ledger = Ledger::default();
        ledger.add(vec![put("a", Outcome::Acked(2))]);
        assert_eq!(ledger.settle(&found(&["a"])), Ok((0, 0)));
        assert_eq!(ledger.settle(&found(&["a"])), Ok((0, 0)));
        assert!(ledger.settle(&found(&["z"])).is_err());
    }

    #[test]
    fn an_acknowledged_lease_must_survive_with_its_keys() {
        let grant = Record { action: Action::Grant(9), outcome: Outcome::Acked(1), floor: 0 };
        let empty = Found { revision: 1, compacted: -1, ..Found::default() };
        assert!(check(vec![grant.clone()], &empty).is_err());
        let mut held = empty.clone();
        held.leases.insert(9, BTreeSet::new());
        assert!(check(vec![grant.clone()], &held).is_ok());
        held.leases.insert(9, BTreeSet::from([Bytes::from("k")]));
        assert!(check(vec![grant], &held).is_err());
        assert!(check(Vec::new(), &held).is_err());
    }

    #[test]
    fn an_acknowledged_compaction_is_not_forgotten() {
        let compact = |outcome| Record { action: Action::Compact(1), outcome, floor: 0 };
        let with = |compacted| Found { revision: 1, compacted, ..Found::default() };
        assert!(check(vec![compact(Outcome::Acked(1))], &with(1)).is_ok());
        assert!(check(vec![compact(Outcome::Acked(1))], &with(-1)).is_err());
        assert!(check(vec![compact(Outcome::Open)], &with(-1)).is_ok());
        assert!(check(vec![compact(Outcome::Open)], &with(1)).is_ok());
    }
}
