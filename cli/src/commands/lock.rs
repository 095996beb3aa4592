//! Locks: `lock`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use clap::Args;
use folkmoot_client::{Client, Error, Get, Guard, Session};
use folkmoot_proto::etcdserverpb::RangeResponse;

use super::Context;
use crate::args::duration;
use crate::child::{ChildArgs, Running};
use crate::failure::{Failure, Result};
use crate::output::{json, plain};
use crate::signals::StopRequests;
use crate::wire;

/// The key that exists as long as the lock is held; the second is etcdctl's name for it.
const KEY_VARIABLES: [&str; 2] = ["FOLKMOOT_LOCK_KEY", "ETCD_LOCK_KEY"];
/// Its create revision. Every later holder has a larger one, so whatever the lock protects can
/// refuse a holder that was too slow to notice that it had lost the lock (a fencing token).
const REVISION_VARIABLES: [&str; 2] = ["FOLKMOOT_LOCK_REV", "ETCD_LOCK_REV"];

/// Hold a lock, alone or while a command runs
///
/// Without a command: prints the key of the lock and holds it until Ctrl-C. With a command: runs it
/// while the lock is held, and ends with the command's exit code. The command finds the lock's key
/// in FOLKMOOT_LOCK_KEY and the fencing token in FOLKMOOT_LOCK_REV: a number that grows with every
/// holder. If the lock is lost while the command runs, the command is told to stop by SIGTERM, and
/// ended by SIGKILL if it does not. Ctrl-C and SIGTERM are passed on to the command, and the lock is
/// given back when it has ended.
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot lock deploy                             holds it until Ctrl-C
  folkmoot lock deploy ./deploy.sh --all           runs while nobody else can
  folkmoot lock --try deploy ./deploy.sh           or fails if it is taken
  folkmoot lock --timeout 1m deploy ./deploy.sh    waits a minute at most
  folkmoot lock --ttl 5 deploy sh -c 'echo $FOLKMOOT_LOCK_REV'
                                                   others wait at most 5 s")]
pub struct LockArgs {
    /// Name of the lock
    name: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
    #[command(flatten)]
    session: SessionArgs,
    /// Wait no longer than this for the lock; fail with exit code 1 after it
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "no_wait")]
    timeout: Option<Duration>,
    /// Do not wait: fail with exit code 1 if somebody else has the lock
    #[arg(id = "no_wait", long = "try")]
    no_wait: bool,
    #[command(flatten)]
    child: ChildArgs,
}

/// How long what is held outlives us.
#[derive(Args)]
pub struct SessionArgs {
    /// Seconds until others have their turn if this process vanishes
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    ttl: u64,
}

impl SessionArgs {
    /// Opens a session. A short one is allowed: somebody has typed it.
    pub async fn open(&self, store: &Client) -> Result<Session> {
        Ok(store.session().ttl(Duration::from_secs(self.ttl)).allow_short_ttl().open().await?)
    }
}

impl LockArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let mut stop_requests = StopRequests::listen()?;
        let open = async {
            let store = context.store().await?;
            self.session.open(&store).await
        };
        let session = tokio::select! {
            session = open => session?,
            () = stop_requests.next() => return Err(interrupted()),
        };
        let outcome = self.hold(context, &session, &mut stop_requests).await;
        // The lease takes the key with it, even where unlocking failed or was not reached.
        let closed = session.close().await;
        outcome.and(Ok(closed?))
    }

    async fn hold(
        &self,
        context: &Context,
        session: &Session,
        stop_requests: &mut StopRequests,
    ) -> Result<()> {
        let guard = tokio::select! {
            guard = self.lock(session) => guard?,
            () = stop_requests.next() => return Err(interrupted()),
        };
        let outcome = match self.command.is_empty() {
            true => {
                let held = key_of(session.client(), guard.key()).await?;
                context.printer.print(|| plain::lines([guard.key()]), || json::range(&held))?;
                tokio::select! {
                    why = guard.lost() => Err(lost("lock", &why)),
                    () = stop_requests.next() => Ok(()),
                }
            }
            false => {
                let revision = OsString::from(guard.token().revision.to_string());
                let key = KEY_VARIABLES.map(|name| (name, OsStr::from_bytes(guard.key())));
                let variables = key.into_iter().chain(REVISION_VARIABLES.map(|name| (name, &*revision)));
                let lost = async { lost("lock", &guard.lost().await) };
                Running::start(&self.command, variables)?
                    .run_while_held(lost, stop_requests, self.child.kill_after)
                    .await
            }
        };
        // What is lost needs no unlocking, and the server may not be there to do it.
        if guard.check().is_ok() {
            let released = within(context, "the lock", guard.unlock()).await;
            return outcome.and(released);
        }
        outcome
    }

    async fn lock(&self, session: &Session) -> Result<Guard> {
        let mutex = session.mutex(&self.name);
        match (self.no_wait, self.timeout) {
            (true, _) => Ok(mutex.try_lock().await?),
            (false, None) => Ok(mutex.lock().await?),
            (false, Some(timeout)) => match tokio::time::timeout(timeout, mutex.lock()).await {
                Ok(guard) => Ok(guard?),
                Err(_) => Err(Failure::new(format!("the lock was not free within --timeout={timeout:?}"))),
            },
        }
    }
}

fn interrupted() -> Failure {
    Failure::new("interrupted while waiting for the lock")
}

/// Why what was held is held no more.
pub fn lost(what: &str, why: &Error) -> Failure {
    Failure::new(format!("the {what} was lost: {}", why.message()))
}

/// Gives something back, but takes no longer for it than `--command-timeout`: the lease does it then.
pub async fn within(
    context: &Context,
    what: &str,
    release: impl Future<Output = std::result::Result<bool, Error>>,
) -> Result<()> {
    let timeout = context.connect.command_timeout;
    match tokio::time::timeout(timeout, release).await {
        Ok(released) => Ok(released.map(drop)?),
        Err(_) => {
            Err(Failure::new(format!("{what} was not given back within --command-timeout={timeout:?}")))
        }
    }
}

/// Reads the key that stands for a held lock or leadership.
pub async fn key_of(store: &Client, key: &[u8]) -> Result<RangeResponse> {
    let answer = store.get(Get::new(key)).await?;
    match answer.kvs.is_empty() {
        true => Err(Failure::new(format!(
            "what was won is already lost: the key is gone; key={}",
            key.escape_ascii()
        ))),
        false => Ok(wire::range_response(answer)),
    }
}
