//! The differential test: many seeds against two servers, a report at the end.
//!
//! Seeds share their servers, since starting one takes longer than a script. Both servers see the
//! same requests, so their revisions stay equal as long as they behave the same. After a difference
//! nothing is certain any more: both servers are started afresh, the seed is replayed alone and, if
//! the difference is still there, made short.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Client;
use crate::driver::{self, Exchange, Pair, Run};
use crate::generator;
use crate::known;
use crate::mutate::Mutation;
use crate::request::Request;
use crate::servers::{self, Server, Target};
use crate::text;

/// What to compare and how long.
#[derive(Clone, Debug)]
pub struct DiffConfig {
    /// The reference.
    pub left: Target,
    /// The server under test.
    pub right: Target,
    /// First seed.
    pub start: u64,
    /// Number of seeds.
    pub seeds: u64,
    /// Requests in a script.
    pub steps: usize,
    /// Pairs of servers that work at the same time.
    pub lanes: usize,
    /// Servers start afresh after so many seeds.
    pub seeds_per_start: u64,
    /// Stop after so many findings.
    pub findings_max: usize,
    /// Calls the shrinker may make.
    pub tries_max: usize,
    /// Lies about the right side's answers.
    pub mutation: Option<Mutation>,
    /// Prints every exchange.
    pub verbose: bool,
    /// Parent of the data directories.
    pub data_root: PathBuf,
}

/// A reproducible difference.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The seed that showed it.
    pub seed: u64,
    /// Requests in the shortened script, those of the driver not counted.
    pub script_len: usize,
    /// The shortened script with both answers.
    pub text: String,
}

/// What came of a whole run.
#[derive(Debug, Default)]
pub struct Report {
    /// Seeds that were run.
    pub seeds: u64,
    /// Requests that were compared.
    pub exchanges: u64,
    /// How often each kind of request had each outcome.
    pub coverage: BTreeMap<(&'static str, String), u64>,
    /// How often each known difference was met.
    pub known: BTreeMap<&'static str, u64>,
    /// The differences.
    pub findings: Vec<Finding>,
    /// Seeds whose difference did not come back on fresh servers, with their last exchange.
    pub unsteady: Vec<Finding>,
    /// Wall time.
    pub elapsed: Duration,
}

impl Report {
    fn add(&mut self, run: &Run) {
        self.seeds += 1;
        self.exchanges += run.exchanges.len() as u64;
        for exchange in &run.exchanges {
            *self.coverage.entry((exchange.request.kind(), exchange.left.outcome())).or_default() += 1;
        }
        for (name, count) in &run.known {
            *self.known.entry(name).or_default() += count;
        }
    }

    /// True when both servers behaved the same all the time.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.unsteady.is_empty()
    }

    /// The report for people.
    pub fn text(&self, with_coverage: bool) -> String {
        let mut text = String::new();
        if with_coverage {
            text.push_str("coverage (answers of the left side):\n");
            for ((kind, outcome), count) in &self.coverage {
                let _ = writeln!(text, "  {count:>8}  {kind}  {outcome}");
            }
        }
        if !self.known.is_empty() {
            text.push_str("known differences met:\n");
            for rule in known::TABLE.iter().filter(|rule| self.known.contains_key(rule.name)) {
                let _ = writeln!(text, "  {:>8}  {}: {}", self.known[rule.name], rule.name, rule.reason);
            }
        }
        for (title, list) in [("unsteady difference", &self.unsteady), ("difference", &self.findings)] {
            for finding in list {
                let _ = writeln!(
                    text,
                    "\n{title} seed={} requests={}\n{}",
                    finding.seed, finding.script_len, finding.text
                );
            }
        }
        let seconds = self.elapsed.as_secs_f64().max(0.001);
        let _ = writeln!(
            text,
            "{} seeds, {} requests compared in {seconds:.1} s ({:.1} seeds/s): {} differences, {} unsteady",
            self.seeds,
            self.exchanges,
            self.seeds as f64 / seconds,
            self.findings.len(),
            self.unsteady.len(),
        );
        text
    }
}

/// Two servers, and what is needed to start them afresh.
struct Lane<'a> {
    config: &'a DiffConfig,
    pair: Pair,
    /// Dropped before the directory.
    servers: Vec<Server>,
    directory: Option<TempDir>,
}

impl<'a> Lane<'a> {
    async fn new(config: &'a DiffConfig) -> Result<Lane<'a>, String> {
        let (pair, servers, directory) = start(config).await?;
        Ok(Lane { config, pair, servers, directory: Some(directory) })
    }

    /// Whether both sides can be started afresh.
    fn can_restart(&self) -> bool {
        self.servers.len() == 2
    }

    async fn restart(&mut self) -> Result<(), String> {
        self.servers.clear();
        self.directory = None;
        let (pair, servers, directory) = start(self.config).await?;
        (self.pair, self.servers, self.directory) = (pair, servers, Some(directory));
        Ok(())
    }

    async fn run(&mut self, script: &[Request]) -> Run {
        driver::run(&mut self.pair, script, self.config.mutation).await
    }

    /// Replays a failing script alone and makes it short. The flag tells whether it still failed.
    async fn investigate(
        &mut self,
        seed: u64,
        script: Vec<Request>,
        seen: Run,
    ) -> Result<(bool, Finding), String> {
        let as_seen = Finding { seed, script_len: script.len(), text: tell(&seen.exchanges) };
        if !self.can_restart() {
            return Ok((true, as_seen));
        }
        // Some differences need a store that has a past.
        let aged = [generator::past(), script.clone()].concat();
        let mut first = Run::default();
        let mut script = script;
        for candidate in [script.clone(), aged] {
            self.restart().await?;
            first = self.run(&candidate).await;
            script = candidate;
            if first.differs {
                break;
            }
        }
        if !first.differs {
            return Ok((false, as_seen));
        }
        let kind = first.exchanges.last().map(|exchange| exchange.request.kind());
        let mut shortest = first;
        let mut fresh = false;
        let mut problem = None;
        let tries = self.config.tries_max;
        let script = crate::shrink::shrink(script, tries, async |candidate: &[Request]| {
            // A try without a difference leaves both servers in equal states; the next try begins by
            // checking that.
            if !fresh && let Err(e) = self.restart().await {
                problem = Some(e);
                return false;
            }
            let run = self.run(candidate).await;
            fresh = !run.differs;
            let same = run.differs && run.exchanges.last().map(|exchange| exchange.request.kind()) == kind;
            if same {
                shortest = run;
            }
            same
        })
        .await;
        if let Some(problem) = problem {
            return Err(problem);
        }
        self.restart().await?;
        Ok((true, Finding { seed, script_len: script.len(), text: tell(&shortest.exchanges) }))
    }
}

async fn start(config: &DiffConfig) -> Result<(Pair, Vec<Server>, TempDir), String> {
    let directory = tempfile::Builder::new().prefix("folkmoot-oracle-").tempdir_in(&config.data_root);
    let directory = directory.map_err(|e| format!("cannot create data directory: {e}"))?;
    let side = async |target: &Target, name: &str| -> Result<(String, Option<Server>), String> {
        match target {
            Target::Url(url) => Ok((url.clone(), None)),
            Target::Program(program) => {
                let server = Server::start_ready(program, &directory.path().join(name)).await?;
                Ok((server.url.clone(), Some(server)))
            }
        }
    };
    let (left, right) = tokio::join!(side(&config.left, "left"), side(&config.right, "right"));
    let ((left_url, left), (right_url, right)) = (left?, right?);
    let pair = Pair { left: Client::connect(&left_url).await?, right: Client::connect(&right_url).await? };
    Ok((pair, left.into_iter().chain(right).collect(), directory))
}

/// A script as it was run: one line a request; both answers at the difference.
fn tell(exchanges: &[Exchange]) -> String {
    let mut text = String::new();
    for (index, exchange) in exchanges.iter().enumerate() {
        let _ = writeln!(text, "{}", text::request(&exchange.request));
        if index + 1 < exchanges.len() {
            let _ = writeln!(text, "  both:  {}", text::answer(&exchange.left).replace('\n', "\n         "));
            continue;
        }
        let (left, right) = (text::answer(&exchange.left), text::answer(&exchange.right));
        let (left, right): (Vec<&str>, Vec<&str>) = (left.lines().collect(), right.lines().collect());
        // What watchers received can be long; only the part that is not alike is told.
        let alike = left.iter().zip(&right).take_while(|(l, r)| l == r).count();
        if alike > 0 {
            let _ = writeln!(text, "  both:  {alike} lines");
        }
        for (side, lines) in [("left: ", &left), ("right:", &right)] {
            for line in &lines[alike..] {
                let _ = writeln!(text, "  {side} {line}");
            }
        }
    }
    text
}

/// Runs all seeds.
pub fn run(config: &DiffConfig) -> Result<Report, String> {
    let began = Instant::now();
    let next = AtomicU64::new(config.start);
    let report = Mutex::new(Report::default());
    // Two endpoints that are not ours cannot be shared by several lanes.
    let ours = [&config.left, &config.right].iter().all(|target| matches!(target, Target::Program(_)));
    let lanes = if ours { config.lanes.max(1) } else { 1 };
    let results: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let lane = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|e| format!("cannot start runtime: {e}"))?.block_on(lane(config, &next, &report))
        };
        let threads: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<(), String>>| {
            thread.join().unwrap_or_else(|_| Err("a lane panicked".into()))
        };
        threads.into_iter().map(join).collect()
    });
    results.into_iter().collect::<Result<(), String>>()?;
    let mut report = report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.elapsed = began.elapsed();
    Ok(report)
}

async fn lane(config: &DiffConfig, next: &AtomicU64, report: &Mutex<Report>) -> Result<(), String> {
    let locked = || report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut lane = Lane::new(config).await?;
    let mut age = 0;
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= config.start.saturating_add(config.seeds) || locked().findings.len() >= config.findings_max
        {
            return Ok(());
        }
        if age >= config.seeds_per_start && lane.can_restart() {
            lane.restart().await?;
            age = 0;
        }
        age += 1;
        let script = generator::script(seed, config.steps);
        let run = lane.run(&script).await;
        locked().add(&run);
        if config.verbose {
            crate::say(&format!("seed {seed}\n{}", tell(&run.exchanges)));
        }
        if run.differs {
            let (steady, finding) = lane.investigate(seed, script, run).await?;
            age = 0;
            let kind = if steady { "difference" } else { "unsteady difference" };
            crate::say(&format!("{kind} seed={seed}"));
            let mut report = locked();
            if steady {
                report.findings.push(finding)
            } else {
                report.unsteady.push(finding)
            }
            if !lane.can_restart() {
                // The servers may have diverged, and they are not ours to reset.
                return Ok(());
            }
        }
    }
}

/// The default parent of data directories.
pub fn default_root() -> PathBuf {
    servers::fast_root()
}
