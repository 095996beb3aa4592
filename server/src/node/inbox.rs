//! The way into the core thread.
//!
//! Two queues behind one lock: requests of clients, bounded, and completions of the server's own
//! threads, which are bounded by what the core handed out and must never be refused or wait
//! behind a flood of requests. The core thread takes everything at once.

use std::time::Instant;

use bytes::Bytes;
use folkmoot_core::limits;
use folkmoot_core::node::Input;
use folkmoot_core::types::MemberId;
use parking_lot::{Condvar, Mutex};

/// Requests that may wait to be looked at. Far above what one turn of the core thread takes in,
/// so that only a core thread that stands still fills it.
pub const WAITING_REQUESTS_MAX: usize = 65_536;
/// The same in bytes of commands.
pub const WAITING_BYTES_MAX: usize = limits::PENDING_BYTES_MAX;

/// Why a request was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Too many wait already.
    Full,
    /// The core thread has stopped.
    Closed,
}

/// The queues of the core thread.
#[derive(Default)]
pub struct Inbox {
    queues: Mutex<Queues>,
    filled: Condvar,
}

#[derive(Default)]
struct Queues {
    requests: Vec<Input>,
    request_bytes: usize,
    completions: Vec<Input>,
    /// Messages of other members among the completions, in bytes.
    peer_bytes: usize,
    closed: bool,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a client's request.
    pub fn request(&self, input: Input) -> Result<(), Refused> {
        let mut queues = self.queues.lock();
        if queues.closed {
            return Err(Refused::Closed);
        }
        let bytes = match &input {
            Input::Propose { command, .. } => command.body.len(),
            _ => 0,
        };
        if queues.requests.len() >= WAITING_REQUESTS_MAX || queues.request_bytes + bytes > WAITING_BYTES_MAX {
            return Err(Refused::Full);
        }
        queues.request_bytes += bytes;
        queues.requests.push(input);
        drop(queues);
        self.filled.notify_one();
        Ok(())
    }

    /// Adds another member's message. `false` asks the transport to read on a little later: the
    /// core thread is behind. The message was taken all the same.
    pub fn peer(&self, from: MemberId, message: Bytes) -> bool {
        let mut queues = self.queues.lock();
        if queues.closed {
            return true;
        }
        queues.peer_bytes += message.len();
        let calm = queues.peer_bytes <= WAITING_BYTES_MAX;
        queues.completions.push(Input::Peer { from, message });
        drop(queues);
        self.filled.notify_one();
        calm
    }

    /// Adds a completion. After the core thread stopped it is dropped: nobody needs it then.
    pub fn complete(&self, input: Input) {
        let mut queues = self.queues.lock();
        if queues.closed {
            return;
        }
        queues.completions.push(input);
        drop(queues);
        self.filled.notify_one();
    }

    /// Takes everything, completions first, waiting until there is something or `until` has
    /// come. `false` when the inbox was closed.
    pub fn take(&self, until: Instant, into: &mut Vec<Input>) -> bool {
        let mut queues = self.queues.lock();
        while !queues.closed && queues.requests.is_empty() && queues.completions.is_empty() {
            if self.filled.wait_until(&mut queues, until).timed_out() {
                break;
            }
        }
        into.append(&mut queues.completions);
        into.append(&mut queues.requests);
        queues.request_bytes = 0;
        queues.peer_bytes = 0;
        !queues.closed
    }

    /// Refuses everything from now on and wakes the core thread, so that it stops.
    pub fn close(&self) {
        self.queues.lock().closed = true;
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use folkmoot_core::node::Slot;

    use super::*;

    fn read_index(slot: u64) -> Input {
        Input::ReadIndex { slot: Slot(slot) }
    }

    #[test]
    fn completions_come_before_requests_and_both_in_order() {
        let inbox = Inbox::new();
        inbox.request(read_index(1)).unwrap();
        inbox.complete(Input::WalDone { number: 7 });
        inbox.request(read_index(2)).unwrap();
        let mut taken = Vec::new();
        assert!(inbox.take(Instant::now(), &mut taken));
        let texts: Vec<String> = taken.iter().map(|input| format!("{input:?}")).collect();
        assert!(texts[0].starts_with("WalDone"), "{texts:?}");
        assert!(texts[1].contains("Slot(1)") && texts[2].contains("Slot(2)"), "{texts:?}");
    }

    #[test]
    fn a_full_inbox_refuses_requests_but_not_completions() {
        let inbox = Inbox::new();
        for slot in 0..WAITING_REQUESTS_MAX as u64 {
            inbox.request(read_index(slot)).unwrap();
        }
        assert_eq!(inbox.request(read_index(0)), Err(Refused::Full));
        inbox.complete(Input::WalDone { number: 1 });
        let mut taken = Vec::new();
        inbox.take(Instant::now(), &mut taken);
        assert_eq!(taken.len(), WAITING_REQUESTS_MAX + 1);
    }

    #[test]
    fn a_closed_inbox_lets_the_taker_go_and_refuses_requests() {
        let inbox = Inbox::new();
        inbox.close();
        assert!(!inbox.take(Instant::now() + std::time::Duration::from_secs(3600), &mut Vec::new()));
        assert_eq!(inbox.request(read_index(1)), Err(Refused::Closed));
    }
}
