//! Checksums of the history, byte for byte etcd's, so that members and a real etcd can be
//! compared.
//!
//! `HashKV(R)` is the CRC-32C over `key` and then, for each stored revision up to R in order,
//! etcd's row: `be64 main '_' be64 sub ['t']` and the `mvccpb.KeyValue` message, which for a
//! tombstone holds the key alone.
//!
//! Of the revisions up to the compact revision C etcd hashes only the puts that are still live
//! at R, even though its rows include all that are live at C; but if no key is live at R, it
//! hashes those that are live at C. Tombstones at C are left out. Which rows have been removed
//! physically makes no difference here.

use bytes::{BufMut, Bytes};
use hashbrown::HashMap;

use super::gc;
use super::reader::Reader;
use super::rows::{self, Version};
use crate::command::put_uv;
use crate::env::{Engine, Family, ScanStep};
use crate::error::{Error, Failure, Fatal};
use crate::types::{LeaseId, Revision};

/// A checksum of the history and what it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashKv {
    /// CRC-32C.
    pub hash: u32,
    /// The revision that it goes up to.
    pub hash_revision: i64,
    /// The compacted revision it was made at, -1 if never compacted. Hashes of members are
    /// comparable if this and `hash_revision` are equal.
    pub compact_revision: i64,
    /// The store's revision.
    pub revision: i64,
}

/// The part of the history that one checksum covers.
struct Span {
    /// Up to this main revision.
    revision: i64,
    /// Up to this one the engine has everything.
    stored_revision: i64,
    unstored: Vec<Version<Bytes>>,
}

impl Span {
    /// Visits all versions, in order: those of the engine from `from` on, and the unstored ones.
    /// The latter may already be in the engine, and the walk of physical compaction past them,
    /// when their being stored has not been reported yet.
    fn each(
        &self,
        engine: &dyn Engine,
        from: Revision,
        visit: &mut dyn FnMut(&Version<&[u8]>),
    ) -> Result<(), Fatal> {
        let last = self.revision.min(self.stored_revision);
        if last >= from.main {
            let (start, end) = (rows::rev_key(from), rows::rev_key(Revision::start_of(last + 1)));
            let mut failed = None;
            engine.scan(
                Family::Rev,
                &start,
                Some(&end),
                &mut |key, row| match rows::decode_rev(key, row) {
                    Ok(version) => {
                        visit(&version);
                        ScanStep::Next
                    }
                    Err(fatal) => {
                        failed = Some(fatal);
                        ScanStep::Stop
                    }
                },
            )?;
            if let Some(fatal) = failed {
                return Err(fatal);
            }
        }
        for version in &self.unstored {
            let Version { revision, tombstone, create_revision, version, lease, prev, key, value } = version;
            visit(&Version {
                revision: *revision,
                tombstone: *tombstone,
                create_revision: *create_revision,
                version: *version,
                lease: *lease,
                prev: *prev,
                key: key.as_ref(),
                value: value.as_ref(),
            });
        }
        Ok(())
    }
}

impl Reader {
    /// The checksum of the history up to `revision`, 0 for the current one.
    ///
    /// # Errors
    /// `Compacted`, `FutureRev`. A negative revision hashes nothing, as in etcd.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Failure> {
        loop {
            let (span, compact_revision, current, epoch) = {
                let state = self.state()?;
                if revision > 0 && revision < state.compact_revision {
                    return Err(Error::Compacted.into());
                }
                if revision > state.revision {
                    return Err(Error::FutureRev.into());
                }
                let revision = if revision == 0 { state.revision } else { revision };
                let unstored =
                    state.unstored.iter().take_while(|version| version.revision.main <= revision).cloned();
                let span =
                    Span { revision, stored_revision: state.stored_revision, unstored: unstored.collect() };
                (span, state.compact_revision, state.revision, state.epoch)
            };
            let hash = hash_span(self.shared.engine.as_ref(), &span, compact_revision)?;
            // A compaction meanwhile may have taken rows away.
            if self.compact_revision() == compact_revision && self.epoch() == epoch {
                let hash_revision = span.revision;
                return Ok(HashKv { hash, hash_revision, compact_revision, revision: current });
            }
        }
    }

    /// A checksum over everything in the engine except how far it is. Not comparable with etcd's.
    pub fn hash_all(&self) -> Result<u32, Failure> {
        let mut hash = 0;
        for family in Family::ALL.into_iter().filter(|family| *family != Family::Meta) {
            hash = crc32c::crc32c_append(hash, family.name().as_bytes());
            self.shared.engine.scan(family, &[], None, &mut |key, row| {
                hash = crc32c::crc32c_append(hash, key);
                hash = crc32c::crc32c_append(hash, row);
                ScanStep::Next
            })?;
        }
        Ok(hash)
    }
}

fn hash_span(engine: &dyn Engine, span: &Span, compact_revision: i64) -> Result<u32, Fatal> {
    // The versions up to the compact revision that something up to R supersedes, with whether
    // something up to the compact revision does. What rows before the cursor of physical
    // compaction superseded is gone already.
    let mut superseded: HashMap<Revision, bool> = HashMap::new();
    if compact_revision > 0 {
        let start = gc::load(engine)?.map_or(Revision::default(), |walk| walk.cursor);
        span.each(engine, start, &mut |version| {
            if let Some(prev) = version.prev.filter(|prev| prev.main <= compact_revision) {
                superseded.insert(prev, version.revision.main <= compact_revision);
            }
        })?;
    }

    let mut buf = Vec::new();
    let mut live_count = 0i64;
    let mut hash = crc32c::crc32c(b"key");
    // The same with all that is live at the compact revision, once the two differ.
    let mut hash_if_empty: Option<u32> = None;
    span.each(engine, Revision::default(), &mut |version| {
        let old = version.revision.main <= compact_revision;
        let superseded = if old { superseded.get(&version.revision).copied() } else { None };
        if (old && version.tombstone) || superseded == Some(true) {
            return;
        }
        buf.clear();
        etcd_row(&mut buf, version);
        if superseded == Some(false) {
            hash_if_empty = Some(crc32c::crc32c_append(hash_if_empty.unwrap_or(hash), &buf));
            return;
        }
        hash = crc32c::crc32c_append(hash, &buf);
        hash_if_empty = hash_if_empty.map(|hash| crc32c::crc32c_append(hash, &buf));
        // Every put is live until a version names it. Those named by versions up to R among the
        // old ones were left out above.
        live_count += i64::from(!version.tombstone);
        if !old && version.prev.is_some_and(|prev| prev.main > compact_revision) {
            live_count -= 1;
        }
    })?;
    Ok(if live_count == 0 { hash_if_empty.unwrap_or(hash) } else { hash })
}

/// Appends a version as etcd stores it.
fn etcd_row(buf: &mut Vec<u8>, version: &Version<&[u8]>) {
    buf.put_i64(version.revision.main);
    buf.put_u8(b'_');
    buf.put_i64(i64::from(version.revision.sub));
    if version.tombstone {
        buf.put_u8(b't');
        bytes_field(buf, 1, version.key);
        return;
    }
    bytes_field(buf, 1, version.key);
    int_field(buf, 2, version.create_revision);
    int_field(buf, 3, version.revision.main);
    int_field(buf, 4, version.version);
    bytes_field(buf, 5, version.value);
    int_field(buf, 6, LeaseId::to_wire(version.lease));
}

fn bytes_field(buf: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        buf.put_u8(field << 3 | 2);
        put_uv(buf, bytes.len() as u64);
        buf.put_slice(bytes);
    }
}

fn int_field(buf: &mut Vec<u8>, field: u8, number: i64) {
    if number != 0 {
        buf.put_u8(field << 3);
        put_uv(buf, number.cast_unsigned());
    }
}
