//! Situations that a batch of seeds must reach now and then. A simulator that never reaches them
//! shows nothing by finding no bug.

use std::collections::BTreeMap;

macro_rules! situations {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// One situation.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[allow(missing_docs)]
        pub enum Situation { $($name,)* }

        impl Situation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name for people.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

situations! {
    LeaderElected = "a leader was elected";
    LeaderChanged = "a second leader was elected";
    TwoLeaders = "two members believed to lead in different terms";
    LeaderCrashedWithWaiters = "a leader crashed with unanswered writes";
    CrashMidOutputs = "a member crashed in the middle of a drain's outputs";
    CrashBeforeSync = "a member crashed between a log write and its sync";
    SectorsLost = "a power cut lost unsynced sectors";
    TornTail = "a torn tail was repaired";
    TailRewritten = "frames that nothing proved durable were written again";
    EntriesReplaced = "a follower's uncommitted entries were replaced";
    EngineRolledBack = "a crash took engine batches back";
    ReplayedAfterCrash = "entries were applied again after a crash";
    LogRotated = "the log went on in a new segment";
    LogPurged = "a segment of the log was purged";
    AllDown = "all members were down at once";
    EndNoticed = "a member noticed that the process of another had ended";
    MinorityUp = "only a minority was up";
    Paused = "a member was paused";
    LeaderPaused = "a leader was paused";
    PausedLongerThanElection = "a member stood still for longer than an election timeout";
    ClockJumped = "a clock jumped";
    PartitionedLeader = "a leader was cut off from a majority";
    OneWayCut = "a link was cut one way";
    HeldDelivered = "messages arrived late after a cut";
    Duplicated = "a message arrived twice";
    GarbageRefused = "bytes of no member of the cluster were delivered";
    SyncStuck = "a sync was stuck";
    SyncFailed = "a sync failed and the member stopped";
    WriteFailed = "a log write failed and the member stopped";
    DiskFull = "a disk was full and the member stopped";
    ThreeFaults = "three kinds of fault overlapped";
    ReadByFollower = "a follower served a linearizable read";
    ReadSerializable = "a serializable read was served";
    ReadStale = "a serializable read was older than what was acknowledged";
    ReadAtPast = "a read at an older revision was served";
    ReadCompacted = "a read at a compacted revision was refused";
    ReadWhileNoLeader = "a read was asked for while the member knew no leader";
    CasWon = "a compare-and-swap succeeded";
    CasLost = "a compare-and-swap failed";
    CreateWon = "a create-if-absent succeeded";
    CreateLost = "a create-if-absent failed";
    MultiPut = "a transaction changed several keys";
    EmptyDelete = "a delete found nothing";
    Compacted = "history was compacted";
    CompactRefused = "a compaction was refused";
    GarbageCollected = "superseded rows were removed";
    CrashDuringGarbage = "a member crashed while rows were being removed";
    UnknownApplied = "a write whose outcome its client did not know took effect";
    UnknownLost = "a write whose outcome its client did not know had no effect";
    TimedOut = "a client gave up waiting";
    ConnectionRefused = "a client found a member down";
    LeaseGranted = "a lease was granted";
    LeaseRenewed = "a lease was renewed";
    LeaseRenewedByFollower = "a follower had a lease renewed";
    LeaseExpired = "a lease ran out with keys on it";
    LeaseExpiredAfterLeaderChange = "a lease ran out under another leader than the one that granted it";
    LeaseRevoked = "a lease was revoked by its client";
    LeaseGone = "a keepalive found no lease";
    LockTaken = "a lock was taken";
    LockWaited = "a lock was taken after waiting for another's key to go";
    LockLost = "a lock's holder noticed that its lease may be over";
    FenceRefused = "a guarded resource refused an old token";
    WatchFromPast = "a watch from a past revision caught up";
    WatchFuture = "a watch from a future revision began";
    WatchResumed = "a watch went on at another member";
    WatchLagged = "a watcher fell behind its stream and caught up";
    WatchCompacted = "a watch was cancelled by compaction";
    WatchPrevKv = "a watch delivered a previous value";
    WatchProgress = "a watch got progress";
    WatchSlowReader = "a watch client stopped reading for a while";
    SnapshotMade = "a snapshot was made";
    SnapshotInstalled = "a snapshot was installed";
    SnapshotInstalledWhileLagging = "a snapshot was installed while a watcher lagged";
    SnapshotInterrupted = "a crash interrupted a snapshot";
    SnapshotDamaged = "a damaged snapshot was refused";
    SnapshotDiscarded = "a snapshot that arrived was not wanted";
    MemberAdded = "a member was added";
    MemberPromoted = "a learner was promoted";
    MemberRemoved = "a member was removed";
    LeaderRemoved = "the removal of a leader was asked for";
    MemberUpdated = "a member's addresses were changed";
    MemberChangeRefused = "a membership change was refused";
    MemberChangeDuringCut = "the membership changed while the network was cut";
    MemberReplaced = "a member with a lost disk was replaced";
    LostLogRefused = "a member whose disk was wiped refused to go on under its old id";
    LeaderMoved = "leadership was moved on demand";
    SteppedDown = "a leader stepped down before it stopped";
    RollingRestart = "members were restarted one after the other";
    AlarmRaised = "an alarm was raised";
    BitFlipped = "a bit of a file flipped";
    StateSpoiled = "a member's state was spoiled";
    SpoiledNoticed = "a member noticed that its state is wrong";
    SpoiledRepaired = "a wrong state was replaced";
    MajorityAloneServed = "a majority alone served, with the others away";
    DisputeSettled = "an operator ended a dispute about who is wrong";
    DamageRefused = "a damaged log was refused";
    StalledLeaderHandedOver = "a leader with a stalled disk handed over";
}

/// How often each situation was met.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Sometimes(BTreeMap<Situation, u64>);

impl Sometimes {
    /// It was met.
    pub fn met(&mut self, situation: Situation) {
        *self.0.entry(situation).or_default() += 1;
    }

    /// How often it was met.
    pub fn count(&self, situation: Situation) -> u64 {
        self.0.get(&situation).copied().unwrap_or(0)
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (situation, count) in &other.0 {
            *self.0.entry(*situation).or_default() += count;
        }
    }

    /// Those never met.
    pub fn never(&self) -> impl Iterator<Item = Situation> + '_ {
        Situation::ALL.iter().copied().filter(|situation| self.count(*situation) == 0)
    }
}
