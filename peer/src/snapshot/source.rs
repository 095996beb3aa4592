//! The sender's files: finding them, and reading them piece by piece. All of it blocks.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::Xxh3;

use super::offer::{
    CHUNK_HEADER_BYTES, FileEntry, Have, check_names, encode_file_end, put_chunk_header, whole_hash,
};
use super::{CHUNK_BYTES, SnapshotError};
use crate::frame::Kind;

/// A frame to send, or why there is none.
pub(super) type Piece = Result<(Kind, Bytes), SnapshotError>;

/// The files below `dir`, by name.
pub(super) fn list(dir: &Path) -> Result<Vec<FileEntry>, SnapshotError> {
    let mut files = Vec::new();
    list_into(dir, "", &mut files)?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    check_names(&files).map_err(SnapshotError::Files)?;
    Ok(files)
}

fn list_into(dir: &Path, prefix: &str, files: &mut Vec<FileEntry>) -> Result<(), SnapshotError> {
    for entry in fs::read_dir(dir).map_err(|error| unreadable(dir, &error))? {
        let path = entry.map_err(|error| unreadable(dir, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| refuse("file name is not UTF-8", &path))?;
        let name = format!("{prefix}{name}");
        let metadata = fs::symlink_metadata(&path).map_err(|error| unreadable(&path, &error))?;
        if metadata.is_dir() {
            list_into(&path, &format!("{name}/"), files)?;
        } else if metadata.is_file() {
            files.push(FileEntry { name, bytes: metadata.len() });
        } else {
            return Err(refuse("neither a file nor a directory", &path));
        }
    }
    Ok(())
}

/// Hands over everything that the receiver does not have, and remembers the checksums of files for
/// the next attempt. Ends early when nobody takes the pieces.
pub(super) fn read(
    dir: &Path,
    files: &[FileEntry],
    have: &[Have],
    offer: &[u8],
    hashes: &Mutex<Vec<Option<u128>>>,
    pieces: &mpsc::Sender<Piece>,
) {
    let result = read_all(dir, files, have, offer, hashes, pieces);
    if let Err(Some(error)) = result {
        // Without a taker the reason is of no use.
        let _ = pieces.blocking_send(Err(error));
    }
}

/// `Err(None)`: nobody takes the pieces any more.
fn read_all(
    dir: &Path,
    files: &[FileEntry],
    have: &[Have],
    offer: &[u8],
    hashes: &Mutex<Vec<Option<u128>>>,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), Option<SnapshotError>> {
    let send = |kind, payload| pieces.blocking_send(Ok((kind, payload))).map_err(|_| None);
    for (index, (file, have)) in files.iter().zip(have).enumerate() {
        if have.verified && hashes.lock()[index].is_some() {
            continue;
        }
        let path = dir.join(&file.name);
        let failed = |error: io::Error| Some(unreadable(&path, &error));
        let mut reader = File::open(&path).map_err(failed)?;
        let (mut hash, mut offset) = (Xxh3::new(), 0);
        while offset < file.bytes {
            // What the receiver has is only read for the checksum.
            let until = if offset < have.bytes { have.bytes } else { file.bytes };
            let length = (until - offset).min(CHUNK_BYTES as u64) as usize;
            let mut chunk = BytesMut::with_capacity(CHUNK_HEADER_BYTES + length);
            put_chunk_header(&mut chunk, index, offset);
            chunk.resize(CHUNK_HEADER_BYTES + length, 0);
            reader.read_exact(&mut chunk[CHUNK_HEADER_BYTES..]).map_err(failed)?;
            hash.update(&chunk[CHUNK_HEADER_BYTES..]);
            if offset >= have.bytes {
                send(Kind::Chunk, chunk.freeze())?;
            } else if pieces.is_closed() {
                return Err(None);
            }
            offset += length as u64;
        }
        let hash = hash.digest128();
        hashes.lock()[index] = Some(hash);
        if !have.verified {
            send(Kind::FileEnd, encode_file_end(index, hash).into())?;
        }
    }
    let whole = whole_hash(offer, hashes.lock().iter().map(|hash| hash.expect("each file was read")));
    send(Kind::Done, Bytes::copy_from_slice(&whole.to_le_bytes()))
}

fn unreadable(path: &Path, error: &io::Error) -> SnapshotError {
    SnapshotError::Files(format!("{error}: path={}", path.display()))
}

fn refuse(what: &str, path: &Path) -> SnapshotError {
    SnapshotError::Files(format!("{what}: path={}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_all_directories_and_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/c")).unwrap();
        fs::write(dir.path().join("b/c/d"), b"12").unwrap();
        fs::write(dir.path().join("a"), b"1").unwrap();
        let file = |name: &str, bytes| FileEntry { name: name.to_owned(), bytes };
        assert_eq!(list(dir.path()), Ok(vec![file("a", 1), file("b/c/d", 2)]));
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("b/link")).unwrap();
        assert!(matches!(list(dir.path()), Err(SnapshotError::Files(_))));
    }
}
