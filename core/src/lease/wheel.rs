//! A hashed timing wheel: ids waiting in slots of 100 ms.
//!
//! The wheel knows times only as slots, and reaches one turn ahead; its owner keeps the exact
//! deadlines and puts an id that came round too early back in. An id may wait in a slot that its
//! owner has forgotten about; the owner ignores it when it comes out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::{Instant64, LeaseId};

/// How exact the wheel is: an id comes out at most this long after its deadline.
pub const SLOT: Duration = Duration::from_millis(100);

const SLOT_NANOS: u64 = SLOT.as_nanos() as u64;
/// One turn of the wheel in slots, one minute.
const SLOT_COUNT: u64 = 600;

/// See the module.
pub(super) struct Wheel {
    slots: Vec<Vec<LeaseId>>,
    /// The oldest slot that has not passed wholly, counted from the start of time.
    current: u64,
    /// Ids whose slot has passed, with that slot, oldest first.
    passed: VecDeque<(LeaseId, u64)>,
}

fn slot_of(time: Instant64) -> u64 {
    time.0 / SLOT_NANOS
}

impl Wheel {
    /// An empty wheel that starts turning at `now`.
    pub(super) fn new(now: Instant64) -> Self {
        Self { slots: vec![Vec::new(); SLOT_COUNT as usize], current: slot_of(now), passed: VecDeque::new() }
    }

    /// Puts an id where its deadline is, or as far ahead as the wheel reaches; returns the slot.
    pub(super) fn insert(&mut self, id: LeaseId, deadline: Instant64) -> u64 {
        let slot = slot_of(deadline).min(self.current + SLOT_COUNT - 1);
        if slot < self.current {
            self.passed.push_back((id, slot));
        } else {
            self.slots[(slot % SLOT_COUNT) as usize].push(id);
        }
        slot
    }

    /// Turns the wheel: ids come out when their slot has passed wholly.
    pub(super) fn turn(&mut self, now: Instant64) {
        let target = slot_of(now);
        // After a long pause one turn visits every slot.
        for slot in self.current..target.min(self.current.saturating_add(SLOT_COUNT)) {
            // Taking the list, not draining it, gives the memory of a crowd back.
            let ids = std::mem::take(&mut self.slots[(slot % SLOT_COUNT) as usize]);
            self.passed.extend(ids.into_iter().map(|id| (id, slot)));
        }
        self.current = self.current.max(target);
    }

    /// One id whose slot has passed, with the slot.
    pub(super) fn pop(&mut self) -> Option<(LeaseId, u64)> {
        let popped = self.passed.pop_front();
        if self.passed.is_empty() {
            self.passed = VecDeque::new();
        }
        popped
    }

    /// When ids come out next: at once (the start of time) if some are out already, `None` when
    /// the wheel is empty.
    pub(super) fn next_due(&self) -> Option<Instant64> {
        if !self.passed.is_empty() {
            return Some(Instant64(0));
        }
        (self.current..self.current + SLOT_COUNT)
            .find(|slot| !self.slots[(slot % SLOT_COUNT) as usize].is_empty())
            .map(|slot| Instant64((slot + 1).saturating_mul(SLOT_NANOS)))
    }
}
