//! Members on the loopback interface, and a wire between them that can be harmed.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use folkmoot_core::types::{ClusterId, MemberId};
use folkmoot_peer::{ClusterInfo, Event, Flow, Identity, MemberInfo, PeerConfig, PeerHandle, PeerMember};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener as AsyncListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::time::timeout;

pub const CLUSTER: ClusterId = ClusterId(0xc1);
/// How long a test waits for what must happen; reached only when it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a member starts.
pub struct Setup {
    pub me: Identity,
    pub config: PeerConfig,
    pub listener: TcpListener,
    /// Called for each message; asks for a pause by returning it.
    pub flow: fn() -> Flow,
    pub staging: TempDir,
}

impl Setup {
    pub fn new(id: u64) -> Self {
        Self::at(id, TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub fn at(id: u64, listener: TcpListener) -> Self {
        let staging = tempfile::tempdir().unwrap();
        let me = Identity { cluster: CLUSTER, member: MemberId(id), boot: 1, incarnation: 100 + id };
        let mut config = PeerConfig::new(staging.path().join("staging"));
        config.staging_free_bytes_min = 0;
        Self { me, config, listener, flow: || Flow::Continue, staging }
    }

    pub fn change(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn start(self) -> Member {
        let address = self.listener.local_addr().unwrap();
        let (sender, events) = unbounded_channel();
        let (flow, me) = (self.flow, self.me);
        let on_event = move |event: Event| {
            let flow = if matches!(event, Event::Message { .. }) { flow() } else { Flow::Continue };
            let _ = sender.send(event);
            flow
        };
        let info = move || ClusterInfo {
            cluster_id: me.cluster,
            members: vec![MemberInfo {
                id: me.member,
                name: "first".to_owned(),
                peer_urls: vec![format!("http://{address}")],
                client_urls: vec![],
                learner: false,
                incarnation: Some(me.incarnation),
            }],
            removed: vec![MemberId(77)],
            leader: Some(me.member),
            version: "3.6.0".to_owned(),
        };
        let staging_dir = self.config.staging_dir.clone();
        let handle =
            PeerHandle::start(self.config, me, vec![self.listener], Handle::current(), on_event, info)
                .unwrap();
        Member { me, id: me.member, address, handle, events, staging_dir, staging: self.staging }
    }
}

/// A running member.
pub struct Member {
    pub me: Identity,
    pub id: MemberId,
    pub address: SocketAddr,
    pub handle: PeerHandle,
    pub events: UnboundedReceiver<Event>,
    pub staging_dir: PathBuf,
    pub staging: TempDir,
}

impl Member {
    pub fn start(id: u64) -> Self {
        Setup::new(id).start()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn as_peer(&self) -> PeerMember {
        PeerMember { id: self.id, urls: vec![self.url()], incarnation: Some(self.me.incarnation) }
    }

    pub fn knows(&self, others: &[PeerMember]) {
        self.handle.set_members(others.to_vec(), &[]);
    }

    pub async fn next(&mut self) -> Event {
        let next = timeout(PATIENCE, self.events.recv()).await;
        next.unwrap_or_else(|_| panic!("member {} waits in vain", self.id)).expect("the member runs")
    }

    /// Waits for an event, passing over others.
    pub async fn wait<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(&self.next().await) {
                return found;
            }
        }
    }

    pub async fn connected(&mut self, to: MemberId) {
        self.wait(|event| matches!(event, Event::Connected { peer, .. } if *peer == to).then_some(())).await;
    }

    pub async fn disconnected(&mut self, from: MemberId) {
        self.wait(|event| matches!(event, Event::Disconnected { peer } if *peer == from).then_some(())).await;
    }

    /// The next message, passing over other events.
    pub async fn message(&mut self) -> (MemberId, Vec<u8>) {
        self.wait(|event| match event {
            Event::Message { from, bytes } => Some((*from, bytes.to_vec())),
            _ => None,
        })
        .await
    }
}

/// Tells each of them about all of them, and waits until each is connected to each other.
pub async fn connect_all(members: &mut [&mut Member]) {
    let all: Vec<PeerMember> = members.iter().map(|member| member.as_peer()).collect();
    for member in members.iter() {
        member.knows(&all);
    }
    for member in members.iter_mut() {
        let mut missing: Vec<MemberId> =
            all.iter().map(|peer| peer.id).filter(|id| *id != member.id).collect();
        while !missing.is_empty() {
            let next = member
                .wait(|event| if let Event::Connected { peer, .. } = event { Some(*peer) } else { None })
                .await;
            missing.retain(|id| *id != next);
        }
    }
}

/// A wire that passes bytes on, counts those from the dialler, and can be harmed.
pub struct Proxy {
    pub url: String,
    pub wire: Arc<Wire>,
}

pub struct Wire {
    target: SocketAddr,
    /// Bytes that diallers sent.
    pub forwarded: AtomicU64,
    /// The connection is cut behind this byte, once.
    pub cut_at: AtomicU64,
    /// One bit of this byte is changed, once.
    pub flip_at: AtomicU64,
    pub connections: AtomicU64,
    pub refuses: AtomicBool,
    frozen: watch::Sender<bool>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = AsyncListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let wire = Arc::new(Wire {
            target,
            forwarded: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
            flip_at: AtomicU64::new(u64::MAX),
            connections: AtomicU64::new(0),
            refuses: AtomicBool::new(false),
            frozen: watch::Sender::new(false),
        });
        let accepting = Arc::clone(&wire);
        tokio::spawn(async move {
            while let Ok((dialler, _)) = listener.accept().await {
                if !accepting.refuses.load(Ordering::Relaxed) {
                    accepting.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(Arc::clone(&accepting).carry(dialler));
                }
            }
        });
        Self { url, wire }
    }

    /// The member behind this wire.
    pub fn peer(&self, member: &Member) -> PeerMember {
        PeerMember { urls: vec![self.url.clone()], ..member.as_peer() }
    }
}

impl Wire {
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    async fn thawed(&self) {
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
    }

    async fn carry(self: Arc<Self>, mut dialler: TcpStream) {
        let Ok(mut acceptor) = TcpStream::connect(self.target).await else { return };
        let (mut from_dialler, mut to_dialler) = dialler.split();
        let (mut from_acceptor, mut to_acceptor) = acceptor.split();
        let there = async {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let Ok(read @ 1..) = from_dialler.read(&mut buffer).await else { return };
                self.thawed().await;
                let bytes = &mut buffer[..read];
                let start = self.forwarded.fetch_add(read as u64, Ordering::Relaxed);
                let end = start + read as u64;
                let hit = |at: &AtomicU64| {
                    let byte = at.load(Ordering::Relaxed);
                    let hit = byte < end;
                    hit.then(|| {
                        at.store(u64::MAX, Ordering::Relaxed);
                        byte.saturating_sub(start) as usize
                    })
                };
                if let Some(byte) = hit(&self.flip_at) {
                    bytes[byte] ^= 0x10;
                }
                let cut = hit(&self.cut_at);
                let sent = to_acceptor.write_all(&bytes[..cut.unwrap_or(read)]).await;
                if cut.is_some() || sent.is_err() {
                    return;
                }
            }
        };
        let back = async {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let Ok(read @ 1..) = from_acceptor.read(&mut buffer).await else { return };
                self.thawed().await;
                if to_dialler.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = there => {}, () = back => {} }
    }
}
