//! Every meaningful change of one detail of an honest history is told.

#![allow(clippy::print_stdout)] // Counts, for people: `--nocapture`.

mod world;

use bytes::Bytes;
use folkmoot_check::check;
use folkmoot_check::history::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use world::Config;

/// Changes one detail; `None` if the history has no such detail.
type Mutation = fn(&mut History, &mut ChaCha8Rng) -> Option<()>;

const MUTATIONS: [(&str, Mutation); 21] = [
    ("value in an answer", value_in_answer),
    ("key left out of an answer", key_left_out),
    ("count", count),
    ("revision of a write", write_revision),
    ("revision of a read before what was known", stale_read),
    ("revision of an answer beyond the last", future),
    ("change left out", change_left_out),
    ("change repeated", change_repeated),
    ("changes swapped", changes_swapped),
    ("last write forgotten", last_forgotten),
    ("part of a change forgotten", change_torn),
    ("condition's outcome", succeeded),
    ("refused, but it happened", refused),
    ("writes against real time", against_time),
    ("event left out", event_left_out),
    ("event repeated", event_repeated),
    ("events swapped", events_swapped),
    ("event's value", event_value),
    ("event's previous key", event_prev),
    ("progress ahead", progress_ahead),
    ("lease gone before its time", lease_gone),
];

fn pick<T>(mut items: Vec<T>, rng: &mut ChaCha8Rng) -> Option<T> {
    if items.is_empty() { None } else { Some(items.swap_remove(rng.random_range(0..items.len()))) }
}

fn replies(history: &mut History) -> impl Iterator<Item = (&Request, Nanos, &mut Reply)> {
    history.operations.iter_mut().filter_map(|operation| match &mut operation.outcome {
        Outcome::Ok(reply) => Some((&operation.request, operation.invoked, reply)),
        _ => None,
    })
}

fn ranges(history: &mut History) -> Vec<&mut RangeReply> {
    let whole = |request: &Request| matches!(request, Request::Range(range) if !range.keys_only);
    replies(history)
        .filter_map(|(request, _, reply)| match &mut reply.body {
            ReplyBody::Range(answer) if whole(request) && !answer.kvs.is_empty() => Some(answer),
            _ => None,
        })
        .collect()
}

fn value_in_answer(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let answer = pick(ranges(history), rng)?;
    let index = rng.random_range(0..answer.kvs.len());
    let kv = &mut answer.kvs[index];
    match rng.random_range(0..4) {
        0 => kv.value = Bytes::from_static(b"nobody wrote this"),
        1 => kv.version += 1,
        2 => kv.mod_revision -= 1,
        _ => kv.lease += 1,
    }
    Some(())
}

fn key_left_out(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let answer = pick(ranges(history), rng)?;
    let index = rng.random_range(0..answer.kvs.len());
    answer.kvs.remove(index);
    if !answer.more {
        answer.count -= 1;
    }
    Some(())
}

fn count(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    pick(ranges(history), rng)?.count += 1;
    Some(())
}

fn writes(history: &History) -> Vec<usize> {
    let is_put = |operation: &Operation| {
        matches!(&operation.request, Request::Put(put) if !put.ignore_value) && operation.reply().is_some()
    };
    (0..history.operations.len()).filter(|index| is_put(&history.operations[*index])).collect()
}

fn write_revision(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let number = pick(writes(history), rng)?;
    let Outcome::Ok(reply) = &mut history.operations[number].outcome else { return None };
    reply.revision += if rng.random_bool(0.5) { 1 } else { -1 };
    Some(())
}

fn stale_read(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let seen: Vec<(Nanos, Revision)> = history
        .operations
        .iter()
        .filter_map(|operation| Some((operation.completed?, operation.reply()?.revision)))
        .collect();
    let floor = |at| seen.iter().filter(|(seen, _)| *seen < at).map(|(_, revision)| *revision).max();
    let reads = replies(history)
        .filter(|(request, ..)| matches!(request, Request::Range(range) if !range.serializable))
        .filter_map(|(_, invoked, reply)| Some((floor(invoked).filter(|floor| *floor > 1)?, reply)))
        .collect();
    let (floor, reply) = pick(reads, rng)?;
    reply.revision = floor - 1;
    Some(())
}

fn future(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let last = history.truth.as_ref()?.last()?.revision;
    pick(replies(history).collect(), rng)?.2.revision = last + 1;
    Some(())
}

fn change_left_out(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let truth = history.truth.as_mut()?;
    let index = rng.random_range(0..truth.len() - 1);
    truth.remove(index);
    Some(())
}

fn change_repeated(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let truth = history.truth.as_mut()?;
    let index = rng.random_range(0..truth.len());
    truth.insert(index, truth[index].clone());
    Some(())
}

fn changes_swapped(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let truth = history.truth.as_mut()?;
    let index = rng.random_range(1..truth.len());
    truth.swap(index - 1, index);
    Some(())
}

fn last_forgotten(history: &mut History, _: &mut ChaCha8Rng) -> Option<()> {
    history.truth.as_mut()?.pop().map(|_| ())
}

fn change_torn(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let many = history.truth.as_mut()?.iter_mut().filter(|change| change.events.len() > 1).collect();
    pick::<&mut Change>(many, rng)?.events.pop().map(|_| ())
}

fn succeeded(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let txns = replies(history)
        .filter_map(|(_, _, reply)| match &mut reply.body {
            ReplyBody::Txn(answer) => Some(answer),
            _ => None,
        })
        .collect();
    let answer: &mut TxnReply = pick(txns, rng)?;
    answer.succeeded = !answer.succeeded;
    Some(())
}

fn refused(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let number = pick(writes(history), rng)?;
    history.operations[number].outcome = Outcome::Refused(Refusal::Other("overloaded".into()));
    Some(())
}

fn against_time(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let writes = writes(history);
    let (a, b) = (pick(writes.clone(), rng)?, pick(writes, rng)?);
    let revision = |number: usize| history.operations[number].reply().map(|reply| reply.revision);
    let (older, newer) = if revision(a) < revision(b) { (a, b) } else { (b, a) };
    let after = history.operations[newer].completed?;
    if older == newer {
        return None;
    }
    history.operations[older].invoked = after + 1;
    history.operations[older].completed = Some(after + 2);
    Some(())
}

/// The messages of drained watches after the last time they were resumed, with more than `least`
/// events.
fn messages(history: &mut History, least: usize) -> Vec<&mut Vec<Event>> {
    let drained = history.watches.iter_mut().filter(|watch| watch.drained_to.is_some());
    drained
        .flat_map(|watch| {
            let resumed =
                watch.messages.iter().rposition(|message| matches!(message, WatchMessage::Resumed { .. }));
            watch.messages.iter_mut().skip(resumed.unwrap_or(0))
        })
        .filter_map(|message| match message {
            WatchMessage::Events { events, .. } if events.len() > least => Some(events),
            _ => None,
        })
        .collect()
}

fn event_left_out(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let events = pick(messages(history, 0), rng)?;
    let index = rng.random_range(0..events.len());
    events.remove(index);
    Some(())
}

fn event_repeated(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let events = pick(messages(history, 0), rng)?;
    let (from, to) = (rng.random_range(0..events.len()), rng.random_range(0..=events.len()));
    let event = events[from].clone();
    events.insert(to, event);
    Some(())
}

fn events_swapped(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let events = pick(messages(history, 1), rng)?;
    let index = rng.random_range(1..events.len());
    events.swap(index - 1, index);
    Some(())
}

fn event_value(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let events = pick(messages(history, 0), rng)?;
    let index = rng.random_range(0..events.len());
    let event = &mut events[index];
    match event.kind {
        EventKind::Put => event.kv.value = Bytes::from_static(b"nobody wrote this"),
        EventKind::Delete => event.kv.version = 1,
    }
    Some(())
}

fn event_prev(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let all = messages(history, 0);
    let prevs = all.into_iter().flatten().filter_map(|event| event.prev_kv.as_mut()).collect();
    let prev: &mut KeyValue = pick(prevs, rng)?;
    prev.value = Bytes::from_static(b"nobody wrote this");
    Some(())
}

fn progress_ahead(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let last = history.truth.as_ref()?.last()?.revision;
    let all = history.watches.iter_mut().flat_map(|watch| &mut watch.messages);
    let progress = all
        .filter_map(|message| match message {
            WatchMessage::Progress { revision, .. } => Some(revision),
            _ => None,
        })
        .collect();
    *pick::<&mut Revision>(progress, rng)? = last + 1;
    Some(())
}

fn lease_gone(history: &mut History, rng: &mut ChaCha8Rng) -> Option<()> {
    let revoked: Vec<LeaseId> = history
        .operations
        .iter()
        .filter_map(|operation| match operation.request {
            Request::LeaseRevoke { id } => Some(id),
            _ => None,
        })
        .collect();
    // Leases by the time they must live until, because of their grant.
    let granted: Vec<(LeaseId, Nanos, Nanos)> = history
        .operations
        .iter()
        .filter_map(|operation| match operation.reply()?.body {
            ReplyBody::LeaseGrant { id, ttl } if !revoked.contains(&id) => {
                Some((id, operation.completed?, operation.invoked + ttl as Nanos * 1000 * world::MS))
            }
            _ => None,
        })
        .collect();
    let renewals = history
        .operations
        .iter_mut()
        .filter(|operation| {
            let Request::LeaseKeepAlive { id } = operation.request else { return false };
            granted.iter().any(|(lease, from, until)| {
                *lease == id && *from < operation.invoked && operation.completed.is_some_and(|by| by < *until)
            })
        })
        .filter_map(|operation| match &mut operation.outcome {
            Outcome::Ok(Reply { body: ReplyBody::LeaseKeepAlive { ttl }, .. }) => Some(ttl),
            _ => None,
        })
        .collect();
    *pick::<&mut i64>(renewals, rng)? = 0;
    Some(())
}

#[test]
fn a_changed_detail_of_an_honest_history_is_told() {
    let mut made = [0; MUTATIONS.len()];
    for seed in 0..40 {
        let config = Config { operations: 250, ..Config::new(seed) };
        let honest = world::run(&config);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for (index, (name, mutation)) in MUTATIONS.iter().enumerate() {
            for _ in 0..3 {
                let mut history = honest.clone();
                if mutation(&mut history, &mut rng).is_none() {
                    continue;
                }
                let report = check(&history, &config.settings());
                assert!(history == honest || !report.is_ok(), "seed {seed}: not told: {name}");
                made[index] += 1;
            }
        }
    }
    for (made, (name, _)) in made.iter().zip(&MUTATIONS) {
        println!("{name}: {made}");
        assert!(*made > 30, "{name}: only {made}");
    }
}
