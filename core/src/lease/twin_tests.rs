//! [`Deadlines`] against a slow twin, a plain map that is scanned; and the cases worth a name.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::types::{Instant64, LeaseId, Term};

const ELECTION: Duration = Duration::from_secs(1);

fn id(number: i64) -> LeaseId {
    LeaseId::from_wire(number).expect("not zero")
}

fn at(millis: u64) -> Instant64 {
    Instant64(millis * 1_000_000)
}

fn secs(seconds: i64) -> Duration {
    Duration::from_secs(seconds as u64)
}

/// What [`Deadlines`] promises, without a wheel.
#[derive(Default)]
struct Twin {
    /// Expiry, whether handed out, and the last unmark.
    leases: Option<BTreeMap<LeaseId, (Instant64, bool, Instant64)>>,
}

/// Calls `due` as often as it asks to be called and returns everything that came out.
fn drain(deadlines: &mut Deadlines, now: Instant64, leases: &Leases, ids_max: usize) -> Vec<LeaseId> {
    let mut out = Vec::new();
    for round in 0.. {
        assert!(round < 10_000, "due never finishes");
        out.extend(deadlines.due(now, leases, ids_max));
        if deadlines.next_wakeup(now).is_none_or(|wakeup| wakeup > now) {
            break;
        }
    }
    out
}

fn run(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut leases = Leases::new();
    let mut deadlines = Deadlines::new();
    let mut twin = Twin::default();
    let mut now = at(rng.random_range(0..1_000_000));
    let mut term = 1;
    let mut handed_out: Vec<LeaseId> = Vec::new();
    for step in 0..400 {
        let some_id = id(rng.random_range(1..40) * if rng.random_bool(0.3) { -1 } else { 1 });
        match rng.random_range(0..100) {
            0..25 => {
                let ttl = *[0, 1, 2, 3, 10, 59, 60, 61, 200, 5000].get(rng.random_range(0..10)).unwrap();
                if let Ok(ttl) = leases.grant(some_id, ttl, min_ttl(ELECTION)) {
                    deadlines.granted(now, some_id, ttl);
                    if let Some(twin) = &mut twin.leases {
                        twin.insert(some_id, (now.after(secs(ttl)), false, at(0)));
                    }
                }
            }
            25..45 => {
                let outcome = deadlines.renew(now, &leases, some_id);
                let expected = match (&mut twin.leases, leases.get(some_id)) {
                    (None, _) => RenewOutcome::NotLeader,
                    (Some(_), None) => RenewOutcome::NotFound,
                    (Some(twin), Some(lease)) => {
                        let known = twin.get_mut(&some_id).expect("the twin knows every lease");
                        if known.1 || known.0 <= now {
                            RenewOutcome::Expiring
                        } else {
                            known.0 = now.after(secs(lease.granted_ttl));
                            RenewOutcome::Renewed {
                                ttl: lease.granted_ttl,
                                clear_checkpoint: lease.remaining_ttl > 0,
                            }
                        }
                    }
                };
                assert_eq!(outcome, expected, "step={step}");
                if matches!(outcome, RenewOutcome::Renewed { clear_checkpoint: true, .. }) {
                    leases.checkpoint(some_id, 0).unwrap();
                }
            }
            45..55 => {
                if leases.revoke(some_id).is_ok() {
                    deadlines.revoked(some_id);
                    if let Some(twin) = &mut twin.leases {
                        twin.remove(&some_id);
                    }
                }
            }
            55..58 => {
                term += 1;
                deadlines.promote(now, Term(term), ELECTION);
                handed_out.clear();
                twin.leases = Some(
                    leases
                        .iter()
                        .map(|(id, lease)| {
                            let ttl = secs(lease.ttl_after_promotion().max(min_ttl(ELECTION)));
                            (id, (now.after(ELECTION).after(ttl), false, at(0)))
                        })
                        .collect(),
                );
            }
            58..59 => {
                deadlines.demote();
                handed_out.clear();
                twin.leases = None;
            }
            59..63 => {
                let dropped: Vec<_> = handed_out.drain(..).filter(|_| rng.random_bool(0.5)).collect();
                deadlines.unmark(now, &dropped);
                if let Some(twin) = &mut twin.leases {
                    for id in dropped {
                        // It may have been revoked meanwhile.
                        if let Some(known) = twin.get_mut(&id).filter(|known| known.1) {
                            known.1 = false;
                            known.2 = now;
                        }
                    }
                }
            }
            63..66 => {
                // Only what is on the wheel already may be checkpointed: the sweep sees to that.
                for (id, remaining) in deadlines.checkpoints(now, &leases, 7) {
                    let known = twin.leases.as_ref().expect("promoted")[&id];
                    let left = known.0.since(now);
                    assert!(left > CHECKPOINT_INTERVAL && secs(remaining) >= left);
                    assert!(secs(remaining) < left + secs(1));
                    leases.checkpoint(id, remaining).unwrap();
                }
            }
            66..90 => now = now.after(Duration::from_millis(rng.random_range(0..3_000))),
            90..98 => now = now.after(Duration::from_millis(rng.random_range(0..90_000))),
            _ => now = now.after(Duration::from_secs(rng.random_range(0..10_000))),
        }
        for lease in leases.ids() {
            let expected = twin.leases.as_ref().map(|twin| {
                let expires = i128::from(twin[&lease].0.0);
                ((expires - i128::from(now.0)) / 1_000_000_000) as i64
            });
            assert_eq!(deadlines.remaining(now, &leases, lease), expected);
        }
        // Sometimes the caller is late; the promise holds from its next call on.
        if rng.random_bool(0.7) {
            let ids_max = rng.random_range(1..5);
            for id in drain(&mut deadlines, now, &leases, ids_max) {
                let known = twin.leases.as_mut().and_then(|twin| twin.get_mut(&id));
                let known = known.unwrap_or_else(|| panic!("{id} is unknown and came out"));
                assert!(known.0 <= now, "{id} came out early seed={seed} step={step}");
                assert!(!known.1, "{id} came out twice seed={seed} step={step}");
                known.1 = true;
                handed_out.push(id);
            }
            for (id, (expires, expiring, unmarked)) in twin.leases.iter().flatten() {
                let latest = expires.max(unmarked).after(SLOT);
                assert!(*expiring || latest > now, "{id} is late seed={seed} step={step}");
            }
            let wakeup = deadlines.next_wakeup(now);
            let first = twin.leases.iter().flatten().filter(|(_, known)| !known.1);
            if let Some(first) = first.map(|(_, known)| known.0.max(known.2)).min() {
                let wakeup = wakeup.expect("something waits");
                assert!(wakeup > now && wakeup <= first.after(SLOT).max(now.after(SLOT)));
            }
        }
    }
}

#[test]
fn deadlines_keep_the_promises_of_their_slow_twin() {
    for seed in 0..300 {
        run(seed);
    }
}

fn one_lease(ttl: i64) -> Leases {
    let mut leases = Leases::new();
    leases.grant(id(1), ttl, 2).unwrap();
    leases
}

#[test]
fn a_new_leader_grants_the_full_time_and_an_election_timeout() {
    let leases = one_lease(10);
    let mut deadlines = Deadlines::new();
    deadlines.promote(at(5_000), Term(3), ELECTION);
    assert_eq!(deadlines.term(), Some(Term(3)));
    assert_eq!(deadlines.remaining(at(5_000), &leases, id(1)), Some(11));
    assert!(drain(&mut deadlines, at(15_999), &leases, 10).is_empty());
    assert_eq!(drain(&mut deadlines, at(16_100), &leases, 10), vec![id(1)]);
}

#[test]
fn a_new_leader_counts_from_the_checkpoint_and_a_renewal_asks_to_clear_it() {
    let mut leases = one_lease(600);
    leases.checkpoint(id(1), 200).unwrap();
    let mut deadlines = Deadlines::new();
    deadlines.promote(at(0), Term(2), ELECTION);
    assert_eq!(deadlines.remaining(at(0), &leases, id(1)), Some(201));
    assert_eq!(
        deadlines.renew(at(0), &leases, id(1)),
        RenewOutcome::Renewed { ttl: 600, clear_checkpoint: true }
    );
    assert_eq!(deadlines.remaining(at(0), &leases, id(1)), Some(600));
}

#[test]
fn a_lease_that_ran_out_cannot_be_renewed_before_or_after_its_revoke_is_proposed() {
    let mut leases = one_lease(5);
    let mut deadlines = Deadlines::new();
    deadlines.promote(at(0), Term(1), ELECTION);
    assert_eq!(deadlines.renew(at(6_000), &leases, id(1)), RenewOutcome::Expiring);
    assert_eq!(drain(&mut deadlines, at(6_100), &leases, 10), vec![id(1)]);
    assert_eq!(deadlines.renew(at(6_100), &leases, id(1)), RenewOutcome::Expiring);
    assert_eq!(deadlines.remaining(at(8_000), &leases, id(1)), Some(-2));
    leases.revoke(id(1)).unwrap();
    deadlines.revoked(id(1));
    assert_eq!(deadlines.renew(at(6_200), &leases, id(1)), RenewOutcome::NotFound);
}

#[test]
fn an_expired_lease_comes_out_once_and_again_when_its_proposal_was_dropped() {
    let leases = one_lease(5);
    let mut deadlines = Deadlines::new();
    deadlines.promote(at(0), Term(1), ELECTION);
    assert_eq!(drain(&mut deadlines, at(6_100), &leases, 10), vec![id(1)]);
    assert!(drain(&mut deadlines, at(60_000), &leases, 10).is_empty());
    assert_eq!(deadlines.next_wakeup(at(60_000)), None);
    deadlines.unmark(at(60_010), &[id(1)]);
    assert!(drain(&mut deadlines, at(60_010), &leases, 10).is_empty(), "a pause before the retry");
    assert_eq!(drain(&mut deadlines, at(60_100), &leases, 10), vec![id(1)]);
}

#[test]
fn a_member_that_does_not_lead_lets_nothing_run_out() {
    let leases = one_lease(5);
    let mut deadlines = Deadlines::new();
    deadlines.promote(at(0), Term(1), ELECTION);
    deadlines.demote();
    assert_eq!(deadlines.renew(at(1), &leases, id(1)), RenewOutcome::NotLeader);
    assert_eq!(deadlines.remaining(at(1), &leases, id(1)), None);
    assert!(deadlines.due(at(u64::MAX / 2_000_000), &leases, 10).is_empty());
    assert_eq!(deadlines.next_wakeup(at(1)), None);
}

#[test]
fn a_stored_lease_shorter_than_the_minimum_of_this_member_lives_for_the_minimum() {
    let leases = one_lease(2);
    let mut deadlines = Deadlines::new();
    deadlines.promote(at(0), Term(1), Duration::from_secs(10));
    assert_eq!(deadlines.remaining(at(0), &leases, id(1)), Some(10 + 15));
    assert_eq!(
        deadlines.renew(at(0), &leases, id(1)),
        RenewOutcome::Renewed { ttl: 15, clear_checkpoint: false }
    );
}

#[test]
fn leases_are_listed_by_expiry() {
    let mut leases = Leases::new();
    let mut deadlines = Deadlines::new();
    for (number, ttl) in [(1, 30), (2, 10), (3, 20)] {
        leases.grant(id(number), ttl, 2).unwrap();
    }
    assert_eq!(deadlines.sorted_by_expiry(&leases), [id(1), id(2), id(3)]);
    deadlines.promote(at(0), Term(1), ELECTION);
    assert_eq!(deadlines.sorted_by_expiry(&leases), [id(2), id(3), id(1)]);
    deadlines.renew(at(9_000), &leases, id(3));
    deadlines.renew(at(9_000), &leases, id(2));
    assert_eq!(deadlines.sorted_by_expiry(&leases), [id(2), id(3), id(1)]);
    deadlines.renew(at(9_500), &leases, id(1));
    deadlines.granted(at(9_500), id(4), 1);
    leases.grant(id(4), 1, 2).unwrap();
    assert_eq!(deadlines.sorted_by_expiry(&leases)[0], id(4));
}

#[test]
fn the_largest_ttl_does_not_overflow_the_clock() {
    let leases = one_lease(crate::limits::LEASE_TTL_MAX);
    let mut deadlines = Deadlines::new();
    deadlines.promote(Instant64(u64::MAX - 5), Term(1), ELECTION);
    assert!(deadlines.due(Instant64(u64::MAX - 4), &leases, 10).is_empty());
    deadlines.promote(at(1), Term(2), ELECTION);
    assert!(drain(&mut deadlines, at(100_000_000), &leases, 10).is_empty());
}

#[test]
fn a_promotion_over_many_leases_goes_on_the_wheel_in_slices() {
    let mut leases = Leases::new();
    for number in 1..=25_000 {
        leases.grant(id(number), 5, 2).unwrap();
    }
    let mut deadlines = Deadlines::new();
    deadlines.promote(at(0), Term(1), ELECTION);
    let mut calls = 0;
    while deadlines.next_wakeup(at(1)) == Some(at(1)) {
        assert!(deadlines.due(at(1), &leases, 4_096).is_empty());
        calls += 1;
    }
    assert!((3..6).contains(&calls), "slices={calls}");
    let mut due = drain(&mut deadlines, at(6_100), &leases, 4_096);
    due.sort_unstable();
    assert!(due.into_iter().eq(leases.ids()));
}

#[test]
fn only_a_lease_left_alone_for_five_minutes_is_checkpointed() {
    let mut leases = Leases::new();
    for (number, ttl) in [(1, 3600), (2, 3600), (3, 500), (4, 100_000)] {
        leases.grant(id(number), ttl, 2).unwrap();
    }
    let mut deadlines = Deadlines::new();
    deadlines.promote(at(0), Term(1), ELECTION);
    drain(&mut deadlines, at(0), &leases, 10);
    deadlines.renew(at(200_000), &leases, id(2));
    let sweep = |deadlines: &mut Deadlines, leases: &Leases, millis| {
        let mut out = Vec::new();
        loop {
            let some = deadlines.checkpoints(at(millis), leases, 1);
            if some.is_empty() {
                return out;
            }
            out.extend(some);
        }
    };
    assert!(sweep(&mut deadlines, &leases, 299_000).is_empty());
    let first = sweep(&mut deadlines, &leases, 320_000);
    assert_eq!(first, [(id(1), 3281), (id(4), 99_681)]);
    for (id, remaining) in first {
        leases.checkpoint(id, remaining).unwrap();
    }
    let later = sweep(&mut deadlines, &leases, 520_000);
    assert_eq!(later, [(id(2), 3280)]);
}
