//! Messages that wait for one peer.
//!
//! Bounded in number and bytes. While there is no connection nothing waits: a message of a
//! consensus is worth little when it is late, and its sender repeats it.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frames: VecDeque<Bytes>,
    bytes: usize,
    since: Option<Instant>,
}

impl Outbox {
    /// A connection was made.
    pub fn open(&mut self) {
        self.since = Some(Instant::now());
    }

    /// The connection is gone, with everything that waited for it.
    pub fn close(&mut self) {
        *self = Self::default();
    }

    /// Since when there is a connection.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Queues a message, or says that it has to be dropped.
    pub fn push(&mut self, frame: Bytes, frames_max: usize, bytes_max: usize) -> bool {
        let bytes = self.bytes + frame.len();
        if self.since.is_none() || self.frames.len() >= frames_max || bytes > bytes_max {
            return false;
        }
        self.bytes = bytes;
        self.frames.push_back(frame);
        true
    }

    /// Takes the oldest messages, about `bytes` of them.
    pub fn take(&mut self, bytes: usize) -> Vec<Bytes> {
        let (mut taken, mut taken_bytes) = (Vec::new(), 0);
        while taken_bytes < bytes
            && let Some(frame) = self.frames.pop_front()
        {
            taken_bytes += frame.len();
            taken.push(frame);
        }
        self.bytes -= taken_bytes;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_or_closed_outbox_takes_nothing() {
        let mut outbox = Outbox::default();
        assert!(!outbox.push(Bytes::from_static(b"1"), 2, 10));
        outbox.open();
        assert!(outbox.push(Bytes::from_static(b"1"), 2, 10));
        assert!(!outbox.push(Bytes::from_static(b"0123456789"), 2, 10));
        assert!(outbox.push(Bytes::from_static(b"012345678"), 2, 10));
        assert!(!outbox.push(Bytes::new(), 2, 10));
        assert_eq!(outbox.take(1), [&b"1"[..]]);
        assert_eq!(outbox.take(100), [&b"012345678"[..]]);
        assert!(outbox.push(Bytes::from_static(b"0123456789"), 2, 10));
        outbox.close();
        assert!(outbox.take(100).is_empty() && outbox.since().is_none());
    }
}
