//! Opens what a member keeps: the data directory, the engine, the log.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use folkmoot_core::apply::meta::Applied;
use folkmoot_core::cluster::Member;
use folkmoot_core::env::Engine as _;
use folkmoot_core::error::Fatal;
use folkmoot_core::node::{Bootstrap, bootstrap};
use folkmoot_core::wal::Recovered;
use folkmoot_storage::{DataDir, DirIdentity, OpenOptions, RocksEngine, RocksOptions, Wal, WalOptions};

use super::StartError;
use crate::config::Settings;
use crate::identity;

/// A member's opened store.
pub struct Opened {
    /// The directory; nobody else can open it while this lives.
    pub dir: Arc<DataDir>,
    /// The rows.
    pub engine: Arc<RocksEngine>,
    /// The log, ready to be written.
    pub wal: Wal,
    /// What the log holds beyond the rows.
    pub recovered: Recovered,
    /// Whose it is.
    pub identity: DirIdentity,
    /// Which start of this member it is.
    pub boot: u64,
}

/// Opens the store, or makes one for a new member alone.
///
/// # Errors
/// Whatever keeps the directory from being used; nothing was changed then that matters.
pub fn open(settings: &Settings) -> Result<Opened, StartError> {
    let config = &settings.config;
    let new = identity::alone(&settings.advertise_peer, &config.initial_cluster_token);
    // The settings say who a new member will be; an existing one stays who it is.
    let options = OpenOptions { create: Some(new), ..OpenOptions::default() };
    let dir = DataDir::open(&config.data_dir, options)?;
    let identity = dir.identity();
    let engine = RocksEngine::open(&dir.db_dir(), RocksOptions::default())?;
    let applied = match Applied::load(&engine)? {
        Some(applied) => applied,
        None => {
            make_first_rows(settings, identity, &engine)?;
            Applied::load(&engine)?
                .ok_or_else(|| Fatal::Damaged("the first rows were written and are not there".into()))?
        }
    };
    let wal_options = WalOptions { discard_through: applied.index, ..WalOptions::default() };
    let (wal, recovered) = Wal::open_with(&dir.wal_dir(), identity.into(), wal_options)?;
    tracing::info!(
        "member-id" = %identity.member_id,
        "cluster-id" = %identity.cluster_id,
        "applied-index" = applied.index.0,
        revision = applied.revision,
        "compact-revision" = applied.compact_revision,
        "opened the data directory"
    );
    Ok(Opened { dir: Arc::new(dir), engine: Arc::new(engine), wal, recovered, identity, boot: boot_number() })
}

fn make_first_rows(settings: &Settings, identity: DirIdentity, engine: &RocksEngine) -> Result<(), Fatal> {
    let member = Member {
        id: identity.member_id,
        name: String::new(),
        peer_urls: settings.advertise_peer.clone(),
        client_urls: Vec::new(),
        learner: false,
    };
    bootstrap(engine, &Bootstrap { cluster_id: identity.cluster_id, members: vec![member] })?;
    Ok(engine.flush()?)
}

/// Larger than at any start before, unless the clock went back; and even then another number,
/// which is what matters: answers of an earlier start must not pass for answers of this one.
fn boot_number() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
