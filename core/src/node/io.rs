//! What goes into a [`super::Node`] and what comes out of it.

use std::sync::Arc;

use bytes::Bytes;

use crate::apply::meta::Applied;
use crate::cluster::{Alarm, Member};
use crate::command::Command;
use crate::env::WriteBatch;
use crate::error::{Error, Fatal};
use crate::event::EventBatch;
use crate::mvcc::{DeleteRangeResponse, PutResponse, TxnResponse};
use crate::types::{LeaseId, LogIndex, MemberId, Term};
use crate::wal::WalBatch;

/// The caller's number for somebody who waits; opaque here, given back once in
/// [`Output::Reply`]. A slot whose owner went away may be answered all the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u64);

/// One thing that happened to the member. Inputs given to [`super::Node::step`] are worked on
/// together in the next [`super::Node::drain`].
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed. Give one at least every tick interval, and whenever
    /// [`super::Node::next_wakeup`] says so.
    Tick,
    /// A client's command to replicate; answered after it was applied here.
    Propose {
        /// Who waits.
        slot: Slot,
        /// What to do.
        command: Command,
    },
    /// A linearizable read wants to start; answered with [`Reply::ReadIndex`] once this member
    /// has applied everything that was committed when the read arrived.
    ReadIndex {
        /// Who waits.
        slot: Slot,
    },
    /// Keepalive of a lease.
    LeaseRenew {
        /// Who waits.
        slot: Slot,
        /// Which lease.
        id: LeaseId,
    },
    /// Remaining time of a lease.
    LeaseTimeToLive {
        /// Who waits.
        slot: Slot,
        /// Which lease.
        id: LeaseId,
        /// Whether its keys are wanted too.
        keys: bool,
    },
    /// All leases this member knows, soonest to expire first; local, not linearizable.
    LeaseList {
        /// Who waits.
        slot: Slot,
    },
    /// Moves leadership; answered when it has moved.
    TransferLeader {
        /// Who waits.
        slot: Slot,
        /// To whom.
        target: MemberId,
    },
    /// The log write of this number, and all before it, are durable.
    WalDone {
        /// Number of the last such [`Output::Wal`].
        number: u64,
    },
    /// The engine has taken all [`Output::Store`] batches up to this one (not yet durable).
    Stored {
        /// The batch's log index.
        index: LogIndex,
        /// The batch's revision.
        revision: i64,
    },
    /// The engine has made everything up to this log index durable.
    Flushed {
        /// The log index.
        index: LogIndex,
    },
    /// A message of another member.
    Peer {
        /// The sender, as the transport authenticated it.
        from: MemberId,
        /// Its bytes, as another member's [`Output::Send`] gave them out.
        message: Bytes,
    },
    /// A message for this member could not be sent.
    PeerUnreachable {
        /// Which member.
        peer: MemberId,
    },
    /// The connection to this member was lost. It counts as absent until it is heard again; without
    /// this input it does so after some seconds of silence.
    PeerLost {
        /// Which member.
        peer: MemberId,
    },
    /// Leadership, if this member has it, is to go to whoever is placed best, because this
    /// member is about to stop; answered when it has moved, at once if there is nothing to move.
    StepDown {
        /// Who waits.
        slot: Slot,
    },
    /// The copy of the engine that [`Output::MakeSnapshot`] asked for exists.
    SnapshotMade {
        /// The number that was given.
        id: SnapshotId,
        /// The applied position that stands in the copy.
        position: Applied,
    },
    /// The copy could not be made; the next follower that needs one asks again.
    SnapshotNotMade {
        /// The number that was given.
        id: SnapshotId,
    },
    /// A transfer that [`Output::SendSnapshot`] asked for has ended. Must be given for every one,
    /// however it ended: the follower gets nothing else until then.
    SnapshotSent {
        /// The receiver.
        to: MemberId,
        /// The number that was given.
        id: SnapshotId,
        /// Whether the receiver has all of it.
        ok: bool,
    },
    /// Another member's snapshot arrived whole and was found good; it waits beside the engine.
    SnapshotArrived {
        /// The sender.
        from: MemberId,
        /// The message that came with it.
        message: Bytes,
        /// This member's own number for the files that wait.
        staged: SnapshotId,
        /// The applied position that stands in the files.
        position: Applied,
    },
    /// [`Output::InstallSnapshot`] was carried out: the engine that this node was started with now
    /// durably holds the rows of the snapshot.
    SnapshotInstalled {
        /// The number that was given.
        staged: SnapshotId,
    },
}

/// Number of a copy of the engine: the sender's own for one it made, the receiver's own for one
/// that arrived.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SnapshotId(pub u64);

/// One thing the caller must do. Outputs are in order; carry them out in order.
#[derive(Debug)]
pub enum Output {
    /// Append to the log; report with [`Input::WalDone`].
    Wal(WalWrite),
    /// Write to the engine, in order, behind; report with [`Input::Stored`].
    Store(StoreWrite),
    /// Make the engine durable after the last [`Output::Store`]; report with
    /// [`Input::Flushed`] and that store's index.
    Flush,
    /// The log up to here, inclusive, is not needed any more.
    PurgeLog {
        /// Last entry that may go.
        up_to: LogIndex,
    },
    /// An answer for somebody who waits.
    Reply {
        /// Who.
        slot: Slot,
        /// The answer.
        result: Result<Reply, Error>,
    },
    /// Changes that were applied, for the watch hub; one batch for each revision, in order.
    Events(Arc<EventBatch>),
    /// The compacted revision moved: tell the watch hub, and remove superseded versions below it
    /// physically once the [`Output::Store`] that carries it was written.
    Compacted {
        /// The new compacted revision.
        revision: i64,
    },
    /// A message for another member; losing it is allowed.
    Send {
        /// The receiver.
        to: MemberId,
        /// Its bytes.
        message: Bytes,
    },
    /// Make a copy of the engine after the last [`Output::Store`], to be sent to other members;
    /// report with [`Input::SnapshotMade`] or [`Input::SnapshotNotMade`].
    MakeSnapshot {
        /// Its number.
        id: SnapshotId,
    },
    /// Send this copy with this message; report with [`Input::SnapshotSent`].
    SendSnapshot {
        /// The receiver.
        to: MemberId,
        /// Which copy.
        id: SnapshotId,
        /// The message that the receiver's [`Input::SnapshotArrived`] needs.
        message: Bytes,
    },
    /// The copy is not needed any more, unless it is still being sent.
    DropSnapshot {
        /// Which copy.
        id: SnapshotId,
    },
    /// Put the rows that wait under this number in place of the engine's: atomically and durably,
    /// the marker of [`super::mark_installed`] written into them before, and nothing of any
    /// earlier [`Output::Store`] afterwards. Report with [`Input::SnapshotInstalled`]. Reads of
    /// this member give no answers until then.
    InstallSnapshot {
        /// Which files.
        staged: SnapshotId,
        /// The log index that they hold.
        index: LogIndex,
    },
    /// What arrived under this number is not wanted.
    DiscardSnapshot {
        /// Which files.
        staged: SnapshotId,
    },
    /// The keys were replaced by a snapshot's: the watch hub goes on from here.
    Restored {
        /// The new revision.
        revision: i64,
        /// The new compacted revision.
        compact_revision: i64,
    },
    /// This member was removed from the cluster: it takes part in nothing any more and should
    /// stop soon.
    Removed,
    /// What everybody may know about the member changed; the last one of a drain counts.
    Status(Status),
    /// The member cannot go on: stop serving at once, write nothing more.
    Fatal(Fatal),
}

/// One write to the log.
#[derive(Debug)]
pub struct WalWrite {
    /// Rises by one; later writes include earlier ones.
    pub number: u64,
    /// The records.
    pub batch: WalBatch,
    /// Whether anybody waits for durability; a lone commit index may be written lazily.
    pub sync: bool,
}

/// One write to the engine: everything that a run of log entries changed, with the new applied
/// position inside.
#[derive(Debug)]
pub struct StoreWrite {
    /// The last log entry included.
    pub index: LogIndex,
    /// The store's revision after it.
    pub revision: i64,
    /// The rows.
    pub batch: WriteBatch,
}

/// An answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// To [`crate::command::Kind::Put`].
    Put(PutResponse),
    /// To [`crate::command::Kind::DeleteRange`].
    DeleteRange(DeleteRangeResponse),
    /// To [`crate::command::Kind::Txn`].
    Txn(TxnResponse),
    /// To [`crate::command::Kind::Compact`].
    Compact {
        /// Current revision.
        revision: i64,
    },
    /// To [`crate::command::Kind::LeaseGrant`].
    LeaseGrant {
        /// The lease.
        id: LeaseId,
        /// Effective time to live in seconds.
        ttl: i64,
        /// Current revision.
        revision: i64,
    },
    /// To [`crate::command::Kind::LeaseRevoke`].
    LeaseRevoke {
        /// Revision after the lease's keys were deleted.
        revision: i64,
    },
    /// To [`crate::command::Kind::Alarm`].
    Alarm {
        /// The alarms concerned.
        alarms: Vec<Alarm>,
        /// Current revision.
        revision: i64,
    },
    /// To commands without an answer of their own.
    Done {
        /// Current revision.
        revision: i64,
    },
    /// To [`Input::ReadIndex`]: a read on the published state may run now.
    ReadIndex {
        /// What has been applied at least.
        applied: LogIndex,
    },
    /// To [`Input::LeaseRenew`].
    LeaseRenewed {
        /// Granted time to live in seconds, 0 if there is no such lease.
        ttl: i64,
        /// Revision before the renewal.
        revision: i64,
    },
    /// To [`Input::LeaseTimeToLive`].
    LeaseTimeToLive {
        /// Remaining whole seconds; -1 if there is no such lease.
        ttl: i64,
        /// Granted seconds; 0 if there is no such lease.
        granted_ttl: i64,
        /// Its keys, if asked for.
        keys: Vec<Bytes>,
        /// Current revision.
        revision: i64,
    },
    /// To [`Input::LeaseList`].
    LeaseList {
        /// Soonest to expire first.
        ids: Vec<LeaseId>,
        /// Current revision.
        revision: i64,
    },
    /// To [`Input::TransferLeader`] and [`Input::StepDown`].
    Transferred,
    /// To [`crate::command::Kind::MemberAdd`], `MemberRemove`, `MemberUpdate` and
    /// `MemberPromote`: the members afterwards, by id.
    Members(Vec<Member>),
}

/// What everybody may know about the member.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    /// Current term.
    pub term: Term,
    /// The leader, as known here.
    pub leader: Option<MemberId>,
    /// Committed log index.
    pub committed: LogIndex,
    /// Applied log index.
    pub applied: LogIndex,
    /// Whether a linearizable read may run on the published state without a read-index round:
    /// this member leads, has committed in its term, and is the only voter.
    pub sole_leader: bool,
    /// Whether this member is a learner.
    pub learner: bool,
    /// Whether this member's state was found to differ from the others': it answers nothing.
    pub corrupt: bool,
    /// How many other members' states were compared with this one's since it started.
    pub compared: usize,
    /// Hash over all that was applied, and the log index it stands for.
    pub state_hash: (LogIndex, u64),
    /// Ids that belonged to members that were removed. Shared like the members.
    pub removed: Arc<Vec<MemberId>>,
    /// The members, by id. Shared: replaced as a whole when it changes.
    pub members: Arc<Vec<Member>>,
    /// The active alarms. Shared: replaced as a whole when it changes.
    pub alarms: Arc<Vec<Alarm>>,
    /// Replicated cluster version such as `3.6.0`, empty while undecided.
    pub cluster_version: Arc<str>,
}
