//! Makes a failing script short.
//!
//! Greedy: requests are dropped in chunks that get smaller, then the parts of transactions, as long
//! as the difference persists. The number of tries is bounded, so the result is short but not
//! necessarily the shortest.

use folkmoot_proto::etcdserverpb as pb;
use pb::request_op::Request as Op;

use crate::request::Request;

/// Shortens `script` with at most `tries` calls of `reproduces`.
pub async fn shrink<F>(script: Vec<Request>, tries: usize, mut reproduces: F) -> Vec<Request>
where
    F: AsyncFnMut(&[Request]) -> bool,
{
    let mut best = script;
    let mut left = tries;
    let mut chunk = best.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut dropped = false;
        while at < best.len() && left > 0 {
            let end = (at + chunk).min(best.len());
            let candidate: Vec<Request> = [&best[..at], &best[end..]].concat();
            left -= 1;
            if reproduces(&candidate).await {
                best = candidate;
                dropped = true;
            } else {
                at = end;
            }
        }
        if left == 0 || (chunk == 1 && !dropped) {
            break;
        }
        chunk = (chunk / 2).max(1);
    }
    let mut at = 0;
    while at < best.len() && left > 0 {
        let mut improved = false;
        for smaller in simpler(&best[at]) {
            if left == 0 {
                break;
            }
            left -= 1;
            let mut candidate = best.clone();
            candidate[at] = smaller;
            if reproduces(&candidate).await {
                best = candidate;
                improved = true;
                break;
            }
        }
        if !improved {
            at += 1;
        }
    }
    best
}

/// Requests that do a little less than this one.
fn simpler(request: &Request) -> Vec<Request> {
    match request {
        Request::Txn(txn) => simpler_txn(txn).into_iter().map(Request::Txn).collect(),
        Request::Range(range) => simpler_range(range).into_iter().map(Request::Range).collect(),
        _ => Vec::new(),
    }
}

fn simpler_txn(txn: &pb::TxnRequest) -> Vec<pb::TxnRequest> {
    let mut all = Vec::new();
    for i in 0..txn.compare.len() {
        let mut less = txn.clone();
        less.compare.remove(i);
        all.push(less);
    }
    let sides: [fn(&mut pb::TxnRequest) -> &mut Vec<pb::RequestOp>; 2] =
        [|txn| &mut txn.success, |txn| &mut txn.failure];
    for side in sides {
        let ops = side(&mut txn.clone()).clone();
        for (i, op) in ops.iter().enumerate() {
            let mut less = txn.clone();
            side(&mut less).remove(i);
            all.push(less);
            let inner = match &op.request {
                Some(Op::RequestTxn(inner)) => simpler_txn(inner).into_iter().map(Op::RequestTxn).collect(),
                Some(Op::RequestRange(range)) => {
                    simpler_range(range).into_iter().map(Op::RequestRange).collect()
                }
                _ => Vec::new(),
            };
            for request in inner {
                let mut less = txn.clone();
                side(&mut less)[i].request = Some(request);
                all.push(less);
            }
        }
    }
    all
}

fn simpler_range(range: &pb::RangeRequest) -> Vec<pb::RangeRequest> {
    let without: [fn(&mut pb::RangeRequest); 11] = [
        |r| r.limit = 0,
        |r| r.revision = 0,
        |r| r.sort_order = 0,
        |r| r.sort_target = 0,
        |r| r.serializable = false,
        |r| r.keys_only = false,
        |r| r.count_only = false,
        |r| r.min_mod_revision = 0,
        |r| r.max_mod_revision = 0,
        |r| r.min_create_revision = 0,
        |r| r.max_create_revision = 0,
    ];
    let apply = |change: &fn(&mut pb::RangeRequest)| {
        let mut less = range.clone();
        change(&mut less);
        less
    };
    // An unknown target with a known order makes etcd 3.4 fall over.
    let harmless =
        |less: &pb::RangeRequest| (0..=4).contains(&less.sort_target) || !(0..=2).contains(&less.sort_order);
    without.iter().map(apply).filter(|less| less != range && harmless(less)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator;

    async fn with(
        script: Vec<Request>,
        tries: usize,
        reproduces: impl Fn(&[Request]) -> bool,
    ) -> Vec<Request> {
        shrink(script, tries, async |candidate: &[Request]| reproduces(candidate)).await
    }

    #[tokio::test]
    async fn a_long_script_shrinks_to_the_requests_that_matter() {
        let wanted = |script: &[Request]| {
            let put = script.iter().position(|request| matches!(request, Request::Put(_)));
            let range = script.iter().rposition(|request| matches!(request, Request::Range(_)));
            matches!((put, range), (Some(put), Some(range)) if put < range)
        };
        let script = generator::script(1, 60);
        assert!(wanted(&script));
        let short = with(script, 500, wanted).await;
        assert_eq!(short.iter().map(Request::kind).collect::<Vec<_>>(), ["put", "range"]);
        assert!(matches!(&short[1], Request::Range(range) if range.limit == 0 && range.revision == 0));
    }

    #[tokio::test]
    async fn a_transaction_loses_the_parts_that_do_not_matter() {
        let has_delete = |script: &[Request]| {
            script.iter().any(|request| match request {
                Request::Txn(txn) => {
                    txn.success.iter().any(|op| matches!(op.request, Some(Op::RequestDeleteRange(_))))
                }
                _ => false,
            })
        };
        let script = (0..50).map(|seed| generator::script(seed, 60)).find(|script| has_delete(script));
        let short =
            with(script.expect("one of fifty scripts deletes in a transaction"), 1000, has_delete).await;
        let [Request::Txn(txn)] = &short[..] else { panic!("{short:?}") };
        assert_eq!((txn.compare.len(), txn.success.len(), txn.failure.len()), (0, 1, 0));
    }

    #[tokio::test]
    async fn the_number_of_tries_is_bounded() {
        let script = generator::script(1, 60);
        let count = std::cell::Cell::new(0);
        with(script, 17, |_| {
            count.set(count.get() + 1);
            false
        })
        .await;
        assert_eq!(count.get(), 17);
    }
}
