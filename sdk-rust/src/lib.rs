//! A client for Folkmoot, and for any other store with the etcd v3 API.
//!
//! Beside the plain calls — [keys and values](kv), leases, [watches](watch), members, maintenance,
//! auth — it has the things that services need, written once and for all failures:
//!
//! - [`Session`](session): a lease that is kept alive, and the certainty whether it is;
//! - [`Mutex`](recipes::mutex) and [`Election`](recipes::election): one at a time, with a token that
//!   a paused process cannot misuse;
//! - [`Registry`](recipes::registry): services that find each other, with balancing in the client;
//! - [`Config`](recipes::config): typed configuration that is watched, checked and cached.
//!
//! ```no_run
//! # async fn example() -> folkmoot_client::Result<()> {
//! use std::time::Duration;
//!
//! let client = folkmoot_client::Client::connect(["http://127.0.0.1:2379"]).await?;
//! let session = client.session().ttl(Duration::from_secs(15)).open().await?;
//! let guard = session.mutex("locks/import").lock().await?;
//! guard.txn().put("import/cursor", "42").commit().await?;
//! guard.unlock().await?;
//! session.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//! Everything that must go on by itself runs on two threads of this crate's own; the futures that
//! you get may be awaited on any async runtime, or on none.

mod auth;
mod backoff;
mod client;
mod clock;
mod cluster;
mod error;
pub mod kv;
mod lease;
mod maintenance;
mod namespace;
pub mod recipes;
mod runtime;
pub mod session;
mod stream;
#[cfg(test)]
mod test_support;
mod transport;
mod view;
pub mod watch;

pub use auth::{Access, Auth, Permission};
pub use client::{Client, ClientBuilder};
pub use cluster::Member;
pub use error::{Error, ErrorKind, Result};
pub use kv::{
    Compare, Delete, DeleteResponse, Event, EventKind, Get, GetResponse, Header, Is, KeyValue, Keys, Op,
    OpResponse, Order, Put, PutResponse, SortBy, Txn, TxnResponse,
};
pub use lease::{Lease, LeaseTtl};
pub use maintenance::{Alarm, AlarmKind, HashKv, MemberStatus};
pub use recipes::election::{Election, Leader, LeaderEvent, Leadership, Observer, Tenure};
pub use recipes::fence::{FencedTxn, FencingToken};
pub use recipes::mutex::{Contender, Guard, Mutex};
pub use runtime::private as runtime;
pub use session::{LostReason, Session, SessionBuilder, SessionState};
#[doc(hidden)]
pub use transport::endpoint::dial;
pub use transport::tls::Tls;
pub use watch::{WatchBatch, WatchBuilder, Watcher, WhenFull};

/// The programs in the README are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
