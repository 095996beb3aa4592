//! Links between members: messages are opaque, each direction of each pair is a link of its own.
//!
//! In the kind mode a link is a connection: what arrives arrives once, in order, and a cut loses
//! what was on its way or delivers it late. In the hostile mode messages are also duplicated,
//! reordered and replayed much later, which consensus must bear and the real transport never does.
//! Damaged bytes never arrive (the transport has checksums), but bytes of another cluster may.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::random::Random;
use crate::time::{MS, Nanos, US};

/// A member's place in the world.
pub type HostAt = usize;

/// What is wrong with the network for a while.
#[derive(Clone, Debug)]
pub enum NetFault {
    /// Messages are lost with this probability.
    Loss(f64),
    /// Messages arrive twice with this probability (hostile).
    Duplicate(f64),
    /// Messages overtake each other (hostile).
    Reorder,
    /// Messages come again up to this much later (hostile).
    Replay(Nanos),
    /// Everything takes up to this much longer.
    Delay(Nanos),
    /// One direction of one pair takes that much longer.
    SlowLink(HostAt, HostAt, Nanos),
    /// Nothing passes between members of different groups.
    Groups(Vec<BTreeSet<HostAt>>),
    /// Nothing passes in these directions.
    Cut(BTreeSet<(HostAt, HostAt)>),
}

#[derive(Default)]
struct Link {
    last_arrival: Nanos,
    /// What waits for a cut to end.
    held: Vec<Bytes>,
}

/// See the module.
pub struct Network {
    random: Random,
    latency: (Nanos, Nanos),
    links: BTreeMap<(HostAt, HostAt), Link>,
    faults: BTreeMap<usize, NetFault>,
    /// Messages sent.
    pub sent: u64,
    /// Messages lost.
    pub lost: u64,
}

/// First bytes of the messages that carry commands.
const FORWARD: u8 = 2;
const MEMBERSHIP: u8 = 3;
/// Messages that wait for one cut link at most.
const HELD_MAX: usize = 32;

impl Network {
    /// A network without faults whose links take between these times.
    pub fn new(random: Random, latency: (Nanos, Nanos)) -> Self {
        Self { random, latency, links: BTreeMap::new(), faults: BTreeMap::new(), sent: 0, lost: 0 }
    }

    /// A fault begins.
    pub fn begin(&mut self, number: usize, fault: NetFault) {
        self.faults.insert(number, fault);
    }

    /// A fault ends. Returns what is delivered late because of it.
    pub fn end(&mut self, number: usize) -> Vec<(HostAt, HostAt, Bytes)> {
        self.faults.remove(&number);
        let open: Vec<_> = self.links.keys().copied().filter(|(from, to)| !self.is_cut(*from, *to)).collect();
        let mut late = Vec::new();
        for (from, to) in open {
            let link = self.links.get_mut(&(from, to)).expect("listed above");
            late.extend(link.held.drain(..).map(|message| (from, to, message)));
        }
        late
    }

    /// Whether nothing passes from `from` to `to`.
    pub fn is_cut(&self, from: HostAt, to: HostAt) -> bool {
        self.faults.values().any(|fault| match fault {
            NetFault::Groups(groups) => {
                let side = |at| groups.iter().position(|group| group.contains(&at));
                side(from) != side(to)
            }
            NetFault::Cut(cut) => cut.contains(&(from, to)),
            _ => false,
        })
    }

    /// Whether anything is cut.
    pub fn has_cut(&self) -> bool {
        self.faults.values().any(|fault| matches!(fault, NetFault::Groups(_) | NetFault::Cut(_)))
    }

    /// A connection breaks: the receiver gets nothing of what is on its way later than now.
    pub fn forget_held(&mut self, host: HostAt) {
        for ((from, to), link) in &mut self.links {
            if *from == host || *to == host {
                link.held.clear();
            }
        }
    }

    /// A process ends and its system closes the connections: when the other side notices, behind all
    /// that is on its way. `None` where nothing passes.
    pub fn close(&mut self, now: Nanos, from: HostAt, to: HostAt) -> Option<Nanos> {
        if self.is_cut(from, to) {
            return None;
        }
        let link = self.links.entry((from, to)).or_default();
        let arrival = (now + self.latency.0).max(link.last_arrival + US);
        link.last_arrival = arrival;
        Some(arrival)
    }

    /// Sends a message; says when copies of it arrive. Empty when it is lost.
    pub fn send(&mut self, now: Nanos, from: HostAt, to: HostAt, message: &Bytes, out: &mut Vec<Nanos>) {
        self.sent += 1;
        if self.is_cut(from, to) {
            self.lost += 1;
            let link = self.links.entry((from, to)).or_default();
            if link.held.len() < HELD_MAX && self.random.one_in(8) {
                link.held.push(message.clone());
            }
            return;
        }
        let (low, high) = self.latency;
        let mut latency = self.random.spread(low, high);
        let (mut loss, mut twice, mut replay, mut reorder) = (0.0f64, 0.0f64, 0, false);
        for fault in self.faults.values() {
            match fault {
                NetFault::Loss(p) => loss = loss.max(*p),
                NetFault::Duplicate(p) => twice = twice.max(*p),
                NetFault::Reorder => reorder = true,
                NetFault::Replay(late) => replay = replay.max(*late),
                NetFault::Delay(more) => latency += self.random.below(*more),
                NetFault::SlowLink(a, b, more) if (*a, *b) == (from, to) => latency += more,
                _ => {}
            }
        }
        // Commands on their way to a leader rely on the transport: it never repeats anything.
        let repeats = !matches!(message.first(), Some(&FORWARD | &MEMBERSHIP));
        if !repeats {
            (twice, replay) = (0.0, 0);
        }
        if self.random.chance(loss) {
            self.lost += 1;
            return;
        }
        if reorder && self.random.one_in(4) {
            latency += self.random.spread(MS, 200 * MS);
        }
        let mut arrival = now + latency;
        if !reorder {
            let link = self.links.entry((from, to)).or_default();
            arrival = arrival.max(link.last_arrival + US);
            link.last_arrival = arrival;
        }
        out.push(arrival);
        if self.random.chance(twice) {
            out.push(arrival + self.random.spread(US, 50 * MS));
        }
        if replay > 0 && self.random.one_in(50) {
            out.push(arrival + self.random.spread(10 * MS, replay));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(network: &mut Network, from: HostAt, to: HostAt, count: usize) -> Vec<Nanos> {
        let mut out = Vec::new();
        for at in 0..count as u64 {
            network.send(at * US, from, to, &Bytes::from_static(b"m"), &mut out);
        }
        out
    }

    #[test]
    fn a_link_without_faults_delivers_everything_once_and_in_order() {
        let mut network = Network::new(Random::new(1, "net", 0), (100 * US, 10 * MS));
        let arrivals = arrivals(&mut network, 0, 1, 1000);
        assert_eq!(arrivals.len(), 1000);
        assert!(arrivals.is_sorted());
    }

    #[test]
    fn a_one_way_cut_lets_the_other_way_pass_and_delivers_some_late() {
        let mut network = Network::new(Random::new(1, "net", 0), (100 * US, 10 * MS));
        network.begin(7, NetFault::Cut([(0, 1)].into()));
        assert!(arrivals(&mut network, 0, 1, 100).is_empty());
        assert_eq!(arrivals(&mut network, 1, 0, 100).len(), 100);
        let late = network.end(7);
        assert!(!late.is_empty() && late.iter().all(|(from, to, _)| (*from, *to) == (0, 1)));
        assert_eq!(arrivals(&mut network, 0, 1, 10).len(), 10);
    }
}
