//! Folkmoot and etcd side by side: each in turn, never both at once, on the same machine, file
//! system, load and order of figures.
//!
//! A round measures each side once in a server of its own for the steady figures and once in
//! another for memory and restart; sides change places from round to round. A figure that
//! cannot be measured becomes a problem in the result and the rest goes on.

mod figures;
mod output;
mod server;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

pub use figures::Group;
use figures::{Side, Values};
use output::{Comparison, Setting};
use server::{Server, ServerError};

use crate::cli::CompareArgs;
use crate::load::{LoadError, Spec, Workload, count_keys, prepare, run};
use crate::report::Report;

/// A single load that takes longer is given up.
const RUN_MAX: Duration = Duration::from_secs(900);

/// Why there is no comparison at all.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The settings or the machine do not allow it.
    #[error("{0}")]
    Setting(String),
    /// A signal ended it; servers and directories are gone.
    #[error("interrupted")]
    Interrupted,
}

/// Why a figure could not be measured.
#[derive(Debug, thiserror::Error)]
enum FigureError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{0}")]
    Spoiled(String),
}

/// Sizes of a comparison.
#[derive(Debug)]
struct Plan {
    rounds: usize,
    window: Duration,
    warmup: Duration,
    key_count: u64,
    big_key_count: u64,
    /// Load before the kill, so that there is something to recover.
    burst: Duration,
    groups: Vec<Group>,
}

impl Plan {
    fn new(args: &CompareArgs) -> Self {
        let pick = |full, quick| if args.quick { quick } else { full };
        let groups = Group::ALL
            .into_iter()
            .filter(|group| args.only.is_empty() || args.only.contains(group))
            .collect();
        Self {
            rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }).max(1),
            window: args.duration.unwrap_or(pick(Duration::from_secs(5), Duration::from_secs(1))),
            warmup: pick(Duration::from_secs(1), Duration::from_millis(500)),
            key_count: if args.quick { 20_000 } else { 100_000 },
            big_key_count: args.big_key_count.unwrap_or(if args.quick { 50_000 } else { 1_000_000 }).max(1),
            burst: pick(Duration::from_secs(2), Duration::from_millis(500)),
            groups,
        }
    }

    fn wants(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }
}

/// Runs the comparison, prints it and writes the files that were asked for.
pub async fn compare(args: &CompareArgs) -> Result<ExitCode, CompareError> {
    let setting_error = |error: std::io::Error| CompareError::Setting(error.to_string());
    let mut interrupt = signal(SignalKind::interrupt()).map_err(setting_error)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(setting_error)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(setting_error)?;
    // Dropping the work kills the server it runs and removes its directory.
    let comparison = tokio::select! {
        comparison = measure(args) => comparison?,
        _ = interrupt.recv() => return Err(CompareError::Interrupted),
        _ = terminate.recv() => return Err(CompareError::Interrupted),
        _ = hang_up.recv() => return Err(CompareError::Interrupted),
    };
    print!("\n{}", comparison.terminal());
    if let Some(path) = &args.out_json {
        let json = serde_json::to_string_pretty(&comparison)
            .map_err(|error| CompareError::Setting(error.to_string()))?;
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
        .map_err(|error| CompareError::Setting(format!("cannot write: {error} path={}", path.display())))
}

async fn measure(args: &CompareArgs) -> Result<Comparison, CompareError> {
    let plan = Plan::new(args);
    let file_system = output::file_system(&args.work_dir).map_err(CompareError::Setting)?;
    let programs = [program_version(&args.etcd)?, program_version(&args.folkmoot)?];
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
            window_s: bench.plan.window.as_secs_f64(),
            key_count: bench.plan.key_count,
            big_key_count: bench.plan.big_key_count,
            value_bytes: Spec::default().value_bytes,
            quick: args.quick,
        },
        rows: bench.values.rows(&bench.plan.groups),
        problems: bench.problems,
    })
}

/// What the program says about itself: the first line of `--version`.
fn program_version(program: &Path) -> Result<String, CompareError> {
    let cannot = |error: &dyn std::fmt::Display| {
        CompareError::Setting(format!("cannot run server: {error} path={}", program.display()))
    };
    let output = std::process::Command::new(program)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| cannot(&error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(first) if output.status.success() && !first.is_empty() => {
            Ok(first.replace("etcd Version:", "etcd"))
        }
        _ => Err(cannot(&"it does not answer --version")),
    }
}

/// Gives up on a server that neither answers nor fails.
async fn within<T, E: Into<FigureError>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, FigureError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(FigureError::Spoiled(format!("no end in sight after={limit:?}"))),
    }
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
    fn server(&self, side: Side) -> Result<Server, ServerError> {
        let program = match side {
            Side::Etcd => &self.args.etcd,
            Side::Folkmoot => &self.args.folkmoot,
        };
        // Relative to where we are, not to the directory that the server will run in.
        let program = std::path::absolute(program).unwrap_or_else(|_| program.clone());
        Server::new(side, &program, &self.args.work_dir)
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
            let mut server = self.server(side)?;
            server.start().await?;
            let version = server.version().await?;
            Ok::<_, ServerError>((server, version))
        };
        let mut server = match started.await {
            Ok((server, version)) => {
                self.versions[side as usize] = Some(version);
                server
            }
            Err(error) => return self.problem(side, "start", &error),
        };
        for group in groups {
            let name = clap::ValueEnum::to_possible_value(&group)
                .map_or_else(String::new, |value| value.get_name().to_owned());
            match self.steady_group(&server, group).await {
                Ok(report) => {
                    println!("  {name}: {}", one_line(&report));
                    self.record(side, group, &report);
                }
                Err(error) => self.problem(side, &name, &error),
            }
        }
        if let Err(error) = server.stop().await {
            self.problem(side, "stop", &error);
        }
        drop(server);
        // What this server left to be written must not slow down the next one.
        rustix::fs::sync();
    }

    async fn steady_group(&self, server: &Server, group: Group) -> Result<Report, FigureError> {
        let mut spec = self.spec(server);
        spec.workload = match group {
            Group::Put | Group::PutSingle => Workload::Put,
            Group::Range | Group::RangeAfterWrites => Workload::Range,
            Group::RangeSerializable => Workload::RangeSerializable,
            Group::Prefix => Workload::Prefix,
            Group::Txn => Workload::Txn,
            Group::WatchFanout => Workload::WatchFanout,
            Group::LeaseKeepalive => Workload::LeaseKeepalive,
            Group::Memory | Group::Restart => {
                return Err(FigureError::Spoiled("not a steady figure".into()));
            }
        };
        match group {
            Group::PutSingle => (spec.connections, spec.in_flight) = (1, 1),
            // A list is thousands of keys: more at a time would measure queues.
            Group::Prefix => (spec.connections, spec.in_flight) = (2, 2),
            Group::WatchFanout => spec.in_flight = 1,
            _ => {}
        }
        if matches!(group, Group::Range | Group::RangeSerializable | Group::Prefix) {
            within(RUN_MAX, prepare(&spec)).await?;
            server.rest().await?;
        }
        sound(within(RUN_MAX, run(&spec)).await?)
    }

    fn spec(&self, server: &Server) -> Spec {
        Spec {
            endpoint: server.endpoint(),
            duration: self.plan.window,
            warmup: self.plan.warmup,
            key_count: self.plan.key_count,
            pid: server.pid(),
            ..Spec::default()
        }
    }

    fn record(&mut self, side: Side, group: Group, report: &Report) {
        let latency = &report.latency;
        let ops = Some(report.ops_per_s);
        let cpu = report.server_cpu_us_per_op;
        let (p50, p99) = (Some(latency.p50_us), Some(latency.p99_us));
        let figures = match group {
            Group::Put => vec![("put.ops", ops), ("put.server_cpu", cpu), ("put.p99", p99)],
            Group::PutSingle => vec![("put_single.p50", p50), ("put_single.p99", p99)],
            Group::RangeAfterWrites => {
                vec![("range_after_writes.ops", ops), ("range_after_writes.server_cpu", cpu)]
            }
            Group::Range => vec![("range.ops", ops), ("range.server_cpu", cpu), ("range.p99", p99)],
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
        let mut server = match self.server(side) {
            Ok(server) => server,
            Err(error) => return self.problem(side, "start", &error),
        };
        match self.load(side, &mut server).await {
            Ok(()) if restart => {
                if let Err(error) = self.restart(side, &mut server).await {
                    self.problem(side, "restart", &error);
                }
            }
            Ok(()) => {}
            Err(error) => self.problem(side, "memory", &error),
        }
        drop(server);
        rustix::fs::sync();
    }

    async fn load(&mut self, side: Side, server: &mut Server) -> Result<(), FigureError> {
        server.start().await?;
        self.versions[side as usize] = Some(server.version().await?);
        let spec = Spec {
            workload: Workload::Fill,
            key_count: self.plan.big_key_count,
            // Plain puts, as clients make them; batches would also leave other amounts in the
            // memory that a member keeps of its recent log.
            batch: 1,
            ..self.spec(server)
        };
        let report = sound(within(RUN_MAX, run(&spec)).await?)?;
        let settled = server.settled_memory().await?;
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

    async fn restart(&mut self, side: Side, server: &mut Server) -> Result<(), FigureError> {
        server.stop().await?;
        let clean = server.start().await?;
        println!("  restart after SIGTERM: {:.3} s", clean.as_secs_f64());
        self.complete(server).await?;
        let settled = server.settled_memory().await?;

        let burst = Spec {
            workload: Workload::Put,
            key_count: self.plan.big_key_count,
            duration: self.plan.burst,
            warmup: Duration::ZERO,
            ..self.spec(server)
        };
        sound(within(RUN_MAX, run(&burst)).await?)?;
        server.kill().await?;
        let killed = server.start().await?;
        println!("  restart after kill -9: {:.3} s", killed.as_secs_f64());
        self.complete(server).await?;
        server.stop().await?;

        self.values.add("restart.clean", side, clean.as_secs_f64());
        self.values.add("restart.killed", side, killed.as_secs_f64());
        self.values.add("restart.rss", side, settled.rss_bytes as f64);
        Ok(())
    }

    /// A restart that lost keys is not a restart.
    async fn complete(&self, server: &Server) -> Result<(), FigureError> {
        let endpoint = server.endpoint();
        let count = async { count_keys(&endpoint).await.map_err(LoadError::from) };
        let found = within(RUN_MAX, count).await?;
        if found == self.plan.big_key_count {
            return Ok(());
        }
        Err(FigureError::Spoiled(format!(
            "keys are missing after the restart found={found} wanted={}",
            self.plan.big_key_count
        )))
    }
}

/// A run with failed calls has measured something else.
fn sound(report: Report) -> Result<Report, FigureError> {
    if report.errors + report.unfinished == 0 {
        return Ok(report);
    }
    Err(FigureError::Spoiled(format!(
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
