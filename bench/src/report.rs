//! What a run has shown: a table for people, JSON for scripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::load::{Spec, Used, Workload};
use crate::procfs::ThreadTime;
use crate::stats::{Latency, Loop, Recorder};

/// The result of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this tool.
    pub bench_version: &'static str,
    /// What was sent.
    pub workload: Workload,
    /// Where to; the connections are dealt to them in turn.
    pub endpoints: Vec<String>,
    /// How calls were started; says how to read the latencies.
    #[serde(rename = "loop")]
    pub looping: Loop,
    /// Calls a second asked for, in an open loop.
    pub rate: Option<f64>,
    /// HTTP/2 connections.
    pub connections: usize,
    /// Unanswered calls on each connection at most.
    pub in_flight: usize,
    /// Load threads.
    pub threads: usize,
    /// Keys of the point workloads.
    pub key_count: u64,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Length of the measured window.
    #[serde(serialize_with = "seconds")]
    pub elapsed: Duration,
    /// Operations answered inside the window: calls, events (watch-fanout) or keys (fill).
    pub ops: u64,
    /// Operations a second.
    pub ops_per_s: f64,
    /// Calls that failed, warm-up included.
    pub errors: u64,
    /// Calls that nobody answered.
    pub unfinished: u64,
    /// The first failure.
    pub first_error: Option<String>,
    /// Latencies of calls, or of put to event (watch-fanout).
    pub latency: Latency,
    /// CPU of the load generator for each operation.
    pub client_cpu_us_per_op: f64,
    /// CPU of all servers whose process is known, for each operation.
    pub server_cpu_us_per_op: Option<f64>,
    /// Their processes.
    pub servers: Vec<ServerUse>,
}

/// What a server's process used over the window, and held at its end.
#[derive(Debug, Clone, Serialize)]
pub struct ServerUse {
    /// Its process.
    pub pid: u32,
    /// User and system time of all its threads.
    #[serde(rename = "cpu_s", serialize_with = "seconds")]
    pub cpu: Duration,
    /// The same by name of the thread, with the most of it first.
    pub threads: Vec<ThreadUse>,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Resident memory that no file backs.
    pub rss_anon_bytes: u64,
}

/// What the threads of one name used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThreadUse {
    /// The threads' name, without number.
    pub name: String,
    /// Time on a CPU.
    #[serde(rename = "cpu_s", serialize_with = "seconds")]
    pub cpu: Duration,
    /// Time spent ready, but waiting for a CPU.
    #[serde(rename = "wait_s", serialize_with = "seconds")]
    pub wait: Duration,
}

impl ThreadUse {
    /// The difference of two readings.
    pub fn between(before: &BTreeMap<String, ThreadTime>, after: BTreeMap<String, ThreadTime>) -> Vec<Self> {
        let mut threads: Vec<Self> = after
            .into_iter()
            .map(|(name, time)| {
                let before = before.get(&name).copied().unwrap_or_default();
                let cpu = time.cpu.saturating_sub(before.cpu);
                Self { name, cpu, wait: time.wait.saturating_sub(before.wait) }
            })
            .filter(|thread| !thread.cpu.is_zero())
            .collect();
        threads.sort_by_key(|thread| std::cmp::Reverse(thread.cpu));
        threads
    }
}

/// A duration as a number of seconds.
pub fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl Report {
    /// `ops` is counted apart from the recorder where a call is more than one operation.
    pub fn new(spec: &Spec, total: &Recorder, ops: u64, used: &Used) -> Self {
        let per_op = |cpu: Duration| cpu.as_secs_f64() * 1e6 / ops.max(1) as f64;
        Self {
            bench_version: env!("CARGO_PKG_VERSION"),
            workload: spec.workload,
            endpoints: spec.endpoints.clone(),
            looping: spec.looping(),
            rate: spec.rate,
            connections: spec.connections,
            in_flight: spec.in_flight,
            threads: spec.threads,
            key_count: spec.key_count,
            value_bytes: spec.value_bytes,
            elapsed: used.elapsed,
            ops,
            ops_per_s: ops as f64 / used.elapsed.as_secs_f64(),
            errors: total.errors(),
            unfinished: total.unfinished_count(),
            first_error: total.first_error().map(str::to_owned),
            latency: total.latency(),
            client_cpu_us_per_op: per_op(used.client_cpu),
            server_cpu_us_per_op: (!used.servers.is_empty())
                .then(|| per_op(used.servers.iter().map(|server| server.cpu).sum())),
            servers: used.servers.clone(),
        }
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut rows: Vec<(&str, String)> = vec![
            ("workload", self.workload_line()),
            ("loop", self.loop_line()),
            (
                "operations",
                format!("{} in {:.2} s = {:.0}/s", self.ops, self.elapsed.as_secs_f64(), self.ops_per_s),
            ),
            ("errors", self.errors_line()),
        ];
        let latency = &self.latency;
        for (name, micros) in [
            ("latency p50", latency.p50_us),
            ("latency p90", latency.p90_us),
            ("latency p99", latency.p99_us),
            ("latency p99.9", latency.p999_us),
            ("latency max", latency.max_us),
        ] {
            rows.push((name, format!("{:.3} ms", micros / 1000.0)));
        }
        for server in &self.servers {
            let cores = server.cpu.as_secs_f64() / self.elapsed.as_secs_f64();
            let cpu = self.us_per_op(server.cpu);
            rows.push(("server cpu", format!("{cpu:.1} us/operation ({cores:.2} cores)")));
            rows.push(("by thread", self.threads_line(server)));
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            rows.push((
                "server memory",
                format!(
                    "{:.1} MiB resident, {:.1} MiB of it anonymous",
                    mib(server.rss_bytes),
                    mib(server.rss_anon_bytes)
                ),
            ));
        }
        rows.push(("client cpu", format!("{:.1} us/operation", self.client_cpu_us_per_op)));
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        rows.iter().fold(String::new(), |mut table, (name, text)| {
            // Writing to a string does not fail.
            let _ = writeln!(table, "{name:width$}  {text}");
            table
        })
    }

    /// Time of all operations as time of one.
    pub fn us_per_op(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.ops.max(1) as f64
    }

    /// CPU of a server by thread; in brackets how long the threads waited for a CPU.
    pub fn threads_line(&self, server: &ServerUse) -> String {
        let worth = |thread: &&ThreadUse| thread.cpu * 200 >= server.cpu;
        let parts: Vec<String> = server
            .threads
            .iter()
            .filter(worth)
            .map(|thread| {
                let (cpu, wait) = (self.us_per_op(thread.cpu), self.us_per_op(thread.wait));
                format!("{} {cpu:.1} us ({wait:.1})", thread.name)
            })
            .collect();
        if parts.is_empty() { "unknown".to_owned() } else { parts.join(", ") }
    }

    fn workload_line(&self) -> String {
        let name = clap::ValueEnum::to_possible_value(&self.workload)
            .map_or_else(String::new, |value| value.get_name().to_owned());
        format!(
            "{name} on {} ({} connections x {} in flight, {} keys, {} byte values)",
            self.endpoints.join(","),
            self.connections,
            self.in_flight,
            self.key_count,
            self.value_bytes
        )
    }

    fn loop_line(&self) -> String {
        match self.rate {
            None => "closed: latency from sending to answer, a stalled server is asked less".into(),
            Some(rate) => format!("open at {rate}/s: latency from the intended start to answer"),
        }
    }

    fn errors_line(&self) -> String {
        let mut line = self.errors.to_string();
        if self.unfinished > 0 {
            line += &format!(", {} never answered", self.unfinished);
        }
        if let Some(error) = &self.first_error {
            line += &format!(", first: {error}");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::stats::Window;

    fn server(pid: u32, cpu_ms: u64) -> ServerUse {
        let time = |cpu| ThreadTime { cpu: Duration::from_millis(cpu), wait: Duration::from_millis(1) };
        let before = BTreeMap::from([("core".to_owned(), time(30)), ("idle".to_owned(), time(9))]);
        let after = BTreeMap::from([
            ("core".to_owned(), time(30 + cpu_ms / 5)),
            ("idle".to_owned(), time(9)),
            ("serve".to_owned(), time(cpu_ms / 5 * 4)),
        ]);
        ServerUse {
            pid,
            cpu: Duration::from_millis(cpu_ms),
            threads: ThreadUse::between(&before, after),
            rss_bytes: 3 << 20,
            rss_anon_bytes: 1 << 20,
        }
    }

    fn report() -> Report {
        let from = Instant::now();
        let window = Window { from, until: from + Duration::from_secs(2) };
        let mut total = Recorder::new(window, Loop::Closed);
        for _ in 0..1000 {
            total.answered(from, from + Duration::from_millis(2));
        }
        let used = Used {
            elapsed: Duration::from_secs(2),
            client_cpu: Duration::from_millis(10),
            servers: vec![server(7, 70), server(8, 5)],
        };
        Report::new(&Spec::default(), &total, total.ops(), &used)
    }

    #[test]
    fn rates_and_cpu_are_for_each_operation_of_the_window() {
        let report = report();
        assert!((report.ops_per_s - 500.0).abs() < 1e-9);
        assert_eq!(report.server_cpu_us_per_op, Some(75.0));
        assert!((report.client_cpu_us_per_op - 10.0).abs() < 1e-9);
    }

    #[test]
    fn the_table_says_what_the_latency_means() {
        let table = report().table();
        assert!(table.contains("500/s"), "{table}");
        assert!(table.contains("closed: latency from sending"), "{table}");
        assert!(table.contains("70.0 us/operation (0.04 cores)"), "{table}");
        assert!(table.contains("serve 56.0 us (1.0), core 14.0 us (0.0)"), "{table}");
        assert!(table.contains("3.0 MiB resident, 1.0 MiB"), "{table}");
    }

    #[test]
    fn the_json_has_numbers_for_scripts() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["loop"], "closed");
        assert_eq!(json["workload"], "put");
        assert_eq!(json["elapsed"], 2.0);
        assert_eq!(json["servers"][0]["cpu_s"], 0.07);
        assert_eq!(json["servers"][1]["threads"][1]["name"], "core");
        assert!(json["latency"]["p99_us"].as_f64().unwrap() > 1990.0);
    }
}
