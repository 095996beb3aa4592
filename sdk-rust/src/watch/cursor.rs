//! Where a watch stands, and how answers of the store become batches. No input or output.
//!
//! Invariants: batches have strictly growing revisions; a batch is all of its revision; what was
//! delivered once is not delivered again, however often the watch begins anew at [`Cursor::next`].

use folkmoot_proto::mvccpb;

/// All changes of one revision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RawBatch {
    pub revision: i64,
    pub events: Vec<mvccpb::Event>,
}

/// The position of one watch.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// The first revision that was not fully delivered.
    next: i64,
    /// Events of the revision that may still grow.
    open: Vec<mvccpb::Event>,
    /// Whether the answer before this one was a piece.
    in_pieces: bool,
}

fn revision_of(event: &mvccpb::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

impl Cursor {
    pub fn new(next: i64) -> Self {
        Self { next, open: Vec::new(), in_pieces: false }
    }

    /// From where the watch must begin if it begins anew now.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// The connection is gone: pieces without an end are worth nothing.
    pub fn disconnected(&mut self) {
        self.open.clear();
        self.in_pieces = false;
    }

    /// A batch could not be delivered: go back to it.
    pub fn rewind(&mut self, revision: i64) {
        self.disconnected();
        self.next = revision;
    }

    /// Takes events; `fragment` says that more of the same answer will come.
    pub fn on_events(&mut self, events: Vec<mvccpb::Event>, fragment: bool) -> Vec<RawBatch> {
        let mut batches = Vec::new();
        for event in events {
            let revision = revision_of(&event);
            if revision < self.next {
                continue;
            }
            if self.open.first().is_some_and(|first| revision_of(first) != revision) {
                self.finish(&mut batches);
                // Events of an answer are in the order of their revisions.
                if revision < self.next {
                    continue;
                }
            }
            self.open.push(event);
        }
        self.in_pieces = fragment;
        if !fragment {
            self.finish(&mut batches);
        }
        batches
    }

    fn finish(&mut self, batches: &mut Vec<RawBatch>) {
        if let Some(first) = self.open.first() {
            let revision = revision_of(first);
            self.next = revision + 1;
            batches.push(RawBatch { revision, events: std::mem::take(&mut self.open) });
        }
    }

    /// The store says that everything up to `revision` was sent. Answers whether that is news.
    pub fn on_progress(&mut self, revision: i64) -> bool {
        if self.in_pieces || !self.open.is_empty() || revision < self.next {
            return false;
        }
        self.next = revision + 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(revision: i64, key: &str) -> mvccpb::Event {
        let kv =
            mvccpb::KeyValue { key: key.to_owned().into(), mod_revision: revision, ..Default::default() };
        mvccpb::Event { kv: Some(kv), ..Default::default() }
    }

    fn revisions(batches: &[RawBatch]) -> Vec<(i64, usize)> {
        batches.iter().map(|batch| (batch.revision, batch.events.len())).collect()
    }

    #[test]
    fn w_3_pieces_of_a_revision_are_delivered_together() {
        let mut cursor = Cursor::new(5);
        let first = cursor.on_events(vec![event(5, "a"), event(6, "a")], true);
        assert_eq!(revisions(&first), [(5, 1)]);
        assert_eq!(cursor.next(), 6);
        assert_eq!(cursor.on_events(vec![event(6, "b")], true), []);
        assert!(!cursor.on_progress(9), "a revision is open");
        let last = cursor.on_events(vec![event(6, "c"), event(7, "a")], false);
        assert_eq!(revisions(&last), [(6, 3), (7, 1)]);
        assert_eq!(cursor.next(), 8);
    }

    #[test]
    fn w_3_a_cut_in_the_middle_begins_with_the_cut_revision() {
        let mut cursor = Cursor::new(1);
        cursor.on_events(vec![event(5, "a")], true);
        cursor.disconnected();
        assert_eq!(cursor.next(), 1);
        let again = cursor.on_events(vec![event(5, "a"), event(5, "b")], false);
        assert_eq!(revisions(&again), [(5, 2)]);
    }

    #[test]
    fn w_4_what_was_delivered_is_not_delivered_again() {
        let mut cursor = Cursor::new(1);
        cursor.on_events(vec![event(3, "a"), event(4, "a")], false);
        let overlap = cursor.on_events(vec![event(4, "a"), event(5, "a")], false);
        assert_eq!(revisions(&overlap), [(5, 1)]);
    }

    #[test]
    fn w_5_progress_moves_the_cursor() {
        let mut cursor = Cursor::new(1);
        assert!(cursor.on_progress(7));
        assert_eq!(cursor.next(), 8);
        assert!(!cursor.on_progress(7));
    }

    proptest! {
        /// Any cuts, pieces, overlaps and full queues: each revision once, whole and in order.
        #[test]
        fn w_3_w_4_no_gap_and_no_duplicate(
            sizes in prop::collection::vec(1_usize..5, 1..40),
            cuts in prop::collection::vec((1_usize..9, any::<bool>(), 0_i64..4, any::<bool>()), 1..200),
        ) {
            let history: Vec<_> = sizes
                .iter()
                .enumerate()
                .flat_map(|(at, size)| (0..*size).map(move |n| event(at as i64 + 1, &n.to_string())))
                .collect();
            let mut cursor = Cursor::new(1);
            let mut delivered: Vec<(i64, usize)> = Vec::new();
            let mut cuts = cuts.into_iter().chain(std::iter::repeat((1000, false, 0, false)));
            while delivered.len() < sizes.len() {
                // A new stream, perhaps with some of the past.
                let (_, _, overlap, _) = cuts.next().expect("never ends");
                let from = cursor.next() - overlap;
                let mut rest = history.iter().filter(|event| revision_of(event) >= from).cloned().peekable();
                while rest.peek().is_some() {
                    let (size, lost, _, full) = cuts.next().expect("never ends");
                    if lost {
                        break;
                    }
                    let piece: Vec<_> = rest.by_ref().take(size).collect();
                    let last = revision_of(piece.last().expect("is not empty"));
                    let fragment = rest.peek().is_some_and(|next| revision_of(next) == last);
                    for batch in cursor.on_events(piece, fragment) {
                        if full {
                            cursor.rewind(batch.revision);
                            break;
                        }
                        delivered.push((batch.revision, batch.events.len()));
                    }
                    if full {
                        break;
                    }
                }
                cursor.disconnected();
            }
            let expected: Vec<_> = sizes.iter().enumerate().map(|(at, size)| (at as i64 + 1, *size)).collect();
            prop_assert_eq!(delivered, expected);
        }
    }
}
