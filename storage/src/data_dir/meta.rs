//! The `meta` file: the layout's version, whose the directory is, and which disk it is on.
//!
//! Format 1 had no incarnation and no pointer to an engine; such a file is rewritten when the
//! directory is opened. A version that knows only format 1 would open `db` whatever the pointer
//! says, so it has to be kept out: hence the number.

use std::path::Path;

use folkmoot_core::types::{ClusterId, MemberId};

use super::DirIdentity;
use super::text::{self, Fields};
use crate::error::StorageError;

/// Version of the directory's layout.
pub(super) const FORMAT: u64 = 2;
/// The last one without an incarnation.
const FORMAT_WITHOUT_INCARNATION: u64 = 1;
const TITLE: &str = "folkmoot data directory";

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meta {
    /// Whose directory it is.
    pub identity: DirIdentity,
    /// The disk's number; `None` in format 1.
    pub incarnation: Option<u64>,
}

/// The file's bytes.
pub(super) fn encode(identity: DirIdentity, incarnation: u64) -> Vec<u8> {
    let DirIdentity { cluster_id, member_id } = identity;
    let fields = [
        ("format", FORMAT.to_string()),
        ("cluster", cluster_id.to_string()),
        ("member", member_id.to_string()),
        ("incarnation", format!("{incarnation:x}")),
    ];
    text::encode(TITLE, &fields)
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<Meta, StorageError> {
    decode(path, &text::read(path)?)
}

/// Understands the file's bytes; the path is for messages.
pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Meta, StorageError> {
    let mut fields = Fields::new(path, bytes, TITLE)?;
    // Later formats may differ below this line.
    let format = fields.next("format")?.parse().map_err(|_| fields.damaged("the format is not a number"))?;
    if format > FORMAT {
        return Err(StorageError::UnsupportedFormat { path: path.to_owned(), format, newest: FORMAT });
    }
    let cluster = fields.next("cluster")?;
    let member = fields.next("member")?;
    let incarnation = match format {
        FORMAT => Some(fields.next("incarnation")?),
        FORMAT_WITHOUT_INCARNATION => None,
        _ => return Err(fields.damaged("there never was such a format")),
    };
    let number =
        |hex: &str| u64::from_str_radix(hex, 16).map_err(|_| fields.damaged("an id is not a number"));
    let identity =
        DirIdentity { cluster_id: ClusterId(number(cluster)?), member_id: MemberId(number(member)?) };
    let incarnation = incarnation.map(number).transpose()?;
    fields.check()?;
    Ok(Meta { identity, incarnation })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: DirIdentity = DirIdentity { cluster_id: ClusterId(0xc1), member_id: MemberId(0x3e) };
    const META: Meta = Meta { identity: OURS, incarnation: Some(0xabc) };

    #[test]
    fn a_description_from_a_newer_version_is_named_as_such() {
        let text = b"folkmoot data directory\nformat 3\nanything\n";
        let error = decode(Path::new("meta"), text).expect_err("newer");
        assert!(matches!(error, StorageError::UnsupportedFormat { format: 3, .. }), "{error}");
    }

    #[test]
    fn a_description_of_the_first_format_is_read() {
        let fields = [("format", "1".into()), ("cluster", "c1".into()), ("member", "3e".into())];
        let meta = decode(Path::new("meta"), &text::encode(TITLE, &fields)).expect("old");
        assert_eq!(meta, Meta { incarnation: None, ..META });
    }

    #[test]
    fn every_flipped_bit_of_the_description_is_noticed() {
        let bytes = encode(OURS, 0xabc);
        assert_eq!(decode(Path::new("meta"), &bytes).expect("whole"), META);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The newline after the last field carries nothing.
            if let Ok(meta) = decode(Path::new("meta"), &flipped) {
                assert_eq!((meta, bit / 8), (META, bytes.len() - 1));
            }
        }
        for cut in 0..bytes.len() - 1 {
            assert!(decode(Path::new("meta"), &bytes[..cut]).is_err(), "cut={cut}");
        }
    }
}
