//! One keepalive stream and the leases that it keeps.
//!
//! Its leases stand in a queue, the one renewed longest ago first. Before the steady part a lease is
//! renewed when it is due; in the steady part one after the other is, evenly spaced, however old,
//! which goes round the queue once in the time after which a lease is due. A stream looks at the
//! clock once a millisecond; the latency of a keepalive counts from the look at which it was due.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use folkmoot_proto::etcdserverpb as pb;
use prost::Message;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::stats::{Loop, Recorder, Window};
use crate::wire::{CallError, Incoming, Outgoing, frame};

/// How often a stream looks at the clock.
const PULSE: Duration = Duration::from_millis(1);

/// Which ids the leases have, and which stream keeps which.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    /// The id before the first.
    pub base: i64,
    /// Streams; leases are dealt to them in turn.
    pub streams: usize,
}

impl Ids {
    /// The id of the lease with this number; the first number is zero.
    pub fn id(self, number: u64) -> i64 {
        self.base + 1 + number as i64
    }

    /// Stream of a lease, and the lease's place among those of the stream; `None` if it is none of
    /// ours.
    pub fn place(self, id: i64) -> Option<(usize, usize)> {
        let number = usize::try_from(id.checked_sub(self.base + 1)?).ok()?;
        Some((number % self.streams, number / self.streams))
    }

    /// How many of this many leases are kept by a stream.
    pub fn count_of(self, stream: usize, leases: u64) -> usize {
        let leases = leases as usize;
        leases / self.streams + usize::from(stream < leases % self.streams)
    }

    fn id_at(self, stream: usize, place: usize) -> i64 {
        self.id((place * self.streams + stream) as u64)
    }
}

/// What is known of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    Kept,
    /// The keepalive that was due then has no answer yet.
    Asked(Instant),
    Lost,
}

#[derive(Debug)]
struct State {
    leases: Vec<Lease>,
    /// Places of leases, each with the instant of its last renewal, the longest ago first.
    queue: VecDeque<(usize, Instant)>,
    asked_count: usize,
    lost_count: u64,
    recorder: Recorder,
}

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    ids: Ids,
    stream: usize,
    /// When a lease is due again.
    every: Duration,
    state: Mutex<State>,
    steady: OnceLock<Window>,
    ending: AtomicBool,
    all_answered: Notify,
}

impl Keeper {
    /// A stream that will keep this many leases.
    pub fn new(ids: Ids, stream: usize, count: usize, every: Duration) -> Self {
        let now = Instant::now();
        let state = State {
            leases: vec![Lease::Kept; count],
            queue: VecDeque::with_capacity(count),
            asked_count: 0,
            lost_count: 0,
            // Nothing counts before the steady part.
            recorder: Recorder::new(Window { from: now, until: now }, Loop::Open),
        };
        Self {
            ids,
            stream,
            every,
            state: Mutex::new(state),
            steady: OnceLock::new(),
            ending: AtomicBool::new(false),
            all_answered: Notify::new(),
        }
    }

    /// Takes over a lease that was granted.
    pub fn keep(&self, place: usize, granted: Instant) {
        self.state().queue.push_back((place, granted));
    }

    /// Begins the steady part, which is measured.
    pub fn begin_steady(&self, window: Window) {
        self.state().recorder = Recorder::new(window, Loop::Open);
        // It is called once.
        let _ = self.steady.set(window);
    }

    /// Asks for no more renewals.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Adds what was measured, and returns how many leases were found gone.
    pub fn add_to(&self, total: &mut Recorder) -> u64 {
        let mut state = self.state();
        let now = Instant::now();
        let State { leases, recorder, .. } = &mut *state;
        for lease in leases {
            if let Lease::Asked(since) = *lease {
                recorder.unfinished(since, now);
            }
        }
        total.merge(recorder);
        state.lost_count
    }

    /// Keeps the leases until the end is called for and everything is answered.
    pub async fn run(self: Arc<Self>, outgoing: Outgoing, incoming: Incoming) -> Result<(), CallError> {
        let mut receiving = Box::pin(self.receive(incoming));
        tokio::select! {
            // First: of a broken stream the receiving half knows the reason.
            biased;
            received = &mut receiving => {
                received?;
                return Err(CallError::Transport("server ended the keepalive stream".into()));
            }
            sent = self.send(outgoing) => sent?,
        }
        receiving.await
    }

    async fn send(&self, mut outgoing: Outgoing) -> Result<(), CallError> {
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sent_steady = 0;
        while !self.ending.load(Ordering::Relaxed) {
            pulse.tick().await;
            let now = Instant::now();
            match self.steady.get() {
                None => self.renew_due(&mut outgoing, now)?,
                Some(window) => self.renew_steady(&mut outgoing, now, window.from, &mut sent_steady)?,
            }
        }
        while self.state().asked_count > 0 {
            self.all_answered.notified().await;
        }
        outgoing.close()
    }

    /// Takes answers until the server ends the stream.
    async fn receive(&self, mut incoming: Incoming) -> Result<(), CallError> {
        while let Some(message) = incoming.next().await? {
            let response = pb::LeaseKeepAliveResponse::decode(message)?;
            self.answered(response.id, response.ttl, Instant::now())?;
        }
        Ok(())
    }

    fn renew_due(&self, outgoing: &mut Outgoing, now: Instant) -> Result<(), CallError> {
        let mut state = self.state();
        while let Some((_, last)) = state.queue.front()
            && *last + self.every <= now
        {
            self.renew_next(&mut state, outgoing, now)?;
        }
        Ok(())
    }

    fn renew_steady(
        &self,
        outgoing: &mut Outgoing,
        now: Instant,
        from: Instant,
        sent: &mut u64,
    ) -> Result<(), CallError> {
        let mut state = self.state();
        let count = state.leases.len() as f64;
        let due_at = |nth: u64| from + self.every.mul_f64(nth as f64 / count);
        while !state.queue.is_empty() && due_at(*sent) <= now {
            self.renew_next(&mut state, outgoing, now.min(due_at(*sent) + PULSE))?;
            *sent += 1;
        }
        Ok(())
    }

    /// Renews the lease whose turn it is; `due` is when this should have been done at the latest.
    fn renew_next(&self, state: &mut State, outgoing: &mut Outgoing, due: Instant) -> Result<(), CallError> {
        let Some((place, _)) = state.queue.pop_front() else {
            return Ok(());
        };
        match state.leases[place] {
            Lease::Kept => {
                let id = self.ids.id_at(self.stream, place);
                outgoing.send(frame(&pb::LeaseKeepAliveRequest { id }))?;
                state.leases[place] = Lease::Asked(due);
                state.asked_count += 1;
            }
            // Asking again would not help; a server that is so late has failed the measurement.
            Lease::Asked(since) => state.recorder.unfinished(since, due),
            Lease::Lost => return Ok(()),
        }
        state.queue.push_back((place, due));
        Ok(())
    }

    fn answered(&self, id: i64, ttl: i64, now: Instant) -> Result<(), CallError> {
        let not_asked = || CallError::Answer(format!("keepalive was not asked for id={id}"));
        let place = self.ids.place(id).filter(|(stream, _)| *stream == self.stream);
        let (_, place) = place.ok_or_else(not_asked)?;
        let mut state = self.state();
        let Some(Lease::Asked(since)) = state.leases.get(place).copied() else {
            return Err(not_asked());
        };
        state.asked_count -= 1;
        if ttl > 0 {
            state.leases[place] = Lease::Kept;
            state.recorder.answered(since, now);
        } else {
            state.leases[place] = Lease::Lost;
            state.lost_count += 1;
        }
        if state.asked_count == 0 {
            self.all_answered.notify_one();
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Channel, Method, test_server};

    const EVERY: Duration = Duration::from_secs(20);

    #[test]
    fn every_lease_has_a_stream_and_a_place_there() {
        let ids = Ids { base: 7 << 32, streams: 3 };
        let counts: Vec<_> = (0..3).map(|stream| ids.count_of(stream, 8)).collect();
        assert_eq!(counts, [3, 3, 2]);
        for number in 0..8 {
            let (stream, place) = ids.place(ids.id(number)).unwrap();
            assert!(place < counts[stream]);
            assert_eq!(ids.id_at(stream, place), ids.id(number));
        }
        assert_eq!(ids.place(ids.base), None);
    }

    /// A keeper with this many leases, granted now, and a stream to a server that answers nothing
    /// that matters.
    async fn keeper(count: usize) -> (Keeper, Outgoing, Instant) {
        let keeper = Keeper::new(Ids { base: 0, streams: 1 }, 0, count, EVERY);
        let now = Instant::now();
        (0..count).for_each(|place| keeper.keep(place, now));
        let mut channel = Channel::connect(&test_server::start().await).await.unwrap();
        let (outgoing, _) = channel.stream(&Method::new("/a.B/C")).await.unwrap();
        (keeper, outgoing, now)
    }

    fn asked(keeper: &Keeper) -> Vec<usize> {
        let state = keeper.state();
        let is_asked = |place: &usize| matches!(state.leases[*place], Lease::Asked(_));
        (0..state.leases.len()).filter(is_asked).collect()
    }

    #[tokio::test]
    async fn before_the_steady_part_a_lease_is_renewed_when_it_is_due() {
        let (keeper, mut outgoing, now) = keeper(2).await;
        keeper.renew_due(&mut outgoing, now + EVERY - PULSE).unwrap();
        assert_eq!(asked(&keeper), [0_usize; 0]);
        keeper.renew_due(&mut outgoing, now + EVERY).unwrap();
        assert_eq!(asked(&keeper), [0, 1]);
    }

    #[tokio::test]
    async fn in_the_steady_part_renewals_are_spread_evenly() {
        let (keeper, mut outgoing, now) = keeper(4).await;
        keeper.begin_steady(Window { from: now, until: now + 2 * EVERY });
        let mut sent = 0;
        for (quarter, expected) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            keeper.renew_steady(&mut outgoing, now + EVERY / 4 * quarter, now, &mut sent).unwrap();
            assert_eq!(asked(&keeper).len(), expected);
        }
        for id in 1..=4 {
            keeper.answered(id, 60, now + EVERY).unwrap();
        }
        keeper.renew_steady(&mut outgoing, now + EVERY, now, &mut sent).unwrap();
        assert_eq!((asked(&keeper), sent), (vec![0], 5));
    }

    #[tokio::test]
    async fn an_answer_without_time_to_live_is_a_lost_lease_and_ends_its_renewals() {
        let (keeper, mut outgoing, now) = keeper(2).await;
        keeper.begin_steady(Window { from: now, until: now + 4 * EVERY });
        keeper.renew_due(&mut outgoing, now + EVERY).unwrap();
        keeper.answered(1, 0, now + EVERY).unwrap();
        keeper.answered(2, 60, now + EVERY).unwrap();
        keeper.renew_due(&mut outgoing, now + 2 * EVERY).unwrap();
        assert_eq!(asked(&keeper), [1]);
        let mut total = Recorder::new(Window { from: now, until: now }, Loop::Open);
        assert_eq!(keeper.add_to(&mut total), 1);
        assert_eq!((total.ops(), total.unfinished_count()), (1, 1));
    }

    #[tokio::test]
    async fn an_answer_that_nobody_asked_for_is_an_error() {
        let (keeper, _outgoing, now) = keeper(1).await;
        assert!(keeper.answered(1, 60, now).is_err());
        assert!(keeper.answered(99, 60, now).is_err());
    }
}
