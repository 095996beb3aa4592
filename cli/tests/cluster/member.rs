//! Members of one cluster, each in a process of its own with a log to look at.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{self, Process};

const SERVING: &str = "serving client traffic insecurely; this is strongly discouraged!";
/// Far more than anything takes that has to come in the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until there is something to see.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "never came: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A port below those that the system takes for connections, so that it stays free while a member
/// is away.
pub fn free_port() -> u16 {
    use std::hash::{BuildHasher as _, RandomState};
    loop {
        // Each state is seeded anew.
        let port = 10_000 + (RandomState::new().hash_one(0) % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What a command prints that speaks to these endpoints and succeeds.
pub fn run_text<const N: usize>(endpoints: &str, arguments: [&str; N]) -> String {
    let mut command = support::folkmoot(arguments);
    support::text(&support::run(command.env("FOLKMOOT_ENDPOINTS", endpoints), ""))
}

/// The document that a command prints with `-w json`.
pub fn run_json<const N: usize>(endpoints: &str, arguments: [&str; N]) -> Value {
    let mut command = support::folkmoot(arguments);
    command.args(["-w", "json"]).env("FOLKMOOT_ENDPOINTS", endpoints);
    serde_json::from_str(&support::text(&support::run(&mut command, ""))).expect("is one document")
}

/// One member.
pub struct Member {
    pub name: String,
    peer_port: u16,
    token: String,
    initial_cluster: String,
    existing: bool,
    directory: String,
    starts: usize,
    process: Option<Process>,
    folder: Rc<TempDir>,
}

impl Member {
    /// One with the settings and the directory of another, but at its own port.
    pub fn like(other: &Member, peer_port: u16) -> Self {
        Self {
            name: format!("at{peer_port}"),
            peer_port,
            token: other.token.clone(),
            initial_cluster: String::new(),
            existing: false,
            directory: other.directory.clone(),
            starts: 0,
            process: None,
            folder: Rc::clone(&other.folder),
        }
    }

    /// It is going to join the cluster of the members at these ports, with a directory of its own.
    pub fn joins(&mut self, peer_ports: &[u16]) {
        let others = peer_ports.iter().enumerate().map(|(at, port)| (format!("m{at}"), *port));
        let all = others.chain([(self.name.clone(), self.peer_port)]);
        let all: Vec<String> = all.map(|(name, port)| format!("{name}=http://127.0.0.1:{port}")).collect();
        self.initial_cluster = all.join(",");
        self.existing = true;
        self.directory = self.name.clone();
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join(&self.directory)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join(format!("{}-{}-{}.log", self.token, self.name, self.starts))
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).expect("was started")
    }

    pub fn log_lines(&self) -> Vec<Value> {
        let log = self.log();
        log.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
    }

    /// Starts its process, without waiting for anything.
    pub fn spawn(&mut self) {
        self.starts += 1;
        let url = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = support::folkmoot(["serve", "--listen-client-urls", "http://127.0.0.1:0"]);
        command
            .args(["--name", &self.name, "--data-dir"])
            .arg(self.data_dir())
            .args(["--listen-peer-urls", &url, "--initial-advertise-peer-urls", &url])
            .args(["--initial-cluster-token", &self.token])
            .args(["--initial-cluster-state", if self.existing { "existing" } else { "new" }])
            // Members must otherwise have been in touch for five seconds before they may change.
            .args(["--strict-reconfig-check=false", "--heartbeat-interval", "50"])
            .args(["--election-timeout", "500"]);
        if !self.initial_cluster.is_empty() {
            command.args(["--initial-cluster", &self.initial_cluster]);
        }
        let log = fs::File::create(self.log_path()).expect("there is room");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(Process::new(command.spawn().expect("the binary was built")));
    }

    /// Waits until it serves.
    pub fn wait_until_it_serves(&self) {
        eventually("a member that serves", || self.log().contains(SERVING).then_some(()));
    }

    pub fn start(&mut self) {
        self.spawn();
        self.wait_until_it_serves();
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("was started")
    }

    /// Waits for the end of its process.
    pub fn wait(&mut self) -> ExitStatus {
        self.process().wait()
    }

    /// Where it serves clients.
    pub fn endpoint(&self) -> String {
        let serving = self.log_lines().into_iter().find(|line| line["msg"] == SERVING);
        serving.expect("serves")["address"].as_str().expect("is named").to_owned()
    }

    pub fn status(&self) -> Value {
        run_json(&self.endpoint(), ["endpoint", "status"])[0]["Status"].clone()
    }

    /// Its hexadecimal number.
    pub fn id(&self) -> String {
        format!("{:x}", self.status()["header"]["member_id"].as_u64().expect("is a number"))
    }
}

/// All of one cluster.
pub struct Members(pub Vec<Member>);

impl Members {
    /// Starts a new cluster, named m0, m1 and so on.
    pub fn start(count: usize, token: &str) -> Self {
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        Self::start_with(&ports, token, &Rc::new(tempfile::tempdir().expect("there is room for a folder")))
    }

    /// Starts another new cluster at the addresses of one that was killed.
    pub fn start_at(other: &Self, token: &str) -> Self {
        Self::start_with(&other.peer_ports(), token, &other.0[0].folder)
    }

    fn start_with(ports: &[u16], token: &str, folder: &Rc<TempDir>) -> Self {
        let all: Vec<String> =
            ports.iter().enumerate().map(|(at, port)| format!("m{at}=http://127.0.0.1:{port}")).collect();
        let member = |(at, port): (usize, &u16)| Member {
            name: format!("m{at}"),
            peer_port: *port,
            token: token.to_owned(),
            initial_cluster: all.join(","),
            existing: false,
            directory: format!("{token}-m{at}"),
            starts: 0,
            process: None,
            folder: Rc::clone(folder),
        };
        let mut members = Self(ports.iter().enumerate().map(member).collect());
        members.0.iter_mut().for_each(Member::spawn);
        members.0.iter().for_each(Member::wait_until_it_serves);
        members
    }

    pub fn peer_ports(&self) -> Vec<u16> {
        self.0.iter().map(|member| member.peer_port).collect()
    }

    /// Of all that were started last and still serve, separated by commas.
    pub fn endpoints(&self) -> String {
        self.0.iter().map(Member::endpoint).collect::<Vec<_>>().join(",")
    }

    /// Waits until the first member knows a leader; gives its place.
    pub fn leader(&self) -> usize {
        eventually("a leader", || {
            let statuses: Vec<Value> = self.0.iter().map(Member::status).collect();
            let leader = &statuses[0]["leader"];
            let agreed = statuses.iter().all(|status| status["leader"] == *leader);
            let place = statuses.iter().position(|status| status["header"]["member_id"] == *leader);
            place.filter(|_| agreed)
        })
    }

    pub fn kill_all(&mut self) {
        for member in &mut self.0 {
            member.process().signal(rustix::process::Signal::KILL);
            member.wait();
        }
    }
}
