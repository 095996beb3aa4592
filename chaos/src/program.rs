//! The programs that are attacked, and their command lines.
//!
//! Both take etcd's flags, so everything else in this crate knows one kind of member.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

/// Which program runs as a member.
#[derive(Clone, Debug, PartialEq)]
pub enum Program {
    /// A real etcd.
    Etcd(PathBuf),
    /// Folkmoot, with its `serve` command.
    Folkmoot(PathBuf),
}

/// The two kinds, without a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A real etcd.
    Etcd,
    /// Folkmoot.
    Folkmoot,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        match text {
            "etcd" => Ok(Kind::Etcd),
            "folkmoot" => Ok(Kind::Folkmoot),
            _ => Err("it is folkmoot or etcd".into()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Etcd => "etcd",
            Kind::Folkmoot => "folkmoot",
        })
    }
}

/// What a member is started with.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it keeps its data.
    pub data_dir: &'a Path,
    /// Where clients reach it.
    pub client: SocketAddr,
    /// Where it listens for members.
    pub peer_listen: SocketAddr,
    /// Where members reach it.
    pub peer_advertise: SocketAddr,
    /// `name=url` of all members, itself included.
    pub initial_cluster: &'a str,
    /// Tells this cluster from others.
    pub token: &'a str,
    /// It joins a cluster that exists.
    pub existing: bool,
    /// More flags, as given by the user.
    pub more: &'a [String],
}

impl Program {
    /// The program of a kind at a path.
    pub fn new(kind: Kind, path: PathBuf) -> Program {
        match kind {
            Kind::Etcd => Program::Etcd(path),
            Kind::Folkmoot => Program::Folkmoot(path),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Program::Etcd(_) => Kind::Etcd,
            Program::Folkmoot(_) => Kind::Folkmoot,
        }
    }

    /// The command that runs a member.
    pub fn command(&self, start: &Start) -> Command {
        let mut command = match self {
            Program::Etcd(path) => Command::new(path),
            Program::Folkmoot(path) => {
                let mut command = Command::new(path);
                command.arg("serve");
                command
            }
        };
        // Settings of the caller's own cluster must not reach ours.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        let url = |address: SocketAddr| format!("http://{address}");
        command.args(["--name", start.name]).arg("--data-dir").arg(start.data_dir);
        command.args(["--listen-client-urls", &url(start.client)]);
        command.args(["--advertise-client-urls", &url(start.client)]);
        command.args(["--listen-peer-urls", &url(start.peer_listen)]);
        command.args(["--initial-advertise-peer-urls", &url(start.peer_advertise)]);
        command.args(["--initial-cluster", start.initial_cluster]);
        command.args(["--initial-cluster-token", start.token]);
        command.args(["--initial-cluster-state", if start.existing { "existing" } else { "new" }]);
        command.args(start.more).stdin(Stdio::null());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_take_the_same_flags() {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let start = Start {
            name: "m1",
            data_dir: Path::new("/d"),
            client: local(1),
            peer_listen: local(2),
            peer_advertise: local(3),
            initial_cluster: "m1=http://127.0.0.1:3",
            token: "t",
            existing: false,
            more: &[],
        };
        let words = |program: Program| -> Vec<String> {
            program.command(&start).get_args().map(|word| word.to_string_lossy().into_owned()).collect()
        };
        let etcd = words(Program::new(Kind::Etcd, "etcd".into()));
        let folkmoot = words(Program::new(Kind::Folkmoot, "folkmoot".into()));
        assert_eq!(folkmoot[0], "serve");
        assert_eq!(folkmoot[1..], etcd);
        assert!(etcd.join(" ").contains("--initial-advertise-peer-urls http://127.0.0.1:3"));
    }
}
