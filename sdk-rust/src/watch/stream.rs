//! One stream to one member at a time, and the watches it carries.
//!
//! The stream is opened again, at another member, for as long as it has watches; each of them
//! begins anew where it stood. What ends a single watch for good is said in its queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::kv_client::KvClient;
use folkmoot_proto::etcdserverpb::watch_client::WatchClient;
use folkmoot_proto::etcdserverpb::watch_create_request::FilterType;
use folkmoot_proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::hub::{Command, Entry};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind};
use crate::transport::status::{self, Fault};
use crate::transport::{Call, Consistency, Core, Mark, Verdict};

/// Without any message for so long the member is asked whether it is there.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// And has so long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

struct Watch {
    entry: Entry,
    /// The id on the present stream; none while it waits for room.
    wire: Option<i64>,
    /// Whether the present stream has brought an event: then the member must answer for it.
    answerable: bool,
    /// A new token was tried for it.
    renewed: bool,
    /// The newest revision that it has brought, or 0: the store was surely there.
    reached: i64,
    /// Where the store was known to be when the present stream was asked for it. What was heard of since
    /// then may be newer than the answer.
    asked: Option<Mark>,
}

/// What the stream does after a message.
enum Next {
    GoOn,
    /// Open it anew, elsewhere.
    Reopen(&'static str),
    /// Get a new token, then open it anew.
    Renew,
}

struct Stream {
    core: Arc<Core>,
    id: u64,
    commands: mpsc::UnboundedReceiver<Command>,
    epochs: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    watches: HashMap<u64, Watch>,
    wires: HashMap<i64, u64>,
    /// Creations that the member has not answered, in their order: a refusal does not name its own.
    unanswered: VecDeque<i64>,
    next_wire: i64,
    out: Option<mpsc::UnboundedSender<pb::WatchRequest>>,
    backoff: Backoff,
    avoid: Option<usize>,
    /// The member has answered a question after progress since the last watch was added.
    answers: bool,
}

/// Carries watches until there are none.
pub(crate) async fn run(
    core: Arc<Core>,
    id: u64,
    commands: mpsc::UnboundedReceiver<Command>,
    epochs: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
) {
    let mut stream = Stream {
        epochs,
        closing,
        core,
        id,
        commands,
        watches: HashMap::new(),
        wires: HashMap::new(),
        unanswered: VecDeque::new(),
        next_wire: 1,
        out: None,
        backoff: Backoff::default(),
        avoid: None,
        answers: false,
    };
    // It may have been closed before the first look.
    if *stream.closing.borrow() {
        stream.closing.mark_changed();
    }
    loop {
        if stream.watches.is_empty() {
            match stream.core.hub.try_end(stream.id, &mut stream.commands) {
                Some(command) => stream.obey(command),
                None => return,
            }
            continue;
        }
        if stream.watches.values().all(|watch| watch.wire.is_none() && watch.waits()) {
            // All wait for their consumers.
            tokio::select! {
                command = stream.commands.recv() => stream.obey_or_end(command),
                Ok(()) = stream.epochs.changed() => stream.reset(),
                Ok(()) = stream.closing.changed() => stream.close(),
            }
            continue;
        }
        let why = stream.connection().await;
        stream.disconnected();
        if stream.watches.is_empty() {
            continue;
        }
        tracing::debug!(why, "a watch stream begins anew");
        let pause = tokio::time::sleep(stream.backoff.next());
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                command = stream.commands.recv() => stream.obey_or_end(command),
                Ok(()) = stream.epochs.changed() => stream.reset(),
                Ok(()) = stream.closing.changed() => stream.close(),
            }
        }
    }
}

impl Watch {
    /// Whether it waits for its consumer. Known by having no id while the stream is open; between
    /// streams nothing has an id, so it is kept apart.
    fn waits(&self) -> bool {
        self.entry.cursor.next() < 0
    }
}

impl Stream {
    /// One connection, until it is of no more use. Answers why.
    async fn connection(&mut self) -> &'static str {
        let (out, orders) = mpsc::unbounded_channel();
        self.out = Some(out);
        let ids: Vec<u64> = self.watches.keys().copied().collect();
        ids.into_iter().for_each(|id| self.create(id));
        let core = self.core.clone();
        let (index, link) = core.pick(self.avoid);
        self.avoid = None;
        let mark = core.seen.mark();
        let orders = futures_util::stream::unfold(orders, |mut orders| async {
            orders.recv().await.map(|order| (order, orders))
        });
        let mut client = WatchClient::new(link.channel.clone()).max_decoding_message_size(usize::MAX);
        let request = core.stream_request(orders);
        let opening = async move { client.watch(request).await };
        let deadline = tokio::time::sleep(core.options.connect_timeout + ANSWER_MAX);
        tokio::pin!(opening, deadline);
        let mut answers = loop {
            tokio::select! {
                opened = &mut opening => match opened {
                    Ok(response) => break response.into_inner(),
                    Err(status) => return self.broken(index, status).await,
                },
                () = &mut deadline => {
                    core.failed(index);
                    self.avoid = Some(index);
                    return "the member did not answer";
                }
                command = self.commands.recv() => self.obey_or_end(command),
                Ok(()) = self.epochs.changed() => self.reset(),
                Ok(()) = self.closing.changed() => self.close(),
            }
            if self.watches.is_empty() {
                return "nothing is watched any more";
            }
        };
        let silence = tokio::time::sleep(SILENCE_MAX);
        tokio::pin!(silence);
        let mut asked = false;
        loop {
            tokio::select! {
                message = answers.message() => match message {
                    Ok(Some(response)) => {
                        core.succeeded(index);
                        self.backoff.reset();
                        asked = false;
                        silence.as_mut().reset(Instant::now() + SILENCE_MAX);
                        match self.on_response(response, mark) {
                            Next::GoOn => {}
                            Next::Reopen(why) => {
                                self.avoid = Some(index);
                                return why;
                            }
                            Next::Renew => {
                                self.renew().await;
                                return "the token was refused";
                            }
                        }
                    }
                    Ok(None) => {
                        self.avoid = Some(index);
                        return "the member ended the stream";
                    }
                    Err(status) => return self.broken(index, status).await,
                },
                () = &mut silence => {
                    if !asked {
                        asked = true;
                        self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
                        silence.as_mut().reset(Instant::now() + ANSWER_MAX);
                    } else if self.must_answer() {
                        core.failed(index);
                        self.avoid = Some(index);
                        return "the member is silent";
                    } else {
                        // It may be silent by right; a dead connection is found by its pings.
                        asked = false;
                        silence.as_mut().reset(Instant::now() + SILENCE_MAX);
                    }
                }
                command = self.commands.recv() => self.obey_or_end(command),
                Ok(()) = self.epochs.changed() => self.reset(),
                Ok(()) = self.closing.changed() => self.close(),
            }
            if self.watches.is_empty() {
                return "nothing is watched any more";
            }
        }
    }

    /// A question after progress is answered only if every watch of the stream is at the head and
    /// has begun; old members also keep silent about watches that never had an event.
    fn must_answer(&self) -> bool {
        self.answers
            || self.watches.values().filter(|watch| watch.wire.is_some()).all(|watch| watch.answerable)
    }

    async fn broken(&mut self, index: usize, status: tonic::Status) -> &'static str {
        self.avoid = Some(index);
        match status::fault(&status) {
            Fault::Token => {
                self.renew().await;
                return "the token was refused";
            }
            Fault::NotSent | Fault::Broken => self.core.failed(index),
            Fault::Refused => {
                // It would be refused again, for every watch.
                if matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::Unimplemented) {
                    let name = self.core.link(index).name.clone();
                    self.end_all(&status::error(status, &name));
                }
            }
            Fault::Busy | Fault::Unsure => {}
        }
        "the stream broke"
    }

    async fn renew(&mut self) {
        if let Err(error) = self.core.renew_current_token().await
            && error.kind() == ErrorKind::AuthFailed
        {
            self.end_all(&error);
        }
    }

    fn send(&self, union: RequestUnion) {
        if let Some(out) = &self.out {
            // A stream that is gone is noticed where it is read.
            let _ = out.send(pb::WatchRequest { request_union: Some(union) });
        }
    }

    fn create(&mut self, id: u64) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        if watch.waits() || watch.wire.is_some() {
            return;
        }
        let wire = self.next_wire;
        self.next_wire += 1;
        watch.wire = Some(wire);
        watch.answerable = false;
        watch.asked = Some(self.core.seen.mark_at(watch.reached));
        self.answers = false;
        let spec = &watch.entry.spec;
        let mut request = pb::WatchCreateRequest {
            key: spec.key.clone(),
            range_end: spec.end.clone(),
            start_revision: watch.entry.cursor.next(),
            progress_notify: true,
            prev_kv: spec.prev,
            watch_id: wire,
            fragment: true,
            ..Default::default()
        };
        let filters = [(spec.no_put, FilterType::Noput), (spec.no_delete, FilterType::Nodelete)];
        request.filters.extend(filters.into_iter().filter(|(on, _)| *on).map(|(_, filter)| filter as i32));
        self.wires.insert(wire, id);
        self.unanswered.push_back(wire);
        self.send(RequestUnion::CreateRequest(request));
    }

    /// Takes the watch off the member.
    fn cancel_wire(&mut self, wire: i64) {
        self.wires.remove(&wire);
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: wire }));
    }

    fn obey_or_end(&mut self, command: Option<Command>) {
        match command {
            Some(command) => self.obey(command),
            // The hub keeps a sender for as long as the stream is in it.
            None => self.close(),
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open(id, entry) => {
                // It begins as heard: its consumer has just read the store. If that does not answer now,
                // the end of this stream says so.
                let watch =
                    Watch { entry, wire: None, answerable: false, renewed: false, reached: 0, asked: None };
                self.watches.insert(id, watch);
                if self.out.is_some() {
                    self.create(id);
                }
            }
            Command::Close(id) => {
                if let Some(wire) = self.watches.remove(&id).and_then(|watch| watch.wire) {
                    self.cancel_wire(wire);
                }
            }
            Command::Resume(id) => {
                if let Some(watch) = self.watches.get_mut(&id)
                    && watch.waits()
                {
                    let next = -watch.entry.cursor.next();
                    watch.entry.cursor.rewind(next);
                    if self.out.is_some() {
                        self.create(id);
                    }
                }
            }
        }
    }

    fn disconnected(&mut self) {
        self.out = None;
        self.wires.clear();
        self.unanswered.clear();
        for watch in self.watches.values_mut() {
            watch.wire = None;
            if !watch.waits() {
                watch.entry.cursor.disconnected();
                watch.entry.queue.push_heard(false);
            }
        }
    }

    fn end(&mut self, id: u64, error: Error) {
        if let Some(watch) = self.watches.remove(&id) {
            watch.entry.queue.end(error);
            if let Some(wire) = watch.wire {
                self.cancel_wire(wire);
            }
        }
    }

    fn end_all(&mut self, error: &Error) {
        let ids: Vec<u64> = self.watches.keys().copied().collect();
        ids.into_iter().for_each(|id| self.end(id, error.clone()));
    }

    fn reset(&mut self) {
        let text = "the store was replaced or restored: read it afresh";
        self.end_all(&Error::new(ErrorKind::ClusterReset, text));
    }

    /// A member stands where this client has been before: it lags behind, or the store went back in time
    /// and would never send what the watches wait for. A linearizable read tells; the judge of its answer
    /// resets everything if need be (C-5).
    fn look(&self, seen: Mark, key: Bytes, range_end: Bytes) {
        let core = Arc::clone(&self.core);
        let request = pb::RangeRequest { key, range_end, limit: 1, keys_only: true, ..Default::default() };
        tokio::spawn(async move {
            let rpc = |channel, request| async move { KvClient::new(channel).range(request).await };
            let answer: Result<pb::RangeResponse, Error> = core.unary(Call::read(), request, rpc).await;
            match answer {
                Ok(response) => drop(core.judge(response.header.as_ref(), seen, Consistency::Linearizable)),
                // The next stream looks again.
                Err(error) => tracing::debug!(%error, "cannot tell whether the store went back in time"),
            }
        });
    }

    fn close(&mut self) {
        self.end_all(&Error::closed("the client"));
    }

    fn on_response(&mut self, response: pb::WatchResponse, mark: Mark) -> Next {
        if self.core.judge(response.header.as_ref(), mark, Consistency::Unordered) == Verdict::Reset {
            self.reset();
            return Next::Reopen("the store is another one");
        }
        // A refusal says created as well, so this comes first.
        if response.canceled {
            return self.on_canceled(response);
        }
        if response.created {
            self.unanswered.retain(|wire| *wire != response.watch_id);
            let revision = response.header.map_or(0, |header| header.revision);
            if let Some(watch) = self.watch_of(response.watch_id) {
                // The token was good; another one may run out later.
                watch.renewed = false;
                watch.entry.queue.push_heard(true);
                if let Some(asked) = watch.asked.filter(|asked| asked.is_after(revision)) {
                    let (key, end) = (watch.entry.spec.key.clone(), watch.entry.spec.end.clone());
                    self.look(asked, key, end);
                }
            }
            return Next::GoOn;
        }
        if response.watch_id < 0 {
            // Old members let such an answer overtake events, so it proves only that they live.
            self.answers = true;
            return Next::GoOn;
        }
        let revision = response.header.map_or(0, |header| header.revision);
        let Some(id) = self.wires.get(&response.watch_id).copied() else { return Next::GoOn };
        let Some(watch) = self.watches.get_mut(&id) else { return Next::GoOn };
        let newest = response.events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)).max();
        watch.reached = watch.reached.max(newest.unwrap_or(0));
        if response.events.is_empty() && !response.fragment {
            watch.reached = watch.reached.max(revision);
            if watch.entry.cursor.on_progress(revision) && watch.entry.spec.progress {
                watch.entry.queue.push_progress(revision);
            }
            return Next::GoOn;
        }
        watch.answerable = true;
        for batch in watch.entry.cursor.on_events(response.events, response.fragment) {
            let revision = batch.revision;
            if watch.entry.queue.push(batch) {
                continue;
            }
            if watch.entry.spec.fail_when_full {
                let kind = ErrorKind::Overflow { resume_revision: revision };
                let text = format!("the consumer of the watch is too slow resume_revision={revision}");
                self.end(id, Error::new(kind, text));
            } else {
                // The sign says that it waits; the number is where it goes on.
                watch.entry.cursor.rewind(-revision);
                watch.wire = None;
                self.cancel_wire(response.watch_id);
            }
            break;
        }
        Next::GoOn
    }

    fn watch_of(&mut self, wire: i64) -> Option<&mut Watch> {
        self.watches.get_mut(self.wires.get(&wire)?)
    }

    fn on_canceled(&mut self, response: pb::WatchResponse) -> Next {
        let wire = if response.created && response.watch_id < 0 {
            match self.unanswered.pop_front() {
                Some(wire) => wire,
                None => return Next::Reopen("the member refused what was not asked"),
            }
        } else {
            self.unanswered.retain(|wire| *wire != response.watch_id);
            response.watch_id
        };
        // The answer to a cancellation of ours has no watch any more.
        let Some(id) = self.wires.get(&wire).copied() else { return Next::GoOn };
        let Some(watch) = self.watches.get_mut(&id) else { return Next::GoOn };
        let reason = response.cancel_reason;
        if response.compact_revision != 0 {
            let kind = ErrorKind::Compacted { compact_revision: response.compact_revision };
            let text = format!(
                "the history is compacted away revision={} compact_revision={}",
                watch.entry.cursor.next(),
                response.compact_revision
            );
            self.end(id, Error::new(kind, text));
            return Next::GoOn;
        }
        let denied = reason.contains("permission denied");
        if status::is_token_text(&reason) || denied {
            if !watch.renewed && self.core.options.credentials.is_some() {
                watch.renewed = true;
                return Next::Renew;
            }
            let kind = if denied { ErrorKind::PermissionDenied } else { ErrorKind::AuthFailed };
            self.end(id, Error::new(kind, reason));
            return Next::GoOn;
        }
        if reason.contains("range is empty") || reason.contains("has been compacted") {
            self.end(id, Error::invalid(reason));
            return Next::GoOn;
        }
        Next::Reopen("the member cancelled a watch")
    }
}
