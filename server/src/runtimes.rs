//! The runtimes that serve clients: several single-threaded ones on threads of their own.
//!
//! A request is read, checked, waited for and answered on one thread, so that nothing on its way
//! is shared but the core's inbox. One task accepts connections and deals each to the runtime that
//! has the fewest.

use std::future::Future;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::http::{Connection, Router, ServeOptions};
use crate::node::{NodeHandle, Port};
use crate::tasks::{Fate, spawn_task, spawn_thread};
use crate::watch::WakePort;

/// How long open calls may take to end once the server stops.
const GRACE: Duration = Duration::from_millis(500);
/// Pause after an accept that failed, mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Files that connections leave to the engine (`RocksOptions::max_open_files`), the log and whatever
/// else the process opens.
const RESERVED_FILES: usize = 512 + 150;
/// Connections that are served even where the limit of open files is very low.
const CONNECTIONS_MIN: usize = 64;
/// Threads for long reads of one runtime.
const BLOCKING_THREADS_MAX: usize = 4;

/// What one runtime works with.
#[derive(Clone)]
pub struct RuntimeParts {
    /// Who waits for the core.
    pub port: Arc<Port>,
    /// Which watch sessions have news.
    pub wake_port: Arc<WakePort>,
    /// The member.
    pub node: NodeHandle,
}

/// A runtime's thread and how to reach it.
pub struct RuntimeThread {
    /// Where its connections come from.
    lane: Lane,
    handle: Handle,
    thread: JoinHandle<()>,
}

/// The way of connections to one runtime.
#[derive(Clone)]
struct Lane {
    connections: mpsc::UnboundedSender<TcpStream>,
    open_count: Arc<AtomicUsize>,
}

/// Starts a runtime on a thread of its own.
pub fn start(
    number: usize,
    parts: RuntimeParts,
    fate: &Fate,
    stopping: watch::Receiver<bool>,
) -> std::io::Result<RuntimeThread> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name(format!("read-{number}"))
        .build()?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let lane = Lane { connections: sender, open_count: Arc::default() };
    let open_count = Arc::clone(&lane.open_count);
    let handle = runtime.handle().clone();
    let task_fate = fate.clone();
    let work = move || {
        runtime.block_on(serve(parts, receiver, open_count, stopping, &task_fate));
        // Long reads of clients that are gone may still run; nobody needs them.
        runtime.shutdown_background();
    };
    let thread = spawn_thread(&format!("serve-{number}"), fate, work, || {})?;
    Ok(RuntimeThread { lane, handle, thread })
}

async fn serve(
    parts: RuntimeParts,
    mut connections: mpsc::UnboundedReceiver<TcpStream>,
    open_count: Arc<AtomicUsize>,
    mut stopping: watch::Receiver<bool>,
    fate: &Fate,
) {
    let RuntimeParts { port, wake_port, node } = parts;
    let config = &node.settings().config;
    let options = ServeOptions {
        max_concurrent_streams: config.max_concurrent_streams,
        keepalive_interval: Some(config.keepalive_interval).filter(|interval| !interval.is_zero()),
        keepalive_timeout: config.keepalive_timeout,
    };
    spawn_task("answers", fate, Arc::clone(&port).deliver());
    spawn_task("timeouts", fate, Arc::clone(&port).expire(node.settings().request_timeout));
    spawn_task("reads", fate, node.carry_reads());
    spawn_task("watch-wakes", fate, wake_port.deliver());
    let router = Router::new(node.clone());
    loop {
        let stream = tokio::select! {
            stream = connections.recv() => stream,
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        let Some(stream) = stream else { break };
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => {
                let connection =
                    Connection { stream, router: router.clone(), options, stopping: stopping.clone() };
                let open = OpenConnection(Arc::clone(&open_count));
                tokio::spawn(async move {
                    connection.run().await;
                    drop(open);
                });
            }
            Err(error) => {
                open_count.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(%error, "an accepted connection could not be served");
            }
        }
    }
    let ended = async {
        while open_count.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        tracing::info!(
            connections = open_count.load(Ordering::Relaxed),
            "closing connections with open calls"
        );
    }
}

/// Counts a connection for as long as it lives.
struct OpenConnection(Arc<AtomicUsize>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All runtimes of the server; never none.
pub struct Runtimes {
    threads: Vec<RuntimeThread>,
}

impl Runtimes {
    /// Runtimes, of which the first one also accepts connections.
    pub fn new(threads: Vec<RuntimeThread>) -> Self {
        assert!(!threads.is_empty(), "somebody must serve");
        Self { threads }
    }

    /// Accepts on a listener until the server stops.
    pub fn accept(
        &self,
        listener: TcpListener,
        stopping: watch::Receiver<bool>,
    ) -> std::io::Result<SocketAddr> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let lanes: Vec<Lane> = self.threads.iter().map(|thread| thread.lane.clone()).collect();
        self.spawn(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => accept_all(&listener, &lanes, stopping).await,
                Err(error) => tracing::error!(%error, "listener failed"),
            }
        });
        Ok(address)
    }

    /// Runs a task on the first runtime.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.threads[0].handle.spawn(work);
    }

    /// Waits until all have ended, which they do once the server stops.
    pub fn join(self) {
        for runtime in self.threads {
            // A panic was told to the fate.
            let _ = runtime.thread.join();
        }
    }
}

/// How many connections may be open: the limit of open files less what the log and the engine need,
/// which must not fail because clients hold everything.
fn connections_max() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(RESERVED_FILES).max(CONNECTIONS_MIN)
}

async fn accept_all(listener: &tokio::net::TcpListener, lanes: &[Lane], mut stopping: watch::Receiver<bool>) {
    let connections_max = connections_max();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let open: usize = lanes.iter().map(|lane| lane.open_count.load(Ordering::Relaxed)).sum();
        if open >= connections_max && accepted.is_ok() {
            tracing::warn!(
                connections = open,
                "a connection was refused because too many are open; raise the limit of open files"
            );
            drop(accepted);
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        }
        let dealt = accepted.and_then(|(stream, _)| deal(stream.into_std()?, lanes));
        if let Err(error) = dealt {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

fn deal(stream: TcpStream, lanes: &[Lane]) -> std::io::Result<()> {
    let lane = lanes.iter().min_by_key(|lane| lane.open_count.load(Ordering::Relaxed));
    let lane = lane.expect("there is a runtime");
    lane.open_count.fetch_add(1, Ordering::Relaxed);
    lane.connections.send(stream).map_err(|_| std::io::Error::other("the server is stopping"))
}
