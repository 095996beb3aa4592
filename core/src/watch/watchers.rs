//! The watchers of all streams, in one table.

use super::groups::GroupIndex;
use super::streams::StreamIndex;

/// Index of a watcher; reused after it is gone.
pub(super) type WatcherIndex = u32;

/// A watcher that may be gone when the reference is used.
#[derive(Clone, Copy)]
pub(super) struct WatcherRef {
    pub(super) at: WatcherIndex,
    generation: u32,
}

/// Where a watcher stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Everything up to the hub's revision was queued. The number is its place in its group.
    Live(u32),
    /// Has yet to see the revisions from `next` on; waits in its stream's queue.
    Cursor,
    /// Cancelled by compaction. It gets nothing, but its id stays taken until the client cancels
    /// it, and the stream is not in sync (as in etcd).
    Compacted,
}

/// One watcher; kept small, there may be a million.
pub(super) struct Watcher {
    pub(super) id: i64,
    /// The first revision that may be delivered. A live watcher's is only raised when it turns
    /// into a cursor; until then the hub's next revision counts if it is larger.
    pub(super) next: i64,
    /// As the client gave it; no progress before the store is there.
    pub(super) start_revision: i64,
    pub(super) stream: StreamIndex,
    pub(super) group: GroupIndex,
    pub(super) state: State,
    pub(super) variant: Variant,
    pub(super) fragment: bool,
    pub(super) progress_notify: bool,
    /// Got events since the last progress tick.
    pub(super) active: bool,
}

/// The options that change which events a watcher gets and what is in them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Variant {
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) prev_kv: bool,
}

impl Variant {
    /// How many there are.
    pub(super) const COUNT: usize = 8;

    /// A number below [`Variant::COUNT`].
    pub(super) fn number(self) -> usize {
        usize::from(self.no_put) | usize::from(self.no_delete) << 1 | usize::from(self.prev_kv) << 2
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Watchers {
    slots: Vec<Slot>,
    free: Vec<WatcherIndex>,
}

struct Slot {
    generation: u32,
    watcher: Option<Watcher>,
}

impl Watchers {
    pub(super) fn insert(&mut self, watcher: Watcher) -> WatcherIndex {
        match self.free.pop() {
            Some(at) => {
                self.slots[at as usize].watcher = Some(watcher);
                at
            }
            None => {
                self.slots.push(Slot { generation: 0, watcher: Some(watcher) });
                (self.slots.len() - 1) as WatcherIndex
            }
        }
    }

    pub(super) fn remove(&mut self, at: WatcherIndex) -> Watcher {
        let slot = &mut self.slots[at as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(at);
        slot.watcher.take().expect("a stream and its watchers know each other")
    }

    pub(super) fn get(&self, at: WatcherIndex) -> &Watcher {
        self.slots[at as usize].watcher.as_ref().expect("a stream and its watchers know each other")
    }

    pub(super) fn get_mut(&mut self, at: WatcherIndex) -> &mut Watcher {
        self.slots[at as usize].watcher.as_mut().expect("a stream and its watchers know each other")
    }

    pub(super) fn reference(&self, at: WatcherIndex) -> WatcherRef {
        WatcherRef { at, generation: self.slots[at as usize].generation }
    }

    /// The watcher of a reference if it is still the same.
    pub(super) fn resolve(&self, reference: WatcherRef) -> Option<WatcherIndex> {
        let slot = &self.slots[reference.at as usize];
        (slot.generation == reference.generation && slot.watcher.is_some()).then_some(reference.at)
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// All watchers.
    pub(super) fn indexes(&self) -> Vec<WatcherIndex> {
        (0..self.slots.len() as WatcherIndex)
            .filter(|at| self.slots[*at as usize].watcher.is_some())
            .collect()
    }
}
