//! A client that watches, and goes on elsewhere when its stream breaks.

use std::time::Duration;

use folkmoot_check::history as h;
use folkmoot_proto::etcdserverpb as pb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::session::Session;
use super::{Context, Phase, convert};

/// How long a stream may take to open.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
/// How often progress is asked for.
const PROGRESS_EVERY: Duration = Duration::from_millis(150);
/// Requests on their way; there are never more than a creation and a question.
const REQUESTS_MAX: usize = 4;

/// How a client watches.
#[derive(Clone, Debug)]
pub struct WatchPlan {
    /// What it asks for.
    pub request: h::WatchRequest,
    /// Pause after each message, as of a client that is slow.
    pub pause: Duration,
    /// Ask for progress now and then.
    pub progress: bool,
    /// After a compaction go on from the compacted revision itself, not from the one after it.
    pub from_compacted: bool,
    /// Leave the stream and go on elsewhere about this often, without need.
    pub restless: Option<Duration>,
    /// Give up after this time, whatever happens.
    pub lifetime: Option<Duration>,
}

impl WatchPlan {
    /// As quick as possible and without special wishes.
    pub fn plain(request: h::WatchRequest) -> WatchPlan {
        WatchPlan {
            request,
            pause: Duration::ZERO,
            progress: false,
            from_compacted: true,
            restless: None,
            lifetime: None,
        }
    }
}

/// Why a stream was left.
enum Left {
    /// Broken or cancelled: go on from the next revision.
    Again,
    /// The client is done.
    Done,
}

/// Reads a member's history up to a revision that it has reached. What does not come in time counts as
/// lost.
pub async fn read_history(
    session: &mut Session,
    plan: &WatchPlan,
    to: h::Revision,
    patience: Duration,
) -> h::Watch {
    let (phase, context) = Context::standalone(Phase::Drain(to - 1));
    let work = follow(session, &context, plan, |_| {});
    let end = async {
        tokio::time::sleep(patience).await;
        phase.send_replace(Phase::Over(Some(to)));
        std::future::pending().await
    };
    let mut watch = tokio::select! {
        watch = work => watch,
        never = end => never,
    };
    watch.drained_to = Some(to);
    watch
}

struct Watching<'a> {
    session: &'a mut Session,
    context: &'a Context,
    plan: &'a WatchPlan,
    watch: h::Watch,
    /// First revision that was not delivered yet; 0 while the watch waits for its first answer.
    next: h::Revision,
    /// Newest revision of which an event came.
    newest: h::Revision,
    ends: Option<Instant>,
}

/// Watches until the load is over and everything before it was delivered. `seen` learns about every
/// delivered event.
pub async fn follow(
    session: &mut Session,
    context: &Context,
    plan: &WatchPlan,
    mut seen: impl FnMut(&h::Event),
) -> h::Watch {
    let (_, member, _) = session.target();
    let watch = h::Watch {
        client: session.client,
        member,
        invoked: session.clock.now(),
        request: plan.request.clone(),
        messages: Vec::new(),
        drained_to: None,
    };
    let ends = plan.lifetime.map(|lifetime| Instant::now() + lifetime);
    let mut watching =
        Watching { session, context, plan, watch, next: plan.request.start_revision, newest: 0, ends };
    let mut first = true;
    loop {
        if !first {
            watching.note_resumption();
        }
        first = false;
        match watching.stream(&mut seen).await {
            Left::Again => watching.session.after_failure().await,
            Left::Done => break,
        }
        if watching.is_done() {
            break;
        }
    }
    watching.watch.drained_to = match context.phase() {
        // Whatever it waited for has not come in its lifetime.
        _ if plan.lifetime.is_some() => None,
        Phase::Work => None,
        Phase::Drain(revision) => Some(revision),
        Phase::Over(revision) => revision,
    };
    watching.watch
}

impl Watching<'_> {
    fn is_done(&self) -> bool {
        let drained = match self.context.phase() {
            Phase::Work => false,
            Phase::Drain(revision) => self.newest > revision,
            Phase::Over(_) => true,
        };
        drained || self.ends.is_some_and(|ends| Instant::now() >= ends)
    }

    fn note_resumption(&mut self) {
        let (_, member, _) = self.session.target();
        let at = self.session.clock.now();
        self.watch.messages.push(h::WatchMessage::Resumed { at, member, start_revision: self.next });
    }

    /// The members' numbers change when one is replaced, and the answer says who it is from.
    fn correct_member(&mut self, id: h::MemberId) {
        match self.watch.messages.last_mut() {
            None => self.watch.member = id,
            Some(h::WatchMessage::Resumed { member, .. }) => *member = id,
            Some(_) => {}
        }
    }

    fn ended(&mut self) -> Left {
        self.watch.messages.push(h::WatchMessage::Ended { at: self.session.clock.now() });
        Left::Again
    }

    /// One stream from its opening to its end.
    async fn stream(&mut self, seen: &mut impl FnMut(&h::Event)) -> Left {
        let (_, _, channel) = self.session.target();
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let send = |union| pb::WatchRequest { request_union: Some(union) };
        // There is room in a queue that was made a moment ago.
        let _ = requests.try_send(send(RequestUnion::CreateRequest(self.create())));
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let opening = tokio::time::timeout(OPEN_PATIENCE, client.watch(ReceiverStream::new(queue))).await;
        let Ok(Ok(response)) = opening else { return self.ended() };
        let mut responses = response.into_inner();
        let leaves = self
            .plan
            .restless
            .map(|restless| Instant::now() + restless.mul_f64(self.session.rng.random_range(0.3..1.7)));
        loop {
            match self.message(&mut responses, leaves).await {
                Some(Ok(Some(response))) => {
                    if let Some(left) = self.take(response, seen) {
                        return left;
                    }
                }
                Some(Ok(None) | Err(_)) => return self.ended(),
                // Nothing came, but it may be time for something.
                None if leaves.is_some_and(|leaves| Instant::now() >= leaves) => return self.ended(),
                None if self.plan.progress => {
                    // If the last question was not taken yet, this one is not needed.
                    let _ =
                        requests.try_send(send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})));
                }
                None => {}
            }
            if self.is_done() {
                return Left::Done;
            }
            if !self.plan.pause.is_zero() && self.context.phase() == Phase::Work {
                tokio::time::sleep(self.plan.pause).await;
            }
        }
    }

    /// The next message, or nothing when it is time to look at the clock or at the phase.
    async fn message(
        &mut self,
        responses: &mut Streaming<pb::WatchResponse>,
        leaves: Option<Instant>,
    ) -> Option<Result<Option<pb::WatchResponse>, tonic::Status>> {
        let soon = Instant::now() + PROGRESS_EVERY;
        let wake = [leaves, self.ends].into_iter().flatten().fold(soon, Instant::min);
        tokio::select! {
            message = responses.message() => Some(message),
            () = tokio::time::sleep_until(wake) => None,
        }
    }

    fn create(&self) -> pb::WatchCreateRequest {
        use pb::watch_create_request::FilterType;
        let (key, range_end) = convert::range_to_wire(&self.plan.request.range);
        let mut filters = Vec::new();
        if self.plan.request.no_put {
            filters.push(FilterType::Noput.into());
        }
        if self.plan.request.no_delete {
            filters.push(FilterType::Nodelete.into());
        }
        pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: self.next,
            prev_kv: self.plan.request.prev_kv,
            fragment: self.plan.request.fragment,
            filters,
            ..Default::default()
        }
    }

    fn take(&mut self, response: pb::WatchResponse, seen: &mut impl FnMut(&h::Event)) -> Option<Left> {
        let at = self.session.clock.now();
        let header = response.header.unwrap_or_default();
        let revision = header.revision;
        if response.canceled {
            if response.compact_revision <= 0 {
                return Some(self.ended());
            }
            let compact_revision = response.compact_revision;
            self.watch.messages.push(h::WatchMessage::Compacted { at, compact_revision });
            self.next = compact_revision + i64::from(!self.plan.from_compacted);
            return Some(Left::Again);
        }
        if response.created {
            self.correct_member(header.member_id);
            self.watch.messages.push(h::WatchMessage::Created { at, revision });
            if self.next == 0 {
                self.next = revision + 1;
            }
            return None;
        }
        if response.events.is_empty() {
            self.watch.messages.push(h::WatchMessage::Progress { at, revision });
            self.next = self.next.max(revision + 1);
            return None;
        }
        let events: Vec<h::Event> = response.events.into_iter().map(convert::event).collect();
        for event in &events {
            self.next = self.next.max(event.revision() + 1);
            self.newest = self.newest.max(event.revision());
            seen(event);
        }
        let fragment = response.fragment;
        self.watch.messages.push(h::WatchMessage::Events { at, revision, events, fragment });
        None
    }
}
