//! The tasks of the transport, so that they can all be ended and waited for.

use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

/// How long the end of all tasks is waited for.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Every task runs in here; after [`Self::stop`] none is started any more.
pub(crate) struct Tasks {
    runtime: Handle,
    running: Mutex<Option<JoinSet<()>>>,
}

impl Tasks {
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, running: Mutex::new(Some(JoinSet::new())) }
    }

    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Starts a task. It ends at its next wait when the transport stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.add(|running| {
            running.spawn_on(task, &self.runtime);
        });
    }

    /// Starts work that blocks. It must end by itself soon after the task that uses it.
    pub fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.add(|running| {
            running.spawn_blocking_on(work, &self.runtime);
        });
    }

    fn add(&self, start: impl FnOnce(&mut JoinSet<()>)) {
        let mut running = self.running.lock();
        // Without the set, what was to be started is dropped when this returns, outside the lock.
        if let Some(running) = running.as_mut() {
            while let Some(ended) = running.try_join_next() {
                report(ended);
            }
            start(running);
        }
    }

    /// Whether the transport is stopping or stopped.
    pub fn stopped(&self) -> bool {
        self.running.lock().is_none()
    }

    /// Ends all tasks and waits for them. Must run on the runtime.
    pub async fn stop(&self) {
        let Some(mut running) = self.running.lock().take() else { return };
        running.abort_all();
        let all = async {
            while let Some(ended) = running.join_next().await {
                report(ended);
            }
        };
        if timeout(STOP_TIMEOUT, all).await.is_err() {
            tracing::warn!(tasks = running.len(), "peer transport stopped before all its disk work was done");
            running.detach_all();
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "task of the peer transport panicked, please report this");
    }
}
