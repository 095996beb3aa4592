//! The members of one store: in this process, or as processes of a program with etcd's flags.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;

use crate::Refusal;
use crate::link::Target;

const START_MAX: Duration = Duration::from_secs(60);
const HEARTBEAT_MS: u64 = 50;
const ELECTION_MS: u64 = 500;

/// What a store is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Folkmoot in this process.
    #[cfg(feature = "embedded")]
    Embedded,
    /// A program.
    Process {
        /// `etcd` or `folkmoot`.
        name: String,
        /// Where it is.
        program: PathBuf,
    },
}

impl Kind {
    /// Reads `embedded`, `etcd`, `folkmoot`, or either name with `=PATH` behind it.
    ///
    /// # Errors
    /// The text is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, program) = text.split_once('=').unwrap_or((text, text));
        match name {
            #[cfg(feature = "embedded")]
            "embedded" => Ok(Self::Embedded),
            "etcd" | "folkmoot" => Ok(Self::Process { name: name.into(), program: program.into() }),
            _ => {
                Err(format!("a store is embedded, etcd, folkmoot, etcd=PATH or folkmoot=PATH store={text:?}"))
            }
        }
    }

    /// Its name in reports.
    pub fn name(&self) -> &str {
        match self {
            #[cfg(feature = "embedded")]
            Self::Embedded => "embedded",
            Self::Process { name, .. } => name,
        }
    }

    /// Whether it is etcd itself.
    pub fn is_etcd(&self) -> bool {
        matches!(self, Self::Process { name, .. } if name == "etcd")
    }
}

enum Running {
    No,
    #[cfg(feature = "embedded")]
    Here(Box<folkmoot_server::Server>),
    Process(Child),
}

struct Member {
    name: String,
    /// Of a process; a member in this process takes a new one each time.
    port: u16,
    peer_port: u16,
    running: Running,
    target: Target,
}

/// See the module. All methods block; dropping it ends the members.
pub struct Store {
    kind: Kind,
    dir: TempDir,
    members: Vec<Member>,
    /// Counts the clusters that were here; part of the token from which ids are made.
    clusters: u32,
}

/// A port that is free, below those that the system gives to connections: it must still be free
/// when a stopped member comes back to it.
pub fn free_port() -> std::io::Result<u16> {
    static TAKEN: Mutex<std::collections::BTreeSet<u16>> = Mutex::new(std::collections::BTreeSet::new());
    for _ in 0..1000 {
        let port = rand::random_range(10_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TAKEN.lock().insert(port) {
            return Ok(port);
        }
    }
    Err(std::io::Error::other("no port is free between 10000 and 30000"))
}

impl Store {
    /// Starts a store.
    ///
    /// # Errors
    /// A member does not start.
    pub fn start(kind: Kind, count: usize) -> Result<Self, Refusal> {
        let dir = tempfile::Builder::new().prefix("folkmoot-testd-").tempdir()?;
        let member = |at| {
            Ok(Member {
                name: format!("m{at}"),
                port: free_port()?,
                peer_port: free_port()?,
                running: Running::No,
                target: Target::default(),
            })
        };
        let members = (0..count).map(member).collect::<std::io::Result<_>>()?;
        let mut store = Self { kind, dir, members, clusters: 0 };
        store.start_members(&(0..count).collect::<Vec<_>>())?;
        Ok(store)
    }

    /// Where each member listens, kept up to date.
    pub fn targets(&self) -> Vec<Target> {
        self.members.iter().map(|member| member.target.clone()).collect()
    }

    fn data_dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(&self.members[at].name)
    }

    /// Starts members that do not run, and waits until they serve.
    ///
    /// # Errors
    /// One of them runs, or does not start.
    pub fn start_members(&mut self, which: &[usize]) -> Result<(), Refusal> {
        for at in which {
            if !matches!(self.members[*at].running, Running::No) {
                return Err(Refusal::wrong(format!("the member runs already member={at}")));
            }
        }
        let peers = self.members.iter().map(|member| format!("{}={}", member.name, peer_url(member)));
        let all = peers.collect::<Vec<_>>().join(",");
        let token = format!("{}-{}", self.dir.path().display(), self.clusters);
        match self.kind.clone() {
            #[cfg(feature = "embedded")]
            Kind::Embedded => self.start_here(which, &all, &token),
            Kind::Process { name, program } => self.start_processes(which, &name, &program, &all, &token),
        }
    }

    #[cfg(feature = "embedded")]
    fn start_here(&mut self, which: &[usize], all: &str, token: &str) -> Result<(), Refusal> {
        let config = |at: &usize| folkmoot_server::Config {
            name: self.members[*at].name.clone(),
            listen_peer_urls: vec![peer_url(&self.members[*at])],
            initial_advertise_peer_urls: vec![peer_url(&self.members[*at])],
            initial_cluster: all.to_owned(),
            initial_cluster_token: token.to_owned(),
            heartbeat_ms: HEARTBEAT_MS,
            election_ms: ELECTION_MS,
            // Nothing here is about losing power.
            unsafe_no_fsync: true,
            runtime_threads: 1,
            ..folkmoot_server::Config::alone_in(self.data_dir(*at))
        };
        let configs: Vec<_> = which.iter().map(config).collect();
        // Members of a new cluster do not serve before a majority is there: all at the same time.
        let servers: Vec<_> = std::thread::scope(|scope| {
            let start = |config| scope.spawn(move || folkmoot_server::Server::start(config));
            let starts: Vec<_> = configs.into_iter().map(start).collect();
            starts.into_iter().map(|start| start.join().expect("starting does not panic")).collect()
        });
        for (at, server) in which.iter().zip(servers) {
            let server =
                server.map_err(|error| Refusal::failed(format!("a member does not start: {error}")))?;
            *self.members[*at].target.lock() = Some(server.client_addr());
            self.members[*at].running = Running::Here(Box::new(server));
        }
        Ok(())
    }

    fn start_processes(
        &mut self,
        which: &[usize],
        name: &str,
        program: &Path,
        all: &str,
        token: &str,
    ) -> Result<(), Refusal> {
        for at in which {
            let child = self.launch(*at, name, program, all, token)?;
            self.members[*at].running = Running::Process(child);
        }
        let until = Instant::now() + START_MAX;
        for at in which {
            let address = SocketAddr::from(([127, 0, 0, 1], self.members[*at].port));
            while TcpStream::connect(address).is_err() {
                if let Running::Process(child) = &mut self.members[*at].running
                    && let Some(status) = child.try_wait()?
                {
                    return Err(Refusal::failed(format!("{name} ended while it started: {status}")));
                }
                if Instant::now() > until {
                    return Err(Refusal::failed(format!("{name} does not listen after {START_MAX:?}")));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            *self.members[*at].target.lock() = Some(address);
        }
        Ok(())
    }

    fn launch(
        &self,
        at: usize,
        name: &str,
        program: &Path,
        all: &str,
        token: &str,
    ) -> Result<Child, Refusal> {
        let member = &self.members[at];
        let url = format!("http://127.0.0.1:{}", member.port);
        let mut command = Command::new(program);
        if name == "folkmoot" {
            command.args(["serve", "--unsafe-no-fsync"]);
        }
        command
            .args(["--name", &member.name, "--initial-cluster", all, "--initial-cluster-token", token])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args([
                "--listen-peer-urls",
                &peer_url(member),
                "--initial-advertise-peer-urls",
                &peer_url(member),
            ])
            .args(["--heartbeat-interval", &HEARTBEAT_MS.to_string()])
            .args(["--election-timeout", &ELECTION_MS.to_string()])
            .arg("--data-dir")
            .arg(self.data_dir(at))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let spawned = command.spawn();
        let mut child = spawned.map_err(|error| {
            Refusal::failed(format!("{name} does not start: {error} program={}", program.display()))
        })?;
        let log = BufReader::new(child.stderr.take().expect("is piped"));
        let who = member.name.clone();
        std::thread::spawn(move || {
            // A pipe that nobody reads would stop the program when it is full.
            for line in log.lines().map_while(Result::ok) {
                tracing::debug!(member = who, "{line}");
            }
        });
        Ok(child)
    }

    /// Ends a member: with a good-bye (leadership is handed over), or without.
    ///
    /// # Errors
    /// It does not run.
    pub fn stop(&mut self, at: usize, leave: bool) -> Result<(), Refusal> {
        let member = &mut self.members[at];
        *member.target.lock() = None;
        match std::mem::replace(&mut member.running, Running::No) {
            Running::No => Err(Refusal::wrong(format!("the member does not run member={at}"))),
            #[cfg(feature = "embedded")]
            Running::Here(server) if leave => server.shutdown().map_err(Refusal::failed),
            #[cfg(feature = "embedded")]
            Running::Here(server) => {
                server.abandon();
                Ok(())
            }
            Running::Process(child) => end(child, leave).map_err(Refusal::from),
        }
    }

    /// Stops the process without ending it, or lets it go on. Says whether there is a process.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, at: usize, stop: bool) -> Result<bool, Refusal> {
        use rustix::process::{Signal, kill_process};
        match &self.members[at].running {
            Running::No => Err(Refusal::wrong(format!("the member does not run member={at}"))),
            #[cfg(feature = "embedded")]
            Running::Here(_) => Ok(false),
            Running::Process(child) => {
                kill_process(pid(child), if stop { Signal::STOP } else { Signal::CONT })
                    .map_err(std::io::Error::from)?;
                Ok(true)
            }
        }
    }

    /// The members that run.
    pub fn running(&self) -> Vec<usize> {
        let runs = |at: &usize| !matches!(self.members[*at].running, Running::No);
        (0..self.members.len()).filter(runs).collect()
    }

    /// Replaces the store by an empty one of another cluster.
    ///
    /// # Errors
    /// The new one does not start.
    pub fn replace(&mut self) -> Result<(), Refusal> {
        self.stop_all()?;
        self.clusters += 1;
        for at in 0..self.members.len() {
            std::fs::remove_dir_all(self.data_dir(at))?;
        }
        self.start_members(&(0..self.members.len()).collect::<Vec<_>>())
    }

    /// Keeps a copy of all data as it is now. The members are restarted for it.
    ///
    /// # Errors
    /// Something about files, or a member does not start.
    pub fn back_up(&mut self) -> Result<(), Refusal> {
        self.stop_all()?;
        for at in 0..self.members.len() {
            copy(&self.data_dir(at), &self.backup_dir(at))?;
        }
        self.start_members(&(0..self.members.len()).collect::<Vec<_>>())
    }

    /// Puts the kept copy in the place of the data.
    ///
    /// # Errors
    /// There is no copy, or a member does not start.
    pub fn restore(&mut self) -> Result<(), Refusal> {
        if !self.backup_dir(0).exists() {
            return Err(Refusal::wrong("there is no backup to restore: call back_up first"));
        }
        self.stop_all()?;
        for at in 0..self.members.len() {
            std::fs::remove_dir_all(self.data_dir(at))?;
            copy(&self.backup_dir(at), &self.data_dir(at))?;
        }
        self.start_members(&(0..self.members.len()).collect::<Vec<_>>())
    }

    fn backup_dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("{}.backup", self.members[at].name))
    }

    fn stop_all(&mut self) -> Result<(), Refusal> {
        self.running().into_iter().try_for_each(|at| self.stop(at, true))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for at in self.running() {
            if let Err(error) = self.stop(at, false) {
                tracing::warn!(%error, at, "a member did not end well");
            }
        }
    }
}

fn peer_url(member: &Member) -> String {
    format!("http://127.0.0.1:{}", member.peer_port)
}

fn pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_child(child)
}

fn end(mut child: Child, leave: bool) -> std::io::Result<()> {
    use rustix::process::{Signal, kill_process};
    if leave {
        // Whoever is stopped does not hear the other signal.
        kill_process(pid(&child), Signal::CONT)?;
        kill_process(pid(&child), Signal::TERM)?;
    } else {
        child.kill()?;
    }
    child.wait().map(drop)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir_all(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &place)?;
        } else {
            std::fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}

/// Shared by all who may stop and start members.
pub type SharedStore = Arc<tokio::sync::Mutex<Store>>;
