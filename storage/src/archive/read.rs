//! Reads an archive, believing nothing that a checksum does not cover.

use std::io::{self, Read};

use folkmoot_core::env::Family;
use folkmoot_core::types::{ClusterId, LogIndex, MemberId, Term};
use folkmoot_core::wal::LogPoint;
use sha2::{Digest, Sha256};

use super::{
    ALIGNMENT_BYTES, ARCHIVE_FORMAT, ArchiveHeader, ArchiveSummary, BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES,
    BLOCK_MAGIC, DIGEST_BYTES, HEADER_BYTES, HEADER_MAGIC, TRAILER_BYTES, TRAILER_MAGIC, header_crc,
};
use crate::error::StorageError;

/// Reads an archive to its end and checks all of it, including the digest after it if there is
/// one.
pub fn verify_archive(reader: impl Read) -> Result<ArchiveSummary, StorageError> {
    let mut archive = ArchiveReader::open(reader)?;
    loop {
        match archive.next_block()? {
            Part::Block(block) => archive.check_rows(&block)?,
            Part::End(summary) => return Ok(summary),
        }
    }
}

/// Goes through an archive block by block.
pub(super) struct ArchiveReader<R> {
    reader: R,
    digest: Sha256,
    offset: u64,
    seed: u32,
    header: ArchiveHeader,
    blocks: u64,
    family_rows: [u64; Family::ALL.len()],
    /// Family and key of the last row.
    last: Option<(Family, Vec<u8>)>,
}

pub(super) enum Part {
    Block(Block),
    End(ArchiveSummary),
}

/// Rows of one family with a valid checksum.
pub(super) struct Block {
    pub family: Family,
    rows: u32,
    payload: Vec<u8>,
}

impl Block {
    /// The rows; `None` ends them if the payload is not made of rows.
    pub fn rows(&self) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
        let mut rest: &[u8] = &self.payload;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let row = split_row(rest);
            rest = row.map_or(&[], |(_, _, after)| after);
            Some(row.map(|(key, value, _)| (key, value)))
        })
    }
}

fn split_row(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key_bytes, rest) = bytes.split_first_chunk::<4>()?;
    let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
    let length = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
    let (key, rest) = rest.split_at_checked(length(key_bytes)?)?;
    let (value, rest) = rest.split_at_checked(length(value_bytes)?)?;
    Some((key, value, rest))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl<R: Read> ArchiveReader<R> {
    /// Reads the header.
    pub fn open(reader: R) -> Result<Self, StorageError> {
        let mut archive = Self {
            reader,
            digest: Sha256::new(),
            offset: 0,
            seed: 0,
            header: ArchiveHeader {
                cluster_id: ClusterId(0),
                member_id: MemberId(0),
                revision: 0,
                applied: LogPoint::default(),
            },
            blocks: 0,
            family_rows: [0; Family::ALL.len()],
            last: None,
        };
        let mut header = [0; HEADER_BYTES];
        archive.read_exact(&mut header)?;
        if header[..8] != HEADER_MAGIC {
            return Err(damaged("it does not start like a backup of this program", 0));
        }
        // Later formats keep the place of the format and of the checksum.
        if u32_at(&header, HEADER_BYTES - 4) != header_crc(&header) {
            return Err(damaged("header is damaged", 0));
        }
        let format = u32_at(&header, 8);
        if format != ARCHIVE_FORMAT {
            return Err(StorageError::ArchiveFormat { format, newest: ARCHIVE_FORMAT });
        }
        archive.seed = header_crc(&header);
        archive.header = ArchiveHeader {
            cluster_id: ClusterId(u64_at(&header, 16)),
            member_id: MemberId(u64_at(&header, 24)),
            revision: u64_at(&header, 32).cast_signed(),
            applied: LogPoint { index: LogIndex(u64_at(&header, 40)), term: Term(u64_at(&header, 48)) },
        };
        Ok(archive)
    }

    /// The next block, or the summary after the last.
    pub fn next_block(&mut self) -> Result<Part, StorageError> {
        let start = self.offset;
        let mut magic = [0; 4];
        self.read_exact(&mut magic)?;
        if magic == TRAILER_MAGIC {
            return self.finish(start).map(Part::End);
        }
        if magic != BLOCK_MAGIC {
            return Err(damaged("block is damaged", start));
        }
        let mut header = [0; BLOCK_HEADER_BYTES];
        header[..4].copy_from_slice(&magic);
        self.read_exact(&mut header[4..])?;
        let length = u32_at(&header, 20);
        if length > BLOCK_BYTES_MAX {
            return Err(damaged("block is too long", start));
        }
        let payload = self.read_payload(length)?;
        let (checked, stored) = header.split_at(BLOCK_HEADER_BYTES - 4);
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(self.seed, checked), &payload);
        if u32_at(stored, 0) != crc {
            return Err(damaged("block is damaged", start));
        }
        if u64_at(&header, 8) != self.blocks {
            return Err(damaged("blocks are not in order", start));
        }
        self.blocks += 1;
        let family = Family::from_number(header[4]).ok_or_else(|| damaged("family is unknown", start))?;
        Ok(Part::Block(Block { family, rows: u32_at(&header, 16), payload }))
    }

    /// Checks that a block holds rows, in order, and counts them.
    pub fn check_rows(&mut self, block: &Block) -> Result<(), StorageError> {
        let mut count = 0;
        for row in block.rows() {
            let (key, _) = row.ok_or_else(|| damaged("block does not hold whole rows", self.offset))?;
            let last = self.last.as_ref().map(|(family, key)| (*family, key.as_slice()));
            if last.is_some_and(|last| last >= (block.family, key)) {
                return Err(damaged("rows are not in order", self.offset));
            }
            let (family, last_key) = self.last.get_or_insert_with(|| (block.family, Vec::new()));
            *family = block.family;
            last_key.clear();
            last_key.extend_from_slice(key);
            count += 1;
        }
        if count != block.rows {
            return Err(damaged("block does not hold as many rows as it says", self.offset));
        }
        self.family_rows[usize::from(block.family.number())] += u64::from(count);
        Ok(())
    }

    fn finish(&mut self, start: u64) -> Result<ArchiveSummary, StorageError> {
        let mut trailer = [0; TRAILER_BYTES];
        trailer[..4].copy_from_slice(&TRAILER_MAGIC);
        self.read_exact(&mut trailer[4..])?;
        let (checked, stored) = trailer.split_at(TRAILER_BYTES - 4);
        if u32_at(stored, 0) != crc32c::crc32c_append(self.seed, checked) {
            return Err(damaged("trailer is damaged", start));
        }
        let rows_at = |family: usize| u64_at(&trailer, 16 + family * 8);
        if u64_at(&trailer, 8) != self.blocks
            || (0..Family::ALL.len()).any(|family| rows_at(family) != self.family_rows[family])
        {
            return Err(damaged("blocks or rows are missing", start));
        }
        let over = usize::try_from(self.offset % ALIGNMENT_BYTES as u64).expect("below 512");
        let mut padding = [0; ALIGNMENT_BYTES];
        let padding = &mut padding[..(ALIGNMENT_BYTES - over) % ALIGNMENT_BYTES];
        self.read_exact(padding)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(damaged("padding is damaged", start));
        }
        let bytes = self.offset;
        let sha256: [u8; DIGEST_BYTES] = self.digest.clone().finalize().into();
        let mut rest = Vec::new();
        (&mut self.reader)
            .take(DIGEST_BYTES as u64 + 1)
            .read_to_end(&mut rest)
            .map_err(|error| self.read_error(error))?;
        let has_digest = match rest.as_slice() {
            [] => false,
            digest if digest == sha256 => true,
            _ => return Err(damaged("what follows is not its SHA-256 digest", bytes)),
        };
        let (header, family_rows) = (self.header, self.family_rows);
        Ok(ArchiveSummary { header, bytes, family_rows, sha256, has_digest })
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.reader.read_exact(bytes).map_err(|error| self.read_error(error))?;
        self.digest.update(&*bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Grows with what is really there, not with what a length claims.
    fn read_payload(&mut self, length: u32) -> Result<Vec<u8>, StorageError> {
        let mut payload = Vec::new();
        let read = (&mut self.reader).take(u64::from(length)).read_to_end(&mut payload);
        read.map_err(|error| self.read_error(error))?;
        if payload.len() as u64 != u64::from(length) {
            return Err(damaged("it ends early", self.offset));
        }
        self.digest.update(&payload);
        self.offset += u64::from(length);
        Ok(payload)
    }

    fn read_error(&self, error: io::Error) -> StorageError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends early", self.offset),
            _ => damaged(&format!("it cannot be read: {error}"), self.offset),
        }
    }
}

fn damaged(reason: &str, offset: u64) -> StorageError {
    StorageError::Archive { reason: reason.to_owned(), offset }
}
