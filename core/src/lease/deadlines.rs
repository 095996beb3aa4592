//! When leases run out: known to a leader only, in memory only, for one term only.
//!
//! A promotion is cheap however many leases there are. A lease that was not granted or renewed
//! since runs out at *promotion + election timeout + its full (or checkpointed) time to live*;
//! that is computed when asked for, and leases are put on the wheel in slices, in id order. A
//! renewal only moves the lease's deadline; the wheel notices when the old slot comes round.
//!
//! A lease that has run out is never brought back: from its deadline on it refuses renewal, until
//! its revoke is applied or the leadership ends. (etcd issue 20615: a keepalive that succeeds on
//! a lease whose revoke is under way.)
//!
//! Invariants: a lease comes out of [`Deadlines::due`] never before its deadline, and not later
//! than one [`SLOT`](super::SLOT) after it if the caller keeps calling at
//! [`Deadlines::next_wakeup`]; a lease that came out does so again only after
//! [`Deadlines::unmark`]; every lease on the wheel has its deadline here.
//!
//! This room does not know whether this member still leads. Before proposing what is due the
//! caller must make sure that it does (etcd issue 15247: a paused old leader revoked leases), and
//! the proposal must carry [`Deadlines::term`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::mutant::mutant;
use crate::types::{Instant64, LeaseId, Term};

use super::leases::{Lease, Leases};
use super::min_ttl;
use super::wheel::Wheel;

/// Leases looked at by one slice of work after a promotion, and by one sweep for checkpoints.
const SLICE_LEASES: usize = 10_000;
/// Ids taken from the wheel by one call, due or not.
const MOVES_PER_CALL: usize = 20_000;
/// How often, and from how much time left, leases are checkpointed.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
/// Pause between two passes that look for leases to checkpoint.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);
/// Leases in one checkpoint entry (etcd's bound).
pub const CHECKPOINTS_PER_ENTRY_MAX: usize = 1_000;

/// What became of a renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenewOutcome {
    /// The lease lives for `ttl` seconds from now.
    Renewed {
        /// Granted time to live in seconds.
        ttl: i64,
        /// A checkpoint of the lease must be cleared (a checkpoint entry with remainder 0)
        /// before the renewal is acknowledged; otherwise the next leader counts from it.
        clear_checkpoint: bool,
    },
    /// No such lease: the client is answered a time to live of 0.
    NotFound,
    /// The lease has run out and is not revoked yet: the request waits until the revoke is
    /// applied (then `NotFound`) or the leadership is lost.
    Expiring,
    /// There are no deadlines here: this member was not promoted.
    NotLeader,
}

/// See the module.
#[derive(Default)]
pub struct Deadlines {
    primary: Option<Primary>,
}

struct Primary {
    term: Term,
    /// Since when leases without a deadline of their own are counted: promotion plus election
    /// timeout.
    base: Instant64,
    /// Stored leases with less than the minimum live this long (a member may be restarted with
    /// a longer election timeout).
    min_ttl: i64,
    by_id: BTreeMap<LeaseId, Deadline>,
    wheel: Wheel,
    fill: Fill,
    sweep: Sweep,
}

/// How far the leases that existed at the promotion are put on the wheel.
enum Fill {
    After(Option<LeaseId>),
    Done,
}

/// Passes over all leases that look for remainders to store.
struct Sweep {
    /// The pass goes on after this id.
    after: Option<LeaseId>,
    not_before: Instant64,
}

#[derive(Clone, Copy)]
struct Deadline {
    expires: Instant64,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In this slot of the wheel; other slots may hold the id from earlier.
    Slot(u64),
    /// Handed out as due: its revoke is on the way.
    Expiring,
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}

impl Primary {
    fn implied(&self, lease: &Lease) -> Instant64 {
        self.base.after(seconds(lease.ttl_after_promotion().max(self.min_ttl)))
    }

    fn expires(&self, id: LeaseId, lease: &Lease) -> Instant64 {
        self.by_id.get(&id).map_or_else(|| self.implied(lease), |deadline| deadline.expires)
    }

    fn is_expiring(&self, id: LeaseId) -> bool {
        self.by_id.get(&id).is_some_and(|deadline| deadline.place == Place::Expiring)
    }

    /// Gives a lease a deadline. The wheel is told only if it would look too late.
    fn set(&mut self, id: LeaseId, expires: Instant64) {
        let place = match self.by_id.get(&id) {
            Some(Deadline { expires: before, place: place @ Place::Slot(_) }) if *before <= expires => *place,
            _ => Place::Slot(self.wheel.insert(id, expires)),
        };
        self.by_id.insert(id, Deadline { expires, place });
    }

    fn fill(&mut self, leases: &Leases) {
        let Fill::After(after) = self.fill else { return };
        let mut last = None;
        for (id, lease) in leases.iter_after(after).take(SLICE_LEASES) {
            if !self.by_id.contains_key(&id) {
                self.set(id, self.implied(lease));
            }
            last = Some(id);
        }
        self.fill = last.map_or(Fill::Done, |id| Fill::After(Some(id)));
    }

    fn is_filled(&self) -> bool {
        matches!(self.fill, Fill::Done)
    }
}

impl Deadlines {
    /// The deadlines of a member that does not lead: there are none.
    pub fn new() -> Self {
        Self::default()
    }

    /// This member leads: it has applied the first entry of its own term. Forgets everything
    /// from before.
    pub fn promote(&mut self, now: Instant64, term: Term, election_timeout: Duration) {
        if mutant!("deadlines_outlive_the_leadership")
            && let Some(primary) = &mut self.primary
        {
            primary.term = term;
            return;
        }
        self.primary = Some(Primary {
            term,
            base: now.after(election_timeout),
            min_ttl: min_ttl(election_timeout),
            by_id: BTreeMap::new(),
            wheel: Wheel::new(now),
            fill: Fill::After(None),
            sweep: Sweep { after: None, not_before: now.after(CHECKPOINT_INTERVAL) },
        });
    }

    /// This member does not lead any more: nothing runs out here.
    pub fn demote(&mut self) {
        if mutant!("deadlines_outlive_the_leadership") {
            return;
        }
        self.primary = None;
    }

    /// The term that the deadlines belong to, `None` when this member was not promoted.
    pub fn term(&self) -> Option<Term> {
        self.primary.as_ref().map(|primary| primary.term)
    }

    /// A grant was applied; `ttl` is the effective one. Without effect when not promoted.
    pub fn granted(&mut self, now: Instant64, id: LeaseId, ttl: i64) {
        if let Some(primary) = &mut self.primary {
            primary.wheel.turn(now);
            primary.set(id, now.after(seconds(ttl.max(primary.min_ttl))));
        }
    }

    /// A revoke was applied, whoever proposed it.
    pub fn revoked(&mut self, id: LeaseId) {
        if let Some(primary) = &mut self.primary {
            primary.by_id.remove(&id);
        }
    }

    /// Starts the lease's time again from `now`.
    pub fn renew(&mut self, now: Instant64, leases: &Leases, id: LeaseId) -> RenewOutcome {
        let Some(primary) = &mut self.primary else { return RenewOutcome::NotLeader };
        let Some(lease) = leases.get(id) else { return RenewOutcome::NotFound };
        let late = primary.is_expiring(id) || primary.expires(id, lease) <= now;
        if late && !mutant!("a_lease_that_ran_out_is_renewed") {
            return RenewOutcome::Expiring;
        }
        let ttl = lease.granted_ttl.max(primary.min_ttl);
        primary.wheel.turn(now);
        primary.set(id, now.after(seconds(ttl)));
        RenewOutcome::Renewed { ttl, clear_checkpoint: lease.remaining_ttl > 0 }
    }

    /// Whole seconds left (rounded towards zero, as etcd prints them), 0 or negative for a
    /// lease whose revoke is on the way. `None` for an unknown lease or when not promoted.
    pub fn remaining(&self, now: Instant64, leases: &Leases, id: LeaseId) -> Option<i64> {
        let primary = self.primary.as_ref()?;
        let expires = primary.expires(id, leases.get(id)?);
        let (left, sign) = if expires >= now { (expires.since(now), 1) } else { (now.since(expires), -1) };
        Some(i64::try_from(left.as_secs()).map_or(i64::MAX, |seconds| seconds * sign))
    }

    /// Up to `ids_max` leases that have run out, marked so that they come out once and refuse
    /// renewal. Does a bounded piece of work; call again when [`Deadlines::next_wakeup`] says.
    pub fn due(&mut self, now: Instant64, leases: &Leases, ids_max: usize) -> Vec<LeaseId> {
        let Some(primary) = &mut self.primary else { return Vec::new() };
        primary.fill(leases);
        primary.wheel.turn(now);
        let mut due = Vec::new();
        for _ in 0..MOVES_PER_CALL {
            if due.len() >= ids_max {
                break;
            }
            let Some((id, slot)) = primary.wheel.pop() else { break };
            // Gone, or waiting in another slot.
            let Some(deadline) = primary.by_id.get_mut(&id) else { continue };
            if deadline.place != Place::Slot(slot) {
                continue;
            }
            if deadline.expires <= now {
                deadline.place = Place::Expiring;
                due.push(id);
            } else {
                deadline.place = Place::Slot(primary.wheel.insert(id, deadline.expires));
            }
        }
        due
    }

    /// The proposal that named these leases did not get into the log: they become due again,
    /// after a pause of one slot so that a member that cannot propose does not spin.
    ///
    /// Only for proposals that certainly cannot be applied any more.
    pub fn unmark(&mut self, now: Instant64, ids: &[LeaseId]) {
        let Some(primary) = &mut self.primary else { return };
        primary.wheel.turn(now);
        for id in ids {
            if let Some(deadline) = primary.by_id.get_mut(id)
                && deadline.place == Place::Expiring
            {
                deadline.place = Place::Slot(primary.wheel.insert(*id, now));
            }
        }
    }

    /// When [`Deadlines::due`] should be called next; a time that is past means at once. `None`
    /// when there is nothing to wait for.
    pub fn next_wakeup(&self, now: Instant64) -> Option<Instant64> {
        let primary = self.primary.as_ref()?;
        if !primary.is_filled() {
            return Some(now);
        }
        primary.wheel.next_due()
    }

    /// Remainders to be stored by one checkpoint entry: leases with more than
    /// [`CHECKPOINT_INTERVAL`] left that were neither renewed nor checkpointed for that long.
    ///
    /// Looks at a slice of the leases; call it about once a second while checkpoints are switched
    /// on (in etcd they are off by default).
    pub fn checkpoints(&mut self, now: Instant64, leases: &Leases, ids_max: usize) -> Vec<(LeaseId, i64)> {
        let Some(primary) = &mut self.primary else { return Vec::new() };
        if !primary.is_filled() || now < primary.sweep.not_before {
            return Vec::new();
        }
        let interval_seconds = CHECKPOINT_INTERVAL.as_secs() as i64;
        let mut out = Vec::new();
        let mut last = None;
        for (id, lease) in leases.iter_after(primary.sweep.after).take(SLICE_LEASES) {
            if out.len() >= ids_max {
                break;
            }
            last = Some(id);
            let left = primary.expires(id, lease).since(now);
            let remaining = i64::try_from(left.as_nanos().div_ceil(1_000_000_000)).unwrap_or(i64::MAX);
            if left > CHECKPOINT_INTERVAL
                && lease.ttl_after_promotion() - remaining >= interval_seconds
                && !primary.is_expiring(id)
            {
                out.push((id, remaining));
            }
        }
        primary.sweep.after = last;
        if last.is_none() {
            primary.sweep.not_before = now.after(SWEEP_PAUSE);
        }
        out
    }

    /// All lease ids, the one that runs out first in front; by id when not promoted (followers
    /// know no deadlines).
    pub fn sorted_by_expiry(&self, leases: &Leases) -> Vec<LeaseId> {
        let Some(primary) = &self.primary else { return leases.ids().collect() };
        let mut ids: Vec<_> = leases.iter().map(|(id, lease)| (primary.expires(id, lease), id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }
}
