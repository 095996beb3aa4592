//! Commands that run while something is held: a lock, a leadership, a registration.
//!
//! Refuses: knowing what is held. A command shares our terminal and our process group, so Ctrl-C
//! reaches it by itself; what it starts on its own is its own matter.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::args::duration;
use crate::failure::{Failure, Result};
use crate::signals::StopRequests;

/// How a command that runs for us is treated.
#[derive(Args, Clone, Debug)]
pub struct ChildArgs {
    /// How long a command that was told to stop by SIGTERM may take until it gets SIGKILL
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub kill_after: Duration,
}

/// A command that runs.
pub struct Running(Child);

impl Running {
    /// Starts the command, with these variables on top of our own.
    ///
    /// # Errors
    /// Fails if there is no such program or it cannot be run; an empty command is an error of usage.
    pub fn start<'a>(
        command: &[OsString],
        variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
    ) -> Result<Self> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(Failure::usage("there is no command after --"));
        };
        let child = Command::new(program).args(arguments).envs(variables).spawn().map_err(|error| {
            Failure::new(format!("cannot run the command: {error}; command={}", program.to_string_lossy()))
        })?;
        Ok(Self(child))
    }

    /// Waits for its end.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.0.wait().await?)
    }

    /// Tells it to stop, by SIGTERM.
    pub fn tell_to_stop(&self) {
        let pid = self.0.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended in the meantime, which is what we want.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Tells it to stop, and ends it when it has not within this time.
    pub async fn stop(&mut self, kill_after: Duration) -> Result<ExitStatus> {
        self.tell_to_stop();
        match tokio::time::timeout(kill_after, self.wait()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    async fn kill(&mut self) -> Result<ExitStatus> {
        // An error means that it has ended.
        let _ = self.0.start_kill();
        self.wait().await
    }

    /// Lets it run until it ends, or until what it needs is lost: then it is ended, and the reason
    /// of the loss is the error. Requests to stop are passed on to it; what is held stays held until
    /// it has ended.
    ///
    /// The command's exit code becomes ours; a signal counts as 128 and its number, as in a shell.
    pub async fn run_while_held(
        mut self,
        lost: impl Future<Output = Failure>,
        stop_requests: &mut StopRequests,
        kill_after: Duration,
    ) -> Result<()> {
        let mut lost = std::pin::pin!(lost);
        loop {
            tokio::select! {
                status = self.wait() => return outcome(status?),
                failure = &mut lost => {
                    self.stop(kill_after).await?;
                    return Err(failure);
                }
                () = stop_requests.next() => self.tell_to_stop(),
            }
        }
    }
}

/// What becomes of an exit code.
pub fn outcome(status: ExitStatus) -> Result<()> {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    match code {
        0 => Ok(()),
        code => Err(Failure::passed_on(u8::try_from(code).unwrap_or(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_of_the_command_is_passed_on() {
        assert_eq!(outcome(ExitStatus::from_raw(0)), Ok(()));
        assert_eq!(outcome(ExitStatus::from_raw(3 << 8)), Err(Failure::passed_on(3)));
        assert_eq!(outcome(ExitStatus::from_raw(15)), Err(Failure::passed_on(143)));
    }

    #[tokio::test]
    async fn a_command_that_ignores_sigterm_is_killed() {
        let stubborn: Vec<OsString> =
            ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"].map(Into::into).into();
        let mut running = Running::start(&stubborn, []).expect("there is a shell");
        let status = running.stop(Duration::from_millis(300)).await.expect("it is ours");
        // Before the trap is set it may also have ended as it was told.
        assert!(matches!(status.signal(), Some(9 | 15)), "{status:?}");
    }
}
