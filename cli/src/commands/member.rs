//! Members: `member list`, `add`, `promote`, `update`, `remove`.

use clap::{Args, Subcommand};
use folkmoot_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, ResponseHeader,
};

use super::kv::Consistency;
use super::{Context, member_id};
use crate::client::split_endpoints;
use crate::failure::Result;
use crate::output::{json, plain};

/// Show and change the members of the cluster
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
    /// Announce a new member, and show how it is to be started
    ///
    /// The cluster knows it from then on, and a voter counts for the quorum before it has started:
    /// add it as a learner first, and promote it when it has caught up.
    #[command(after_help = "\
Examples:
  folkmoot member add m4 --peer-urls http://10.0.0.4:2380 --learner
  A member whose disk was lost comes back as a new one:
    folkmoot member remove 8211f1d0f64f3269
    folkmoot member add m3 --peer-urls http://10.0.0.3:2380")]
    Add {
        /// The name with which it will be started
        name: String,
        /// Where the other members will reach it, separated by commas
        #[arg(long, value_name = "URLS")]
        peer_urls: String,
        /// It only listens until it is promoted
        #[arg(long)]
        learner: bool,
    },
    /// Make a learner that has caught up a voter
    #[command(after_help = "\
Examples:
  folkmoot member promote 8211f1d0f64f3269")]
    Promote {
        /// Which member, a hexadecimal number
        #[arg(value_parser = member_id)]
        id: u64,
    },
    /// Tell the others where they reach a member from now on
    #[command(after_help = "\
Examples:
  folkmoot member update 8211f1d0f64f3269 --peer-urls http://10.0.0.9:2380")]
    Update {
        /// Which member, a hexadecimal number
        #[arg(value_parser = member_id)]
        id: u64,
        /// Its new peer URLs, separated by commas
        #[arg(long, value_name = "URLS")]
        peer_urls: String,
    },
    /// Remove a member for ever; it stops by itself
    #[command(after_help = "\
Examples:
  folkmoot member remove 8211f1d0f64f3269")]
    Remove {
        /// Which member, a hexadecimal number
        #[arg(value_parser = member_id)]
        id: u64,
    },
}

impl MemberArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let client = context.client().await?;
        let mut cluster = client.cluster();
        match self.command {
            MemberCommand::List { consistency } => {
                let request = MemberListRequest { linearizable: consistency.is_linearizable() };
                let response = client.answer(cluster.member_list(request)).await?;
                context.printer.print(
                    || plain::lines(response.members.iter().map(plain::member)),
                    || json::members(response.header.as_ref(), None, &response.members),
                )
            }
            MemberCommand::Add { name, peer_urls, learner } => {
                let peer_urls = split_endpoints(&peer_urls);
                let request = MemberAddRequest { peer_urls, is_learner: learner };
                let response = client.answer(cluster.member_add(request)).await?;
                let added = response.member.clone().unwrap_or_default();
                context.printer.print(
                    || plain::lines(how_to_start(&name, &added, &response.members, response.header.as_ref())),
                    || json::members(response.header.as_ref(), Some(&added), &response.members),
                )
            }
            MemberCommand::Promote { id } => {
                let response = client.answer(cluster.member_promote(MemberPromoteRequest { id })).await?;
                told(context, id, "promoted in", response.header.as_ref(), &response.members)
            }
            MemberCommand::Update { id, peer_urls } => {
                let request = MemberUpdateRequest { id, peer_urls: split_endpoints(&peer_urls) };
                let response = client.answer(cluster.member_update(request)).await?;
                told(context, id, "updated in", response.header.as_ref(), &response.members)
            }
            MemberCommand::Remove { id } => {
                let response = client.answer(cluster.member_remove(MemberRemoveRequest { id })).await?;
                told(context, id, "removed from", response.header.as_ref(), &response.members)
            }
        }
    }
}

/// etcdctl's sentence about a change.
fn sentence(id: u64, what: &str, header: Option<&ResponseHeader>) -> String {
    let cluster = header.map_or(0, |header| header.cluster_id);
    format!("Member {id:16x} {what} cluster {cluster:16x}")
}

fn told(
    context: &Context,
    id: u64,
    what: &str,
    header: Option<&ResponseHeader>,
    members: &[Member],
) -> Result<()> {
    context
        .printer
        .print(|| plain::lines([sentence(id, what, header)]), || json::members(header, None, members))
}

/// What was done, and the command with which the new member is started.
fn how_to_start(
    name: &str,
    added: &Member,
    members: &[Member],
    header: Option<&ResponseHeader>,
) -> Vec<String> {
    let all = members.iter().flat_map(|member| {
        let name = if member.id == added.id { name } else { &member.name };
        member.peer_urls.iter().map(move |url| format!("{name}={url}"))
    });
    vec![
        sentence(added.id, "added to", header),
        String::new(),
        "Start it with an empty data directory, and with its own client URLs:".to_owned(),
        format!(
            "  folkmoot serve --name {name} --initial-advertise-peer-urls {urls} --listen-peer-urls {urls} \
             --initial-cluster {all} --initial-cluster-state existing",
            urls = added.peer_urls.join(","),
            all = all.collect::<Vec<_>>().join(","),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_member_is_told_all_members_by_name() {
        let member = |id, name: &str, url: &str| Member {
            id,
            name: name.into(),
            peer_urls: vec![url.into()],
            ..Member::default()
        };
        let members = [member(1, "m1", "http://a:1"), member(2, "", "http://b:2")];
        let lines = how_to_start("m2", &members[1], &members, None);
        assert!(lines[0].starts_with("Member                2 added to cluster"), "{lines:?}");
        assert!(lines[3].contains("--initial-cluster m1=http://a:1,m2=http://b:2 "), "{lines:?}");
    }
}
