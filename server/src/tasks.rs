//! How threads are started and what happens when one fails.
//!
//! Every thread of the server, and every task that others rely on, runs under a [`Fate`]: the first failure of any of them is the
//! server's failure. It is logged once, everybody who waits is let go, and the process exits; no
//! thread is restarted and no failed write is tried again, because what was half done is unknown.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::FutureExt as _;
use tokio::sync::watch;

/// Whether the server had to stop. Cloned into every thread.
#[derive(Clone)]
pub struct Fate {
    failed: Arc<watch::Sender<Option<String>>>,
}

impl Default for Fate {
    fn default() -> Self {
        Self { failed: Arc::new(watch::Sender::new(None)) }
    }
}

impl Fate {
    /// The server cannot go on. Only the first failure is told; the others follow from it.
    pub fn fail(&self, thread: &str, error: &dyn Display) {
        let first = self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                *failed = Some(format!("{error}"));
            }
            first
        });
        if first {
            tracing::error!(thread, %error, "server failed and stops");
        }
    }

    /// Why the server failed, if it did.
    pub fn failure(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    /// Waits for a failure.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        loop {
            if let Some(error) = failed.borrow_and_update().clone() {
                return error;
            }
            if failed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Starts a thread whose panic is the server's failure. `after` runs in any case when `work` is
/// over, also after a panic.
pub fn spawn_thread(
    name: &str,
    fate: &Fate,
    work: impl FnOnce() + Send + 'static,
    after: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let (fate, thread_name) = (fate.clone(), name.to_owned());
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            fate.fail(&thread_name, &"thread panicked");
        }
        after();
    })
}

/// Starts a task on the current runtime whose panic is the server's failure.
pub fn spawn_task(name: &'static str, fate: &Fate, work: impl Future<Output = ()> + Send + 'static) {
    let fate = fate.clone();
    tokio::spawn(async move {
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            fate.fail(name, &"task panicked");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_a_thread_is_the_servers_failure() {
        let fate = Fate::default();
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = spawn_thread(
            "test",
            &fate,
            || panic!("on purpose"),
            move || sender.send(()).expect("the test waits"),
        );
        thread.unwrap().join().unwrap();
        assert_eq!(fate.failed().await, "thread panicked");
        receiver.recv().unwrap();
        spawn_task("task", &fate, async { panic!("on purpose") });
        tokio::task::yield_now().await;
        fate.fail("other", &"later");
        assert_eq!(fate.failure().as_deref(), Some("thread panicked"));
    }
}
