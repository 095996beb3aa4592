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
    /// What no member can mean: entries that do not follow one another or are from after the
    /// message's own term, a question without a text, an answer about entries that nobody has.
    #[error("message contradicts itself or what the leader knows")]
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
        let follows =
            index.checked_add(1) == Some(entry.index) && term <= entry.term && entry.term <= message.term;
        (index, term) = (entry.index, entry.term);
        follows
    })
}

/// Terms from here on are no member's: counting up from one must never reach the end of the numbers.
const TERM_MAX: u64 = 1 << 62;

/// Whether a message of its kind can be meant: what is missing here is not what `raft` expects, or
/// takes for granted.
fn is_well_formed(message: &Message, kind: MessageType) -> bool {
    // Without a term a message passes for one of this member's own; only a reader's has none.
    let is_question = kind == MessageType::MsgReadIndex;
    let has_its_term = (message.term == 0) == is_question && message.term < TERM_MAX;
    has_its_term
        && match kind {
            MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
                matches!(message.entries.as_slice(), [entry] if !entry.data.is_empty())
            }
            // Every log has term 0 at index 0, and beyond its end.
            MessageType::MsgAppend => (message.index == 0 || message.log_term > 0) && is_consistent(message),
            // The hint is where the log ends; who asks for a snapshot asks for one of at least that.
            MessageType::MsgAppendResponse => {
                !message.reject || message.reject_hint <= message.index.max(message.request_snapshot)
            }
            // Members have no priorities here; who refuses a vote for that of an empty log panics.
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                message.priority == 0 && message.deprecated_priority == 0
            }
            MessageType::MsgSnapshot => message.get_snapshot().get_metadata().index > 0,
            _ => true,
        }
}

/// Checks an answer to the leader whose log ends at `last_index`, in its own term.
pub fn check_answer(message: &Message, last_index: u64) -> Result<(), Refused> {
    let is_answer = message.msg_type == MessageType::MsgAppendResponse as i32;
    match is_answer && message.index.max(message.request_snapshot) > last_index {
        true => Err(Refused::Inconsistent),
        false => Ok(()),
    }
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
    let own_affair = matches!(kind, MessageType::MsgPropose | MessageType::MsgTransferLeader);
    if raft::raw_node::is_local_msg(kind) || own_affair {
        return Err(Refused::Local);
    }
    if !is_well_formed(&message, kind) {
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
        Message { msg_type: kind, to: ME.0, from: PEER.0, term: 3, ..Message::default() }
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

    #[test]
    fn messages_that_no_member_can_mean_are_refused() {
        let kind = |kind: MessageType| message(kind as i32);
        let text = |data: &[u8]| vec![Entry { data: data.to_vec(), ..Entry::default() }];
        let question = Message { term: 0, entries: text(b"q"), ..kind(MessageType::MsgReadIndex) };
        let answer = Message { entries: text(b"q"), ..kind(MessageType::MsgReadIndexResp) };
        let append = kind(MessageType::MsgAppend);
        let rejection = Message { reject: true, index: 4, ..kind(MessageType::MsgAppendResponse) };
        let near = Message { reject_hint: 4, ..rejection.clone() };
        let asks = Message { reject_hint: 9, request_snapshot: 9, ..rejection.clone() };
        for fine in [&question, &answer, &append, &rejection, &near, &asks] {
            assert_eq!(refused(fine), None, "{fine:?}");
        }
        assert_eq!(refused(&kind(MessageType::MsgTransferLeader)), Some(Refused::Local));
        let strange = [
            Message { term: 3, ..question.clone() },
            Message { entries: vec![], ..question.clone() },
            Message { entries: text(b""), ..question.clone() },
            Message { entries: [text(b"q"), text(b"q")].concat(), ..question },
            Message { term: 0, ..answer.clone() },
            Message { entries: vec![], ..answer },
            // Every log has term 0 beyond its end.
            Message { index: 9, log_term: 0, ..append.clone() },
            Message { term: 0, ..append },
            Message { reject_hint: u64::MAX, ..rejection },
            Message { term: u64::MAX, ..kind(MessageType::MsgHeartbeat) },
            kind(MessageType::MsgSnapshot),
        ];
        for message in strange {
            assert_eq!(refused(&message), Some(Refused::Inconsistent), "{message:?}");
        }
        let acknowledges = |index| Message { index, ..kind(MessageType::MsgAppendResponse) };
        assert_eq!(check_answer(&acknowledges(5), 5), Ok(()));
        assert_eq!(check_answer(&acknowledges(6), 5), Err(Refused::Inconsistent));
        let asks = Message { request_snapshot: 6, ..acknowledges(5) };
        assert_eq!(check_answer(&asks, 5), Err(Refused::Inconsistent));
    }
}
