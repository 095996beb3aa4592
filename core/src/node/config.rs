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
        }
    }

    /// The shortest election timeout.
    pub fn election_timeout(&self) -> Duration {
        self.tick * u32::try_from(self.election_ticks).unwrap_or(u32::MAX)
    }
}
