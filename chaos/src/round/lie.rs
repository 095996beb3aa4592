//! Lies about what clients saw, to show that each would be noticed.
//!
//! A lie is told about a finished history, where it stands for a store that behaved that way. It
//! returns what it changed, or nothing if the history has no place for it.

use bytes::Bytes;
use folkmoot_check::Rule;
use folkmoot_check::history as h;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::Evidence;

/// One kind of lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// A client was told that its write was committed, and there is another one in its place.
    LostWrite,
    /// A linearizable read answers as it would have done earlier.
    StaleRead,
    /// A linearizable read answers with a current revision and older keys.
    StaleContent,
    /// A compare-and-swap that failed says that it succeeded.
    WrongSwap,
    /// A watch leaves an event out.
    DropEvent,
    /// A watch delivers an event twice.
    DuplicateEvent,
    /// A watch delivers two messages in the wrong order.
    SwapEvents,
    /// Progress is announced before the events it speaks of.
    EarlyProgress,
    /// A lease ends although its time is not over.
    EarlyLease,
    /// Two clients hold one lock.
    DoubleLock,
    /// A resource takes a token that is older than one it took.
    OldToken,
    /// One member has another hash.
    OtherHash,
}

impl Lie {
    /// All of them.
    pub const ALL: [Lie; 12] = [
        Lie::LostWrite,
        Lie::StaleRead,
        Lie::StaleContent,
        Lie::WrongSwap,
        Lie::DropEvent,
        Lie::DuplicateEvent,
        Lie::SwapEvents,
        Lie::EarlyProgress,
        Lie::EarlyLease,
        Lie::DoubleLock,
        Lie::OldToken,
        Lie::OtherHash,
    ];

    /// Changes the evidence accordingly.
    pub fn tell(self, evidence: &mut Evidence, rng: &mut ChaCha8Rng) -> Option<String> {
        let history = &mut evidence.history;
        match self {
            Lie::LostWrite => lost_write(history, rng),
            Lie::StaleRead => stale_read(history, rng, false),
            Lie::StaleContent => stale_read(history, rng, true),
            Lie::WrongSwap => wrong_swap(history, rng),
            Lie::DropEvent => drop_event(history, rng),
            Lie::DuplicateEvent => duplicate_event(history, rng),
            Lie::SwapEvents => swap_events(history, rng),
            Lie::EarlyProgress => early_progress(history, rng),
            Lie::EarlyLease => early_lease(history, rng),
            Lie::DoubleLock => double_lock(history, rng),
            Lie::OldToken => old_token(history),
            Lie::OtherHash => other_hash(evidence),
        }
    }

    /// The rules that it breaks; at least one of them must be reported.
    pub fn breaks(self) -> &'static [Rule] {
        match self {
            Lie::LostWrite => &[Rule::LostWrite, Rule::TornChange, Rule::RevisionClaimedTwice],
            Lie::StaleRead => &[Rule::StaleRevision],
            Lie::StaleContent => &[Rule::WrongReply],
            Lie::WrongSwap => &[Rule::RevisionClaimedTwice, Rule::TornChange, Rule::WrongReply],
            Lie::DropEvent => &[Rule::WatchGap, Rule::WatchTorn],
            Lie::DuplicateEvent => &[Rule::WatchDuplicate],
            Lie::SwapEvents => &[Rule::WatchOrder, Rule::WatchGap],
            Lie::EarlyProgress => &[Rule::WatchProgress],
            Lie::EarlyLease => &[Rule::LeaseEarly],
            Lie::DoubleLock => &[Rule::LockExclusion],
            Lie::OldToken => &[Rule::FenceOrder],
            Lie::OtherHash => &[Rule::StateHash],
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

/// An answer that another one to the same question came after, before this question was asked.
fn stale_read(history: &mut h::History, rng: &mut ChaCha8Rng, content_only: bool) -> Option<String> {
    let reads = operations(history, |operation| {
        let current = |read: &h::RangeRequest| !read.serializable && read.revision == 0 && !read.count_only;
        matches!(&operation.request, h::Request::Range(read) if current(read)) && operation.reply().is_some()
    });
    let known_by = |at: h::Nanos| {
        let before = history.operations.iter().filter(|other| other.completed.is_some_and(|done| done < at));
        before.filter_map(|other| Some(other.reply()?.revision)).max().unwrap_or(0)
    };
    for _ in 0..1000 {
        let (older, newer) = (pick(&reads, rng)?, pick(&reads, rng)?);
        let (old, new) = (&history.operations[older], &history.operations[newer]);
        let (Some(old_reply), Some(new_reply)) = (old.reply(), new.reply()) else { continue };
        if old.request != new.request
            || old_reply.body == new_reply.body
            || old_reply.revision >= known_by(new.invoked)
            || old_reply.revision >= new_reply.revision
        {
            continue;
        }
        let revision = if content_only { new_reply.revision } else { old_reply.revision };
        let reply = h::Reply { revision, body: old_reply.body.clone() };
        history.operations[newer].outcome = h::Outcome::Ok(reply);
        return Some(format!("stale: {}", history.operations[newer]));
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

/// A message of events between two others, on one stream.
fn events_of(history: &h::History, rng: &mut ChaCha8Rng) -> Option<(usize, usize)> {
    let is_events = |message: &h::WatchMessage| matches!(message, h::WatchMessage::Events { .. });
    let mut places = Vec::new();
    for (watch, record) in history.watches.iter().enumerate() {
        let threes = record.messages.windows(3).enumerate();
        let middles = threes.filter(|(_, three)| three.iter().all(is_events)).map(|(first, _)| first + 1);
        places.extend(middles.map(|message| (watch, message)));
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
    let place = events_of(history, rng)?;
    let events = events_at(history, place)?;
    let event = events.remove(rng.random_range(0..events.len()));
    Some(format!("watch {} never got {event:?}", place.0))
}

fn duplicate_event(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let place = events_of(history, rng)?;
    let events = events_at(history, place)?;
    let index = rng.random_range(0..events.len());
    let event = events[index].clone();
    events.insert(index, event.clone());
    Some(format!("watch {} got {event:?} twice", place.0))
}

fn swap_events(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let (watch, message) = events_of(history, rng)?;
    history.watches[watch].messages.swap(message, message + 1);
    Some(format!("watch {watch} got message {} before the one before it", message + 1))
}

fn early_progress(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let place = events_of(history, rng)?;
    let revision = events_at(history, place)?.last()?.revision();
    let messages = &mut history.watches[place.0].messages;
    let at = messages[place.1].at();
    messages.insert(place.1, h::WatchMessage::Progress { at, revision });
    Some(format!("watch {} was told of revision {revision} before it got its events", place.0))
}

/// Somebody is told that a lease is gone when it was granted a moment ago.
fn early_lease(history: &mut h::History, rng: &mut ChaCha8Rng) -> Option<String> {
    let granted = operations(history, |operation| {
        matches!(operation.request, h::Request::LeaseGrant { .. }) && operation.reply().is_some()
    });
    let index = pick(&granted, rng)?;
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
