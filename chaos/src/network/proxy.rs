//! Where namespaces are not permitted: a proxy in front of each member's peer port.
//!
//! All members share the loopback interface, so who dials is read from the kernel: a local port has
//! one socket, and the socket belongs to one process. Each direction of a connection then follows the
//! condition of its pair. It is coarser than a real network: bytes on a blocked way wait instead of
//! being lost, a new connection is accepted before it is held up, and loss is a reset.

use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::links::{Links, NodeIndex};

/// Bytes taken at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks on their way; a sender waits when there are more.
const CHUNKS_MAX: usize = 64;
/// How long a new connection is held on a blocked way before it is given up.
const HOLD_PATIENCE: Duration = Duration::from_secs(5);

/// Which process each member runs as.
#[derive(Default)]
pub struct Processes(Mutex<Vec<(NodeIndex, u32)>>);

impl Processes {
    /// Notes that a member runs as this process now.
    pub fn note(&self, node: NodeIndex, process: u32) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(other, _)| *other != node);
        all.push((node, process));
    }

    fn owner_of(&self, socket: &str) -> Option<NodeIndex> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let name = format!("socket:[{socket}]");
        let holds = |process: u32| {
            let files = std::fs::read_dir(format!("/proc/{process}/fd")).ok();
            files.into_iter().flatten().flatten().any(|file| {
                std::fs::read_link(file.path())
                    .is_ok_and(|link| link.as_os_str().as_bytes() == name.as_bytes())
            })
        };
        all.iter().find(|(_, process)| holds(*process)).map(|(node, _)| *node)
    }
}

/// The inode of the loopback socket that is connected from one port to another.
fn socket_between(from: SocketAddr, to: SocketAddr) -> Option<String> {
    let table = std::fs::read_to_string(Path::new("/proc/net/tcp")).ok()?;
    let text = |at: SocketAddr| match at {
        SocketAddr::V4(at) => Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(at.ip().octets()), at.port())),
        SocketAddr::V6(_) => None,
    };
    let (local, remote) = (text(from)?, text(to)?);
    let fields = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (_, a, b) = (words.next()?, words.next()?, words.next()?);
        (a == local && b == remote).then(|| words.nth(6).map(str::to_owned))?
    };
    table.lines().find_map(fields)
}

/// A proxy in front of one member; it ends with this handle, and so do its connections.
pub struct Proxy {
    /// What other members are told.
    pub address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Opens the proxy of one member, which will listen at `target`.
    pub async fn open(
        node: NodeIndex,
        target: SocketAddr,
        processes: Arc<Processes>,
        links: Arc<Links>,
        seed: u64,
    ) -> io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let accept = async move {
            let mut connections = tokio::task::JoinSet::new();
            let mut seed = seed;
            // An error here means that the dialler has gone or that there are no descriptors left;
            // both pass.
            loop {
                let Ok((connection, dialler)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                while connections.try_join_next().is_some() {}
                seed = seed.wrapping_add(1);
                let (processes, links) = (processes.clone(), links.clone());
                connections.spawn(async move {
                    let from = socket_between(dialler, address).and_then(|inode| processes.owner_of(&inode));
                    if let Some(from) = from {
                        carry(connection, target, Way { from, to: node, links, seed }).await;
                    }
                });
            }
        };
        Ok(Proxy { address, task: tokio::spawn(accept).abort_handle() })
    }
}

struct Way {
    from: NodeIndex,
    to: NodeIndex,
    links: Arc<Links>,
    seed: u64,
}

async fn carry(dialler: TcpStream, target: SocketAddr, way: Way) {
    let Way { from, to, links, seed } = way;
    let clear = async {
        links.unblocked(from, to).await;
        links.unblocked(to, from).await;
    };
    if tokio::time::timeout(HOLD_PATIENCE, clear).await.is_err() {
        links.count_spoiled();
        return;
    }
    let Ok(member) = TcpStream::connect(target).await else { return };
    // Small messages must not wait for each other; where that cannot be set they merely are slower.
    let _ = (dialler.set_nodelay(true), member.set_nodelay(true));
    let (dialler_reads, dialler_writes) = dialler.into_split();
    let (member_reads, member_writes) = member.into_split();
    let there = Way { from, to, links: links.clone(), seed };
    let back = Way { from: to, to: from, links, seed: seed ^ 1 };
    // The first direction that ends takes the connection with it.
    tokio::select! {
        () = pump(dialler_reads, member_writes, there) => {}
        () = pump(member_reads, dialler_writes, back) => {}
    }
}

/// Carries one direction until either side closes or the connection is "lost".
async fn pump(mut reads: OwnedReadHalf, mut writes: OwnedWriteHalf, way: Way) {
    let Way { from, to, links, seed } = way;
    let (queue, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let take = async {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut last = Instant::now();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = match reads.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => length,
            };
            let condition = links.condition(from, to);
            if condition.loss > 0.0 && rng.random_bool(condition.loss.min(1.0)) {
                links.count_spoiled();
                return;
            }
            let jitter = condition.jitter.mul_f64(rng.random_range(0.0..1.0));
            last = last.max(Instant::now() + condition.delay + jitter);
            if let Some(rate) = condition.rate {
                last += Duration::from_secs_f64(length as f64 / rate.max(1) as f64);
            }
            if queue.send((last, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let give = async {
        while let Some((due, chunk)) = chunks.recv().await {
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            links.unblocked(from, to).await;
            if writes.write_all(&chunk).await.is_err() {
                return;
            }
            links.count_carried();
        }
    };
    tokio::select! {
        () = take => {}
        () = give => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::links::{Trouble, one_way};
    use super::*;

    /// An echo behind a proxy, dialled by this very process, which plays member 0.
    async fn echo() -> (Proxy, Arc<Links>) {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let target = server.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = connection.split();
                    let _ = tokio::io::copy(&mut reads, &mut writes).await;
                });
            }
        });
        let (processes, links) = (Arc::new(Processes::default()), Links::new(3));
        processes.note(0, std::process::id());
        let proxy = Proxy::open(1, target, processes, links.clone(), 1).await.expect("a proxy");
        (proxy, links)
    }

    async fn ask(connection: &mut TcpStream) -> io::Result<u8> {
        connection.write_all(b"x").await?;
        connection.read_u8().await
    }

    #[tokio::test]
    async fn the_dialler_is_known_and_its_bytes_are_carried() {
        let (proxy, links) = echo().await;
        let mut connection = TcpStream::connect(proxy.address).await.expect("a connection");
        assert_eq!(ask(&mut connection).await.expect("an echo"), b'x');
        assert_eq!(links.counts(), (2, 0));
    }

    #[tokio::test]
    async fn a_blocked_way_back_holds_the_answer_until_it_is_free() {
        let (proxy, links) = echo().await;
        let mut connection = TcpStream::connect(proxy.address).await.expect("a connection");
        ask(&mut connection).await.expect("an echo");
        let hold = links.impose(one_way(&[1], &[0]), Trouble::Blocked);
        connection.write_all(b"y").await.expect("it is taken");
        let answer = connection.read_u8();
        tokio::pin!(answer);
        // The way there is free: the echo gets the byte, and one more chunk counts as carried.
        while links.counts().0 < 3 {
            tokio::select! {
                _ = &mut answer => panic!("an answer through a blocked way"),
                () = tokio::task::yield_now() => {}
            }
        }
        drop(hold);
        assert_eq!(answer.await.expect("an echo"), b'y');
    }

    #[tokio::test]
    async fn a_lost_chunk_ends_the_connection() {
        let (proxy, links) = echo().await;
        let mut connection = TcpStream::connect(proxy.address).await.expect("a connection");
        let _hold = links.impose(one_way(&[0], &[1]), Trouble::Loss(1.0));
        assert!(ask(&mut connection).await.is_err());
        assert_eq!(links.counts().1, 1);
    }
}
