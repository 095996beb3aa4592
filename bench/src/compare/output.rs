//! The comparison as text: for the terminal, as Markdown and as JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::figures::{Row, Target};
use crate::procfs;

/// Where and how it was measured.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// YYYY-MM-DD.
    pub date: String,
    /// First line of `folkmoot --version`, and what its Status reports.
    pub folkmoot_version: String,
    /// First line of `etcd --version`, and what its Status reports.
    pub etcd_version: String,
    /// The CPU's name.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpu_count: usize,
    /// Kernel release.
    pub kernel: String,
    /// File system of the data directories.
    pub file_system: String,
    /// Rounds; the servers go first in turn.
    pub rounds: usize,
    /// Members of each cluster.
    pub members: usize,
    /// Whether clients connect to all members, not to the leader only.
    pub spread: bool,
    /// The flag by which both have the same space quota.
    pub quota_flag: String,
    /// Seconds of each measured window.
    pub window_s: f64,
    /// Keys of the point workloads.
    pub key_count: u64,
    /// Keys of the memory and restart figures.
    pub big_key_count: u64,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Whether this was a trial.
    pub quick: bool,
}

impl Setting {
    fn cluster(&self) -> String {
        if self.members == 1 {
            return String::new();
        }
        let clients = if self.spread {
            "to all members in turn, the leader first; puts one at a time go through a follower"
        } else {
            "to the leader only"
        };
        format!("Clusters of {} members on this machine; clients connect {clients}. ", self.members)
    }

    fn big_keys(&self) -> String {
        match self.members {
            1 => format!(", N = {} keys for memory and restart", self.big_key_count),
            _ => String::new(),
        }
    }
}

/// All that a comparison has shown.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Where and how.
    pub setting: Setting,
    /// What.
    pub rows: Vec<Row>,
    /// What could not be measured, and why.
    pub problems: Vec<String>,
}

const HEADINGS: [&str; 6] = ["figure", "etcd", "Folkmoot", "ratio", "target", "verdict"];

impl Comparison {
    /// A table with aligned columns.
    pub fn terminal(&self) -> String {
        let rows = self.cells();
        let widths: Vec<usize> = (0..HEADINGS.len())
            .map(|column| {
                let cells = rows.iter().map(|row| row[column].chars().count());
                cells.chain([HEADINGS[column].len()]).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        let mut line = |cells: &[String]| {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        };
        line(&HEADINGS.map(str::to_owned));
        for row in &rows {
            line(row);
        }
        for problem in &self.problems {
            let _ = writeln!(text, "not measured: {problem}");
        }
        text
    }

    /// A page part that can be included in the documentation.
    pub fn markdown(&self) -> String {
        let setting = &self.setting;
        let mut text = String::from("<!-- Written by `folkmoot-bench compare`; do not edit. -->\n\n");
        if setting.quick {
            text.push_str("**A quick trial: shows that everything runs, not how fast.**\n\n");
        }
        let _ = write!(
            text,
            "Measured on {date} with {folkmoot} and {etcd}, in turn, on the same \
             machine ({cpus} × {cpu}, Linux {kernel}, data on {fs}) with the load generator on \
             the same CPUs. Both write durably (fsync) and run with their defaults and \
             `{quota}`. {cluster}Values of {value} bytes, {keys} keys{big}. Medians of {rounds} round(s), each window {window} s; a ratio is \
             Folkmoot / etcd, in brackets the lowest and highest of a single round. Load is a \
             closed loop; C×F means C connections with F calls in flight on each.\n\n",
            date = setting.date,
            folkmoot = setting.folkmoot_version,
            etcd = setting.etcd_version,
            cpus = setting.cpu_count,
            cpu = setting.cpu,
            kernel = setting.kernel,
            fs = setting.file_system,
            quota = setting.quota_flag,
            cluster = setting.cluster(),
            value = setting.value_bytes,
            keys = setting.key_count,
            big = setting.big_keys(),
            rounds = setting.rounds,
            window = setting.window_s,
        );
        let mut line = |cells: &[String]| {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        line(&HEADINGS.map(str::to_owned));
        line(&["---", "---:", "---:", "---:", "---:", "---"].map(str::to_owned));
        for row in self.cells() {
            line(&row);
        }
        if !self.problems.is_empty() {
            text.push_str("\nNot measured:\n\n");
            for problem in &self.problems {
                let first_line = problem.lines().next().unwrap_or_default();
                let _ = writeln!(text, "- {first_line}");
            }
        }
        text
    }

    fn cells(&self) -> Vec<[String; 6]> {
        self.rows.iter().map(cells).collect()
    }
}

fn cells(row: &Row) -> [String; 6] {
    let show = |value: Option<f64>| {
        value.map_or_else(|| "not measured".to_owned(), |value| row.figure.unit.show(value))
    };
    let ratio = match (row.ratio, row.ratio_spread()) {
        (Some(ratio), Some((low, high))) => format!("{ratio:.2} ({low:.2}–{high:.2})"),
        (Some(ratio), None) => format!("{ratio:.2}"),
        (None, _) => String::new(),
    };
    let target = match row.figure.target {
        Target::AtLeast(bound) => format!("≥ {bound}"),
        Target::AtMost(bound) => format!("≤ {bound}"),
        Target::None => String::new(),
    };
    let verdict = match (row.met, row.figure.target) {
        (Some(true), _) => "met",
        (Some(false), _) => "not met",
        (None, Target::None) => "",
        (None, _) => "not measured",
    };
    [
        row.figure.title.to_owned(),
        show(row.etcd_median),
        show(row.folkmoot_median),
        ratio,
        target,
        verdict.to_owned(),
    ]
}

/// CPU name, CPU count and kernel of this machine.
pub fn machine() -> (String, usize, String) {
    let (cpu, kernel) = procfs::machine();
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cpu, count, kernel)
}

/// The file system's name; refuses one that lives in memory, where fsync costs nothing.
pub fn file_system(path: &Path) -> Result<String, String> {
    let stat = rustix::fs::statfs(path)
        .map_err(|error| format!("cannot look at --work-dir: {error} path={}", path.display()))?;
    // Magic numbers of statfs(2).
    match stat.f_type {
        0x0102_1994 | 0x8584_58f6 => Err(format!(
            "--work-dir is in memory, where fsync costs nothing: choose a real disk path={}",
            path.display()
        )),
        0xef53 => Ok("ext4".into()),
        0x5846_5342 => Ok("xfs".into()),
        0x9123_683e => Ok("btrfs".into()),
        0x794c_7630 => Ok("overlayfs".into()),
        other => Ok(format!("file system {other:#x}")),
    }
}

/// Today's date in UTC, as YYYY-MM-DD.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date_of_day(seconds / 86_400)
}

/// The date so many days after 1970-01-01, in the Gregorian calendar.
fn date_of_day(days: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", rest + 1)
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Group, Values};
    use super::*;
    use crate::cluster::Side;

    fn comparison() -> Comparison {
        let mut values = Values::default();
        for (etcd, folkmoot) in [(10_000.0, 20_000.0), (10_000.0, 19_000.0)] {
            values.add("put.ops", Side::Etcd, etcd);
            values.add("put.ops", Side::Folkmoot, folkmoot);
        }
        values.add("put.server_cpu", Side::Etcd, 75.0);
        Comparison {
            setting: Setting {
                date: "2026-01-02".into(),
                folkmoot_version: "folkmoot 1.2.3".into(),
                etcd_version: "etcd 3.4.0".into(),
                cpu: "Fast One".into(),
                cpu_count: 2,
                kernel: "6.1".into(),
                file_system: "ext4".into(),
                rounds: 2,
                members: 1,
                spread: false,
                quota_flag: "--quota-backend-bytes=8589934592".into(),
                window_s: 5.0,
                key_count: 100_000,
                big_key_count: 1_000_000,
                value_bytes: 256,
                quick: false,
            },
            rows: values.rows(&[Group::Put], 1),
            problems: vec!["Folkmoot put: it fell over\ndetails".into()],
        }
    }

    #[test]
    fn the_table_shows_ratio_target_and_verdict() {
        let text = comparison().markdown();
        let row = "| put, 8×32: throughput | 10,000/s | 19,500/s | 1.95 (1.90–2.00) | ≥ 1.7 | met |";
        assert!(text.contains(row), "{text}");
        let gap = "| 75.0 µs | not measured |  | ≤ 0.45 | not measured |";
        assert!(text.contains(gap), "{text}");
        assert!(text.contains("- Folkmoot put: it fell over\n"), "{text}");
        assert!(text.contains("folkmoot 1.2.3 and etcd 3.4.0"), "{text}");
    }

    #[test]
    fn a_cluster_is_described_with_the_way_its_clients_connect() {
        let mut comparison = comparison();
        assert!(!comparison.markdown().contains("Clusters of"));
        (comparison.setting.members, comparison.setting.spread) = (3, true);
        let text = comparison.markdown();
        assert!(text.contains("Clusters of 3 members on this machine; clients connect to all"), "{text}");
        assert!(!text.contains("memory and restart"), "{text}");
    }

    #[test]
    fn the_terminal_table_is_aligned() {
        let text = comparison().terminal();
        let lines: Vec<_> = text.lines().collect();
        let column = |line: &str, word: &str| {
            let at = line.find(word).unwrap();
            line[..at].chars().count()
        };
        assert_eq!(column(lines[0], "verdict"), column(lines[1], "met"));
        assert_eq!(column(lines[0], "ratio"), column(lines[1], "1.95"));
    }

    #[test]
    fn the_json_flattens_the_figure_into_its_row() {
        let json = serde_json::to_value(comparison()).unwrap();
        assert_eq!(json["rows"][0]["id"], "put.ops");
        assert_eq!(json["rows"][0]["met"], true);
        assert_eq!(json["rows"][0]["target"]["at-least"], 1.7);
    }

    #[test]
    fn days_become_dates_also_around_leap_days() {
        assert_eq!(date_of_day(0), "1970-01-01");
        assert_eq!(date_of_day(11_016), "2000-02-29");
        assert_eq!(date_of_day(11_017), "2000-03-01");
        assert_eq!(date_of_day(20_453), "2025-12-31");
        assert_eq!(date_of_day(20_454), "2026-01-01");
    }
}
