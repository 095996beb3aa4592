//! Watches, their streams that break, and the bugs of that.

use folkmoot_check::history::*;
use rand::RngExt;

use super::*;

impl World {
    pub(super) fn open_watch(&mut self) {
        let start = match self.rng.random_range(0..4) {
            0 => 0,
            1 => 1,
            2 => 2,
            _ => self.rng.random_range(2..20),
        };
        let range = if self.chance(40) { KeyRange::all() } else { self.key_range() };
        let request = WatchRequest {
            range,
            start_revision: start,
            prev_kv: self.chance(60),
            no_put: self.chance(10),
            no_delete: self.chance(10),
            fragment: self.chance(30),
        };
        let member = self.rng.random_range(0..3);
        let number = self.watches.len();
        let revision = self.members[member].applied;
        let cursor = if start == 0 { revision + 1 } else { start };
        self.watches.push(WatchState { member, cursor, running: true, next: cursor });
        self.history.watches.push(Watch {
            client: 200 + number as u64,
            member: member as u64 + 1,
            invoked: self.now,
            request,
            messages: vec![WatchMessage::Created { at: self.now, revision }],
            drained_to: None,
        });
        self.at(3 * MS, Step::Watch(number));
    }

    pub(super) fn deliver(&mut self, number: usize) {
        if self.watches[number].running && self.chance(4) {
            self.history.watches[number].messages.push(WatchMessage::Ended { at: self.now });
            self.watches[number].running = false;
        } else if self.watches[number].running {
            self.deliver_batch(number);
        } else {
            self.resume(number);
        }
        let wait = self.rng.random_range(MS..80 * MS);
        self.at(wait, Step::Watch(number));
    }

    pub(super) fn resume(&mut self, number: usize) {
        let member = self.rng.random_range(0..3);
        let revision = self.members[member].applied;
        let state = &mut self.watches[number];
        let start_revision = state.next;
        *state = WatchState { member, cursor: start_revision, running: true, next: start_revision };
        if self.config.bug == Bug::WatchDropsOnResume {
            self.watches[number].cursor += 1;
        }
        let at = self.now;
        let messages = &mut self.history.watches[number].messages;
        messages.push(WatchMessage::Resumed { at, member: member as u64 + 1, start_revision });
        messages.push(WatchMessage::Created { at, revision });
    }

    pub(super) fn deliver_batch(&mut self, number: usize) {
        let at = self.now;
        let state = &self.watches[number];
        let applied = self.members[state.member].applied;
        let request = self.history.watches[number].request.clone();
        let false_alarm = state.cursor > 2 && self.strikes(Bug::WatchFalseCompaction);
        let state = &self.watches[number];
        if state.cursor < self.compacted || false_alarm {
            if self.config.bug == Bug::WatchSkipsCompacted {
                self.watches[number].cursor = self.compacted;
                return;
            }
            let compact_revision = if false_alarm { state.cursor - 1 } else { self.compacted };
            self.history.watches[number].messages.push(WatchMessage::Compacted { at, compact_revision });
            self.watches[number].next = state.cursor.max(compact_revision);
            self.watches[number].running = false;
            return;
        }
        if state.cursor > applied {
            let ahead = self.revision > applied && self.config.bug == Bug::WatchProgressAhead;
            let revision = if ahead { self.revision } else { applied };
            // A watch from the future is told nothing before it is reached.
            if state.cursor == applied + 1 && self.chance(50) {
                self.history.watches[number].messages.push(WatchMessage::Progress { at, revision });
            }
            return;
        }
        let cursor = state.cursor;
        let to = self.rng.random_range(cursor..=applied);
        let mut events: Vec<Event> = Vec::new();
        let mut first_of_last = 0;
        let foreign = self.strikes(Bug::WatchForeignKey);
        for change in self.changes.iter().filter(|change| (cursor..=to).contains(&change.revision)) {
            first_of_last = events.len();
            for event in &change.events {
                if request.wants(event) || (foreign && event.kind == EventKind::Put) {
                    let mut event = event.clone();
                    if !request.prev_kv || change.revision <= self.compacted {
                        event.prev_kv = None;
                    }
                    events.push(event);
                }
            }
        }
        self.spoil_events(&mut events);
        self.watches[number].cursor = to + 1;
        if events.is_empty() {
            return;
        }
        let mut messages = Vec::new();
        if request.fragment && self.chance(50) && first_of_last < events.len() {
            let at_most = events.len();
            let cut = self.rng.random_range(first_of_last..at_most);
            let rest = events.split_off(cut);
            if !events.is_empty() {
                messages.push(WatchMessage::Events { at, revision: applied, events, fragment: true });
            }
            events = rest;
        }
        if events.len() > 1 && self.strikes(Bug::WatchTorn) {
            let rest = events.split_off(events.len() - 1);
            messages.push(WatchMessage::Events { at, revision: applied, events, fragment: false });
            events = rest;
        }
        messages.push(WatchMessage::Events { at, revision: applied, events, fragment: false });
        self.history.watches[number].messages.extend(messages);
        self.watches[number].next = to + 1;
    }

    pub(super) fn spoil_events(&mut self, events: &mut Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..events.len());
        if self.strikes(Bug::WatchDuplicate) {
            events.insert(index, events[index].clone());
        }
        if self.strikes(Bug::WatchDrop) {
            events.remove(index);
        }
        if index > 0 && self.strikes(Bug::WatchReorder) {
            events.swap(index - 1, index);
        }
        if let Some(event) = events.get_mut(index)
            && self.strikes(Bug::WatchPrevKv)
            && let Some(prev) = &mut event.prev_kv
        {
            prev.version += 1;
            prev.mod_revision = prev.mod_revision.max(prev.create_revision + 1);
            prev.value = "wrong".into();
        }
    }
}
