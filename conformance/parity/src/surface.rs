//! The public surface of an SDK: names such as `Client` and `Client.put`, with the names of the
//! parameters where the language has them.

pub mod node;
pub mod python;
pub mod rust;

use std::collections::{BTreeMap, BTreeSet};

/// Names, and for each the names of its parameters (none where they are not names: in Rust they
/// are methods of builders, which are names of their own).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Surface {
    pub names: BTreeMap<String, BTreeSet<String>>,
}

impl Surface {
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    fn add(&mut self, name: impl Into<String>, parameters: impl IntoIterator<Item = String>) {
        self.names.entry(name.into()).or_default().extend(parameters);
    }
}
