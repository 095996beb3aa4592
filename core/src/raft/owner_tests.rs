//! Stories of one owner, with the messages of others written by hand.

use prost_raft::Message as _;
use raft::eraftpb::{Entry, Message, MessageType, Snapshot};

use super::owner::{ConfState, Drained, Owner, OwnerConfig, Role};
use super::snapshot::Arrival;
use super::start::StartPoint;
use super::{MembershipChange, Refused};
use crate::types::{LogIndex, MemberId, Term};
use crate::wal::{Chain, HardState, LogPoint, Recovered};

const ME: MemberId = MemberId(1);
const PEER: MemberId = MemberId(2);

fn owner(voters: &[u64]) -> Owner {
    owner_from(LogPoint { index: LogIndex(1), term: Term(1) }, voters)
}

fn owner_from(start: LogPoint, voters: &[u64]) -> Owner {
    let config = OwnerConfig {
        id: ME,
        election_ticks: 10,
        heartbeat_ticks: 1,
        boot: 1,
        seed: 1,
        kept_entries: 100,
        kept_bytes: 1 << 20,
    };
    let point = StartPoint { applied: start, conf_state: conf(voters), installed: start.index };
    let hard_state = HardState { term: start.term, vote: 0, commit: start.index };
    let recovered = Recovered { start, entries: vec![], hard_state, tail: None, chain: Chain::default() };
    Owner::new(config, &point, recovered).unwrap()
}

fn conf(voters: &[u64]) -> ConfState {
    ConfState { voters: voters.iter().copied().map(MemberId).collect(), learners: vec![] }
}

fn message(kind: MessageType) -> Message {
    Message { msg_type: kind as i32, from: PEER.0, to: ME.0, term: 2, ..Message::default() }
}

/// Entries of term 2 behind the last one, up to this index.
fn append(owner: &Owner, up_to: u64, commit: u64) -> Message {
    let index = owner.last_index().0;
    let entries = (index + 1..=up_to).map(|index| Entry { index, term: 2, ..Entry::default() }).collect();
    let log_term = if index == 1 { 1 } else { 2 };
    Message { index, log_term, entries, commit, ..message(MessageType::MsgAppend) }
}

fn hear(owner: &mut Owner, message: &Message) -> Result<(), Refused> {
    owner.peer_message(PEER, &message.encode_to_vec(), true)
}

/// Collects what came of the inputs; the log write, if any, stays on its way.
fn drain(owner: &mut Owner) -> (Drained, u64) {
    let mut out = Drained::default();
    owner.drain(&mut out).unwrap();
    let number = out.wal.as_ref().map_or(0, |wal| wal.0);
    (out, number)
}

#[test]
fn who_votes_alone_asks_for_nothing_before_its_log_is_durable() {
    let mut owner = owner(&[1, 2]);
    let first = append(&owner, 2, 2);
    hear(&mut owner, &first).unwrap();
    let (_, write) = drain(&mut owner);
    owner.wal_done(write, &mut Drained::default());
    let (applied, _) = drain(&mut owner);
    assert_eq!(applied.committed.len(), 1);
    owner.applied(LogIndex(2));
    let more = append(&owner, 3, 2);
    hear(&mut owner, &more).unwrap();
    owner.apply_membership(MembershipChange::Remove(PEER), &conf(&[1])).unwrap();
    for _ in 0..50 {
        owner.tick();
    }
    hear(&mut owner, &message(MessageType::MsgTimeoutNow)).unwrap();
    let (_, write) = drain(&mut owner);
    for _ in 0..50 {
        owner.tick();
    }
    hear(&mut owner, &message(MessageType::MsgTimeoutNow)).unwrap();
    assert_eq!(owner.role(), Role::Follower);
    owner.wal_done(write, &mut Drained::default());
    for _ in 0..20 {
        owner.tick();
    }
    assert_eq!(owner.role(), Role::Leader);
}

#[test]
fn a_repair_takes_no_snapshot_that_lacks_what_was_acknowledged() {
    let mut owner = owner(&[1, 2, 3]);
    let entries = append(&owner, 9, 5);
    hear(&mut owner, &entries).unwrap();
    let (_, write) = drain(&mut owner);
    owner.wal_done(write, &mut Drained::default());
    drain(&mut owner);
    assert!(owner.request_snapshot());
    let arrives = |owner: &mut Owner, index| {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, 2);
        metadata.mut_conf_state().voters = vec![1, 2, 3];
        let message = Message { snapshot: Some(snapshot), ..message(MessageType::MsgSnapshot) };
        owner.snapshot_arrived(PEER, &message.encode_to_vec())
    };
    assert_eq!(arrives(&mut owner, 8), Ok(Arrival::NotWanted));
    assert_eq!(owner.last_index(), LogIndex(9));
    assert_eq!(arrives(&mut owner, 9), Ok(Arrival::Taken));
}

#[test]
fn a_request_for_a_snapshot_ends_with_its_term() {
    let mut owner = owner(&[1, 2, 3]);
    let entries = append(&owner, 9, 5);
    hear(&mut owner, &entries).unwrap();
    let (_, write) = drain(&mut owner);
    owner.wal_done(write, &mut Drained::default());
    assert!(owner.request_snapshot());
    assert!(!owner.request_snapshot(), "it is open");
    // An entry of the next leader is taken at once: that leader may need this member to commit it.
    let next = Message {
        term: 3,
        index: 9,
        log_term: 2,
        entries: vec![Entry { index: 10, term: 3, ..Entry::default() }],
        ..message(MessageType::MsgAppend)
    };
    hear(&mut owner, &next).unwrap();
    assert_eq!(owner.last_index(), LogIndex(10));
    assert!(owner.request_snapshot());
}

#[test]
fn a_request_for_a_snapshot_ends_when_its_leader_makes_none() {
    let mut owner = owner(&[1, 2, 3]);
    let entries = append(&owner, 9, 5);
    hear(&mut owner, &entries).unwrap();
    let (_, write) = drain(&mut owner);
    owner.wal_done(write, &mut Drained::default());
    assert!(owner.request_snapshot());
    let entries = append(&owner, 10, 5);
    owner.snapshot_refused(PEER, Term(1));
    owner.snapshot_refused(MemberId(3), Term(2));
    hear(&mut owner, &entries).unwrap();
    assert_eq!(owner.last_index(), LogIndex(9), "neither this leader's word nor of this term");
    owner.snapshot_refused(PEER, Term(2));
    hear(&mut owner, &entries).unwrap();
    assert_eq!(owner.last_index(), LogIndex(10));
    assert!(owner.request_snapshot());
}

/// A leader of two whose log ends at the first entry of its term.
fn leader() -> Owner {
    let mut owner = owner(&[1, 2]);
    while owner.role() != Role::Candidate {
        owner.tick();
    }
    let term = owner.term().0 + 1;
    hear(&mut owner, &Message { term, ..message(MessageType::MsgRequestPreVoteResponse) }).unwrap();
    hear(&mut owner, &Message { term, ..message(MessageType::MsgRequestVoteResponse) }).unwrap();
    assert_eq!(owner.role(), Role::Leader);
    owner
}

#[test]
fn a_request_for_what_is_not_committed_is_the_answer_that_commits_it() {
    let mut owner = leader();
    let (_, write) = drain(&mut owner);
    owner.wal_done(write, &mut Drained::default());
    let (last, term) = (owner.last_index().0, owner.term().0);
    let request = |log_term, reject_hint| Message {
        term,
        index: 1,
        reject: true,
        reject_hint,
        log_term,
        request_snapshot: last,
        ..message(MessageType::MsgAppendResponse)
    };
    assert!(owner.committed().0 < last);
    // From an entry of another term, or from one that is not the last, nothing follows.
    hear(&mut owner, &request(term - 1, last)).unwrap();
    hear(&mut owner, &request(term, last - 1)).unwrap();
    assert_eq!(owner.matched(PEER), Some(LogIndex(0)));
    hear(&mut owner, &request(term, last)).unwrap();
    assert_eq!((owner.matched(PEER), owner.committed().0), (Some(LogIndex(last)), last));
    drain(&mut owner);
    assert!(!owner.takes_snapshot_wish());
    // It comes again when its sender has heard that it is committed, and can be met.
    hear(&mut owner, &Message { index: last, ..request(term, last) }).unwrap();
    drain(&mut owner);
    assert!(owner.takes_snapshot_wish());
}

#[test]
fn who_is_not_fit_does_not_lead_when_asked_to() {
    for is_fit in [false, true] {
        let mut owner = owner(&[1, 2, 3]);
        let entries = append(&owner, 2, 2);
        hear(&mut owner, &entries).unwrap();
        let timeout_now = message(MessageType::MsgTimeoutNow).encode_to_vec();
        owner.peer_message(PEER, &timeout_now, is_fit).unwrap();
        assert_eq!(owner.role() == Role::Candidate, is_fit);
    }
}

#[test]
fn a_vote_with_a_priority_does_not_reach_a_member_with_an_empty_log() {
    let start = LogPoint { index: LogIndex(0), term: Term(0) };
    for (priority, deprecated_priority) in [(-1, 0), (0, u64::MAX), (7, 0)] {
        let mut owner = owner_from(start, &[]);
        let vote = Message { priority, deprecated_priority, ..message(MessageType::MsgRequestPreVote) };
        assert_eq!(hear(&mut owner, &vote), Err(Refused::Inconsistent));
    }
}

#[test]
fn an_answer_about_entries_that_nobody_has_does_not_reach_the_leaders_books() {
    let mut owner = leader();
    let (last, term) = (owner.last_index().0, owner.term().0);
    let answer = |index| Message { term, index, ..message(MessageType::MsgAppendResponse) };
    assert_eq!(hear(&mut owner, &answer(u64::MAX)), Err(Refused::Inconsistent));
    assert_eq!(hear(&mut owner, &answer(last + 1)), Err(Refused::Inconsistent));
    assert_eq!(owner.matched(PEER), Some(LogIndex(0)));
    hear(&mut owner, &answer(last)).unwrap();
    assert_eq!(owner.matched(PEER), Some(LogIndex(last)));
}
