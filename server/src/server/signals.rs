//! The signals that end the process.

use std::future::Future;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// A signal that asks the process to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopSignal {
    /// From a terminal.
    Interrupt,
    /// From a supervisor.
    Terminate,
}

/// What ended the wait.
pub enum Ended {
    /// A signal came.
    Signal(StopSignal),
    /// The server failed.
    Failed(String),
    /// The member was removed from its cluster.
    Removed,
}

/// Waits for a signal, the server's failure or its removal. From the first call on the signals do not end the
/// process by themselves.
pub async fn wait(
    failed: impl Future<Output = String>,
    removed: impl Future<Output = ()>,
) -> io::Result<Ended> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => Ended::Signal(StopSignal::Interrupt),
        _ = terminate.recv() => Ended::Signal(StopSignal::Terminate),
        reason = failed => Ended::Failed(reason),
        () = removed => Ended::Removed,
    })
}

impl StopSignal {
    /// Its name in etcd's log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Terminate => "terminated",
        }
    }

    /// Ends this process by the signal, with nothing in between. Returns only in a process that
    /// the signal cannot end, such as the first of a container.
    pub fn die(self) {
        let number = match self {
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
        };
        if std::process::id() == 1 {
            return;
        }
        // SAFETY: both calls take plain numbers; the default action replaces our handler, which
        // no thread needs any more.
        unsafe {
            libc::signal(number, libc::SIG_DFL);
            libc::raise(number);
        }
    }
}
