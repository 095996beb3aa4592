//! What is refused before it enters the log.

use proptest::prelude::*;

use super::*;
use crate::limits::TXN_DEPTH_MAX;
use crate::mvcc::validate::*;

fn then(ops: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success: ops, ..TxnRequest::default() }
}

fn puts(key: &str) -> RequestOp {
    RequestOp::Put(put(key, ""))
}

fn deletes(key: &str, end: &str) -> RequestOp {
    RequestOp::DeleteRange(delete(key, end))
}

fn reads(key: &str) -> RequestOp {
    RequestOp::Range(range(key, ""))
}

fn inner(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    RequestOp::Txn(TxnRequest { compare: Vec::new(), success, failure })
}

fn check(ops: Vec<RequestOp>) -> Result<(), Error> {
    let success = check_txn(&then(ops.clone()), 128);
    let failure = check_txn(&TxnRequest { failure: ops, ..TxnRequest::default() }, 128);
    assert_eq!(success, failure, "both branches have the same rules");
    success
}

#[test]
fn single_requests_are_checked_in_etcds_order() {
    assert_eq!(check_range(&RangeRequest { sort_order: 9, ..range("", "") }), Err(Error::EmptyKey));
    assert_eq!(check_range(&RangeRequest { sort_order: 3, ..range("a", "") }), Err(Error::InvalidSortOption));
    assert_eq!(
        check_range(&RangeRequest { sort_target: -1, ..range("a", "") }),
        Err(Error::InvalidSortOption)
    );
    assert_eq!(check_range(&RangeRequest { sort_order: 2, sort_target: 4, ..range("a", "") }), Ok(()));
    let both = PutRequest { ignore_value: true, ignore_lease: true, lease: 1, ..put("", "v") };
    assert_eq!(check_put(&both), Err(Error::EmptyKey));
    assert_eq!(check_put(&PutRequest { key: b("a"), ..both.clone() }), Err(Error::ValueProvided));
    assert_eq!(check_put(&PutRequest { key: b("a"), value: b(""), ..both }), Err(Error::LeaseProvided));
    assert_eq!(check_delete_range(&delete("", "x")), Err(Error::EmptyKey));
}

#[test]
fn a_txn_is_checked_in_etcds_order() {
    let unset = || vec![RequestOp::Unset];
    let empty_compare = || vec![Compare::default()];
    let many = TxnRequest {
        compare: empty_compare(),
        success: vec![puts("a"), puts("a"), puts("")],
        failure: unset(),
    };
    assert_eq!(check_txn(&many, 2), Err(Error::TooManyOps));
    assert_eq!(check_txn(&many, 3), Err(Error::EmptyKey));
    let no_compare = TxnRequest { compare: Vec::new(), ..many };
    assert_eq!(check_txn(&no_compare, 3), Err(Error::EmptyKey), "of the put, before the unset operation");
    let unset_last = TxnRequest { success: vec![puts("a"), puts("a")], ..no_compare };
    assert_eq!(check_txn(&unset_last, 3), Err(Error::KeyNotFound), "before the duplicate");
    let duplicate = TxnRequest { failure: Vec::new(), ..unset_last };
    assert_eq!(check_txn(&duplicate, 3), Err(Error::DuplicateKey));
    assert_eq!(check_txn(&TxnRequest::default(), 0), Ok(()));
}

#[test]
fn inner_txns_have_the_budget_that_the_outer_one_leaves() {
    let outer = |inner_ops: usize| {
        let keys: Vec<_> = (0..inner_ops).map(|n| reads(&n.to_string())).collect();
        then(vec![inner(keys, Vec::new()), reads("x")])
    };
    assert_eq!(check_txn(&outer(3), 5), Ok(()));
    assert_eq!(check_txn(&outer(4), 5), Err(Error::TooManyOps));
}

#[test]
fn nesting_is_bounded() {
    let nested =
        |depth: usize| (1..depth).fold(TxnRequest::default(), |inner, _| then(vec![RequestOp::Txn(inner)]));
    assert_eq!(check_txn(&nested(TXN_DEPTH_MAX), 128), Ok(()));
    assert_eq!(check_txn(&nested(TXN_DEPTH_MAX + 1), 128), Err(Error::TooManyOps));
    // The quota is asked before the check, and must survive anything.
    assert_eq!(quota_cost_txn(&nested(40)), 0);
}

#[test]
fn a_list_must_not_put_a_key_twice_or_put_and_delete_it() {
    let duplicate = Err(Error::DuplicateKey);
    assert_eq!(check(vec![puts("a"), puts("b")]), Ok(()));
    assert_eq!(check(vec![puts("a"), puts("a")]), duplicate);
    assert_eq!(check(vec![puts("a"), deletes("a", "")]), duplicate);
    assert_eq!(check(vec![deletes("a", ""), puts("a")]), duplicate);
    assert_eq!(check(vec![deletes("a", "c"), puts("b")]), duplicate);
    assert_eq!(check(vec![deletes("a", "c"), puts("c")]), Ok(()), "the end is not deleted");
    assert_eq!(check(vec![deletes("a", "c"), deletes("b", "d"), deletes("b", "")]), Ok(()));
    assert_eq!(check(vec![reads("a"), puts("a"), reads("a")]), Ok(()));
    let apart = TxnRequest { compare: vec![], success: vec![puts("a")], failure: vec![puts("a")] };
    assert_eq!(check_txn(&apart, 128), Ok(()), "the branches of one txn are independent");
}

#[test]
fn an_open_ended_deletion_never_conflicts() {
    assert_eq!(check(vec![deletes("a", "\0"), puts("a"), puts("b")]), Ok(()));
    assert_eq!(check(vec![deletes("b", "a"), puts("a")]), Ok(()));
}

#[test]
fn merged_deletions_keep_their_gaps() {
    let spans = || vec![deletes("a", "c"), deletes("e", "g"), deletes("b", "d")];
    for (key, result) in
        [("c", Err(Error::DuplicateKey)), ("d", Ok(())), ("f", Err(Error::DuplicateKey)), ("g", Ok(()))]
    {
        let mut ops = spans();
        ops.push(puts(key));
        assert_eq!(check(ops), result, "{key}");
    }
}

#[test]
fn puts_of_inner_txns_conflict_with_the_outer_list_and_with_each_other() {
    let duplicate = Err(Error::DuplicateKey);
    assert_eq!(check(vec![puts("a"), inner(vec![puts("a")], vec![])]), duplicate);
    assert_eq!(check(vec![inner(vec![], vec![puts("a")]), puts("a")]), duplicate);
    assert_eq!(check(vec![puts("a"), inner(vec![deletes("a", "")], vec![])]), duplicate);
    assert_eq!(check(vec![deletes("a", "b"), inner(vec![], vec![puts("a")])]), duplicate);
    assert_eq!(check(vec![inner(vec![puts("a")], vec![]), inner(vec![], vec![puts("a")])]), duplicate);
    assert_eq!(check(vec![inner(vec![puts("a")], vec![puts("a")])]), Ok(()), "only one of the two runs");
    let both_and_deleted = vec![deletes("a", ""), inner(vec![], vec![puts("a")])];
    assert_eq!(check(both_and_deleted), duplicate);
    let deep = inner(vec![inner(vec![puts("a")], vec![])], vec![]);
    assert_eq!(check(vec![deep, puts("a")]), duplicate);
}

#[test]
fn deletions_of_inner_txns_meet_only_what_comes_after_them() {
    let (put_a, delete_a) = (|| inner(vec![puts("a")], vec![]), || inner(vec![deletes("a", "")], vec![]));
    assert_eq!(check(vec![delete_a(), put_a()]), Err(Error::DuplicateKey));
    assert_eq!(check(vec![put_a(), delete_a()]), Ok(()), "etcd does not look back");
}

#[test]
fn one_inner_txn_makes_a_txn_a_write() {
    assert!(is_read_only(&then(vec![reads("a")])));
    assert!(is_read_only(&TxnRequest::default()));
    assert!(!is_read_only(&then(vec![inner(vec![reads("a")], vec![])])));
    assert!(!is_read_only(&TxnRequest { failure: vec![deletes("a", "")], ..then(vec![reads("a")]) }));
    let stale = RequestOp::Range(RangeRequest { serializable: true, ..range("a", "") });
    assert!(is_serializable(&then(vec![stale.clone()])));
    assert!(is_serializable(&TxnRequest::default()), "conditions alone may be stale");
    assert!(!is_serializable(&TxnRequest { failure: vec![reads("a")], ..then(vec![stale]) }));
}

#[test]
fn the_cost_is_that_of_the_dearer_branch() {
    assert_eq!(quota_cost_put(&put("key", "value")), 256 + 3 + 5);
    let cheap = || vec![puts("a"), deletes("x", ""), reads("y")];
    let dear = vec![puts("a"), inner(vec![], vec![puts("b"), puts("c")])];
    let request = TxnRequest { compare: vec![], success: cheap(), failure: dear };
    assert_eq!(quota_cost_txn(&request), 3 * 257);
    assert_eq!(quota_cost_txn(&then(vec![deletes("x", ""), reads("y")])), 0);
}

/// The rules over a flat list, by comparing everything with everything.
fn flat_conflict(ops: &[RequestOp]) -> bool {
    ops.iter().enumerate().any(|(at, op)| match op {
        RequestOp::Put(put) => ops.iter().enumerate().any(|(other_at, other)| match other {
            RequestOp::Put(other) => at != other_at && other.key == put.key,
            RequestOp::DeleteRange(delete) if delete.range_end.is_empty() => delete.key == put.key,
            RequestOp::DeleteRange(delete) => delete.key <= put.key && put.key < delete.range_end,
            _ => false,
        }),
        _ => false,
    })
}

proptest! {
    #[test]
    fn the_duplicate_check_finds_what_comparing_everything_finds(
        ops in prop::collection::vec((0usize..3, "[a-h]{1,2}", "[a-h]{0,2}"), 0..8),
    ) {
        let ops: Vec<_> = ops.iter().map(|(kind, key, end)| match kind {
            0 | 1 => puts(key),
            _ => deletes(key, end),
        }).collect();
        let expected = if flat_conflict(&ops) { Err(Error::DuplicateKey) } else { Ok(()) };
        prop_assert_eq!(check(ops), expected);
    }
}
