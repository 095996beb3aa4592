//! A known sequence of unary calls, made as fast as the server answers: loading keys, granting
//! and revoking leases. The first failure stops it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::wire::{CallError, Channel, Method};

/// Makes the connections with these numbers, dealt to the endpoints in turn.
pub async fn connect(endpoints: &[String], numbers: Range<usize>) -> Result<Vec<Channel>, CallError> {
    let mut channels = Vec::with_capacity(numbers.len());
    for number in numbers {
        channels.push(Channel::connect(&endpoints[number % endpoints.len()]).await?);
    }
    Ok(channels)
}

/// Makes all calls, at most `in_flight` unanswered on each channel. Each answer is handed over with
/// the instant at which its call was sent.
pub async fn call_all<I, F>(
    channels: &[Channel],
    in_flight: usize,
    method: &Method,
    requests: I,
    answered: F,
) -> Result<(), CallError>
where
    I: Iterator<Item = Bytes> + Send + 'static,
    F: Fn(Instant, Bytes) -> Result<(), CallError> + Clone + Send + 'static,
{
    let requests = Arc::new(Mutex::new(requests));
    let mut workers = JoinSet::new();
    for channel in channels {
        for _ in 0..in_flight {
            let mut channel = channel.clone();
            let method = method.clone();
            let requests = Arc::clone(&requests);
            let answered = answered.clone();
            workers.spawn(async move {
                loop {
                    let request = requests.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(request) = request else {
                        return Ok::<(), CallError>(());
                    };
                    let start = Instant::now();
                    let answer = channel.unary(&method, request).await?;
                    answered(start, answer)?;
                }
            });
        }
    }
    // Dropping the set at the first error stops the other workers.
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|error| CallError::Transport(error.to_string()))??;
    }
    Ok(())
}
