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
            (Mutation::ErrorText, Answer::Error { message, .. }) => {
                *message = message.replace("etcdserver: ", "")
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::WatcherLog;
    use crate::compare::{Verdict, judge};
    use crate::request::{Context, Request, op};
    use clap::ValueEnum;
    use folkmoot_proto::mvccpb::{Event, KeyValue};

    fn kv(key: &'static str) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: "v".into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 0,
        }
    }

    fn event(key: &'static str) -> WatchItem {
        WatchItem::Event(Event { r#type: 0, kv: Some(kv(key)), prev_kv: Some(kv(key)) })
    }

    /// Requests with the answers of a server that is right.
    fn truths() -> Vec<(Request, Answer)> {
        let header = Some(pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 5, raft_term: 3 });
        let range = pb::RangeResponse { header, kvs: vec![kv("a"), kv("b")], more: true, count: 3 };
        let inner = pb::ResponseOp { response: Some(OpAnswer::ResponseRange(range.clone())) };
        let txn = pb::TxnResponse { header, succeeded: true, responses: vec![inner] };
        let ask_range = pb::RangeRequest { key: "a".into(), limit: 2, ..Default::default() };
        let ask_inner = op(pb::request_op::Request::RequestRange(ask_range.clone()));
        let items = vec![WatchItem::Created { revision: 1 }, event("a"), event("b")];
        let rejected = WatchItem::Rejected { revision: 5, reason: "mvcc: watcher range is empty".into() };
        let log = |watch_id, items| WatcherLog { stream: 0, watch_id, items };
        let lease =
            pb::LeaseTimeToLiveResponse { header, id: 7, ttl: 5, granted_ttl: 9, keys: vec!["a".into()] };
        let error = Answer::Error {
            code: tonic::Code::NotFound,
            message: "etcdserver: requested lease not found".into(),
        };
        vec![
            (Request::Put(Default::default()), Answer::Put(pb::PutResponse { header, prev_kv: None })),
            (Request::Range(ask_range), Answer::Range(range)),
            (
                Request::Txn(pb::TxnRequest { success: vec![ask_inner], ..Default::default() }),
                Answer::Txn(txn),
            ),
            (Request::TimeToLive(Default::default()), Answer::TimeToLive(lease)),
            (
                Request::HashKv(Default::default()),
                Answer::HashKv(pb::HashKvResponse { header, hash: 4, ..Default::default() }),
            ),
            (Request::Revoke(Default::default()), error),
            (Request::Settle, Answer::Watched(vec![log(-1, vec![rejected]), log(0, items)])),
        ]
    }

    #[test]
    fn every_lie_is_noticed_and_the_truth_is_not() {
        let context = Context::default();
        for (request, answer) in truths() {
            assert_eq!(judge(&request, &context, &answer, &answer), Verdict::Same(Vec::new()), "{request:?}");
        }
        for mutation in Mutation::value_variants() {
            let noticed = truths().iter().any(|(request, answer)| {
                let mut lie = answer.clone();
                mutation.corrupt(&mut lie);
                judge(request, &context, answer, &lie) == Verdict::Different
            });
            assert!(noticed, "{mutation:?}");
        }
    }
}
