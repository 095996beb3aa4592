//! Keepalives: who renews which lease, up to sixty-four on one stream.
//!
//! A member answers a stream strictly in order and may make a dying lease wait, so a stream is kept
//! small, and a lease whose answer is overdue is renewed once more on a stream of its own, at
//! another member.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use folkmoot_proto::etcdserverpb as pb;
use folkmoot_proto::etcdserverpb::lease_client::LeaseClient;
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;

use crate::backoff::Backoff;
use crate::clock::BootInstant;
use crate::session::{LostReason, Vital};
use crate::transport::status::{self, Fault};
use crate::transport::{Consistency, Core, Verdict};

const LEASES_MAX: usize = 64;
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Never more often than this, however short the leases are.
const PAUSE_MIN: Duration = Duration::from_millis(20);

enum Command {
    Add(Arc<Vital>),
    Remove(i64),
}

#[derive(Debug)]
struct StreamHandle {
    id: u64,
    commands: mpsc::UnboundedSender<Command>,
    count: usize,
}

/// All keepalive streams of a client.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    streams: Mutex<Vec<StreamHandle>>,
    ids: AtomicU64,
}

/// Renews a lease for as long as it is held.
#[derive(Debug)]
pub(crate) struct Kept {
    core: Arc<Core>,
    stream: u64,
    commands: mpsc::UnboundedSender<Command>,
    lease: i64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.core.is_foreign() {
            return;
        }
        // A stream that is gone renews nothing.
        let _ = self.commands.send(Command::Remove(self.lease));
        let mut streams = self.core.keeper().streams.lock();
        if let Some(handle) = streams.iter_mut().find(|handle| handle.id == self.stream) {
            handle.count -= 1;
        }
    }
}

/// Begins to renew the lease.
pub(crate) fn keep(core: &Arc<Core>, vital: &Arc<Vital>) -> Kept {
    let keeper = core.keeper();
    let mut streams = keeper.streams.lock();
    let handle = match streams.iter_mut().position(|handle| handle.count < LEASES_MAX) {
        Some(found) => &mut streams[found],
        None => {
            let id = keeper.ids.fetch_add(1, Ordering::Relaxed);
            let (commands, orders) = mpsc::unbounded_channel();
            core.handle.spawn(Stream::new(core.clone(), id, orders).run());
            streams.push(StreamHandle { id, commands, count: 0 });
            streams.last_mut().expect("was just added")
        }
    };
    handle.count += 1;
    // Sent under the lock: a stream that ends looks for orders under it.
    let _ = handle.commands.send(Command::Add(vital.clone()));
    Kept { core: core.clone(), stream: handle.id, commands: handle.commands.clone(), lease: vital.lease }
}

/// What a connection tells.
enum News {
    Answer(pb::LeaseKeepAliveResponse),
    Down(Option<Status>),
}

type Numbered = (u64, News);

struct Connection {
    number: u64,
    index: usize,
    orders: mpsc::UnboundedSender<pb::LeaseKeepAliveRequest>,
    reader: AbortHandle,
    /// When it last answered.
    heard: Option<BootInstant>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Entry {
    vital: Arc<Vital>,
    /// When the next keepalive goes out.
    due: BootInstant,
    /// When those went out that are not answered.
    unanswered: VecDeque<BootInstant>,
    /// Since when an answer is waited for, on whichever connection: a stream that goes down again and again
    /// for the sake of a shorter lease must not keep this one from being renewed elsewhere.
    asked: Option<BootInstant>,
    /// It has been asked for elsewhere.
    repeated: bool,
}

impl Entry {
    /// Whether nothing at all has come back on a connection since a third of this lease's time, although it
    /// was asked: the connection is worth nothing. One lease is enough to tell, because the others may be
    /// much longer and the time until they are overdue too long for this one.
    fn finds_dead(&self, heard: Option<BootInstant>, now: BootInstant) -> bool {
        self.unanswered.front().is_some_and(|sent| {
            now.since(*sent) >= self.vital.ttl / 3 && heard.is_none_or(|heard| heard < *sent)
        })
    }
}

struct Stream {
    core: Arc<Core>,
    id: u64,
    commands: mpsc::UnboundedReceiver<Command>,
    entries: HashMap<i64, Entry>,
    connection: Option<Connection>,
    number: u64,
    news: (mpsc::UnboundedSender<Numbered>, mpsc::UnboundedReceiver<Numbered>),
    backoff: Backoff,
    connect_at: BootInstant,
    avoid: Option<usize>,
    renewing: bool,
}

impl Stream {
    fn new(core: Arc<Core>, id: u64, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        Self {
            core,
            id,
            commands,
            entries: HashMap::new(),
            connection: None,
            number: 0,
            news: mpsc::unbounded_channel(),
            backoff: Backoff::new(Duration::from_millis(50), BACKOFF_MAX),
            connect_at: BootInstant::now(),
            avoid: None,
            renewing: false,
        }
    }

    async fn run(mut self) {
        let mut epochs = self.core.seen.epochs();
        epochs.mark_unchanged();
        loop {
            if self.entries.is_empty() {
                // Everything that was asked for meanwhile is in the channel.
                let core = self.core.clone();
                let mut streams = core.keeper().streams.lock();
                match self.commands.try_recv() {
                    Ok(command) => {
                        drop(streams);
                        self.obey(command);
                    }
                    Err(_) => {
                        streams.retain(|handle| handle.id != self.id);
                        return;
                    }
                }
                continue;
            }
            // What has arrived counts before the clock does, however late this comes to look.
            while let Ok((number, news)) = self.news.1.try_recv() {
                self.hear_from(number, news).await;
            }
            self.beat(BootInstant::now());
            let pause = self.wake_at().since(BootInstant::now()).max(PAUSE_MIN);
            tokio::select! {
                Some(command) = self.commands.recv() => self.obey(command),
                Some((number, news)) = self.news.1.recv() => self.hear_from(number, news).await,
                Ok(()) = epochs.changed() => {
                    self.entries.values().for_each(|entry| entry.vital.lose(LostReason::ClusterReset));
                }
                () = tokio::time::sleep_until(Instant::now() + pause) => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(vital) => {
                let now = BootInstant::now();
                let due = now + interval(&vital);
                self.entries.insert(
                    vital.lease,
                    Entry { vital, due, unanswered: VecDeque::new(), asked: None, repeated: false },
                );
            }
            Command::Remove(lease) => {
                self.entries.remove(&lease);
            }
        }
    }

    /// Does what is due.
    fn beat(&mut self, now: BootInstant) {
        self.entries.retain(|_, entry| {
            entry.vital.tick(now);
            let over = entry.vital.is_over();
            if over && matches!(entry.vital.state(), crate::session::SessionState::Lost(_)) {
                give_up(&self.core, &entry.vital);
            }
            !over
        });
        if self.connection.is_none() && now >= self.connect_at && !self.entries.is_empty() {
            self.connect();
            for entry in self.entries.values_mut() {
                entry.due = now;
            }
        }
        let Some(connection) = &self.connection else { return };
        for (lease, entry) in &mut self.entries {
            if now >= entry.due {
                entry.due = now + interval(&entry.vital);
                entry.unanswered.push_back(now);
                entry.asked.get_or_insert(now);
                // A connection that is gone tells so in its news.
                let _ = connection.orders.send(pb::LeaseKeepAliveRequest { id: *lease });
            }
            let overdue = entry.asked.is_some_and(|asked| now.since(asked) >= patience(&entry.vital));
            if overdue && !entry.repeated {
                entry.repeated = true;
                let once = once(self.core.clone(), entry.vital.clone(), connection.index);
                self.core.handle.spawn(once);
            }
        }
        if self.entries.values().any(|entry| entry.finds_dead(connection.heard, now)) {
            self.core.failed(connection.index);
            self.down();
        }
    }

    /// When there is something to do next.
    fn wake_at(&self) -> BootInstant {
        let now = BootInstant::now();
        let mut wake = now + Duration::from_secs(5);
        if self.connection.is_none() {
            wake = wake.min(self.connect_at);
        }
        for entry in self.entries.values() {
            // Not later than a sixth of the time, so that a pause of the machine shows soon after.
            wake = wake.min(now + entry.vital.ttl / 6).min(entry.vital.deadline());
            if self.connection.is_some() {
                wake = wake.min(entry.due);
            }
        }
        wake
    }

    fn connect(&mut self) {
        let core = self.core.clone();
        let (index, link) = core.pick(self.avoid.take());
        self.number += 1;
        let number = self.number;
        let (orders, requests) = mpsc::unbounded_channel();
        let request = core.stream_request(outgoing(requests));
        let mut client = LeaseClient::new(link.channel.clone());
        let news = self.news.0.clone();
        let reader = core.handle.spawn(async move {
            // Who receives it may be gone, and then nobody cares.
            let tell = |what| drop(news.send((number, what)));
            let mut answers = match client.lease_keep_alive(request).await {
                Ok(response) => response.into_inner(),
                Err(status) => return tell(News::Down(Some(status))),
            };
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => tell(News::Answer(answer)),
                    Ok(None) => return tell(News::Down(None)),
                    Err(status) => return tell(News::Down(Some(status))),
                }
            }
        });
        let reader = reader.abort_handle();
        self.connection = Some(Connection { number, index, orders, reader, heard: None });
    }

    fn down(&mut self) {
        let now = BootInstant::now();
        self.avoid = self.connection.take().map(|connection| connection.index);
        self.connect_at = now + self.backoff.next();
        for entry in self.entries.values_mut() {
            entry.unanswered.clear();
            if entry.repeated {
                // What was asked for elsewhere is asked for again, if nobody answers on the next one either.
                (entry.asked, entry.repeated) = (None, false);
            }
            entry.vital.stream_down(now);
        }
    }

    async fn hear_from(&mut self, number: u64, news: News) {
        if self.connection.as_ref().is_some_and(|connection| connection.number == number) {
            self.hear(news).await;
        }
    }

    async fn hear(&mut self, news: News) {
        let index = self.connection.as_ref().map_or(0, |connection| connection.index);
        match news {
            News::Answer(answer) => {
                self.core.succeeded(index);
                self.backoff.reset();
                self.renewing = false;
                let now = BootInstant::now();
                if let Some(connection) = &mut self.connection {
                    connection.heard = Some(now);
                }
                let mark = self.core.seen.mark();
                if self.core.judge(answer.header.as_ref(), mark, Consistency::Unordered) == Verdict::Reset {
                    return;
                }
                let Some(entry) = self.entries.get_mut(&answer.id) else { return };
                let Some(sent) = entry.unanswered.pop_front() else { return };
                (entry.asked, entry.repeated) = (entry.unanswered.front().copied(), false);
                entry.vital.acknowledged(sent, answer.ttl, now);
            }
            News::Down(status) => {
                match status.as_ref().map(status::fault) {
                    Some(Fault::NotSent | Fault::Broken) => self.core.failed(index),
                    Some(Fault::Token) if !self.renewing => {
                        self.renewing = true;
                        // A failure shows at the next connection.
                        let core = self.core.clone();
                        let renewal = tokio::time::timeout(BACKOFF_MAX, core.renew_current_token()).await;
                        tracing::debug!(?renewal, "the token of a keepalive stream was refused");
                    }
                    _ => {}
                }
                tracing::debug!(?status, "a keepalive stream ended");
                self.down();
            }
        }
    }
}

/// A third of the time, spread a little so that many leases do not beat together.
fn interval(vital: &Vital) -> Duration {
    (vital.ttl / 3).mul_f64(rand::rng().random_range(0.9..=1.1))
}

/// How long an answer may take before it is asked for elsewhere.
fn patience(vital: &Vital) -> Duration {
    vital.ttl / 6
}

fn outgoing(
    requests: mpsc::UnboundedReceiver<pb::LeaseKeepAliveRequest>,
) -> impl futures_util::Stream<Item = pb::LeaseKeepAliveRequest> {
    futures_util::stream::unfold(requests, |mut requests| async {
        requests.recv().await.map(|request| (request, requests))
    })
}

/// Renews one lease once, on a stream of its own.
async fn once(core: Arc<Core>, vital: Arc<Vital>, avoid: usize) {
    let (index, link) = core.pick(Some(avoid));
    let sent = BootInstant::now();
    let left = vital.deadline().since(sent);
    let answer = tokio::time::timeout(left, single(&core, link.channel.clone(), vital.lease)).await;
    match answer {
        Ok(Ok(Some(answer))) => {
            core.succeeded(index);
            vital.acknowledged(sent, answer.ttl, BootInstant::now());
        }
        Ok(Err(status)) if matches!(status::fault(&status), Fault::NotSent | Fault::Broken) => {
            core.failed(index)
        }
        Ok(_) | Err(_) => {}
    }
}

/// One keepalive and its answer.
pub(crate) async fn single(
    core: &Core,
    channel: tonic::transport::Channel,
    lease: i64,
) -> Result<Option<pb::LeaseKeepAliveResponse>, Status> {
    let (orders, requests) = mpsc::unbounded_channel();
    // The receiver is right there.
    let _ = orders.send(pb::LeaseKeepAliveRequest { id: lease });
    let request = core.stream_request(outgoing(requests));
    let mut answers = LeaseClient::new(channel).lease_keep_alive(request).await?.into_inner();
    let answer = answers.message().await;
    drop(orders);
    answer
}

/// Asks the store to end what is lost here, so that others need not wait for it.
fn give_up(core: &Arc<Core>, vital: &Arc<Vital>) {
    if vital.state() == crate::session::SessionState::Lost(LostReason::LeaseGone) {
        return;
    }
    let (core, lease, ttl) = (core.clone(), vital.lease, vital.ttl);
    let handle = core.handle.clone();
    handle.spawn(async move {
        let outcome = super::revoke(&core, lease, Some(ttl)).await;
        tracing::debug!(lease, ?outcome, "a lost lease was given up");
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn s_2b_a_connection_is_dead_if_nothing_came_back_for_a_third_of_one_lease() {
        let vital = Arc::new(Vital::new(7, Duration::from_secs(9), at(0)));
        let mut entry =
            Entry { vital, due: at(3), unanswered: VecDeque::new(), asked: None, repeated: false };
        assert!(!entry.finds_dead(None, at(100)), "nothing was asked");
        entry.unanswered.extend([at(3), at(6)]);
        assert!(!entry.finds_dead(None, at(5)));
        assert!(entry.finds_dead(None, at(6)));
        assert!(entry.finds_dead(Some(at(2)), at(6)), "what was heard before does not count");
        assert!(!entry.finds_dead(Some(at(4)), at(6)), "it answers others, if slowly");
    }
}
