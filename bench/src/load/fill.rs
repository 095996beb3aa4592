//! Loading keys: the fill workload, and the keys that other workloads need before they start.

use std::time::Instant;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use prost::Message;

use super::calls::{call_all, connect};
use super::{FAR, LoadError, Meter, SharedRecorder, Spec};
use crate::payload::{self, Arena, KEY_PREFIX, LIST_PREFIX};
use crate::report::Report;
use crate::stats::{Loop, Recorder, Window};
use crate::wire::{CallError, Channel, Method};

/// A transaction of fill stays well below etcd's default request limit of 1.5 MiB.
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Bytes of a put besides its value: key, lengths and tags, rounded up.
const PUT_OVERHEAD_BYTES: usize = 64;

/// Loads the keys of the spec and reports keys a second.
pub async fn fill(spec: &Spec) -> Result<Report, LoadError> {
    let channels = connect(&spec.endpoints, 0..spec.connections).await?;
    let from = Instant::now();
    let window = Window { from, until: from + FAR };
    let recorder = SharedRecorder::new(window, Loop::Closed);
    let meter = Meter::start(&spec.pids)?;
    load(spec, &channels, KEY_PREFIX, spec.key_count, Some(&recorder)).await?;
    let used = meter.stop()?;
    let total: &Recorder = &recorder.lock();
    Ok(Report::new(spec, total, spec.key_count, &used))
}

/// Loads the keys of the point workloads, unless they are all there.
pub(super) async fn ensure_keys(spec: &Spec) -> Result<(), LoadError> {
    ensure(spec, KEY_PREFIX, spec.key_count).await
}

/// Loads the keys of the list workload, unless they are all there.
pub(super) async fn ensure_list(spec: &Spec) -> Result<(), LoadError> {
    ensure(spec, LIST_PREFIX, spec.list_count).await?;
    let found = count(spec.endpoint(), LIST_PREFIX).await?;
    if found != spec.list_count {
        return Err(LoadError::Setting(format!(
            "prefix holds other keys than --list-count says: prefix={LIST_PREFIX} found={found} \
             list_count={}",
            spec.list_count
        )));
    }
    Ok(())
}

/// How many keys of the point workloads the server holds, by a linearizable read.
pub async fn count_keys(endpoint: &str) -> Result<u64, CallError> {
    count(endpoint, KEY_PREFIX).await
}

async fn ensure(spec: &Spec, prefix: &str, wanted: u64) -> Result<(), LoadError> {
    if !spec.preload || count(spec.endpoint(), prefix).await? >= wanted {
        return Ok(());
    }
    let channels = connect(&spec.endpoints, 0..spec.connections).await?;
    load(spec, &channels, prefix, wanted, None).await
}

async fn count(endpoint: &str, prefix: &str) -> Result<u64, CallError> {
    let method = Method::new("/etcdserverpb.KV/Range");
    let request = payload::list(prefix, true).fill(0, &mut Arena::default());
    let answer = Channel::connect(endpoint).await?.unary(&method, request).await?;
    let response = pb::RangeResponse::decode(answer)?;
    u64::try_from(response.count).map_err(|_| CallError::Answer(format!("negative count={}", response.count)))
}

async fn load(
    spec: &Spec,
    channels: &[Channel],
    prefix: &str,
    wanted: u64,
    recorder: Option<&SharedRecorder>,
) -> Result<(), LoadError> {
    let batch = batch_size(spec.batch, spec.value_bytes);
    let path = if batch == 1 { "/etcdserverpb.KV/Put" } else { "/etcdserverpb.KV/Txn" };
    let method = Method::new(path);
    let value = payload::value(spec.value_bytes);
    let requests = batches(prefix, wanted, batch, &value);
    // A batch is as much work as many puts: fewer in flight keep the server just as busy, and
    // its pipeline holds no more bytes than with plain puts.
    let in_flight = spec.in_flight.div_ceil(batch).max(2).min(spec.in_flight);
    let recorder = recorder.cloned();
    let answered = move |start, _| {
        if let Some(recorder) = &recorder {
            recorder.lock().answered(start, Instant::now());
        }
        Ok(())
    };
    call_all(channels, in_flight, &method, requests, answered).await?;
    Ok(())
}

fn batch_size(wanted: usize, value_bytes: usize) -> usize {
    wanted.min(REQUEST_BYTES_MAX / (value_bytes + PUT_OVERHEAD_BYTES)).max(1)
}

/// The requests that put keys 0 to `wanted`, the last of them perhaps shorter.
fn batches(
    prefix: &str,
    wanted: u64,
    batch: usize,
    value: &Bytes,
) -> impl Iterator<Item = Bytes> + Send + 'static {
    let step = batch as u64;
    let whole = payload::put_batch(prefix, batch, value);
    let rest_count = (wanted % step) as usize;
    // A transaction of one is asked for only when the rest is one of a bigger batch.
    let rest = (rest_count > 0).then(|| payload::put_txn(prefix, rest_count, value));
    let mut arena = Arena::default();
    let mut next = 0;
    std::iter::from_fn(move || {
        let template = if next + step <= wanted {
            &whole
        } else if next < wanted {
            rest.as_ref()?
        } else {
            return None;
        };
        let request = template.fill(next, &mut arena);
        next += step;
        Some(request)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::FRAME_HEADER_BYTES;

    fn keys(wanted: u64, batch: usize) -> Vec<Vec<Bytes>> {
        batches(KEY_PREFIX, wanted, batch, &payload::value(8))
            .map(|request| {
                let txn = pb::TxnRequest::decode(&request[FRAME_HEADER_BYTES..]).unwrap();
                txn.success
                    .into_iter()
                    .map(|op| match op.request {
                        Some(pb::request_op::Request::RequestPut(put)) => put.key,
                        other => panic!("not a put: {other:?}"),
                    })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn every_key_is_put_once_even_when_the_last_batch_is_short() {
        for wanted in [1_u64, 3, 4, 9, 12] {
            let batches = keys(wanted, 4);
            let all: Vec<_> = batches.concat();
            let expected: Vec<_> = (0..wanted).map(|number| payload::key(KEY_PREFIX, number)).collect();
            assert_eq!(all, expected, "wanted={wanted}");
            assert_eq!(batches.len() as u64, wanted.div_ceil(4));
        }
    }

    #[test]
    fn big_values_make_small_batches() {
        assert_eq!(batch_size(128, 256), 128);
        assert_eq!(batch_size(128, 100_000), 10);
        assert_eq!(batch_size(128, 5 << 20), 1);
    }
}
