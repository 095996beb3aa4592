//! One round: a new cluster, clients at work, faults, healing, rest, and the verdict.

mod lie;
mod settle;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use folkmoot_check::history as h;
use folkmoot_check::{Counts, LeaseSettings, LivePeriod, Report, Settings, StateHashes};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use lie::Lie;
use settle::{AGREE_PATIENCE, Found};

use crate::cluster::{Cluster, ClusterConfig};
use crate::load::session::Clock;
use crate::load::{Load, LoadConfig, Recorded};
use crate::nemesis::{Compactor, Fault, Nemesis, Permits, Planned, draw_plan};
use crate::network::Carrier;
use crate::timeline::Timeline;

/// How long clients work before the first fault, and after the last one.
const CALM: Duration = Duration::from_millis(500);
/// How long watches may take to deliver what is left.
const DRAIN_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a small disk: some segments of a log that is allocated ahead, and some data.
const SMALL_DISK_BYTES: u64 = 400 << 20;
/// After its time a lease may live until the next leader is elected and has looked at it.
const LEASE_SLACK: Duration = Duration::from_secs(4);
/// A request that its client gave up may wait in a member for this long.
const LINGER: Duration = Duration::from_secs(10);
/// Violations of one rule that are shown; what is broken once is often broken everywhere.
const SHOWN_OF_A_RULE: u64 = 4;
/// Parts per million by which two clocks of one machine may differ.
const CLOCK_ERROR_PPM: u64 = 1000;

/// What to do in a round.
#[derive(Clone, Debug)]
pub struct RoundConfig {
    /// What is attacked.
    pub cluster: ClusterConfig,
    /// For how long.
    pub length: Duration,
    /// The clients.
    pub load: LoadConfig,
    /// Afterwards tell lies about what the clients saw, and see whether they are noticed.
    pub lies: bool,
    /// Exactly these faults instead of drawn ones.
    pub plan: Option<Vec<Planned>>,
    /// Keep all files, whatever the verdict.
    pub keep: bool,
    /// Print nothing while it runs.
    pub quiet: bool,
}

/// Everything that is judged.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// What the clients saw, with the truth.
    pub history: h::History,
    /// Each member's hash of its history up to the newest revision.
    pub hashes: Vec<(h::MemberId, u64)>,
    /// The newest revision.
    pub revision: h::Revision,
}

/// How a round ended.
#[derive(Debug)]
pub struct Verdict {
    /// What is wrong; empty if nothing is.
    pub problems: Vec<String>,
    /// What was judged.
    pub counts: Counts,
    /// Lies that were told, and whether they were noticed.
    pub lies: Vec<(Lie, bool)>,
    /// What was done when.
    pub timeline: String,
    /// Where all files are, if they were kept.
    pub kept: Option<PathBuf>,
}

/// Runs a round. An error means that it could not be run at all.
pub async fn run(config: &RoundConfig, seed: u64, label: &str) -> Result<Verdict, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let permits = Permits { small_disk: matches!(config.cluster.carrier, Carrier::Namespaces(_)) };
    let plan = draw_plan(&mut rng, config.length, permits);
    let plan = config.plan.clone().unwrap_or(plan);
    let mut cluster = config.cluster.clone();
    cluster.seed = rng.random();
    if plan.iter().any(|planned| matches!(planned.fault, Fault::FullDisk { .. })) {
        cluster.small_disk = Some((rng.random_range(0..cluster.member_count), SMALL_DISK_BYTES));
    }
    let timeline = Arc::new(Timeline::begin(label, config.quiet));
    timeline.note(&format!("{} members of {:?}, seed {seed}", cluster.member_count, cluster.program));
    let cluster = Cluster::start(cluster).await?;
    timeline.note("all members answer");

    let mut load = config.load;
    if !load.etcd_bugs && plan.iter().any(|planned| matches!(planned.fault, Fault::Pause(_))) {
        timeline
            .note("no leases and locks: a leader of etcd 3.4 that was held may end them early (issue 15247)");
        (load.lease_clients, load.lock_clients) = (0, 0);
    }
    let round = Round { config, load, cluster, timeline, clock: Clock::start() };
    let (evidence, settings, problems) = round.attack(&plan, seed, &mut rng).await;
    let lies = if config.lies { round.tell_lies(&evidence, &settings, &mut rng) } else { Vec::new() };
    round.judge(&evidence, &settings, problems, lies)
}

struct Round<'a> {
    config: &'a RoundConfig,
    load: LoadConfig,
    cluster: Arc<Cluster>,
    timeline: Arc<Timeline>,
    clock: Clock,
}

impl Round<'_> {
    fn note(&self, text: &str) {
        self.timeline.note(text);
    }

    /// Everything up to the evidence. Problems are what shows without judging it.
    async fn attack(
        &self,
        plan: &[Planned],
        seed: u64,
        rng: &mut ChaCha8Rng,
    ) -> (Evidence, Settings, Vec<String>) {
        let mut load = Load::start(&self.cluster, self.load, self.clock, seed);
        let compactor = Compactor {
            session: load.session(),
            observed: Box::new(load.observed()),
            note: Box::new(load.note_compaction()),
            newest: 0,
        };
        let mut closer = load.session();
        closer.give_up_faith();
        let nemesis = Nemesis::new(self.cluster.clone(), self.timeline.clone(), compactor);
        tokio::time::sleep(CALM).await;
        let attacked = self.clock.now();
        nemesis.run(plan, rng.random()).await;

        let mut problems = Vec::new();
        let healed = match nemesis.heal().await {
            Ok(()) => self.all_ready().await,
            Err(problem) => Err(problem),
        };
        let live_again = self.clock.now();
        self.note(if healed.is_ok() { "healed: all members answer" } else { "cannot be healed" });
        tokio::time::sleep(CALM).await;
        load.end_work();
        let work_over = self.clock.now();
        let mut to = None;
        let rest = async {
            healed?;
            self.cluster.await_agreement(AGREE_PATIENCE).await?;
            self.note("all members agree");
            settle::end_leases(&self.cluster, &mut closer).await?;
            to = Some(settle::revision(&mut closer).await?);
            settle::mark(&mut closer).await
        };
        let mut rested = rest.await;
        let recorded = load.finish(to.filter(|_| rested.is_ok()), DRAIN_PATIENCE).await;
        let mut found = None;
        if rested.is_ok() {
            rested = self.cluster.await_agreement(AGREE_PATIENCE).await;
        }
        if rested.is_ok() {
            match settle::read_all(&self.cluster, &mut closer, self.load.etcd_bugs).await {
                Ok(all) => found = Some(all),
                Err(problem) => rested = Err(problem),
            }
        }
        problems.extend(rested.err());
        for node in self.cluster.nodes() {
            for status in self.cluster.unwanted_ends(node) {
                let (name, tail) = (self.cluster.name(node), self.cluster.log_tail(node));
                problems.push(format!("{name} ended by itself: {status}; the last it printed:\n{tail}"));
            }
        }
        let recorded = recorded.unwrap_or_else(|problem| {
            problems.push(problem);
            Recorded::default()
        });
        let (carried, spoiled) = self.cluster.network.links.counts();
        let terms = self.cluster.statuses().await.iter().map(|(_, status)| status.raft_term).max();
        let silence = longest_silence(&recorded.operations, attacked, work_over);
        self.note(&format!(
            "at rest in term {}; the network carried {carried} packets and spoiled {spoiled}; \
             longest time without an acknowledged write {silence:.1?}",
            terms.unwrap_or(0)
        ));

        let mut operations = recorded.operations.clone();
        operations.extend(nemesis.take_operations().await);
        operations.append(&mut closer.operations);
        let period = |from, to| LivePeriod { from, to };
        let lease = LeaseSettings {
            clock_error_ppm: CLOCK_ERROR_PPM,
            live: vec![period(0, attacked), period(live_again, work_over)],
            slack: nanos(LEASE_SLACK),
            linger: Some(nanos(LINGER)),
        };
        let settings = Settings { cap: SHOWN_OF_A_RULE, lease, ..Settings::default() };
        (evidence(operations, recorded, found), settings, problems)
    }

    async fn all_ready(&self) -> Result<(), String> {
        for node in self.cluster.nodes() {
            self.cluster.ready(node, AGREE_PATIENCE).await?;
        }
        Ok(())
    }

    fn tell_lies(&self, evidence: &Evidence, settings: &Settings, rng: &mut ChaCha8Rng) -> Vec<(Lie, bool)> {
        let mut told = Vec::new();
        for lie in Lie::ALL {
            let mut evidence = evidence.clone();
            let Some(text) = lie.tell(&mut evidence, rng) else { continue };
            let report = report(&evidence, settings);
            let noticed = lie.breaks().iter().any(|rule| report.has(*rule));
            let verdict = if noticed { "noticed" } else { "NOT NOTICED" };
            self.note(&format!("{verdict}: the lie {lie:?}: {}", shortened(&text)));
            told.push((lie, noticed));
        }
        told
    }

    fn judge(
        self,
        evidence: &Evidence,
        settings: &Settings,
        mut problems: Vec<String>,
        lies: Vec<(Lie, bool)>,
    ) -> Result<Verdict, String> {
        let report = report(evidence, settings);
        problems.extend(report.violations().iter().map(ToString::to_string));
        let shown = report.violations().len() as u64;
        if report.total() > shown {
            problems.push(format!("and {} more of the same rules", report.total() - shown));
        }
        self.note(&format!("{} problems", problems.len()));
        let counts = report.counts.clone();
        let timeline = self.timeline.text();
        let mut kept = None;
        if !problems.is_empty() || self.config.keep {
            let texts = [
                ("timeline.txt", timeline.clone()),
                ("problems.txt", problems.join("\n\n")),
                ("history.txt", tell(&evidence.history)),
            ];
            for (name, text) in texts {
                write(self.cluster.root(), name, &text)?;
            }
            kept = Some(self.cluster.root().to_owned());
            keep(self.cluster);
        }
        Ok(Verdict { problems, counts, lies, timeline, kept })
    }
}

/// All violations.
fn report(evidence: &Evidence, settings: &Settings) -> Report {
    let mut report = folkmoot_check::check(&evidence.history, settings);
    let mut hashes = StateHashes::new();
    for (member, hash) in &evidence.hashes {
        // HashKV is of a revision; that is as good as an index of the log when nothing changes.
        let at = u64::try_from(evidence.revision).unwrap_or(0);
        if let Some(violation) = hashes.record(*member, at, *hash) {
            report.push(violation);
        }
    }
    report
}

fn shortened(text: &str) -> String {
    const CHARS: usize = 200;
    let mut short: String = text.chars().take(CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Ends the cluster and leaves its files.
fn keep(cluster: Arc<Cluster>) {
    match Arc::try_unwrap(cluster) {
        Ok(mut cluster) => drop(cluster.keep()),
        Err(_) => crate::say("files could not be kept: somebody still works on them"),
    }
}

fn write(root: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = root.join(name);
    std::fs::write(&path, text).map_err(|e| format!("cannot write file={}: {e}", path.display()))
}

fn nanos(time: Duration) -> h::Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(h::Nanos::MAX)
}

/// The longest time in which no write was acknowledged to anybody.
fn longest_silence(operations: &[h::Operation], from: h::Nanos, to: h::Nanos) -> Duration {
    let is_write = |request: &h::Request| {
        matches!(request, h::Request::Put(_) | h::Request::Delete(_) | h::Request::LeaseGrant { .. })
    };
    let acked =
        operations.iter().filter(|operation| is_write(&operation.request) && operation.reply().is_some());
    let mut times: Vec<h::Nanos> = acked.filter_map(|operation| operation.completed).collect();
    times.extend([from, to]);
    times.retain(|at| (from..=to).contains(at));
    times.sort_unstable();
    Duration::from_nanos(times.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(0))
}

/// Puts together what everybody saw. The truth is what a member at rest tells of its whole history,
/// and for what is compacted what the observer saw in time; every other member's history is judged
/// against it like any other watch.
fn evidence(operations: Vec<h::Operation>, recorded: Recorded, found: Option<Found>) -> Evidence {
    let mut history = h::History {
        operations,
        watches: recorded.watches,
        holds: recorded.holds,
        fence_uses: recorded.fence_uses,
        truth: None,
    };
    let Some(found) = found else { return Evidence { history, hashes: Vec::new(), revision: 0 } };
    let mut newest = found.histories.first().map(folkmoot_check::truth_of).unwrap_or_default();
    let from = found.compacted + 1;
    newest.retain(|change| change.revision >= from);
    let mut truth: Vec<h::Change> = Vec::new();
    for event in recorded.observed.into_iter().filter(|event| event.revision() < from) {
        let event = h::Event { prev_kv: None, ..event };
        match truth.last_mut() {
            Some(change) if change.revision == event.revision() => change.events.push(event),
            _ => truth.push(h::Change { revision: event.revision(), events: vec![event], at: None }),
        }
    }
    truth.extend(newest);
    history.watches.extend(found.histories);
    history.truth = Some(truth);
    Evidence { history, hashes: found.hashes, revision: found.revision }
}

/// A history for people, in the order of time.
fn tell(history: &h::History) -> String {
    let mut operations: Vec<&h::Operation> = history.operations.iter().collect();
    operations.sort_by_key(|operation| operation.invoked);
    let mut text = String::new();
    for operation in operations {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{operation}");
    }
    for (number, watch) in history.watches.iter().enumerate() {
        let _ = writeln!(text, "\nwatch {number} of client {} {:?}", watch.client, watch.request);
        for message in &watch.messages {
            let _ = writeln!(text, "  {message:?}");
        }
    }
    for hold in &history.holds {
        let _ = writeln!(text, "{hold:?}");
    }
    for used in &history.fence_uses {
        let _ = writeln!(text, "{used:?}");
    }
    for change in history.truth.iter().flatten() {
        let _ = writeln!(text, "truth {change:?}");
    }
    text
}
