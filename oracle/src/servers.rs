//! Real server processes on free loopback ports, each with a data directory of its own.
//!
//! A server dies with its handle: dropping it kills the process it started, and no other.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use crate::client::Client;

/// How long a server may take from its start until it answers.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Which program to start.
#[derive(Clone, Debug, PartialEq)]
pub enum Program {
    /// A real etcd.
    Etcd(PathBuf),
    /// Folkmoot, with its `serve` command.
    Folkmoot(PathBuf),
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A server that is already running; its state is not ours to reset.
    Url(String),
    /// A server that the oracle starts and stops.
    Program(Program),
}

impl FromStr for Target {
    type Err = String;

    /// `http://HOST:PORT`, `etcd`, `etcd:PATH` or `folkmoot:PATH`.
    fn from_str(text: &str) -> Result<Target, String> {
        let program = match text.split_once(':') {
            Some(("http" | "https", _)) => return Ok(Target::Url(text.to_owned())),
            Some(("etcd", path)) => Program::Etcd(path.into()),
            Some(("folkmoot", path)) => Program::Folkmoot(path.into()),
            None if text == "etcd" => Program::Etcd("/usr/bin/etcd".into()),
            _ => return Err(format!("target is not a url, etcd[:PATH] or folkmoot:PATH target={text}")),
        };
        Ok(Target::Program(program))
    }
}

/// Where data directories go: memory if there is any, since most comparisons are not about disks.
pub fn fast_root() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A running server.
pub struct Server {
    process: Child,
    /// Where clients connect.
    pub url: String,
    log: PathBuf,
}

impl Server {
    /// Starts a program on a data directory and returns without waiting for it. What it prints goes
    /// to a file beside the data directory.
    pub fn start(program: &Program, data_dir: &Path) -> Result<Server, String> {
        let problem = |e: std::io::Error| format!("cannot start server program={program:?}: {e}");
        let client = format!("http://127.0.0.1:{}", free_port().map_err(problem)?);
        let peer = format!("http://127.0.0.1:{}", free_port().map_err(problem)?);
        let log = data_dir.with_extension("log");
        let output = File::options().create(true).append(true).open(&log).map_err(problem)?;
        let mut command = match program {
            Program::Etcd(path) => Command::new(path),
            Program::Folkmoot(path) => {
                let mut command = Command::new(path);
                command.arg("serve");
                command
            }
        };
        command.arg("--data-dir").arg(data_dir);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        command.stdin(Stdio::null()).stderr(output.try_clone().map_err(problem)?).stdout(output);
        Ok(Server { process: command.spawn().map_err(problem)?, url: client, log })
    }

    /// Starts a server and waits until it answers.
    pub async fn start_ready(program: &Program, data_dir: &Path) -> Result<Server, String> {
        let mut problem = String::new();
        // Another process may take the chosen port first, so a failed start gets a second chance.
        for _ in 0..3 {
            let mut server = Server::start(program, data_dir)?;
            match server.ready().await {
                Ok(()) => return Ok(server),
                Err(e) => problem = e,
            }
        }
        Err(problem)
    }

    /// Waits until the server answers; fails at once if the process ends first.
    pub async fn ready(&mut self) -> Result<(), String> {
        let url = self.url.clone();
        let ready = Client::wait_ready(&url, START_PATIENCE);
        tokio::pin!(ready);
        loop {
            tokio::select! {
                result = &mut ready => return result,
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    if let Ok(Some(status)) = self.process.try_wait() {
                        let tail = self.log_tail();
                        return Err(format!("server ended during its start status={status} log:\n{tail}"));
                    }
                }
            }
        }
    }

    /// The process id, for reports.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        // An error means that the process has ended already, which is all that is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// The last lines the server printed.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_url_or_a_program() {
        assert_eq!("http://h:1".parse(), Ok(Target::Url("http://h:1".into())));
        assert_eq!("etcd:/x/etcd".parse(), Ok(Target::Program(Program::Etcd("/x/etcd".into()))));
        assert_eq!("folkmoot:/f".parse(), Ok(Target::Program(Program::Folkmoot("/f".into()))));
        assert!("ftp".parse::<Target>().is_err());
    }
}
