//! The way of one client to one member: a port of its own, behind which anything can go wrong.
//!
//! What is held back is not lost: TCP sends it again when the way is free, so it arrives then, in
//! order. What is cut is lost, as after a reset.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

const CHUNK_BYTES: usize = 16 << 10;
/// Chunks on a slow way at a time; when they are that many, the sender is not read any more.
const CHUNKS_MAX: usize = 64;

/// What is wrong with a way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nothing arrives at the store.
    pub hold_to_store: bool,
    /// Nothing arrives at the client.
    pub hold_from_store: bool,
    /// The store is stopped: as if both were held, whatever else is healed.
    pub paused: bool,
    /// Connections end, and nobody listens.
    pub refused: bool,
    /// How long everything is under way, in each direction.
    pub delay: Duration,
    /// Connections of an earlier era have ended.
    era: u64,
}

#[derive(Clone, Copy)]
enum Direction {
    ToStore,
    FromStore,
}

impl Faults {
    fn holds(&self, direction: Direction) -> bool {
        self.paused
            || match direction {
                Direction::ToStore => self.hold_to_store,
                Direction::FromStore => self.hold_from_store,
            }
    }
}

/// Where a member listens at present, if it does.
pub type Target = Arc<Mutex<Option<SocketAddr>>>;

/// See the module. Dropping it ends its connections and its port.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    faults: watch::Sender<Faults>,
    open: Arc<AtomicUsize>,
    /// Whether the port is open.
    listening: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Opens a port that leads to the target.
    ///
    /// # Errors
    /// The system has no port left.
    pub async fn open(target: Target) -> std::io::Result<Self> {
        // Below the ports that the system gives to connections: it must be free to come back to.
        let address = SocketAddr::from(([127, 0, 0, 1], crate::store::free_port()?));
        let listener = TcpListener::bind(address).await?;
        let faults = watch::Sender::new(Faults::default());
        let open = Arc::new(AtomicUsize::new(0));
        let (is_open, listening) = watch::channel(true);
        let task = tokio::spawn(listen(listener, target, faults.subscribe(), open.clone(), is_open));
        Ok(Self { address, faults, open, listening, task: task.abort_handle() })
    }

    /// Gives a future that is done when the port is as open, or as closed, as it should be.
    pub fn settled(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut listening, faults) = (self.listening.clone(), self.faults.subscribe());
        async move {
            // It fails only if the link is gone.
            let _ = listening.wait_for(|open| *open != faults.borrow().refused).await;
        }
    }

    /// Where the client connects to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what is wrong.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    /// Ends what is open; new connections pass.
    pub fn drop_connections(&self) {
        self.set(|faults| faults.era += 1);
    }

    /// Makes everything right, but for a store that is stopped.
    pub fn heal(&self) {
        self.set(|faults| *faults = Faults { paused: faults.paused, era: faults.era, ..Faults::default() });
    }

    /// How many connections there are.
    pub fn connection_count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

async fn listen(
    listener: TcpListener,
    target: Target,
    states: watch::Receiver<Faults>,
    open: Arc<AtomicUsize>,
    is_open: watch::Sender<bool>,
) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    let mut changes = states.clone();
    loop {
        match &listener {
            Some(socket) => tokio::select! {
                biased;
                refused = changes.wait_for(|faults| faults.refused) => {
                    if refused.is_err() {
                        return;
                    }
                    // The system refuses from here on, as on a machine where nobody listens.
                    listener = None;
                    is_open.send_replace(false);
                }
                accepted = socket.accept() => if let Ok((client, _)) = accepted {
                    tokio::spawn(carry(client, target.clone(), states.clone(), Counted::one(&open)));
                },
            },
            None => {
                if changes.wait_for(|faults| !faults.refused).await.is_err() {
                    return;
                }
                match TcpListener::bind(address).await {
                    Ok(socket) => {
                        listener = Some(socket);
                        is_open.send_replace(true);
                    }
                    Err(error) => {
                        tracing::warn!(%error, %address, "a port is not free to be opened again yet");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        }
    }
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes without a good-bye: the other side sees a reset.
fn reset(stream: &TcpStream) {
    // It may be gone already.
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

async fn carry(
    mut client: TcpStream,
    target: Target,
    mut states: watch::Receiver<Faults>,
    _counted: Counted,
) {
    let era = states.borrow().era;
    let mut over = states.clone();
    let over = over.wait_for(|faults| faults.refused || faults.era != era);
    let connect = async {
        // A stopped machine does not even answer; a held way answers nothing.
        let free = |faults: &Faults| !faults.holds(Direction::ToStore);
        states.wait_for(free).await.ok()?;
        let address = (*target.lock())?;
        TcpStream::connect(address).await.ok()
    };
    tokio::pin!(over);
    let store = tokio::select! {
        biased;
        _ = &mut over => None,
        store = connect => store,
    };
    let Some(mut store) = store else { return reset(&client) };
    // Small frames wait for nobody.
    let _ = (client.set_nodelay(true), store.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_store, to_store) = store.split();
    tokio::select! {
        biased;
        _ = over => {
            reset(&client);
            reset(&store);
        }
        // Half-closed connections are of no use to HTTP/2.
        () = pump(from_client, to_store, states.clone(), Direction::ToStore) => {}
        () = pump(from_store, to_client, states.clone(), Direction::FromStore) => {}
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    mut states: watch::Receiver<Faults>,
    direction: Direction,
) {
    let (queue, arriving) = mpsc::channel(CHUNKS_MAX);
    let deliver = deliver(to, states.clone(), direction, arriving);
    let take = async {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        loop {
            if states.wait_for(|faults| !faults.holds(direction)).await.is_err() {
                return;
            }
            buffer.reserve(CHUNK_BYTES);
            match from.read_buf(&mut buffer).await {
                Ok(1..) => {
                    let at = Instant::now() + states.borrow().delay;
                    if queue.send((at, buffer.split().freeze())).await.is_err() {
                        return;
                    }
                }
                // What is on its way still arrives.
                Ok(0) | Err(_) => break drop(queue),
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = deliver => {}
        () = take => {}
    }
}

async fn deliver(
    mut to: WriteHalf<'_>,
    mut states: watch::Receiver<Faults>,
    direction: Direction,
    mut arriving: mpsc::Receiver<(Instant, Bytes)>,
) {
    while let Some((at, bytes)) = arriving.recv().await {
        tokio::time::sleep_until(at).await;
        if states.wait_for(|faults| !faults.holds(direction)).await.is_err()
            || to.write_all(&bytes).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    const MOMENT: Duration = Duration::from_millis(60);

    struct Way {
        link: Link,
        client: TcpStream,
        store: TcpStream,
        listener: TcpListener,
    }

    async fn way() -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Arc::new(Mutex::new(Some(listener.local_addr().unwrap())));
        let link = Link::open(target).await.unwrap();
        let client = TcpStream::connect(link.address).await.unwrap();
        let (store, _) = listener.accept().await.unwrap();
        Way { link, client, store, listener }
    }

    async fn hear(from: &mut TcpStream) -> std::io::Result<Vec<u8>> {
        let mut buffer = vec![0; 100];
        let size = tokio::time::timeout(PATIENCE, from.read(&mut buffer)).await.expect("in time")?;
        buffer.truncate(size);
        Ok(buffer)
    }

    /// Nothing comes; the only way to see that is to wait a moment.
    async fn hears_nothing(from: &mut TcpStream) {
        let mut buffer = [0; 1];
        assert!(tokio::time::timeout(MOMENT, from.read(&mut buffer)).await.is_err(), "something came");
    }

    #[tokio::test]
    async fn what_is_held_arrives_later_and_the_other_direction_is_free() {
        let Way { link, mut client, mut store, .. } = way().await;
        link.set(|faults| faults.hold_to_store = true);
        client.write_all(b"one").await.unwrap();
        store.write_all(b"two").await.unwrap();
        assert_eq!(hear(&mut client).await.unwrap(), b"two");
        hears_nothing(&mut store).await;
        link.set(|faults| faults.hold_from_store = true);
        store.write_all(b"three").await.unwrap();
        hears_nothing(&mut client).await;
        link.heal();
        assert_eq!(hear(&mut store).await.unwrap(), b"one");
        assert_eq!(hear(&mut client).await.unwrap(), b"three");
        assert_eq!(link.connection_count(), 1);
    }

    #[tokio::test]
    async fn a_stopped_store_stays_stopped_when_the_way_is_healed() {
        let Way { link, mut client, mut store, .. } = way().await;
        link.set(|faults| faults.paused = true);
        link.heal();
        client.write_all(b"one").await.unwrap();
        hears_nothing(&mut store).await;
        link.set(|faults| faults.paused = false);
        assert_eq!(hear(&mut store).await.unwrap(), b"one");
    }

    #[tokio::test]
    async fn dropped_connections_end_and_new_ones_pass() {
        let Way { link, mut client, mut store, listener } = way().await;
        client.write_all(b"once").await.unwrap();
        assert_eq!(hear(&mut store).await.unwrap(), b"once");
        link.drop_connections();
        assert!(hear(&mut client).await.is_err(), "a reset");
        assert!(hear(&mut store).await.is_err(), "on both sides");
        let mut client = TcpStream::connect(link.address).await.unwrap();
        let (mut store, _) = listener.accept().await.unwrap();
        client.write_all(b"again").await.unwrap();
        assert_eq!(hear(&mut store).await.unwrap(), b"again");
    }

    #[tokio::test]
    async fn refused_connections_end_until_the_way_is_healed() {
        let Way { link, mut client, listener, .. } = way().await;
        link.set(|faults| faults.refused = true);
        assert!(hear(&mut client).await.map_or(true, |bytes| bytes.is_empty()));
        link.settled().await;
        let refused = TcpStream::connect(link.address).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        link.heal();
        link.settled().await;
        let _client = TcpStream::connect(link.address).await.unwrap();
        tokio::time::timeout(PATIENCE, listener.accept()).await.expect("passes").unwrap();
    }

    #[tokio::test]
    async fn a_delay_counts_for_each_direction_and_keeps_the_order() {
        let Way { link, mut client, mut store, .. } = way().await;
        link.set(|faults| faults.delay = Duration::from_millis(40));
        let begun = Instant::now();
        client.write_all(b"ping").await.unwrap();
        assert_eq!(hear(&mut store).await.unwrap(), b"ping");
        store.write_all(b"pong").await.unwrap();
        assert_eq!(hear(&mut client).await.unwrap(), b"pong");
        assert!(begun.elapsed() >= Duration::from_millis(80));
    }

    #[tokio::test]
    async fn a_closed_connection_is_not_counted_any_more() {
        let Way { link, client, mut store, .. } = way().await;
        drop(client);
        assert!(hear(&mut store).await.map_or(true, |bytes| bytes.is_empty()));
        tokio::time::timeout(PATIENCE, async {
            while link.connection_count() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it is gone");
    }
}
