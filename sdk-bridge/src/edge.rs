//! The border itself: futures that anybody may poll, panics that end here, handles that know their
//! process.

use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use crate::error::BridgeError;

pub(crate) type Result<T, E = BridgeError> = std::result::Result<T, E>;

/// The runtime of this process: two threads that also carry keepalives and watches, so nothing that
/// blocks, and no code of another language, belongs there (its `spawn_blocking` is another matter). In
/// a forked child it is a fresh one; there is no lock on the way to it.
pub fn runtime() -> Result<Handle, BridgeError> {
    Ok(folkmoot_client::runtime()?)
}

/// A future that may be polled by anybody and does not panic. It is small, whatever it carries, so that
/// moving a call around costs nothing.
pub(crate) struct Edge<F> {
    handle: Result<Handle>,
    future: Pin<Box<F>>,
}

impl<T, F: Future<Output = Result<T>>> Future for Edge<F> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let this = &mut *self;
        let _entered = match &this.handle {
            Ok(handle) => handle.enter(),
            Err(error) => return Poll::Ready(Err(error.clone())),
        };
        // What is left after a panic is dropped with the future and never polled again.
        match catch_unwind(AssertUnwindSafe(|| this.future.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => Poll::Ready(Err(BridgeError::panicked(&*panic))),
        }
    }
}

/// Carries a call over the border.
pub(crate) fn edge<T, F: Future<Output = Result<T>>>(future: F) -> Edge<F> {
    Edge { handle: runtime(), future: Box::pin(future) }
}

/// The same for what does not wait.
pub(crate) fn at_once<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let handle = runtime()?;
    let _entered = handle.enter();
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(BridgeError::panicked(&*panic)))
}

/// A value that belongs to the process it was made in. A forked child has a copy of its bytes, but
/// not the threads that serve it; locks inside may have been held at the moment of the fork. So it is
/// neither used nor dropped there.
#[derive(Debug)]
pub(crate) struct Mine<T> {
    pid: u32,
    value: ManuallyDrop<T>,
}

impl<T> Mine<T> {
    pub fn new(value: T) -> Self {
        Self { pid: std::process::id(), value: ManuallyDrop::new(value) }
    }

    pub fn is_foreign(&self) -> bool {
        self.pid != std::process::id()
    }

    pub fn get(&self) -> Result<&T> {
        if self.is_foreign() { Err(BridgeError::forked()) } else { Ok(&self.value) }
    }

    pub fn get_mut(&mut self) -> Result<&mut T> {
        if self.is_foreign() { Err(BridgeError::forked()) } else { Ok(&mut self.value) }
    }
}

impl<T> Drop for Mine<T> {
    fn drop(&mut self) {
        if self.is_foreign() {
            return;
        }
        // What is dropped may want to say good-bye on the runtime.
        let entered = runtime().ok();
        let _entered = entered.as_ref().map(Handle::enter);
        // SAFETY: it is not used after this, because it is dropped only once, here.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { ManuallyDrop::drop(&mut self.value) }));
        if let Err(panic) = outcome {
            tracing::error!(error = %BridgeError::panicked(&*panic), "a handle was not dropped properly");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        // Not tokio's: a call may be polled by anybody.
        let parker = std::thread::current();
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(parker)).into();
        let mut future = std::pin::pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => return output,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    #[test]
    fn a_call_has_timers_wherever_it_is_polled() {
        block_on(edge(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        }))
        .expect("there is a runtime");
    }

    #[test]
    fn a_panic_ends_at_the_border() {
        let error = block_on(edge(async {
            tokio::task::yield_now().await;
            if std::process::id() > 0 {
                panic!("an {}", "accident");
            }
            Ok(())
        }))
        .expect_err("it panicked");
        assert_eq!(error.code, "INTERNAL");
        assert!(error.message.contains("an accident"), "{error}");
        assert_eq!(at_once::<()>(|| panic!("at once")).expect_err("it panicked").code, "INTERNAL");
    }

    struct Told(Arc<AtomicBool>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_belongs_to_the_parent_is_neither_used_nor_dropped() {
        let told = Arc::new(AtomicBool::new(false));
        let mut mine = Mine::new(Told(told.clone()));
        assert!(mine.get().is_ok());
        mine.pid += 1;
        assert_eq!(mine.get().err().expect("is foreign").code, "FORKED");
        drop(mine);
        assert!(!told.load(Ordering::SeqCst));
        drop(Mine::new(Told(told.clone())));
        assert!(told.load(Ordering::SeqCst));
    }
}
