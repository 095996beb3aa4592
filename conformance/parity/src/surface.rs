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
    /// What a type extends, where readers do not follow that by themselves.
    parents: BTreeMap<String, Vec<String>>,
}

impl Surface {
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Lays this surface over another one: types that are here replace those there.
    pub fn over(mut self, below: Self) -> Self {
        let here: BTreeSet<String> = self.names.keys().filter(|name| !name.contains('.')).cloned().collect();
        let kept = below.names.into_iter().filter(|(name, _)| {
            let of = name.split('.').next().unwrap_or_default();
            !here.contains(of)
        });
        self.names.extend(kept.collect::<Vec<_>>());
        self
    }

    /// Gives types what their parents have.
    fn inherit(&mut self) {
        for name in self.parents.keys().cloned().collect::<Vec<_>>() {
            let (mut next, mut seen) = (vec![name.clone()], BTreeSet::new());
            while let Some(of) = next.pop() {
                if !seen.insert(of.clone()) {
                    continue;
                }
                next.extend(self.parents.get(&of).into_iter().flatten().cloned());
                let prefix = format!("{of}.");
                let inside = self.names.iter().filter_map(|(member, parameters)| {
                    Some((member.strip_prefix(&prefix)?.to_owned(), parameters.clone()))
                });
                for (member, parameters) in inside.collect::<Vec<_>>() {
                    self.add(format!("{name}.{member}"), parameters);
                }
            }
        }
    }

    fn add(&mut self, name: impl Into<String>, parameters: impl IntoIterator<Item = String>) {
        self.names.entry(name.into()).or_default().extend(parameters);
    }
}
