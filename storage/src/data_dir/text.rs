//! The small text files of the data directory: a title, a `name value` a line, and a checksum.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{IoContext, StorageError};

/// The files are a few lines; anything longer is not ours.
const BYTES_MAX: u64 = 4096;
const CHECKSUM: &str = "crc32c";

/// The bytes of a file with these fields.
pub(super) fn encode(title: &str, fields: &[(&str, String)]) -> Vec<u8> {
    let mut text = format!("{title}\n");
    for (name, value) in fields {
        text.push_str(&format!("{name} {value}\n"));
    }
    let crc = crc32c::crc32c(text.as_bytes());
    format!("{text}{CHECKSUM} {crc:08x}\n").into_bytes()
}

/// The bytes of a file; too many are cut, which its checksum shows.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, StorageError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes))
        .context("read the description of the data directory", path)?;
    Ok(bytes)
}

/// Reads the fields of a file one after another.
pub(super) struct Fields<'a> {
    path: &'a Path,
    text: &'a str,
    lines: std::str::Lines<'a>,
}

impl<'a> Fields<'a> {
    /// Starts below the title.
    pub fn new(path: &'a Path, bytes: &'a [u8], title: &str) -> Result<Self, StorageError> {
        let text = std::str::from_utf8(bytes).map_err(|_| damaged(path, "it is not text"))?;
        let mut lines = text.lines();
        if lines.next() != Some(title) {
            return Err(damaged(path, &format!("the first line is not \"{title}\"")));
        }
        Ok(Self { path, text, lines })
    }

    /// The value on the next line, which must be called `name`. Nothing vouches for it before
    /// [`Self::check`].
    pub fn next(&mut self, name: &str) -> Result<&'a str, StorageError> {
        let value = self.lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.ok_or_else(|| self.damaged(&format!("line \"{name}\" is missing")))
    }

    /// Checks that the checksum follows, that it fits, and that it is the end.
    pub fn check(mut self) -> Result<(), StorageError> {
        let stored = self.next(CHECKSUM)?;
        let (content, _) = self.text.rsplit_once(CHECKSUM).ok_or_else(|| self.damaged("no checksum"))?;
        if stored != format!("{:08x}", crc32c::crc32c(content.as_bytes())) {
            return Err(self.damaged("the checksum does not match"));
        }
        if self.lines.next().is_some() {
            return Err(self.damaged("something follows the checksum"));
        }
        Ok(())
    }

    /// An error about this file.
    pub fn damaged(&self, reason: &str) -> StorageError {
        damaged(self.path, reason)
    }
}

fn damaged(path: &Path, reason: &str) -> StorageError {
    StorageError::MetaDamaged { path: path.to_owned(), reason: reason.to_owned() }
}
