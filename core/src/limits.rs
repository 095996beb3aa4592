//! Every bound of the member, and how the bounds relate.

use std::time::Duration;

/// Largest encoded command of a client, `--max-request-bytes` (etcd's default, 1.5 MiB).
pub const REQUEST_BYTES_MAX_DEFAULT: usize = 1_572_864;
/// What a gRPC message may carry above a command (etcd's 512 KiB).
pub const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;
/// Compares, success or failure operations of a txn, `--max-txn-ops`.
pub const TXN_OPS_MAX_DEFAULT: usize = 128;
/// How deep txns may nest. etcd has no such bound of its own; the budget rule of `--max-txn-ops`
/// and the decoder's recursion limit stop it. Deeper is answered "too many operations".
pub const TXN_DEPTH_MAX: usize = 16;
/// Largest time to live of a lease in seconds (etcd's).
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;

/// Commands are grouped into log entries of about this size.
pub const ENTRY_BYTES_TARGET: usize = 64 * 1024;
/// And of at most this many commands.
pub const ENTRY_COMMANDS_MAX: usize = 512;
/// Entries applied before the published state, the replies and the row batch go out.
pub const APPLY_BYTES_BUDGET: usize = 256 * 1024;

/// Commands accepted and not yet applied; above, new ones are answered "too many requests".
/// etcd's bound on committed minus applied.
pub const PENDING_COMMANDS_MAX: usize = 65_536;
/// Bytes of commands accepted and not yet applied.
pub const PENDING_BYTES_MAX: usize = 64 << 20;
/// Committed entries that are applied before the member looks at its inputs again; bounds memory
/// while a long log is applied after a restart.
pub const COMMITTED_BYTES_PER_DRAIN: usize = 8 << 20;
/// Row batches handed to the storage thread and not yet written.
pub const UNSTORED_BYTES_MAX: usize = 64 << 20;

/// Log entries kept in memory behind the applied one for followers that lag a little.
pub const TAIL_ENTRIES_KEPT: usize = 5_000;
/// The same in bytes.
pub const TAIL_BYTES_KEPT: usize = 16 << 20;
/// Bytes of log kept in memory for followers that are getting a snapshot.
pub const TAIL_BYTES_FOR_SNAPSHOT: usize = 256 << 20;
/// Hashes of the state kept by log index, to compare with those of other members.
pub const STATE_HASHES_KEPT: usize = 16_384;
/// Bytes of commands or lease requests in one message to the leader.
pub const FORWARD_BYTES_MAX: usize = 1 << 20;
/// Size of a write-ahead log segment.
pub const WAL_SEGMENT_BYTES: usize = 64 << 20;
/// The engine is flushed when this much log was written since the last flush.
pub const LOG_BYTES_BETWEEN_FLUSHES: u64 = 128 << 20;
/// And at least this often while there are writes.
pub const TIME_BETWEEN_FLUSHES: Duration = Duration::from_secs(60);

/// Leases revoked by one log entry.
pub const LEASE_REVOKE_IDS_MAX: usize = 4_096;
/// Values kept in memory beside the index, by default.
pub const VALUE_CACHE_BYTES_DEFAULT: usize = 32 << 20;
/// Recent events kept in memory for watchers that lag.
pub const WATCH_RING_BYTES: usize = 16 << 20;
/// Events waiting for one stream.
pub const WATCH_OUTBOX_BYTES: usize = 256 * 1024;
/// Revisions that one catch-up read may cover.
pub const WATCH_CATCH_UP_REVISIONS: i64 = 1_000;
/// Rows that one step of physical compaction looks at (`--compaction-batch-limit`).
pub const GC_ROWS_PER_STEP: usize = 1_000;

const _: () = assert!(ENTRY_BYTES_TARGET < REQUEST_BYTES_MAX_DEFAULT);
const _: () = assert!(REQUEST_BYTES_MAX_DEFAULT * 2 < WAL_SEGMENT_BYTES);
const _: () = assert!(APPLY_BYTES_BUDGET >= ENTRY_BYTES_TARGET);
const _: () = assert!(TAIL_BYTES_KEPT < PENDING_BYTES_MAX);
