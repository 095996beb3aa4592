//! Physical compaction: removing the rows that no readable revision can see.
//!
//! Compaction to C is over at once for readers; this walk follows behind. It goes once over the
//! `rev` rows from the previous compact revision to C. Each row there names the version that it
//! superseded, which goes; and a tombstone below C goes with the version that it ended. A
//! tombstone *at* C stays until the next compaction (as in etcd since 3.5.15), so that watchers
//! that start at C see the deletion; hence the walk starts at, not after, the previous C.
//!
//! Every version is superseded once, so every row is deleted once, in the same batch as or
//! earlier than the row that names it. A step's batch holds the position after the step: the walk
//! can stop after any batch and go on, and doing a step again does no harm.

use bytes::{Buf, BufMut};

use super::rows;
use crate::env::{Engine, Family, ScanStep, WriteBatch};
use crate::error::{Failure, Fatal};
use crate::mutant::mutant;
use crate::types::Revision;

const KEY: &[u8] = b"gc";
const FORMAT: u8 = 1;

/// How far the walk is; a row of the family `meta`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GcState {
    /// The walk before went up to this compact revision.
    pub from: i64,
    /// The compact revision that this walk serves.
    pub to: i64,
    /// The next row to look at; beyond `to` when the walk is over.
    pub cursor: Revision,
}

impl GcState {
    /// Whether the walk is over.
    pub fn is_done(&self) -> bool {
        self.cursor.main > self.to
    }
}

/// One step's outcome.
#[derive(Debug)]
pub struct GcStep {
    /// What to write, progress included.
    pub batch: WriteBatch,
    /// Where to go on; `None` when the walk is over.
    pub next: Option<GcState>,
}

/// What there is to do, if anything: the rest of an interrupted walk, or a new one.
///
/// `state` is what [`load`] gave. `compact_revision` must be recorded in the engine already, or a
/// crash could bring back a store that promises a past whose rows are gone. Nothing is removed
/// before all rows up to it are in the engine, because the walk would miss the others.
pub fn plan(state: Option<GcState>, compact_revision: i64, stored_revision: i64) -> Option<GcState> {
    let from = match state {
        Some(state) if !state.is_done() => return Some(state),
        Some(state) => state.to,
        None => 0,
    };
    (from < compact_revision && compact_revision <= stored_revision).then(|| GcState {
        from,
        to: compact_revision,
        cursor: Revision::start_of(from),
    })
}

/// Reads the walk's position.
pub fn load(engine: &dyn Engine) -> Result<Option<GcState>, Fatal> {
    let Some(row) = engine.get(Family::Meta, KEY)? else { return Ok(None) };
    decode(&row).map(Some).ok_or_else(|| Fatal::Damaged("the position of compaction cannot be read".into()))
}

fn encode(state: &GcState) -> Vec<u8> {
    let mut row = Vec::with_capacity(29);
    row.put_u8(FORMAT);
    row.put_i64_le(state.from);
    row.put_i64_le(state.to);
    row.put_i64_le(state.cursor.main);
    row.put_u32_le(state.cursor.sub);
    row
}

fn decode(mut row: &[u8]) -> Option<GcState> {
    if row.len() != 29 || row.get_u8() != FORMAT {
        return None;
    }
    let (from, to) = (row.get_i64_le(), row.get_i64_le());
    let cursor = Revision { main: row.get_i64_le(), sub: row.get_u32_le() };
    let sound = 0 <= from && from < to && to < i64::MAX && from <= cursor.main;
    sound.then_some(GcState { from, to, cursor })
}

/// Looks at the next `rows_max` rows. Write the batch before the next step.
pub fn step(engine: &dyn Engine, state: GcState, rows_max: usize) -> Result<GcStep, Failure> {
    let mut batch = WriteBatch::new();
    let mut scratch = Vec::new();
    let mut seen = 0;
    let mut failed = None;
    let mut next = GcState { cursor: Revision::start_of(state.to + 1), ..state };
    let end = rows::rev_key(next.cursor);
    engine.scan(Family::Rev, &rows::rev_key(state.cursor), Some(&end), &mut |key, row| {
        let version = match rows::decode_rev(key, row) {
            Ok(version) => version,
            Err(fatal) => {
                failed = Some(fatal);
                return ScanStep::Stop;
            }
        };
        if seen == rows_max.max(1) {
            next.cursor = version.revision;
            return ScanStep::Stop;
        }
        seen += 1;
        // What the rows of `from` itself superseded went in the walk before.
        if let Some(prev) = version.prev.filter(|_| version.revision.main > state.from) {
            rows::delete_version(&mut batch, &mut scratch, version.key, prev);
        }
        let gone = version.revision.main < state.to
            || (version.revision.main == state.to
                && mutant!("compaction_takes_the_tombstone_at_its_revision"));
        if version.tombstone && gone {
            rows::delete_version(&mut batch, &mut scratch, version.key, version.revision);
        }
        ScanStep::Next
    })?;
    if let Some(fatal) = failed {
        return Err(fatal.into());
    }
    batch.put(Family::Meta, KEY, &encode(&next));
    Ok(GcStep { batch, next: (!next.is_done()).then_some(next) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_walk_starts_where_the_last_one_ended_and_waits_for_the_rows() {
        assert_eq!(plan(None, -1, 9), None);
        assert_eq!(plan(None, 0, 9), None, "there is no row at revision 0");
        assert_eq!(plan(None, 7, 6), None, "rows up to 7 are not all there");
        let first = plan(None, 7, 7).unwrap();
        assert_eq!(first, GcState { from: 0, to: 7, cursor: Revision::start_of(0) });
        assert_eq!(plan(Some(first), 9, 9), Some(first), "the walk under way is finished first");
        let done = GcState { cursor: Revision::start_of(8), ..first };
        assert!(done.is_done());
        assert_eq!(plan(Some(done), 7, 9), None);
        assert_eq!(plan(Some(done), 9, 9), Some(GcState { from: 7, to: 9, cursor: Revision::start_of(7) }));
    }

    proptest! {
        #[test]
        fn a_position_reads_back(from in 0i64..1000, length in 1i64..1000, done in 0i64..1001, sub: u32) {
            let state = GcState { from, to: from + length, cursor: Revision { main: from + done, sub } };
            prop_assert_eq!(decode(&encode(&state)), Some(state));
        }

        #[test]
        fn any_bytes_are_a_position_or_refused(row in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&row);
        }
    }
}
