//! Folkmoot and etcd side by side: each in turn, never both at once, on the same machine, file
//! system, load and order of figures.
//!
//! A round measures each side once in a cluster of its own for the steady figures and, with one
//! member, once in another for memory and restart; sides change places from round to round. Clients
//! connect to the leader, or to all members in turn. A figure that cannot be measured becomes a
//! problem in the result and the rest goes on; one during which the leader changed is such a figure.

mod figures;
mod output;
mod rows;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

pub use figures::Group;
use figures::Values;
use output::{Comparison, Setting};

use crate::cli::CompareArgs;
use crate::cluster::{Cluster, Leader, Member, Program, ServerError, Side, program_version, quota_flag};
use crate::load::{LoadError, Spec, Workload, count_keys, prepare, run};
use crate::report::Report;
use crate::scenario::{Error, still_leads, within};

/// A single load that takes longer is given up.
const RUN_MAX: Duration = Duration::from_secs(900);

/// Why there is no comparison at all: the settings or the machine do not allow it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CompareError(String);

/// Sizes of a comparison.
#[derive(Debug)]
struct Plan {
    rounds: usize,
    members: usize,
    /// Whether clients connect to all members.
    spread: bool,
    window: Duration,
    warmup: Duration,
    key_count: u64,
    big_key_count: u64,
    /// Load before the kill, so that there is something to recover.
    burst: Duration,
    groups: Vec<Group>,
}

impl Plan {
    fn new(args: &CompareArgs) -> Result<Self, CompareError> {
        let pick = |full, quick| if args.quick { quick } else { full };
        let alone = args.members == 1;
        let usual = if alone { &Group::ALL[..] } else { &Group::CLUSTER[..] };
        let asked = if args.only.is_empty() { usual } else { &args.only };
        if let Some(group) = asked.iter().find(|group| !alone && !group.suits_cluster()) {
            return Err(CompareError(format!(
                "this is measured with one member only: --only={}",
                name(*group)
            )));
        }
        if alone && args.spread {
            return Err(CompareError("one member leaves nothing to spread: give --members as well".into()));
        }
        Ok(Self {
            rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }).max(1),
            members: args.members,
            spread: args.spread,
            window: args.duration.unwrap_or(pick(Duration::from_secs(5), Duration::from_secs(1))),
            warmup: pick(Duration::from_secs(1), Duration::from_millis(500)),
            key_count: if args.quick { 20_000 } else { 100_000 },
            big_key_count: args.big_key_count.unwrap_or(if args.quick { 50_000 } else { 1_000_000 }).max(1),
            burst: pick(Duration::from_secs(2), Duration::from_millis(500)),
            groups: Group::ALL.into_iter().filter(|group| asked.contains(group)).collect(),
        })
    }

    fn wants(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }
}

/// Runs the comparison, prints it and writes the files that were asked for. Dropping it ends the
/// servers that it runs and removes their directories.
pub async fn compare(args: &CompareArgs) -> Result<ExitCode, CompareError> {
    let comparison = measure(args).await?;
    print!("\n{}", comparison.terminal());
    if let Some(path) = &args.out_json {
        let json =
            serde_json::to_string_pretty(&comparison).map_err(|error| CompareError(error.to_string()))?;
        write(path, &(json + "\n"))?;
    }
    if let Some(path) = &args.out_md {
        write(path, &comparison.markdown())?;
    }
    // Missed targets are a result; figures without a value are a failure.
    Ok(if comparison.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn write(path: &Path, text: &str) -> Result<(), CompareError> {
    std::fs::write(path, text)
        .map_err(|error| CompareError(format!("cannot write: {error} path={}", path.display())))
}

async fn measure(args: &CompareArgs) -> Result<Comparison, CompareError> {
    let plan = Plan::new(args)?;
    let file_system = output::file_system(&args.work_dir).map_err(CompareError)?;
    let version = |program: &Path| program_version(program).map_err(CompareError);
    let programs = [version(&args.etcd)?, version(&args.folkmoot)?];
    let mut bench =
        Bench { args, plan, values: Values::default(), problems: Vec::new(), versions: [None, None] };
    for round in 0..bench.plan.rounds {
        let sides = if round % 2 == 0 { [Side::Etcd, Side::Folkmoot] } else { [Side::Folkmoot, Side::Etcd] };
        for side in sides {
            println!("round {}/{}: {}", round + 1, bench.plan.rounds, side.name());
            bench.steady(side).await;
            bench.big(side).await;
        }
    }
    let (cpu, cpu_count, kernel) = output::machine();
    let version = |side: Side| {
        let reported = bench.versions[side as usize].as_deref().unwrap_or("nothing");
        format!("{} (reports {reported})", programs[side as usize])
    };
    Ok(Comparison {
        setting: Setting {
            date: args.date.clone().unwrap_or_else(output::today),
            folkmoot_version: version(Side::Folkmoot),
            etcd_version: version(Side::Etcd),
            cpu,
            cpu_count,
            kernel,
            file_system,
            rounds: bench.plan.rounds,
            members: bench.plan.members,
            spread: bench.plan.spread,
            quota_flag: quota_flag(0),
            window_s: bench.plan.window.as_secs_f64(),
            key_count: bench.plan.key_count,
            big_key_count: bench.plan.big_key_count,
            value_bytes: Spec::default().value_bytes,
            quick: args.quick,
        },
        rows: bench.values.rows(&bench.plan.groups, bench.plan.members),
        problems: bench.problems,
    })
}

/// A comparison under way.
struct Bench<'a> {
    args: &'a CompareArgs,
    plan: Plan,
    values: Values,
    problems: Vec<String>,
    /// What each side's Status said, by side.
    versions: [Option<String>; 2],
}

impl Bench<'_> {
    fn cluster(&self, side: Side) -> Result<Cluster, ServerError> {
        let path = match side {
            Side::Etcd => &self.args.etcd,
            Side::Folkmoot => &self.args.folkmoot,
        };
        let program = Program {
            side,
            path: path.clone(),
            work_dir: self.args.work_dir.clone(),
            flags: vec![quota_flag(0)],
        };
        Cluster::new(program, self.plan.members)
    }

    fn problem(&mut self, side: Side, what: &str, error: &dyn std::fmt::Display) {
        let problem = format!("{} {what}: {error}", side.name());
        println!("  {problem}");
        self.problems.push(problem);
    }

    /// The figures of a server with few keys under load.
    async fn steady(&mut self, side: Side) {
        let groups: Vec<Group> = self
            .plan
            .groups
            .iter()
            .copied()
            .filter(|group| !matches!(group, Group::Memory | Group::Restart))
            .collect();
        if groups.is_empty() {
            return;
        }
        let started = async {
            let mut cluster = self.cluster(side)?;
            cluster.start().await?;
            let version = cluster.members()[0].status().await?.version;
            Ok::<_, ServerError>((cluster, version))
        };
        let mut cluster = match started.await {
            Ok((cluster, version)) => {
                self.versions[side as usize] = Some(version);
                cluster
            }
            Err(error) => return self.problem(side, "start", &error),
        };
        for group in groups {
            match self.steady_group(&cluster, group).await {
                Ok(report) => {
                    println!("  {}: {}", name(group), one_line(&report));
                    if self.args.by_thread {
                        by_thread(&report);
                    }
                    self.record(side, group, &report);
                }
                Err(error) => self.problem(side, &name(group), &error),
            }
        }
        if let Err(error) = cluster.stop().await {
            self.problem(side, "stop", &error);
        }
        drop(cluster);
        // What this cluster left to be written must not slow down the next one.
        rustix::fs::sync();
    }

    async fn steady_group(&self, cluster: &Cluster, group: Group) -> Result<Report, Error> {
        let leader = cluster.leader().await?;
        let mut spec = self.spec(cluster, leader);
        spec.workload = match group {
            Group::Put | Group::PutSingle => Workload::Put,
            Group::Range | Group::RangeAfterWrites => Workload::Range,
            Group::RangeSerializable => Workload::RangeSerializable,
            Group::Prefix => Workload::Prefix,
            Group::Txn => Workload::Txn,
            Group::WatchFanout => Workload::WatchFanout,
            Group::LeaseKeepalive => Workload::LeaseKeepalive,
            Group::Memory | Group::Restart => {
                return Err(Error::Spoiled("not a steady figure".into()));
            }
        };
        match group {
            Group::PutSingle => {
                (spec.connections, spec.in_flight) = (1, 1);
                // With the one connection to the leader it would be the figure of the other mode.
                spec.endpoints.rotate_left(usize::from(self.plan.spread));
            }
            // A list is thousands of keys: more at a time would measure queues.
            Group::Prefix => (spec.connections, spec.in_flight) = (2, 2),
            Group::WatchFanout => spec.in_flight = 1,
            _ => {}
        }
        if matches!(group, Group::Range | Group::RangeSerializable | Group::Prefix) {
            within(RUN_MAX, prepare(&spec)).await?;
            cluster.members()[leader.index].rest().await?;
        }
        let report = sound(within(RUN_MAX, run(&spec)).await?)?;
        still_leads(cluster, leader).await?;
        Ok(report)
    }

    /// Load on this cluster; its leader comes first.
    fn spec(&self, cluster: &Cluster, leader: Leader) -> Spec {
        let members = || cluster.beginning_with(leader.index);
        let load_count = if self.plan.spread { self.plan.members } else { 1 };
        Spec {
            endpoints: members().take(load_count).map(Member::endpoint).collect(),
            duration: self.plan.window,
            warmup: self.plan.warmup,
            key_count: self.plan.key_count,
            pids: members().filter_map(Member::pid).collect(),
            ..Spec::default()
        }
    }

    fn record(&mut self, side: Side, group: Group, report: &Report) {
        let latency = &report.latency;
        let ops = Some(report.ops_per_s);
        let cpu = report.server_cpu_us_per_op;
        let (p50, p99) = (Some(latency.p50_us), Some(latency.p99_us));
        let leader_cpu = report.servers.first().map(|leader| report.us_per_op(leader.cpu));
        let figures = match group {
            Group::Put => vec![
                ("put.ops", ops),
                ("put.server_cpu", cpu),
                ("put.leader_cpu", leader_cpu),
                ("put.p50", p50),
                ("put.p99", p99),
            ],
            Group::PutSingle => {
                vec![("put_single.p50", p50), ("put_single.p99", p99), ("put_single.server_cpu", cpu)]
            }
            Group::RangeAfterWrites => vec![
                ("range_after_writes.ops", ops),
                ("range_after_writes.server_cpu", cpu),
                ("range_after_writes.p50", p50),
                ("range_after_writes.p99", p99),
            ],
            Group::Range => vec![
                ("range.ops", ops),
                ("range.server_cpu", cpu),
                ("range.leader_cpu", leader_cpu),
                ("range.p50", p50),
                ("range.p99", p99),
            ],
            Group::RangeSerializable => {
                vec![("range_serializable.ops", ops), ("range_serializable.server_cpu", cpu)]
            }
            Group::Prefix => vec![("prefix.ops", ops), ("prefix.p50", p50), ("prefix.server_cpu", cpu)],
            Group::Txn => vec![("txn.ops", ops), ("txn.server_cpu", cpu)],
            Group::WatchFanout => vec![("watch.events", ops), ("watch.p99", p99), ("watch.server_cpu", cpu)],
            Group::LeaseKeepalive => vec![("lease.ops", ops), ("lease.p99", p99), ("lease.server_cpu", cpu)],
            Group::Memory | Group::Restart => vec![],
        };
        for (id, value) in figures {
            if let Some(value) = value {
                self.values.add(id, side, value);
            }
        }
    }

    /// The figures of a server with many keys: memory and restart.
    async fn big(&mut self, side: Side) {
        let (memory, restart) = (self.plan.wants(Group::Memory), self.plan.wants(Group::Restart));
        if !memory && !restart {
            return;
        }
        let mut cluster = match self.cluster(side) {
            Ok(cluster) => cluster,
            Err(error) => return self.problem(side, "start", &error),
        };
        match self.load(side, &mut cluster).await {
            Ok(()) if restart => {
                if let Err(error) = self.restart(side, &mut cluster).await {
                    self.problem(side, "restart", &error);
                }
            }
            Ok(()) => {}
            Err(error) => self.problem(side, "memory", &error),
        }
        drop(cluster);
        rustix::fs::sync();
    }

    async fn load(&mut self, side: Side, cluster: &mut Cluster) -> Result<(), Error> {
        cluster.start().await?;
        self.versions[side as usize] = Some(cluster.members()[0].status().await?.version);
        let spec = Spec {
            workload: Workload::Fill,
            key_count: self.plan.big_key_count,
            // Plain puts, as clients make them; batches would also leave other amounts in the
            // memory that a member keeps of its recent log.
            batch: 1,
            ..self.spec(cluster, cluster.leader().await?)
        };
        let report = sound(within(RUN_MAX, run(&spec)).await?)?;
        let settled = cluster.members()[0].settled_memory().await?;
        println!("  load: {}", one_line(&report));
        println!(
            "  memory: {:.1} MiB resident, {:.1} MiB anonymous",
            settled.rss_bytes as f64 / f64::from(1 << 20),
            settled.rss_anon_bytes as f64 / f64::from(1 << 20)
        );
        self.values.add("load.ops", side, report.ops_per_s);
        self.values.add("memory.rss", side, settled.rss_bytes as f64);
        self.values.add("memory.rss_anon", side, settled.rss_anon_bytes as f64);
        Ok(())
    }

    async fn restart(&mut self, side: Side, cluster: &mut Cluster) -> Result<(), Error> {
        cluster.stop().await?;
        let clean = cluster.start().await?;
        println!("  restart after SIGTERM: {:.3} s", clean.as_secs_f64());
        self.complete(cluster).await?;
        let settled = cluster.members()[0].settled_memory().await?;

        let burst = Spec {
            workload: Workload::Put,
            key_count: self.plan.big_key_count,
            duration: self.plan.burst,
            warmup: Duration::ZERO,
            ..self.spec(cluster, cluster.leader().await?)
        };
        sound(within(RUN_MAX, run(&burst)).await?)?;
        cluster.kill().await?;
        let killed = cluster.start().await?;
        println!("  restart after kill -9: {:.3} s", killed.as_secs_f64());
        self.complete(cluster).await?;
        cluster.stop().await?;

        self.values.add("restart.clean", side, clean.as_secs_f64());
        self.values.add("restart.killed", side, killed.as_secs_f64());
        self.values.add("restart.rss", side, settled.rss_bytes as f64);
        Ok(())
    }

    /// A restart that lost keys is not a restart.
    async fn complete(&self, cluster: &Cluster) -> Result<(), Error> {
        let endpoint = cluster.members()[0].endpoint();
        let count = async { count_keys(&endpoint).await.map_err(LoadError::from) };
        let found = within(RUN_MAX, count).await?;
        if found == self.plan.big_key_count {
            return Ok(());
        }
        Err(Error::Spoiled(format!(
            "keys are missing after the restart found={found} wanted={}",
            self.plan.big_key_count
        )))
    }
}

fn name(group: Group) -> String {
    clap::ValueEnum::to_possible_value(&group).map_or_else(String::new, |value| value.get_name().to_owned())
}

fn by_thread(report: &Report) {
    for (index, server) in report.servers.iter().enumerate() {
        let role = if index == 0 { "leader" } else { "follower" };
        println!("    {role}: {:.1} us/op: {}", report.us_per_op(server.cpu), report.threads_line(server));
    }
}

/// A run with failed calls has measured something else.
fn sound(report: Report) -> Result<Report, Error> {
    if report.errors + report.unfinished == 0 {
        return Ok(report);
    }
    Err(Error::Spoiled(format!(
        "calls failed errors={} unfinished={} first_error={}",
        report.errors,
        report.unfinished,
        report.first_error.as_deref().unwrap_or("none")
    )))
}

fn one_line(report: &Report) -> String {
    let cpu = report.server_cpu_us_per_op.unwrap_or(f64::NAN);
    format!(
        "{:.0}/s, p50 {:.3} ms, p99 {:.3} ms, server {cpu:.1} us/op, client {:.1} us/op",
        report.ops_per_s,
        report.latency.p50_us / 1000.0,
        report.latency.p99_us / 1000.0,
        report.client_cpu_us_per_op
    )
}
