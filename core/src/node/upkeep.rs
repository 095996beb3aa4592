//! When to flush the engine, how far the log may be purged, and how far storage is behind.

use std::collections::VecDeque;

use super::{NodeConfig, Output};
use crate::limits;
use crate::mutant::mutant;
use crate::types::{Instant64, LogIndex};

/// See the module.
pub struct Upkeep {
    unstored: VecDeque<(LogIndex, usize)>,
    unstored_bytes: usize,
    handed_out: LogIndex,
    flush_running: bool,
    flushed: LogIndex,
    flushed_at: Instant64,
    logged_bytes: u64,
    purge_to: Option<LogIndex>,
    /// Lease expiry waits until leadership is confirmed.
    pub hold_expiry: bool,
    /// A part of the status changed that is not compared.
    pub status_changed: bool,
}

impl Upkeep {
    /// The engine holds everything up to `flushed`.
    pub fn new(flushed: LogIndex) -> Self {
        Self {
            unstored: VecDeque::new(),
            unstored_bytes: 0,
            handed_out: flushed,
            flush_running: false,
            flushed,
            flushed_at: Instant64(0),
            logged_bytes: 0,
            purge_to: None,
            hold_expiry: false,
            status_changed: true,
        }
    }

    /// Bytes went to the log.
    pub fn logged(&mut self, bytes: usize) {
        self.logged_bytes += bytes as u64;
    }

    /// Rows went to the engine.
    pub fn handed_out(&mut self, index: LogIndex, bytes: usize) {
        self.handed_out = index;
        self.unstored_bytes += bytes;
        self.unstored.push_back((index, bytes));
    }

    /// The engine took them up to here.
    pub fn stored(&mut self, index: LogIndex) {
        while self.unstored.front().is_some_and(|(handed, _)| *handed <= index) {
            let (_, bytes) = self.unstored.pop_front().expect("looked at above");
            self.unstored_bytes -= bytes;
        }
    }

    /// The engine made them durable up to here.
    pub fn flushed(&mut self, now: Instant64, index: LogIndex) {
        assert!(self.flushed <= index && index <= self.handed_out, "flushed what was not handed out");
        self.flushed = index;
        self.flushed_at = now;
        self.flush_running = false;
        self.purge_to = Some(index);
    }

    /// Whether so much waits for the engine that new commands have to wait, too.
    pub fn is_behind(&self) -> bool {
        self.unstored_bytes > limits::UNSTORED_BYTES_MAX
    }

    /// Asks for a flush when one is due, and for a purge after one, of what nobody needs: entries
    /// after `needed_after` may be asked for by followers.
    pub fn plan(
        &mut self,
        now: Instant64,
        config: &NodeConfig,
        needed_after: LogIndex,
        out: &mut Vec<Output>,
    ) {
        if mutant!("the_log_is_purged_before_the_engine_is_durable") && self.handed_out.0.is_multiple_of(64) {
            self.purge_to = Some(self.handed_out);
        }
        if let Some(flushed) = self.purge_to.take() {
            out.push(Output::PurgeLog { up_to: flushed.min(needed_after) });
        }
        if self.flushed_at == Instant64(0) {
            self.flushed_at = now;
        }
        let due = self.logged_bytes >= config.log_bytes_between_flushes
            || now.since(self.flushed_at) >= config.time_between_flushes;
        if due && !self.flush_running && self.handed_out > self.flushed {
            self.flush_running = true;
            self.logged_bytes = 0;
            out.push(Output::Flush);
        }
    }
}
