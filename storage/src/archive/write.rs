//! Writes an archive.

use std::io::{self, Write};
use std::path::Path;

use folkmoot_core::env::{Family, ScanStep};
use sha2::{Digest, Sha256};

use super::{
    ALIGNMENT_BYTES, ArchiveHeader, ArchiveSummary, BLOCK_BYTES_MAX, BLOCK_BYTES_TARGET, BLOCK_HEADER_BYTES,
    BLOCK_MAGIC, RowSource, TRAILER_MAGIC, encode_header, header_crc,
};
use crate::error::StorageError;

/// Writes all rows of `rows` to `out`. Does not append the digest; see [`ArchiveSummary::sha256`].
pub fn write_archive(
    rows: &impl RowSource,
    out: &mut impl Write,
    header: &ArchiveHeader,
) -> Result<ArchiveSummary, StorageError> {
    let encoded = encode_header(header);
    let mut writer = Writer {
        out,
        digest: Sha256::new(),
        bytes: 0,
        seed: header_crc(&encoded),
        block: Vec::new(),
        block_rows: 0,
        blocks: 0,
    };
    writer.write(&encoded).map_err(write_error)?;
    let mut family_rows = [0; Family::ALL.len()];
    for family in Family::ALL {
        let count = &mut family_rows[usize::from(family.number())];
        let mut failed = None;
        let mut visit = |key: &[u8], value: &[u8]| {
            *count += 1;
            match writer.push(family, key, value) {
                Ok(()) => ScanStep::Next,
                Err(error) => {
                    failed = Some(error);
                    ScanStep::Stop
                }
            }
        };
        rows.visit_rows(family, &mut visit).map_err(|error| StorageError::Engine {
            path: Path::new("db").to_owned(),
            reason: error.to_string(),
        })?;
        if let Some(error) = failed {
            return Err(write_error(error));
        }
        writer.close_block(family).map_err(write_error)?;
    }
    writer.finish(&family_rows).map_err(write_error)?;
    Ok(ArchiveSummary {
        header: *header,
        bytes: writer.bytes,
        family_rows,
        sha256: writer.digest.finalize().into(),
        has_digest: false,
    })
}

fn write_error(error: io::Error) -> StorageError {
    StorageError::io("write a backup archive", Path::new("backup"), error)
}

struct Writer<'a, W> {
    out: &'a mut W,
    digest: Sha256,
    bytes: u64,
    seed: u32,
    /// Payload of the block so far.
    block: Vec<u8>,
    block_rows: u32,
    blocks: u64,
}

impl<W: Write> Writer<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn push(&mut self, family: Family, key: &[u8], value: &[u8]) -> io::Result<()> {
        let length = |bytes: &[u8]| {
            u32::try_from(bytes.len())
                .ok()
                .filter(|length| *length < BLOCK_BYTES_MAX / 4)
                .ok_or_else(|| io::Error::other("row is too large for an archive"))
        };
        let (key_bytes, value_bytes) = (length(key)?, length(value)?);
        self.block.extend_from_slice(&key_bytes.to_le_bytes());
        self.block.extend_from_slice(&value_bytes.to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.block_rows += 1;
        if self.block.len() >= BLOCK_BYTES_TARGET { self.close_block(family) } else { Ok(()) }
    }

    fn close_block(&mut self, family: Family) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let payload = std::mem::take(&mut self.block);
        let length = u32::try_from(payload.len()).expect("rows and blocks are bounded");
        let mut header = Vec::with_capacity(BLOCK_HEADER_BYTES);
        header.extend_from_slice(&BLOCK_MAGIC);
        header.extend_from_slice(&[family.number(), 0, 0, 0]);
        header.extend_from_slice(&self.blocks.to_le_bytes());
        header.extend_from_slice(&self.block_rows.to_le_bytes());
        header.extend_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(self.seed, &header), &payload);
        header.extend_from_slice(&crc.to_le_bytes());
        self.write(&header)?;
        self.write(&payload)?;
        self.block = payload;
        self.block.clear();
        self.block_rows = 0;
        self.blocks += 1;
        Ok(())
    }

    fn finish(&mut self, family_rows: &[u64]) -> io::Result<()> {
        let mut trailer = TRAILER_MAGIC.to_vec();
        trailer.extend_from_slice(&[0; 4]);
        trailer.extend_from_slice(&self.blocks.to_le_bytes());
        for rows in family_rows {
            trailer.extend_from_slice(&rows.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(self.seed, &trailer);
        trailer.extend_from_slice(&crc.to_le_bytes());
        self.write(&trailer)?;
        let over = usize::try_from(self.bytes % ALIGNMENT_BYTES as u64).expect("below 512");
        self.write(&[0; ALIGNMENT_BYTES][over..][..(ALIGNMENT_BYTES - over) % ALIGNMENT_BYTES])?;
        self.out.flush()
    }
}
