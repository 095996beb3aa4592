//! Watches: every event of the range once, in order, whole revisions, nothing left out unsaid.
//!
//! A watch is judged session by session; a session begins with the first request and with each
//! time the client asked again. Within a session the events must be exactly those of the
//! [`Timeline`] that the request wants, from its start to whatever came last.

use crate::context::Context;
use crate::history::{Change, Event, KeyRange, Nanos, Revision, Watch, WatchMessage};
use crate::refusal::Compactions;
use crate::tell::{At, List};
use crate::witness::Timeline;
use crate::{Report, Rule};

/// The ground truth that a watch on every key from revision 2 on makes: what it delivered.
///
/// The watch must have been drained after the last write, and its client must have resumed it
/// without a gap; what it saw twice because it resumed earlier is taken once.
pub fn truth_of(watch: &Watch) -> Vec<Change> {
    let mut truth: Vec<Change> = Vec::new();
    // Where the events of a resumed session are already there, they are skipped.
    let mut skip_to = 0;
    for message in &watch.messages {
        match message {
            WatchMessage::Resumed { .. } => skip_to = truth.last().map_or(0, |change| change.revision),
            WatchMessage::Events { events, .. } => {
                for event in events.iter().filter(|event| event.revision() > skip_to) {
                    let event = Event { prev_kv: None, ..event.clone() };
                    match truth.last_mut() {
                        Some(change) if change.revision == event.revision() => change.events.push(event),
                        _ => truth.push(Change { revision: event.revision(), events: vec![event], at: None }),
                    }
                }
            }
            _ => {}
        }
    }
    truth
}

/// Checks all watches.
pub fn check(context: &Context, timeline: &Timeline, compactions: &Compactions, report: &mut Report) {
    for (number, watch) in context.history.watches.iter().enumerate() {
        let mut judge = Judge {
            context,
            timeline,
            compactions,
            report,
            number,
            watch,
            session: Session::new(watch.request.start_revision),
        };
        for message in &watch.messages {
            judge.message(message);
        }
        judge.close();
        judge.drained();
    }
}

/// What is known of one session.
struct Session {
    /// First revision to deliver; `None` until the store said where "now" is.
    start: Option<Revision>,
    /// All before this was delivered.
    next: Option<Revision>,
    /// The last revision of an event; 0 before the first.
    last_event: Revision,
    /// The last revision of a progress message.
    progress: Revision,
    /// The revisions delivered, ascending.
    delivered: Vec<Revision>,
    /// The revision that is being delivered, with what came of it.
    open: Option<(Revision, Vec<Event>)>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Compacted,
    Ended,
}

impl Session {
    fn new(start: Revision) -> Self {
        let start = (start > 0).then_some(start);
        Self {
            start,
            next: start,
            last_event: 0,
            progress: 0,
            delivered: Vec::new(),
            open: None,
            state: State::Running,
        }
    }
}

struct Judge<'a> {
    context: &'a Context<'a>,
    timeline: &'a Timeline,
    compactions: &'a Compactions,
    report: &'a mut Report,
    number: usize,
    watch: &'a Watch,
    session: Session,
}

impl Judge<'_> {
    fn message(&mut self, message: &WatchMessage) {
        if self.session.state != State::Running {
            let (rule, what) = match self.session.state {
                State::Compacted => (Rule::WatchCompaction, "was cancelled by compaction"),
                _ => (Rule::Recording, "ended"),
            };
            if matches!(message, WatchMessage::Events { .. } | WatchMessage::Progress { .. }) {
                self.tell(rule, || format!("it {what}, but delivered more at {}", At(message.at())));
                return;
            }
        }
        match message {
            WatchMessage::Created { revision, .. } => {
                if self.session.start.is_none() {
                    self.session.start = Some(revision + 1);
                    self.session.next = Some(revision + 1);
                }
            }
            WatchMessage::Events { at, revision, events, fragment } => {
                self.events(*at, *revision, events, *fragment);
            }
            WatchMessage::Progress { at, revision } => self.progress(*at, *revision),
            WatchMessage::Compacted { at, compact_revision } => self.compacted(*at, *compact_revision),
            WatchMessage::Ended { .. } => {
                // What a broken stream cut off in the middle of a revision is no fault.
                if self.watch.request.fragment {
                    self.session.open = None;
                }
                self.close();
                self.session.state = State::Ended;
            }
            WatchMessage::Resumed { start_revision, .. } => {
                if self.watch.request.fragment {
                    self.session.open = None;
                }
                self.close();
                self.session = Session::new(*start_revision);
            }
        }
    }

    fn events(&mut self, at: Nanos, header: Revision, events: &[Event], fragment: bool) {
        if fragment && !self.watch.request.fragment {
            self.tell(Rule::WatchTorn, || {
                format!("it got a fragment at {} without having asked for any", At(at))
            });
        }
        for event in events {
            let revision = event.revision();
            match &mut self.session.open {
                Some((open, seen)) if *open == revision => seen.push(event.clone()),
                _ => {
                    self.close();
                    self.begin(at, event);
                }
            }
            self.prev_kv(at, event);
        }
        if !fragment {
            self.close();
        }
        if let Some(last) = events.last().filter(|last| header != 0 && header < last.revision()) {
            self.tell(Rule::WatchProgress, || {
                format!("a message at {} with header revision {header} holds a later event: {last}", At(at))
            });
        }
    }

    /// The first event of a revision came.
    fn begin(&mut self, at: Nanos, event: &Event) {
        let revision = event.revision();
        let session = &mut self.session;
        if session.start.is_some_and(|start| revision < start) {
            self.tell(Rule::WatchWrongEvent, || {
                format!("at {} it delivered an event from before its start: {event}", At(at))
            });
            return;
        }
        if revision <= session.last_event {
            let (last, again) = (session.last_event, session.delivered.binary_search(&revision).is_ok());
            // The rest of a torn revision was told when it was torn.
            if again && last == revision && !self.repeats(event) {
                return;
            }
            let rule = if again { Rule::WatchDuplicate } else { Rule::WatchOrder };
            let what = if again { "again" } else { "late" };
            self.tell(rule, || format!("at {}, after revision {last}, it delivered {what}: {event}", At(at)));
            return;
        }
        if revision <= session.progress {
            let progress = session.progress;
            self.tell(Rule::WatchProgress, || {
                format!(
                    "at {}, after progress to revision {progress}, it delivered an older event: {event}",
                    At(at)
                )
            });
        } else if let Some(next) = session.next {
            self.gap(next, revision - 1, at, Rule::WatchGap, "delivered", &event.to_string());
        }
        let session = &mut self.session;
        session.last_event = revision;
        session.next = Some(revision + 1);
        session.start.get_or_insert(revision);
        session.delivered.push(revision);
        session.open = Some((revision, vec![event.clone()]));
    }

    /// Whether an event of a revision that was closed came before, going by what the revision
    /// holds: its first event can only be a repetition.
    fn repeats(&self, event: &Event) -> bool {
        let Some(resolved) = self.timeline.get(event.revision()) else { return true };
        let first = resolved.events.iter().find(|other| self.watch.request.wants(other));
        first.is_none_or(|first| first.kv == event.kv)
    }

    /// All of a revision came, as far as the store says.
    fn close(&mut self) {
        let Some((revision, seen)) = self.session.open.take() else { return };
        let Some(resolved) = self.timeline.get(revision) else {
            let last = self.timeline.last();
            self.tell(Rule::WatchWrongEvent, || {
                format!("it delivered revision {revision} {}, but the store went only to {last}", List(&seen))
            });
            return;
        };
        if !resolved.known {
            return;
        }
        let wanted: Vec<&Event> =
            resolved.events.iter().filter(|event| self.watch.request.wants(event)).collect();
        let same = |a: &Event, b: &Event| a.kind == b.kind && a.kv == b.kv;
        if wanted.len() == seen.len() && wanted.iter().zip(&seen).all(|(a, b)| same(a, b)) {
            return;
        }
        let foreign = seen.iter().any(|event| !wanted.iter().any(|wanted| same(wanted, event)));
        let twice = seen
            .iter()
            .enumerate()
            .any(|(index, event)| seen[..index].iter().any(|other| same(other, event)));
        let (rule, what) = if foreign {
            (Rule::WatchWrongEvent, "it delivered what did not happen so")
        } else if twice {
            (Rule::WatchDuplicate, "it delivered an event twice")
        } else if seen.len() < wanted.len() {
            (Rule::WatchTorn, "it delivered a part of a revision")
        } else {
            (Rule::WatchOrder, "it delivered a revision's events in another order than they were made")
        };
        let (context, timeline) = (self.context, self.timeline);
        let wanted: Vec<Event> = wanted.into_iter().cloned().collect();
        self.tell(rule, || {
            format!(
                "{what}: {} instead of {}; {}",
                List(&seen),
                List(&wanted),
                timeline.tell(revision, context)
            )
        });
    }

    fn prev_kv(&mut self, at: Nanos, event: &Event) {
        if !self.watch.request.prev_kv {
            if event.prev_kv.is_some() {
                self.tell(Rule::WatchPrevKv, || {
                    format!("it did not ask for the key before, but got it: {event}")
                });
            }
            return;
        }
        let revision = event.revision();
        let Some(resolved) = self.timeline.get(revision).filter(|resolved| resolved.prev_known) else {
            return;
        };
        let same = |other: &&Event| other.kind == event.kind && other.kv == event.kv;
        let Some(expected) = resolved.events.iter().find(same) else { return };
        let may_be_absent = event.prev_kv.is_none() && revision <= self.compactions.reach(at);
        if expected.prev_kv != event.prev_kv && !may_be_absent {
            let told = |kv: &Option<crate::history::KeyValue>| {
                kv.as_ref().map_or_else(|| "absent".into(), ToString::to_string)
            };
            self.tell(Rule::WatchPrevKv, || {
                format!(
                    "the key before is told as {}, but was {}: {event}",
                    told(&event.prev_kv),
                    told(&expected.prev_kv)
                )
            });
        }
    }

    fn progress(&mut self, at: Nanos, revision: Revision) {
        self.close();
        let session = &self.session;
        let before = session.progress.max(session.last_event);
        if revision < before {
            self.tell(Rule::WatchProgress, || {
                format!("progress went back from revision {before} to {revision} at {}", At(at))
            });
            return;
        }
        if revision > self.timeline.last() {
            let last = self.timeline.last();
            self.tell(Rule::WatchProgress, || {
                format!("progress to revision {revision} at {}, but the store went only to {last}", At(at))
            });
            return;
        }
        if let Some(next) = session.next {
            self.gap(
                next,
                revision,
                at,
                Rule::WatchProgress,
                "told progress to",
                &format!("revision {revision}"),
            );
        }
        let session = &mut self.session;
        session.progress = revision;
        session.next = session.next.map(|next| next.max(revision + 1));
    }

    fn compacted(&mut self, at: Nanos, compact_revision: Revision) {
        self.close();
        self.session.state = State::Compacted;
        let reach = self.compactions.reach(at);
        if compact_revision > reach {
            self.tell(Rule::WatchCompaction, || {
                format!(
                    "it was cancelled at {} for a compaction to revision {compact_revision}, but until then none \
                     beyond {reach} was asked for",
                    At(at)
                )
            });
        }
        if let Some(next) = self.session.next.filter(|next| *next >= compact_revision) {
            self.tell(Rule::WatchCompaction, || {
                format!(
                    "it was cancelled at {} for a compaction to revision {compact_revision}, but it needed only \
                     revision {next} and later",
                    At(at)
                )
            });
        }
    }

    fn drained(&mut self) {
        let (Some(drained), State::Running) = (self.watch.drained_to, self.session.state) else { return };
        if let Some(next) = self.session.next {
            let at = self.watch.messages.last().map_or(self.watch.invoked, WatchMessage::at);
            self.gap(
                next,
                drained,
                at,
                Rule::WatchGap,
                "had every chance to deliver up to",
                &format!("revision {drained}"),
            );
        }
    }

    /// Tells if something wanted happened in revisions `from..=to`, none of which was delivered.
    fn gap(&mut self, from: Revision, to: Revision, at: Nanos, rule: Rule, did: &str, what: &str) {
        if let Some(missing) = self.first_wanted(from, to) {
            let (context, timeline) = (self.context, self.timeline);
            self.tell(rule, || {
                format!(
                    "until {} it {did} {what}, having left out {}",
                    At(at),
                    timeline.tell(missing, context)
                )
            });
        }
    }

    /// The first revision in `from..=to` of which the watch wants something.
    fn first_wanted(&self, from: Revision, to: Revision) -> Option<Revision> {
        let request = &self.watch.request;
        if let KeyRange::One(key) = &request.range {
            let changes = self.timeline.of_key_from(key, from);
            let mut changes = changes.take_while(|(revision, _)| *revision <= to);
            let known = |revision| self.timeline.get(revision).is_some_and(|resolved| resolved.known);
            return changes
                .find(|(revision, event)| request.wants(event) && known(*revision))
                .map(|(r, _)| r);
        }
        (from..=to.min(self.timeline.last())).find(|revision| {
            self.timeline.get(*revision).is_some_and(|resolved| {
                resolved.known && resolved.events.iter().any(|event| request.wants(event))
            })
        })
    }

    fn tell(&mut self, rule: Rule, text: impl FnOnce() -> String) {
        let (context, number) = (self.context, self.number);
        self.report.add(rule, || format!("{}: {}", context.tell_watch(number), text()));
    }
}
