//! A server under measurement: its process, its data directory and its ports.
//!
//! Only processes started here are ever signalled, by their id. Dropping a [`Member`] kills
//! its process, waits for it and removes its directory.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use folkmoot_proto::etcdserverpb as pb;
use prost::Message;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::Side;
use crate::payload::{Arena, get};
use crate::wire::{CallError, Channel, Method, frame};

/// How often a starting or ending process is looked at.
const POLL: Duration = Duration::from_millis(2);
/// A server that takes longer to end after SIGTERM is killed.
const STOP_MAX: Duration = Duration::from_secs(60);
/// One attempt to read from a starting server.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// Longer than twice the time after which etcd commits its storage.
const REST: Duration = Duration::from_millis(250);
/// Memory counts as settled when it moved less than this share within the window.
const SETTLED_SHARE: f64 = 0.01;
const SETTLED_WINDOW: usize = 8;
const SETTLE_STEP: Duration = Duration::from_millis(250);
const SETTLE_STEPS_MAX: usize = 80;
const LOG_FILE: &str = "server.log";
const LOG_TAIL_LINES: usize = 15;

/// Why a server could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The process ended by itself.
    #[error("{name} ended by itself, {status}; its last lines:\n{log}")]
    Ended {
        /// Which server.
        name: &'static str,
        /// How it ended.
        status: String,
        /// The end of what it wrote.
        log: String,
    },
    /// The process runs, but does not do what it was asked for in time.
    #[error("{name} did not {what} in time, after={after:?}; its last lines:\n{log}")]
    Slow {
        /// Which server.
        name: &'static str,
        /// What it was to do.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
        /// The end of what it wrote.
        log: String,
    },
    /// The server answers, but wrongly.
    #[error("{0}")]
    Wrong(String),
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServerError {
    let what = what.into();
    move |source| ServerError::System { what, source }
}

/// How all members of a cluster are run.
#[derive(Debug, Clone)]
pub struct Program {
    /// Whose program it is.
    pub side: Side,
    /// Where it is.
    pub path: PathBuf,
    /// Where data directories are made.
    pub work_dir: PathBuf,
    /// More flags.
    pub flags: Vec<String>,
}

/// What a member is told about its cluster when it starts.
#[derive(Debug, Clone)]
pub struct Founding {
    /// `name=url` of all members.
    pub initial_cluster: String,
    /// `new` or `existing`.
    pub state: &'static str,
}

/// A server with a data directory of its own.
#[derive(Debug)]
pub struct Member {
    name: String,
    program: Program,
    client_port: u16,
    peer_port: u16,
    /// Absent while the server is down.
    child: Option<Child>,
    /// Last, so that it is removed after the process is gone.
    dir: TempDir,
}

impl Member {
    /// Prepares a server with an empty data directory; it does not run yet.
    pub fn new(name: String, program: &Program) -> Result<Self, ServerError> {
        let work_dir = &program.work_dir;
        let dir = tempfile::Builder::new().prefix("folkmoot-bench-").tempdir_in(work_dir).map_err(system(
            format!("cannot make a data directory, change --work-dir path={}", work_dir.display()),
        ))?;
        let (client_port, peer_port) = free_ports().map_err(system("cannot find free ports"))?;
        Ok(Self { name, program: program.clone(), client_port, peer_port, child: None, dir })
    }

    /// Where clients connect.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// Where other members connect.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    /// How a list of members names it.
    pub fn named_url(&self) -> String {
        format!("{}={}", self.name, self.peer_url())
    }

    /// The running process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the process.
    pub fn start(&mut self, founding: &Founding) -> Result<(), ServerError> {
        let child = self.command(founding)?.spawn().map_err(system(format!(
            "cannot start {} path={}",
            self.program.side.name(),
            self.program.path.display()
        )))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits for the first linearizable read.
    pub async fn serving(&mut self, patience: Duration) -> Result<(), ServerError> {
        let began = Instant::now();
        loop {
            if let Some(ended) = self.ended()? {
                return Err(ended);
            }
            if let Ok(Ok(())) = timeout(PROBE_MAX, probe(&self.endpoint())).await {
                return Ok(());
            }
            if began.elapsed() > patience {
                return Err(self.slow("answer a linearizable read", patience));
            }
            sleep(POLL).await;
        }
    }

    /// Asks the process to end.
    pub fn terminate(&self) -> Result<(), ServerError> {
        self.signal(Signal::TERM)
    }

    /// Kills the process as a crash would.
    pub fn kill(&self) -> Result<(), ServerError> {
        self.signal(Signal::KILL)
    }

    /// What the running server reports about itself.
    pub async fn status(&self) -> Result<pb::StatusResponse, ServerError> {
        self.ask("/etcdserverpb.Maintenance/Status", &pb::StatusRequest::default()).await
    }

    /// Brings the store to rest after a burst of writes.
    ///
    /// etcd 3.4 keeps the buffer of a burst until a commit of its storage that writes no key,
    /// and copies it for each read until then. It commits every 100 ms if there is something to
    /// commit; a lease that is granted and revoked gives it two such commits. Both sides get
    /// the same.
    pub async fn rest(&self) -> Result<(), ServerError> {
        let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
        let lease: pb::LeaseGrantResponse = self.ask("/etcdserverpb.Lease/LeaseGrant", &grant).await?;
        sleep(REST).await;
        let revoke = pb::LeaseRevokeRequest { id: lease.id };
        let _: pb::LeaseRevokeResponse = self.ask("/etcdserverpb.Lease/LeaseRevoke", &revoke).await?;
        sleep(REST).await;
        Ok(())
    }

    /// One call.
    pub async fn ask<A: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, ServerError> {
        let endpoint = self.endpoint();
        let call = async {
            let mut channel = Channel::connect(&endpoint).await?;
            let answer = channel.unary(&Method::new(method), frame(request)).await?;
            Ok::<_, CallError>(A::decode(answer)?)
        };
        match timeout(PROBE_MAX, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(ServerError::Wrong(format!("{error} method={method}"))),
            Err(_) => Err(self.slow("answer", PROBE_MAX)),
        }
    }

    /// Waits until the memory of the process no longer moves, and returns it.
    pub async fn settled_memory(&self) -> Result<crate::procfs::Memory, ServerError> {
        let pid = self.pid().ok_or_else(|| self.not_running())?;
        let mut seen = Vec::new();
        loop {
            let memory = crate::procfs::memory(pid).map_err(|error| ServerError::Wrong(error.to_string()))?;
            seen.push(memory.rss_bytes);
            if settled(&seen) || seen.len() >= SETTLE_STEPS_MAX {
                return Ok(memory);
            }
            sleep(SETTLE_STEP).await;
        }
    }

    fn command(&self, founding: &Founding) -> Result<Command, ServerError> {
        let log_path = self.dir.path().join(LOG_FILE);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(system("cannot write the server's log"))?;
        let log_too = log.try_clone().map_err(system("cannot write the server's log"))?;
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = self.peer_url();
        let mut command = Command::new(&self.program.path);
        if self.program.side == Side::Folkmoot {
            command.arg("serve");
        }
        command
            .args(["--name", &self.name])
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &founding.initial_cluster])
            .args(["--initial-cluster-state", founding.state])
            .args(&self.program.flags)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            // Ctrl-C in the terminal is for us; we then end the server.
            .process_group(0);
        // Settings of the user's own server must not reach this one.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("ETCD_") || name_text.starts_with("FOLKMOOT_") {
                command.env_remove(&name);
            }
        }
        Ok(command)
    }

    fn signal(&self, signal: Signal) -> Result<(), ServerError> {
        let pid = self
            .pid()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            .ok_or_else(|| self.not_running())?;
        // The child has not been waited for, so its id cannot have passed to another process.
        kill_process(pid, signal).map_err(|error| system("cannot signal the server")(error.into()))
    }

    /// Waits until the process has ended.
    pub async fn gone(&mut self) -> Result<(), ServerError> {
        let began = Instant::now();
        let Some(child) = self.child.as_mut() else {
            return Ok(());
        };
        while child.try_wait().map_err(system("cannot wait for the server"))?.is_none() {
            if began.elapsed() > STOP_MAX {
                return Err(self.slow("end", STOP_MAX));
            }
            sleep(POLL).await;
        }
        self.child = None;
        Ok(())
    }

    fn ended(&mut self) -> Result<Option<ServerError>, ServerError> {
        let Some(child) = self.child.as_mut() else {
            return Ok(Some(self.not_running()));
        };
        let status = child.try_wait().map_err(system("cannot wait for the server"))?;
        Ok(status.map(|status| {
            self.child = None;
            ServerError::Ended {
                name: self.program.side.name(),
                status: status.to_string(),
                log: self.log_tail(),
            }
        }))
    }

    fn not_running(&self) -> ServerError {
        ServerError::Wrong(format!("{} is not running", self.program.side.name()))
    }

    fn slow(&self, what: &'static str, after: Duration) -> ServerError {
        ServerError::Slow { name: self.program.side.name(), what, after, log: self.log_tail() }
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read(self.dir.path().join(LOG_FILE)).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<_> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_TAIL_LINES);
        lines[from..].join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            // It may have ended by itself; there is nothing more to be done then.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Two ports that nothing listens on now. Another program could take them before the server
/// does; the server then ends with a clear error.
fn free_ports() -> io::Result<(u16, u16)> {
    let client = TcpListener::bind("127.0.0.1:0")?;
    let peer = TcpListener::bind("127.0.0.1:0")?;
    Ok((client.local_addr()?.port(), peer.local_addr()?.port()))
}

/// One linearizable read; whether the key exists does not matter.
async fn probe(endpoint: &str) -> Result<(), CallError> {
    let method = Method::new("/etcdserverpb.KV/Range");
    let request = get(false).fill(0, &mut Arena::default());
    Channel::connect(endpoint).await?.unary(&method, request).await?;
    Ok(())
}

fn settled(seen: &[u64]) -> bool {
    let Some(from) = seen.len().checked_sub(SETTLED_WINDOW) else {
        return false;
    };
    let last = &seen[from..];
    let lowest = last.iter().copied().min().unwrap_or(0) as f64;
    let highest = last.iter().copied().max().unwrap_or(0) as f64;
    highest - lowest <= highest * SETTLED_SHARE
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn memory_has_settled_when_the_last_samples_are_alike() {
        assert!(!settled(&[100; 7]));
        assert!(settled(&[100; 8]));
        assert!(settled(&[1, 2, 1000, 1001, 1000, 1002, 1000, 1001, 1000, 1000]));
        assert!(!settled(&[1000, 1000, 1000, 1000, 1000, 1000, 1000, 1100]));
    }

    fn member(path: &str, work_dir: &Path) -> Member {
        let program = Program {
            side: Side::Etcd,
            path: path.into(),
            work_dir: work_dir.to_owned(),
            flags: vec!["--no-such-flag".into()],
        };
        Member::new("m1".into(), &program).unwrap()
    }

    fn founding() -> Founding {
        Founding { initial_cluster: String::new(), state: "new" }
    }

    #[tokio::test]
    async fn a_program_that_ends_at_once_is_reported_with_its_last_lines() {
        let work_dir = tempfile::tempdir().unwrap();
        let mut server = member("/bin/ls", work_dir.path());
        server.start(&founding()).unwrap();
        let error = server.serving(Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(error, ServerError::Ended { .. }), "{error}");
        assert!(error.to_string().contains("etcd ended by itself"), "{error}");
        assert!(error.to_string().contains("unrecognized option"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_reported_with_its_path() {
        let work_dir = tempfile::tempdir().unwrap();
        let mut server = member("/nonexistent/etcd", work_dir.path());
        let error = server.start(&founding()).unwrap_err().to_string();
        assert!(error.contains("path=/nonexistent/etcd"), "{error}");
    }

    #[test]
    fn dropping_a_server_removes_its_directory() {
        let work_dir = tempfile::tempdir().unwrap();
        let server = member("/bin/ls", work_dir.path());
        assert_eq!(work_dir.path().read_dir().unwrap().count(), 1);
        drop(server);
        assert_eq!(work_dir.path().read_dir().unwrap().count(), 0);
    }
}
