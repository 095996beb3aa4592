//! Streams of responses.

use std::future::Future;
use std::pin::Pin;

use folkmoot_core::error::Error;
use futures_util::stream::{FuturesOrdered, unfold};
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::{status, stream_status};
use crate::node::NodeHandle;

/// The responses of a streaming call.
pub type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Requests of one stream that are worked on at a time; more wait with the client.
const UNDER_WAY_MAX: usize = 4096;

/// Answers the requests of a stream in order, working on up to [`UNDER_WAY_MAX`] of them at a time:
/// a client that sends many needs one round of the cluster for all, not one for each. Ends well when
/// the client has ended its side; the first error ends the stream, and so does the stop of the
/// server.
pub fn respond_in_order<Q, A, F, W>(node: &NodeHandle, requests: Streaming<Q>, answer: F) -> ResponseStream<A>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Fn(Q) -> W + Send + 'static,
    W: Future<Output = Result<A, Status>> + Send + 'static,
{
    let stopping = node.stopping();
    let call =
        Call { requests, answer, stopping, under_way: FuturesOrdered::new(), end: None, failed: false };
    Box::pin(unfold(call, |mut call| async move { call.next().await.map(|response| (response, call)) }))
}

struct Call<Q, F, W: Future> {
    requests: Streaming<Q>,
    answer: F,
    stopping: watch::Receiver<bool>,
    under_way: FuturesOrdered<W>,
    /// No more requests come; with what is to be said after the last answer.
    end: Option<Result<(), Status>>,
    /// An error was given, which is the last word.
    failed: bool,
}

impl<Q, A, F, W> Call<Q, F, W>
where
    F: Fn(Q) -> W,
    W: Future<Output = Result<A, Status>>,
{
    async fn next(&mut self) -> Option<Result<A, Status>> {
        if self.failed {
            return None;
        }
        let response = self.next_or_end().await;
        self.failed = matches!(response, Some(Err(_)));
        response
    }

    async fn next_or_end(&mut self) -> Option<Result<A, Status>> {
        loop {
            if self.end.is_some() && self.under_way.is_empty() {
                return self.end.replace(Ok(()))?.err().map(Err);
            }
            tokio::select! {
                biased;
                Some(response) = self.under_way.next(), if !self.under_way.is_empty() => return Some(response),
                request = self.requests.message(),
                    if self.end.is_none() && self.under_way.len() < UNDER_WAY_MAX => match request
                {
                    Ok(Some(request)) => self.under_way.push_back((self.answer)(request)),
                    Ok(None) => self.end = Some(Ok(())),
                    Err(failure) => self.end = Some(Err(stream_status(failure))),
                },
                _ = self.stopping.wait_for(|stopping| *stopping), if self.end.is_none() => {
                    self.end = Some(Err(status(Error::Stopped)));
                }
            }
        }
    }
}
