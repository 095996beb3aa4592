//! What the owner is told, and what it hands in.

use std::path::PathBuf;

use bytes::Bytes;
use folkmoot_core::types::MemberId;

use crate::handshake::Refusal;
use crate::snapshot::SnapshotError;

/// Another member, as the owner knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerMember {
    /// Its id.
    pub id: MemberId,
    /// Where it listens; tried in turn.
    pub urls: Vec<String>,
    /// Its disk, once it is known; another one is refused.
    pub incarnation: Option<u64>,
}

/// A snapshot to send.
#[derive(Clone, Debug)]
pub struct SnapshotToSend {
    /// Comes back in [`Event::SnapshotSent`].
    pub id: u64,
    /// The message that the files belong to, opaque; arrives with them.
    pub message: Bytes,
    /// The directory whose files are sent. It must not change until the snapshot was reported as
    /// sent.
    pub dir: PathBuf,
    /// How fast it is sent at most.
    pub rate_bytes_per_second: Option<u64>,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A message of a member arrived: each once, in the order of sending, per connection.
    Message {
        /// Who sent it.
        from: MemberId,
        /// What was sent.
        bytes: Bytes,
    },
    /// Messages to a peer were dropped, or may have been lost with a connection.
    Unreachable {
        /// The peer.
        peer: MemberId,
    },
    /// Messages to a peer leave from now on.
    Connected {
        /// The peer.
        peer: MemberId,
        /// Its boot number.
        boot: u64,
        /// Its disk.
        incarnation: u64,
    },
    /// Messages to a peer do not leave any more.
    Disconnected {
        /// The peer.
        peer: MemberId,
    },
    /// A member of our cluster says that we were removed. Reported once for each member that says
    /// so.
    Removed {
        /// Who says so.
        by: MemberId,
    },
    /// A peer refuses our connection, or we refuse the one that answers at its URL. Reported when
    /// the reason is another than last time.
    Refused {
        /// The peer.
        by: MemberId,
        /// Why.
        refusal: Refusal,
    },
    /// Somebody of our cluster whom the membership does not name, and who was not removed, was turned
    /// away: added, maybe, while this member was away. Comes with every attempt.
    Stranger {
        /// Who it says it is.
        member: MemberId,
    },
    /// A snapshot arrived, whole and durable. The owner takes over the directory; what it leaves
    /// there stays, also over a restart.
    SnapshotArrived {
        /// Who sent it.
        from: MemberId,
        /// The sender's number for it.
        id: u64,
        /// The message that the files belong to.
        message: Bytes,
        /// The directory with its files.
        dir: PathBuf,
        /// Their size.
        bytes: u64,
    },
    /// A snapshot was sent and accepted, or given up. Comes exactly once for each.
    SnapshotSent {
        /// To whom.
        to: MemberId,
        /// The owner's number for it.
        id: u64,
        /// Whether the receiver has it.
        outcome: Result<(), SnapshotError>,
    },
}

/// The owner's answer to an event. It only matters for [`Event::Message`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Go on.
    Continue,
    /// The message was taken, or dropped by the owner; reading from this peer rests shortly.
    Pause,
}
