//! The network of a cluster, which can be spoiled for any directed pair of nodes.
//!
//! Two carriers stand behind the same [`Links`]: namespaces joined by a switch of our own (`switch`,
//! all traffic), and, where those are not permitted, proxies on loopback (`proxy`, traffic between
//! members only).

mod host;
pub mod isolation;
pub mod links;
mod proxy;
mod switch;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command};
use std::sync::Arc;

use host::Host;
use isolation::Isolated;
pub use links::{Links, NodeIndex};
use proxy::{Processes, Proxy};
use switch::Switch;

/// Ports of every member in its own namespace.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// What carries the traffic.
#[derive(Clone, Copy, Debug)]
pub enum Carrier {
    /// One network namespace a member.
    Namespaces(Isolated),
    /// Ports of the loopback interface.
    Loopback,
}

/// Where a member listens, and where others believe it does.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// For clients.
    pub client: SocketAddr,
    /// Where it listens for other members.
    pub peer_listen: SocketAddr,
    /// Where other members find it.
    pub peer_advertise: SocketAddr,
}

enum Wires {
    Switch { _switch: Switch },
    Proxies { _proxies: Vec<Proxy>, processes: Arc<Processes> },
}

/// The network and the places in it.
pub struct Network {
    /// Conditions of all pairs.
    pub links: Arc<Links>,
    hosts: Vec<Host>,
    places: Vec<Place>,
    wires: Wires,
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Network {
    /// Builds the network for this many members.
    pub async fn open(carrier: Carrier, member_count: usize, seed: u64) -> Result<Network, String> {
        let links = Links::new(member_count + 1);
        match carrier {
            Carrier::Namespaces(isolated) => Network::with_namespaces(isolated, member_count, links, seed),
            Carrier::Loopback => Network::with_proxies(member_count, links, seed).await,
        }
    }

    /// The clients live in the namespace of the program itself, and have its only device.
    fn with_namespaces(
        isolated: Isolated,
        member_count: usize,
        links: Arc<Links>,
        seed: u64,
    ) -> Result<Network, String> {
        let (mut hosts, mut devices, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for node in 0..member_count {
            let address = switch::address(node);
            let enter = move || {
                isolated.enter_another_network()?;
                isolated.device(address, switch::PREFIX_BITS)
            };
            let (host, device) = Host::start(&format!("host-{node}"), enter)?;
            hosts.push(host);
            devices.push(device);
            let peer = SocketAddr::from((address, PEER_PORT));
            places.push(Place {
                client: SocketAddr::from((address, CLIENT_PORT)),
                peer_listen: peer,
                peer_advertise: peer,
            });
        }
        devices.push(isolated.device(switch::address(member_count), switch::PREFIX_BITS)?);
        let switch = Switch::start(devices, links.clone(), seed)?;
        Ok(Network { links, hosts, places, wires: Wires::Switch { _switch: switch } })
    }

    async fn with_proxies(member_count: usize, links: Arc<Links>, seed: u64) -> Result<Network, String> {
        let problem = |e: io::Error| format!("cannot open ports on loopback: {e}");
        let processes = Arc::new(Processes::default());
        let (mut hosts, mut proxies, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for node in 0..member_count {
            let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let client = local(free_port().map_err(problem)?);
            let peer_listen = local(free_port().map_err(problem)?);
            let seed = seed.wrapping_add(node as u64);
            let proxy = Proxy::open(node, peer_listen, processes.clone(), links.clone(), seed);
            let proxy = proxy.await.map_err(problem)?;
            places.push(Place { client, peer_listen, peer_advertise: proxy.address });
            proxies.push(proxy);
            hosts.push(Host::start(&format!("host-{node}"), || Ok(()))?.0);
        }
        Ok(Network { links, hosts, places, wires: Wires::Proxies { _proxies: proxies, processes } })
    }

    /// Where a member lives.
    pub fn place(&self, node: NodeIndex) -> Place {
        self.places[node]
    }

    /// Starts a process as this member.
    pub fn spawn(&self, node: NodeIndex, command: Command) -> io::Result<Child> {
        let child = self.hosts[node].spawn(command)?;
        if let Wires::Proxies { processes, .. } = &self.wires {
            processes.note(node, child.id());
        }
        Ok(child)
    }
}
