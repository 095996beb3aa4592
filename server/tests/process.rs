//! The server as a process: how it ends, what it logs, and what survives.
//!
//! The process is this test program itself, started again to run only [`serve_as_a_child`].

mod common;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::{bytes, get, put_request};
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::kv_client::KvClient;
use folkmoot_server::Config;
use folkmoot_server::config::{LogFormat, LogLevel};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use tonic::transport::{Channel, Endpoint};

const DIR: &str = "FOLKMOOT_TEST_DIR";
const FILE_BYTES_MAX: &str = "FOLKMOOT_TEST_FILE_BYTES_MAX";

/// Serves if this process was started for it; as a test of its own it does nothing.
#[test]
fn serve_as_a_child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    if let Ok(bytes) = std::env::var(FILE_BYTES_MAX) {
        let limit = Some(bytes.parse().unwrap());
        setrlimit(Resource::Fsize, Rlimit { current: limit, maximum: limit }).unwrap();
        // SAFETY: plain numbers. Without this the process would die before it can tell.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    }
    folkmoot_server::observe::log::init(LogLevel::Info, LogFormat::Json);
    match folkmoot_server::run(Config::alone_in(dir)) {
        Ok(()) => std::process::exit(0),
        Err(_) => std::process::exit(1),
    }
}

struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(dir: &Path, file_bytes_max: Option<u64>) -> Self {
        let starts = std::fs::read_dir(dir).unwrap().count();
        let log = dir.join(format!("log-{starts}"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "serve_as_a_child", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.join("member"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap());
        if let Some(bytes) = file_bytes_max {
            command.env(FILE_BYTES_MAX, bytes.to_string());
        }
        Self { child: command.spawn().unwrap(), log }
    }

    async fn kv(&mut self) -> KvClient<Channel> {
        loop {
            assert_eq!(self.child.try_wait().unwrap(), None, "{}", self.log_text());
            let Some(address) = self.address() else {
                tokio::task::yield_now().await;
                continue;
            };
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            if let Ok(channel) = endpoint.connect().await {
                return KvClient::new(channel).max_decoding_message_size(usize::MAX);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Where it serves, once it has said so.
    fn address(&self) -> Option<String> {
        let log = self.log_text();
        let (_, rest) = log.split_once("\"address\":\"")?;
        let (address, _) = rest.split_once('"')?;
        Some(address.to_owned())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (status, self.log_text())
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

#[tokio::test]
async fn a_signal_ends_the_process_soon_and_by_that_signal() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let mut process = Process::start(dir.path(), None);
        let mut kv = process.kv().await;
        kv.put(put_request("a", &number.to_string())).await.unwrap();
        let asked = Instant::now();
        process.signal(signal);
        let (status, log) = process.wait();
        assert_eq!(status.signal(), Some(number), "{log}");
        // Half a second is left to open calls; the rest is for a busy machine.
        assert!(asked.elapsed() < Duration::from_secs(10), "{log}");
        for message in [
            "starting an etcd server",
            "ready to serve client requests",
            "serving client traffic insecurely; this is strongly discouraged!",
            "received signal; shutting down",
            "closed etcd server",
        ] {
            assert!(log.contains(&format!("\"msg\":\"{message}\"")), "{message}\n{log}");
        }
        for line in log.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect(line);
            for key in ["level", "ts", "caller", "msg"] {
                assert!(line[key].as_str().is_some_and(|text| !text.is_empty()), "{line}");
            }
            assert_ne!(line["level"], "error");
        }
    }
    let mut process = Process::start(dir.path(), None);
    assert_eq!(get(&mut process.kv().await, "a").await.unwrap().value, bytes("2"));
    process.signal(Signal::KILL);
    process.wait();
}

/// Writes keys one after the other from some clients until the server is gone; gives what was
/// acknowledged.
async fn write_until_gone(
    process: &mut Process,
    round: usize,
    value: &str,
    until: impl Fn(usize) -> bool,
) -> BTreeMap<String, i64> {
    let mut clients = tokio::task::JoinSet::new();
    let (acknowledge, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
    for client in 0..4 {
        let mut kv = process.kv().await;
        let (acknowledge, value) = (acknowledge.clone(), value.to_owned());
        clients.spawn(async move {
            for number in 0.. {
                let key = format!("{round}/{client}/{number}");
                match kv.put(put_request(&key, &value)).await {
                    Ok(response) => {
                        let revision = response.into_inner().header.unwrap().revision;
                        acknowledge.send((key, revision)).expect("the test listens");
                    }
                    Err(_) => return,
                }
            }
        });
    }
    drop(acknowledge);
    let (mut all, mut killed) = (BTreeMap::new(), false);
    while let Some((key, revision)) = acknowledged.recv().await {
        all.insert(key, revision);
        if !killed && until(all.len()) {
            process.signal(Signal::KILL);
            killed = true;
        }
    }
    all
}

async fn assert_holds(process: &mut Process, acknowledged: &BTreeMap<String, i64>) {
    let mut kv = process.kv().await;
    let all =
        pb::RangeRequest { key: bytes("\0"), range_end: bytes("\0"), keys_only: true, ..Default::default() };
    let answer = kv.range(all).await.unwrap().into_inner();
    let found: BTreeMap<String, i64> = answer
        .kvs
        .into_iter()
        .map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision))
        .collect();
    for (key, revision) in acknowledged {
        assert_eq!(found.get(key), Some(revision), "{key}");
    }
}

#[tokio::test]
async fn a_process_killed_under_load_comes_back_with_everything_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..5 {
        let mut process = Process::start(dir.path(), None);
        assert_holds(&mut process, &acknowledged).await;
        let limit = 50 + 170 * round;
        acknowledged.extend(write_until_gone(&mut process, round, "value", |count| count >= limit).await);
        assert_eq!(process.wait().0.signal(), Some(9));
    }
    let mut process = Process::start(dir.path(), None);
    assert_holds(&mut process, &acknowledged).await;
    process.signal(Signal::KILL);
    process.wait();
}

#[tokio::test]
async fn a_disk_that_takes_no_more_ends_the_process_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // The log's first segment fits, its next one does not.
    let mut process = Process::start(dir.path(), Some(8 << 20));
    let acknowledged = write_until_gone(&mut process, 0, &"x".repeat(50_000), |_| false).await;
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("server failed and stops"), "{log}");
    assert!(acknowledged.len() > 5, "{log}");
    let mut process = Process::start(dir.path(), None);
    assert_holds(&mut process, &acknowledged).await;
    process.kv().await.put(put_request("again", "1")).await.unwrap();
    process.signal(Signal::KILL);
    process.wait();
}
