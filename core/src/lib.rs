//! One Folkmoot member as a deterministic state machine.
//!
//! The crate takes messages, the current time and bytes that were read, and returns what to
//! persist, send, apply and answer. It never opens a file or a socket, reads a clock, draws a
//! random number of its own or starts a thread: those come in through [`env`] and
//! [`node::Input`], and go out as [`node::Output`]. The server and the simulator both run the
//! same [`node::Node`].
//!
//! Rooms: [`mvcc`] (keys and their history), [`lease`], [`watch`], [`cluster`] (members, alarms)
//! never import each other; only [`apply`] and [`node`] join them. [`wal`] gives the log its
//! bytes, [`raft`] drives consensus, [`codec`] alone knows the wire messages.

pub mod apply;
pub mod cluster;
pub mod codec;
pub mod command;
pub mod env;
pub mod error;
pub mod event;
pub mod lease;
pub mod limits;
pub mod mutant;
pub mod mvcc;
pub mod node;
pub mod raft;
pub mod types;
pub mod wal;
pub mod watch;
