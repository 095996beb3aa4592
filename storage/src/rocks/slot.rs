//! Where the current engine is found while another one may take its place.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use folkmoot_core::env::{Engine, EngineError, EngineUsage, Family, ScanStep, WriteBatch};

use super::RocksEngine;

/// The current engine. A call goes to the engine that was current when it began, and ends on it:
/// no scan sees rows of two engines.
///
/// Two calls may go to two engines; who needs several on one takes [`Self::current`]. The only
/// writer is the one who swaps, so that nothing is written to an engine that was replaced.
pub struct EngineSlot {
    current: ArcSwap<RocksEngine>,
}

impl EngineSlot {
    /// A slot with its first engine.
    pub fn new(engine: Arc<RocksEngine>) -> Self {
        Self { current: ArcSwap::new(engine) }
    }

    /// The engine that is current now, for views, checkpoints and compaction. As long as it is
    /// held the engine stays open, and its directory must stay where it is.
    pub fn current(&self) -> Arc<RocksEngine> {
        self.current.load_full()
    }

    /// Puts another engine in place and returns the old one, which calls that began before may
    /// still use: it is closed when the last of them lets go of it.
    #[must_use = "its directory may be removed only once nobody else has it"]
    pub fn swap(&self, engine: Arc<RocksEngine>) -> Arc<RocksEngine> {
        self.current.swap(engine)
    }
}

impl Engine for EngineSlot {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.current.load().get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanStep,
    ) -> Result<(), EngineError> {
        self.current().scan(family, from, to, visit)
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), EngineError> {
        self.current().write(batch)
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.current().flush()
    }

    fn usage(&self) -> EngineUsage {
        self.current().usage()
    }
}
