//! The services of the etcd v3 API, one file each: check, convert, ask the member, convert back.
//!
//! A service knows [`crate::node::NodeHandle`] and nothing below it. Refuses: keeping state of
//! its own between calls; deciding what only the state machine may decide.

mod auth;
mod cluster;
mod election;
mod header;
mod health;
mod interceptor;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod queue;
mod quota;
mod recipe;
mod snapshot;
mod status;
mod watch;

pub use auth::Auth;
pub use cluster::Cluster;
pub use election::Election;
pub use header::{bare_header, header};
pub use health::Health;
pub use interceptor::{check_call, requires_leader};
pub use kv::Kv;
pub use lease::Lease;
pub use lock::Lock;
pub use maintenance::Maintenance;
pub use queue::ResponseStream;
pub use status::{status, stream_status};
pub use watch::{Watch, WatchCodec};
