//! The bytes of versions in the engine.
//!
//! Every change writes two rows:
//!
//! ```text
//! rev  key    be64(main) be32(sub)
//!      value  head | [uv(main - prev main) uv(prev sub)] | uv(key length) | key | value
//! idx  key    escaped key | be64(!main) be32(!sub)       newest version of a key first
//!      value  head | uv(value length)
//! head        flags u8 | uv(main - create) | uv(version) | [lease i64 le]
//! flags       1 tombstone, 2 has a lease, 4 has a previous version
//! ```
//!
//! The escaped key replaces each zero byte by `00 ff` and ends with `00 01`, so that escaped keys
//! sort as the keys do and no row of one key lies among another's.
//!
//! A put that creates a key names no previous version, even if the key existed before: the
//! tombstone between the two does. So every version is named by at most one other. A tombstone
//! keeps create revision, version and lease of the version that it ended.
//!
//! Decoders are total: any bytes give a row or [`Fatal::Damaged`].

use std::ops::ControlFlow;

use bytes::Buf;

use crate::command::{get_uv, put_uv};
use crate::env::{Engine, Family, ScanStep, WriteBatch};
use crate::error::Fatal;
use crate::types::{KeyRange, LeaseId, Revision};

const TOMBSTONE: u8 = 1;
const LEASE: u8 = 2;
const PREV: u8 = 4;

/// Length of a `rev` key, and of the revision at the end of an `idx` key.
const REVISION_BYTES: usize = 12;
/// More than a head, a previous revision and a length can take.
const HEAD_BYTES_MAX: usize = 64;
/// After this many rows of no interest a scan seeks instead of stepping.
const STEPS_BEFORE_SEEK: usize = 8;

/// One version of a key. `B` is `Bytes` or `&[u8]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Version<B> {
    /// Where it stands in the history.
    pub revision: Revision,
    /// The key was deleted here.
    pub tombstone: bool,
    /// Main revision of the put that created the key.
    pub create_revision: i64,
    /// Puts since creation.
    pub version: i64,
    /// The lease.
    pub lease: Option<LeaseId>,
    /// The version that this one superseded; `None` for a put that created the key.
    pub prev: Option<Revision>,
    /// The key.
    pub key: B,
    /// The value, empty for a tombstone.
    pub value: B,
}

/// What an `idx` row says beside the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IdxRow {
    /// Where the version stands in the history.
    pub revision: Revision,
    /// The key was deleted here.
    pub tombstone: bool,
    /// Main revision of the put that created the key.
    pub create_revision: i64,
    /// Puts since creation.
    pub version: i64,
    /// The lease.
    pub lease: Option<LeaseId>,
    /// Length of the value.
    pub value_bytes: u32,
}

fn damaged(what: &str, row: &[u8]) -> Fatal {
    let start = &row[..row.len().min(64)];
    Fatal::Damaged(format!("{what}; row={}", start.escape_ascii()))
}

/// The `rev` key of a revision.
pub(super) fn rev_key(revision: Revision) -> [u8; REVISION_BYTES] {
    debug_assert!(revision.main >= 0);
    let mut key = [0; REVISION_BYTES];
    key[..8].copy_from_slice(&revision.main.cast_unsigned().to_be_bytes());
    key[8..].copy_from_slice(&revision.sub.to_be_bytes());
    key
}

/// Reads a `rev` key.
pub(super) fn decode_rev_key(key: &[u8]) -> Result<Revision, Fatal> {
    let bad = || damaged("a revision key cannot be read", key);
    let key: [u8; REVISION_BYTES] = key.try_into().map_err(|_| bad())?;
    let (main, sub) = key.split_at(8);
    let main = u64::from_be_bytes(main.try_into().expect("eight bytes"));
    Ok(Revision {
        main: i64::try_from(main).map_err(|_| bad())?,
        sub: u32::from_be_bytes(sub.try_into().expect("four bytes")),
    })
}

/// Appends the escaped key with its end mark.
fn escape(buf: &mut Vec<u8>, key: &[u8]) {
    let mut rest = key;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        buf.extend_from_slice(&rest[..zero]);
        buf.extend_from_slice(&[0, 0xff]);
        rest = &rest[zero + 1..];
    }
    buf.extend_from_slice(rest);
    buf.extend_from_slice(&[0, 1]);
}

/// Reads an escaped key with its end mark into `key`.
fn unescape(escaped: &[u8], key: &mut Vec<u8>) -> Result<(), Fatal> {
    key.clear();
    let mut rest = escaped;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        key.extend_from_slice(&rest[..zero]);
        match &rest[zero + 1..] {
            [0xff, after @ ..] => {
                key.push(0);
                rest = after;
            }
            [1] => return Ok(()),
            _ => break,
        }
    }
    Err(damaged("the key of an index row cannot be read", escaped))
}

/// Writes the `idx` key of a version into `buf`.
pub(super) fn idx_key(buf: &mut Vec<u8>, key: &[u8], revision: Revision) {
    buf.clear();
    escape(buf, key);
    push_idx_revision(buf, revision);
}

fn push_idx_revision(buf: &mut Vec<u8>, revision: Revision) {
    buf.extend(rev_key(revision).map(|byte| !byte));
}

fn decode_idx_revision(suffix: &[u8]) -> Result<Revision, Fatal> {
    let mut key = [0; REVISION_BYTES];
    if suffix.len() != REVISION_BYTES {
        return Err(damaged("the revision of an index row cannot be read", suffix));
    }
    for (to, from) in key.iter_mut().zip(suffix) {
        *to = !from;
    }
    decode_rev_key(&key)
}

/// A small buffer on the stack.
struct Short {
    bytes: [u8; HEAD_BYTES_MAX],
    len: usize,
}

impl Short {
    fn head<B>(version: &Version<B>) -> Self {
        let mut short = Self { bytes: [0; HEAD_BYTES_MAX], len: 0 };
        let mut free = &mut short.bytes[..];
        let mut flags = 0;
        for (flag, set) in
            [(TOMBSTONE, version.tombstone), (LEASE, version.lease.is_some()), (PREV, version.prev.is_some())]
        {
            flags |= if set { flag } else { 0 };
        }
        bytes::BufMut::put_u8(&mut free, flags);
        put_uv(&mut free, (version.revision.main - version.create_revision).cast_unsigned());
        put_uv(&mut free, version.version.cast_unsigned());
        if let Some(lease) = version.lease {
            bytes::BufMut::put_i64_le(&mut free, lease.get());
        }
        short.len = HEAD_BYTES_MAX - free.len();
        short
    }

    fn uv(&mut self, number: u64) {
        let mut free = &mut self.bytes[self.len..];
        put_uv(&mut free, number);
        self.len = HEAD_BYTES_MAX - free.len();
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Adds both rows of a version. `scratch` is any buffer, kept to save an allocation.
pub(super) fn put_version<B: AsRef<[u8]>>(
    rows: &mut WriteBatch,
    scratch: &mut Vec<u8>,
    version: &Version<B>,
) {
    let (key, value) = (version.key.as_ref(), version.value.as_ref());
    let head = Short::head(version);

    let mut idx_value = Short { bytes: head.bytes, len: head.len };
    idx_value.uv(value.len() as u64);
    idx_key(scratch, key, version.revision);
    rows.put(Family::Idx, scratch, idx_value.as_slice());

    let mut rev_head = head;
    if let Some(prev) = version.prev {
        rev_head.uv((version.revision.main - prev.main).cast_unsigned());
        rev_head.uv(u64::from(prev.sub));
    }
    rev_head.uv(key.len() as u64);
    rows.put_parts(Family::Rev, &rev_key(version.revision), &[rev_head.as_slice(), key, value]);
}

/// Removes both rows of a version.
pub(super) fn delete_version(rows: &mut WriteBatch, scratch: &mut Vec<u8>, key: &[u8], revision: Revision) {
    idx_key(scratch, key, revision);
    rows.delete(Family::Idx, scratch);
    rows.delete(Family::Rev, &rev_key(revision));
}

struct Head {
    flags: u8,
    create_revision: i64,
    version: i64,
    lease: Option<LeaseId>,
}

fn get_head(rest: &mut &[u8], main: i64) -> Option<Head> {
    if rest.is_empty() {
        return None;
    }
    let flags = rest.get_u8();
    if flags & !(TOMBSTONE | LEASE | PREV) != 0 {
        return None;
    }
    let age = i64::try_from(get_uv(rest)?).ok()?;
    let version = i64::try_from(get_uv(rest)?).ok()?;
    let lease = match flags & LEASE {
        0 => None,
        _ if rest.len() < 8 => return None,
        _ => Some(LeaseId::from_wire(rest.get_i64_le())?),
    };
    let create_revision = main.checked_sub(age).filter(|create| *create >= 0)?;
    Some(Head { flags, create_revision, version, lease })
}

/// Reads a row of the family `rev`.
pub(super) fn decode_rev<'a>(key: &[u8], row: &'a [u8]) -> Result<Version<&'a [u8]>, Fatal> {
    let revision = decode_rev_key(key)?;
    decode_rev_value(revision, row).ok_or_else(|| {
        let Revision { main, sub } = revision;
        damaged(&format!("a version cannot be read; revision={main} sub={sub}"), row)
    })
}

fn decode_rev_value(revision: Revision, row: &[u8]) -> Option<Version<&[u8]>> {
    let mut rest = row;
    let head = get_head(&mut rest, revision.main)?;
    let prev = if head.flags & PREV == 0 {
        None
    } else {
        let back = i64::try_from(get_uv(&mut rest)?).ok()?;
        let main = revision.main.checked_sub(back).filter(|main| *main >= 0)?;
        let prev = Revision { main, sub: u32::try_from(get_uv(&mut rest)?).ok()? };
        // A version supersedes an earlier one; this also ends walks along previous versions.
        Some(prev).filter(|prev| *prev < revision)?.into()
    };
    let key_bytes = usize::try_from(get_uv(&mut rest)?).ok()?;
    let (key, value) = rest.split_at_checked(key_bytes)?;
    let tombstone = head.flags & TOMBSTONE != 0;
    if tombstone && !value.is_empty() {
        return None;
    }
    Some(Version {
        revision,
        tombstone,
        create_revision: head.create_revision,
        version: head.version,
        lease: head.lease,
        prev,
        key,
        value,
    })
}

fn decode_idx_value(revision: Revision, row: &[u8]) -> Option<IdxRow> {
    let mut rest = row;
    let head = get_head(&mut rest, revision.main)?;
    let value_bytes = u32::try_from(get_uv(&mut rest)?).ok()?;
    rest.is_empty().then_some(IdxRow {
        revision,
        tombstone: head.flags & TOMBSTONE != 0,
        create_revision: head.create_revision,
        version: head.version,
        lease: head.lease,
        value_bytes,
    })
}

/// Visits the newest version at or below main revision `at` of every key of `keys` that has
/// one, tombstones included, in key order, until the visitor breaks.
pub(super) fn newest_versions(
    engine: &dyn Engine,
    keys: &KeyRange,
    at: i64,
    visit: &mut dyn FnMut(&[u8], IdxRow) -> ControlFlow<()>,
) -> Result<(), Fatal> {
    if keys.is_empty() {
        return Ok(());
    }
    let (mut from, mut to) = (Vec::new(), Vec::new());
    escape(&mut from, keys.start());
    match keys {
        KeyRange::One(key) => {
            escape(&mut to, key);
            after_key(&mut to);
        }
        KeyRange::Span(_, end) => escape(&mut to, end),
        KeyRange::From(_) => {}
    }
    let mut walk = Walk { at, answered: Vec::new(), skipped: 0, key: Vec::new() };
    let mut failed = None;
    engine.scan(
        Family::Idx,
        &from,
        (!to.is_empty()).then_some(to.as_slice()),
        &mut |row_key, row| match walk.step(row_key, row, visit) {
            Ok(step) => step,
            Err(fatal) => {
                failed = Some(fatal);
                ScanStep::Stop
            }
        },
    )?;
    failed.map_or(Ok(()), Err)
}

/// Makes the smallest bytes above all rows of a key from its escaped form.
fn after_key(escaped: &mut [u8]) {
    if let Some(mark) = escaped.last_mut() {
        *mark = 2;
    }
}

struct Walk {
    at: i64,
    /// Escaped key whose version was found; its older rows are skipped.
    answered: Vec<u8>,
    skipped: usize,
    /// The key being visited, reused.
    key: Vec<u8>,
}

impl Walk {
    fn step(
        &mut self,
        row_key: &[u8],
        row: &[u8],
        visit: &mut dyn FnMut(&[u8], IdxRow) -> ControlFlow<()>,
    ) -> Result<ScanStep, Fatal> {
        let Some(at) = row_key.len().checked_sub(REVISION_BYTES) else {
            return Err(damaged("the key of an index row is too short", row_key));
        };
        let (escaped, suffix) = row_key.split_at(at);
        if !escaped.is_empty() && escaped == self.answered {
            return Ok(self.skip(|| {
                let mut target = escaped.to_vec();
                after_key(&mut target);
                target
            }));
        }
        let revision = decode_idx_revision(suffix)?;
        if revision.main > self.at {
            let newest = Revision { main: self.at.max(0), sub: u32::MAX };
            return Ok(self.skip(|| {
                let mut target = escaped.to_vec();
                push_idx_revision(&mut target, newest);
                target
            }));
        }
        self.skipped = 0;
        self.answered.clear();
        self.answered.extend_from_slice(escaped);
        unescape(escaped, &mut self.key)?;
        let row = decode_idx_value(revision, row)
            .ok_or_else(|| damaged("the value of an index row cannot be read", row_key))?;
        Ok(match visit(&self.key, row) {
            ControlFlow::Continue(()) => ScanStep::Next,
            ControlFlow::Break(()) => ScanStep::Stop,
        })
    }

    fn skip(&mut self, target: impl FnOnce() -> Vec<u8>) -> ScanStep {
        if self.skipped < STEPS_BEFORE_SEEK {
            self.skipped += 1;
            return ScanStep::Next;
        }
        self.skipped = 0;
        ScanStep::Seek(target())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{MemoryEngine, RowChange};
    use proptest::prelude::*;

    fn escaped(key: &[u8]) -> Vec<u8> {
        let mut buf = Vec::new();
        escape(&mut buf, key);
        buf
    }

    fn short_keys() -> impl Strategy<Value = Vec<u8>> {
        // Mostly bytes that the escape treats specially.
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(0xff), any::<u8>()], 0..6)
    }

    fn versions() -> impl Strategy<Value = Version<Vec<u8>>> {
        let main = 1i64..i64::MAX;
        (main, any::<u32>(), any::<bool>(), any::<i64>(), any::<bool>(), short_keys(), short_keys())
            .prop_flat_map(|(main, sub, tombstone, lease, has_prev, key, value)| {
                (0..=main, 0..i64::MAX, 0..main, any::<u32>()).prop_map(
                    move |(create_revision, version, prev_main, prev_sub)| Version {
                        revision: Revision { main, sub },
                        tombstone,
                        create_revision,
                        version,
                        lease: LeaseId::from_wire(lease),
                        prev: has_prev.then_some(Revision { main: prev_main, sub: prev_sub }),
                        key: key.clone(),
                        value: if tombstone { Vec::new() } else { value.clone() },
                    },
                )
            })
    }

    proptest! {
        #[test]
        fn escaped_keys_sort_as_the_keys_do_and_read_back(a in short_keys(), b in short_keys()) {
            prop_assert_eq!(escaped(&a).cmp(&escaped(&b)), a.cmp(&b));
            let mut read = Vec::new();
            unescape(&escaped(&a), &mut read).unwrap();
            prop_assert_eq!(read, a);
        }

        #[test]
        fn no_row_of_one_key_lies_among_anothers(a in short_keys(), b in short_keys(), main in 0..i64::MAX) {
            let (mut row_a, mut row_b) = (Vec::new(), Vec::new());
            idx_key(&mut row_a, &a, Revision { main, sub: 7 });
            idx_key(&mut row_b, &b, Revision { main: 5, sub: 0 });
            if a != b {
                prop_assert_eq!(row_a.cmp(&row_b), a.cmp(&b));
            }
        }

        #[test]
        fn newer_versions_of_a_key_come_first(a in (0..i64::MAX, any::<u32>()), b in (0..i64::MAX, any::<u32>())) {
            let revision = |(main, sub)| Revision { main, sub };
            let (mut row_a, mut row_b) = (Vec::new(), Vec::new());
            idx_key(&mut row_a, b"k", revision(a));
            idx_key(&mut row_b, b"k", revision(b));
            prop_assert_eq!(row_a.cmp(&row_b), b.cmp(&a));
            prop_assert_eq!(rev_key(revision(a)).cmp(&rev_key(revision(b))), a.cmp(&b));
            prop_assert_eq!(decode_idx_revision(&row_a[3..]).unwrap(), revision(a));
        }

        #[test]
        fn a_version_reads_back_from_both_rows(version in versions()) {
            let mut rows = WriteBatch::new();
            put_version(&mut rows, &mut Vec::new(), &version);
            let mut seen = 0;
            for change in rows.iter() {
                match change {
                    RowChange::Put(Family::Rev, key, row) => {
                        let read = decode_rev(key, row).unwrap();
                        prop_assert_eq!(read.key, &version.key);
                        prop_assert_eq!(read.value, &version.value);
                        let read = Version { key: version.key.clone(), value: version.value.clone(),
                            revision: read.revision, tombstone: read.tombstone, prev: read.prev,
                            create_revision: read.create_revision, version: read.version, lease: read.lease };
                        prop_assert_eq!(&read, &version);
                        seen += 1;
                    }
                    RowChange::Put(Family::Idx, key, row) => {
                        let revision = decode_idx_revision(&key[key.len() - REVISION_BYTES..]).unwrap();
                        let read = decode_idx_value(revision, row).unwrap();
                        prop_assert_eq!(read.revision, version.revision);
                        prop_assert_eq!(read.tombstone, version.tombstone);
                        prop_assert_eq!(read.create_revision, version.create_revision);
                        prop_assert_eq!(read.version, version.version);
                        prop_assert_eq!(read.lease, version.lease);
                        prop_assert_eq!(read.value_bytes as usize, version.value.len());
                        seen += 1;
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(seen, 2);
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            key in prop::collection::vec(any::<u8>(), 0..30),
            row in prop::collection::vec(any::<u8>(), 0..60),
            main in 0..i64::MAX,
        ) {
            let _ = decode_rev(&key, &row);
            let _ = decode_rev(&rev_key(Revision::start_of(main)), &row);
            let _ = unescape(&row, &mut Vec::new());
            let engine = MemoryEngine::new();
            let mut rows = WriteBatch::new();
            rows.put(Family::Idx, &key, &row);
            engine.write(&rows).unwrap();
            let everything = KeyRange::From(bytes::Bytes::new());
            let _ = newest_versions(&engine, &everything, i64::MAX, &mut |_, _| ControlFlow::Continue(()));
        }
    }

    #[test]
    fn a_row_cut_short_is_refused() {
        let version = Version {
            revision: Revision { main: 900, sub: 3 },
            tombstone: false,
            create_revision: 5,
            version: 300,
            lease: LeaseId::from_wire(-7),
            prev: Some(Revision { main: 890, sub: 1 }),
            key: b"some key".as_slice(),
            value: b"".as_slice(),
        };
        let mut rows = WriteBatch::new();
        put_version(&mut rows, &mut Vec::new(), &version);
        for change in rows.iter() {
            let RowChange::Put(family, _, row) = change else { panic!("only puts") };
            for length in 0..row.len() {
                let cut = &row[..length];
                match family {
                    Family::Rev => {
                        assert!(decode_rev_value(version.revision, cut).is_none(), "cut at {length}")
                    }
                    _ => assert!(decode_idx_value(version.revision, cut).is_none(), "cut at {length}"),
                }
            }
        }
    }
}
