//! Judges what clients of an etcd-v3-compatible store saw.
//!
//! [`history`] is what was seen, as plain values; the checkers say where it cannot have come from
//! a store that keeps its promises. Everything a checker reports is certain: where outcomes are
//! unknown, every possibility that would excuse the store is granted to it.
//!
//! The crate refuses to run anything, to read clocks and to know wire formats. It never panics on
//! a history, however broken: what contradicts itself is a [`Violation`] too.
//!
//! ```
//! use folkmoot_check::history::*;
//! use folkmoot_check::{Rule, Settings, check};
//!
//! let put = |invoked, completed, value: &'static str, revision| Operation {
//!     client: 1,
//!     member: 1,
//!     invoked,
//!     completed: Some(completed),
//!     request: Request::Put(PutRequest { key: "k".into(), value: value.into(), ..PutRequest::default() }),
//!     outcome: Outcome::Ok(Reply { revision, body: ReplyBody::Put(PutReply::default()) }),
//! };
//! // The second put began after the first was answered, and yet has the smaller revision.
//! let operations = vec![put(10, 20, "a", 3), put(30, 40, "b", 2)];
//! let report = check(&History { operations, ..History::default() }, &Settings::default());
//! assert!(report.has(Rule::StaleRevision), "{report}");
//! ```

mod context;
pub mod history;
mod lease;
mod lock;
mod model;
mod observed;
mod real_time;
mod refusal;
mod report;
mod session;
mod settings;
mod state_hash;
mod tell;
mod watch;
mod witness;

pub use report::{Counts, Report, Rule, Violation};
pub use settings::{LeaseSettings, LivePeriod, Settings};
pub use state_hash::StateHashes;
pub use watch::truth_of;

use context::Context;
use history::History;
use refusal::Compactions;

/// Runs every checker on a history.
pub fn check(history: &History, settings: &Settings) -> Report {
    let mut report = Report::new(settings.cap);
    let context = Context::new(history, settings, &mut report);
    let timeline = witness::replay(&context, &mut report);
    let compactions = Compactions::new(&context);
    real_time::check(&context, &timeline, &mut report);
    refusal::check(&context, &compactions, &mut report);
    watch::check(&context, &timeline, &compactions, &mut report);
    lease::check(&context, &timeline, &mut report);
    lock::check_fences(&context, &mut report);
    lock::check_holds(&context, &timeline, &mut report);
    session::check_order(&context, &mut report);
    session::check_content(&context, &mut report);
    report.counts = report::count(&context, &timeline);
    report
}
