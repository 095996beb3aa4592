//! The wires between namespaces: a thread that takes each packet from one tunnel device, looks at the
//! condition of its way, and writes it to another device, later, or never.
//!
//! What the members see is a real network: TCP sends again what was lost, connection attempts run
//! into silence. Every queue is bounded like that of a network card, and a packet that finds its
//! queue full is lost. Order on a way never changes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::links::{Links, NodeIndex};

/// Packets that wait on one way.
const LINE_PACKETS_MAX: usize = 4096;
/// Packets taken from one device before others get a turn.
const BATCH_PACKETS: usize = 32;
/// Longer than any packet.
const PACKET_BYTES_MAX: usize = 16 * 1024;
/// Where the two addresses are in an IPv4 header.
const SOURCE: std::ops::Range<usize> = 12..16;
const DESTINATION: std::ops::Range<usize> = 16..20;

/// Address of a node; all nodes are in one /24 that exists nowhere else.
pub fn address(node: NodeIndex) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(node + 1).unwrap_or(u8::MAX))
}

/// Bits of the network part of all addresses.
pub const PREFIX_BITS: u8 = 24;

/// The thread; it ends with this handle.
pub struct Switch {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Connects devices; the node of each is its place in the list.
    pub fn start(devices: Vec<OwnedFd>, links: Arc<Links>, seed: u64) -> Result<Switch, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| format!("cannot start the switch: {e}"))?;
        let (end, ended) = oneshot::channel();
        let body = move || {
            let tasks = tokio::task::LocalSet::new();
            tasks.block_on(&runtime, async move {
                if let Err(problem) = forward(devices, links, seed) {
                    crate::say(&format!("the switch does not work: {problem}"));
                }
                // An error means that the handle is gone, which is the same.
                let _ = ended.await;
            });
        };
        let thread = std::thread::Builder::new().name("switch".into()).spawn(body);
        let thread = thread.map_err(|e| format!("cannot start the switch: {e}"))?;
        Ok(Switch { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // A panic there shows as a dead network long before this.
            let _ = thread.join();
        }
    }
}

struct Packet {
    bytes: Vec<u8>,
    due: Instant,
}

/// Packets on their way from one node to another.
#[derive(Default)]
struct Line {
    packets: RefCell<VecDeque<Packet>>,
    arrived: Notify,
}

struct Wires {
    devices: Vec<AsyncFd<OwnedFd>>,
    links: Arc<Links>,
    /// Row `from`, column `to`.
    lines: Vec<Line>,
    rng: RefCell<ChaCha8Rng>,
}

fn forward(devices: Vec<OwnedFd>, links: Arc<Links>, seed: u64) -> io::Result<()> {
    let register = |device| {
        // SAFETY: an `OwnedFd` is open, and nobody closes it before the `AsyncFd` is dropped.
        unsafe { AsyncFd::register(device) }.map_err(io::Error::from)
    };
    let devices = devices.into_iter().map(register).collect::<io::Result<Vec<_>>>()?;
    let count = devices.len();
    let lines = (0..count * count).map(|_| Line::default()).collect();
    let rng = RefCell::new(ChaCha8Rng::seed_from_u64(seed));
    let wires = Rc::new(Wires { devices, links, lines, rng });
    for from in 0..count {
        tokio::task::spawn_local(read(wires.clone(), from));
        for to in (0..count).filter(|to| *to != from) {
            tokio::task::spawn_local(deliver_late(wires.clone(), from, to));
        }
    }
    Ok(())
}

/// Takes what a node sends.
async fn read(wires: Rc<Wires>, from: NodeIndex) {
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    // A device breaks only when its namespace is gone, and then there is nothing left to carry.
    while let Ok(mut ready) = wires.devices[from].readable().await {
        for _ in 0..BATCH_PACKETS {
            match ready.try_io(|device| Ok(rustix::io::read(device.get_ref(), &mut buffer[..])?)) {
                Ok(Ok(length)) => wires.route(from, &buffer[..length]),
                Ok(Err(_)) => return,
                Err(_would_block) => break,
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn deliver_late(wires: Rc<Wires>, from: NodeIndex, to: NodeIndex) {
    let line = wires.line(from, to);
    loop {
        let due = line.packets.borrow().front().map(|packet| packet.due);
        let Some(due) = due else {
            line.arrived.notified().await;
            continue;
        };
        tokio::time::sleep_until(due).await;
        let packet = line.packets.borrow_mut().pop_front();
        let Some(packet) = packet else { continue };
        if wires.links.condition(from, to).blocked {
            wires.links.count_spoiled();
        } else {
            wires.write(to, &packet.bytes);
        }
    }
}

impl Wires {
    fn line(&self, from: NodeIndex, to: NodeIndex) -> &Line {
        &self.lines[from * self.devices.len() + to]
    }

    fn route(&self, from: NodeIndex, packet: &[u8]) {
        let Some(to) = self.receiver(from, packet) else { return };
        let condition = self.links.condition(from, to);
        if condition.blocked
            || condition.loss > 0.0 && self.rng.borrow_mut().random_bool(condition.loss.min(1.0))
        {
            self.links.count_spoiled();
            return;
        }
        let line = self.line(from, to);
        let mut waiting = line.packets.borrow_mut();
        if waiting.is_empty() && !condition.waits() {
            self.write(to, packet);
            return;
        }
        if waiting.len() >= LINE_PACKETS_MAX {
            self.links.count_spoiled();
            return;
        }
        let now = Instant::now();
        let last = waiting.back().map_or(now, |packet| packet.due);
        let jitter = condition.jitter.mul_f64(self.rng.borrow_mut().random_range(0.0..1.0));
        let mut due = last.max(now + condition.delay + jitter);
        if let Some(rate) = condition.rate {
            due += Duration::from_secs_f64(packet.len() as f64 / rate.max(1) as f64);
        }
        waiting.push_back(Packet { bytes: packet.to_vec(), due });
        line.arrived.notify_one();
    }

    /// Only IPv4 between known nodes is carried.
    fn receiver(&self, from: NodeIndex, packet: &[u8]) -> Option<NodeIndex> {
        if packet.len() < DESTINATION.end || packet[0] >> 4 != 4 {
            return None;
        }
        let octets = |range: std::ops::Range<usize>| <[u8; 4]>::try_from(&packet[range]).ok();
        if Ipv4Addr::from(octets(SOURCE)?) != address(from) {
            return None;
        }
        let receiver = Ipv4Addr::from(octets(DESTINATION)?);
        (0..self.devices.len()).find(|to| *to != from && address(*to) == receiver)
    }

    fn write(&self, to: NodeIndex, packet: &[u8]) {
        // A device that takes nothing more has lost the packet, like any network card.
        match rustix::io::write(self.devices[to].get_ref(), packet) {
            Ok(_) => self.links.count_carried(),
            Err(_) => self.links.count_spoiled(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::super::links::{Trouble, between, one_way};
    use super::*;

    /// Sockets that stand for the tunnel devices of three nodes.
    fn nodes(links: &Arc<Links>) -> (Switch, Vec<UnixDatagram>) {
        let (mut devices, mut nodes) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (device, node) = UnixDatagram::pair().expect("a pair of sockets");
            device.set_nonblocking(true).expect("a socket");
            node.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
            devices.push(OwnedFd::from(device));
            nodes.push(node);
        }
        (Switch::start(devices, links.clone(), 1).expect("a switch"), nodes)
    }

    fn packet(from: NodeIndex, to: NodeIndex, content: u8) -> Vec<u8> {
        let mut packet = vec![0; 21];
        packet[0] = 4 << 4;
        packet[SOURCE].copy_from_slice(&address(from).octets());
        packet[DESTINATION].copy_from_slice(&address(to).octets());
        packet[20] = content;
        packet
    }

    fn received(node: &UnixDatagram) -> u8 {
        let mut buffer = [0; 100];
        let length = node.recv(&mut buffer).expect("a packet");
        buffer[length - 1]
    }

    #[test]
    fn packets_reach_the_node_they_are_for() {
        let (_switch, nodes) = nodes(&Links::new(3));
        nodes[0].send(&packet(0, 2, 7)).expect("it is taken");
        nodes[0].send(&packet(0, 1, 8)).expect("it is taken");
        assert_eq!((received(&nodes[2]), received(&nodes[1])), (7, 8));
    }

    #[test]
    fn blocked_and_lost_packets_are_gone_and_the_other_way_is_free() {
        let links = Links::new(3);
        let (_switch, nodes) = nodes(&links);
        let blocked = links.impose(one_way(&[0], &[1]), Trouble::Blocked);
        let lost = links.impose(one_way(&[2], &[1]), Trouble::Loss(1.0));
        nodes[0].send(&packet(0, 1, 1)).expect("it is taken");
        nodes[2].send(&packet(2, 1, 2)).expect("it is taken");
        nodes[1].send(&packet(1, 0, 3)).expect("it is taken");
        assert_eq!(received(&nodes[0]), 3);
        while links.counts().1 < 2 {
            std::thread::yield_now();
        }
        drop((blocked, lost));
        nodes[0].send(&packet(0, 1, 4)).expect("it is taken");
        assert_eq!(received(&nodes[1]), 4);
    }

    #[test]
    fn slow_packets_arrive_in_the_order_they_were_sent() {
        let links = Links::new(3);
        let (_switch, nodes) = nodes(&links);
        let (base, jitter) = (Duration::from_millis(20), Duration::from_millis(20));
        let slow = links.impose(between(&[0], &[1]), Trouble::Delay { base, jitter });
        let began = std::time::Instant::now();
        for content in 0..20 {
            nodes[0].send(&packet(0, 1, content)).expect("it is taken");
        }
        assert_eq!(received(&nodes[1]), 0);
        assert!(began.elapsed() >= base);
        // Those that wait are not overtaken by one that need not.
        drop(slow);
        nodes[0].send(&packet(0, 1, 20)).expect("it is taken");
        assert_eq!((1..=20).map(|_| received(&nodes[1])).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_carried_under_another_s_address_or_to_nobody() {
        let links = Links::new(3);
        let (_switch, nodes) = nodes(&links);
        nodes[0].send(&packet(2, 1, 1)).expect("it is taken");
        nodes[0].send(&packet(0, 9, 2)).expect("it is taken");
        nodes[0].send(b"?").expect("it is taken");
        nodes[0].send(&packet(0, 1, 3)).expect("it is taken");
        assert_eq!(received(&nodes[1]), 3);
        // A packet counts once it is on its way, which the receiver may see first.
        while links.counts() == (0, 0) {
            std::thread::yield_now();
        }
        assert_eq!(links.counts(), (1, 0));
    }
}
