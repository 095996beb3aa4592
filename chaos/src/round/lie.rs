//! Lies about what clients saw, to show that each would be noticed.
//!
//! A lie is told about a finished history, where it stands for a store that behaved that way. It
//! returns what it changed, or nothing if the history has no place for it.

use bytes::Bytes;
use folkmoot_check::history as h;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::Evidence;

/// One kind of lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Lie {
    /// An acknowledged write is not in the committed history, which closes over it.
    LostWrite,
    /// A linearizable read answers with what the key was before.
    StaleRead,
    /// A compare-and-swap that failed says that it succeeded.
    WrongSwap,
    /// A watch leaves an event out.
    DropEvent,
    /// A watch delivers an event twice.
    DuplicateEvent,
    /// A watch delivers two revisions in the wrong order.
    SwapEvents,
    /// Progress is announced before the events it speaks of.
    EarlyProgress,
    /// A lease ends although it was renewed.
    EarlyLease,
    /// Two clients hold one lock.
    DoubleLock,
    /// A resource takes a token that is older than one it took.
    OldToken,
    /// One member has another hash.
    OtherHash,
}

impl Lie {
    /// Changes the evidence accordingly.
    pub fn tell(self, evidence: &mut Evidence, rng: &mut ChaCha8Rng) -> Option<String> {
        let history = &mut evidence.history;
        match self {
            Lie::LostWrite => lost_write(history, rng),
            Lie::StaleRead => stale_read(history, rng),
            Lie::WrongSwap => wrong_swap(history, rng),
            Lie::DropEvent => drop_event(history, rng),
            Lie::DuplicateEvent => duplicate_event(history, rng),
            Lie::SwapEvents => swap_events(history, rng),
            Lie::EarlyProgress => early_progress(history, rng),
            Lie::EarlyLease => early_lease(history),
            Lie::DoubleLock => double_lock(history, rng),
            Lie::OldToken => old_token(history),
            Lie::OtherHash => other_hash(evidence),
        }
    }
}

fn pick<T: Copy>(all: &[T], rng: &mut ChaCha8Rng) -> Option<T> {
    all.choose(rng).copied()
}

/// Operations that something is true of.
fn operations(history: &h::History, which: impl Fn(&h::Operation) -> bool) -> Vec<usize> {
    (0..history.operations.len()).filter(|index| which(&history.operations[*index])).collect()
}

/// The client was told that its value was written at a revision at which there is another one: the
/// revision was given again after the write was lost.
fn lost_write(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let put = |operation: &h::Operation| {
        matches!(operation.request, h::Request::Put(h::PutRequest { lease: 0, .. }))
            && operation.reply().is_some()
    };
    let index = pick(&operations(history, put), rng)?;
    let operation = &mut history.operations[index];
    let h::Request::Put(put) = &mut operation.request else { return None };
    put.value = Bytes::from_static(b"lost");
    Some(format!("the store has never heard of {operation}"))
}

fn stale_read(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let reads = operations(
        history,
        |operation| matches!(&operation.request, h::Request::Range(read) if !read.serializable && read.revision == 0),
    );
    // An older answer to the same question, that another answer came after, before this was asked.
    for _ in 0..1000 {
        let newer = pick(&reads, rng)?;
        let asked = history.operations[newer].invoked;
        let older = reads.iter().copied().filter(|index| {
            let operation = &history.operations[*index];
            operation.request == history.operations[newer].request
                && operation.completed.is_some_and(|completed| completed < asked)
        });
        let older: Vec<usize> = older.collect();
        let Some(older) = pick(&older, rng) else { continue };
        let (old, new) = (&history.operations[older], &history.operations[newer]);
        let (Some(old_reply), Some(new_reply)) = (old.reply(), new.reply()) else { continue };
        if old_reply.body != new_reply.body && old_reply.revision < new_reply.revision {
            let reply = old_reply.clone();
            history.operations[newer].outcome = h::Outcome::Ok(reply);
            return Some(format!("stale: {}", history.operations[newer]));
        }
    }
    None
}

fn wrong_swap(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let failed = operations(history, |operation| {
        let compares = matches!(&operation.request, h::Request::Txn(txn) if !txn.compare.is_empty());
        let body = operation.reply().map(|reply| &reply.body);
        compares && matches!(body, Some(h::ReplyBody::Txn(txn)) if !txn.succeeded)
    });
    let index = pick(&failed, rng)?;
    let h::Outcome::Ok(h::Reply { body: h::ReplyBody::Txn(txn), .. }) =
        &mut history.operations[index].outcome
    else {
        return None;
    };
    txn.succeeded = true;
    txn.responses = vec![h::OpReply::Put(h::PutReply::default())];
    Some(format!("failed in fact: {}", history.operations[index]))
}

/// A place of events in the middle of a watch of a client.
fn events_of(history: &h::History, rng: &mut ChaCha8Rng, min: usize) -> Option<(usize, usize)> {
    let mut places = Vec::new();
    for (watch, record) in history.watches.iter().enumerate() {
        let is_full = |message: &h::WatchMessage| matches!(message, h::WatchMessage::Events { events, .. } if events.len() >= min);
        let full: Vec<usize> =
            (0..record.messages.len()).filter(|index| is_full(&record.messages[*index])).collect();
        if let [_, middle @ .., _] = &full[..] {
            places.extend(middle.iter().map(|message| (watch, *message)));
        }
    }
    pick(&places, rng)
}

fn events_at(history: &mut h::History, (watch, message): (usize, usize)) -> Option<&mut Vec<h::Event>> {
    match &mut history.watches[watch].messages[message] {
        h::WatchMessage::Events { events, .. } => Some(events),
        _ => None,
    }
}

fn drop_event(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let place = events_of(history, rng, 1)?;
    let events = events_at(history, place)?;
    let event = events.remove(rng.random_range(0..events.len()));
    Some(format!("watch {} never got {event:?}", place.0))
}

fn duplicate_event(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let place = events_of(history, rng, 1)?;
    let events = events_at(history, place)?;
    let index = rng.random_range(0..events.len());
    let event = events[index].clone();
    events.insert(index, event.clone());
    Some(format!("watch {} got {event:?} twice", place.0))
}

fn swap_events(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let (watch, message) = events_of(history, rng, 1)?;
    let messages = &mut history.watches[watch].messages;
    let next = (message + 1..messages.len())
        .find(|index| matches!(messages[*index], h::WatchMessage::Events { .. }))?;
    messages.swap(message, next);
    Some(format!("watch {watch} got message {next} before message {message}"))
}

fn early_progress(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let place = events_of(history, rng, 1)?;
    let revision = events_at(history, place)?.last()?.revision();
    let messages = &mut history.watches[place.0].messages;
    let at = messages[place.1].at();
    messages.insert(place.1, h::WatchMessage::Progress { at, revision });
    Some(format!("watch {} was told of revision {revision} before it got its events", place.0))
}

/// Somebody is told that a lease is gone when it was granted a moment ago.
fn early_lease(history: &mut h::History) -> Option<String> {
    let granted = operations(history, |operation| {
        matches!(operation.request, h::Request::LeaseGrant { .. }) && operation.reply().is_some()
    });
    let index = granted.first().copied()?;
    let h::Request::LeaseGrant { id, .. } = history.operations[index].request else { return None };
    let grant = history.operations[index].clone();
    let revision = grant.reply()?.revision;
    let asked = grant.completed? + 1;
    let body = h::ReplyBody::LeaseTimeToLive { ttl: -1, granted_ttl: 0, keys: Vec::new() };
    history.operations.push(h::Operation {
        invoked: asked,
        completed: Some(asked + 1),
        request: h::Request::LeaseTimeToLive { id, keys: false },
        outcome: h::Outcome::Ok(h::Reply { revision, body }),
        ..grant
    });
    Some(format!("lease {id:x} was gone one nanosecond after it was granted"))
}

fn double_lock(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let hold = history.holds.choose(rng)?.clone();
    let second = h::LockHold { client: hold.client + 1000, token: hold.token + 1, ..hold };
    let text = format!("client {} holds the lock of client {}", second.client, hold.client);
    history.holds.push(second);
    Some(text)
}

fn old_token(history: &mut h::History) -> Option<String> {
    let resource = history.fence_uses.first()?.resource.clone();
    let older = history.fence_uses.first()?.clone();
    let newer = history.fence_uses.iter().rev().find(|used| used.resource == resource && used.accepted)?;
    if newer.token <= older.token {
        return None;
    }
    let again = h::FenceUse { at: newer.at + 1, accepted: true, ..older };
    let text = format!("the resource took token {} after token {}", again.token, newer.token);
    history.fence_uses.push(again);
    Some(text)
}

fn other_hash(evidence: &mut Evidence) -> Option<String> {
    let (member, _) = *evidence.hashes.last()?;
    evidence.hashes.last_mut()?.1 ^= 1;
    Some(format!("member {member:x} has another hash"))
}
