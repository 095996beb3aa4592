//! Reading at an earlier revision: the engine's versions, and above them those that are not in
//! the engine yet, so that the answer never depends on how far it is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::index::Live;
use super::range::View;
use super::rows::{self, IdxRow, Version};
use crate::error::Fatal;
use crate::types::{KeyRange, LeaseId};

/// The keys of an interval at an earlier revision.
pub(super) struct Past {
    /// Number of keys.
    pub count: usize,
    /// The first of them in key order.
    pub records: Vec<Live>,
}

impl Past {
    fn push(&mut self, wanted: usize, live: impl FnOnce() -> Live) {
        self.count += 1;
        if self.records.len() < wanted {
            self.records.push(live());
        }
    }
}

impl View<'_> {
    /// The keys of `keys` at main revision `at`, with records for the first `wanted`. The caller
    /// checks afterwards that `at` was not compacted meanwhile.
    pub fn past(&self, keys: &KeyRange, at: i64, wanted: usize) -> Result<Past, Fatal> {
        let mut newer = self.unstored_versions(keys, at).into_iter().peekable();
        let mut past = Past { count: 0, records: Vec::new() };
        rows::newest_versions(self.engine, keys, at, &mut |key, row| {
            while let Some((_, version)) = newer.next_if(|(newer_key, _)| *newer_key < key) {
                push_unstored(&mut past, wanted, version);
            }
            match newer.next_if(|(newer_key, _)| *newer_key == key) {
                Some((_, version)) => push_unstored(&mut past, wanted, version),
                None if row.tombstone => {}
                None => past.push(wanted, || stored(key, row)),
            }
            ControlFlow::Continue(())
        })?;
        for (_, version) in newer {
            push_unstored(&mut past, wanted, version);
        }
        Ok(past)
    }

    /// The newest unstored version of each key at or below main revision `at`.
    fn unstored_versions(&self, keys: &KeyRange, at: i64) -> BTreeMap<&[u8], &Version<Bytes>> {
        if at <= self.stored_revision {
            return BTreeMap::new();
        }
        self.unstored
            .iter()
            .take_while(|version| version.revision.main <= at)
            .filter(|version| keys.contains(&version.key))
            .map(|version| (version.key.as_ref(), version))
            .collect()
    }
}

fn push_unstored(past: &mut Past, wanted: usize, version: &Version<Bytes>) {
    if version.tombstone {
        return;
    }
    past.push(wanted, || Live {
        key: version.key.clone(),
        value: Some(version.value.clone()),
        create_revision: version.create_revision,
        mod_main: version.revision.main,
        version: version.version,
        lease: LeaseId::to_wire(version.lease),
        mod_sub: version.revision.sub,
        value_bytes: u32::try_from(version.value.len()).unwrap_or(u32::MAX),
    });
}

fn stored(key: &[u8], row: IdxRow) -> Live {
    Live {
        key: Bytes::copy_from_slice(key),
        value: (row.value_bytes == 0).then(Bytes::new),
        create_revision: row.create_revision,
        mod_main: row.revision.main,
        version: row.version,
        lease: LeaseId::to_wire(row.lease),
        mod_sub: row.revision.sub,
        value_bytes: row.value_bytes,
    }
}
