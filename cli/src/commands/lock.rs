//! Locks: `lock`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use bytes::Bytes;
use clap::Args;
use folkmoot_proto::etcdserverpb::{RangeRequest, RangeResponse};
use folkmoot_proto::v3lockpb::{LockRequest, UnlockRequest};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::Context;
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::interval::argument_bytes;
use crate::output::{json, plain};
use crate::session::Session;
use crate::signals::StopRequests;

/// The key that exists as long as the lock is held.
const KEY_VARIABLE: &str = "FOLKMOOT_LOCK_KEY";
/// Its create revision. Every later holder has a larger one, so whatever the lock protects can
/// refuse a holder that was too slow to notice that it had lost the lock (a fencing token).
const REVISION_VARIABLE: &str = "FOLKMOOT_LOCK_REV";

/// Hold a lock, alone or while a command runs
///
/// Without a command: prints the key of the lock and holds it until Ctrl-C. With a command: runs it
/// while the lock is held, and ends with the command's exit code. The command finds the lock's key
/// in FOLKMOOT_LOCK_KEY and the fencing token in FOLKMOOT_LOCK_REV: a number that grows with every
/// holder. If the lock is lost while the command runs, the command is told to stop by SIGTERM.
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot lock deploy                             holds it until Ctrl-C
  folkmoot lock deploy ./deploy.sh --all           runs while nobody else can
  folkmoot lock --ttl 5 deploy sh -c 'echo $FOLKMOOT_LOCK_REV'
                                                   others wait at most 5 s")]
pub struct LockArgs {
    /// Name of the lock
    name: OsString,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
    /// Seconds until others get the lock if this process vanishes
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    ttl: i64,
}

impl LockArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let client = context.client().await?;
        let mut stop_requests = StopRequests::listen()?;
        let session = Session::open(&client, self.ttl).await?;
        let outcome = self.hold(context, &client, &session, &mut stop_requests).await;
        // The lease takes the key with it, even where unlocking failed or was not reached.
        let closed = session.close().await;
        outcome.and(closed)
    }

    async fn hold(
        &self,
        context: &Context,
        client: &Client,
        session: &Session,
        stop_requests: &mut StopRequests,
    ) -> Result<()> {
        let name = argument_bytes(self.name.clone());
        let mut lock_stub = client.lock();
        let waiting = lock_stub.lock(LockRequest { name, lease: session.lease() });
        let key = tokio::select! {
            response = waiting => response?.into_inner().key,
            () = session.lost() => return Err(Failure::new("the lease ended while waiting for the lock")),
            () = stop_requests.next() => return Err(Failure::new("interrupted while waiting for the lock")),
        };
        let held = key_of(client, &key).await?;
        let outcome = match self.command.split_first() {
            None => {
                context.printer.print(|| plain::lines([&key]), || json::range(&held))?;
                tokio::select! {
                    () = session.lost() => Err(lock_lost()),
                    () = stop_requests.next() => Ok(()),
                }
            }
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command
                    .args(arguments)
                    .env(KEY_VARIABLE, std::ffi::OsStr::from_bytes(&key))
                    .env(REVISION_VARIABLE, create_revision(&held).to_string());
                run_command(command, program, session, stop_requests).await
            }
        };
        // What is lost needs no unlocking, and the server may not be there to do it.
        if !session.is_lost() {
            let unlocked = client.answer(client.lock().unlock(UnlockRequest { key })).await;
            return outcome.and(unlocked.map(drop));
        }
        outcome
    }
}

fn lock_lost() -> Failure {
    Failure::new("the lock was lost: its lease could not be kept alive")
}

/// Reads the key that stands for a held lock or leadership.
pub async fn key_of(client: &Client, key: &Bytes) -> Result<RangeResponse> {
    let request = RangeRequest { key: key.clone(), ..RangeRequest::default() };
    let response = client.answer(client.kv().range(request)).await?;
    match response.kvs.is_empty() {
        true => Err(Failure::new(format!(
            "what was won is already lost: the key is gone; key={}",
            key.escape_ascii()
        ))),
        false => Ok(response),
    }
}

fn create_revision(response: &RangeResponse) -> i64 {
    response.kvs.first().map_or(0, |kv| kv.create_revision)
}

async fn run_command(
    mut command: Command,
    program: &OsString,
    session: &Session,
    stop_requests: &mut StopRequests,
) -> Result<()> {
    let mut child = command.spawn().map_err(|error| {
        Failure::new(format!("cannot run the command: {error}; command={}", program.to_string_lossy()))
    })?;
    let mut lost = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = session.lost(), if !lost => {
                lost = true;
                tell_to_stop(&child);
            }
            // Ctrl-C reaches the command by itself, SIGTERM does not; telling it twice does no harm.
            () = stop_requests.next() => tell_to_stop(&child),
        }
    };
    match lost {
        true => Err(lock_lost()),
        false => outcome(status),
    }
}

fn tell_to_stop(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in the meantime, which is what we want.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// The command's exit code becomes ours; a signal counts as 128 and its number, as in a shell.
fn outcome(status: ExitStatus) -> Result<()> {
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
}
