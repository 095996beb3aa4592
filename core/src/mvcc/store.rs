//! The store: the index, the revisions, and what is not in the engine yet.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::index::{Live, Tree};
use super::range::View;
use super::reader::Reader;
use super::rows::{self, Version};
use super::txn::Txn;
use super::values::Values;
use crate::env::{Engine, EngineError, WriteBatch};
use crate::error::{Error, Failure, Fatal};
use crate::limits::VALUE_CACHE_BYTES_DEFAULT;
use crate::mutant::mutant;
use crate::types::{KeyRange, LeaseId};

/// Options of a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of stored values kept in memory beside the index.
    pub value_cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { value_cache_bytes: VALUE_CACHE_BYTES_DEFAULT }
    }
}

/// What writer and readers share, behind one lock. The writer holds it for one command.
pub(super) struct State {
    pub tree: Tree,
    pub revision: i64,
    pub compact_revision: i64,
    /// Everything up to this main revision is in the engine.
    pub stored_revision: i64,
    /// The changes above `stored_revision`, oldest first.
    pub unstored: VecDeque<Version<Bytes>>,
    pub values: Values,
    /// A command was interrupted half-way by a failing engine.
    pub broken: bool,
    /// The engine's rows are being replaced: nothing can be read.
    pub closed: bool,
    /// How often they were; what was read over a change of this is worth nothing.
    pub epoch: u64,
}

impl State {
    pub fn check_whole(&self) -> Result<(), Failure> {
        if self.broken {
            let reason = "a command was interrupted, the key store is not whole";
            return Err(Fatal::Damaged(reason.into()).into());
        }
        if self.closed {
            // Clients try another member, or this one again.
            return Err(Error::Timeout.into());
        }
        Ok(())
    }

    /// The state as reads see it between commands.
    pub fn view<'a>(&'a self, engine: &'a dyn Engine) -> View<'a> {
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

pub(super) struct Shared {
    pub engine: Arc<dyn Engine>,
    pub state: RwLock<State>,
}

/// The keys and their history; owned by the thread that applies commands.
pub struct Store {
    pub(super) shared: Arc<Shared>,
    /// Buffer for row keys, kept between commands.
    pub(super) scratch: Vec<u8>,
}

impl Store {
    /// Builds the index from the rows of `engine`, which hold everything up to `revision`.
    ///
    /// `revision` and `compact_revision` are what was recorded beside the rows: 1 and -1 for a
    /// new store.
    ///
    /// # Errors
    /// The engine fails, a row cannot be read, or a row is newer than `revision`.
    pub fn open(
        engine: Arc<dyn Engine>,
        revision: i64,
        compact_revision: i64,
        options: Options,
    ) -> Result<Self, Fatal> {
        let tree = load_tree(engine.as_ref(), revision, compact_revision)?;
        let revision = match mutant!("revision_is_derived_from_the_rows_left") {
            true => tree.iter().map(|live| live.mod_main).max().unwrap_or(1),
            false => revision,
        };
        let state = State {
            tree,
            revision,
            compact_revision,
            stored_revision: revision,
            unstored: VecDeque::new(),
            values: Values::new(options.value_cache_bytes),
            broken: false,
            closed: false,
            epoch: 0,
        };
        Ok(Self { shared: Arc::new(Shared { engine, state: RwLock::new(state) }), scratch: Vec::new() })
    }

    /// The rows.
    pub fn engine(&self) -> &dyn Engine {
        self.shared.engine.as_ref()
    }

    /// The engine's rows are about to be replaced: readers get no answers until
    /// [`Self::reopen`].
    pub fn close(&mut self) {
        let mut state = self.shared.state.write();
        state.closed = true;
        state.epoch += 1;
    }

    /// Builds the index anew from the engine's new rows; readers go on with it.
    ///
    /// # Errors
    /// As [`Self::open`]. The store stays closed then.
    pub fn reopen(&mut self, revision: i64, compact_revision: i64, options: Options) -> Result<(), Fatal> {
        let tree = load_tree(self.shared.engine.as_ref(), revision, compact_revision)?;
        let mut state = self.shared.state.write();
        let epoch = state.epoch;
        *state = State {
            tree,
            revision,
            compact_revision,
            stored_revision: revision,
            unstored: VecDeque::new(),
            values: Values::new(options.value_cache_bytes),
            broken: false,
            closed: false,
            epoch,
        };
        Ok(())
    }

    /// A handle for reads on any thread.
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.shared.state.read().revision
    }

    /// The compacted revision: what is below cannot be read. -1 if never compacted.
    pub fn compact_revision(&self) -> i64 {
        self.shared.state.read().compact_revision
    }

    /// Number of live keys.
    pub fn key_count(&self) -> usize {
        self.shared.state.read().tree.len()
    }

    /// Bytes that values in memory take.
    pub fn value_bytes(&self) -> usize {
        self.shared.state.read().values.bytes()
    }

    /// Starts a command; its rows are added to `rows`. Readers wait until it ends.
    pub fn begin<'a>(&'a mut self, rows: &'a mut WriteBatch) -> Txn<'a> {
        Txn::new(self, rows)
    }

    /// Forgets the history below `revision`. Reads see it at once; the rows go later, through
    /// [`super::gc`]. The caller records the new compact revision beside the rows.
    ///
    /// # Errors
    /// `Compacted` if `revision` is not above the compacted one, `FutureRev` if it is above the
    /// current one.
    pub fn compact(&mut self, revision: i64) -> Result<(), Error> {
        let mut state = self.shared.state.write();
        if revision <= state.compact_revision {
            return Err(Error::Compacted);
        }
        if revision > state.revision {
            return Err(Error::FutureRev);
        }
        state.compact_revision = revision;
        Ok(())
    }

    /// Takes note that the rows of everything up to main revision `revision` are in the engine.
    pub fn stored(&mut self, revision: i64) {
        let mut state = self.shared.state.write();
        let state = &mut *state;
        assert!(
            revision <= state.revision,
            "stored beyond the end; stored={revision} revision={}",
            state.revision
        );
        state.stored_revision = state.stored_revision.max(revision);
        while state.unstored.front().is_some_and(|change| change.revision.main <= revision) {
            let Some(change) = state.unstored.pop_front() else { break };
            if !change.value.is_empty() {
                state.values.stored(&mut state.tree, change.key, change.revision);
            }
        }
    }

    /// Visits every key that hangs on a lease, in key order.
    pub fn for_each_leased(&self, mut visit: impl FnMut(LeaseId, &Bytes)) {
        let state = self.shared.state.read();
        for live in state.tree.iter() {
            if let Some(lease) = live.lease() {
                visit(lease, &live.key);
            }
        }
    }
}

/// The index over the live keys among the rows of `engine`.
fn load_tree(engine: &dyn Engine, revision: i64, compact_revision: i64) -> Result<Tree, Fatal> {
    let mut records = Vec::new();
    let mut too_new = None;
    let everything = KeyRange::From(Bytes::new());
    rows::newest_versions(engine, &everything, i64::MAX, &mut |key, row| {
        if row.revision.main > revision {
            too_new = Some(row.revision.main);
            return ControlFlow::Break(());
        }
        if !row.tombstone {
            records.push(Live {
                key: Bytes::copy_from_slice(key),
                value: (row.value_bytes == 0).then(Bytes::new),
                create_revision: row.create_revision,
                mod_main: row.revision.main,
                version: row.version,
                lease: LeaseId::to_wire(row.lease),
                mod_sub: row.revision.sub,
                value_bytes: row.value_bytes,
            });
        }
        ControlFlow::Continue(())
    })?;
    if let Some(row) = too_new {
        return Err(Fatal::Damaged(format!(
            "a row is newer than the store; row_revision={row} revision={revision}"
        )));
    }
    if compact_revision > revision {
        return Err(Fatal::Damaged(format!(
            "the store is compacted beyond its end; compact_revision={compact_revision} revision={revision}"
        )));
    }
    Ok(Tree::from_sorted(records))
}

/// Why a read did not give an answer.
pub(super) enum Miss {
    /// A version's row is not there: compaction removed it while an old snapshot was being read.
    Gone,
    /// An answer or a fault.
    Failure(Failure),
}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        Self::Failure(error.into())
    }
}

impl From<Fatal> for Miss {
    fn from(fatal: Fatal) -> Self {
        Self::Failure(fatal.into())
    }
}

impl From<EngineError> for Miss {
    fn from(error: EngineError) -> Self {
        Self::Failure(error.into())
    }
}

impl Miss {
    /// The failure where nothing can have been removed in between.
    pub fn or_damaged(self) -> Failure {
        match self {
            Self::Failure(failure) => failure,
            Self::Gone => Fatal::Damaged("the value of a live version is not in the engine".into()).into(),
        }
    }
}
