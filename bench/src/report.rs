//! What a run has shown: a table for people, JSON for scripts.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::load::{Spec, Used, Workload};
use crate::stats::{Latency, Loop, Recorder};

/// The result of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this tool.
    pub bench_version: &'static str,
    /// What was sent.
    pub workload: Workload,
    /// Where to.
    pub endpoint: String,
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
    /// CPU of the server for each operation.
    pub server_cpu_us_per_op: Option<f64>,
    /// The server process.
    pub server: Option<ServerUse>,
}

/// What the server's process used over the window, and held at its end.
#[derive(Debug, Clone, Serialize)]
pub struct ServerUse {
    /// Its process.
    pub pid: u32,
    /// User and system time of all its threads.
    #[serde(rename = "cpu_s", serialize_with = "seconds")]
    pub cpu: Duration,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Resident memory that no file backs.
    pub rss_anon_bytes: u64,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl Report {
    /// `ops` is counted apart from the recorder where a call is more than one operation.
    pub fn new(spec: &Spec, total: &Recorder, ops: u64, used: &Used) -> Self {
        let per_op = |cpu: Duration| cpu.as_secs_f64() * 1e6 / ops.max(1) as f64;
        Self {
            bench_version: env!("CARGO_PKG_VERSION"),
            workload: spec.workload,
            endpoint: spec.endpoint.clone(),
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
            server_cpu_us_per_op: used.server.as_ref().map(|server| per_op(server.cpu)),
            server: used.server.clone(),
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
        if let (Some(server), Some(cpu)) = (&self.server, self.server_cpu_us_per_op) {
            let cores = server.cpu.as_secs_f64() / self.elapsed.as_secs_f64();
            rows.push(("server cpu", format!("{cpu:.1} us/operation ({cores:.2} cores)")));
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

    fn workload_line(&self) -> String {
        let name = clap::ValueEnum::to_possible_value(&self.workload)
            .map_or_else(String::new, |value| value.get_name().to_owned());
        format!(
            "{name} on {} ({} connections x {} in flight, {} keys, {} byte values)",
            self.endpoint, self.connections, self.in_flight, self.key_count, self.value_bytes
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
            server: Some(ServerUse {
                pid: 7,
                cpu: Duration::from_millis(75),
                rss_bytes: 3 << 20,
                rss_anon_bytes: 1 << 20,
            }),
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
        assert!(table.contains("75.0 us/operation (0.04 cores)"), "{table}");
        assert!(table.contains("3.0 MiB resident, 1.0 MiB"), "{table}");
    }

    #[test]
    fn the_json_has_numbers_for_scripts() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["loop"], "closed");
        assert_eq!(json["workload"], "put");
        assert_eq!(json["elapsed"], 2.0);
        assert_eq!(json["server"]["cpu_s"], 0.075);
        assert!(json["latency"]["p99_us"].as_f64().unwrap() > 1990.0);
    }
}
