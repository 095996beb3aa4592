//! Members: `member list`.

use clap::{Args, Subcommand};
use folkmoot_proto::etcdserverpb::MemberListRequest;

use super::Context;
use super::kv::Consistency;
use crate::failure::Result;
use crate::output::{json, plain};

/// Show the members of the cluster
#[derive(Args)]
pub struct MemberArgs {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Subcommand)]
enum MemberCommand {
    /// Show all members: number, state, name, peer URLs, client URLs, whether it is a learner
    #[command(after_help = "\
Examples:
  folkmoot member list
  folkmoot member list -w json | jq -r '.members[].clientURLs[]'
  folkmoot member list --consistency s             works without a leader, too")]
    List {
        /// l: what the cluster agrees on now; s: what this member has, possibly a little old
        #[arg(long, default_value = "l")]
        consistency: Consistency,
    },
}

impl MemberArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let MemberCommand::List { consistency } = self.command;
        let client = context.client().await?;
        let request = MemberListRequest { linearizable: consistency.is_linearizable() };
        let response = client.answer(client.cluster().member_list(request)).await?;
        context.printer.print(
            || plain::lines(response.members.iter().map(plain::member)),
            || json::member_list(&response),
        )
    }
}
