//! What the outside sees of the server without asking the API: today the log.

pub mod log;
