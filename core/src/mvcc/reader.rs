//! Reads on other threads.
//!
//! A reader takes the store's lock just long enough to pick records, or for larger reads to take
//! a snapshot of the index, and asks the engine without it. A value that is not in memory is in
//! the engine, unless the key was overwritten *and* compacted *and* its row removed since the
//! record was picked; the read then starts again on the newer state, at last with the lock held,
//! where that cannot happen.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLockReadGuard;

use super::compare::{self, branch};
use super::index::Tree;
use super::range::{self, View};
use super::request::{RangeRequest, RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse};
use super::rows::Version;
use super::store::{Miss, Shared, State};
use super::txn::check_txn_range;
use crate::env::Engine;
use crate::error::{Error, Failure};
use crate::types::KeyRange;

/// Reads without the lock held before one with it.
const FREE_ATTEMPTS: usize = 3;
/// Up to this many records are copied under the lock; above, a snapshot of the index is cheaper
/// than the time for which the writer would wait.
const RECORDS_UNDER_LOCK: usize = 128;

/// A handle for reads on any thread. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(super) fn state(&self) -> Result<RwLockReadGuard<'_, State>, Failure> {
        let state = self.shared.state.read();
        state.check_whole()?;
        Ok(state)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.shared.state.read().epoch
    }

    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.shared.state.read().revision
    }

    /// The compacted revision, -1 if never compacted.
    pub fn compact_revision(&self) -> i64 {
        self.shared.state.read().compact_revision
    }

    /// Everything up to this revision is in the engine.
    pub fn stored_revision(&self) -> i64 {
        self.shared.state.read().stored_revision
    }

    /// Number of live keys.
    pub fn key_count(&self) -> usize {
        self.shared.state.read().tree.len()
    }

    /// Reads an interval on the newest state of this member.
    ///
    /// # Errors
    /// `FutureRev`, `Compacted`.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        let engine = self.shared.engine.as_ref();
        for _ in 0..FREE_ATTEMPTS {
            let state = self.state()?;
            let epoch = state.epoch;
            let view = state.view(engine);
            let at = view.resolve(request.revision)?;
            let answer = if at == state.revision && few_records(&view, request) {
                let selected = view.select(request);
                drop(state);
                selected.and_then(|selected| range::fill(engine, request, selected))
            } else {
                let mut snapshot = Snapshot::of(&state, at);
                if at < state.revision {
                    // The past is not in the index; holding it would make the writer copy nodes.
                    snapshot.tree = Tree::default();
                }
                drop(state);
                snapshot.view(engine).range(request)
            };
            match answer {
                // The rows were replaced under the read.
                Ok(_) if self.epoch() != epoch => {}
                Ok(response) => {
                    // Rows may have gone under a read of the past.
                    if at < response.revision && at < self.compact_revision() {
                        return Err(Error::Compacted.into());
                    }
                    return Ok(response);
                }
                Err(Miss::Gone) => {}
                Err(Miss::Failure(failure)) => return Err(failure),
            }
        }
        self.state()?.view(engine).range(request).map_err(Miss::or_damaged)
    }

    /// Runs a transaction that only reads ([`super::validate::is_read_only`]), all of it on one
    /// state.
    ///
    /// # Errors
    /// `FutureRev`, `Compacted`; `KeyNotFound` for an operation other than a range.
    pub fn txn_read_only(&self, request: &TxnRequest) -> Result<TxnResponse, Failure> {
        let engine = self.shared.engine.as_ref();
        for _ in 0..FREE_ATTEMPTS {
            let state = self.state()?;
            let epoch = state.epoch;
            let snapshot = Snapshot::of(&state, oldest_revision(request).unwrap_or(state.revision));
            drop(state);
            match run(&snapshot.view(engine), request) {
                Ok(_) if self.epoch() != epoch => {}
                Ok(response) => {
                    let compact_revision = self.compact_revision();
                    if oldest_revision(request).is_some_and(|oldest| oldest < compact_revision) {
                        continue;
                    }
                    return Ok(response);
                }
                Err(Miss::Gone) => {}
                Err(Miss::Failure(failure)) => return Err(failure),
            }
        }
        let state = self.state()?;
        run(&state.view(engine), request).map_err(Miss::or_damaged)
    }
}

fn run(view: &View<'_>, request: &TxnRequest) -> Result<TxnResponse, Miss> {
    let path = compare::choose(view, request)?;
    let succeeded = path.first().copied().unwrap_or(true);
    let mut ranges = Vec::new();
    for op in branch(request, succeeded) {
        let RequestOp::Range(range) = op else { return Err(Error::KeyNotFound.into()) };
        check_txn_range(view, range)?;
        ranges.push(range);
    }
    let responses = ranges
        .into_iter()
        .map(|range| Ok(ResponseOp::Range(view.range(range)?)))
        .collect::<Result<_, Miss>>()?;
    Ok(TxnResponse { revision: view.current(), succeeded, responses })
}

/// The smallest revision that a range of either branch names.
fn oldest_revision(request: &TxnRequest) -> Option<i64> {
    let named = |op: &RequestOp| match op {
        RequestOp::Range(range) if range.revision > 0 => Some(range.revision),
        _ => None,
    };
    request.success.iter().chain(&request.failure).filter_map(named).min()
}

fn few_records(view: &View<'_>, request: &RangeRequest) -> bool {
    if request.range_end.is_empty() || range::keys_wanted(request) <= RECORDS_UNDER_LOCK {
        return true;
    }
    let keys = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
    view.tree.count(&keys) <= RECORDS_UNDER_LOCK
}

/// A state that does not change any more.
struct Snapshot {
    tree: Tree,
    unstored: VecDeque<Version<Bytes>>,
    revision: i64,
    compact_revision: i64,
    stored_revision: i64,
}

impl Snapshot {
    /// Good for reads at the current revision and from `oldest` on.
    fn of(state: &State, oldest: i64) -> Self {
        // Reads of what the engine has do without the changes that it does not have yet, and
        // those of the current revision use the index.
        let needs_unstored = oldest < state.revision && state.revision > state.stored_revision;
        Self {
            tree: state.tree.clone(),
            unstored: if needs_unstored { state.unstored.clone() } else { VecDeque::new() },
            revision: state.revision,
            compact_revision: state.compact_revision,
            stored_revision: state.stored_revision,
        }
    }

    fn view<'a>(&'a self, engine: &'a dyn Engine) -> View<'a> {
        View {
            engine,
            tree: &self.tree,
            unstored: &self.unstored,
            revision: self.revision,
            compact_revision: self.compact_revision,
            stored_revision: self.stored_revision,
            written: false,
        }
    }
}
