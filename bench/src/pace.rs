//! When calls start: at once when there is room (closed loop), or by the clock (open loop).
//!
//! The pacer sleeps on a timer file descriptor, because the runtime's own timer has a grain of
//! one millisecond, which would show up in every latency. Its queue is bounded by the number
//! of calls that the schedule holds.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

/// Intended start times of an open loop: evenly spaced, from `start` to before `until`.
#[derive(Debug, Clone)]
pub struct Schedule {
    start: Instant,
    until: Instant,
    rate: f64,
    next: u64,
}

impl Schedule {
    /// `rate` is in calls per second and must be above zero.
    pub fn new(start: Instant, until: Instant, rate: f64) -> Self {
        Self { start, until, rate, next: 0 }
    }

    /// The next start that has not been taken; `None` when the schedule is over.
    pub fn next(&self) -> Option<Instant> {
        // From the index and not by adding intervals, so that rounding does not build up.
        let offset = Duration::try_from_secs_f64(self.next as f64 / self.rate).ok()?;
        let at = self.start.checked_add(offset)?;
        (at < self.until).then_some(at)
    }

    /// Takes the next start if it is due.
    pub fn take_due(&mut self, now: Instant) -> Option<Instant> {
        let at = self.next().filter(|at| *at <= now)?;
        self.next += 1;
        Some(at)
    }
}

/// Where workers get the permission to start a call.
#[derive(Debug, Clone)]
pub enum Starts {
    /// Any time before this instant.
    Closed(Instant),
    /// When the pacer says so.
    Open(Arc<Queue>),
}

impl Starts {
    /// Waits for the next start and returns the instant from which the call's latency counts;
    /// `None` when no more calls are to be made.
    pub async fn next(&self) -> Option<Instant> {
        match self {
            Starts::Closed(until) => {
                let now = Instant::now();
                (now < *until).then_some(now)
            }
            Starts::Open(queue) => queue.pop().await,
        }
    }
}

/// Starts that are due and that no worker has taken yet.
#[derive(Debug)]
pub struct Queue {
    due: Mutex<VecDeque<Instant>>,
    count: Semaphore,
}

impl Default for Queue {
    fn default() -> Self {
        Self { due: Mutex::default(), count: Semaphore::new(0) }
    }
}

impl Queue {
    /// Says that no more starts will come; those that are due are still to be done.
    pub fn close(&self) {
        self.count.close();
    }

    fn push(&self, at: Instant) {
        self.lock().push_back(at);
        self.count.add_permits(1);
    }

    async fn pop(&self) -> Option<Instant> {
        match self.count.acquire().await {
            Ok(permit) => {
                permit.forget();
                self.lock().pop_front()
            }
            // Closed: no more will come, but what is due is still to be done.
            Err(_) => self.lock().pop_front(),
        }
    }

    /// Starts that nobody has taken, in order.
    pub fn left_over(&self) -> Vec<Instant> {
        self.lock().drain(..).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Instant>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts each start of the schedule into the queue when it is due; closes the queue at the end.
pub async fn pace(mut schedule: Schedule, queue: Arc<Queue>) -> io::Result<()> {
    let timer = Timer::new()?;
    while let Some(next) = schedule.next() {
        let now = Instant::now();
        if next > now {
            timer.sleep(next - now).await?;
        }
        while let Some(at) = schedule.take_due(Instant::now()) {
            queue.push(at);
        }
        // At a rate that is never caught up with, the workers must get their turn too.
        tokio::task::yield_now().await;
    }
    queue.close();
    Ok(())
}

/// A timer with the grain of the kernel's clock.
#[derive(Debug)]
struct Timer {
    fd: AsyncFd<OwnedFd>,
}

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: an OwnedFd is open and stays the same until it is dropped, and it is dropped
        // with the AsyncFd, which nothing takes it out of.
        let fd = unsafe { AsyncFd::register(fd)? };
        Ok(Self { fd })
    }

    async fn sleep(&self, duration: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
                // Zero would disarm the timer.
                tv_nsec: i64::from(duration.subsec_nanos().max(1)),
            },
        };
        timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.fd.readable().await?;
            let mut expirations = [0_u8; 8];
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut expirations)?));
            if let Ok(read) = read {
                return read.map(|_| ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_evenly_spaced_and_end_before_the_end() {
        let zero = Instant::now();
        let mut schedule = Schedule::new(zero, zero + Duration::from_secs(1), 4.0);
        let far = zero + Duration::from_secs(60);
        let starts: Vec<_> =
            std::iter::from_fn(|| schedule.take_due(far)).map(|at| (at - zero).as_millis()).collect();
        assert_eq!(starts, [0, 250, 500, 750]);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn a_start_is_not_taken_before_it_is_due() {
        let zero = Instant::now();
        let mut schedule = Schedule::new(zero, zero + Duration::from_secs(1), 1000.0);
        assert_eq!(schedule.take_due(zero), Some(zero));
        assert_eq!(schedule.take_due(zero), None);
        let late = zero + Duration::from_millis(3);
        let taken = std::iter::from_fn(|| schedule.take_due(late)).count();
        assert_eq!(taken, 3, "the late pacer catches up, with the intended times");
    }

    #[test]
    fn an_odd_rate_does_not_drift() {
        let zero = Instant::now();
        let mut schedule = Schedule::new(zero, zero + Duration::from_secs(30), 7777.0);
        let far = zero + Duration::from_secs(60);
        let count = std::iter::from_fn(|| schedule.take_due(far)).count();
        assert_eq!(count, 7777 * 30);
    }

    #[tokio::test]
    async fn workers_get_every_start_once_and_then_the_end() {
        let queue = Arc::new(Queue::default());
        let zero = Instant::now();
        let schedule = Schedule::new(zero, zero + Duration::from_millis(50), 1000.0);
        let starts = Starts::Open(Arc::clone(&queue));
        let worker = async {
            let mut taken = Vec::new();
            while let Some(at) = starts.next().await {
                assert!(Instant::now() >= at, "started too early");
                taken.push((at - zero).as_millis());
            }
            taken
        };
        let (paced, taken) = tokio::join!(pace(schedule, Arc::clone(&queue)), worker);
        paced.unwrap();
        assert_eq!(taken, (0..50).collect::<Vec<_>>());
        assert!(queue.left_over().is_empty());
    }

    #[tokio::test]
    async fn a_closed_loop_starts_at_once_until_its_end() {
        let now = Instant::now();
        assert!(Starts::Closed(now).next().await.is_none());
        let later = now + Duration::from_secs(3600);
        assert!(Starts::Closed(later).next().await.is_some_and(|at| at >= now));
    }
}
