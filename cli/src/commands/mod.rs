//! The commands: one file for each subject, each with its flags, what it asks and what it prints.
//!
//! A command asks the client library, or one member, and prints the answer. Refuses: deciding
//! anything that the server or a recipe of the library should decide.

use clap::Subcommand;

use crate::client::{Client, ConnectOptions};
use crate::failure::Result;
use crate::output::Printer;

pub mod config;
pub mod elect;
pub mod endpoint;
pub mod kv;
pub mod lease;
pub mod local;
pub mod lock;
pub mod maintenance;
pub mod member;
pub mod registry;
pub mod snapshot;
pub mod txn;
pub mod watch;

/// What commands work with.
pub struct Context {
    /// How to reach the members.
    pub connect: ConnectOptions,
    /// Where answers go.
    pub printer: Printer,
}

impl Context {
    /// The client library, connected to the store.
    pub async fn store(&self) -> Result<folkmoot_client::Client> {
        self.connect.store().await
    }

    /// Connects to the first member that can be reached, to ask it and no other.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.connect).await
    }
}

/// The commands that speak to members.
#[derive(Subcommand)]
pub enum ClientCommand {
    Put(kv::PutArgs),
    Get(kv::GetArgs),
    Del(kv::DelArgs),
    Txn(txn::TxnArgs),
    Compact(kv::CompactArgs),
    Watch(watch::WatchArgs),
    Lease(lease::LeaseArgs),
    Lock(lock::LockArgs),
    Elect(elect::ElectArgs),
    Registry(registry::RegistryArgs),
    Config(config::ConfigArgs),
    Member(member::MemberArgs),
    Endpoint(endpoint::EndpointArgs),
    Alarm(maintenance::AlarmArgs),
    Defrag(maintenance::DefragArgs),
    MoveLeader(maintenance::MoveLeaderArgs),
    Snapshot(snapshot::SnapshotArgs),
}

impl ClientCommand {
    /// Runs the command to its end.
    pub async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Put(args) => args.run(context).await,
            Self::Get(args) => args.run(context).await,
            Self::Del(args) => args.run(context).await,
            Self::Txn(args) => args.run(context).await,
            Self::Compact(args) => args.run(context).await,
            Self::Watch(args) => args.run(context).await,
            Self::Lease(args) => args.run(context).await,
            Self::Lock(args) => args.run(context).await,
            Self::Elect(args) => args.run(context).await,
            Self::Registry(args) => args.run(context).await,
            Self::Config(args) => args.run(context).await,
            Self::Member(args) => args.run(context).await,
            Self::Endpoint(args) => args.run(context).await,
            Self::Alarm(args) => args.run(context).await,
            Self::Defrag(args) => args.run(context).await,
            Self::MoveLeader(args) => args.run(context).await,
            Self::Snapshot(args) => args.run(context).await,
        }
    }
}

/// Reads the number of a lease, which people see in hexadecimal.
pub fn lease_id(text: &str) -> std::result::Result<i64, String> {
    i64::from_str_radix(text, 16)
        .map_err(|_| "a lease is a hexadecimal number, as printed by lease grant".into())
}

/// Reads the number of a member, which people see in hexadecimal.
pub fn member_id(text: &str) -> std::result::Result<u64, String> {
    u64::from_str_radix(text, 16)
        .map_err(|_| "a member is a hexadecimal number, as printed by member list".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_and_member_numbers_are_hexadecimal() {
        assert_eq!(lease_id("390da2025f938412"), Ok(0x390d_a202_5f93_8412));
        assert_eq!(lease_id("-1"), Ok(-1));
        assert_eq!(member_id("bdae9bbc11dd390d"), Ok(0xbdae_9bbc_11dd_390d));
        lease_id("lease").expect_err("is no number");
        member_id("-1").expect_err("is no number of a member");
    }
}
