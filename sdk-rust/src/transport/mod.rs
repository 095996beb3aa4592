//! Calls to members: which one, with what token, how long, and whether to try again.
//!
//! Refuses to know what a call means beyond [`Safety`]: a read, a write that may be repeated, or a
//! write that may not. A write of the last kind whose answer was lost is `Ambiguous`, never sent again.

#[cfg(feature = "tls")]
mod certificates;
#[cfg(feature = "tls")]
mod connector;
mod core;
pub(crate) mod endpoint;
pub(crate) mod names;
pub(crate) mod options;
mod pool;
mod roster;
mod seen;
pub(crate) mod status;
mod sync;
pub(crate) mod tls;
mod token;

pub(crate) use self::core::{Call, Core, Safety};
pub(crate) use self::seen::{Consistency, Mark, Verdict};
