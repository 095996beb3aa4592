//! A new member from a backup archive.
//!
//! The keys, their history and the leases come back as they were. The cluster is the initial one
//! of the settings, each of whose members is restored from the same backup. Ids come from the peer
//! URLs and the cluster token, so a token that was not used before keeps the restored store from
//! being taken for the one the backup was made of.
//! Alarms are left behind: they were about members that do not exist any more.

use std::path::Path;

use folkmoot_core::apply::meta::Applied;
use folkmoot_core::cluster::rows;
use folkmoot_core::env::{Engine as _, Family, MemoryEngine, WriteBatch};
use folkmoot_core::node::{Bootstrap, begin_anew};
use folkmoot_core::types::{LogIndex, Term};
use folkmoot_core::wal::LogPoint;
use folkmoot_storage::StorageError;
use folkmoot_storage::archive::{self, RestoreOptions, RestoreRow};

use crate::config::{Config, ConfigError};
use crate::identity;
use crate::version::CLUSTER_VERSION;

/// Why a backup could not be restored. Nothing was made then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The settings of the new member do not fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The archive or the directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: u64,
    /// The new member.
    pub member_id: u64,
    /// The store's revision.
    pub revision: i64,
    /// Rows of all kinds.
    pub row_count: u64,
}

/// Makes the data directory that `config` names, which must not exist or be empty, from the
/// archive. A server with the same configuration can then be started on it.
///
/// # Errors
/// Nothing is left at the directory then.
pub fn restore(archive: &Path, config: &Config) -> Result<Restored, RestoreError> {
    let settings = config.validate()?;
    let token = &config.initial_cluster_token;
    let cluster = identity::of_new_cluster(&settings.initial_cluster, &config.name, token)?;
    let identity = cluster.identity;
    let options = RestoreOptions { identity, log_start: LogPoint { index: LogIndex(0), term: Term(0) } };
    let found = MemoryEngine::new();
    let summary = archive::restore(archive, &config.data_dir, options, &mut |row, batch| match row {
        RestoreRow::Row { family: Family::Meta, key, value } => {
            let mut copy = WriteBatch::new();
            copy.put(Family::Meta, key, value);
            batch.append(&copy);
            found.write(&copy).map_err(|error| error.to_string())
        }
        // The cluster is written anew.
        RestoreRow::Row { .. } => Ok(()),
        RestoreRow::End => {
            let before = Applied::load(&found)
                .map_err(|error| error.to_string())?
                .ok_or("it holds no applied position, so it was not made by this program")?;
            let members = cluster.members.clone();
            begin_anew(batch, before, &Bootstrap { cluster_id: identity.cluster_id, members });
            rows::put_cluster_version(batch, CLUSTER_VERSION);
            Ok(())
        }
    })?;
    Ok(Restored {
        cluster_id: identity.cluster_id.0,
        member_id: identity.member_id.0,
        revision: summary.header.revision,
        row_count: summary.rows(),
    })
}
