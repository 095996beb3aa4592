//! The one row that says how far the engine is: written in every batch, beside its effects. And
//! the mark that tells rows which came as a snapshot from rows that the log led to.
//!
//! Layout: schema u8, then index, term, revision, compact revision + 1, chain hash, cluster id as
//! u64 le each, then voters and learners as count u32 le and ids u64 le.

use bytes::{Buf, BufMut};

use crate::env::{Engine, Family, WriteBatch};
use crate::error::Fatal;
use crate::raft::ConfState;
use crate::types::{ClusterId, LogIndex, MemberId, Term};

const KEY: &[u8] = b"applied";
const INSTALLED: &[u8] = b"installed";
/// Version of the layout of all rows; a newer one is refused.
pub const SCHEMA: u8 = 1;

/// The applied position and what belongs to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The last log entry whose effects are in the engine.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The store's revision; stored, never derived from rows that happen to be left.
    pub revision: i64,
    /// The compacted revision, -1 if never compacted.
    pub compact_revision: i64,
    /// Hash over all entries so far, what they changed and how they were answered; equal on all
    /// members at the same index.
    pub chain_hash: u64,
    /// The cluster that the rows belong to.
    pub cluster_id: ClusterId,
    /// Who votes.
    pub conf_state: ConfState,
}

impl Applied {
    /// Writes the row.
    pub fn write(&self, rows: &mut WriteBatch) {
        let mut value = Vec::with_capacity(64);
        value.put_u8(SCHEMA);
        value.put_u64_le(self.index.0);
        value.put_u64_le(self.term.0);
        value.put_i64_le(self.revision);
        value.put_i64_le(self.compact_revision);
        value.put_u64_le(self.chain_hash);
        value.put_u64_le(self.cluster_id.0);
        for members in [&self.conf_state.voters, &self.conf_state.learners] {
            value.put_u32_le(u32::try_from(members.len()).expect("a cluster has few members"));
            for id in members {
                value.put_u64_le(id.0);
            }
        }
        rows.put(Family::Meta, KEY, &value);
    }

    /// Reads the row; `None` if the engine is new.
    pub fn load(engine: &dyn Engine) -> Result<Option<Self>, Fatal> {
        let Some(mut value) = engine.get(Family::Meta, KEY)? else { return Ok(None) };
        let damaged = || Fatal::Damaged("the applied position cannot be read".into());
        match value.first() {
            Some(&SCHEMA) => value.advance(1),
            Some(&schema) => {
                return Err(Fatal::Damaged(format!(
                    "rows have a format that this version does not know, use the version that wrote them or a \
                     newer one; schema={schema} known={SCHEMA}"
                )));
            }
            None => return Err(damaged()),
        }
        if value.len() < 48 {
            return Err(damaged());
        }
        let (index, term) = (LogIndex(value.get_u64_le()), Term(value.get_u64_le()));
        let (revision, compact_revision) = (value.get_i64_le(), value.get_i64_le());
        let (chain_hash, cluster_id) = (value.get_u64_le(), ClusterId(value.get_u64_le()));
        let mut members = || -> Option<Vec<MemberId>> {
            let count = (value.len() >= 4).then(|| value.get_u32_le())? as usize;
            (value.len() / 8 >= count).then(|| (0..count).map(|_| MemberId(value.get_u64_le())).collect())
        };
        let voters = members().ok_or_else(damaged)?;
        let learners = members().ok_or_else(damaged)?;
        let conf_state = ConfState { voters, learners };
        Ok(Some(Self { index, term, revision, compact_revision, chain_hash, cluster_id, conf_state }))
    }
}

/// Marks rows as having come as a whole at `index`: as a snapshot, as the first rows of a cluster,
/// or out of a backup. The log need not lead up to them.
pub fn mark_installed(rows: &mut WriteBatch, index: LogIndex) {
    rows.put(Family::Meta, INSTALLED, &index.0.to_le_bytes());
}

/// The index at which the rows last came as a whole; 0 if they never did.
pub fn load_installed(engine: &dyn Engine) -> Result<LogIndex, Fatal> {
    let Some(value) = engine.get(Family::Meta, INSTALLED)? else { return Ok(LogIndex(0)) };
    let bytes = value
        .as_ref()
        .try_into()
        .map_err(|_| Fatal::Damaged("the mark of an installed snapshot cannot be read".into()))?;
    Ok(LogIndex(u64::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::MemoryEngine;

    fn applied() -> Applied {
        Applied {
            index: LogIndex(7),
            term: Term(2),
            revision: 9,
            compact_revision: -1,
            chain_hash: 77,
            cluster_id: ClusterId(5),
            conf_state: ConfState { voters: vec![MemberId(1), MemberId(2)], learners: vec![MemberId(3)] },
        }
    }

    #[test]
    fn the_applied_position_reads_back() {
        let engine = MemoryEngine::new();
        assert_eq!(Applied::load(&engine).unwrap(), None);
        let mut rows = WriteBatch::new();
        applied().write(&mut rows);
        engine.write(&rows).unwrap();
        assert_eq!(Applied::load(&engine).unwrap(), Some(applied()));
    }

    #[test]
    fn a_cut_or_newer_row_is_refused() {
        let engine = MemoryEngine::new();
        let mut rows = WriteBatch::new();
        applied().write(&mut rows);
        engine.write(&rows).unwrap();
        let whole = engine.get(Family::Meta, KEY).unwrap().unwrap();
        for length in 0..whole.len() {
            let mut rows = WriteBatch::new();
            rows.put(Family::Meta, KEY, &whole[..length]);
            engine.write(&rows).unwrap();
            assert!(Applied::load(&engine).is_err(), "cut at {length}");
        }
        let mut rows = WriteBatch::new();
        rows.put(Family::Meta, KEY, &[9]);
        engine.write(&rows).unwrap();
        assert!(Applied::load(&engine).unwrap_err().to_string().contains("schema=9"));
    }
}
