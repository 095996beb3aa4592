//! How calls, errors and numbers cross the border.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use folkmoot_bridge::BridgeError;
use napi::bindgen_prelude::*;
use napi::threadsafe_function::ThreadsafeFunction;
use napi_derive::napi;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

/// Things that JavaScript knows by a number. Numbers are never used twice within four billion.
pub struct Table<T> {
    last: AtomicU32,
    entries: Mutex<Option<HashMap<u32, T>>>,
}

impl<T> Table<T> {
    pub const fn new() -> Self {
        Self { last: AtomicU32::new(0), entries: Mutex::new(None) }
    }

    pub fn put(&self, value: T) -> u32 {
        let number = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.entries.lock().get_or_insert_default().insert(number, value);
        number
    }

    pub fn take(&self, number: u32) -> Option<T> {
        self.entries.lock().as_mut()?.remove(&number)
    }
}

impl<T: Clone> Table<T> {
    fn get(&self, number: u32) -> Option<T> {
        self.entries.lock().as_ref()?.get(&number).cloned()
    }
}

static CANCELS: Table<Arc<Notify>> = Table::new();

#[napi]
pub fn cancel_new() -> u32 {
    CANCELS.put(Arc::new(Notify::new()))
}

#[napi]
pub fn cancel_fire(number: u32) {
    if let Some(cancel) = CANCELS.get(number) {
        // The one call that has it, or will.
        cancel.notify_one();
    }
}

#[napi]
pub fn cancel_drop(number: u32) {
    CANCELS.take(number);
}

/// The text of an error: a JSON object that TypeScript makes its error classes of.
pub fn text(error: &BridgeError) -> String {
    let details: serde_json::Value = serde_json::from_str(&error.details).unwrap_or_default();
    json!({
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "maybeApplied": error.maybe_applied,
        "endpoint": error.endpoint,
        "details": details,
    })
    .to_string()
}

pub fn fail(error: BridgeError) -> Error {
    Error::new(Status::GenericFailure, text(&error))
}

/// A promise of what the future gives.
pub fn call<'e, T, O>(
    env: &'e Env,
    cancel: Option<u32>,
    future: impl Future<Output = std::result::Result<T, BridgeError>> + Send + 'static,
    into: fn(T) -> O,
) -> Result<PromiseRaw<'e, O>>
where
    T: Send + 'static,
    O: ToNapiValue + Send + 'static,
{
    let cancel = cancel.and_then(|number| CANCELS.get(number));
    env.spawn_future(async move {
        let outcome = match cancel {
            None => future.await,
            Some(cancel) => tokio::select! {
                biased;
                outcome = future => outcome,
                () = cancel.notified() => return Err(Error::new(Status::Cancelled, "cancelled".to_owned())),
            },
        };
        outcome.map(into).map_err(fail)
    })
}

/// A function of JavaScript that does not keep the process alive.
pub type Weak<T> = ThreadsafeFunction<T, (), T, Status, false, true, 0>;

pub fn weak<T: JsValuesTupleIntoVec + Send + 'static>(function: &Function<T, ()>) -> Result<Weak<T>> {
    function.build_threadsafe_function::<T>().weak::<true>().max_queue_size::<0>().build()
}

pub fn millis(millis: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(millis / 1000.0)
        .map_err(|error| Error::new(Status::InvalidArg, format!("a time of {millis} ms: {error}")))
}

pub fn maybe_millis(given: Option<f64>) -> Result<Option<Duration>> {
    given.map(millis).transpose()
}

pub fn in_millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

pub fn signed(number: &BigInt) -> Result<i64> {
    match number.get_i64() {
        (value, true) => Ok(value),
        _ => Err(Error::new(Status::InvalidArg, "a number beyond 64 bits with a sign".to_owned())),
    }
}

pub fn maybe_signed(number: Option<&BigInt>) -> Result<i64> {
    number.map_or(Ok(0), signed)
}

pub fn unsigned(number: &BigInt) -> Result<u64> {
    match number.get_u64() {
        (false, value, true) => Ok(value),
        _ => Err(Error::new(Status::InvalidArg, "a number beyond 64 bits without a sign".to_owned())),
    }
}

pub fn bytes(buffer: &Buffer) -> folkmoot_bridge::Bytes {
    folkmoot_bridge::Bytes::copy_from_slice(buffer)
}

pub fn buffer(bytes: &folkmoot_bridge::Bytes) -> Buffer {
    Buffer::from(bytes.to_vec())
}
