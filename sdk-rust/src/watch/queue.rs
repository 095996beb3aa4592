//! What a watch has and its consumer has not taken yet. Bounded in batches and bytes.
//!
//! When it is full the watch is taken off the store and begins anew, where it stopped, once the
//! consumer has taken half: memory is bounded, nothing is lost, and a slow consumer does not stop
//! the other watches of the same stream.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::cursor::RawBatch;
use crate::error::Error;

/// Something for the consumer.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Batch(RawBatch),
    /// Everything up to here was delivered.
    Progress(i64),
    /// Whether the store is heard. Only if asked for.
    Heard(bool),
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<(Item, usize)>,
    bytes: usize,
    /// The watch waits for room.
    parked: bool,
    /// Why there will be nothing more.
    end: Option<Error>,
    ended: bool,
    heard: Option<bool>,
}

/// What a pop gave.
#[derive(Debug)]
pub(crate) enum Pop {
    Item {
        item: Item,
        /// The watch waits, and now there is room.
        resume: bool,
    },
    End(Option<Error>),
}

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    waker: AtomicWaker,
    batches_max: usize,
    bytes_max: usize,
    heard_wanted: bool,
}

impl Queue {
    pub fn new(batches_max: usize, bytes_max: usize, heard_wanted: bool) -> Self {
        Self {
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            batches_max: batches_max.max(1),
            bytes_max: bytes_max.max(1),
            heard_wanted,
        }
    }

    /// Takes the batch, or says that there is no room; then the watch counts as waiting.
    pub fn push(&self, batch: RawBatch) -> bool {
        let bytes: usize = batch.events.iter().map(prost_len).sum();
        let mut state = self.state.lock();
        let fits = state.items.len() < self.batches_max && state.bytes + bytes <= self.bytes_max;
        if !fits && !state.items.is_empty() {
            state.parked = true;
            return false;
        }
        state.bytes += bytes;
        state.items.push_back((Item::Batch(batch), bytes));
        drop(state);
        self.waker.wake();
        true
    }

    pub fn push_progress(&self, revision: i64) {
        let mut state = self.state.lock();
        // Of several in a row the last says all.
        if let Some((Item::Progress(last), _)) = state.items.back_mut() {
            *last = revision;
        } else {
            state.items.push_back((Item::Progress(revision), 0));
        }
        drop(state);
        self.waker.wake();
    }

    pub fn push_heard(&self, heard: bool) {
        let mut state = self.state.lock();
        if !self.heard_wanted || state.heard == Some(heard) {
            return;
        }
        state.heard = Some(heard);
        if let Some((Item::Heard(last), _)) = state.items.back_mut() {
            *last = heard;
        } else {
            state.items.push_back((Item::Heard(heard), 0));
        }
        drop(state);
        self.waker.wake();
    }

    /// There will be nothing more after what is here.
    pub fn end(&self, error: Error) {
        let mut state = self.state.lock();
        if !state.ended {
            state.ended = true;
            state.end = Some(error);
        }
        drop(state);
        self.waker.wake();
    }

    pub fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Pop> {
        self.waker.register(cx.waker());
        let mut state = self.state.lock();
        match state.items.pop_front() {
            Some((item, bytes)) => {
                state.bytes -= bytes;
                let resume = state.parked
                    && state.items.len() <= self.batches_max / 2
                    && state.bytes <= self.bytes_max / 2;
                if resume {
                    state.parked = false;
                }
                Poll::Ready(Pop::Item { item, resume })
            }
            None if state.ended => Poll::Ready(Pop::End(state.end.take())),
            None => Poll::Pending,
        }
    }
}

/// About what an event takes.
fn prost_len(event: &folkmoot_proto::mvccpb::Event) -> usize {
    let of = |kv: &folkmoot_proto::mvccpb::KeyValue| kv.key.len() + kv.value.len();
    let kv = event.kv.as_ref().map_or(0, of) + event.prev_kv.as_ref().map_or(0, of);
    kv + size_of_val(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker_ref;

    fn batch(revision: i64) -> RawBatch {
        RawBatch { revision, events: vec![Default::default()] }
    }

    fn pop(queue: &Queue) -> Option<Pop> {
        match queue.poll_pop(&mut Context::from_waker(noop_waker_ref())) {
            Poll::Ready(pop) => Some(pop),
            Poll::Pending => None,
        }
    }

    #[test]
    fn w_8_a_full_queue_refuses_and_asks_for_more_at_half() {
        let queue = Queue::new(4, usize::MAX, false);
        assert!((1..=4).all(|revision| queue.push(batch(revision))));
        assert!(!queue.push(batch(5)));
        let resumes: Vec<bool> = (0..4)
            .map(|_| matches!(pop(&queue).expect("has items"), Pop::Item { resume: true, .. }))
            .collect();
        assert_eq!(resumes, [false, true, false, false], "once, when half is taken");
        assert!(pop(&queue).is_none());
    }

    #[test]
    fn w_8_bytes_are_bounded_but_one_large_batch_passes() {
        let queue = Queue::new(100, 1, false);
        assert!(queue.push(batch(1)), "alone it may be larger than the bound");
        assert!(!queue.push(batch(2)));
    }

    #[test]
    fn the_end_comes_after_what_is_there() {
        let queue = Queue::new(4, usize::MAX, false);
        queue.push(batch(1));
        queue.end(Error::closed("it"));
        assert!(matches!(pop(&queue), Some(Pop::Item { .. })));
        assert!(matches!(pop(&queue), Some(Pop::End(Some(_)))));
        assert!(matches!(pop(&queue), Some(Pop::End(None))));
    }
}
