//! Attacks clusters of real processes while clients work, and checks what the clients saw.
//!
//! The same attack runs on Folkmoot and on etcd: members are seen through the wire, their exit and
//! the signals they get, and through nothing else. `network` spoils links, `cluster` starts and ends
//! members, `nemesis` draws faults from a seed and carries them out, `load` works and keeps records.
//! What the records must look like is for `folkmoot-check` to say; this crate has no rules of its own.

pub mod cluster;
pub mod load;
pub mod measure;
pub mod nemesis;
pub mod network;
pub mod program;
pub mod round;
pub mod timeline;
pub mod wire;

use std::io::Write as _;

/// Prints a line; there is nobody to tell if that fails.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
