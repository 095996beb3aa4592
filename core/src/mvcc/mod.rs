//! Keys and their history.
//!
//! The room keeps every live key in memory, in a counted copy-on-write B+tree (`index`), and
//! every version of every key as rows of the engine (`rows`). One [`Store`] applies commands on
//! the thread that owns it; any number of [`Reader`]s answer reads on other threads.
//!
//! It refuses: leases (it only remembers which one a key hangs on), watchers (it hands out
//! [`crate::event::EventBatch`]es), permissions, files, clocks.
//!
//! Invariants
//! - `compact_revision <= revision` and `stored_revision <= revision`. All three are set by the
//!   caller's commands and reports and never derived from the rows that happen to be left.
//! - What is applied is a pure function of the state and the command. A refused command changes
//!   nothing; only a failing engine can interrupt one, and then the store answers nothing more.
//! - A reader sees whole commands only.
//! - The index equals what [`Store::open`] would build from the rows once they are written.
//! - A value leaves memory only after its row is in the engine.
//! - Rows disappear only through [`gc`], and only rows that no revision at or above the compact
//!   revision can see.

pub mod gc;
pub mod hash;
mod index;
mod node;
mod past;
mod range;
mod reader;
pub mod request;
mod rows;
mod store;
mod txn;
pub mod validate;
mod values;

mod compare;
mod history;

pub use gc::{GcState, GcStep};
pub use hash::HashKv;
pub use reader::Reader;
pub use request::{
    Compare, CompareOperand, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse,
};
pub use store::{Options, Store};
pub use txn::Txn;

#[cfg(test)]
mod tests;
