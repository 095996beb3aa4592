//! What members say to each other: raft's own messages, and beside them what only the leader can
//! do for the others.
//!
//! A message is `kind u8 | body`:
//!
//! ```text
//! 1 raft       the encoded message
//! 2 forward    term u64 le | entry       commands for the leader of this term, to be put into the
//!                                        log as they are; the entry names who waits
//! 3 membership term u64 le | entry       one membership command for the leader of this term
//! 4 refused    boot u64 le | text length u8 | text | requests uv…
//! 5 lease ask  boot u64 le | (request uv | what u8 | lease i64 le)…
//! 6 lease tell boot u64 le | (request uv | ttl i64 le | granted i64 le | applied u64 le)…
//! 7 hash       index u64 le | hash u64 le
//! 8 no snapshot term u64 le | copies u64 le
//! ```
//!
//! Reading is a total function. Losing, repeating or delaying any message does no harm: commands
//! are bound to a term, in which the leader takes each number once ([`super::taken`]); answers are
//! bound to a start of a member and a number that is used once.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::command::{get_uv, put_uv};
use crate::error::Error;
use crate::types::{LeaseId, LogIndex, Term};

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Of consensus.
    Raft(Bytes),
    /// Commands for the log.
    Forward {
        /// The leader must still lead in this term.
        term: Term,
        /// An entry as it is to stand in the log.
        entry: Bytes,
    },
    /// A membership command.
    Membership {
        /// The leader must still lead in this term.
        term: Term,
        /// An entry with the command.
        entry: Bytes,
    },
    /// Forwarded commands did not get into the log, and never will by that message.
    Refused {
        /// Which start of the receiver.
        boot: u64,
        /// Why; `NotLeader` asks to send them to somebody else.
        error: Error,
        /// Its numbers for the commands.
        requests: Vec<u64>,
    },
    /// Renewals of leases and questions about them.
    LeaseAsk {
        /// Which start of the sender.
        boot: u64,
        /// What is asked.
        asks: Vec<LeaseAsk>,
    },
    /// The answers.
    LeaseTell {
        /// Which start of the receiver.
        boot: u64,
        /// The answers.
        tells: Vec<LeaseTell>,
    },
    /// The state at one index.
    Hash {
        /// The index.
        index: LogIndex,
        /// The hash over everything up to it.
        hash: u64,
    },
    /// There is no snapshot for the receiver at present.
    NoSnapshot {
        /// The sender's term.
        term: Term,
        /// Its copies up to this one are not to be used either, although they may be on their way: its
        /// state is in dispute.
        copies: u64,
    },
}

/// One request about a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseAsk {
    /// The sender's number for it.
    pub request: u64,
    /// Whether the lease is to be renewed; otherwise its remaining time is wanted.
    pub renew: bool,
    /// Which lease.
    pub id: LeaseId,
}

/// One answer about a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseTell {
    /// The receiver's number for the request.
    pub request: u64,
    /// To a renewal: granted seconds, 0 for no such lease. To a question: remaining seconds, -1
    /// for no such lease.
    pub ttl: i64,
    /// Granted seconds, 0 for no such lease.
    pub granted_ttl: i64,
    /// What the leader had applied.
    pub applied: LogIndex,
}

impl Message {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let mut buf = BytesMut::with_capacity(32);
        match self {
            Self::Raft(message) => {
                buf.reserve(message.len() + 1);
                buf.put_u8(1);
                buf.put_slice(message);
            }
            Self::Forward { term, entry } | Self::Membership { term, entry } => {
                buf.reserve(entry.len() + 9);
                buf.put_u8(if matches!(self, Self::Forward { .. }) { 2 } else { 3 });
                buf.put_u64_le(term.0);
                buf.put_slice(entry);
            }
            Self::Refused { boot, error, requests } => {
                let text = error.to_string();
                buf.put_u8(4);
                buf.put_u64_le(*boot);
                buf.put_u8(u8::try_from(text.len()).expect("error texts are short"));
                buf.put_slice(text.as_bytes());
                requests.iter().for_each(|request| put_uv(&mut buf, *request));
            }
            Self::LeaseAsk { boot, asks } => {
                buf.put_u8(5);
                buf.put_u64_le(*boot);
                for ask in asks {
                    put_uv(&mut buf, ask.request);
                    buf.put_u8(u8::from(ask.renew));
                    buf.put_i64_le(ask.id.get());
                }
            }
            Self::LeaseTell { boot, tells } => {
                buf.put_u8(6);
                buf.put_u64_le(*boot);
                for tell in tells {
                    put_uv(&mut buf, tell.request);
                    buf.put_i64_le(tell.ttl);
                    buf.put_i64_le(tell.granted_ttl);
                    buf.put_u64_le(tell.applied.0);
                }
            }
            Self::Hash { index, hash } => {
                buf.put_u8(7);
                buf.put_u64_le(index.0);
                buf.put_u64_le(*hash);
            }
            Self::NoSnapshot { term, copies } => {
                buf.put_u8(8);
                buf.put_u64_le(term.0);
                buf.put_u64_le(*copies);
            }
        }
        buf.freeze()
    }

    /// Reads a message; `None` if it is none that this version knows.
    pub fn decode(mut bytes: Bytes) -> Option<Self> {
        let kind = bytes.try_get_u8().ok()?;
        if kind == 1 {
            return Some(Self::Raft(bytes));
        }
        let first = bytes.try_get_u64_le().ok()?;
        Some(match kind {
            2 => Self::Forward { term: Term(first), entry: bytes },
            3 => Self::Membership { term: Term(first), entry: bytes },
            4 => {
                let length = usize::from(bytes.try_get_u8().ok()?);
                if length > bytes.len() {
                    return None;
                }
                let text = bytes.split_to(length);
                let error = Error::ALL.iter().find(|error| error.to_string().as_bytes() == text)?;
                let requests = read_all(&mut bytes, get_uv)?;
                Self::Refused { boot: first, error: *error, requests }
            }
            5 => {
                let asks = read_all(&mut bytes, |bytes| {
                    let request = get_uv(bytes)?;
                    let renew = match bytes.try_get_u8().ok()? {
                        0 => false,
                        1 => true,
                        _ => return None,
                    };
                    let id = LeaseId::from_wire(bytes.try_get_i64_le().ok()?)?;
                    Some(LeaseAsk { request, renew, id })
                })?;
                Self::LeaseAsk { boot: first, asks }
            }
            6 => {
                let tells = read_all(&mut bytes, |bytes| {
                    let request = get_uv(bytes)?;
                    let ttl = bytes.try_get_i64_le().ok()?;
                    let granted_ttl = bytes.try_get_i64_le().ok()?;
                    let applied = LogIndex(bytes.try_get_u64_le().ok()?);
                    Some(LeaseTell { request, ttl, granted_ttl, applied })
                })?;
                Self::LeaseTell { boot: first, tells }
            }
            7 => {
                let hash = bytes.try_get_u64_le().ok()?;
                if bytes.has_remaining() {
                    return None;
                }
                Self::Hash { index: LogIndex(first), hash }
            }
            8 => {
                let copies = bytes.try_get_u64_le().ok()?;
                if bytes.has_remaining() {
                    return None;
                }
                Self::NoSnapshot { term: Term(first), copies }
            }
            _ => return None,
        })
    }
}

fn read_all<T>(bytes: &mut Bytes, mut one: impl FnMut(&mut Bytes) -> Option<T>) -> Option<Vec<T>> {
    let mut all = Vec::new();
    while bytes.has_remaining() {
        all.push(one(bytes)?);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_message() -> impl Strategy<Value = Message> {
        let payload = || prop::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from);
        let lease = || any::<i64>().prop_filter_map("no lease", LeaseId::from_wire);
        let ask = (any::<u64>(), any::<bool>(), lease()).prop_map(|(request, renew, id)| LeaseAsk {
            request,
            renew,
            id,
        });
        let tell = (any::<u64>(), any::<i64>(), any::<i64>(), any::<u64>()).prop_map(
            |(request, ttl, granted_ttl, applied)| LeaseTell {
                request,
                ttl,
                granted_ttl,
                applied: LogIndex(applied),
            },
        );
        let requests = prop::collection::vec(any::<u64>(), 0..20);
        prop_oneof![
            payload().prop_map(Message::Raft),
            (any::<u64>(), payload()).prop_map(|(term, entry)| Message::Forward { term: Term(term), entry }),
            (any::<u64>(), payload())
                .prop_map(|(term, entry)| Message::Membership { term: Term(term), entry }),
            (any::<u64>(), 0..Error::ALL.len(), requests).prop_map(|(boot, error, requests)| {
                Message::Refused { boot, error: Error::ALL[error], requests }
            }),
            (any::<u64>(), prop::collection::vec(ask, 0..20))
                .prop_map(|(boot, asks)| Message::LeaseAsk { boot, asks }),
            (any::<u64>(), prop::collection::vec(tell, 0..20))
                .prop_map(|(boot, tells)| Message::LeaseTell { boot, tells }),
            (any::<u64>(), any::<u64>())
                .prop_map(|(index, hash)| Message::Hash { index: LogIndex(index), hash }),
            (any::<u64>(), any::<u64>())
                .prop_map(|(term, copies)| Message::NoSnapshot { term: Term(term), copies }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_reads_back_as_it_was_written(message in any_message()) {
            prop_assert_eq!(Message::decode(message.encode()), Some(message));
        }

        #[test]
        fn any_bytes_are_a_message_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Message::decode(bytes.into());
        }
    }
}
