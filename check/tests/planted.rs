//! Small histories by hand, each with one fault, and what is said of it; beside each the honest
//! twin of which nothing is said.

use folkmoot_check::history::*;
use folkmoot_check::{LeaseSettings, LivePeriod, Report, Rule, Settings, check};

const SECOND: Nanos = 1_000_000_000;

fn kv(key: &str, value: &str, create: Revision, modified: Revision, version: i64) -> KeyValue {
    KeyValue {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        create_revision: create,
        mod_revision: modified,
        version,
        lease: 0,
    }
}

fn operation(times: (Nanos, Nanos), request: Request, outcome: Outcome) -> Operation {
    Operation { client: 1, member: 1, invoked: times.0, completed: Some(times.1), request, outcome }
}

fn ok(revision: Revision, body: ReplyBody) -> Outcome {
    Outcome::Ok(Reply { revision, body })
}

fn put_request(key: &str, value: &str, lease: LeaseId) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..PutRequest::default() }
}

/// A put without an answer.
fn lost_put(times: (Nanos, Nanos), key: &str, value: &str) -> Operation {
    operation(times, Request::Put(put_request(key, value, 0)), Outcome::Unknown)
}

fn put(times: (Nanos, Nanos), key: &str, value: &str, revision: Revision) -> Operation {
    put_on(times, key, value, 0, revision)
}

fn put_on(times: (Nanos, Nanos), key: &str, value: &str, lease: LeaseId, revision: Revision) -> Operation {
    let request = Request::Put(put_request(key, value, lease));
    operation(times, request, ok(revision, ReplyBody::Put(PutReply::default())))
}

fn delete(times: (Nanos, Nanos), key: &str, deleted: i64, revision: Revision) -> Operation {
    let request = DeleteRequest { range: KeyRange::one(key.to_owned()), prev_kv: false };
    let reply = DeleteReply { deleted, prev_kvs: vec![] };
    operation(times, Request::Delete(request), ok(revision, ReplyBody::Delete(reply)))
}

fn get(times: (Nanos, Nanos), key: &str, found: &[KeyValue], revision: Revision) -> Operation {
    let request = RangeRequest::new(KeyRange::one(key.to_owned()));
    let reply = RangeReply { kvs: found.to_vec(), count: found.len() as i64, more: false };
    operation(times, Request::Range(request), ok(revision, ReplyBody::Range(reply)))
}

fn serializable(mut operation: Operation) -> Operation {
    if let Request::Range(range) = &mut operation.request {
        range.serializable = true;
    }
    operation
}

fn at_revision(mut operation: Operation, revision: Revision) -> Operation {
    if let Request::Range(range) = &mut operation.request {
        range.revision = revision;
    }
    operation
}

fn history(operations: Vec<Operation>) -> History {
    History { operations, ..History::default() }
}

fn change(revision: Revision, events: Vec<Event>) -> Change {
    Change { revision, events, at: None }
}

fn put_event(kv: KeyValue) -> Event {
    Event { kind: EventKind::Put, kv, prev_kv: None }
}

fn delete_event(key: &str, revision: Revision) -> Event {
    let kv = KeyValue { key: key.to_owned().into(), mod_revision: revision, ..KeyValue::default() };
    Event { kind: EventKind::Delete, kv, prev_kv: None }
}

fn judge(history: &History) -> Report {
    check(history, &Settings::default())
}

#[track_caller]
fn fine(history: &History) {
    let report = judge(history);
    assert!(report.is_ok(), "{report}");
}

/// The fault is told under `rule`, in words that hold all of `words`.
#[track_caller]
fn told(history: &History, rule: Rule, words: &[&str]) {
    let report = judge(history);
    let mut of_rule = report.violations().iter().filter(|violation| violation.rule == rule);
    let found = of_rule.any(|violation| words.iter().all(|word| violation.text.contains(word)));
    assert!(found, "{rule:?} is not told with {words:?}\n{report}");
}

#[test]
fn a_stale_read_is_told_with_who_knew_better() {
    let read = |times, revision| {
        let value = if revision == 2 { kv("a", "1", 2, 2, 1) } else { kv("a", "2", 2, 3, 2) };
        get(times, "a", &[value], revision)
    };
    let puts = [put((0, 10), "a", "1", 2), put((20, 30), "a", "2", 3)];
    let with = |read| history([puts.to_vec(), vec![read]].concat());
    fine(&with(read((40, 50), 3)));
    // Concurrent with the second put it may see either.
    fine(&with(read((25, 50), 2)));
    told(&with(read((40, 50), 2)), Rule::StaleRevision, &["revision 3 was known", "put \"a\"=\"2\""]);
    // A serializable read may be old.
    fine(&with(serializable(read((40, 50), 2))));
}

#[test]
fn a_read_that_is_not_the_stores_at_its_revision_is_told() {
    let puts = [put((0, 10), "a", "1", 2), put((20, 30), "a", "2", 3)];
    let wrong = get((40, 50), "a", &[kv("a", "1", 2, 2, 1)], 3);
    told(
        &history([puts.to_vec(), vec![wrong.clone()]].concat()),
        Rule::WrongReply,
        &["at revision 3", "\"a\"=\"2\"", "last change of \"a\" is revision 3"],
    );
    told(&history([puts.to_vec(), vec![serializable(wrong)]].concat()), Rule::WrongReply, &[]);
    let past = at_revision(get((40, 50), "a", &[kv("a", "1", 2, 2, 1)], 3), 2);
    fine(&history([puts.to_vec(), vec![past]].concat()));
    let past = at_revision(get((40, 50), "a", &[kv("a", "2", 2, 3, 2)], 3), 2);
    told(&history([puts.to_vec(), vec![past]].concat()), Rule::WrongReply, &["at revision 2"]);
}

#[test]
fn a_serializable_read_of_the_future_is_told() {
    let early = serializable(get((0, 5), "a", &[kv("a", "1", 2, 2, 1)], 2));
    told(&history(vec![early, put((10, 20), "a", "1", 2)]), Rule::StaleRevision, &["revision 2 was known"]);
}

#[test]
fn an_aborted_write_that_is_read_is_told() {
    let refused = operation(
        (0, 10),
        Request::Put(put_request("a", "1", 0)),
        Outcome::Refused(Refusal::Other("too many requests".into())),
    );
    let read = get((20, 30), "a", &[kv("a", "1", 2, 2, 1)], 2);
    told(&history(vec![refused, read.clone()]), Rule::RefusedTookEffect, &["too many requests"]);
    // Of unknown outcome it may have happened.
    fine(&history(vec![lost_put((0, 10), "a", "1"), read.clone()]));
    // But not before it was asked for.
    told(&history(vec![read, lost_put((40, 50), "a", "1")]), Rule::UnexplainedChange, &[]);
}

#[test]
fn a_lost_write_is_told() {
    let writes = vec![put((0, 10), "a", "1", 2), put((20, 30), "b", "1", 3)];
    let truth = vec![change(2, vec![put_event(kv("a", "1", 2, 2, 1))])];
    let lost = History { truth: Some(truth.clone()), ..history(writes.clone()) };
    told(&lost, Rule::LostWrite, &["\"b\"=\"1\"", "end at revision 2"]);
    let other = change(3, vec![put_event(kv("c", "1", 3, 3, 1))]);
    let replaced = History { truth: Some([truth, vec![other]].concat()), ..history(writes) };
    told(&replaced, Rule::LostWrite, &["at its revision stands another"]);
}

#[test]
fn a_reordered_pair_of_writes_is_told() {
    let writes =
        |first, second| history(vec![put((0, 10), "a", "1", first), put((20, 30), "a", "2", second)]);
    fine(&writes(2, 3));
    told(&writes(3, 2), Rule::StaleRevision, &["a write asked for after that got no newer revision"]);
}

#[test]
fn two_writes_of_one_revision_and_a_gap_are_told() {
    let twice = history(vec![put((0, 10), "a", "1", 2), put((0, 10), "b", "1", 2)]);
    told(&twice, Rule::RevisionClaimedTwice, &["\"a\"", "\"b\""]);
    let gap =
        history(vec![put((0, 10), "a", "1", 2), put((20, 30), "b", "1", 4), lost_put((40, 50), "c", "1")]);
    told(&gap, Rule::UnexplainedChange, &["revision 3"]);
    let wild = history(vec![put((0, 10), "a", "1", 2), put((20, 30), "b", "1", i64::MAX)]);
    told(&wild, Rule::FutureRevision, &[]);
}

#[test]
fn a_delete_of_nothing_that_moves_the_revision_is_told() {
    fine(&history(vec![put((0, 10), "a", "1", 2), delete((20, 30), "b", 0, 2)]));
    let truth = vec![change(2, vec![put_event(kv("a", "1", 2, 2, 1))]), change(3, vec![])];
    let moved = History {
        truth: Some(truth),
        ..history(vec![put((0, 10), "a", "1", 2), delete((20, 30), "b", 0, 3)])
    };
    told(&moved, Rule::RevisionSequence, &["empty"]);
    told(&history(vec![put((0, 10), "a", "1", 2), delete((20, 30), "a", 0, 2)]), Rule::WrongReply, &[]);
}

fn both() -> (TxnRequest, Operation) {
    let absent =
        Compare { range: KeyRange::one("a"), op: CompareOp::Equal, target: CompareTarget::Create(0) };
    let txn = TxnRequest {
        compare: vec![absent],
        success: vec![OpRequest::Put(put_request("a", "1", 0)), OpRequest::Put(put_request("b", "1", 0))],
        failure: vec![],
    };
    let answers = vec![OpReply::Put(PutReply::default()); 2];
    let reply = ReplyBody::Txn(TxnReply { succeeded: true, responses: answers });
    (txn.clone(), operation((0, 10), Request::Txn(txn), ok(2, reply)))
}

#[test]
fn a_torn_transaction_is_told() {
    let (txn, answered) = both();
    let (a, b) = (put_event(kv("a", "1", 2, 2, 1)), put_event(kv("b", "1", 2, 2, 1)));
    let with = |operation: &Operation, events: Vec<Event>| History {
        truth: Some(vec![change(2, events)]),
        ..history(vec![operation.clone()])
    };
    fine(&with(&answered, vec![a.clone(), b.clone()]));
    told(&with(&answered, vec![a.clone()]), Rule::TornChange, &["txn if"]);
    told(&with(&answered, vec![b.clone(), a.clone()]), Rule::TornChange, &[]);
    let unknown = operation((0, 10), Request::Txn(txn), Outcome::Unknown);
    fine(&with(&unknown, vec![a.clone(), b]));
    told(&with(&unknown, vec![a]), Rule::UnexplainedChange, &[]);
    // Without ground truth a read shows it.
    told(&history(vec![answered, get((20, 30), "b", &[], 2)]), Rule::WrongReply, &[]);
}

#[test]
fn a_lock_taken_twice_is_told() {
    let (_, first) = both();
    let mut second = first.clone();
    (second.invoked, second.completed) = (20, Some(30));
    if let Outcome::Ok(reply) = &mut second.outcome {
        reply.revision = 3;
    }
    told(&history(vec![first, second]), Rule::WrongReply, &["Expected: failed"]);
}

#[test]
fn ground_truth_with_a_gap_or_a_repetition_is_told() {
    let a = |revision| change(revision, vec![put_event(kv("a", "1", 2, revision, revision - 1))]);
    let puts = vec![put((0, 10), "a", "1", 2), put((20, 30), "a", "1", 3), put((40, 50), "a", "1", 4)];
    let with = |truth| History { truth: Some(truth), ..history(puts.clone()) };
    fine(&with(vec![a(2), a(3), a(4)]));
    told(&with(vec![a(2), a(4)]), Rule::RevisionSequence, &["from revision 2 to revision 4"]);
    told(&with(vec![a(2), a(3), a(3), a(4)]), Rule::RevisionSequence, &["from revision 3 to revision 3"]);
}

#[test]
fn one_unknown_operation_cannot_explain_two_changes() {
    let truth = vec![
        change(2, vec![put_event(kv("a", "1", 2, 2, 1))]),
        change(3, vec![put_event(kv("a", "1", 2, 3, 2))]),
    ];
    let with = |operations| History { truth: Some(truth.clone()), ..history(operations) };
    fine(&with(vec![lost_put((0, 10), "a", "1"), lost_put((0, 10), "a", "1")]));
    told(&with(vec![lost_put((0, 10), "a", "1")]), Rule::UnexplainedChange, &["took effect twice"]);
}

#[test]
fn an_unknown_delete_of_a_prefix_is_kept_for_the_change_that_only_it_explains() {
    let lost = |range| {
        operation((50, 60), Request::Delete(DeleteRequest { range, prev_kv: false }), Outcome::Unknown)
    };
    let truth = vec![
        change(2, vec![put_event(kv("a1", "1", 2, 2, 1))]),
        change(3, vec![delete_event("a1", 3)]),
        change(4, vec![put_event(kv("a1", "2", 4, 4, 1))]),
        change(5, vec![put_event(kv("a2", "2", 5, 5, 1))]),
        change(6, vec![delete_event("a1", 6), delete_event("a2", 6)]),
    ];
    let operations = vec![
        put((0, 10), "a1", "1", 2),
        lost(KeyRange::prefix("a")),
        lost(KeyRange::one("a1")),
        put((70, 80), "a1", "2", 4),
        put((90, 99), "a2", "2", 5),
    ];
    fine(&History { truth: Some(truth), ..history(operations) });
}

#[test]
fn a_refusal_that_is_untrue_is_told() {
    let refused = |refusal| {
        let mut read = at_revision(get((40, 50), "a", &[], 3), 2);
        read.outcome = Outcome::Refused(refusal);
        read
    };
    let compact = operation((5, 8), Request::Compact { revision: 3 }, ok(3, ReplyBody::Compact));
    let puts = vec![put((0, 1), "a", "1", 2), put((2, 3), "a", "2", 3)];
    let with = |more: &[Operation]| history([puts.clone(), more.to_vec()].concat());
    told(&with(&[refused(Refusal::Compacted)]), Rule::WrongRefusal, &["compacted"]);
    fine(&with(&[compact, refused(Refusal::Compacted)]));
    told(&with(&[refused(Refusal::FutureRevision)]), Rule::WrongRefusal, &["future revision"]);
}

#[test]
fn a_change_seen_before_it_was_committed_is_told() {
    let with = |at| {
        let committed = Change { at: Some(at), ..change(2, vec![put_event(kv("a", "1", 2, 2, 1))]) };
        History { truth: Some(vec![committed]), ..history(vec![put((5, 10), "a", "1", 2)]) }
    };
    fine(&with(7));
    told(&with(11), Rule::OutsideInterval, &["took effect at"]);
    told(&with(3), Rule::OutsideInterval, &["before it was asked for"]);
}

#[test]
fn a_session_that_goes_back_and_two_contents_of_one_revision_are_told() {
    let puts = [put((0, 10), "a", "1", 2), put((20, 30), "a", "2", 3)];
    let back = get((40, 50), "a", &[kv("a", "1", 2, 2, 1)], 2);
    told(
        &history([puts.to_vec(), vec![back]].concat()),
        Rule::SessionOrder,
        &["revision 3 and later revision 2"],
    );
    let reads =
        [get((40, 50), "a", &[kv("a", "2", 2, 3, 2)], 3), get((40, 50), "a", &[kv("a", "x", 2, 3, 2)], 3)];
    told(&history([puts.to_vec(), reads.to_vec()].concat()), Rule::ContentDiffers, &["two contents"]);
}

#[test]
fn a_history_that_contradicts_itself_is_told_and_left_out() {
    let mut backwards = put((0, 10), "a", "1", 2);
    backwards.completed = Some(0);
    backwards.invoked = 5;
    told(&history(vec![backwards]), Rule::Recording, &["ended before it began"]);
    let mixed = operation((0, 1), Request::Put(put_request("a", "1", 0)), ok(2, ReplyBody::Compact));
    told(&history(vec![mixed]), Rule::Recording, &["not of its request's kind"]);
}

// Watches.

/// Revisions 2 to 5: a=1; a=2; a and b in one transaction; a deleted.
fn watched(messages: Vec<WatchMessage>, change_request: impl Fn(&mut WatchRequest)) -> History {
    let txn = TxnRequest {
        success: vec![OpRequest::Put(put_request("a", "3", 0)), OpRequest::Put(put_request("b", "3", 0))],
        ..TxnRequest::default()
    };
    let answers = vec![OpReply::Put(PutReply::default()); 2];
    let answer = ReplyBody::Txn(TxnReply { succeeded: true, responses: answers });
    let operations = vec![
        put((0, 1), "a", "1", 2),
        put((2, 3), "a", "2", 3),
        operation((4, 5), Request::Txn(txn), ok(4, answer)),
        delete((6, 7), "a", 1, 5),
    ];
    let mut request = WatchRequest::new(KeyRange::all(), 2);
    change_request(&mut request);
    let drained_to = Some(5);
    let watch = Watch { client: 9, member: 2, invoked: 0, request, messages, drained_to };
    History { watches: vec![watch], ..history(operations) }
}

fn all_events() -> Vec<Event> {
    vec![
        put_event(kv("a", "1", 2, 2, 1)),
        put_event(kv("a", "2", 2, 3, 2)),
        put_event(kv("a", "3", 2, 4, 3)),
        put_event(kv("b", "3", 4, 4, 1)),
        delete_event("a", 5),
    ]
}

fn events(events: &[Event]) -> WatchMessage {
    WatchMessage::Events { at: 100, revision: 5, events: events.to_vec(), fragment: false }
}

fn progress(revision: Revision) -> WatchMessage {
    WatchMessage::Progress { at: 100, revision }
}

fn as_asked(_: &mut WatchRequest) {}

#[test]
fn a_whole_watch_is_fine_in_one_message_or_many() {
    let all = all_events();
    fine(&watched(vec![events(&all), progress(5)], as_asked));
    fine(&watched(vec![events(&all[..2]), progress(3), events(&all[2..4]), events(&all[4..])], as_asked));
    fine(&watched(vec![events(&all[1..])], |request| request.start_revision = 3));
    fine(&watched(vec![events(&all[3..4])], |request| request.range = KeyRange::one("b")));
    fine(&watched(vec![events(&all[4..])], |request| request.no_put = true));
}

#[test]
fn a_duplicate_a_gap_and_a_wrong_order_are_told() {
    let all = all_events();
    let twice = watched(vec![events(&all), events(&all[1..2])], as_asked);
    told(&twice, Rule::WatchDuplicate, &["again", "\"a\"=\"2\""]);
    told(
        &watched(vec![events(&all[..1]), events(&all[2..])], as_asked),
        Rule::WatchGap,
        &["left out revision 3"],
    );
    told(&watched(vec![events(&all[..4])], as_asked), Rule::WatchGap, &["revision 5"]);
    told(&watched(vec![], as_asked), Rule::WatchGap, &["revision 2"]);
    let swapped = [&all[1..2], &all[..1], &all[2..]].concat();
    told(&watched(vec![events(&swapped)], as_asked), Rule::WatchOrder, &["late"]);
    let inside = [&all[..2], &all[3..4], &all[2..3], &all[4..]].concat();
    told(&watched(vec![events(&inside)], as_asked), Rule::WatchOrder, &["another order"]);
}

#[test]
fn a_torn_revision_is_told_unless_it_is_a_fragment_that_was_asked_for() {
    let all = all_events();
    let torn = vec![events(&all[..3]), events(&all[3..])];
    told(&watched(torn, as_asked), Rule::WatchTorn, &["a part of a revision"]);
    let missing = [&all[..3], &all[4..]].concat();
    told(&watched(vec![events(&missing)], as_asked), Rule::WatchTorn, &[]);
    let first = WatchMessage::Events { at: 100, revision: 5, events: all[..3].to_vec(), fragment: true };
    let fragments = vec![first, events(&all[3..])];
    fine(&watched(fragments.clone(), |request| request.fragment = true));
    told(&watched(fragments, as_asked), Rule::WatchTorn, &["fragment"]);
}

#[test]
fn a_foreign_event_a_wrong_value_and_a_broken_filter_are_told() {
    let all = all_events();
    let only_b = |request: &mut WatchRequest| request.range = KeyRange::one("b");
    told(&watched(vec![events(&all[2..4])], only_b), Rule::WatchWrongEvent, &["did not happen so"]);
    let mut wrong = all.clone();
    wrong[1].kv.value = "x".into();
    told(&watched(vec![events(&wrong)], as_asked), Rule::WatchWrongEvent, &["\"x\""]);
    told(&watched(vec![events(&all)], |request| request.no_delete = true), Rule::WatchWrongEvent, &[]);
    told(
        &watched(vec![events(&all)], |request| request.start_revision = 3),
        Rule::WatchWrongEvent,
        &["before its start"],
    );
}

#[test]
fn a_wrong_previous_key_is_told() {
    let mut all = all_events();
    all[1].prev_kv = Some(kv("a", "1", 2, 2, 1));
    all[2].prev_kv = Some(kv("a", "2", 2, 3, 2));
    all[4].prev_kv = Some(kv("a", "3", 2, 4, 3));
    let asked = |request: &mut WatchRequest| request.prev_kv = true;
    fine(&watched(vec![events(&all)], asked));
    let mut wrong = all.clone();
    wrong[2].prev_kv = Some(kv("a", "1", 2, 2, 1));
    told(&watched(vec![events(&wrong)], asked), Rule::WatchPrevKv, &["was \"a\"=\"2\""]);
    let mut missing = all.clone();
    missing[2].prev_kv = None;
    told(&watched(vec![events(&missing)], asked), Rule::WatchPrevKv, &["absent"]);
    // Unless it may have been compacted.
    let mut compacted = watched(vec![events(&missing)], asked);
    compacted.operations.push(operation((8, 9), Request::Compact { revision: 4 }, ok(5, ReplyBody::Compact)));
    fine(&compacted);
    told(&watched(vec![events(&all)], as_asked), Rule::WatchPrevKv, &["did not ask"]);
}

#[test]
fn progress_ahead_of_events_is_told() {
    let all = all_events();
    let ahead = watched(vec![events(&all[..1]), progress(4), events(&all[1..])], as_asked);
    told(&ahead, Rule::WatchProgress, &["told progress to revision 4", "left out revision 3"]);
    told(&watched(vec![events(&all), progress(4)], as_asked), Rule::WatchProgress, &["went back"]);
    told(&watched(vec![events(&all), progress(9)], as_asked), Rule::WatchProgress, &["only to 5"]);
}

#[test]
fn compaction_is_told_never_skipped() {
    let all = all_events();
    let compact = operation((8, 9), Request::Compact { revision: 4 }, ok(5, ReplyBody::Compact));
    let cancelled = WatchMessage::Compacted { at: 100, compact_revision: 4 };
    let resumed = WatchMessage::Resumed { at: 100, member: 1, start_revision: 4 };
    let with = |messages| {
        let mut history = watched(messages, as_asked);
        history.operations.push(compact.clone());
        history
    };
    fine(&with(vec![events(&all[..1]), cancelled.clone(), resumed.clone(), events(&all[2..])]));
    // Silently from 3 to 4.
    told(&with(vec![events(&all[..1]), events(&all[2..])]), Rule::WatchGap, &["left out revision 3"]);
    told(
        &with(vec![events(&all[..2]), cancelled.clone(), resumed.clone(), events(&all[2..])]),
        Rule::WatchCompaction,
        &["needed only revision 4"],
    );
    told(
        &with(vec![events(&all[..1]), cancelled.clone(), events(&all[2..])]),
        Rule::WatchCompaction,
        &["delivered more"],
    );
    let nobody = watched(vec![events(&all[..1]), cancelled, resumed, events(&all[2..])], as_asked);
    told(&nobody, Rule::WatchCompaction, &["none beyond 0"]);
}

#[test]
fn a_resumed_watch_misses_nothing() {
    let all = all_events();
    let again = |start_revision| WatchMessage::Resumed { at: 100, member: 3, start_revision };
    let end = WatchMessage::Ended { at: 100 };
    fine(&watched(vec![events(&all[..1]), end.clone(), again(3), events(&all[1..])], as_asked));
    fine(&watched(vec![events(&all[..2]), end.clone(), again(3), events(&all[1..])], as_asked));
    let lost = watched(vec![events(&all[..1]), end.clone(), again(3), events(&all[2..])], as_asked);
    told(&lost, Rule::WatchGap, &["left out revision 3"]);
    told(&watched(vec![end, events(&all)], as_asked), Rule::Recording, &["ended"]);
}

#[test]
fn a_watch_from_now_begins_after_its_creation() {
    let all = all_events();
    let created = WatchMessage::Created { at: 10, revision: 3 };
    let now = |request: &mut WatchRequest| request.start_revision = 0;
    fine(&watched(vec![created.clone(), events(&all[2..])], now));
    told(&watched(vec![created.clone(), events(&all[4..])], now), Rule::WatchGap, &["left out revision 4"]);
    told(&watched(vec![created, events(&all[1..])], now), Rule::WatchWrongEvent, &["before its start"]);
}

// Leases.

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

// Locks.

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

#[test]
fn violations_beyond_the_cap_are_counted_but_not_kept() {
    let mut operations = vec![put((0, 1), "a", "1", 2), put((2, 3), "a", "2", 3)];
    operations.extend((0..100).map(|_| get((40, 50), "a", &[kv("a", "1", 2, 2, 1)], 2)));
    let report = check(&history(operations), &Settings { cap: 3, ..Settings::default() });
    assert_eq!(
        report.violations().iter().filter(|violation| violation.rule == Rule::StaleRevision).count(),
        3
    );
    assert!(report.total() >= 100);
}
