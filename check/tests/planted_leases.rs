//! Small histories by hand, each with one fault, and what is said of it; beside each the honest
//! twin of which nothing is said. Here: leases and locks.

mod hand;

use folkmoot_check::history::*;
use folkmoot_check::{LeaseSettings, LivePeriod, Rule, Settings, check};
use hand::*;

fn granted(times: (Nanos, Nanos), id: LeaseId, ttl: i64) -> Operation {
    operation(times, Request::LeaseGrant { id, ttl }, ok(1, ReplyBody::LeaseGrant { id, ttl }))
}

fn renewed(times: (Nanos, Nanos), id: LeaseId, ttl: i64) -> Operation {
    operation(times, Request::LeaseKeepAlive { id }, ok(1, ReplyBody::LeaseKeepAlive { ttl }))
}

/// Lease 7 of two seconds with a key, granted at 0, renewed at 1 s; its end is seen at `seen`.
fn leased(seen: Nanos, more: &[Operation]) -> History {
    let mut operations = vec![
        granted((0, 10), 7, 2),
        put_on((20, 30), "a", "1", 7, 2),
        renewed((SECOND, SECOND + 10), 7, 2),
        get((seen - 10, seen), "a", &[], 3),
    ];
    operations.extend_from_slice(more);
    let leased = put_event(KeyValue { lease: 7, ..kv("a", "1", 2, 2, 1) });
    let truth = vec![change(2, vec![leased]), change(3, vec![delete_event("a", 3)])];
    History { truth: Some(truth), ..history(operations) }
}

#[test]
fn a_lease_that_ends_early_is_told() {
    fine(&leased(3 * SECOND, &[]));
    told(&leased(3 * SECOND - 1, &[]), Rule::LeaseEarly, &["renew lease 7", "must live until 3.000000s"]);
    let revoke = operation(
        (2 * SECOND, 2 * SECOND + 5),
        Request::LeaseRevoke { id: 7 },
        ok(3, ReplyBody::LeaseRevoke),
    );
    fine(&leased(3 * SECOND - 1, &[revoke]));
    // Without a key the answer to a renewal tells.
    told(&history(vec![granted((0, 10), 7, 2), renewed((SECOND, SECOND + 10), 7, 0)]), Rule::LeaseEarly, &[]);
    let mut drifting = Settings::default();
    drifting.lease.clock_error_ppm = 100_000;
    assert!(check(&leased(2 * SECOND + SECOND * 8 / 10, &[]), &drifting).is_ok());
}

#[test]
fn a_lease_renewed_or_used_after_its_end_is_told() {
    let late = [renewed((4 * SECOND, 4 * SECOND + 10), 7, 2)];
    told(&leased(3 * SECOND, &late), Rule::LeaseAfterEnd, &["was renewed after that"]);
    let mut used = leased(3 * SECOND, &[put_on((4 * SECOND, 4 * SECOND + 1), "b", "1", 7, 4)]);
    let event = put_event(KeyValue { lease: 7, ..kv("b", "1", 4, 4, 1) });
    used.truth.as_mut().unwrap().push(change(4, vec![event]));
    told(&used, Rule::LeaseAfterEnd, &["\"b\" was put on it"]);
}

#[test]
fn a_lease_that_stays_too_long_is_told_in_live_periods_only() {
    let settings = |from, to| Settings {
        lease: LeaseSettings {
            live: vec![LivePeriod { from, to }],
            slack: SECOND,
            ..LeaseSettings::default()
        },
        ..Settings::default()
    };
    // Granted at 0 and renewed at 1 s for 2 s, with a second of slack it must be gone at 4 s.
    let alive = |at: Nanos| {
        let there = KeyValue { lease: 7, ..kv("a", "1", 2, 2, 1) };
        leased(10 * SECOND, &[get((at, at + 10), "a", &[there], 2)])
    };
    let live = settings(0, 20 * SECOND);
    assert!(check(&alive(4 * SECOND), &live).is_ok());
    assert!(check(&alive(4 * SECOND + 100), &live).has(Rule::LeaseLate));
    // A leader that began at 3 s gives the whole time again.
    assert!(check(&alive(5 * SECOND), &settings(3 * SECOND, 20 * SECOND)).is_ok());
    assert!(check(&alive(6 * SECOND + 100), &settings(3 * SECOND, 20 * SECOND)).has(Rule::LeaseLate));
    assert!(check(&alive(6 * SECOND), &settings(0, 3 * SECOND)).is_ok());
    // A renewal of unknown outcome may still be on its way.
    let mut unknown = alive(6 * SECOND);
    let lost = operation((2 * SECOND, 3 * SECOND), Request::LeaseKeepAlive { id: 7 }, Outcome::Unknown);
    unknown.operations.push(lost);
    assert!(check(&unknown, &live).is_ok());
}

#[test]
fn a_lease_end_that_leaves_a_key_is_told() {
    let a = put_event(KeyValue { lease: 7, ..kv("a", "1", 2, 2, 1) });
    let b = put_event(KeyValue { lease: 7, ..kv("b", "1", 3, 3, 1) });
    let operations =
        vec![granted((0, 1), 7, 2), put_on((2, 3), "a", "1", 7, 2), put_on((4, 5), "b", "1", 7, 3)];
    let with = |end: Vec<Event>| {
        let truth = vec![change(2, vec![a.clone()]), change(3, vec![b.clone()]), change(4, end)];
        History { truth: Some(truth), ..history(operations.clone()) }
    };
    fine(&with(vec![delete_event("a", 4), delete_event("b", 4)]));
    told(&with(vec![delete_event("a", 4)]), Rule::UnexplainedChange, &["lease 7", "\"b\""]);
    told(&with(vec![delete_event("b", 4), delete_event("a", 4)]), Rule::UnexplainedChange, &[]);
}

#[test]
fn a_revoked_lease_that_keeps_its_key_is_told() {
    let revoke = operation((10, 20), Request::LeaseRevoke { id: 7 }, ok(2, ReplyBody::LeaseRevoke));
    let operations = vec![granted((0, 1), 7, 2), put_on((2, 3), "a", "1", 7, 2), revoke];
    told(&history(operations), Rule::WrongReply, &["still has the keys \"a\""]);
}

fn hold(client: ClientId, key: &str, token: Revision, acquired_revision: Revision) -> LockHold {
    LockHold {
        client,
        contenders: KeyRange::prefix("lock/"),
        key: key.to_owned().into(),
        token,
        acquired_revision,
        acquired: 100,
        released: None,
    }
}

#[test]
fn a_holder_that_is_not_the_oldest_contender_is_told() {
    let operations =
        vec![put((0, 1), "lock/x", "", 2), put((2, 3), "lock/a", "", 3), delete((4, 5), "lock/x", 1, 4)];
    let with = |holds| History { holds, ..history(operations.clone()) };
    fine(&with(vec![hold(1, "lock/x", 2, 2), hold(2, "lock/a", 3, 4)]));
    told(&with(vec![hold(2, "lock/a", 3, 3)]), Rule::LockExclusion, &["\"lock/x\" was older"]);
    told(&with(vec![hold(1, "lock/x", 2, 4)]), Rule::LockExclusion, &["was not there"]);
    told(&with(vec![hold(2, "lock/a", 2, 4)]), Rule::LockExclusion, &["was not there"]);
}

#[test]
fn an_older_token_taken_after_a_newer_one_is_told() {
    let used = |client, token, accepted| FenceUse { resource: "disk".into(), client, token, at: 1, accepted };
    let with = |fence_uses| History { fence_uses, ..History::default() };
    fine(&with(vec![used(1, 5, true), used(1, 5, true), used(2, 7, true), used(1, 5, false)]));
    told(
        &with(vec![used(1, 5, true), used(2, 7, true), used(1, 5, true)]),
        Rule::FenceOrder,
        &["token 5 of client 1"],
    );
    told(&with(vec![used(1, 5, true), used(2, 5, true)]), Rule::FenceOrder, &[]);
}
