//! Deliberate lies about one side's answers, to show that the comparison would notice a real bug.

use folkmoot_proto::etcdserverpb as pb;
use pb::response_op::Response as OpAnswer;

use crate::answer::{Answer, WatchItem};

/// One way to corrupt an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutation {
    /// The last event of every delivery with several is lost.
    DropEvent,
    /// Two neighbouring events change places.
    SwapEvents,
    /// Events lose their previous value.
    DropPrevKv,
    /// The revision in put headers is one too high.
    Revision,
    /// Range counts are one too low when there is something to count.
    Count,
    /// The last key of a range with several is missing.
    DropKey,
    /// `more` is never set.
    More,
    /// Keys inside transactions have a version too many.
    TxnVersion,
    /// Error messages lose their prefix.
    ErrorText,
    /// Errors come with another code.
    ErrorCode,
    /// A lease forgets one of its keys.
    LeaseKey,
    /// The hash has one bit flipped.
    Hash,
    /// The reason of a rejected watcher is missing.
    CancelReason,
}

impl Mutation {
    /// Changes an answer, if this mutation concerns it.
    pub fn corrupt(self, answer: &mut Answer) {
        match (self, answer) {
            (Mutation::DropEvent, Answer::Watched(logs)) => {
                for log in logs.iter_mut().filter(|log| log.items.len() > 2) {
                    log.items.pop();
                }
            }
            (Mutation::SwapEvents, Answer::Watched(logs)) => {
                for log in logs.iter_mut().filter(|log| log.items.len() > 2) {
                    let last = log.items.len() - 1;
                    log.items.swap(last - 1, last);
                }
            }
            (Mutation::DropPrevKv, Answer::Watched(logs)) => {
                for item in logs.iter_mut().flat_map(|log| &mut log.items) {
                    if let WatchItem::Event(event) = item {
                        event.prev_kv = None;
                    }
                }
            }
            (Mutation::Revision, Answer::Put(put)) => {
                if let Some(header) = &mut put.header {
                    header.revision += 1;
                }
            }
            (Mutation::Count, Answer::Range(range)) => range.count -= range.count.signum(),
            (Mutation::DropKey, Answer::Range(range)) if range.kvs.len() > 1 => {
                range.kvs.pop();
            }
            (Mutation::More, Answer::Range(range)) => range.more = false,
            (Mutation::TxnVersion, Answer::Txn(txn)) => each_inner_range(txn, &mut |range| {
                range.kvs.iter_mut().for_each(|kv| kv.version += 1);
            }),
            (Mutation::ErrorText, Answer::Error { message, .. }) => *message = message.replace("etcdserver: ", ""),
            (Mutation::ErrorCode, Answer::Error { code, .. }) => *code = tonic::Code::DataLoss,
            (Mutation::LeaseKey, Answer::TimeToLive(ttl)) => {
                ttl.keys.pop();
            }
            (Mutation::Hash, Answer::HashKv(hash)) => hash.hash ^= 1,
            (Mutation::CancelReason, Answer::Watched(logs)) => {
                for item in logs.iter_mut().flat_map(|log| &mut log.items) {
                    if let WatchItem::Rejected { reason, .. } = item {
                        reason.clear();
                    }
                }
            }
            _ => {}
        }
    }
}

fn each_inner_range(txn: &mut pb::TxnResponse, visit: &mut dyn FnMut(&mut pb::RangeResponse)) {
    for response in &mut txn.responses {
        match &mut response.response {
            Some(OpAnswer::ResponseRange(range)) => visit(range),
            Some(OpAnswer::ResponseTxn(inner)) => each_inner_range(inner, visit),
            _ => {}
        }
    }
}
