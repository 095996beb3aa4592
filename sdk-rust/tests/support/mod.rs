//! Real servers for the tests, a proxy to disturb the connection to them, and patience.
//!
//! Each test runs against every server that is there: etcd, and Folkmoot's binary as `FOLKMOOT_BINARY`
//! or the release profile has it.

#![allow(dead_code, clippy::print_stderr)]

use std::collections::VecDeque;
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use folkmoot_client::{Client, ErrorKind, Member};
use tempfile::TempDir;

/// How long anything may take that has to come in the end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until there is something to see.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < until, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Fails instead of waiting for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("never came: {what}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Etcd,
    Folkmoot,
}

/// A member alone, in a process and a directory of its own.
pub struct Server {
    pub kind: Kind,
    child: Child,
    pub port: u16,
    folder: TempDir,
    peer: u16,
}

pub fn folkmoot() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FOLKMOOT_BINARY") {
        return Some(path.into());
    }
    // The test lies in <target>/<profile>/deps.
    let here = std::env::current_exe().ok()?;
    let path = here.parent()?.parent()?.parent()?.join("release/folkmoot");
    path.exists().then_some(path)
}

/// A port for a server. Not one of those that the system gives to connections: a connection that uses it
/// keeps the server from it, and one that is made to it before the server listens can meet itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + start.wrapping_mul(61).wrapping_add(step) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The kinds of servers that are there.
pub fn kinds() -> Vec<Kind> {
    let only = std::env::var("SDK_TEST_SERVER").unwrap_or_default();
    let mut kinds = Vec::new();
    if only != "folkmoot" && Command::new("etcd").arg("--version").output().is_ok() {
        kinds.push(Kind::Etcd);
    }
    if only != "etcd" && folkmoot().is_some() {
        kinds.push(Kind::Folkmoot);
    }
    assert!(!kinds.is_empty(), "neither etcd nor a folkmoot binary is there to test against");
    kinds
}

impl Server {
    pub fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let (port, peer) = (free_port(), free_port());
        let child = Self::spawn(kind, &folder, port, peer);
        Self { kind, child, port, folder, peer }
    }

    fn spawn(kind: Kind, folder: &TempDir, port: u16, peer: u16) -> Child {
        let mut child = Self::launch(
            kind,
            folder,
            port,
            peer,
            "default",
            &format!("default=http://127.0.0.1:{peer}"),
            "new",
        );
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "the server never listened");
            assert!(child.try_wait().expect("is ours").is_none(), "the server ended");
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    fn launch(
        kind: Kind,
        folder: &TempDir,
        port: u16,
        peer: u16,
        name: &str,
        all: &str,
        state: &str,
    ) -> Child {
        let (url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let mut command = match kind {
            Kind::Etcd => Command::new("etcd"),
            Kind::Folkmoot => {
                let mut command = Command::new(folkmoot().expect("was found"));
                command.args(["serve", "--unsafe-no-fsync"]);
                command
            }
        };
        command
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--name", name, "--initial-cluster", all, "--initial-cluster-state", state])
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server starts");
        let mut log = BufReader::new(child.stderr.take().expect("is piped"));
        std::thread::spawn(move || {
            // A pipe that nobody reads would stop the server when it is full.
            let mut line = String::new();
            while log.read_line(&mut line).is_ok_and(|read| read > 0) {
                if std::env::var_os("SDK_TEST_LOG").is_some() {
                    eprint!("{line}");
                }
                line.clear();
            }
        });
        child
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub async fn client(&self) -> Client {
        client(&self.endpoint()).await
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("a child has a number");
        rustix::process::kill_process(pid, signal).expect("the child is there");
    }

    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts another store in its place, without its data and as another cluster.
    pub fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.folder.path().join("data")).expect("is there");
        // The ids come from the addresses of the members among other things.
        self.peer = free_port();
        self.child = Self::spawn(self.kind, &self.folder, self.port, self.peer);
    }

    /// Starts it again on the same data.
    pub fn restart(&mut self) {
        self.kill();
        self.child = Self::spawn(self.kind, &self.folder, self.port, self.peer);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three members.
pub struct Cluster {
    members: Vec<Server>,
    all: String,
}

impl Cluster {
    pub fn start(kind: Kind) -> Self {
        let places: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let peers = places.iter().enumerate();
        let peers: Vec<String> =
            peers.map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}")).collect();
        let all = peers.join(",");
        let members = places.iter().enumerate().map(|(n, (port, peer))| {
            let folder = tempfile::tempdir().expect("there is room for a folder");
            let child = Server::launch(kind, &folder, *port, *peer, &format!("m{n}"), &all, "new");
            Server { kind, child, port: *port, folder, peer: *peer }
        });
        Self { members: members.collect(), all }
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Server::endpoint).collect()
    }

    pub fn member(&self, index: usize) -> &Server {
        &self.members[index]
    }

    pub fn kill(&mut self, index: usize) {
        self.members[index].kill();
    }

    pub fn restart(&mut self, index: usize) {
        let member = &mut self.members[index];
        let (kind, port, peer) = (member.kind, member.port, member.peer);
        let name = format!("m{index}");
        member.child = Server::launch(kind, &member.folder, port, peer, &name, &self.all, "new");
    }

    /// Removes a member for good and starts a new one in its place, elsewhere. Answers once both are done.
    pub async fn replace(&mut self, client: &Client, index: usize) {
        let old = &self.members[index];
        let (kind, url) = (old.kind, format!("http://127.0.0.1:{}", old.peer));
        let id = eventually("the member", async || {
            let members = client.members().await.ok()?;
            members.iter().find(|member| member.peer_urls[0] == url).map(|member| member.id)
        })
        .await;
        eventually("its removal", async || match client.member_remove(id).await {
            Ok(_) => Some(()),
            Err(error) => (error.kind() == ErrorKind::NotFound).then_some(()),
        })
        .await;
        self.members[index].kill();
        let (port, peer) = (free_port(), free_port());
        let url = format!("http://127.0.0.1:{peer}");
        let members = eventually("the new member", async || {
            // A first attempt may have been applied although it failed.
            drop(client.member_add(vec![url.clone()], false).await);
            let members = client.members().await.ok()?;
            members.iter().any(|member| member.peer_urls[0] == url).then_some(members)
        })
        .await;
        let name = format!("m{index}-{port}");
        let called = |member: &Member| match member.name.as_str() {
            "" => name.clone(),
            name => name.to_owned(),
        };
        let all: Vec<String> =
            members.iter().map(|member| format!("{}={}", called(member), member.peer_urls[0])).collect();
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let child = Server::launch(kind, &folder, port, peer, &name, &all.join(","), "existing");
        self.members[index] = Server { kind, child, port, folder, peer };
    }
}

/// Connects, and waits until the store has a leader.
pub async fn client(endpoint: &str) -> Client {
    let client = Client::builder()
        .endpoints([endpoint])
        .request_timeout(Duration::from_secs(20))
        .connect()
        .await
        .expect("the server answers");
    client.get("ready").await.expect("the server has a leader");
    client
}

/// A way to a server that can be cut and closed.
pub struct Proxy {
    pub port: u16,
    state: tokio::sync::watch::Sender<Way>,
    carried: Arc<AtomicU64>,
    held: Kept,
    asked: Arc<Asked>,
}

/// What clients sent, as the frames of HTTP/2 tell.
#[derive(Debug, Default)]
struct Asked {
    requests: AtomicU64,
    messages: AtomicU64,
}

/// Finds the frames in the bytes of a client, however they are cut.
#[derive(Debug)]
struct Frames {
    asked: Arc<Asked>,
    /// Bytes still to pass over: the preface at first, then the body of a frame.
    skip: usize,
    head: Vec<u8>,
}

impl Frames {
    const PREFACE_BYTES: usize = 24;
    const HEAD_BYTES: usize = 9;

    fn new(asked: Arc<Asked>) -> Self {
        Self { asked, skip: Self::PREFACE_BYTES, head: Vec::with_capacity(Self::HEAD_BYTES) }
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (Self::HEAD_BYTES - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.head.len() == Self::HEAD_BYTES {
                self.skip = usize::from(self.head[0]) << 16
                    | usize::from(self.head[1]) << 8
                    | usize::from(self.head[2]);
                match self.head[3] {
                    // Headers begin a request. Data without bytes only ends one.
                    1 => self.asked.requests.fetch_add(1, Ordering::SeqCst),
                    0 if self.skip > 0 => self.asked.messages.fetch_add(1, Ordering::SeqCst),
                    _ => 0,
                };
                self.head.clear();
            }
        }
    }
}

/// All bytes that a way has kept.
type Kept = Arc<std::sync::Mutex<Vec<u8>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Bytes are taken and go nowhere; connections stay.
    BlackHole,
    /// Bytes for the server are kept, and delivered when the way is open again, slowly; those from
    /// the server pass.
    Hold,
    /// Connections end, and new ones are ended at once.
    Cut,
}

impl Proxy {
    pub async fn start(server: &Server) -> Self {
        Self::to(server.port).await
    }

    /// A way to this port.
    pub async fn to(target: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let port = listener.local_addr().expect("is bound").port();
        let (state, ways) = tokio::sync::watch::channel(Way::Open);
        let (carried, held) = (Arc::<AtomicU64>::default(), Kept::default());
        let asked = Arc::<Asked>::default();
        let counts = (carried.clone(), held.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(Self::carry(socket, target, ways.clone(), counts.clone()));
            }
        });
        Self { port, state, carried, held, asked }
    }

    async fn carry(
        client: tokio::net::TcpStream,
        target: u16,
        mut ways: tokio::sync::watch::Receiver<Way>,
        (carried, held, asked): (Arc<AtomicU64>, Kept, Arc<Asked>),
    ) {
        if *ways.borrow() == Way::Cut {
            return;
        }
        let Ok(server) = tokio::net::TcpStream::connect(("127.0.0.1", target)).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let there = tokio::spawn(Self::pump(
            from_client,
            to_server,
            ways.clone(),
            carried.clone(),
            Some((held, Frames::new(asked))),
        ));
        let back = tokio::spawn(Self::pump(from_server, to_client, ways.clone(), carried, None));
        let cut = async { ways.wait_for(|way| *way == Way::Cut).await.map(drop) };
        let (there_abort, back_abort) = (there.abort_handle(), back.abort_handle());
        tokio::select! {
            _ = cut => {}
            _ = there => {}
            _ = back => {}
        }
        there_abort.abort();
        back_abort.abort();
    }

    async fn pump(
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        mut ways: tokio::sync::watch::Receiver<Way>,
        carried: Arc<AtomicU64>,
        mut held: Option<(Kept, Frames)>,
    ) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut buffer = vec![0; 16 << 10];
        let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
        loop {
            let way = *ways.borrow_and_update();
            if way == Way::Open
                && let Some(chunk) = kept.pop_front()
            {
                carried.fetch_add(chunk.len() as u64, Ordering::SeqCst);
                if to.write_all(&chunk).await.is_err() {
                    return;
                }
                // Each on its own, as a network would that was congested.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let size = tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(size @ 1..) => size,
                    _ => return,
                },
                changed = ways.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            if let Some((_, frames)) = &mut held {
                frames.read(&buffer[..size]);
            }
            match (*ways.borrow(), &held) {
                (Way::BlackHole, _) => continue,
                (Way::Hold, Some((held, _))) => {
                    held.lock().expect("not poisoned").extend_from_slice(&buffer[..size]);
                    kept.push_back(buffer[..size].to_vec());
                    continue;
                }
                _ => {}
            }
            carried.fetch_add(size as u64, Ordering::SeqCst);
            if to.write_all(&buffer[..size]).await.is_err() {
                return;
            }
        }
    }

    /// Bytes that passed, in both directions.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::SeqCst)
    }

    /// Requests that clients began, streams included.
    pub fn requests(&self) -> u64 {
        self.asked.requests.load(Ordering::SeqCst)
    }

    /// Messages that clients sent, within requests and on streams.
    pub fn messages(&self) -> u64 {
        self.asked.messages.load(Ordering::SeqCst)
    }

    /// How many bytes were kept so far.
    pub fn held(&self) -> usize {
        self.held.lock().expect("not poisoned").len()
    }

    /// Whether these bytes are among those that were kept after so many.
    pub fn holds(&self, after: usize, bytes: &[u8]) -> bool {
        let held = self.held.lock().expect("not poisoned");
        held[after..].windows(bytes.len()).any(|window| window == bytes)
    }

    pub fn set(&self, way: Way) {
        self.state.send_replace(way);
    }

    /// Ends all connections and lets new ones pass.
    pub async fn drop_connections(&self) {
        self.set(Way::Cut);
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.set(Way::Open);
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Runs a test against each kind of server.
#[macro_export]
macro_rules! on_each {
    ($($(#[$attribute:meta])* async fn $name:ident($server:ident) $body:block)*) => {$(
        $(#[$attribute])*
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            for kind in $crate::support::kinds() {
                eprintln!("against {kind:?}");
                #[allow(unused_mut)]
                let mut $server = $crate::support::Server::start(kind);
                $body
            }
        }
    )*};
}
