//! Small histories by hand, each with one fault, and what is said of it; beside each the honest
//! twin of which nothing is said. Here: calls and their answers.

mod hand;

use folkmoot_check::history::*;
use folkmoot_check::{Rule, Settings, check};
use hand::*;

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
