//! Watches and what they delivered.

use super::{ClientId, Event, KeyRange, MemberId, Nanos, Revision};

/// One watch as its client sees it, over all the streams it was carried by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// Who watches.
    pub client: ClientId,
    /// The member asked first.
    pub member: MemberId,
    /// When the client was about to ask.
    pub invoked: Nanos,
    /// What was asked.
    pub request: WatchRequest,
    /// All that came, in order, and when the client asked again.
    pub messages: Vec<WatchMessage>,
    /// The recorder knows that the watch had every chance to deliver all of its events up to this
    /// revision (faults ended, a progress or a mark key came through): what is missing then is
    /// lost. `None` judges only what lies before the last message.
    pub drained_to: Option<Revision>,
}

/// What a watch asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchRequest {
    /// The keys.
    pub range: KeyRange,
    /// First revision to deliver; 0 for everything after now.
    pub start_revision: Revision,
    /// Send the previous key with each event.
    pub prev_kv: bool,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletes out.
    pub no_delete: bool,
    /// A revision's events may come in several messages.
    pub fragment: bool,
}

impl WatchRequest {
    /// All events of `range` from `start_revision` on.
    pub fn new(range: KeyRange, start_revision: Revision) -> Self {
        Self { range, start_revision, prev_kv: false, no_put: false, no_delete: false, fragment: false }
    }

    /// Whether the filters leave `event` in.
    pub fn wants(&self, event: &Event) -> bool {
        let filtered = match event.kind {
            super::EventKind::Put => self.no_put,
            super::EventKind::Delete => self.no_delete,
        };
        !filtered && self.range.contains(&event.kv.key)
    }
}

/// One message of a watch, or one deed of its client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchMessage {
    /// The watch exists.
    Created {
        /// When it came.
        at: Nanos,
        /// `header.revision`: a watch from now delivers what comes after it.
        revision: Revision,
    },
    /// Events.
    Events {
        /// When they came.
        at: Nanos,
        /// `header.revision`; 0 if unknown.
        revision: Revision,
        /// The events.
        events: Vec<Event>,
        /// More of the same revision follows (only when asked for).
        fragment: bool,
    },
    /// A message without events: all events up to its revision were delivered before.
    Progress {
        /// When it came.
        at: Nanos,
        /// `header.revision`.
        revision: Revision,
    },
    /// The store cancelled the watch because its next revision is compacted.
    Compacted {
        /// When it came.
        at: Nanos,
        /// The revision to start from again at the earliest.
        compact_revision: Revision,
    },
    /// The stream broke or was cancelled for another reason. Nothing is promised beyond what came.
    Ended {
        /// When the client knew.
        at: Nanos,
    },
    /// The client asked again, after an end or a compaction. A [`WatchMessage::Created`] follows
    /// if the store answered.
    Resumed {
        /// When it was about to ask.
        at: Nanos,
        /// The member asked.
        member: MemberId,
        /// First revision to deliver; 0 for everything after now. To lose nothing and to see
        /// nothing twice: the last delivered revision (of an event or of progress) plus one.
        start_revision: Revision,
    },
}

impl WatchMessage {
    /// When it came or was done.
    pub fn at(&self) -> Nanos {
        match self {
            Self::Created { at, .. }
            | Self::Events { at, .. }
            | Self::Progress { at, .. }
            | Self::Compacted { at, .. }
            | Self::Ended { at }
            | Self::Resumed { at, .. } => *at,
        }
    }
}
