//! The known differences between etcd 3.4, which is the reference that runs here, and the etcd of
//! today, which Folkmoot follows where the two disagree.
//!
//! Each entry is as narrow as it can be: it looks at the request, changes only the fields it is
//! about, and is asked only when two answers differ. Every use is counted in the report.

use crate::answer::{Answer, WatchItem};
use crate::compare;
use crate::request::{Context, Request};

/// One known difference.
pub struct Known {
    /// Short name, for the report.
    pub name: &'static str,
    /// Why this is no finding.
    pub reason: &'static str,
    /// Makes the two answers alike in the respect this entry is about.
    pub forgive: fn(&Request, &Context, &mut Answer, &mut Answer),
}

/// All known differences, in the order in which they are tried.
pub const TABLE: &[Known] = &[
    Known {
        name: "limit-cuts-a-tie",
        reason: "Go's sort is not stable: which of several keys with equal sort value make it under the limit is open",
        forgive: |request, _, left, right| {
            for answer in [left, right] {
                compare::each_range(request, answer, &mut compare::blank_last_tie);
            }
        },
    },
    Known {
        name: "keys-only-lease",
        reason: "newer etcd answers keys_only from its index, which does not know the lease (except when it sorts by value)",
        forgive: |request, _, left, right| {
            for answer in [left, right] {
                compare::each_range(request, answer, &mut |range, response| {
                    let by_value = range.sort_target == 4;
                    if range.keys_only && !by_value {
                        response.kvs.iter_mut().for_each(|kv| kv.lease = 0);
                    }
                });
            }
        },
    },
    Known {
        name: "hash-revision",
        reason: "HashKVResponse.hash_revision exists since etcd 3.6",
        forgive: |_, _, left, right| {
            if let (Answer::HashKv(left), Answer::HashKv(right)) = (left, right)
                && (left.hash_revision == 0 || right.hash_revision == 0)
            {
                left.hash_revision = 0;
                right.hash_revision = 0;
            }
        },
    },
    Known {
        name: "hash-at-compacted",
        reason: "etcd 3.4 refuses HashKV at exactly the compacted revision; newer etcd answers it",
        forgive: |request, context, left, right| {
            let Request::HashKv(hash) = request else { return };
            let answers = matches!(right, Answer::HashKv(_));
            if hash.revision > 0 && hash.revision == context.compacted && answers && says(left, &[COMPACTED])
            {
                *left = right.clone();
            }
        },
    },
    Known {
        name: "txn-check-order",
        reason: "of several reasons to refuse a transaction etcd 3.4 names those of puts first; newer etcd goes by their order",
        forgive: |request, _, left, right| {
            let of_put = says(left, &[KEY_NOT_FOUND, LEASE_NOT_FOUND]);
            if matches!(request, Request::Txn(_)) && of_put && says(right, &[COMPACTED, FUTURE]) {
                *left = right.clone();
            }
        },
    },
    Known {
        name: "compacted-tombstone",
        reason: "etcd up to 3.5.15 sweeps a deletion at exactly the compacted revision, sooner or later; newer etcd keeps it",
        forgive: |_, context, left, right| {
            for answer in [left, right] {
                let Answer::Watched(logs) = answer else { continue };
                for log in logs {
                    log.items.retain(|item| !is_deletion_at(item, context.compacted));
                }
            }
        },
    },
    Known {
        name: "sort-option",
        reason: "etcd 3.4 ignores an unknown sort order; newer etcd refuses the request",
        forgive: |request, _, left, right| {
            let Request::Range(range) = request else { return };
            let unknown = !(0..=2).contains(&range.sort_order) || !(0..=4).contains(&range.sort_target);
            let ignored = matches!(left, Answer::Range(_)) || says(left, &[COMPACTED, FUTURE]);
            if unknown && ignored && says(right, &[SORT_OPTION]) {
                *left = right.clone();
            }
        },
    },
    Known {
        name: "negative-watch",
        reason: "etcd 3.4 accepts a negative start revision and cancels at once; newer etcd refuses it",
        forgive: |request, _, left, right| {
            if !matches!(request, Request::Watch { create, .. } if create.start_revision < 0) {
                return;
            }
            if let (Answer::Watched(old), Answer::Watched(new)) = (&mut *left, &*right) {
                let last = |logs: &[crate::answer::WatcherLog]| {
                    logs.last().and_then(|log| log.items.last().cloned())
                };
                // Where the range is empty as well, 3.4 refuses it for that.
                let canceled =
                    matches!(last(old), Some(WatchItem::Canceled { .. } | WatchItem::Rejected { .. }));
                let refused =
                    matches!(last(new), Some(WatchItem::Rejected { reason, .. }) if reason == COMPACTED);
                if canceled && refused {
                    *left = right.clone();
                }
            }
        },
    },
];

/// What newer etcd says to an unknown sort order or target.
const SORT_OPTION: &str = "etcdserver: invalid sort option";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const KEY_NOT_FOUND: &str = "etcdserver: key not found";
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";

fn says(answer: &Answer, messages: &[&str]) -> bool {
    matches!(answer, Answer::Error { message, .. } if messages.contains(&message.as_str()))
}

fn is_deletion_at(item: &WatchItem, revision: i64) -> bool {
    let at = |kv: &folkmoot_proto::mvccpb::KeyValue| kv.mod_revision == revision;
    matches!(item, WatchItem::Event(event) if event.r#type == 1 && event.kv.as_ref().is_some_and(at))
}
