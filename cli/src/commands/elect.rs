//! Elections: `elect`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use clap::Args;
use folkmoot_client::{Client, ErrorKind, Get, KeyValue, Leader, LeaderEvent, Session};
use folkmoot_proto::etcdserverpb::RangeResponse;

use super::Context;
use super::lock::{SessionArgs, key_of, lost, within};
use crate::child::{ChildArgs, Running};
use crate::failure::{Failure, Result};
use crate::output::plain::Show;
use crate::output::{json, plain};
use crate::signals::StopRequests;
use crate::wire;

/// The key of the leadership.
const KEY_VARIABLE: &str = "FOLKMOOT_LEADER_KEY";
/// A number that grows with every leader: the fencing token.
const REVISION_VARIABLE: &str = "FOLKMOOT_LEADER_REV";

/// Stand for election, or look on with -l
///
/// Waits until it leads, prints the key and the value of the leadership, and leads until Ctrl-C.
/// With a command: runs it while it leads, without printing anything, and ends with the command's
/// exit code. The command finds the leadership's key in FOLKMOOT_LEADER_KEY and the fencing token in
/// FOLKMOOT_LEADER_REV: a number that grows with every leader. If the leadership is lost, the command
/// is told to stop by SIGTERM, and ended by SIGKILL if it does not.
#[derive(Args)]
#[command(after_help = "\
Examples:
  folkmoot elect scheduler host-a                  leads as host-a until Ctrl-C
  folkmoot elect scheduler host-a -- ./scheduler   runs it while it leads
  folkmoot elect -l scheduler                      shows every leader
  folkmoot elect -l scheduler -w json              a JSON document for each")]
pub struct ElectArgs {
    /// Name of the election
    name: String,
    /// What the leader says of itself, mostly where to find it
    #[arg(required_unless_present = "listen", conflicts_with = "listen")]
    value: Option<OsString>,
    /// The command and its arguments, after --
    #[arg(last = true, conflicts_with = "listen")]
    command: Vec<OsString>,
    /// Look on instead of standing for election
    #[arg(short, long)]
    listen: bool,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    child: ChildArgs,
}

impl ElectArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let mut stop_requests = StopRequests::listen()?;
        let Some(value) = self.value.clone() else {
            return tokio::select! {
                end = observe(context, &self.name) => end,
                () = stop_requests.next() => Ok(()),
            };
        };
        let open = async {
            let store = context.store().await?;
            self.session.open(&store).await
        };
        let session = tokio::select! {
            session = open => session?,
            () = stop_requests.next() => return Err(interrupted()),
        };
        let outcome = self.lead(context, &session, &value.into_vec(), &mut stop_requests).await;
        // The lease takes the key with it, even where resigning failed or was not reached.
        let closed = session.close().await;
        outcome.and(Ok(closed?))
    }

    async fn lead(
        &self,
        context: &Context,
        session: &Session,
        value: &[u8],
        stop_requests: &mut StopRequests,
    ) -> Result<()> {
        let election = session.election(&self.name);
        let leadership = tokio::select! {
            leadership = election.campaign(value) => leadership?,
            () = stop_requests.next() => return Err(interrupted()),
        };
        let outcome = match self.command.is_empty() {
            true => {
                let held = key_of(session.client(), leadership.key()).await?;
                context.printer.print(|| plain::range(&held, Show::Both), || json::range(&held))?;
                tokio::select! {
                    why = leadership.lost() => Err(lost("leadership", &why)),
                    () = stop_requests.next() => Ok(()),
                }
            }
            false => {
                let revision = OsString::from(leadership.token().revision.to_string());
                let key = (KEY_VARIABLE, OsStr::from_bytes(leadership.key()));
                let lost = async { lost("leadership", &leadership.lost().await) };
                Running::start(&self.command, [key, (REVISION_VARIABLE, &revision)])?
                    .run_while_held(lost, stop_requests, self.child.kill_after)
                    .await
            }
        };
        if leadership.check().is_ok() {
            let resigned = within(context, "the leadership", leadership.resign()).await;
            return outcome.and(resigned);
        }
        outcome
    }
}

fn interrupted() -> Failure {
    Failure::new("interrupted before the election was won")
}

/// Shows every leader. That nobody leads is not shown, as in etcdctl.
async fn observe(context: &Context, name: &str) -> Result<()> {
    let store = context.store().await?;
    let mut observer = store.observe(name).await?;
    loop {
        let leader = match observer.next().await? {
            LeaderEvent::Elected(leader) | LeaderEvent::Updated(leader) => leader,
            LeaderEvent::Vacant { .. } => continue,
        };
        let seen = match context.printer.is_json() {
            true => in_full(&store, leader).await?,
            false => as_range(leader),
        };
        context.printer.print(|| plain::range(&seen, Show::Both), || json::range(&seen))?;
    }
}

/// The leader's key as it was then, with what is printed of keys and is not told of leaders.
async fn in_full(store: &Client, leader: Leader) -> Result<RangeResponse> {
    match store.get(Get::new(leader.key.clone()).at_revision(leader.revision)).await {
        Ok(answer) => Ok(wire::range_response(answer)),
        // Whoever looks on slowly may find that history gone.
        Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => Ok(as_range(leader)),
        Err(error) => Err(error.into()),
    }
}

/// A leader looks like a key that was read, as in etcdctl.
fn as_range(leader: Leader) -> RangeResponse {
    let kv = KeyValue {
        key: leader.key,
        value: leader.value,
        create_revision: leader.token,
        mod_revision: leader.revision,
        ..KeyValue::default()
    };
    RangeResponse { kvs: vec![wire::key_value(kv)], count: 1, ..RangeResponse::default() }
}
