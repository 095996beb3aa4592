//! Streams that lose nothing: waiting and taking are two calls.
//!
//! A call that waits and takes in one loses the item when its waiter is cancelled after the item was
//! moved into the answer; measured in Python, that was every third one under random timeouts.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::{Mutex, Notify};

use crate::edge::{Mine, Result, at_once, edge};

/// Where the items come from.
pub(crate) trait Source: fmt::Debug + Send + 'static {
    type Item: fmt::Debug + Send + 'static;

    /// Whether [`Source::pull`] may be begun and dropped again at no cost. If so, items that are there
    /// already need no waiting.
    const QUICK: bool;

    /// The next item; `None` at the end. After an error there is nothing more. May be dropped and called
    /// again without a loss.
    fn pull(&mut self) -> impl Future<Output = Option<Result<Self::Item>>> + Send;
}

#[derive(Debug)]
struct State<S: Source> {
    source: Option<S>,
    /// Came, and is not taken yet.
    slot: Option<Result<S::Item>>,
}

#[derive(Debug)]
struct Shared<S: Source> {
    state: Mutex<State<S>>,
    stopped: AtomicBool,
    stop: Notify,
}

/// A stream by two calls.
#[derive(Debug)]
pub(crate) struct Cell<S: Source>(Arc<Mine<Shared<S>>>);

impl<S: Source> Clone for Cell<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Source> State<S> {
    fn put(&mut self, item: Option<Result<S::Item>>) {
        if !matches!(item, Some(Ok(_))) {
            self.source = None;
        }
        self.slot = item;
    }

    fn clear(&mut self) {
        self.source = None;
        self.slot = None;
    }

    fn is_settled(&self) -> bool {
        self.slot.is_some() || self.source.is_none()
    }
}

impl<S: Source> Cell<S> {
    pub fn new(source: S) -> Self {
        let state = Mutex::new(State { source: Some(source), slot: None });
        Self(Arc::new(Mine::new(Shared { state, stopped: AtomicBool::new(false), stop: Notify::new() })))
    }

    pub async fn ready(&self) -> Result<()> {
        let shared = self.0.get()?;
        edge(async {
            let mut stop = pin!(shared.stop.notified());
            // Before the look at `stopped`, or a stop in between would be missed.
            stop.as_mut().enable();
            if shared.stopped.load(Ordering::Acquire) {
                return Ok(());
            }
            let wait = async {
                let mut state = shared.state.lock().await;
                if state.is_settled() {
                    return;
                }
                if let Some(source) = &mut state.source {
                    let item = source.pull().await;
                    state.put(item);
                }
            };
            tokio::select! {
                biased;
                () = stop => shared.finish(),
                () = wait => {}
            }
            Ok(())
        })
        .await
    }

    pub fn take(&self) -> Result<Option<S::Item>> {
        let shared = self.0.get()?;
        at_once(|| {
            if shared.stopped.load(Ordering::Acquire) {
                shared.finish();
                return Ok(None);
            }
            // Whoever waits in `ready` has it, and then there is nothing to take.
            let Ok(mut state) = shared.state.try_lock() else { return Ok(None) };
            if S::QUICK && state.slot.is_none() {
                let pulled = state.source.as_mut().and_then(|source| source.pull().now_or_never());
                if let Some(item) = pulled {
                    state.put(item);
                }
            }
            state.slot.take().transpose()
        })
    }

    pub fn done(&self) -> Result<bool> {
        let shared = self.0.get()?;
        if shared.stopped.load(Ordering::Acquire) {
            return Ok(true);
        }
        Ok(shared.state.try_lock().is_ok_and(|state| state.slot.is_none() && state.source.is_none()))
    }

    pub fn stop(&self) {
        if let Ok(shared) = self.0.get() {
            shared.stopped.store(true, Ordering::Release);
            shared.stop.notify_waiters();
            // The source says good-bye on the runtime, and a panic of its ends here.
            drop(at_once(|| {
                shared.finish();
                Ok(())
            }));
        }
    }
}

impl<S: Source> Shared<S> {
    /// Lets go of the source, now or, if somebody waits at it, when he has heard of the stop.
    fn finish(&self) {
        if let Ok(mut state) = self.state.try_lock() {
            state.clear();
        }
    }
}

/// Declares a public stream over a source.
macro_rules! stream {
    ($(#[$doc:meta])* $name:ident($source:ty) -> $item:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(pub(crate) $crate::stream::Cell<$source>);

        impl $name {
            /// Comes back when there is something to take, or nothing will ever come.
            ///
            /// # Cancel safety
            /// May be dropped and called again; nothing is lost.
            pub async fn ready(&self) -> Result<(), $crate::BridgeError> {
                self.0.ready().await
            }

            /// One item, or `None` if none is there yet. An error is handed out once, and is the last.
            pub fn take(&self) -> Result<Option<$item>, $crate::BridgeError> {
                self.0.take()
            }

            /// Whether nothing will ever come.
            pub fn done(&self) -> Result<bool, $crate::BridgeError> {
                self.0.done()
            }

            /// Ends it. What was not taken is dropped, and whoever waits comes back.
            pub fn stop(&self) {
                self.0.stop();
            }
        }
    };
}
pub(crate) use stream;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BridgeError;
    use std::time::Duration;
    use tokio::sync::mpsc;

    #[derive(Debug)]
    struct Numbers(mpsc::Receiver<Result<u32>>);

    impl Source for Numbers {
        type Item = u32;
        const QUICK: bool = true;
        async fn pull(&mut self) -> Option<Result<u32>> {
            self.0.recv().await
        }
    }

    fn numbers() -> (mpsc::Sender<Result<u32>>, Cell<Numbers>) {
        let (sender, receiver) = mpsc::channel(1000);
        (sender, Cell::new(Numbers(receiver)))
    }

    #[tokio::test]
    async fn nothing_is_lost_when_waiting_is_cancelled_at_random() {
        let (sender, cell) = numbers();
        tokio::spawn(async move {
            for number in 0..300 {
                tokio::time::sleep(Duration::from_micros(200)).await;
                sender.send(Ok(number)).await.expect("is received");
            }
        });
        let mut got = Vec::new();
        let mut cancelled = 0;
        for turn in 0_u64.. {
            match cell.take().expect("no error") {
                Some(number) => got.push(number),
                None if cell.done().expect("no fork") => break,
                None => {
                    let patience = Duration::from_micros(turn * 7919 % 2000);
                    cancelled += u32::from(tokio::time::timeout(patience, cell.ready()).await.is_err());
                }
            }
        }
        assert_eq!(got, (0..300).collect::<Vec<_>>());
        assert!(cancelled > 50, "only {cancelled} waits were cancelled");
    }

    #[tokio::test]
    async fn an_error_comes_once_and_is_the_last() {
        let (sender, cell) = numbers();
        sender.send(Ok(1)).await.expect("fits");
        sender.send(Err(BridgeError::closed("it"))).await.expect("fits");
        sender.send(Ok(2)).await.expect("fits");
        cell.ready().await.expect("is ready");
        assert_eq!(cell.take(), Ok(Some(1)));
        assert!(!cell.done().expect("no fork"));
        cell.ready().await.expect("is ready");
        assert_eq!(cell.take().expect_err("an error").code, "CLOSED");
        assert!(cell.done().expect("no fork"));
        assert_eq!(cell.take(), Ok(None));
        cell.ready().await.expect("comes back at once");
    }

    #[tokio::test]
    async fn a_stop_frees_whoever_waits_and_the_source() {
        let (sender, cell) = numbers();
        let waiting = (0..3).map(|_| {
            let cell = cell.clone();
            tokio::spawn(async move { cell.ready().await })
        });
        let waiting: Vec<_> = waiting.collect();
        tokio::task::yield_now().await;
        cell.stop();
        for waiter in waiting {
            waiter.await.expect("no panic").expect("no error");
        }
        assert_eq!(cell.take(), Ok(None));
        assert!(cell.done().expect("no fork"));
        sender.closed().await;
    }

    #[tokio::test]
    async fn the_source_goes_with_the_last_clone() {
        let (sender, cell) = numbers();
        drop(cell.clone());
        assert!(!sender.is_closed());
        drop(cell);
        assert!(sender.is_closed());
    }
}
