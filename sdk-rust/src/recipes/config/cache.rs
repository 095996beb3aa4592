//! The last good configuration on disk, for a start while the store is away.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::tree::Items;

const FORMAT: u32 = 1;

/// What is kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cached {
    pub cluster_id: u64,
    pub revision: i64,
    /// Items by namespace.
    pub layers: BTreeMap<String, Items>,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    cluster_id: String,
    revision: i64,
    sha256: String,
    layers: BTreeMap<String, BTreeMap<String, String>>,
}

fn digest(layers: &BTreeMap<String, BTreeMap<String, String>>) -> String {
    let text = serde_json::to_vec(layers).expect("texts are JSON");
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn path(dir: &Path, cluster_id: u64, namespace: &str) -> PathBuf {
    dir.join(format!("{cluster_id:x}")).join(format!("{namespace}.json"))
}

/// Writes it, whole or not at all.
pub(crate) fn write(dir: &Path, namespace: &str, cached: &Cached) -> std::io::Result<()> {
    let encode =
        |items: &Items| items.iter().map(|(path, bytes)| (path.clone(), STANDARD.encode(bytes))).collect();
    let layers = cached.layers.iter().map(|(name, items)| (name.clone(), encode(items))).collect();
    let file = File {
        format: FORMAT,
        cluster_id: format!("{:x}", cached.cluster_id),
        revision: cached.revision,
        sha256: digest(&layers),
        layers,
    };
    let path = path(dir, cached.cluster_id, namespace);
    let folder = path.parent().expect("is in a folder");
    fs::create_dir_all(folder)?;
    // Of this process and call alone, because several may share the folder.
    let new = path.with_extension(format!("{}.new", super::super::registry::unique()));
    let written = (|| {
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        out.write_all(&serde_json::to_vec_pretty(&file).expect("texts are JSON"))?;
        out.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // It may not be there; the first error is the one that counts.
        let _ = fs::remove_file(&new);
    }
    written
}

/// Reads the newest one of any cluster, or nothing if none is whole.
pub(crate) fn read(dir: &Path, namespace: &str) -> Option<Cached> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path().join(format!("{namespace}.json"));
            Some((fs::metadata(&path).ok()?.modified().ok()?, path))
        })
        .collect();
    files.sort();
    files.into_iter().rev().find_map(|(_, path)| decode(&fs::read(path).ok()?))
}

fn decode(bytes: &[u8]) -> Option<Cached> {
    let file: File = serde_json::from_slice(bytes).ok()?;
    if file.format != FORMAT || file.sha256 != digest(&file.layers) {
        return None;
    }
    let mut layers = BTreeMap::new();
    for (name, items) in file.layers {
        let mut decoded = Items::new();
        for (path, text) in items {
            decoded.insert(path, STANDARD.decode(text).ok()?.into());
        }
        layers.insert(name, decoded);
    }
    Some(Cached {
        cluster_id: u64::from_str_radix(&file.cluster_id, 16).ok()?,
        revision: file.revision,
        layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn cached() -> Cached {
        let items = Items::from([("a".to_owned(), "1".into()), ("b.bin".to_owned(), vec![0, 255].into())]);
        Cached { cluster_id: 0xabc, revision: 7, layers: BTreeMap::from([("gw".to_owned(), items)]) }
    }

    #[test]
    fn cf_6_what_is_written_is_read_back_and_private() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "gw", &cached()).unwrap();
        assert_eq!(read(dir.path(), "gw"), Some(cached()));
        let mode = fs::metadata(dir.path().join("abc/gw.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("abc")).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn cf_6_a_damaged_or_newer_file_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "gw", &cached()).unwrap();
        let path = dir.path().join("abc/gw.json");
        let text = fs::read_to_string(&path).unwrap();
        for damaged in [
            &text[..text.len() / 2],
            &text.replace("MQ==", "Mg=="),
            &text.replace("\"format\": 1", "\"format\": 2"),
        ] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(read(dir.path(), "gw"), None);
        }
        assert_eq!(read(dir.path(), "other"), None);
    }
}
