//! Where the linearizable reads of one runtime wait for leave to run.
//!
//! All that came while the last question to the core was under way share the next one: under load
//! the core is asked once for some hundred reads. A read shares only a question that is asked after
//! it came, so that every write that was acknowledged before the read is seen by it.
//!
//! Refuses: asking other members (the core does) and reading.

use std::sync::Arc;
use std::time::Duration;

use folkmoot_core::error::Error;
use folkmoot_core::node::{Input, Reply, Slot};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::inbox::{Inbox, Refused};
use super::slots::{Port, WaitEnd};

/// How long reads wait for the question before theirs. A core that cannot answer soon gathers them
/// itself, and each is given up after its own time.
const PATIENCE: Duration = Duration::from_millis(20);

/// See the module.
pub struct ReadDesk {
    port: Arc<Port>,
    inbox: Arc<Inbox>,
    gathered: Mutex<Vec<Slot>>,
    bell: Notify,
}

impl ReadDesk {
    /// The desk of the runtime whose answers come through `port`.
    pub fn new(port: Arc<Port>, inbox: Arc<Inbox>) -> Self {
        Self { port, inbox, gathered: Mutex::default(), bell: Notify::new() }
    }

    /// Waits until a read of the published state is linearizable.
    pub async fn wait(&self) -> Result<Reply, WaitEnd> {
        let wait = self.port.wait();
        self.gather(wait.slot());
        wait.await
    }

    fn gather(&self, slot: Slot) {
        let mut gathered = self.gathered.lock();
        gathered.push(slot);
        if gathered.len() == 1 {
            self.bell.notify_one();
        }
    }

    /// Asks for all who wait, for ever. Run it as a task on the port's runtime.
    pub async fn work(self: Arc<Self>) {
        loop {
            // Behind everything else that is ready on this runtime, which may be more reads.
            self.bell.notified().await;
            let slots = std::mem::take(&mut *self.gathered.lock());
            let desk = Arc::clone(&self);
            let mut question = Box::pin(async move {
                let result = ask(&desk.port, &desk.inbox, |slot| Input::ReadIndex { slot }).await;
                desk.port.end_all(&slots, &result);
            });
            if tokio::time::timeout(PATIENCE, &mut question).await.is_err() {
                tokio::spawn(question);
            }
        }
    }
}

/// Puts a request to the core and waits for its answer.
pub async fn ask(port: &Port, inbox: &Inbox, input: impl FnOnce(Slot) -> Input) -> Result<Reply, WaitEnd> {
    let wait = port.wait();
    match inbox.request(input(wait.slot())) {
        Ok(()) => wait.await,
        Err(Refused::Full) => Err(WaitEnd::Answer(Error::TooManyRequests)),
        Err(Refused::Closed) => Err(WaitEnd::Answer(Error::Stopped)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    struct Desk {
        desk: Arc<ReadDesk>,
        port: Arc<Port>,
        inbox: Arc<Inbox>,
    }

    impl Desk {
        fn new() -> Self {
            let (port, inbox) = (Arc::new(Port::new(0)), Arc::new(Inbox::new()));
            let desk = Arc::new(ReadDesk::new(Arc::clone(&port), Arc::clone(&inbox)));
            tokio::spawn(Arc::clone(&port).deliver());
            tokio::spawn(Arc::clone(&desk).work());
            Self { desk, port, inbox }
        }

        fn read(&self) -> tokio::task::JoinHandle<Result<Reply, WaitEnd>> {
            let desk = Arc::clone(&self.desk);
            tokio::spawn(async move { desk.wait().await })
        }

        /// The next questions to the core, one at least.
        async fn questions(&self) -> Vec<Slot> {
            let mut inputs = Vec::new();
            while inputs.is_empty() {
                tokio::task::yield_now().await;
                self.inbox.take(Instant::now(), &mut inputs);
            }
            let slot = |input: Input| match input {
                Input::ReadIndex { slot } => slot,
                other => panic!("{other:?}"),
            };
            inputs.into_iter().map(slot).collect()
        }

        fn answer(&self, slot: Slot, result: Result<Reply, Error>) {
            self.port.post(&mut vec![(slot, result)]);
        }
    }

    fn done(revision: i64) -> Result<Reply, Error> {
        Ok(Reply::Done { revision })
    }

    #[tokio::test]
    async fn reads_that_came_after_a_question_share_the_next() {
        let desk = Desk::new();
        let early: Vec<_> = (0..3).map(|_| desk.read()).collect();
        let [first] = desk.questions().await[..] else { panic!("one question for all") };
        let late: Vec<_> = (0..3).map(|_| desk.read()).collect();
        tokio::task::yield_now().await;
        desk.answer(first, done(1));
        for read in early {
            assert_eq!(read.await.expect("no panic"), Ok(Reply::Done { revision: 1 }));
        }
        let [second] = desk.questions().await[..] else { panic!("one question for all") };
        desk.answer(second, Err(Error::NoLeader));
        for read in late {
            assert_eq!(read.await.expect("no panic"), Err(WaitEnd::Answer(Error::NoLeader)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_does_not_hold_up_the_next_for_long() {
        let desk = Desk::new();
        let stuck = desk.read();
        let first = desk.questions().await[0];
        let later = desk.read();
        tokio::time::sleep(PATIENCE).await;
        let second = desk.questions().await[0];
        desk.answer(second, done(2));
        assert_eq!(later.await.expect("no panic"), Ok(Reply::Done { revision: 2 }));
        assert!(!stuck.is_finished());
        desk.answer(first, done(3));
        assert_eq!(stuck.await.expect("no panic"), Ok(Reply::Done { revision: 3 }));
    }

    #[tokio::test]
    async fn reads_are_told_that_the_server_stopped() {
        let desk = Desk::new();
        desk.inbox.close();
        assert_eq!(desk.read().await.expect("no panic"), Err(WaitEnd::Answer(Error::Stopped)));
    }
}
