//! What the clients for other languages stand on.
//!
//! `folkmoot-client` is written for Rust: futures that borrow, generics, values that are consumed.
//! None of that crosses a language border. This crate says the same things in shapes that do, and
//! nothing else: no recipe, no retry and no default value lives here.
//!
//! # The shapes
//!
//! **Handles** — [`Client`], [`Session`], [`Mutex`], [`Guard`], [`Election`], [`Leadership`],
//! [`Registry`], [`Registration`], [`Balancer`], [`Pick`], [`Config`], [`ConfigReader`], [`Auth`]. All are
//! `Clone + Send + Sync`; clones are the same thing. Every method takes `&self`, so glue clones the
//! handle into a future: `let client = self.0.clone(); async move { client.put(put).await }`.
//! Each carries the process id it was made under. In a forked child a [`Client`] connects afresh by
//! itself; everything else answers `FORKED`, and dropping it there does nothing: what it stands for
//! belongs to the parent.
//!
//! **Calls** are `async fn`s. They may be polled on any executor and dropped at any time; they wake
//! whoever polls them and never block. Timers and sockets are those of [`runtime`], of which there is
//! one in each process. Glue with no executor of its own spawns there. No foreign code is ever run
//! on those threads: a callback that blocks would stop the keepalives.
//!
//! **Streams** — [`WatchStream`], [`StateStream`], [`LeaderStream`], [`RegistrationStream`],
//! [`ServiceStream`], [`ConfigStream`], [`SnapshotStream`] — have four methods, and no `next`:
//! - `ready().await` comes back when there is something to take or nothing will ever come. It takes
//!   nothing, so a call that is cancelled loses nothing; calling it twice is harmless.
//! - `take()` gives one item at once, or `None` if none is there yet.
//! - `done()` says that nothing will ever come.
//! - `stop()` ends the stream; whoever waits in `ready` comes back.
//!
//! The loop of a consumer is: `take`; if `None`, leave if `done`, else `ready`, and again. An error is
//! handed out once by `take`, and the stream is done then, unless its own page says otherwise.
//!
//! **Guards** — [`Guard`], [`Leadership`], [`Registration`], [`Pick`] — stand for something held. When
//! the last clone is dropped, it is given back in the background, so a result that nobody received
//! (its waiter was cancelled a moment before) leaks nothing, and a garbage collector is a backstop.
//!
//! **Questions** — [`ConfigCheck`] and [`HealthCheck`] — are traits that glue implements. A question
//! is put on a thread where waiting for a language's lock is allowed, as a value that is answered now
//! or later ([`Candidate::accept`], [`Candidate::reject`], [`Probe::answer`]); dropping it unanswered
//! counts as a no. An accepted configuration may carry an [`Attachment`], the object that the language
//! made of it, which comes back with every later mention of it.
//!
//! **Records** — everything else — are plain structs and enums with public fields. Keys and values
//! are [`Bytes`], revisions and lease ids `i64`, cluster and member ids `u64`, times `Duration`.
//!
//! **One error**, [`BridgeError`]: a stable `code` (the table is `folkmoot_client::ErrorKind::code`), a
//! message for people, whether it is `retryable`, whether the call `maybe_applied`, the `endpoint`, and
//! `details`, the text of a JSON object. A panic below becomes `INTERNAL`; none crosses this crate.
//!
//! There are no generics and no lifetimes in what is public (but for the `async` in a signature), and
//! no method is named `close`, `next`, `return`, `throw` or `finalize`, which some generators reserve.

mod admin;
mod client;
mod config;
mod edge;
mod election;
mod error;
mod kv;
mod mutex;
mod registry;
mod session;
mod stream;
mod watch;

pub use admin::{
    AlarmRecord, Auth, HashRecord, LeaseRecord, LeaseTtlRecord, MemberRecord, PermissionRecord,
    SnapshotStream, StatusRecord,
};
pub use bytes::Bytes;
pub use client::{Client, ConnectOptions, TlsOptions};
pub use config::{
    Attachment, Candidate, Config, ConfigCheck, ConfigDocument, ConfigEventRecord, ConfigItem, ConfigOptions,
    ConfigReader, ConfigSource, ConfigState, ConfigStream,
};
pub use edge::runtime;
pub use election::{Election, LeaderEventRecord, LeaderRecord, LeaderStream, Leadership};
pub use error::BridgeError;
pub use kv::{
    CompareRecord, CompareTarget, CompareWith, DeleteRecord, DeleteResult, GetRecord, GetResult,
    HeaderRecord, KeySet, KeyValueRecord, OpRecord, OpResult, PutRecord, PutResult, SortTarget, TokenRecord,
    TxnRecord, TxnResult,
};
pub use mutex::{ContenderRecord, Guard, LostWatch, Mutex, MutexOptions};
pub use registry::{
    Balancer, BalancerPolicy, HealthCheck, HealthRecord, InstanceRecord, Pick, Probe, RegisterOptions,
    Registration, RegistrationConflict, RegistrationEventRecord, RegistrationStream, Registry,
    ServiceEventRecord, ServiceStream,
};
pub use session::{Session, SessionOptions, SessionStateRecord, StateStream};
pub use watch::{EventRecord, WatchBatchRecord, WatchOptions, WatchStream};
