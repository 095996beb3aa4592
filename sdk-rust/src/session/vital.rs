//! Whether a lease is surely alive. No input or output: time comes in with every call.
//!
//! Invariants: what is lost stays lost; the deadline lies before the moment at which the store may
//! end the lease, because it counts from when the acknowledged keepalive was *sent*; guards learn
//! of the loss before observers of the state do.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::BootInstant;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime;

/// Why a session was lost.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// No keepalive was acknowledged in time: a partition, a store without leader, or a long pause of
    /// this process.
    Expired,
    /// The store says that the lease is gone: it was revoked, or expired there.
    LeaseGone,
    /// The store was replaced or restored from a backup.
    ClusterReset,
}

impl LostReason {
    fn text(self) -> &'static str {
        match self {
            Self::Expired => "no keepalive was acknowledged in time",
            Self::LeaseGone => "the lease is gone from the store",
            Self::ClusterReset => "the store was replaced or restored",
        }
    }
}

/// How a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Keepalives are acknowledged.
    Active,
    /// The store has not been heard for a while; the lease still counts.
    Suspended,
    /// It is over, and so is everything that was held through it.
    Lost(LostReason),
    /// It was closed by its owner.
    Closed,
}

impl SessionState {
    /// Whether it will not change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Lost(_) | Self::Closed)
    }
}

const MARGIN_MIN: Duration = Duration::from_millis(200);
const DOWN_MAX: Duration = Duration::from_secs(1);

/// What is given up of a lease's time for clocks that do not run alike.
fn margin(ttl: Duration) -> Duration {
    MARGIN_MIN.max(ttl / 50)
}

#[derive(Debug)]
struct Pulse {
    /// From when on the lease is not surely alive.
    deadline: BootInstant,
    /// When the last acknowledged keepalive was sent.
    beat: BootInstant,
    /// Since when there is no stream.
    down: Option<BootInstant>,
}

/// The life of one lease.
#[derive(Debug)]
pub(crate) struct Vital {
    pid: u32,
    pub lease: i64,
    pub ttl: Duration,
    pulse: Mutex<Pulse>,
    lost: watch::Sender<Option<Error>>,
    state: watch::Sender<SessionState>,
}

impl Vital {
    /// A lease that was asked for at `sent`.
    pub fn new(lease: i64, ttl: Duration, sent: BootInstant) -> Self {
        let deadline = sent + ttl.saturating_sub(margin(ttl));
        Self {
            pid: runtime::pid(),
            lease,
            ttl,
            pulse: Mutex::new(Pulse { deadline, beat: sent, down: None }),
            lost: watch::Sender::new(None),
            state: watch::Sender::new(SessionState::Active),
        }
    }

    /// A keepalive sent at `sent` was acknowledged with this many seconds.
    pub fn acknowledged(&self, sent: BootInstant, seconds: i64, now: BootInstant) {
        if seconds <= 0 {
            return self.lose(LostReason::LeaseGone);
        }
        let ttl = Duration::from_secs(seconds.unsigned_abs());
        let mut pulse = self.pulse.lock();
        // An acknowledgement that comes too late brings nothing back.
        if now < pulse.deadline {
            pulse.deadline = pulse.deadline.max(sent + ttl.saturating_sub(margin(ttl)));
            pulse.beat = pulse.beat.max(sent);
            pulse.down = None;
        }
        drop(pulse);
        self.tick(now);
    }

    /// The stream is gone.
    pub fn stream_down(&self, now: BootInstant) {
        self.pulse.lock().down.get_or_insert(now);
    }

    /// Brings the state up to `now`.
    pub fn tick(&self, now: BootInstant) {
        let pulse = self.pulse.lock();
        let over = now >= pulse.deadline;
        let quiet =
            now.since(pulse.beat) > self.ttl / 2 || pulse.down.is_some_and(|down| now.since(down) > DOWN_MAX);
        drop(pulse);
        if over {
            return self.lose(LostReason::Expired);
        }
        let state = if quiet { SessionState::Suspended } else { SessionState::Active };
        self.state.send_if_modified(|current| {
            let change = !current.is_final() && *current != state;
            if change {
                *current = state;
            }
            change
        });
    }

    pub fn lose(&self, reason: LostReason) {
        if self.state.borrow().is_final() {
            return;
        }
        let error = Error::new(
            ErrorKind::SessionLost,
            format!("the session is lost: {} lease={:x}", reason.text(), self.lease),
        );
        let first = self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            if first {
                *lost = Some(error);
            }
            first
        });
        if first {
            tracing::warn!(lease = format!("{:x}", self.lease), ?reason, "a session is lost");
            self.state.send_replace(SessionState::Lost(reason));
        }
    }

    /// Its owner has ended it.
    pub fn close(&self) {
        let error = Error::new(ErrorKind::Closed, "the session is closed");
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            if first {
                *lost = Some(error);
            }
            first
        });
        self.state.send_if_modified(|state| {
            let change = !state.is_final();
            if change {
                *state = SessionState::Closed;
            }
            change
        });
    }

    /// Refuses if it is over at `now`, whoever has noticed.
    pub fn check(&self, now: BootInstant) -> Result<()> {
        if self.pid != runtime::pid() {
            return Err(Error::forked());
        }
        self.tick(now);
        match &*self.lost.borrow() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    pub fn deadline(&self) -> BootInstant {
        self.pulse.lock().deadline
    }

    pub fn state(&self) -> SessionState {
        *self.state.borrow()
    }

    pub fn states(&self) -> watch::Receiver<SessionState> {
        self.state.subscribe()
    }

    /// Waits for the end and tells why.
    pub async fn lost(&self) -> Error {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await {
            Ok(error) => error.clone().expect("was waited for"),
            Err(_) => Error::closed("the session"),
        }
    }

    pub fn is_over(&self) -> bool {
        self.lost.borrow().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootInstant {
        BootInstant::from_nanos(millis * 1_000_000)
    }

    fn vital() -> Vital {
        Vital::new(7, Duration::from_secs(10), at(1_000))
    }

    #[test]
    fn s_3_the_deadline_counts_from_the_send_time_less_a_margin() {
        let vital = vital();
        assert_eq!(vital.deadline(), at(10_800), "200 ms are more than 2 % of 10 s");
        vital.acknowledged(at(4_000), 10, at(6_000));
        assert_eq!(vital.deadline(), at(13_800), "from when it was sent, not from when it was answered");
        let long = Vital::new(7, Duration::from_secs(100), at(0));
        assert_eq!(long.deadline(), at(98_000), "2 % of 100 s are more than 200 ms");
    }

    #[test]
    fn s_3_an_older_acknowledgement_does_not_shorten_it() {
        let vital = vital();
        vital.acknowledged(at(5_000), 10, at(5_100));
        vital.acknowledged(at(4_000), 10, at(5_200));
        assert_eq!(vital.deadline(), at(14_800));
    }

    #[test]
    fn s_5_lost_is_decided_here_and_a_late_acknowledgement_brings_nothing_back() {
        let vital = vital();
        assert!(vital.check(at(10_799)).is_ok());
        assert_eq!(vital.check(at(10_800)).unwrap_err().kind(), ErrorKind::SessionLost);
        vital.acknowledged(at(10_700), 10, at(10_900));
        assert_eq!(vital.check(at(10_900)).unwrap_err().kind(), ErrorKind::SessionLost);
        assert_eq!(vital.state(), SessionState::Lost(LostReason::Expired));
    }

    #[test]
    fn s_5_an_acknowledgement_after_the_deadline_loses_even_if_nobody_looked() {
        let vital = vital();
        vital.acknowledged(at(10_700), 10, at(10_900));
        assert_eq!(vital.state(), SessionState::Lost(LostReason::Expired));
    }

    #[test]
    fn s_7_half_a_time_of_silence_suspends_and_an_acknowledgement_ends_that() {
        let vital = vital();
        vital.tick(at(6_000));
        assert_eq!(vital.state(), SessionState::Active);
        vital.tick(at(6_001));
        assert_eq!(vital.state(), SessionState::Suspended);
        assert!(vital.check(at(6_001)).is_ok());
        vital.acknowledged(at(6_001), 10, at(6_002));
        assert_eq!(vital.state(), SessionState::Active);
    }

    #[test]
    fn s_7_a_second_without_a_stream_suspends() {
        let vital = vital();
        vital.stream_down(at(2_000));
        vital.tick(at(3_000));
        assert_eq!(vital.state(), SessionState::Active);
        vital.tick(at(3_001));
        assert_eq!(vital.state(), SessionState::Suspended);
    }

    #[test]
    fn a_lease_with_no_time_left_is_lost_with_that_reason() {
        let vital = vital();
        vital.acknowledged(at(2_000), 0, at(2_001));
        assert_eq!(vital.state(), SessionState::Lost(LostReason::LeaseGone));
    }

    #[test]
    fn s_6_guards_learn_of_the_loss_before_observers_of_the_state() {
        let vital = vital();
        let states = vital.states();
        let lost = vital.lost.subscribe();
        vital.lose(LostReason::ClusterReset);
        assert!(states.has_changed().unwrap() && lost.borrow().is_some());
        // The order is that of the two sends in `lose`; here the first one is checked to be enough.
        assert!(vital.is_over());
    }

    #[test]
    fn what_is_closed_is_not_lost_afterwards() {
        let vital = vital();
        vital.close();
        vital.lose(LostReason::Expired);
        assert_eq!(vital.state(), SessionState::Closed);
        assert_eq!(vital.check(at(1_001)).unwrap_err().kind(), ErrorKind::Closed);
    }
}
