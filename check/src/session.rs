//! Checks that need no replay: a session's revisions do not go back, one revision of a key has
//! one content.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::context::{Context, branch_of};
use crate::history::{
    ClientId, EventKind, KeyValue, MemberId, Nanos, OpReply, OpRequest, Operation, ReplyBody, Request,
    Revision, WatchMessage,
};
use crate::tell::Text;
use crate::{Report, Rule};

/// Checks that current answers of one member to one client never go back in revision.
pub fn check_order(context: &Context, report: &mut Report) {
    let mut sessions: HashMap<(ClientId, MemberId), Vec<(&Operation, Revision)>> = HashMap::new();
    for (_, operation, reply) in context.answered() {
        if operation.request.is_linearizable() {
            sessions
                .entry((operation.client, operation.member))
                .or_default()
                .push((operation, reply.revision));
        }
    }
    let mut sessions: Vec<_> = sessions.into_iter().collect();
    sessions.sort_unstable_by_key(|(session, _)| *session);
    for (_, mut asked) in sessions {
        let mut ended = asked.clone();
        asked.sort_by_key(|(operation, _)| operation.invoked);
        ended.sort_by_key(|(operation, _)| operation.completed);
        let mut ended = ended.into_iter().peekable();
        let mut newest: Option<(&Operation, Revision)> = None;
        for (operation, revision) in asked {
            let before =
                |other: &(&Operation, Revision)| other.0.completed.unwrap_or(Nanos::MAX) < operation.invoked;
            while let Some(next) = ended.next_if(before) {
                if newest.is_none_or(|(_, max)| next.1 > max) {
                    newest = Some(next);
                }
            }
            if let Some((earlier, max)) = newest.filter(|(_, max)| *max > revision) {
                report.add(Rule::SessionOrder, || {
                    format!(
                        "one member told one client revision {max} and later revision {revision}: first \
                         {earlier}; then {operation}"
                    )
                });
            }
        }
    }
}

/// Checks that whatever was seen of a key at one of its revisions is always the same, and
/// possible.
pub fn check_content<'a>(context: &'a Context<'a>, report: &mut Report) {
    let mut contents = Contents { context, first: HashMap::new() };
    for (number, operation, reply) in context.answered() {
        for kv in shown(operation, &reply.body) {
            contents.see(kv, reply.revision, Seen::Operation(number), report);
        }
    }
    for (number, watch) in context.history.watches.iter().enumerate() {
        for message in &watch.messages {
            let WatchMessage::Events { events, .. } = message else { continue };
            for event in events {
                let puts = (event.kind == EventKind::Put).then_some(&event.kv);
                for kv in puts.into_iter().chain(&event.prev_kv) {
                    contents.see(kv, event.revision(), Seen::Watch(number), report);
                }
            }
        }
    }
}

/// The keys an answer shows whole.
fn shown<'a>(operation: &'a Operation, body: &'a ReplyBody) -> Vec<&'a KeyValue> {
    let mut kvs: Vec<&KeyValue> = Vec::new();
    match (&operation.request, body) {
        (Request::Range(range), ReplyBody::Range(answer)) if !range.keys_only => kvs.extend(&answer.kvs),
        (_, ReplyBody::Put(answer)) => kvs.extend(&answer.prev_kv),
        (_, ReplyBody::Delete(answer)) => kvs.extend(&answer.prev_kvs),
        (Request::Txn(txn), ReplyBody::Txn(answer)) => {
            for (op, response) in branch_of(txn, answer).iter().zip(&answer.responses) {
                match (op, response) {
                    (OpRequest::Range(range), OpReply::Range(answer)) if !range.keys_only => {
                        kvs.extend(&answer.kvs);
                    }
                    (_, OpReply::Put(answer)) => kvs.extend(&answer.prev_kv),
                    (_, OpReply::Delete(answer)) => kvs.extend(&answer.prev_kvs),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    kvs
}

#[derive(Clone, Copy)]
enum Seen {
    Operation(usize),
    Watch(usize),
}

struct Contents<'a> {
    context: &'a Context<'a>,
    first: HashMap<(&'a [u8], Revision), (&'a KeyValue, Seen)>,
}

impl<'a> Contents<'a> {
    fn see(&mut self, kv: &'a KeyValue, limit: Revision, seen: Seen, report: &mut Report) {
        let context = self.context;
        let possible = kv.create_revision > 1
            && kv.create_revision <= kv.mod_revision
            && kv.mod_revision <= limit
            && kv.version > 0
            && (kv.version == 1) == (kv.create_revision == kv.mod_revision);
        if !possible {
            report.add(Rule::ContentDiffers, || {
                format!(
                    "no key can have these numbers: {kv}, in an answer of revision {limit}: {}",
                    tell(context, seen)
                )
            });
        }
        match self.first.entry((&kv.key, kv.mod_revision)) {
            Entry::Vacant(entry) => {
                entry.insert((kv, seen));
            }
            Entry::Occupied(entry) => {
                let (first, first_seen) = *entry.get();
                if first != kv {
                    report.add(Rule::ContentDiffers, || {
                        format!(
                            "key {} was seen with two contents of one revision: {first} in {}; and {kv} in {}",
                            Text(&kv.key),
                            tell(context, first_seen),
                            tell(context, seen)
                        )
                    });
                }
            }
        }
    }
}

fn tell(context: &Context, seen: Seen) -> String {
    match seen {
        Seen::Operation(number) => context.history.operations[number].to_string(),
        Seen::Watch(number) => context.tell_watch(number),
    }
}
