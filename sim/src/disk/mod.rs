//! What survives a crash: the engine's rows, the log's sectors.
//!
//! Both are models: they keep what the system has written and what would be left of it after a
//! power cut, and forget the difference when the world says so.

mod engine;
mod log;
mod sectors;

pub use engine::{Rows, SimEngine};
pub use log::LogWriter;
pub use sectors::SimDisk;
