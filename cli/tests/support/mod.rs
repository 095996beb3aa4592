//! A member in a process of its own, and commands that speak to it. Nothing here waits for time:
//! servers say when they serve, commands when they have something.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const FOLKMOOT: &str = env!("CARGO_BIN_EXE_folkmoot");
const SERVING: &str = "serving client traffic insecurely; this is strongly discouraged!";

/// A process that ends with the test, however the test ends.
pub struct Process(Child);

impl Process {
    /// Takes over a process that was started.
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id() as i32).expect("a child has a number");
        kill_process(pid, signal).expect("the child is there");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("the child is ours")
    }

    /// What it says on standard output, line by line.
    pub fn lines(&mut self) -> Lines {
        Lines(BufReader::new(self.0.stdout.take().expect("is piped, and taken once")))
    }

    /// What it has said on standard error, to the end.
    pub fn errors(&mut self) -> String {
        let mut text = String::new();
        self.0.stderr.take().expect("is piped, and taken once").read_to_string(&mut text).expect("is text");
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines of a running command.
pub struct Lines(BufReader<ChildStdout>);

impl Lines {
    /// Waits for the next line; empty at the end.
    pub fn next(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("is text");
        line.trim_end().to_owned()
    }
}

/// A member alone, with a data directory of its own, on a free port.
pub struct Server {
    process: Process,
    endpoint: String,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts it and waits until it serves.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("there is room for a folder"))
    }

    /// Starts it in the folder, with `data` as its data directory.
    pub fn start_in(folder: tempfile::TempDir) -> Self {
        let (process, endpoint) = Self::serve(&folder, "127.0.0.1:0");
        Self { process, endpoint, folder }
    }

    /// Ends it as a crash does, and starts it again where it was.
    pub fn restart(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
        let address = self.endpoint.clone();
        (self.process, self.endpoint) = Self::serve(&self.folder, &address);
        assert_eq!(self.endpoint, address);
    }

    /// Where it serves.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn serve(folder: &tempfile::TempDir, address: &str) -> (Process, String) {
        let url = format!("http://{address}");
        let mut command = folkmoot(["serve", "--listen-client-urls", &url, "--unsafe-no-fsync"]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:0"]);
        // A port that the system chooses is advertised by itself, one that is named is not.
        if !address.ends_with(":0") {
            command.args(["--advertise-client-urls", &url]);
        }
        command.arg("--data-dir").arg(folder.path().join("data"));
        let mut process = spawn(&mut command);
        let mut log = BufReader::new(process.0.stderr.take().expect("is piped"));
        let mut seen = String::new();
        let endpoint = loop {
            let start = seen.len();
            assert_ne!(log.read_line(&mut seen).expect("is text"), 0, "the server ended:\n{seen}");
            let line: Value = serde_json::from_str(&seen[start..]).expect("every line is JSON");
            if line["msg"] == SERVING {
                break line["address"].as_str().expect("is named").to_owned();
            }
        };
        // A pipe that nobody reads would stop the server when it is full.
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        (process, endpoint)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A command that will speak to it.
    pub fn command<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = folkmoot(arguments);
        command.env("FOLKMOOT_ENDPOINTS", &self.endpoint);
        command
    }

    /// Runs a command to its end.
    pub fn run<const N: usize>(&self, arguments: [&str; N]) -> Output {
        run(&mut self.command(arguments), "")
    }

    /// Runs a command with this text as its standard input.
    pub fn run_with<const N: usize>(&self, arguments: [&str; N], input: &str) -> Output {
        run(&mut self.command(arguments), input)
    }

    /// What a command prints that succeeds.
    pub fn text<const N: usize>(&self, arguments: [&str; N]) -> String {
        text(&self.run(arguments))
    }

    /// The document that a command prints with `-w json`.
    pub fn json<const N: usize>(&self, arguments: [&str; N]) -> Value {
        let mut command = self.command(arguments);
        serde_json::from_str(&text(&run(command.args(["-w", "json"]), ""))).expect("is one document")
    }

    /// Starts a command that goes on.
    pub fn spawn<const N: usize>(&self, arguments: [&str; N]) -> Process {
        spawn(&mut self.command(arguments))
    }
}

/// A command that knows nothing of the environment of the tests.
pub fn folkmoot<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Command {
    let mut command = Command::new(FOLKMOOT);
    command.env_clear().args(arguments);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Looks again and again until something is so, for half a minute at most.
pub fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !look() {
        assert!(Instant::now() < until, "never came: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a command that goes on.
pub fn spawn(command: &mut Command) -> Process {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Process::new(command.spawn().expect("the binary was built"))
}

/// Runs a command to its end.
pub fn run(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary was built");
    let mut stdin = child.stdin.take().expect("is piped");
    // A command that does not read its input may be gone before it is written.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the child is ours")
}

/// What a command printed that succeeded.
pub fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("is text")
}

/// The line with which a command failed.
pub fn failure(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).expect("is text");
    assert!(code != 1 || text.lines().count() == 1, "one line, not: {text}");
    text.trim_end().to_owned()
}
