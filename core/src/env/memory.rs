//! The engine in memory: ordered maps. Tests and the simulator run on it; a property test in the
//! storage crate drives it and RocksDB with the same operations.
//!
//! It models durability: [`MemoryEngine::crash`] forgets everything after the last flush.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Engine, EngineError, EngineUsage, Family, RowChange, ScanStep, WriteBatch};

type Rows = BTreeMap<(Family, Bytes), Bytes>;

/// See the module.
#[derive(Default)]
pub struct MemoryEngine {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    rows: Rows,
    flushed: Rows,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of all rows, as a snapshot for another member is made.
    pub fn copy(&self) -> Self {
        let rows = self.state.read().rows.clone();
        Self { state: RwLock::new(State { flushed: rows.clone(), rows }) }
    }

    /// Durably takes over all rows of another engine, in place of its own.
    pub fn replace_with(&self, other: &Self) {
        let rows = other.state.read().rows.clone();
        *self.state.write() = State { flushed: rows.clone(), rows };
    }

    /// Loses what was not flushed, as a power cut would.
    pub fn crash(&self) {
        let mut state = self.state.write();
        state.rows = state.flushed.clone();
    }
}

impl Engine for MemoryEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.state.read().rows.get(&(family, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanStep,
    ) -> Result<(), EngineError> {
        let state = self.state.read();
        let mut start = (family, Bytes::copy_from_slice(from));
        loop {
            let mut jump = None;
            for ((row_family, key), value) in state.rows.range(start.clone()..) {
                if *row_family != family || to.is_some_and(|to| key.as_ref() >= to) {
                    return Ok(());
                }
                match visit(key, value) {
                    ScanStep::Next => {}
                    ScanStep::Stop => return Ok(()),
                    ScanStep::Seek(target) => {
                        jump = Some(target);
                        break;
                    }
                }
            }
            match jump {
                Some(target) => start = (family, Bytes::from(target)),
                None => return Ok(()),
            }
        }
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), EngineError> {
        let mut state = self.state.write();
        for change in batch.iter() {
            match change {
                RowChange::Put(family, key, value) => {
                    state.rows.insert((family, Bytes::copy_from_slice(key)), Bytes::copy_from_slice(value));
                }
                RowChange::Delete(family, key) => {
                    state.rows.remove(&(family, Bytes::copy_from_slice(key)));
                }
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut state = self.state.write();
        state.flushed = state.rows.clone();
        Ok(())
    }

    fn usage(&self) -> EngineUsage {
        let bytes =
            self.state.read().rows.iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum();
        EngineUsage { total_bytes: bytes, live_bytes: bytes }
    }
}
