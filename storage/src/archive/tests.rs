use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use folkmoot_core::env::WriteBatch;
use folkmoot_core::types::{LogIndex, Term};
use sha2::{Digest, Sha256};

use super::*;
use crate::data_dir::{DataDir, DirIdentity, OpenOptions};
use crate::error::StorageError;
use crate::rocks::{RocksEngine, RocksOptions};
use crate::wal::Wal;

fn header() -> ArchiveHeader {
    ArchiveHeader {
        cluster_id: ClusterId(0xc1),
        member_id: MemberId(0x3e),
        revision: 42,
        applied: LogPoint { index: LogIndex(77), term: Term(5) },
    }
}

fn fill(engine: &dyn Engine, rows: u32) {
    let mut batch = WriteBatch::new();
    for row in 0..rows {
        let value: Vec<u8> = (0..row % 700).map(|at| (at ^ row) as u8).collect();
        batch.put(Family::Rev, &row.to_be_bytes(), &value);
        batch.put(Family::Idx, &[&row.to_be_bytes()[..], b"idx"].concat(), b"");
    }
    batch.put(Family::Lease, b"", b"empty key");
    batch.put(Family::Sys, b"member/1", b"old");
    batch.put(Family::Sys, b"cver", b"1");
    batch.put(Family::Meta, b"applied", b"77");
    engine.write(&batch).expect("write");
}

fn archive_of(rows: &impl RowSource) -> (Vec<u8>, ArchiveSummary) {
    let mut bytes = Vec::new();
    let summary = write_archive(rows, &mut bytes, &header()).expect("write");
    (bytes, summary)
}

fn small_archive() -> Vec<u8> {
    let engine = MemoryEngine::new();
    fill(&engine, 3);
    archive_of(&engine).0
}

fn rows_of(engine: &dyn Engine) -> Vec<(Family, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for family in Family::ALL {
        let mut visit = |key: &[u8], value: &[u8]| {
            rows.push((family, key.to_vec(), value.to_vec()));
            ScanStep::Next
        };
        engine.scan(family, &[], None, &mut visit).expect("scan");
    }
    rows
}

#[test]
fn an_archive_verifies_and_has_a_size_that_etcdctl_accepts() {
    for rows in [0, 1, 10, 1000] {
        let engine = MemoryEngine::new();
        fill(&engine, rows);
        let (mut bytes, written) = archive_of(&engine);
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(written.bytes, bytes.len() as u64);
        assert_eq!(written.rows(), u64::from(rows) * 2 + 4);
        assert_eq!(written.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert_eq!(verify_archive(&bytes[..]).expect("whole"), written);
        bytes.extend_from_slice(&written.sha256);
        assert_eq!(bytes.len() % 512, 32);
        let verified = verify_archive(&bytes[..]).expect("whole");
        assert_eq!(verified, ArchiveSummary { has_digest: true, ..written });
    }
}

#[test]
fn an_archive_cut_at_any_byte_is_refused() {
    let mut bytes = small_archive();
    let whole = bytes.len();
    bytes.extend_from_slice(&Sha256::digest(&bytes));
    for cut in (0..bytes.len()).filter(|cut| *cut != whole) {
        assert!(verify_archive(&bytes[..cut]).is_err(), "cut={cut}");
    }
    bytes.push(0);
    assert!(verify_archive(&bytes[..]).is_err(), "one byte too many");
}

#[test]
fn every_flipped_bit_of_an_archive_is_noticed() {
    let mut bytes = small_archive();
    bytes.extend_from_slice(&Sha256::digest(&bytes));
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(verify_archive(&bytes[..]).is_err(), "bit={bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn an_archive_of_a_newer_version_is_named_as_such() {
    let mut bytes = small_archive();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    let error = verify_archive(&bytes[..]).expect_err("newer");
    assert!(matches!(error, StorageError::ArchiveFormat { format: 2, .. }), "{error}");
}

#[test]
fn an_archive_of_a_view_leaves_out_what_is_written_meanwhile() {
    let dir = tempfile::tempdir().expect("temp dir");
    let engine = RocksEngine::open(dir.path(), RocksOptions::default()).expect("open");
    fill(&engine, 500);
    let memory = MemoryEngine::new();
    fill(&memory, 500);
    let view = engine.view();
    fill(&engine, 900);
    assert_eq!(archive_of(&view), archive_of(&memory), "equal rows give equal archives");
}

const NEW: DirIdentity = DirIdentity { cluster_id: ClusterId(0xc2), member_id: MemberId(0x4f) };

fn new_start() -> RestoreOptions {
    RestoreOptions { identity: NEW, log_start: LogPoint { index: LogIndex(77), term: Term(5) } }
}

/// Drops members, changes one row, adds one.
fn rewrite(row: RestoreRow<'_>, batch: &mut WriteBatch) -> Result<(), String> {
    match row {
        RestoreRow::Row { family: Family::Sys, key: b"member/1", .. } => {}
        RestoreRow::Row { family, key, value } => batch.put(family, key, &[value, b"!"].concat()),
        RestoreRow::End => batch.put(Family::Sys, b"member/2", b"new"),
    }
    Ok(())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("dir");
    entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_restored_directory_has_the_rows_the_identity_and_the_log_start() {
    let dir = tempfile::tempdir().expect("temp dir");
    let source = MemoryEngine::new();
    fill(&source, 2000);
    let (bytes, written) = archive_of(&source);
    let file = dir.path().join("backup");
    fs::write(&file, bytes).expect("write");
    let target = dir.path().join("data");
    fs::create_dir(&target).expect("an empty directory is fine");
    assert_eq!(restore(&file, &target, new_start(), &mut rewrite).expect("restore"), written);

    let mode = fs::metadata(&target).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let data = DataDir::open(&target, OpenOptions::default()).expect("open");
    assert_eq!(data.identity(), NEW);
    assert!(!data.is_new());
    let (_, recovered) = Wal::open(&data.wal_dir(), data.identity().into()).expect("open");
    assert_eq!(recovered.start, new_start().log_start);
    assert_eq!(recovered.hard_state.commit, LogIndex(77));
    assert_eq!(recovered.hard_state.term, Term(5));
    let engine = RocksEngine::open(&data.db_dir(), RocksOptions::default()).expect("open");
    let mut expected = rows_of(&source);
    expected.retain(|(family, key, _)| !(*family == Family::Sys && key == b"member/1"));
    for (family, _, value) in &mut expected {
        if matches!(family, Family::Sys | Family::Meta) {
            value.push(b'!');
        }
    }
    expected.push((Family::Sys, b"member/2".to_vec(), b"new".to_vec()));
    expected.sort();
    assert_eq!(rows_of(&engine), expected);
    assert_eq!(names(dir.path()).len(), 2, "nothing is left beside");
}

#[test]
fn a_restore_never_touches_a_directory_in_use() {
    let dir = tempfile::tempdir().expect("temp dir");
    let file = dir.path().join("backup");
    fs::write(&file, small_archive()).expect("write");
    let target = dir.path().join("data");
    fs::create_dir(&target).expect("dir");
    fs::write(target.join("precious"), b"x").expect("write");
    let error = restore(&file, &target, new_start(), &mut rewrite).expect_err("not empty");
    assert!(matches!(error, StorageError::NotEmpty { .. }), "{error}");
    assert_eq!(names(&target), ["precious"]);
    let error = restore(&file, &file, new_start(), &mut rewrite).expect_err("a file");
    assert!(matches!(error, StorageError::NotEmpty { .. }), "{error}");
}

#[test]
fn a_failed_restore_leaves_nothing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let file = dir.path().join("backup");
    let target = dir.path().join("data");
    let bytes = small_archive();

    let mut damaged = bytes.clone();
    damaged[700] ^= 1;
    for broken in [&damaged[..], &bytes[..bytes.len() - 512], b""] {
        fs::write(&file, broken).expect("write");
        let error = restore(&file, &target, new_start(), &mut rewrite).expect_err("damaged");
        assert!(matches!(error, StorageError::Archive { .. }), "{error}");
        assert_eq!(names(dir.path()), ["backup"]);
    }
    fs::write(&file, &bytes).expect("write");
    let mut refuse = |_: RestoreRow<'_>, _: &mut WriteBatch| Err("no".to_owned());
    let error = restore(&file, &target, new_start(), &mut refuse).expect_err("refused");
    assert!(matches!(error, StorageError::Rewrite(_)), "{error}");
    assert_eq!(names(dir.path()), ["backup"]);
}
