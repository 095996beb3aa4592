//! What Linux says about a process and the machine, read from `/proc`.
//!
//! The parsers take text, so that they can be tried without a process; a file that is missing
//! or has another shape is an error, never a zero.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Clock ticks a second in `/proc/<pid>/stat`. The kernel's `USER_HZ` is 100 on every
/// architecture that Folkmoot runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// The file is not there: usually the process has ended.
    #[error("cannot read: {source} path={path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file lacks the field.
    #[error("field is missing or not a number: field={field}")]
    Shape {
        /// The field's name in proc(5).
        field: &'static str,
    },
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// `VmRSS`: all resident pages, with mapped files.
    pub rss_bytes: u64,
    /// `RssAnon`: resident pages that no file backs; what the process cannot give back.
    pub rss_anon_bytes: u64,
}

/// CPU time that a process has used so far: user and system, all threads.
pub fn cpu_time(pid: u32) -> Result<Duration, ProcError> {
    parse_cpu_time(&read(&format!("/proc/{pid}/stat"))?)
}

/// What the threads of one name have used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadTime {
    /// Time on a CPU.
    pub cpu: Duration,
    /// Time ready to run, but waiting for a CPU.
    pub wait: Duration,
}

/// Times of the threads of a process by the thread's name, a number at its end left out. Threads
/// that have ended are not in it. Empty where the kernel keeps no such times.
pub fn threads(pid: u32) -> BTreeMap<String, ThreadTime> {
    let mut times = BTreeMap::<String, ThreadTime>::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        // A thread that ends while we look is one that has ended.
        if let Some(time) = parse_schedstat(&text("schedstat")) {
            let sum = times.entry(without_number(text("comm").trim()).to_owned()).or_default();
            sum.cpu += time.cpu;
            sum.wait += time.wait;
        }
    }
    times
}

/// Memory that a process holds now.
pub fn memory(pid: u32) -> Result<Memory, ProcError> {
    parse_memory(&read(&format!("/proc/{pid}/status"))?)
}

/// The first CPU's model name, the kernel release; "unknown" where the file does not say.
pub fn machine() -> (String, String) {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let or_unknown = |text: &str| {
        if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }
    };
    (or_unknown(parse_cpu_model(&cpu)), or_unknown(kernel.trim()))
}

fn read(path: &str) -> Result<String, ProcError> {
    fs::read_to_string(path).map_err(|source| ProcError::Read { path: path.to_owned(), source })
}

fn parse_cpu_time(stat: &str) -> Result<Duration, ProcError> {
    // The second field is the command in brackets, which may itself hold blanks and brackets.
    let (_, after_command) = stat.rsplit_once(')').ok_or(ProcError::Shape { field: "comm" })?;
    let mut fields = after_command.split_ascii_whitespace().skip(11);
    let mut ticks =
        |field| fields.next().and_then(|text| text.parse::<u64>().ok()).ok_or(ProcError::Shape { field });
    let total = ticks("utime")? + ticks("stime")?;
    Ok(Duration::from_millis(total * 1000 / TICKS_PER_SECOND))
}

fn parse_schedstat(text: &str) -> Option<ThreadTime> {
    let mut fields = text.split_ascii_whitespace().map(str::parse);
    let mut nanos = || fields.next()?.ok().map(Duration::from_nanos);
    Some(ThreadTime { cpu: nanos()?, wait: nanos()? })
}

fn without_number(name: &str) -> &str {
    let stem = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    stem.strip_suffix(['-', ':']).filter(|stem| !stem.is_empty()).unwrap_or(name)
}

fn parse_memory(status: &str) -> Result<Memory, ProcError> {
    let bytes = |field: &'static str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .and_then(|number| number.trim().parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .ok_or(ProcError::Shape { field })
    };
    Ok(Memory { rss_bytes: bytes("VmRSS")?, rss_anon_bytes: bytes("RssAnon")? })
}

fn parse_cpu_model(cpuinfo: &str) -> &str {
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("", |(_, name)| name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_user_and_system_even_with_brackets_in_the_command() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 9 0 0 0 120 34 5 6 20 0 9 0 100 1 2";
        assert_eq!(parse_cpu_time(stat).unwrap(), Duration::from_millis(1540));
    }

    #[test]
    fn a_short_stat_line_is_an_error_and_not_zero() {
        let error = parse_cpu_time("7 (a) S 1 7 7 0 -1 4194304 9 0 0 0 120").unwrap_err();
        assert_eq!(error.to_string(), "field is missing or not a number: field=stime");
        assert!(parse_cpu_time("").is_err());
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmRSS:\t   2048 kB\nRssAnon:\t    1024 kB\nRssFile:\t 9 kB\n";
        let expected = Memory { rss_bytes: 2048 * 1024, rss_anon_bytes: 1024 * 1024 };
        assert_eq!(parse_memory(status).unwrap(), expected);
        assert!(parse_memory("VmRSS:\t12 pages\n").is_err());
    }

    #[test]
    fn this_very_process_can_be_read() {
        let pid = std::process::id();
        assert!(memory(pid).unwrap().rss_bytes > 0);
        cpu_time(pid).unwrap();
        assert!(cpu_time(u32::MAX).is_err());
    }

    #[test]
    fn threads_are_summed_under_their_name_without_its_number() {
        let names = ["serve-0", "serve-12", "rocksdb:low", "rocksdb:high1", "core", "-7", "", "etcd"];
        let stems = names.map(without_number);
        assert_eq!(stems, ["serve", "serve", "rocksdb:low", "rocksdb:high1", "core", "-7", "", "etcd"]);
        let time = parse_schedstat("1500 250 7\n").unwrap();
        assert_eq!((time.cpu, time.wait), (Duration::from_nanos(1500), Duration::from_nanos(250)));
        assert_eq!(parse_schedstat("1500"), None);
        assert!(!threads(std::process::id()).is_empty());
    }

    #[test]
    fn the_cpu_model_is_the_first_one_named() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Fast One: X\n\nmodel name\t: Other\n";
        assert_eq!(parse_cpu_model(cpuinfo), "Fast One: X");
        assert_eq!(parse_cpu_model("nothing"), "");
    }
}
