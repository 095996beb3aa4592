//! Streams of responses.

use std::future::Future;
use std::pin::Pin;

use folkmoot_core::error::Error;
use futures_util::Stream;
use futures_util::stream::unfold;
use tonic::{Status, Streaming};

use super::{status, stream_status};
use crate::node::NodeHandle;

/// The responses of a streaming call.
pub type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers the requests of a stream one after the other, in order. Ends well when the client has
/// ended its side; the first error ends the stream, and so does the stop of the server.
pub fn respond_in_order<Q, A, F, W>(node: NodeHandle, requests: Streaming<Q>, answer: F) -> ResponseStream<A>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Fn(Q) -> W + Send + 'static,
    W: Future<Output = Result<A, Status>> + Send,
{
    Box::pin(unfold(Some((node, requests, answer)), |state| async move {
        let (node, mut requests, answer) = state?;
        let mut stopping = node.stopping();
        let request = tokio::select! {
            biased;
            request = requests.message() => request,
            _ = stopping.wait_for(|stopping| *stopping) => Err(status(Error::Stopped)),
        };
        match request {
            Ok(None) => None,
            Ok(Some(request)) => match answer(request).await {
                Ok(response) => Some((Ok(response), Some((node, requests, answer)))),
                Err(status) => Some((Err(status), None)),
            },
            Err(failure) => Some((Err(stream_status(failure)), None)),
        }
    }))
}
