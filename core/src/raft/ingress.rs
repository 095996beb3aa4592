//! What a peer's message must be before `raft` sees it. The crate panics on unknown enum
//! numbers and on a heartbeat that commits beyond the log, and obeys messages meant for others.

use prost_raft::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};

use crate::types::MemberId;

/// Why a peer's message was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// Not a raft message.
    #[error("message cannot be decoded")]
    Undecodable,
    /// A message or entry kind that this version does not know.
    #[error("message kind is unknown")]
    UnknownKind,
    /// Not for this member, or not from whom the transport says.
    #[error("message is addressed to or from another member")]
    Misaddressed,
    /// A message that only a member's own code may give.
    #[error("message kind is local")]
    Local,
    /// Entries that do not follow one another, or from after the message's own term.
    #[error("message holds entries that cannot stand in a log together")]
    Inconsistent,
    /// A snapshot without its files: those come another way.
    #[error("snapshot came without its files")]
    BareSnapshot,
    /// The leader thinks that this member has entries which it does not have: its disk was
    /// wiped or went back in time.
    #[error("the leader knows more of this member's log than the member has; the log was lost")]
    LogLost,
}

/// Whether entries could have been appended by leaders one after the other.
fn is_consistent(message: &Message) -> bool {
    let (mut index, mut term) = (message.index, message.log_term);
    message.entries.iter().all(|entry| {
        let follows = index.checked_add(1) == Some(entry.index)
            && term <= entry.term
            && (entry.term <= message.term || message.term == 0);
        (index, term) = (entry.index, entry.term);
        follows
    })
}

/// Decodes and checks a message that `from` sent to `me`, whose log ends at `last_index`.
pub fn check(bytes: &[u8], from: MemberId, me: MemberId, last_index: u64) -> Result<Message, Refused> {
    let message = Message::decode(bytes).map_err(|_| Refused::Undecodable)?;
    let kind = MessageType::from_i32(message.msg_type).ok_or(Refused::UnknownKind)?;
    if message.entries.iter().any(|entry| EntryType::from_i32(entry.entry_type).is_none()) {
        return Err(Refused::UnknownKind);
    }
    if message.to != me.0 || message.from != from.0 || from == me {
        return Err(Refused::Misaddressed);
    }
    if raft::raw_node::is_local_msg(kind) || kind == MessageType::MsgPropose {
        return Err(Refused::Local);
    }
    if kind == MessageType::MsgAppend && !is_consistent(&message) {
        return Err(Refused::Inconsistent);
    }
    if kind == MessageType::MsgSnapshot && message.get_snapshot().get_metadata().index == 0 {
        return Err(Refused::Inconsistent);
    }
    if kind == MessageType::MsgHeartbeat && message.commit > last_index {
        return Err(Refused::LogLost);
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    const ME: MemberId = MemberId(1);
    const PEER: MemberId = MemberId(2);

    fn message(kind: i32) -> Message {
        Message { msg_type: kind, to: ME.0, from: PEER.0, ..Message::default() }
    }

    fn refused(message: &Message) -> Option<Refused> {
        check(&message.encode_to_vec(), PEER, ME, 5).err()
    }

    #[test]
    fn messages_that_would_panic_or_mislead_raft_are_refused() {
        let heartbeat = MessageType::MsgHeartbeat as i32;
        assert_eq!(refused(&message(heartbeat)), None);
        assert_eq!(refused(&message(99)), Some(Refused::UnknownKind));
        assert_eq!(refused(&message(MessageType::MsgPropose as i32)), Some(Refused::Local));
        assert_eq!(refused(&message(MessageType::MsgHup as i32)), Some(Refused::Local));
        assert_eq!(refused(&Message { to: 9, ..message(heartbeat) }), Some(Refused::Misaddressed));
        assert_eq!(refused(&Message { from: 9, ..message(heartbeat) }), Some(Refused::Misaddressed));
        assert_eq!(refused(&Message { commit: 6, ..message(heartbeat) }), Some(Refused::LogLost));
        let strange = Message {
            entries: vec![Entry { entry_type: 77, ..Entry::default() }],
            ..message(MessageType::MsgAppend as i32)
        };
        assert_eq!(refused(&strange), Some(Refused::UnknownKind));
        let append = |entries: &[(u64, u64)]| Message {
            index: 4,
            log_term: 2,
            term: 3,
            entries: entries
                .iter()
                .map(|(index, term)| Entry { index: *index, term: *term, ..Entry::default() })
                .collect(),
            ..message(MessageType::MsgAppend as i32)
        };
        assert_eq!(refused(&append(&[(5, 2), (6, 3)])), None);
        for entries in [&[(6, 2)][..], &[(5, 1)], &[(5, 4)], &[(5, 3), (6, 2)], &[(5, 2), (5, 2)]] {
            assert_eq!(refused(&append(entries)), Some(Refused::Inconsistent), "{entries:?}");
        }
        assert_eq!(check(b"\xff\xff", PEER, ME, 5), Err(Refused::Undecodable));
    }
}
