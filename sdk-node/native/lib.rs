//! `folkmoot-bridge` for Node. Private: the package's TypeScript is the only caller, and has checked
//! the types and ranges of what comes in. No recipe, no retry and no default value lives here.
//!
//! - A call is a function that returns a promise. It may be given the number of a cancel
//!   ([`cancel_new`]); when that is fired, the call is dropped and the promise rejects.
//! - An error's message is the text of a JSON object ([`call::fail`]), because napi hands an async
//!   function's error over with its message alone.
//! - What only listens in the background (`ready_weak`, `on_lost`, checks) uses weak threadsafe
//!   functions, which do not keep the process alive.
//! - Bytes are copied on the way in, on the thread of the caller; nothing of JavaScript's is held by
//!   another thread.

// The functions are documented for their one caller in the TypeScript above them.
#![allow(missing_docs)]
// In a test build napi registers nothing.
#![cfg_attr(test, allow(dead_code))]

mod admin;
mod call;
mod client;
mod config;
mod kv;
mod registry;
mod session;
mod stream;

pub use call::{cancel_drop, cancel_fire, cancel_new};
