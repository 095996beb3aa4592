//! Which revisions were seen when: the clock that all checkers share.
//!
//! A revision in an answer existed when the answer came. So each answer, and each message of a
//! watch, bounds the moments of all revisions up to its own.

use crate::history::{History, Nanos, Outcome, Revision, WatchMessage};

/// Where a revision was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// In the answer to the operation of this number.
    Operation(usize),
    /// By the watch of this number.
    Watch(usize),
}

/// The sightings in order of time, with the largest revision so far.
#[derive(Debug)]
pub struct Observed {
    /// `(time, largest revision seen until then, where)`.
    seen: Vec<(Nanos, Revision, Source)>,
    /// `(revision, latest time)`: a current answer of at most this revision was still asked for
    /// at this time.
    below: Vec<(Revision, Nanos)>,
}

impl Observed {
    /// Collects what `history` saw up to revision `last`; larger ones are no revisions.
    pub fn new(history: &History, last: Revision) -> Self {
        let mut seen = Vec::with_capacity(history.operations.len());
        let mut below = Vec::new();
        for (index, operation) in history.operations.iter().enumerate() {
            let (Outcome::Ok(reply), Some(at)) = (&operation.outcome, operation.completed) else { continue };
            if !(1..=last).contains(&reply.revision) {
                continue;
            }
            seen.push((at, reply.revision, Source::Operation(index)));
            if operation.request.is_linearizable() {
                below.push((reply.revision, operation.invoked));
            }
        }
        for (index, watch) in history.watches.iter().enumerate() {
            for message in &watch.messages {
                let (at, revision) = match message {
                    WatchMessage::Created { at, revision } | WatchMessage::Progress { at, revision } => {
                        (*at, *revision)
                    }
                    WatchMessage::Events { at, revision, events, .. } => {
                        (*at, events.last().map_or(*revision, |event| event.revision()))
                    }
                    _ => continue,
                };
                if (1..=last).contains(&revision) {
                    seen.push((at, revision, Source::Watch(index)));
                }
            }
        }
        seen.sort_unstable_by_key(|(at, revision, _)| (*at, *revision));
        let mut best: Option<(Revision, Source)> = None;
        for (_, revision, source) in &mut seen {
            match best {
                Some((max, witness)) if max >= *revision => (*revision, *source) = (max, witness),
                _ => best = Some((*revision, *source)),
            }
        }
        below.sort_unstable();
        let mut latest = 0;
        for (_, at) in &mut below {
            latest = latest.max(*at);
            *at = latest;
        }
        Self { seen, below }
    }

    /// The largest revision seen before `at`, and by whom.
    pub fn before(&self, at: Nanos) -> Option<(Revision, Source)> {
        let count = self.seen.partition_point(|(seen_at, ..)| *seen_at < at);
        let (_, revision, source) = self.seen.get(count.checked_sub(1)?)?;
        Some((*revision, *source))
    }

    /// The largest revision seen before `at`; 1 if none was.
    pub fn floor(&self, at: Nanos) -> Revision {
        self.before(at).map_or(1, |(revision, _)| revision)
    }

    /// When `revision`, or a later one, was first seen: it existed by then.
    pub fn existed_by(&self, revision: Revision) -> Option<(Nanos, Source)> {
        let index = self.seen.partition_point(|(_, max, _)| *max < revision);
        self.seen.get(index).map(|(at, _, source)| (*at, *source))
    }

    /// The latest time at which `revision` certainly did not exist yet.
    pub fn missing_at(&self, revision: Revision) -> Option<Nanos> {
        let count = self.below.partition_point(|(below, _)| *below < revision);
        self.below.get(count.checked_sub(1)?).map(|(_, at)| *at)
    }

    /// The largest revision seen; 1 if none was.
    pub fn existed_up_to(&self) -> Revision {
        self.seen.last().map_or(1, |(_, revision, _)| *revision)
    }

    /// The latest time at which a current answer was asked for.
    pub fn latest_question(&self) -> Option<Nanos> {
        self.below.last().map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{KeyRange, Operation, RangeReply, RangeRequest, Reply, ReplyBody, Request};

    fn read(invoked: Nanos, completed: Nanos, revision: Revision) -> Operation {
        Operation {
            client: 1,
            member: 1,
            invoked,
            completed: Some(completed),
            request: Request::Range(RangeRequest::new(KeyRange::all())),
            outcome: Outcome::Ok(Reply { revision, body: ReplyBody::Range(RangeReply::default()) }),
        }
    }

    #[test]
    fn sightings_bound_the_moment_of_a_revision_from_both_sides() {
        let operations = vec![read(10, 20, 5), read(30, 40, 3), read(50, 60, 9), read(70, 80, 1000)];
        let observed = Observed::new(&History { operations, ..History::default() }, 10);
        assert_eq!(observed.floor(20), 1);
        assert_eq!(observed.before(21), Some((5, Source::Operation(0))));
        assert_eq!(observed.before(45), Some((5, Source::Operation(0))));
        assert_eq!(observed.floor(100), 9);
        assert_eq!(observed.existed_by(4), Some((20, Source::Operation(0))));
        assert_eq!(observed.existed_by(6), Some((60, Source::Operation(2))));
        assert_eq!(observed.existed_by(10), None);
        assert_eq!(observed.missing_at(5), Some(30));
        assert_eq!(observed.missing_at(6), Some(30));
        assert_eq!(observed.missing_at(3), None);
        assert_eq!(observed.latest_question(), Some(50));
    }
}
