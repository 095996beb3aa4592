//! Backups: `snapshot save`, `status` and `restore`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use folkmoot_proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use folkmoot_server::config::Config;
use serde_json::json as value;
use sha2::{Digest as _, Sha256};
use tonic::Streaming;

use super::Context;
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::plain;

/// Bytes of a SHA-256, with which every snapshot ends.
const HASH_BYTES: usize = 32;

/// Back up the whole store of a member
#[derive(Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Subcommand)]
enum SnapshotCommand {
    /// Save the whole store of one member to a file
    ///
    /// The file has its name only when it is whole, checked and on disk.
    #[command(after_help = "\
Examples:
  folkmoot snapshot save backup.db
  folkmoot snapshot save backup.db --endpoints 10.0.0.5:2379
  folkmoot snapshot save backup.db -w json         with size and checksum")]
    Save {
        /// The file to write
        file: PathBuf,
    },
    /// Check a saved snapshot and show what is in it
    #[command(after_help = "\
Examples:
  folkmoot snapshot status backup.db
  folkmoot snapshot status backup.db -w json")]
    Status {
        /// The saved snapshot
        file: PathBuf,
    },
    /// Make the data directory of a new member from a saved snapshot
    ///
    /// Keys, history, revisions and leases are those of the snapshot; the member is alone in its
    /// cluster. Its number and the cluster's come from the peer URLs and the token, so give a token
    /// that was not used before: then members of the old cluster cannot take it for their own.
    #[command(after_help = "\
Examples:
  folkmoot snapshot restore backup.db --data-dir /var/lib/folkmoot \\
    --initial-cluster-token second
  folkmoot snapshot restore backup.db --name a     into a.folkmoot
  folkmoot serve --data-dir /var/lib/folkmoot      afterwards, to use it")]
    Restore(RestoreArgs),
}

#[derive(Args)]
struct RestoreArgs {
    /// The saved snapshot
    file: PathBuf,
    /// The directory to make; it must not exist or be empty [default: <name>.folkmoot]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Name of the new member
    #[arg(long, default_value = "default")]
    name: String,
    /// What other members will be told [default: http://localhost:2380]
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    initial_advertise_peer_urls: Vec<String>,
    /// All members of the new cluster [default: this member alone]
    #[arg(long, value_name = "NAME=URL,...", default_value = "", hide_default_value = true)]
    initial_cluster: String,
    /// Tells apart new clusters that have the same members
    #[arg(long, value_name = "TEXT", default_value = "etcd-cluster")]
    initial_cluster_token: String,
}

impl SnapshotArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        match self.command {
            SnapshotCommand::Save { file } => save(context, &file).await,
            SnapshotCommand::Status { file } => status(context, &file),
            SnapshotCommand::Restore(args) => restore(context, args),
        }
    }
}

fn status(context: &Context, path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|error| about(path, &error))?;
    let summary = folkmoot_server::verify_archive(BufReader::new(file))
        .map_err(|error| Failure::new(format!("{error}; file={}", path.display())))?;
    let (revision, keys) = (summary.header.revision, summary.rows());
    let checked = if summary.has_digest { "whole" } else { "whole, without a checksum of its own" };
    context.printer.print(
        || {
            let size = summary.bytes;
            plain::lines([format!(
                "{checked}: revision {revision}, {keys} rows, {size} bytes, sha256 {}",
                hex(&summary.sha256)
            )])
        },
        || {
            value!({
                "revision": revision,
                "totalRows": keys,
                "totalSize": summary.bytes,
                "sha256": hex(&summary.sha256),
                "hasChecksum": summary.has_digest,
                "cluster_id": summary.header.cluster_id.0,
                "member_id": summary.header.member_id.0,
            })
        },
    )
}

fn restore(context: &Context, args: RestoreArgs) -> Result<()> {
    let data_dir = args.data_dir.unwrap_or_else(|| format!("{}.folkmoot", args.name).into());
    let config = Config {
        name: args.name,
        data_dir,
        initial_advertise_peer_urls: args.initial_advertise_peer_urls,
        initial_cluster: args.initial_cluster,
        initial_cluster_token: args.initial_cluster_token,
        ..Config::default()
    };
    let restored =
        folkmoot_server::restore(&args.file, &config).map_err(|error| Failure::new(error.to_string()))?;
    let data_dir = config.data_dir.display();
    context.printer.print(
        || plain::lines([format!("Snapshot restored to {data_dir} at revision {}", restored.revision)]),
        || {
            value!({
                "dataDir": data_dir.to_string(),
                "revision": restored.revision,
                "cluster_id": restored.cluster_id,
                "member_id": restored.member_id,
            })
        },
    )
}

struct Saved {
    size_bytes: u64,
    version: String,
    hash: [u8; HASH_BYTES],
}

async fn save(context: &Context, file: &Path) -> Result<()> {
    let [endpoint] = context.connect.endpoints.as_slice() else {
        return Err(Failure::usage("a snapshot is of one member: give one of --endpoints"));
    };
    let part = part_path(file);
    let client = Client::connect_to(endpoint, &context.connect).await?;
    // No timeout: a large store takes its time. A member that vanishes is noticed by its connection.
    let parts = client.maintenance().snapshot(SnapshotRequest {}).await?.into_inner();
    let saved = match write_parts(parts, &part).await {
        Ok(saved) => saved,
        Err(failure) => {
            // Half a snapshot is of no use; that it stays is no worse than why it is half.
            let _ = fs::remove_file(&part);
            return Err(failure);
        }
    };
    fs::rename(&part, file).map_err(|error| about(file, &error))?;
    sync_parent(file)?;
    context.printer.print(
        || {
            let saved_at = format!("Snapshot saved at {}", file.display());
            let version = (!saved.version.is_empty()).then(|| format!("Server version {}", saved.version));
            plain::lines(std::iter::once(saved_at).chain(version))
        },
        || {
            value!({
                "file": file.display().to_string(),
                "size": saved.size_bytes,
                "version": saved.version,
                "sha256": hex(&saved.hash),
            })
        },
    )
}

/// Writes the parts of a snapshot to a file, checks the hash at their end, and syncs the file.
async fn write_parts(mut parts: Streaming<SnapshotResponse>, path: &Path) -> Result<Saved> {
    let file = File::create(path).map_err(|error| about(path, &error))?;
    let mut file = BufWriter::new(file);
    let mut check = Trailer::default();
    let (mut size_bytes, mut version) = (0, String::new());
    while let Some(part) = parts.message().await? {
        check.add(&part.blob);
        size_bytes += part.blob.len() as u64;
        if !part.version.is_empty() {
            version = part.version;
        }
        file.write_all(&part.blob).map_err(|error| about(path, &error))?;
    }
    let hash = check.finish()?;
    let file = file.into_inner().map_err(|error| about(path, error.error()))?;
    file.sync_all().map_err(|error| about(path, &error))?;
    Ok(Saved { size_bytes, version, hash })
}

/// Hashes everything but the last 32 bytes, which must be that hash. Which bytes are the last shows
/// only at the end, however the stream is cut into parts.
#[derive(Default)]
struct Trailer {
    hash: Sha256,
    /// The last bytes so far, at most 32.
    last: Vec<u8>,
}

impl Trailer {
    fn add(&mut self, bytes: &[u8]) {
        self.last.extend_from_slice(bytes);
        let settled = self.last.len().saturating_sub(HASH_BYTES);
        self.hash.update(&self.last[..settled]);
        self.last.drain(..settled);
    }

    fn finish(self) -> Result<[u8; HASH_BYTES]> {
        let expected: [u8; HASH_BYTES] = self.last.try_into().map_err(|_| {
            Failure::new("the snapshot is not whole: the server sent fewer bytes than a checksum has")
        })?;
        let found: [u8; HASH_BYTES] = self.hash.finalize().into();
        match found == expected {
            true => Ok(found),
            false => Err(Failure::new(format!(
                "the snapshot is damaged or not whole: expected sha256 {}, got {}",
                hex(&expected),
                hex(&found)
            ))),
        }
    }
}

fn part_path(file: &Path) -> PathBuf {
    let mut name: OsString = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Makes a new name in a folder survive a crash of the machine.
fn sync_parent(file: &Path) -> Result<()> {
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(|error| about(parent, &error))
}

fn about(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{error}; file={}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_trailer(content: &[u8]) -> Vec<u8> {
        let hash: [u8; HASH_BYTES] = Sha256::digest(content).into();
        [content, &hash].concat()
    }

    fn check(stream: &[u8], part_bytes: usize) -> Result<[u8; HASH_BYTES]> {
        let mut trailer = Trailer::default();
        stream.chunks(part_bytes).for_each(|part| trailer.add(part));
        trailer.finish()
    }

    #[test]
    fn a_whole_snapshot_is_good_however_it_is_cut() {
        let stream = with_trailer(&[7; 1000]);
        for part_bytes in [1, 31, 32, 33, 500, 2000] {
            check(&stream, part_bytes).expect("is whole");
        }
        check(&with_trailer(b""), 32).expect("an empty store is whole, too");
    }

    #[test]
    fn a_cut_or_changed_snapshot_is_refused() {
        let mut stream = with_trailer(&[7; 1000]);
        check(&stream[..stream.len() - 1], 100).expect_err("the last byte is missing");
        check(&stream[1..], 100).expect_err("the first byte is missing");
        check(&stream[..31], 100).expect_err("is shorter than a checksum");
        stream[500] ^= 1;
        let failure = check(&stream, 100).expect_err("a bit is wrong");
        assert!(failure.message().contains("expected sha256"));
    }

    #[test]
    fn a_half_snapshot_stands_beside_the_whole_one() {
        assert_eq!(part_path(Path::new("/b/x.db")), Path::new("/b/x.db.part"));
    }
}
