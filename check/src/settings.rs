//! What the checkers must know about a run besides its history.

use crate::history::Nanos;

/// Settings of [`crate::check`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Violations of each rule that are kept with their text.
    pub cap: u64,
    /// History was compacted by others than the history's operations (a timer), so that any
    /// revision may be compacted at any time.
    pub other_compactions: bool,
    /// Lease times.
    pub lease: LeaseSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cap: 20, other_compactions: false, lease: LeaseSettings::default() }
    }
}

/// How the time of leases is judged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaseSettings {
    /// By how much a member's clock may run faster or slower than the history's, in parts per
    /// million.
    pub clock_error_ppm: u64,
    /// Times in which the cluster was live: a majority up and connected, no disk at fault. Only
    /// in these must leases end in time.
    pub live: Vec<LivePeriod>,
    /// How long after its time to live, or after a live period began, a lease may still be there
    /// (etcd: an election timeout and two seconds).
    pub slack: Nanos,
    /// How long after a client gave up its request may still take effect (packets under way, a
    /// queue of a paused member). `None`: for ever, and then a lease with one renewal of unknown
    /// outcome is not judged for being late.
    pub linger: Option<Nanos>,
}

/// A time in which the cluster was live without interruption.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LivePeriod {
    /// From when.
    pub from: Nanos,
    /// Until when.
    pub to: Nanos,
}
