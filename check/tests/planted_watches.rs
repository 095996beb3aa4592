//! Small histories by hand, each with one fault, and what is said of it; beside each the honest
//! twin of which nothing is said. Here: watches.

mod hand;

use folkmoot_check::Rule;
use folkmoot_check::history::*;
use hand::*;

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
