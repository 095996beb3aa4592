//! Who waits for which answer: one [`Port`] for each runtime.
//!
//! A request takes a slot in its runtime's port, hands it to the core and sleeps. The core thread
//! puts all answers of one turn into the port's mail at once and rings once; a task on that
//! runtime then hands them out, so that waking a thousand requests costs one wake-up between
//! threads. A slot whose request went away is reused at once: its generation tells a late answer
//! apart.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use folkmoot_core::error::Error;
use folkmoot_core::node::{Reply, Slot};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How often requests are looked through for those that waited too long.
const EXPIRY_PERIOD: Duration = Duration::from_millis(250);

/// How a wait ended without an answer of the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitEnd {
    /// The core answered with an error, or the server stopped.
    Answer(Error),
    /// No answer came in time; the request may take effect all the same.
    Expired,
}

/// The waiting requests of one runtime.
pub struct Port {
    index: u8,
    waiters: Mutex<Waiters>,
    mail: Mutex<Vec<(Slot, Result<Reply, Error>)>>,
    bell: Notify,
}

#[derive(Default)]
struct Waiters {
    entries: Vec<Entry>,
    free: Vec<u32>,
    stopped: bool,
}

struct Entry {
    generation: u32,
    since: Instant,
    state: State,
}

enum State {
    Free,
    Waiting(Option<Waker>),
    Ended(Result<Reply, WaitEnd>),
}

const GENERATION_MASK: u32 = 0x00ff_ffff;

fn slot(port: u8, generation: u32, index: u32) -> Slot {
    Slot(u64::from(port) << 56 | u64::from(generation) << 32 | u64::from(index))
}

/// The port a slot belongs to.
pub fn port_of(slot: Slot) -> usize {
    (slot.0 >> 56) as usize
}

fn generation_and_index(slot: Slot) -> (u32, usize) {
    ((slot.0 >> 32) as u32 & GENERATION_MASK, slot.0 as u32 as usize)
}

impl Port {
    /// The port with this number.
    pub fn new(index: u8) -> Self {
        Self { index, waiters: Mutex::default(), mail: Mutex::default(), bell: Notify::new() }
    }

    /// Takes a slot. Give it to the core before waiting, or drop it.
    pub fn wait(&self) -> Wait<'_> {
        let mut waiters = self.waiters.lock();
        let stopped = waiters.stopped;
        let index = waiters.free.pop().unwrap_or_else(|| {
            waiters.entries.push(Entry { generation: 0, since: Instant::now(), state: State::Free });
            u32::try_from(waiters.entries.len() - 1).expect("requests of one process are fewer than 2^32")
        });
        let entry = &mut waiters.entries[index as usize];
        entry.since = Instant::now();
        entry.state = match stopped {
            false => State::Waiting(None),
            true => State::Ended(Err(WaitEnd::Answer(Error::Stopped))),
        };
        Wait { port: self, slot: slot(self.index, entry.generation, index), taken: false }
    }

    /// Puts answers into the mail and rings if it was empty. Called by the core thread.
    pub fn post(&self, answers: &mut Vec<(Slot, Result<Reply, Error>)>) {
        let mut mail = self.mail.lock();
        let was_empty = mail.is_empty();
        if was_empty {
            std::mem::swap(&mut *mail, answers);
        } else {
            mail.append(answers);
        }
        drop(mail);
        if was_empty {
            self.bell.notify_one();
        }
    }

    /// Gives those who wait in these slots the same answer.
    pub fn end_all(&self, slots: &[Slot], result: &Result<Reply, WaitEnd>) {
        let mut waiters = self.waiters.lock();
        for slot in slots {
            waiters.end(*slot, result.clone());
        }
    }

    /// Hands out the mail for ever. Run it as a task on the port's runtime.
    pub async fn deliver(self: Arc<Self>) {
        let mut mail = Vec::new();
        loop {
            self.bell.notified().await;
            std::mem::swap(&mut *self.mail.lock(), &mut mail);
            let mut waiters = self.waiters.lock();
            for (slot, result) in mail.drain(..) {
                waiters.end(slot, result.map_err(WaitEnd::Answer));
            }
        }
    }

    /// Ends the waits that are older than `timeout`, for ever. Run it as a task on the port's
    /// runtime.
    pub async fn expire(self: Arc<Self>, timeout: Duration) {
        let mut ticker = tokio::time::interval(EXPIRY_PERIOD);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticker.tick().await;
            self.expire_older(Instant::now(), timeout);
        }
    }

    fn expire_older(&self, now: Instant, timeout: Duration) {
        let mut waiters = self.waiters.lock();
        for entry in &mut waiters.entries {
            if matches!(entry.state, State::Waiting(_)) && now.duration_since(entry.since) >= timeout {
                entry.end(Err(WaitEnd::Expired));
            }
        }
    }

    /// Answers everybody, and everybody who comes later, with [`Error::Stopped`].
    pub fn stop(&self) {
        let mut waiters = self.waiters.lock();
        waiters.stopped = true;
        for entry in &mut waiters.entries {
            if matches!(entry.state, State::Waiting(_)) {
                entry.end(Err(WaitEnd::Answer(Error::Stopped)));
            }
        }
    }
}

impl Waiters {
    fn end(&mut self, slot: Slot, result: Result<Reply, WaitEnd>) {
        let (generation, index) = generation_and_index(slot);
        if let Some(entry) = self.entries.get_mut(index)
            && entry.generation == generation
            && matches!(entry.state, State::Waiting(_))
        {
            entry.end(result);
        }
    }
}

impl Entry {
    fn end(&mut self, result: Result<Reply, WaitEnd>) {
        if let State::Waiting(Some(waker)) = std::mem::replace(&mut self.state, State::Ended(result)) {
            waker.wake();
        }
    }
}

/// A slot, taken until this is dropped; as a future it gives the answer.
pub struct Wait<'a> {
    port: &'a Port,
    slot: Slot,
    taken: bool,
}

impl Wait<'_> {
    /// The slot, for the core.
    pub fn slot(&self) -> Slot {
        self.slot
    }
}

impl Future for Wait<'_> {
    type Output = Result<Reply, WaitEnd>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (_, index) = generation_and_index(self.slot);
        let mut waiters = self.port.waiters.lock();
        match &mut waiters.entries[index].state {
            State::Waiting(Some(waker)) => waker.clone_from(cx.waker()),
            State::Waiting(waker @ None) => *waker = Some(cx.waker().clone()),
            state => {
                let State::Ended(result) = std::mem::replace(state, State::Free) else {
                    unreachable!("a wait is not polled after its end");
                };
                waiters.release(index);
                drop(waiters);
                self.taken = true;
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    }
}

impl Waiters {
    fn release(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        entry.state = State::Free;
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(index as u32);
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.taken {
            let (_, index) = generation_and_index(self.slot);
            self.port.waiters.lock().release(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(revision: i64) -> Result<Reply, Error> {
        Ok(Reply::Done { revision })
    }

    async fn with_delivery<T>(port: &Arc<Port>, story: impl Future<Output = T>) -> T {
        tokio::select! {
            value = story => value,
            () = Arc::clone(port).deliver() => unreachable!("delivers for ever"),
        }
    }

    #[tokio::test]
    async fn answers_find_those_who_wait_in_any_order() {
        let port = Arc::new(Port::new(3));
        let (one, two) = (port.wait(), port.wait());
        assert_eq!(port_of(one.slot()), 3);
        port.post(&mut vec![(two.slot(), done(2)), (one.slot(), Err(Error::NoSpace))]);
        with_delivery(&port, async {
            assert_eq!(one.await, Err(WaitEnd::Answer(Error::NoSpace)));
            assert_eq!(two.await, Ok(Reply::Done { revision: 2 }));
        })
        .await;
    }

    #[tokio::test]
    async fn a_late_answer_does_not_reach_the_next_owner_of_the_slot() {
        let port = Arc::new(Port::new(0));
        let gone = port.wait().slot();
        let next = port.wait();
        assert_eq!(gone.0 as u32, next.slot().0 as u32);
        port.post(&mut vec![(gone, done(1)), (next.slot(), done(2))]);
        with_delivery(&port, async { assert_eq!(next.await, Ok(Reply::Done { revision: 2 })) }).await;
    }

    #[tokio::test]
    async fn what_waits_too_long_ends() {
        let port = Port::new(0);
        let wait = port.wait();
        port.expire_older(Instant::now() + Duration::from_secs(7), Duration::from_secs(7));
        assert_eq!(wait.await, Err(WaitEnd::Expired));
    }

    #[tokio::test]
    async fn after_the_stop_everybody_is_told_so() {
        let port = Port::new(0);
        let before = port.wait();
        port.stop();
        assert_eq!(before.await, Err(WaitEnd::Answer(Error::Stopped)));
        assert_eq!(port.wait().await, Err(WaitEnd::Answer(Error::Stopped)));
    }
}
