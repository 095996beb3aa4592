//! When two answers count as the same.
//!
//! Both answers are brought into a canonical form that drops only what may never agree between two
//! servers: the numbers of cluster, member and term (but not whether they are set), remaining lease
//! time, the order of unordered lists, and the order of keys that the requested sort treats as
//! equal. Everything else is compared exactly. What is still different is offered to the table of
//! known differences; what survives that is a finding.

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::mvccpb::KeyValue;
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;

use crate::answer::{Answer, WatchItem};
use crate::known;
use crate::request::{Context, Request};

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Equal, perhaps with the help of some known differences.
    Same(Vec<&'static str>),
    /// Not equal.
    Different,
}

/// Compares the answers of two servers to one request.
pub fn judge(request: &Request, context: &Context, left: &Answer, right: &Answer) -> Verdict {
    let (mut left, mut right) = (canonical(request, left), canonical(request, right));
    if is_broken(&left) || is_broken(&right) {
        return Verdict::Different;
    }
    let mut used = Vec::new();
    for rule in known::TABLE {
        if left == right {
            break;
        }
        let before = (left.clone(), right.clone());
        (rule.forgive)(request, context, &mut left, &mut right);
        if before != (left.clone(), right.clone()) {
            used.push(rule.name);
        }
    }
    if left == right { Verdict::Same(used) } else { Verdict::Different }
}

fn is_broken(answer: &Answer) -> bool {
    let broken = |item: &WatchItem| matches!(item, WatchItem::Broken(_));
    match answer {
        Answer::Watched(logs) => logs.iter().flat_map(|log| &log.items).any(broken),
        Answer::Control(items) => items.iter().any(broken),
        // Two servers that both fail to answer say nothing about each other.
        Answer::Silence => true,
        _ => false,
    }
}

/// The answer without what may differ between two correct servers.
fn canonical(request: &Request, answer: &Answer) -> Answer {
    let mut answer = answer.clone();
    if let Some(header) = answer.header_mut() {
        anonymise(header);
    }
    each_range(request, &mut answer, &mut |range, response| sort_ties(range, &mut response.kvs));
    match &mut answer {
        Answer::Txn(txn) => anonymise_inner(txn),
        Answer::Grant(grant) if matches!(request, Request::Grant(r) if r.id == 0) => {
            grant.id = grant.id.signum()
        }
        Answer::TimeToLive(ttl) => {
            ttl.keys.sort();
            // A live lease has some time left, and never more than it was granted.
            if (0..=ttl.granted_ttl).contains(&ttl.ttl) {
                ttl.ttl = 0;
            }
        }
        Answer::Leases(leases) => leases.leases.sort_by_key(|lease| lease.id),
        _ => {}
    }
    answer
}

fn anonymise(header: &mut pb::ResponseHeader) {
    header.cluster_id = header.cluster_id.min(1);
    header.member_id = header.member_id.min(1);
    header.raft_term = header.raft_term.min(1);
}

/// Headers inside a transaction carry at most a revision; numbers that are set stay visible.
fn anonymise_inner(txn: &mut pb::TxnResponse) {
    for response in &mut txn.responses {
        let header = match &mut response.response {
            Some(OpAnswer::ResponseRange(r)) => r.header.as_mut(),
            Some(OpAnswer::ResponsePut(r)) => r.header.as_mut(),
            Some(OpAnswer::ResponseDeleteRange(r)) => r.header.as_mut(),
            Some(OpAnswer::ResponseTxn(r)) => {
                anonymise_inner(r);
                r.header.as_mut()
            }
            None => None,
        };
        if let Some(header) = header {
            anonymise(header);
        }
    }
}

/// Visits every range response together with its request, also inside transactions.
pub fn each_range(
    request: &Request,
    answer: &mut Answer,
    visit: &mut dyn FnMut(&pb::RangeRequest, &mut pb::RangeResponse),
) {
    match (request, answer) {
        (Request::Range(range), Answer::Range(response)) => visit(range, response),
        (Request::Txn(txn), Answer::Txn(response)) => each_range_in_txn(txn, response, visit),
        _ => {}
    }
}

fn each_range_in_txn(
    txn: &pb::TxnRequest,
    response: &mut pb::TxnResponse,
    visit: &mut dyn FnMut(&pb::RangeRequest, &mut pb::RangeResponse),
) {
    let ops = if response.succeeded { &txn.success } else { &txn.failure };
    for (op, response) in ops.iter().zip(&mut response.responses) {
        match (&op.request, &mut response.response) {
            (Some(Op::RequestRange(range)), Some(OpAnswer::ResponseRange(response))) => {
                visit(range, response)
            }
            (Some(Op::RequestTxn(txn)), Some(OpAnswer::ResponseTxn(response))) => {
                each_range_in_txn(txn, response, visit)
            }
            _ => {}
        }
    }
}

/// Whether the request sorts by something that several keys may have in common.
fn sorts_with_ties(range: &pb::RangeRequest) -> bool {
    let known_order = SortOrder::try_from(range.sort_order).is_ok();
    known_order && !matches!(SortTarget::try_from(range.sort_target), Ok(SortTarget::Key) | Err(_))
}

/// Whether two neighbours in an answer may stand in either order.
fn ties(range: &pb::RangeRequest, a: &KeyValue, b: &KeyValue) -> bool {
    match SortTarget::try_from(range.sort_target) {
        Ok(SortTarget::Version) => a.version == b.version,
        Ok(SortTarget::Create) => a.create_revision == b.create_revision,
        Ok(SortTarget::Mod) => a.mod_revision == b.mod_revision,
        // With keys_only the values that were sorted by are not in the answer.
        Ok(SortTarget::Value) => range.keys_only || a.value == b.value,
        Ok(SortTarget::Key) | Err(_) => false,
    }
}

/// Orders keys by name wherever the requested order leaves it open.
fn sort_ties(range: &pb::RangeRequest, kvs: &mut [KeyValue]) {
    if sorts_with_ties(range) {
        for group in kvs.chunk_by_mut(|a, b| ties(range, a, b)) {
            group.sort_by(|a, b| a.key.cmp(&b.key));
        }
    }
}

/// Drops the last group of equal keys of an answer that a limit has cut: which of them are in the
/// answer is open. Their number is kept by the caller's comparison of the rest of the answer.
pub fn blank_last_tie(range: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    if !response.more || !sorts_with_ties(range) {
        return;
    }
    let Some(last) = response.kvs.last().cloned() else { return };
    for kv in &mut response.kvs {
        if ties(range, kv, &last) {
            *kv = KeyValue::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, version: i64) -> KeyValue {
        KeyValue { key: key.to_owned().into(), version, ..Default::default() }
    }

    fn range(kvs: Vec<KeyValue>, more: bool) -> Answer {
        let header = Some(pb::ResponseHeader { cluster_id: 7, member_id: 8, raft_term: 9, revision: 5 });
        Answer::Range(pb::RangeResponse { header, kvs, more, count: 3 })
    }

    fn by_version() -> Request {
        Request::Range(pb::RangeRequest { sort_target: SortTarget::Version.into(), ..Default::default() })
    }

    fn same(request: &Request, left: &Answer, right: &Answer) -> bool {
        matches!(judge(request, &Context::default(), left, right), Verdict::Same(_))
    }

    #[test]
    fn keys_with_equal_sort_value_may_stand_in_any_order() {
        let left = range(vec![kv("a", 1), kv("b", 1), kv("c", 2)], false);
        assert!(same(&by_version(), &left, &range(vec![kv("b", 1), kv("a", 1), kv("c", 2)], false)));
        assert!(!same(&by_version(), &left, &range(vec![kv("c", 2), kv("a", 1), kv("b", 1)], false)));
        let by_key = Request::Range(pb::RangeRequest::default());
        assert!(!same(&by_key, &left, &range(vec![kv("b", 1), kv("a", 1), kv("c", 2)], false)));
    }

    #[test]
    fn a_limit_may_cut_a_group_of_equal_keys_anywhere() {
        let left = range(vec![kv("a", 1), kv("b", 2)], true);
        assert!(same(&by_version(), &left, &range(vec![kv("a", 1), kv("c", 2)], true)));
        assert!(!same(&by_version(), &left, &range(vec![kv("b", 1), kv("b", 2)], true)));
        assert!(!same(&by_version(), &left, &range(vec![kv("a", 1)], true)));
    }

    #[test]
    fn ids_may_differ_but_not_be_missing() {
        let with = |cluster_id, revision| {
            let header = Some(pb::ResponseHeader { cluster_id, revision, ..Default::default() });
            Answer::Put(pb::PutResponse { header, prev_kv: None })
        };
        let put = Request::Put(pb::PutRequest::default());
        assert!(same(&put, &with(1, 5), &with(2, 5)));
        assert!(!same(&put, &with(1, 5), &with(0, 5)));
        assert!(!same(&put, &with(1, 5), &with(1, 6)));
    }

    #[test]
    fn remaining_time_is_free_but_an_unknown_lease_is_not_a_live_one() {
        let lease = |ttl, granted_ttl| {
            Answer::TimeToLive(pb::LeaseTimeToLiveResponse { ttl, granted_ttl, ..Default::default() })
        };
        let request = Request::TimeToLive(pb::LeaseTimeToLiveRequest { id: 1, keys: true });
        assert!(same(&request, &lease(59, 60), &lease(57, 60)));
        assert!(!same(&request, &lease(59, 60), &lease(-1, 60)));
        assert!(!same(&request, &lease(59, 60), &lease(61, 60)));
        assert!(!same(&request, &lease(59, 60), &lease(59, 61)));
    }
}
