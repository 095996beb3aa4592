//! Bounds and times of the transport, and who this member is.

use std::path::PathBuf;
use std::time::Duration;

use folkmoot_core::types::{ClusterId, MemberId};

/// Frames' lengths are 32 bits wide, and a chunk of a snapshot must fit.
const FRAME_BYTES: std::ops::RangeInclusive<usize> = (1 << 20)..=(1 << 30);

/// Who this member is, as it tells others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub member: MemberId,
    /// Grows with each start of the process on the same disk.
    pub boot: u64,
    /// Names the disk: a member that starts with an emptied one has another.
    pub incarnation: u64,
}

/// Bounds and times. The defaults suit members in one or in neighbouring data centres.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerConfig {
    /// Largest message; a larger one that arrives closes its connection.
    pub frame_bytes_max: usize,
    /// Bytes of messages waiting for one peer; above, messages are dropped and reported.
    pub queue_bytes_max: usize,
    /// Messages waiting for one peer; above, messages are dropped and reported.
    pub queue_frames_max: usize,
    /// For finding and connecting to one URL.
    pub dial_timeout: Duration,
    /// For the handshake, on both sides.
    pub handshake_timeout: Duration,
    /// Each side writes at least this often.
    pub ping_interval: Duration,
    /// A peer that wrote nothing for this long is gone.
    pub read_timeout: Duration,
    /// How long reading from a peer rests when the owner asks for a pause.
    pub pause: Duration,
    /// First wait after a connection was lost or refused.
    pub backoff_min: Duration,
    /// Longest wait. A connection that lasted this long makes the next wait a first one again.
    pub backoff_max: Duration,
    /// Accepted connections that have not said who they are; above, new ones are told "busy".
    pub handshakes_max: usize,
    /// A peer is reported as unreachable at most this often.
    pub unreachable_interval: Duration,
    /// One kind of warning about one peer or address is logged at most this often.
    pub warning_interval: Duration,
    /// Where snapshots from other members arrive.
    pub staging_dir: PathBuf,
    /// Bytes that a snapshot must leave free on that file system.
    pub staging_free_bytes_min: u64,
    /// Largest snapshot that is taken.
    pub snapshot_bytes_max: u64,
    /// Most files of a snapshot that is taken.
    pub snapshot_files_max: usize,
    /// Attempts to send a snapshot that get no further than those before, until it is given up.
    pub snapshot_attempts_max: u32,
    /// Snapshots that are sent at the same time; more wait.
    pub snapshots_sent_at_once: usize,
}

impl PeerConfig {
    /// The defaults.
    pub fn new(staging_dir: PathBuf) -> Self {
        Self {
            frame_bytes_max: 64 << 20,
            queue_bytes_max: 64 << 20,
            queue_frames_max: 4096,
            dial_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_millis(500),
            read_timeout: Duration::from_secs(3),
            pause: Duration::from_millis(2),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            handshakes_max: 64,
            unreachable_interval: Duration::from_millis(100),
            warning_interval: Duration::from_secs(30),
            staging_dir,
            staging_free_bytes_min: 64 << 20,
            snapshot_bytes_max: 1 << 40,
            snapshot_files_max: 65_536,
            snapshot_attempts_max: 5,
            snapshots_sent_at_once: 2,
        }
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        let refuse = |reason: &'static str| Err(StartError::Config(reason));
        if !FRAME_BYTES.contains(&self.frame_bytes_max) {
            return refuse("frame_bytes_max must be between 1 MiB and 1 GiB");
        }
        if self.queue_bytes_max < self.frame_bytes_max {
            return refuse("queue_bytes_max must hold at least one message of frame_bytes_max");
        }
        if self.read_timeout < self.ping_interval * 2 {
            return refuse("read_timeout must be at least twice ping_interval");
        }
        if self.backoff_min.is_zero() || self.backoff_max < self.backoff_min {
            return refuse("backoff_min must be above zero and at most backoff_max");
        }
        let counts = [self.queue_frames_max, self.handshakes_max, self.snapshots_sent_at_once];
        if counts.contains(&0) || self.snapshot_attempts_max == 0 {
            return refuse("counts must be above zero");
        }
        Ok(())
    }
}

/// Why the transport did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("peer transport is misconfigured: {0}")]
    Config(&'static str),
    /// The staging directory cannot be used.
    #[error("cannot prepare the directory for snapshots, check the disk and the permissions: dir={}: {source}", dir.display())]
    Staging {
        /// The directory.
        dir: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A listener cannot be used.
    #[error("cannot listen for peers: {0}")]
    Listener(#[source] std::io::Error),
}
