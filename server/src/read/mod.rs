//! Reads of the published state, on the runtime of whoever asks.
//!
//! Small reads run at once. What may take long goes to a thread for blocking work, so that one
//! client's list of everything does not hold up the calls of others. Refuses: deciding whether a
//! read may run yet ([`NodeHandle::read_index`] does).

mod stream;

use folkmoot_core::mvcc::{Compare, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse};

use crate::node::{CallError, NodeHandle};

pub use stream::{check_streamable, range_stream};

/// Keys that are read without leaving the runtime: some hundred microseconds at most.
const LIGHT_KEYS_MAX: i64 = 256;

/// Reads an interval.
pub async fn range(node: &NodeHandle, request: RangeRequest) -> Result<RangeResponse, CallError> {
    if is_light(node, &request) {
        return node.reader().range(&request).map_err(|failure| node.failed(failure));
    }
    let reader = node.reader().clone();
    let result = in_background(move || reader.range(&request)).await;
    result.map_err(|failure| node.failed(failure))
}

/// Runs a transaction that only reads.
pub async fn txn(node: &NodeHandle, request: TxnRequest) -> Result<TxnResponse, CallError> {
    let light = request.success.iter().chain(&request.failure).all(|op| match op {
        RequestOp::Range(range) => is_light(node, range),
        _ => true,
    });
    // Conditions on intervals are walks, too.
    let light = light && request.compare.iter().all(|compare| is_light(node, &interval_of(compare)));
    let reader = node.reader().clone();
    let result = match light {
        true => reader.txn_read_only(&request),
        false => in_background(move || reader.txn_read_only(&request)).await,
    };
    result.map_err(|failure| node.failed(failure))
}

fn interval_of(compare: &Compare) -> RangeRequest {
    RangeRequest { key: compare.key.clone(), range_end: compare.range_end.clone(), ..RangeRequest::default() }
}

fn is_light(node: &NodeHandle, request: &RangeRequest) -> bool {
    if request.range_end.is_empty() {
        return true;
    }
    let current = request.revision <= 0 || request.revision == node.reader().revision();
    if !current {
        // The past is looked up row by row, however few keys it has.
        return false;
    }
    // The index counts an interval without walking it.
    let counted = RangeRequest {
        key: request.key.clone(),
        range_end: request.range_end.clone(),
        count_only: true,
        ..RangeRequest::default()
    };
    request.count_only || node.reader().range(&counted).is_ok_and(|answer| answer.count <= LIGHT_KEYS_MAX)
}

/// Runs work that may take long on a thread for such work, and waits for it.
pub async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
