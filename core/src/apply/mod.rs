//! Applies committed commands, in log order, to all replicated state.
//!
//! Refuses: clocks, randomness, local settings, connections. What it does is a function of the
//! state and the entry alone, so that every member comes to the same state and the same answers.
//! Invariants: the rows of an entry and the applied index travel in one batch; a command that is
//! refused changes nothing but the applied index; an error is an answer to the client if every
//! member would give it, and a [`crate::error::Fatal`] if only this one could.

mod gate;
mod machine;
mod membership;
pub mod meta;

pub use machine::{Effect, Machine};
