//! Opens what a member keeps: the data directory, the engine, the log.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use folkmoot_core::apply::meta::Applied;
use folkmoot_core::env::Engine as _;
use folkmoot_core::error::Fatal;
use folkmoot_core::node::{Bootstrap, bootstrap};
use folkmoot_core::types::LogIndex;
use folkmoot_core::wal::Recovered;
use folkmoot_peer::PeerMember;
use folkmoot_storage::{
    DataDir, DirIdentity, EngineSlot, OpenOptions, RocksEngine, RocksOptions, Wal, WalOptions,
};

use super::StartError;
use crate::config::{ClusterState, Settings};
use crate::{identity, peer};

/// A member's opened store.
pub struct Opened {
    /// The directory; nobody else can open it while this lives.
    pub dir: Arc<DataDir>,
    /// The rows.
    pub engine: Arc<EngineSlot>,
    /// The log, ready to be written.
    pub wal: Wal,
    /// What the log holds beyond the rows.
    pub recovered: Recovered,
    /// Whose it is.
    pub identity: DirIdentity,
    /// Which start of this member it is.
    pub boot: u64,
    /// Where the members are of a cluster that this one joins.
    pub contacts: Vec<PeerMember>,
}

/// Who a member without data is going to be.
struct Beginner {
    identity: DirIdentity,
    first_rows: Bootstrap,
    contacts: Vec<PeerMember>,
}

/// Opens the store, or makes one for a member that starts with a new cluster or joins one.
///
/// # Errors
/// Whatever keeps the directory from being used; nothing was changed then that matters.
pub fn open(settings: &Settings) -> Result<Opened, StartError> {
    let config = &settings.config;
    // An existing member stays who it is; only one without data is told by the settings, and may
    // have to ask the others.
    let has_data = DataDir::has_data(&config.data_dir)?;
    let mut beginner = if has_data { None } else { Some(begin(settings)?) };
    let create = beginner.as_ref().map(|beginner| beginner.identity);
    let dir = DataDir::open(&config.data_dir, OpenOptions { create, ..OpenOptions::default() })?;
    let identity = dir.identity();
    let engine = RocksEngine::open(&dir.db_dir(), RocksOptions::default())?;
    let applied = match Applied::load(&engine)? {
        Some(applied) => applied,
        None => {
            // Also after a first start that was cut short.
            let beginner = match &mut beginner {
                Some(beginner) => beginner,
                None => beginner.insert(begin(settings)?),
            };
            bootstrap(&engine, &beginner.first_rows)?;
            engine.flush().map_err(Fatal::Engine)?;
            Applied::load(&engine)?
                .ok_or_else(|| Fatal::Damaged("the first rows were written and are not there".into()))?
        }
    };
    if applied.conf_state.voters.is_empty() && beginner.is_none() {
        // It was stopped before it heard from the cluster that it joins.
        beginner = Some(begin(settings)?);
    }
    // Followers that lag a little are served from the log, also after a restart.
    let alone = applied.conf_state.voters.len() + applied.conf_state.learners.len() <= 1;
    let kept = if alone { 0 } else { config.snapshot_catchup_entries };
    let discard_through = LogIndex(applied.index.0.saturating_sub(kept));
    let wal_options = WalOptions { discard_through, ..WalOptions::default() };
    let (wal, recovered) = Wal::open_with(&dir.wal_dir(), identity.into(), wal_options)?;
    tracing::info!(
        "member-id" = %identity.member_id,
        "cluster-id" = %identity.cluster_id,
        "applied-index" = applied.index.0,
        revision = applied.revision,
        "compact-revision" = applied.compact_revision,
        "opened the data directory"
    );
    let boot = boot_number(&dir)?;
    Ok(Opened {
        dir: Arc::new(dir),
        engine: Arc::new(EngineSlot::new(Arc::new(engine))),
        wal,
        recovered,
        identity,
        boot,
        contacts: beginner.map_or_else(Vec::new, |beginner| beginner.contacts),
    })
}

fn begin(settings: &Settings) -> Result<Beginner, StartError> {
    let (cluster, name) = (&settings.initial_cluster, &settings.config.name);
    match settings.cluster_state {
        ClusterState::New => {
            let new = identity::of_new_cluster(cluster, name, &settings.config.initial_cluster_token)?;
            peer::check_not_bootstrapped(cluster, name, new.identity)?;
            let first_rows = Bootstrap { cluster_id: new.identity.cluster_id, members: new.members };
            Ok(Beginner { identity: new.identity, first_rows, contacts: Vec::new() })
        }
        ClusterState::Existing => {
            let (identity, info) = peer::find_cluster(cluster, name)?;
            let contacts = peer::contacts(info);
            let first_rows = Bootstrap { cluster_id: identity.cluster_id, members: Vec::new() };
            Ok(Beginner { identity, first_rows, contacts })
        }
    }
}

/// Larger than at any start before: answers of an earlier start must not pass for answers of this one.
fn boot_number(dir: &DataDir) -> Result<u64, StartError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(dir.next_boot(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))?)
}
