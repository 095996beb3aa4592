//! A thread in whose place members live.
//!
//! A process inherits the network namespace of the thread that starts it, and asks the kernel to die
//! with that thread. So each member has one thread that lives as long as the cluster, and starts its
//! processes there. Without namespaces the thread serves the second purpose alone.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::process::{Signal, set_parent_process_death_signal};

type Job = Box<dyn FnOnce() + Send>;

/// The thread.
pub struct Host {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts the thread; `enter` runs in it first, and may move it into a namespace.
    pub fn start<T: Send + 'static>(
        name: &str,
        enter: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<(Host, T), String> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (entered, outcome) = mpsc::channel();
        let body = move || {
            let result = enter();
            let goes_on = result.is_ok();
            if entered.send(result).is_ok() && goes_on {
                queue.into_iter().for_each(|job| job());
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        let thread = thread.map_err(|e| format!("cannot start a thread for {name}: {e}"))?;
        let result = outcome.recv().map_err(|_| format!("the thread of {name} ended at once"))??;
        Ok((Host { jobs: Some(jobs), thread: Some(thread) }, result))
    }

    /// Starts a process there. It is killed when the thread ends, even if this program is killed.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let (started, outcome) = mpsc::channel();
        let job = move || {
            // SAFETY: between fork and exec there is one system call and nothing else.
            unsafe {
                command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
            }
            // Whoever waits for this cannot have gone away.
            let _ = started.send(command.spawn());
        };
        let gone = || io::Error::other("the thread that starts processes is gone");
        self.jobs.as_ref().ok_or_else(gone)?.send(Box::new(job)).map_err(|_| gone())?;
        outcome.recv().map_err(|_| gone())?
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by whoever asked for the job.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_end_with_their_host() {
        let (host, ()) = Host::start("host", || Ok(())).expect("a thread");
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut child = host.spawn(command).expect("a process");
        assert!(child.try_wait().expect("a child").is_none());
        drop(host);
        let status = child.wait().expect("a child");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    #[test]
    fn a_host_that_cannot_enter_says_why() {
        let result = Host::start("host", || Err::<(), _>("no".to_owned()));
        assert_eq!(result.err().as_deref(), Some("no"));
    }
}
