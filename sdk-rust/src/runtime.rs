//! The threads this crate runs on.
//!
//! Keepalives, watches and releases must go on while the caller's own threads or event loop are
//! busy, so they have threads of their own: one runtime of two threads for each process, made when
//! first needed. A forked child inherits the memory but not the threads; it is recognised by its
//! process id and gets a runtime of its own. There is no lock on that way, because it could have
//! been held at the moment of the fork.
//!
//! Signals are the host program's affair: these threads block them. A signal to the process goes to any
//! one thread that takes it; were that one of ours, a main thread that waits would not be woken.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};

const THREADS: usize = 2;

struct PerProcess {
    pid: u32,
    runtime: Runtime,
}

static CURRENT: AtomicPtr<PerProcess> = AtomicPtr::new(std::ptr::null_mut());

/// The id of this process.
pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// The runtime that this crate's own threads serve in this process, for whoever builds on this crate
/// and needs one. Nothing that blocks belongs there: keepalives run on it. In a forked child it is
/// another one than in the parent.
pub fn private() -> Result<Handle> {
    let pid = pid();
    let seen = CURRENT.load(Ordering::Acquire);
    // SAFETY: what was once stored is never freed.
    if let Some(current) = unsafe { seen.as_ref() }
        && current.pid == pid
    {
        return Ok(current.runtime.handle().clone());
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("folkmoot-client")
        .on_thread_start(leave_signals)
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("cannot start threads: {error}")).caused_by(error))?;
    let made = Box::into_raw(Box::new(PerProcess { pid, runtime }));
    match CURRENT.compare_exchange(seen, made, Ordering::AcqRel, Ordering::Acquire) {
        // The one of the parent process, if any, is left alone: its threads are not here to be ended.
        // SAFETY: it was just made and is never freed.
        Ok(_) => Ok(unsafe { &*made }.runtime.handle().clone()),
        Err(_) => {
            // SAFETY: nobody else has seen it.
            let lost = unsafe { Box::from_raw(made) };
            lost.runtime.shutdown_background();
            private()
        }
    }
}

/// Blocks what other processes, terminals and timers send. Not what a thread brings upon itself, such as a
/// bad access, and not what profilers count on getting everywhere.
fn leave_signals() {
    const TAKEN: [libc::c_int; 8] = [
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGPROF,
        libc::SIGSEGV,
        libc::SIGSYS,
        libc::SIGTRAP,
    ];
    // SAFETY: the set is made by `sigfillset` before it is read, and lives until the calls are over.
    unsafe {
        let mut left = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(left.as_mut_ptr());
        for signal in TAKEN {
            libc::sigdelset(left.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, left.as_ptr(), std::ptr::null_mut());
    }
}

/// A future whose timers and sockets belong to the given runtime, whoever polls it.
#[derive(Debug)]
pub(crate) struct Within<F> {
    handle: Handle,
    future: Pin<Box<F>>,
}

/// Lets `future` use the runtime's timers and sockets when it is polled outside of it.
pub(crate) fn within<F: Future>(handle: &Handle, future: F) -> Within<F> {
    Within { handle: handle.clone(), future: Box::pin(future) }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let handle = self.handle.clone();
        let _entered = handle.enter();
        self.future.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timers_work_without_a_runtime_of_the_caller() {
        let handle = private().expect("threads can be started");
        let slept = within(&handle, async { tokio::time::sleep(Duration::from_millis(1)).await });
        crate::test_support::block_on(slept);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn signals_are_left_to_the_threads_of_the_host() {
        let status = private()
            .expect("threads can be started")
            .spawn(async { std::fs::read_to_string("/proc/thread-self/status").expect("the kernel tells") });
        let status = crate::test_support::block_on(status).expect("it was read");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask");
        let mask = u64::from_str_radix(mask.trim(), 16).expect("hexadecimal");
        let blocked = |signal: i32| mask & 1 << (signal - 1) != 0;
        assert!([libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD].into_iter().all(blocked));
        assert!(![libc::SIGSEGV, libc::SIGABRT, libc::SIGPROF].into_iter().any(blocked));
    }

    #[test]
    fn s_12_one_runtime_serves_the_process() {
        let first = private().expect("threads can be started");
        let second = private().expect("threads can be started");
        assert_eq!(first.id(), second.id());
    }
}
