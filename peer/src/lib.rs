//! The transport between the members of a cluster: messages, snapshots, and the few questions that
//! a server may ask before it is a member.
//!
//! Messages are opaque bytes and snapshots are directories of files: the crate knows no consensus
//! and no storage engine. It decides who may speak (the membership it was last told), not what is
//! said.
//!
//! Each pair of members has two connections, one for each direction: a member dials the others and
//! sends; what it accepts it reads. A snapshot has a connection of its own.
//!
//! Invariants:
//! - From one connection messages arrive in order, each once, unharmed, or not at all. A message
//!   may be lost with its connection; it is never repeated.
//! - Only a current member with its own disk is listened to, and only spoken to.
//! - Whatever arrives, nothing panics, and memory grows only with bytes that arrived, up to a
//!   bound.
//! - Sending never blocks. What does not fit is dropped and reported.

mod backoff;
mod codec;
mod config;
mod connection;
mod dial;
mod event;
mod frame;
mod handle;
mod handshake;
#[cfg(test)]
mod hostile_tests;
mod inbound;
mod listener;
mod outbound;
mod outbox;
mod request;
mod roster;
mod shared;
mod snapshot;
mod stream;
mod tasks;
mod url;
mod warnings;

pub use codec::Malformed;
pub use config::{Identity, PeerConfig, StartError};
pub use dial::DialError;
pub use event::{Event, Flow, PeerMember, SnapshotToSend};
pub use handle::PeerHandle;
pub use handshake::{BlockError, ClusterInfo, MemberInfo, ProbeAnswer, Refusal};
pub use request::{FetchError, fetch_cluster, probe};
pub use snapshot::SnapshotError;
pub use url::{PeerUrl, UrlError};
