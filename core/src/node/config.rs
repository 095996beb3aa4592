//! Settings of a member that matter to its state machine.

use std::time::Duration;

use crate::limits;
use crate::types::{ClusterId, MemberId};

/// See the module.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This member.
    pub member_id: MemberId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Which start of this member it is: larger than at any start before.
    pub boot: u64,
    /// Seed of the election timeouts.
    pub seed: u64,
    /// Length of a tick, `--heartbeat-interval`.
    pub tick: Duration,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader before an election, `--election-timeout` over the tick.
    pub election_ticks: usize,
    /// Values kept in memory beside the index, in bytes.
    pub value_cache_bytes: usize,
    /// How long a client's request may take; etcd's rule is five seconds and two election
    /// timeouts.
    pub request_timeout: Duration,
    /// A leader whose log write takes longer hands over.
    pub disk_stall: Duration,
    /// Entries kept behind the applied one for followers that lag; who lags more gets a snapshot.
    pub kept_entries: usize,
    /// The same in bytes.
    pub kept_bytes: usize,
    /// The engine is flushed at least this often while there are writes.
    pub time_between_flushes: Duration,
    /// And when this much log was written since the last flush, in bytes.
    pub log_bytes_between_flushes: u64,
    /// Refuse membership changes that would risk the quorum, `--strict-reconfig-check`.
    pub strict_reconfig: bool,
    /// Learners that a cluster may have, `--max-learners`.
    pub max_learners: usize,
    /// Store how much time long leases have left (etcd's feature gate LeaseCheckpoint).
    pub lease_checkpoints: bool,
    /// A member whose state is wrong takes the leader's without waiting for an operator.
    pub auto_repair: bool,
}

impl NodeConfig {
    /// etcd's timers: 100 ms heartbeats, 1 s election timeout.
    pub fn new(cluster_id: ClusterId, member_id: MemberId, boot: u64, seed: u64) -> Self {
        Self {
            member_id,
            cluster_id,
            boot,
            seed,
            tick: Duration::from_millis(100),
            heartbeat_ticks: 1,
            election_ticks: 10,
            value_cache_bytes: limits::VALUE_CACHE_BYTES_DEFAULT,
            request_timeout: Duration::from_secs(7),
            disk_stall: Duration::from_secs(2),
            kept_entries: limits::TAIL_ENTRIES_KEPT,
            kept_bytes: limits::TAIL_BYTES_KEPT,
            time_between_flushes: limits::TIME_BETWEEN_FLUSHES,
            log_bytes_between_flushes: limits::LOG_BYTES_BETWEEN_FLUSHES,
            strict_reconfig: true,
            max_learners: 1,
            lease_checkpoints: false,
            auto_repair: false,
        }
    }

    /// When the core forgets about a request. A little later than the server, which answers by
    /// itself and knows better words.
    pub fn give_up_after(&self) -> Duration {
        self.request_timeout + Duration::from_millis(500)
    }

    /// The shortest election timeout.
    pub fn election_timeout(&self) -> Duration {
        self.tick * u32::try_from(self.election_ticks).unwrap_or(u32::MAX)
    }
}
