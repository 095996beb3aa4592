//! What is wrong with each directed pair of nodes at this moment.
//!
//! Nodes are numbered: members first, the clients last. Troubles are imposed one by one and may
//! overlap; the condition of a pair is what all of them together make of it. A trouble ends when its
//! guard is dropped, so nothing stays spoiled by accident. The carriers (`switch`, `proxy`) only read
//! conditions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// A member by its place, or the clients, which come after the last member.
pub type NodeIndex = usize;

/// One thing that is wrong with a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// Nothing gets through.
    Blocked,
    /// Each packet is lost with this probability; the proxy resets connections instead.
    Loss(f64),
    /// Everything arrives later by `base` and up to `jitter` more.
    Delay {
        /// The least delay.
        base: Duration,
        /// Added at random, without changing the order.
        jitter: Duration,
    },
    /// No more bytes a second than this.
    Rate(u64),
}

/// All troubles of one pair together.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Condition {
    /// Nothing gets through.
    pub blocked: bool,
    /// Probability of loss.
    pub loss: f64,
    /// Least delay.
    pub delay: Duration,
    /// Random addition to the delay.
    pub jitter: Duration,
    /// Bytes a second, if bounded.
    pub rate: Option<u64>,
}

impl Condition {
    /// Whether something has to wait on this pair.
    pub fn waits(&self) -> bool {
        !self.delay.is_zero() || !self.jitter.is_zero() || self.rate.is_some()
    }

    fn worsen(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Blocked => self.blocked = true,
            Trouble::Loss(loss) => self.loss = self.loss.max(loss),
            Trouble::Delay { base, jitter } => {
                self.delay += base;
                self.jitter += jitter;
            }
            Trouble::Rate(rate) => self.rate = Some(self.rate.map_or(rate, |old| old.min(rate))),
        }
    }
}

struct Imposed {
    id: u64,
    pairs: Vec<(NodeIndex, NodeIndex)>,
    trouble: Trouble,
}

struct State {
    next_id: u64,
    imposed: Vec<Imposed>,
    /// Row `from`, column `to`.
    conditions: Vec<Condition>,
}

/// The conditions of all pairs.
pub struct Links {
    node_count: usize,
    state: Mutex<State>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
    /// Packets or chunks that were carried, and that were thrown away on purpose.
    carried: AtomicU64,
    spoiled: AtomicU64,
}

impl Links {
    /// Faultless links between this many nodes.
    pub fn new(node_count: usize) -> Arc<Links> {
        let conditions = vec![Condition::default(); node_count * node_count];
        Arc::new(Links {
            node_count,
            state: Mutex::new(State { next_id: 0, imposed: Vec::new(), conditions }),
            changes: watch::Sender::new(0),
            carried: AtomicU64::new(0),
            spoiled: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The condition of a pair now.
    pub fn condition(&self, from: NodeIndex, to: NodeIndex) -> Condition {
        self.state().conditions[from * self.node_count + to]
    }

    /// Spoils pairs until the guard is dropped.
    #[must_use = "the trouble ends when the guard is dropped"]
    pub fn impose(self: &Arc<Self>, pairs: Vec<(NodeIndex, NodeIndex)>, trouble: Trouble) -> Hold {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.imposed.push(Imposed { id, pairs, trouble });
        self.derive(state);
        Hold { links: self.clone(), id }
    }

    fn derive(&self, mut state: MutexGuard<'_, State>) {
        let mut conditions = vec![Condition::default(); self.node_count * self.node_count];
        for imposed in &state.imposed {
            for (from, to) in &imposed.pairs {
                conditions[from * self.node_count + to].worsen(imposed.trouble);
            }
        }
        state.conditions = conditions;
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits until nothing is blocked on this way.
    pub async fn unblocked(&self, from: NodeIndex, to: NodeIndex) {
        let mut changes = self.changes.subscribe();
        while self.condition(from, to).blocked {
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Counts something that was carried.
    pub fn count_carried(&self) {
        self.carried.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts something that was thrown away on purpose.
    pub fn count_spoiled(&self) {
        self.spoiled.fetch_add(1, Ordering::Relaxed);
    }

    /// What was carried and what was thrown away on purpose, so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.carried.load(Ordering::Relaxed), self.spoiled.load(Ordering::Relaxed))
    }
}

/// Keeps a trouble in place.
pub struct Hold {
    links: Arc<Links>,
    id: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.links.state();
        state.imposed.retain(|imposed| imposed.id != self.id);
        self.links.derive(state);
    }
}

/// All pairs between two groups, both ways.
pub fn between(left: &[NodeIndex], right: &[NodeIndex]) -> Vec<(NodeIndex, NodeIndex)> {
    let mut pairs = one_way(left, right);
    pairs.extend(one_way(right, left));
    pairs
}

/// All pairs from one group to another.
pub fn one_way(from: &[NodeIndex], to: &[NodeIndex]) -> Vec<(NodeIndex, NodeIndex)> {
    from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))).filter(|(a, b)| a != b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_troubles_add_up_and_end_one_by_one() {
        let links = Links::new(3);
        let ms = Duration::from_millis;
        let slow = links.impose(one_way(&[0], &[1, 2]), Trouble::Delay { base: ms(10), jitter: ms(5) });
        let slower = links.impose(between(&[0], &[1]), Trouble::Delay { base: ms(20), jitter: ms(0) });
        let cut = links.impose(one_way(&[1], &[0]), Trouble::Blocked);
        assert_eq!(links.condition(0, 1).delay, ms(30));
        assert_eq!(links.condition(0, 1).jitter, ms(5));
        assert!(links.condition(1, 0).blocked && !links.condition(0, 1).blocked);
        drop(slow);
        assert_eq!(links.condition(0, 1).delay, ms(20));
        assert_eq!(links.condition(0, 2), Condition::default());
        drop((slower, cut));
        assert_eq!(links.condition(1, 0), Condition::default());
    }

    #[test]
    fn the_worst_loss_and_the_least_rate_count() {
        let links = Links::new(2);
        let pairs = || one_way(&[0], &[1]);
        let _a = links.impose(pairs(), Trouble::Loss(0.1));
        let _b = links.impose(pairs(), Trouble::Loss(0.3));
        let _c = links.impose(pairs(), Trouble::Rate(2000));
        let _d = links.impose(pairs(), Trouble::Rate(1000));
        let condition = links.condition(0, 1);
        assert_eq!((condition.loss, condition.rate), (0.3, Some(1000)));
        assert!(condition.waits());
    }

    #[test]
    fn a_node_has_no_link_to_itself() {
        assert_eq!(between(&[0, 1], &[1]), [(0, 1), (1, 0)]);
    }
}
