//! Runs one workload and measures it.
//!
//! Straight path: prepare the keys → one thread for each share of the connections, each with a
//! single-threaded runtime → all connect → the window is set → CPU times are read at both ends
//! of the window → counts are merged into a [`Report`].

mod calls;
mod fill;
mod lease;
mod unary;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::pace::{Queue, Schedule, Starts, pace};
use crate::procfs::{self, ProcError, ThreadTime};
use crate::report::{Report, ServerUse, ThreadUse};
use crate::stats::{Loop, Recorder, Window};
use crate::wire::CallError;

pub use calls::{call_all, connect};
pub use fill::count_keys;
use fill::fill;

/// How long calls may still be answered after the window.
const DRAIN: Duration = Duration::from_secs(10);

/// An end of a window that is not known yet.
pub const FAR: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the load consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Puts of random keys.
    Put,
    /// Linearizable reads of random keys.
    Range,
    /// Serializable reads of random keys.
    RangeSerializable,
    /// Linearizable lists of a prefix of --list-count keys.
    Prefix,
    /// Transactions: if the key exists, put it.
    Txn,
    /// Many watchers of one key, one writer; the latency is put to event, at each watcher.
    WatchFanout,
    /// Keepalives of many leases, one stream a connection.
    LeaseKeepalive,
    /// Loads --key-count keys and stops.
    Fill,
}

/// A run, with all its settings.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What to send.
    pub workload: Workload,
    /// `host:port` of the members; the connections are dealt to them in turn. The first is asked for
    /// everything besides the load.
    pub endpoints: Vec<String>,
    /// HTTP/2 connections.
    pub connections: usize,
    /// Unanswered calls on each connection at most.
    pub in_flight: usize,
    /// Load threads; the connections are shared out among them.
    pub threads: usize,
    /// Length of the measured window.
    pub duration: Duration,
    /// Load before the window.
    pub warmup: Duration,
    /// Calls a second in all (open loop); absent for a closed loop.
    pub rate: Option<f64>,
    /// Keys of the point workloads and of fill.
    pub key_count: u64,
    /// Keys of the prefix workload.
    pub list_count: u64,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Watchers of the fan-out workload.
    pub watchers: usize,
    /// Streams that carry the watchers.
    pub streams: usize,
    /// Leases of the keepalive workload.
    pub leases: usize,
    /// Puts in one transaction of fill; 1 for plain puts.
    pub batch: usize,
    /// Whether missing keys are loaded before the run.
    pub preload: bool,
    /// Processes whose CPU and memory are read.
    pub pids: Vec<u32>,
    /// Start of the random sequence of keys.
    pub seed: u64,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            workload: Workload::Put,
            endpoints: vec!["127.0.0.1:2379".into()],
            connections: 8,
            in_flight: 32,
            threads: 1,
            duration: Duration::from_secs(5),
            warmup: Duration::from_secs(1),
            rate: None,
            key_count: 100_000,
            list_count: 10_000,
            value_bytes: 256,
            watchers: 1000,
            streams: 10,
            leases: 1000,
            batch: 128,
            preload: true,
            pids: Vec::new(),
            seed: 1,
        }
    }
}

impl Spec {
    /// The member that is asked for everything besides the load.
    fn endpoint(&self) -> &str {
        self.endpoints.first().map_or("", String::as_str)
    }

    /// Whether calls start by the clock.
    pub fn looping(&self) -> Loop {
        if self.rate.is_some() { Loop::Open } else { Loop::Closed }
    }
}

/// Why a run gave no report.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A call of the set-up failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The server process cannot be observed.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// Settings that make no sense together.
    #[error("{0}")]
    Setting(String),
    /// The system refused a thread, runtime or timer.
    #[error("system refused: {0}")]
    System(#[from] std::io::Error),
    /// A load thread ended early.
    #[error("a load thread stopped before its work was done")]
    Thread,
    /// Nothing was answered inside the window.
    #[error("nothing was answered in the measured window, first_error={0}")]
    Nothing(String),
}

/// The recorder that the tasks of one thread share; never contended.
#[derive(Debug, Clone)]
pub struct SharedRecorder(Arc<Mutex<Recorder>>);

impl SharedRecorder {
    /// An empty recorder.
    pub fn new(window: Window, looping: Loop) -> Self {
        Self(Arc::new(Mutex::new(Recorder::new(window, looping))))
    }

    /// The recorder itself.
    pub fn lock(&self) -> MutexGuard<'_, Recorder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a run that one thread does.
#[derive(Debug, Clone, Copy)]
struct Share {
    index: usize,
    of: usize,
}

impl Share {
    /// This thread's part of `count` things that are shared out evenly.
    fn part(self, count: usize) -> usize {
        count / self.of + usize::from(self.index < count % self.of)
    }

    /// How many of them are dealt to the threads before this one.
    fn before(self, count: usize) -> usize {
        count / self.of * self.index + self.index.min(count % self.of)
    }
}

/// What a load thread has set up and is about to drive.
#[derive(Debug)]
enum Load {
    Unary(unary::Load),
    Watch(watch::Load),
    Lease(lease::Load),
}

impl Load {
    async fn connect(spec: &Spec, share: Share) -> Result<Self, LoadError> {
        Ok(match spec.workload {
            Workload::WatchFanout => Load::Watch(watch::Load::connect(spec).await?),
            Workload::LeaseKeepalive => Load::Lease(lease::Load::connect(spec, share).await?),
            _ => Load::Unary(unary::Load::connect(spec, share).await?),
        })
    }

    async fn drive(self, spec: &Spec, share: Share, window: Window) -> Result<Recorder, LoadError> {
        let recorder = SharedRecorder::new(window, spec.looping());
        let deadline = tokio::time::Instant::from_std(window.until + DRAIN);
        let mut pacer = JoinSet::new();
        let mut queue = None;
        let starts = match spec.rate {
            None => Starts::Closed(window.until),
            Some(rate) => {
                let open = Arc::new(Queue::default());
                let schedule = Schedule::new(window.from - spec.warmup, window.until, rate / share.of as f64);
                pacer.spawn(pace(schedule, Arc::clone(&open)));
                queue = Some(Arc::clone(&open));
                Starts::Open(open)
            }
        };
        match self {
            Load::Unary(load) => load.drive(starts, &recorder, deadline).await,
            Load::Watch(load) => load.drive(starts, &recorder, deadline).await,
            Load::Lease(load) => load.drive(starts, &recorder, deadline).await,
        }
        // When all workers gave up early, the calls still to come were never answered either.
        while let Some(ended) = pacer.join_next().await {
            ended.map_err(|_| LoadError::Thread)??;
        }
        let now = Instant::now();
        for start in queue.iter().flat_map(|queue| queue.left_over()) {
            recorder.lock().unfinished(start, now);
        }
        let empty = Recorder::new(window, spec.looping());
        Ok(std::mem::replace(&mut *recorder.lock(), empty))
    }
}

/// Loads the keys that the workload needs and that are not there yet. [`run`] does it by itself.
pub async fn prepare(spec: &Spec) -> Result<(), LoadError> {
    check(spec)?;
    match spec.workload {
        Workload::Prefix => fill::ensure_list(spec).await,
        Workload::Put | Workload::Range | Workload::RangeSerializable | Workload::Txn => {
            fill::ensure_keys(spec).await
        }
        Workload::WatchFanout | Workload::LeaseKeepalive | Workload::Fill => Ok(()),
    }
}

/// Makes the spec's unary calls by the clock until `end` is done, and returns what it gave as well.
/// Length and warm-up of the spec do not matter.
pub async fn run_until<T>(spec: &Spec, end: impl Future<Output = T>) -> Result<(Report, T), LoadError> {
    check(spec)?;
    let rate = spec.rate.ok_or_else(|| LoadError::Setting("a rate is needed: name=--rate".into()))?;
    let load = unary::Load::connect(spec, Share { index: 0, of: 1 }).await?;
    let from = Instant::now();
    let window = Window { from, until: from + FAR };
    let recorder = SharedRecorder::new(window, spec.looping());
    let queue = Arc::new(Queue::default());
    let meter = Meter::start(&spec.pids)?;
    let mut pacer = JoinSet::new();
    pacer.spawn(pace(Schedule::new(from, window.until, rate), Arc::clone(&queue)));
    let mut driving = Box::pin(load.drive(Starts::Open(Arc::clone(&queue)), &recorder, window.until.into()));
    let ended = tokio::select! {
        ended = end => ended,
        // Workers give up when their connection breaks.
        () = &mut driving => {
            let reason = recorder.lock().first_error().unwrap_or("none").to_owned();
            return Err(LoadError::Nothing(reason));
        }
    };
    let used = meter.stop()?;
    pacer.shutdown().await;
    queue.close();
    if tokio::time::timeout(DRAIN, driving).await.is_err() {
        recorder.lock().failed(&"calls were not answered in time");
    }
    let total: &Recorder = &recorder.lock();
    Ok((Report::new(spec, total, total.ops(), &used), ended))
}

/// Runs the workload; must be called inside a tokio runtime.
pub async fn run(spec: &Spec) -> Result<Report, LoadError> {
    prepare(spec).await?;
    if spec.workload == Workload::Fill {
        return fill(spec).await;
    }
    let mut threads = Vec::new();
    for index in 0..spec.threads {
        let of = spec.threads;
        threads.push(LoadThread::start(spec.clone(), Share { index, of })?);
    }
    for thread in &mut threads {
        thread.ready().await?;
    }
    let from = Instant::now() + spec.warmup;
    let window = Window { from, until: from + spec.duration };
    for thread in &mut threads {
        thread.go(window)?;
    }

    tokio::time::sleep_until(window.from.into()).await;
    let meter = Meter::start(&spec.pids)?;
    tokio::time::sleep_until(window.until.into()).await;
    let used = meter.stop()?;

    let mut total = Recorder::new(window, spec.looping());
    for thread in threads {
        total.merge(&thread.finish().await?);
    }
    if total.ops() == 0 {
        let reason = total.first_error().unwrap_or("none").to_owned();
        return Err(LoadError::Nothing(reason));
    }
    Ok(Report::new(spec, &total, total.ops(), &used))
}

fn check(spec: &Spec) -> Result<(), LoadError> {
    let refuse = |text: String| Err(LoadError::Setting(text));
    let counts = [
        ("connections", spec.connections),
        ("in-flight", spec.in_flight),
        ("threads", spec.threads),
        ("watchers", spec.watchers),
        ("streams", spec.streams),
        ("leases", spec.leases),
        ("batch", spec.batch),
        ("key-count", usize::try_from(spec.key_count).unwrap_or(usize::MAX)),
        ("list-count", usize::try_from(spec.list_count).unwrap_or(usize::MAX)),
    ];
    if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
        return refuse(format!("setting must be at least one: name=--{name}"));
    }
    if spec.endpoints.is_empty() {
        return refuse("no server was named: name=--endpoint".into());
    }
    if spec.threads > spec.connections {
        return refuse(format!(
            "each thread needs a connection: --threads={} --connections={}",
            spec.threads, spec.connections
        ));
    }
    if spec.workload == Workload::WatchFanout && spec.threads > 1 {
        return refuse("watch-fanout runs on one thread: leave --threads out".into());
    }
    if spec.workload == Workload::Fill && spec.rate.is_some() {
        return refuse("fill runs as fast as it can: leave --rate out".into());
    }
    if spec.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return refuse("rate must be above zero: name=--rate".into());
    }
    Ok(())
}

/// A thread of load and the three messages exchanged with it.
#[derive(Debug)]
struct LoadThread {
    ready: Option<oneshot::Receiver<Result<(), LoadError>>>,
    go: Option<oneshot::Sender<Window>>,
    done: oneshot::Receiver<Result<Recorder, LoadError>>,
}

impl LoadThread {
    fn start(spec: Spec, share: Share) -> Result<Self, LoadError> {
        let (ready_in, ready) = oneshot::channel();
        let (go, go_out) = oneshot::channel();
        let (done_in, done) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(format!("load-{}", share.index)).spawn(move || {
            runtime.block_on(async move {
                let load = match Load::connect(&spec, share).await {
                    Ok(load) => load,
                    Err(error) => {
                        let _ = ready_in.send(Err(error));
                        return;
                    }
                };
                let _ = ready_in.send(Ok(()));
                // Without a window the run was given up elsewhere.
                if let Ok(window) = go_out.await {
                    let _ = done_in.send(load.drive(&spec, share, window).await);
                }
            });
        })?;
        Ok(Self { ready: Some(ready), go: Some(go), done })
    }

    async fn ready(&mut self) -> Result<(), LoadError> {
        match self.ready.take() {
            Some(ready) => ready.await.map_err(|_| LoadError::Thread)?,
            None => Ok(()),
        }
    }

    fn go(&mut self, window: Window) -> Result<(), LoadError> {
        let go = self.go.take().ok_or(LoadError::Thread)?;
        go.send(window).map_err(|_| LoadError::Thread)
    }

    async fn finish(self) -> Result<Recorder, LoadError> {
        self.done.await.map_err(|_| LoadError::Thread)?
    }
}

/// CPU times at the start of a window.
#[derive(Debug)]
pub struct Meter {
    at: Instant,
    servers: Vec<(u32, Duration, BTreeMap<String, ThreadTime>)>,
    client: Duration,
}

/// What was used over a window.
#[derive(Debug)]
pub struct Used {
    /// Length of the window as measured.
    pub elapsed: Duration,
    /// CPU time of the load generator itself.
    pub client_cpu: Duration,
    /// The servers' use, of those whose process is known.
    pub servers: Vec<ServerUse>,
}

impl Meter {
    /// Reads the times of these processes.
    pub fn start(pids: &[u32]) -> Result<Self, ProcError> {
        let read = |pid: &u32| Ok((*pid, procfs::cpu_time(*pid)?, procfs::threads(*pid)));
        Ok(Self {
            at: Instant::now(),
            servers: pids.iter().map(read).collect::<Result<_, ProcError>>()?,
            client: procfs::cpu_time(std::process::id())?,
        })
    }

    /// Reads them again.
    pub fn stop(self) -> Result<Used, ProcError> {
        let read = |(pid, cpu, threads): (u32, Duration, BTreeMap<String, ThreadTime>)| {
            let memory = procfs::memory(pid)?;
            Ok(ServerUse {
                pid,
                cpu: procfs::cpu_time(pid)?.saturating_sub(cpu),
                threads: ThreadUse::between(&threads, procfs::threads(pid)),
                rss_bytes: memory.rss_bytes,
                rss_anon_bytes: memory.rss_anon_bytes,
            })
        };
        let servers = self.servers.into_iter().map(read).collect::<Result<_, ProcError>>()?;
        let client = procfs::cpu_time(std::process::id())?;
        Ok(Used { elapsed: self.at.elapsed(), client_cpu: client.saturating_sub(self.client), servers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::test_server;

    #[test]
    fn connections_are_shared_out_evenly_and_none_is_lost() {
        let parts: Vec<_> = (0..3).map(|index| Share { index, of: 3 }.part(8)).collect();
        assert_eq!(parts, [3, 3, 2]);
        assert_eq!(Share { index: 0, of: 1 }.part(8), 8);
        let before: Vec<_> = (0..3).map(|index| Share { index, of: 3 }.before(8)).collect();
        assert_eq!(before, [0, 3, 6]);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_with_the_flag_to_change() {
        let refused = |spec: Spec| check(&spec).unwrap_err().to_string();
        let text = refused(Spec { connections: 0, ..Spec::default() });
        assert_eq!(text, "setting must be at least one: name=--connections");
        let text = refused(Spec { rate: Some(f64::NAN), ..Spec::default() });
        assert_eq!(text, "rate must be above zero: name=--rate");
        let text = refused(Spec { threads: 9, ..Spec::default() });
        assert!(text.contains("--threads=9"), "{text}");
        assert!(check(&Spec::default()).is_ok());
    }

    fn trial(endpoint: String) -> Spec {
        Spec {
            endpoints: vec![endpoint],
            connections: 2,
            in_flight: 2,
            warmup: Duration::ZERO,
            duration: Duration::from_millis(100),
            preload: false,
            ..Spec::default()
        }
    }

    #[tokio::test]
    async fn an_open_loop_makes_as_many_calls_as_the_rate_says() {
        let rate = Some(200.0);
        let spec = Spec { rate, threads: 2, ..trial(test_server::start().await) };
        let report = run(&spec).await.unwrap();
        assert_eq!((report.latency.count, report.errors, report.unfinished), (20, 0, 0));
    }

    #[tokio::test]
    async fn a_closed_loop_calls_again_as_soon_as_it_is_answered() {
        let report = run(&trial(test_server::start().await)).await.unwrap();
        assert!(report.ops > 4, "more than one call a slot ops={}", report.ops);
        assert_eq!((report.errors, report.unfinished), (0, 0));
        assert!(report.client_cpu_us_per_op >= 0.0);
    }

    #[tokio::test]
    async fn calls_that_were_due_after_the_connection_broke_are_counted() {
        let endpoint = test_server::start_with(test_server::Manner::HangUpAfter(5)).await;
        let spec = Spec { rate: Some(1000.0), connections: 1, in_flight: 1, ..trial(endpoint) };
        let report = run(&spec).await.unwrap();
        assert_eq!((report.errors, report.unfinished), (1, 94));
        assert_eq!(report.latency.count, 5 + 94, "the wait for nothing counts too");
    }

    #[tokio::test]
    async fn a_server_that_refuses_everything_gives_no_report() {
        let endpoint = test_server::start_with(test_server::Manner::Refuse).await;
        let error = run(&trial(endpoint)).await.unwrap_err().to_string();
        assert!(error.contains("not today code=14"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error_and_not_an_empty_report() {
        // Bound and dropped: nothing listens on this port now.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let spec = Spec { endpoints: vec![format!("127.0.0.1:{port}")], ..Spec::default() };
        let error = run(&spec).await.unwrap_err().to_string();
        assert!(error.contains(&format!("endpoint=127.0.0.1:{port}")), "{error}");
    }
}
