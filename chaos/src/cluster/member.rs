//! One member: a process at its place, its directory and its log.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use crate::network::{Network, NodeIndex};
use crate::program::{Program, Start};

/// What a process is doing, as far as we made it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It is held by SIGSTOP.
    Paused,
    /// There is no process, because we ended it or never started it.
    Stopped,
    /// It ended by itself.
    Ended(ExitStatus),
}

/// A member.
pub struct Member {
    node: NodeIndex,
    /// Its name, which changes when it is replaced.
    pub name: String,
    /// It came into a cluster that existed.
    pub joins: bool,
    /// It has come in. Before that it may end because it cannot reach anybody, and is started again.
    pub joined: bool,
    /// `name=url` of all members it starts with.
    pub initial_cluster: String,
    /// Everything of this place is in here; it may be a mount.
    pub home: PathBuf,
    /// What the process prints, over all starts.
    log: PathBuf,
    process: Option<Child>,
    state: State,
    /// This process may end by itself: it was asked to, or put out.
    may_end: bool,
    /// So may every process here: the disk is full.
    disk_full: bool,
    /// Ends that nobody wanted.
    unwanted_ends: Vec<ExitStatus>,
}

impl Member {
    /// A member that was never started.
    pub fn new(node: NodeIndex, root: &Path) -> io::Result<Member> {
        let name = format!("m{}", node + 1);
        let home = root.join(&name);
        std::fs::create_dir(&home)?;
        let log = root.join(format!("{name}.log"));
        Ok(Member {
            node,
            name,
            joins: false,
            joined: true,
            initial_cluster: String::new(),
            home,
            log,
            process: None,
            state: State::Stopped,
            may_end: false,
            disk_full: false,
            unwanted_ends: Vec::new(),
        })
    }

    /// Where this member keeps its data; another member at this place keeps it elsewhere.
    pub fn data_dir(&self) -> PathBuf {
        self.home.join(&self.name)
    }

    /// Starts the process, if there is none.
    pub fn start(
        &mut self,
        program: &Program,
        network: &Network,
        token: &str,
        more: &[String],
    ) -> Result<(), String> {
        if matches!(self.state(), State::Running | State::Paused) {
            return Ok(());
        }
        let problem = |e: io::Error| format!("cannot start member name={}: {e}", self.name);
        let output = File::options().create(true).append(true).open(&self.log).map_err(problem)?;
        let place = network.place(self.node);
        let mut command = program.command(&Start {
            name: &self.name,
            data_dir: &self.data_dir(),
            client: place.client,
            peer_listen: place.peer_listen,
            peer_advertise: place.peer_advertise,
            initial_cluster: &self.initial_cluster,
            token,
            existing: self.joins,
            more,
        });
        command.stderr(output.try_clone().map_err(problem)?).stdout(output);
        self.process = Some(network.spawn(self.node, command).map_err(problem)?);
        self.state = State::Running;
        self.may_end = false;
        Ok(())
    }

    /// What the process does now.
    pub fn state(&mut self) -> State {
        if let Some(process) = &mut self.process
            && let Ok(Some(status)) = process.try_wait()
        {
            self.process = None;
            self.state = State::Ended(status);
            if !self.may_end && !self.disk_full && self.joined {
                self.unwanted_ends.push(status);
            }
        }
        self.state
    }

    /// From now until its next start nobody minds if the process ends by itself.
    pub fn may_end(&mut self) {
        self.may_end = true;
    }

    /// While its disk is full nobody minds either, however often it is started.
    pub fn disk_full(&mut self, full: bool) {
        // Whatever ended before belongs to the time before.
        self.state();
        self.disk_full = full;
    }

    /// All ends by itself that were not to be expected.
    pub fn unwanted_ends(&mut self) -> Vec<ExitStatus> {
        self.state();
        self.unwanted_ends.clone()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        if self.state() == State::Stopped {
            return;
        }
        if let Some(mut process) = self.process.take() {
            // An error means that the process has ended already, which is all that is wanted.
            let _ = process.kill();
            let _ = process.wait();
        }
        self.state = State::Stopped;
    }

    /// SIGTERM; whoever asked must look when it has ended, and call `kill` to have that taken as meant.
    pub fn terminate(&mut self) {
        self.may_end();
        self.signal(Signal::TERM);
    }

    /// SIGSTOP.
    pub fn pause(&mut self) {
        if self.state() == State::Running && self.signal(Signal::STOP) {
            self.state = State::Paused;
        }
    }

    /// SIGCONT; false if it was not held.
    pub fn resume(&mut self) -> bool {
        let resumed = self.state() == State::Paused && self.signal(Signal::CONT);
        if resumed {
            self.state = State::Running;
        }
        resumed
    }

    fn signal(&mut self, signal: Signal) -> bool {
        // A child that was not waited for keeps its number, so this cannot hit another process.
        let Some(process) = &self.process else { return false };
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Forgets the data of this member for good.
    pub fn wipe(&mut self) -> io::Result<()> {
        match std::fs::remove_dir_all(self.data_dir()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The last lines the process printed.
    pub fn log_tail(&self, lines_max: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(lines_max)..].join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
