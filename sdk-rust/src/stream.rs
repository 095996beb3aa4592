//! Streams out of values that tell what comes next.

use std::pin::Pin;

use futures_util::Stream;

use crate::error::Result;

/// What `next` answers again and again, up to an error.
pub(crate) fn endless<S, T>(
    state: S,
    next: impl for<'a> Fn(&'a mut S) -> Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>> + Send,
) -> impl Stream<Item = Result<T>> + Send + Unpin
where
    S: Send,
    T: Send,
{
    Box::pin(futures_util::stream::unfold((Some(state), next), |(state, next)| async move {
        let mut state = state?;
        let item = next(&mut state).await;
        let state = item.is_ok().then_some(state);
        Some((item, (state, next)))
    }))
}
