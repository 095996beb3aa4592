//! How long a history of a million operations takes to be checked:
//! `cargo run --release -p folkmoot-check --example million [operations]`.

#![allow(clippy::print_stdout)] // A tool for people.

#[path = "../tests/world/store.rs"]
#[allow(dead_code)]
mod store;

use std::time::Instant;

use bytes::Bytes;
use folkmoot_check::history::*;
use folkmoot_check::{Settings, check};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use store::Keys;

const KEYS: u32 = 10_000;
const CLIENTS: u64 = 64;

/// One operation after the other takes effect; each began up to 64 effects ago.
fn history(operations: usize) -> History {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut keys = Keys::default();
    let (mut history, mut truth, mut revision) = (History::default(), Vec::new(), 1);
    for number in 0..operations {
        let key: Bytes = format!("key/{:05}", rng.random_range(0..KEYS)).into();
        let value: Bytes = format!("value {number}").into();
        let put = PutRequest { key: key.clone(), value, ..PutRequest::default() };
        let request = match rng.random_range(0..100) {
            0..40 => Request::Put(put),
            40..45 => Request::Delete(DeleteRequest { range: KeyRange::One(key), prev_kv: false }),
            45..85 => Request::Range(RangeRequest::new(KeyRange::One(key))),
            85..90 => {
                // About ten keys.
                Request::Range(RangeRequest::new(KeyRange::prefix(key.slice(..key.len() - 1))))
            }
            _ => {
                let compare = Compare {
                    range: KeyRange::One(key.clone()),
                    op: CompareOp::Equal,
                    target: CompareTarget::Mod(keys.0.get(&key).map_or(0, |kv| kv.mod_revision)),
                };
                let read = OpRequest::Range(RangeRequest::new(KeyRange::One(key)));
                Request::Txn(TxnRequest {
                    compare: vec![compare],
                    success: vec![OpRequest::Put(put)],
                    failure: vec![read],
                })
            }
        };
        let (body, events) = keys.run(&request, revision + 1).expect("none is refused");
        let at = (number as u64 + 100) * 1000;
        if !events.is_empty() {
            revision += 1;
            truth.push(Change { revision, events, at: None });
        }
        let lost = rng.random_range(0..100) == 0;
        history.operations.push(Operation {
            client: number as u64 % CLIENTS,
            member: number as u64 % 3 + 1,
            invoked: at - rng.random_range(0..CLIENTS * 1000),
            completed: Some(at + rng.random_range(0..CLIENTS * 1000)),
            request,
            outcome: if lost { Outcome::Unknown } else { Outcome::Ok(Reply { revision, body }) },
        });
    }
    for number in 0..100 {
        let range =
            if number == 0 { KeyRange::all() } else { KeyRange::One(format!("key/{number:05}").into()) };
        history.watches.push(watch(range, &truth));
    }
    history.truth = Some(truth);
    history
}

fn watch(range: KeyRange, truth: &[Change]) -> Watch {
    let request = WatchRequest::new(range, 2);
    let end = Nanos::MAX;
    let mut messages = vec![WatchMessage::Created { at: end, revision: 1 }];
    for change in truth {
        let events: Vec<Event> = change.events.iter().filter(|event| request.wants(event)).cloned().collect();
        if !events.is_empty() {
            let events = events.into_iter().map(|event| Event { prev_kv: None, ..event }).collect();
            messages.push(WatchMessage::Events {
                at: end,
                revision: change.revision,
                events,
                fragment: false,
            });
        }
    }
    let drained_to = truth.last().map(|change| change.revision);
    Watch { client: 1, member: 1, invoked: 0, request, messages, drained_to }
}

fn main() {
    let operations = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let began = Instant::now();
    let mut history = history(operations);
    println!("{operations} operations made in {:.2?}", began.elapsed());
    for truth in ["with ground truth", "without ground truth"] {
        let began = Instant::now();
        let report = check(&history, &Settings::default());
        println!("{truth}: checked in {:.2?}, {report}{:?}", began.elapsed(), report.counts);
        history.truth = None;
    }
    history.watches.clear();
    let began = Instant::now();
    let report = check(&history, &Settings::default());
    println!(
        "without ground truth and watches: checked in {:.2?}, {report}{:?}",
        began.elapsed(),
        report.counts
    );
}
