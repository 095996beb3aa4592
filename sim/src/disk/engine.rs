//! The engine in memory: ordered rows, and a journal of what is not flushed.
//!
//! A crash rolls the newest batches back, as many as the world wants of those not flushed, which
//! is what RocksDB without its own log promises: a prefix of the batches, at least as long as the
//! last flush. Nothing is copied for it, so that a flush and a crash cost what changed and not
//! what there is.

use std::collections::BTreeMap;

use bytes::Bytes;
use folkmoot_core::env::{Engine, EngineError, EngineUsage, Family, RowChange, ScanStep, WriteBatch};
use parking_lot::RwLock;

/// All rows, by family.
#[derive(Clone, Default)]
pub struct Rows([BTreeMap<Bytes, Bytes>; 5]);

impl Rows {
    fn family(&self, family: Family) -> &BTreeMap<Bytes, Bytes> {
        &self.0[usize::from(family.number())]
    }

    fn set(&mut self, family: Family, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
        let rows = &mut self.0[usize::from(family.number())];
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        }
    }
}

struct Undo {
    family: Family,
    key: Bytes,
    before: Option<Bytes>,
}

#[derive(Default)]
struct State {
    rows: Rows,
    journal: Vec<Undo>,
    /// Length of the journal after each batch that is not flushed.
    batches: Vec<usize>,
    bytes: usize,
}

impl State {
    fn write(&mut self, batch: &WriteBatch) {
        for change in batch.iter() {
            let (family, key, value) = match change {
                RowChange::Put(family, key, value) => (family, key, Some(Bytes::copy_from_slice(value))),
                RowChange::Delete(family, key) => (family, key, None),
            };
            let key = Bytes::copy_from_slice(key);
            let length = |value: &Option<Bytes>| value.as_ref().map_or(0, |value| key.len() + value.len());
            self.bytes += length(&value);
            let before = self.rows.set(family, key.clone(), value);
            self.bytes -= length(&before);
            self.journal.push(Undo { family, key, before });
        }
        self.batches.push(self.journal.len());
    }

    fn forget_journal(&mut self) {
        self.journal.clear();
        self.batches.clear();
    }
}

/// See the module.
#[derive(Default)]
pub struct SimEngine {
    state: RwLock<State>,
}

impl SimEngine {
    /// An engine that durably holds these rows.
    pub fn holding(rows: Rows) -> Self {
        let bytes = rows.0.iter().flatten().map(|(key, value)| key.len() + value.len()).sum();
        Self { state: RwLock::new(State { rows, bytes, ..State::default() }) }
    }

    /// How many batches a crash may take back.
    pub fn unflushed(&self) -> usize {
        self.state.read().batches.len()
    }

    /// The process ends; of the batches that were not flushed the first `kept` are there again.
    pub fn crash(&self, kept: usize) {
        let mut state = self.state.write();
        let State { rows, journal, batches, bytes } = &mut *state;
        let keep = kept.checked_sub(1).map_or(0, |last| batches.get(last).copied().unwrap_or(journal.len()));
        for undo in journal.drain(keep..).rev() {
            let length =
                |value: &Option<Bytes>| value.as_ref().map_or(0, |value| undo.key.len() + value.len());
            *bytes += length(&undo.before);
            let gone = rows.set(undo.family, undo.key.clone(), undo.before);
            *bytes -= length(&gone);
        }
        state.forget_journal();
    }

    /// A copy of everything, as a checkpoint makes it.
    pub fn copy(&self) -> Rows {
        self.state.read().rows.clone()
    }

    /// Puts other rows in place of all, durably.
    pub fn replace(&self, rows: Rows) {
        *self.state.write() = Self::holding(rows).state.into_inner();
    }
}

impl Engine for SimEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.state.read().rows.family(family).get(key).cloned())
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ScanStep,
    ) -> Result<(), EngineError> {
        let state = self.state.read();
        let rows = state.rows.family(family);
        let mut start = Bytes::copy_from_slice(from);
        loop {
            let mut jump = None;
            for (key, value) in rows.range(start..) {
                if to.is_some_and(|to| key.as_ref() >= to) {
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
                Some(target) => start = Bytes::from(target),
                None => return Ok(()),
            }
        }
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), EngineError> {
        self.state.write().write(batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.state.write().forget_journal();
        Ok(())
    }

    fn usage(&self) -> EngineUsage {
        let bytes = self.state.read().bytes as u64;
        EngineUsage { total_bytes: bytes, live_bytes: bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(engine: &SimEngine, key: &str, value: &str) {
        let mut batch = WriteBatch::new();
        batch.put(Family::Sys, key.as_bytes(), value.as_bytes());
        engine.write(&batch).unwrap();
    }

    fn get(engine: &SimEngine, key: &str) -> Option<String> {
        let value = engine.get(Family::Sys, key.as_bytes()).unwrap()?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    #[test]
    fn a_crash_keeps_the_flushed_batches_and_as_many_of_the_others_as_asked() {
        for kept in 0..=3 {
            let engine = SimEngine::default();
            put(&engine, "a", "flushed");
            engine.flush().unwrap();
            put(&engine, "a", "1");
            put(&engine, "b", "2");
            put(&engine, "a", "3");
            assert_eq!(engine.unflushed(), 3);
            engine.crash(kept);
            let a = ["flushed", "1", "1", "3"][kept];
            assert_eq!(get(&engine, "a").as_deref(), Some(a));
            assert_eq!(get(&engine, "b").is_some(), kept >= 2);
            assert_eq!(engine.unflushed(), 0);
            let whole = SimEngine::holding(engine.copy());
            assert_eq!(whole.usage(), engine.usage());
        }
    }
}
