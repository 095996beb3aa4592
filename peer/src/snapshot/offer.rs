//! What sender and receiver of a snapshot tell each other: pure, and total on any bytes.

use std::collections::HashSet;

use bytes::{BufMut, Bytes};
use xxhash_rust::xxh3::Xxh3;

use super::CHUNK_BYTES;
use crate::codec::{Malformed, Reader, put_bytes, put_count};
use crate::handshake::Refusal;

const NAME_BYTES_MAX: usize = 1024;
const PART_BYTES_MAX: usize = 255;
const PARTS_MAX: usize = 16;
/// An empty name and a size.
const FILE_BYTES_MIN: usize = 4 + 8;
/// Before a chunk's bytes: the file's place in the offer, and the offset.
pub(super) const CHUNK_HEADER_BYTES: usize = 4 + 8;

/// A file of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileEntry {
    /// Its path below the snapshot's directory, with `/`.
    pub name: String,
    pub bytes: u64,
}

/// What a snapshot consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    /// Random for each order to send: repeated attempts are recognised by it.
    pub transfer: u64,
    pub id: u64,
    pub message: Bytes,
    pub files: Vec<FileEntry>,
}

impl Offer {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64_le(self.transfer);
        out.put_u64_le(self.id);
        put_bytes(&mut out, &self.message);
        put_count(&mut out, self.files.len());
        for file in &self.files {
            put_bytes(&mut out, file.name.as_bytes());
            out.put_u64_le(file.bytes);
        }
        out
    }

    /// Reads an offer and checks its names; the size is the caller's to check.
    pub fn decode(payload: &Bytes, files_max: usize) -> Result<Self, Refusal> {
        let bad = |error: Malformed| Refusal::BadSnapshot(error.to_string());
        let offer = Self::read(payload, files_max).map_err(bad)?;
        check_names(&offer.files).map_err(Refusal::BadSnapshot)?;
        Ok(offer)
    }

    fn read(payload: &Bytes, files_max: usize) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let (transfer, id) = (reader.u64("transfer")?, reader.u64("id")?);
        let message = payload.slice_ref(reader.bytes(payload.len(), "message")?);
        let count = reader.count(files_max, FILE_BYTES_MIN, "files")?;
        let mut files = Vec::with_capacity(count);
        for _ in 0..count {
            let name = reader.text(NAME_BYTES_MAX, "file name")?;
            files.push(FileEntry { name, bytes: reader.u64("file size")? });
        }
        reader.end()?;
        Ok(Self { transfer, id, message, files })
    }

    /// The sizes together; `None` if no disk can hold them.
    pub fn bytes(&self) -> Option<u64> {
        self.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes))
    }

    /// Names the content for as long as the sender's process lives, whatever the transfer.
    pub fn identity(payload: &[u8], boot: u64, incarnation: u64) -> u128 {
        let mut hash = Xxh3::new();
        hash.update(&boot.to_le_bytes());
        hash.update(&incarnation.to_le_bytes());
        hash.update(payload.get(8..).unwrap_or_default());
        hash.digest128()
    }
}

/// The checksum over an offer and the checksums of its files.
pub(super) fn whole_hash(payload: &[u8], files: impl Iterator<Item = u128>) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(payload);
    files.for_each(|file| hash.update(&file.to_le_bytes()));
    hash.digest128()
}

/// Whether each name can be a file below a directory, and all of them together.
pub(super) fn check_names(files: &[FileEntry]) -> Result<(), String> {
    let mut names = HashSet::with_capacity(files.len());
    for file in files {
        check_name(&file.name)?;
        if !names.insert(file.name.as_str()) {
            return Err(format!("file is named twice: name={:?}", file.name));
        }
    }
    for file in files {
        let above = file.name.match_indices('/').map(|(at, _)| &file.name[..at]);
        if let Some(both) = above.into_iter().find(|above| names.contains(above)) {
            return Err(format!("file is also a directory: name={both:?}"));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let refuse = |what: &str| Err(format!("{what}: name={name:?}"));
    if name.len() > NAME_BYTES_MAX || name.split('/').count() > PARTS_MAX {
        return refuse("file name is too long");
    }
    for part in name.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return refuse("file name leaves the snapshot's directory");
        }
        if part.len() > PART_BYTES_MAX {
            return refuse("file name is too long");
        }
        if part.contains(|c: char| c.is_control() || c == '\\') {
            return refuse("file name has characters that are not allowed");
        }
    }
    Ok(())
}

/// How much of a file the receiver has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Have {
    /// Durable bytes from its start.
    pub bytes: u64,
    /// Whether the whole file was compared.
    pub verified: bool,
}

pub(super) fn encode_resume(have: &[Have]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + have.len() * 9);
    put_count(&mut out, have.len());
    for file in have {
        out.put_u64_le(file.bytes);
        out.put_u8(u8::from(file.verified));
    }
    out
}

/// Reads the answer to an offer; it must fit it.
pub(super) fn decode_resume(payload: &[u8], files: &[FileEntry]) -> Result<Vec<Have>, Malformed> {
    let mut reader = Reader::new(payload);
    if reader.count(files.len(), 9, "files")? != files.len() {
        return Err(Malformed("files"));
    }
    let mut have = Vec::with_capacity(files.len());
    for file in files {
        let one = Have { bytes: reader.u64("bytes")?, verified: reader.flag("verified")? };
        if one.bytes > file.bytes || (one.verified && one.bytes != file.bytes) {
            return Err(Malformed("bytes"));
        }
        have.push(one);
    }
    reader.end()?;
    Ok(have)
}

/// What the sender sends behind the offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Chunk { file: usize, offset: u64, bytes: Bytes },
    FileEnd { file: usize, hash: u128 },
    Done { hash: u128 },
}

/// Writes what stands before a chunk's bytes.
pub(super) fn put_chunk_header(out: &mut impl BufMut, file: usize, offset: u64) {
    out.put_u32_le(u32::try_from(file).expect("files are bounded far below 4 G"));
    out.put_u64_le(offset);
}

pub(super) fn decode_chunk(payload: &Bytes) -> Result<Part, Malformed> {
    let mut reader = Reader::new(payload);
    let file = index(&mut reader)?;
    let offset = reader.u64("offset")?;
    let bytes = payload.slice_ref(reader.rest());
    if bytes.is_empty() || bytes.len() > CHUNK_BYTES {
        return Err(Malformed("chunk"));
    }
    Ok(Part::Chunk { file, offset, bytes })
}

pub(super) fn encode_file_end(file: usize, hash: u128) -> Vec<u8> {
    let mut out = Vec::with_capacity(20);
    out.put_u32_le(u32::try_from(file).expect("files are bounded far below 4 G"));
    out.put_u128_le(hash);
    out
}

pub(super) fn decode_file_end(payload: &[u8]) -> Result<Part, Malformed> {
    let mut reader = Reader::new(payload);
    let part = Part::FileEnd { file: index(&mut reader)?, hash: reader.u128("hash")? };
    reader.end()?;
    Ok(part)
}

pub(super) fn decode_done(payload: &[u8]) -> Result<Part, Malformed> {
    let mut reader = Reader::new(payload);
    let part = Part::Done { hash: reader.u128("hash")? };
    reader.end()?;
    Ok(part)
}

fn index(reader: &mut Reader<'_>) -> Result<usize, Malformed> {
    usize::try_from(reader.u32("file")?).map_err(|_| Malformed("file"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str) -> FileEntry {
        FileEntry { name: name.to_owned(), bytes: 1 }
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let hostile =
            ["", ".", "..", "../a", "a/../b", "/etc/passwd", "a//b", "a/", "a/.", "a\0b", "a\\b", "a\nb"];
        for name in hostile {
            assert!(check_names(&[entry(name)]).is_err(), "{name:?}");
        }
        assert!(check_names(&[entry(&"a/".repeat(16)), entry("b")]).is_err());
        assert!(check_names(&[entry(&"a".repeat(256))]).is_err());
        assert!(check_names(&[entry("a"), entry("a")]).is_err());
        assert!(check_names(&[entry("a/b/c"), entry("a-"), entry("a/b")]).is_err());
        assert_eq!(
            check_names(&[entry("CURRENT"), entry("a/b"), entry("a/c"), entry("..a"), entry("…")]),
            Ok(())
        );
    }

    #[test]
    fn an_answer_that_does_not_fit_the_offer_is_malformed() {
        let files = [entry("a"), entry("b")];
        let (none, all) = (Have::default(), Have { bytes: 1, verified: true });
        assert_eq!(decode_resume(&encode_resume(&[none, all]), &files), Ok(vec![none, all]));
        assert!(decode_resume(&encode_resume(&[none]), &files).is_err());
        assert!(decode_resume(&encode_resume(&[none; 3]), &files).is_err());
        assert!(decode_resume(&encode_resume(&[none, Have { bytes: 2, verified: false }]), &files).is_err());
        assert!(decode_resume(&encode_resume(&[none, Have { bytes: 0, verified: true }]), &files).is_err());
    }

    #[test]
    fn sizes_beyond_all_disks_have_no_sum() {
        let file = FileEntry { name: "a".to_owned(), bytes: u64::MAX };
        let offer = Offer { transfer: 1, id: 1, message: Bytes::new(), files: vec![file, entry("b")] };
        assert_eq!(offer.bytes(), None);
    }

    proptest! {
        #[test]
        fn an_offer_reads_back_as_written_and_never_when_cut(
            (transfer, id) in any::<(u64, u64)>(),
            message in proptest::collection::vec(any::<u8>(), 0..50),
            names in proptest::collection::btree_map("[a-z]{1,5}", any::<u64>(), 0..5),
        ) {
            let files = names.into_iter().map(|(name, bytes)| FileEntry { name, bytes }).collect();
            let offer = Offer { transfer, id, message: message.into(), files };
            let payload = Bytes::from(offer.encode());
            for end in 0..payload.len() {
                prop_assert!(Offer::decode(&payload.slice(..end), 10).is_err());
            }
            prop_assert_eq!(Offer::decode(&payload, 10), Ok(offer));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let bytes = Bytes::from(bytes);
            let _ = Offer::decode(&bytes, 1000);
            let _ = decode_resume(&bytes, &[entry("a")]);
            let _ = decode_chunk(&bytes);
            let _ = decode_file_end(&bytes);
            let _ = decode_done(&bytes);
        }
    }
}
