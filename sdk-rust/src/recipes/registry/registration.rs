//! An instance that stays registered: what is wanted is said once, and a task of ours keeps it so.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::Registry;
use super::instance::{Health, Instance, unique};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Compare, Delete, EventKind, Get, Is, Put, Txn};
use crate::runtime;
use crate::session::Session;

const TTL_DEFAULT: Duration = Duration::from_secs(15);
const HEALTH_EVERY: Duration = Duration::from_secs(5);
const HEALTH_MAX: Duration = Duration::from_secs(3);
const FAILS: u32 = 3;
const GOODS: u32 = 2;

/// What to do if somebody else is registered under the id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuse.
    #[default]
    Fail,
    /// Take its place.
    Takeover,
    /// Register under the id with something behind it.
    Suffix,
}

/// What happened to a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationEvent {
    /// It was registered again, because its session was lost or its key was deleted.
    Reregistered {
        /// Counts the sessions.
        epoch: u64,
    },
    /// Somebody else has taken the id, and it is given up.
    Conflict,
}

/// How to register.
#[must_use = "nothing is registered until it is opened"]
pub struct RegisterBuilder {
    registry: Registry,
    instance: Instance,
    ttl: Duration,
    on_conflict: OnConflict,
}

impl RegisterBuilder {
    pub(crate) fn new(registry: Registry, instance: Instance) -> Self {
        Self { registry, instance, ttl: TTL_DEFAULT, on_conflict: OnConflict::Fail }
    }

    /// How long it stays registered without contact to the store; 15 s if not said.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// What to do if somebody else is registered under the id.
    pub fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// Registers, and asks `check` every five seconds how the instance is. Three failures in a row
    /// (or answers that take too long) change it for the worse, two good ones for the better.
    ///
    /// # Cancel safety
    /// If the future is dropped the instance is deregistered in the background.
    pub async fn health<F, H>(self, check: F) -> Result<Registration>
    where
        F: Fn() -> H + Send + 'static,
        H: Future<Output = Health> + Send + 'static,
    {
        let registration = self.open().await?;
        let health = registration.health.clone();
        // On the caller's runtime if there is one: what it does there must not hold up ours.
        let handle =
            tokio::runtime::Handle::try_current().unwrap_or_else(|_| registration.core_handle.clone());
        handle.spawn(run_checks(check, health));
        Ok(registration)
    }

    /// Registers.
    ///
    /// # Cancel safety
    /// If the future is dropped the instance is deregistered in the background.
    pub async fn open(self) -> Result<Registration> {
        let Self { registry, mut instance, ttl, on_conflict } = self;
        registry.namespace.clone_into(&mut instance.namespace);
        instance.incarnation = unique();
        if instance.id.is_empty() {
            instance.id = instance.incarnation.to_lowercase();
        }
        instance.ttl = ttl.as_secs();
        instance.check()?;
        let core = registry.client.core()?;
        let (health, wanted) = watch::channel(Wanted { health: instance.health, by: Who::Process });
        let (stop, stopped) = mpsc::channel(1);
        let (events, heard) = mpsc::channel(64);
        let (begun, begins) = oneshot::channel();
        let health = Arc::new(health);
        let (written, told) = watch::channel(None);
        let keeper = Keeper {
            client: registry.client.clone(),
            instance,
            ttl,
            on_conflict,
            health: Arc::clone(&health),
            wanted,
            written,
            events,
        };
        core.handle.spawn(keeper.run(begun, stopped));
        let id = begins.await.unwrap_or_else(|_| Err(Error::internal("a registration ended")))?;
        Ok(Registration {
            id,
            health,
            written: told,
            stop,
            events: heard,
            core_handle: core.handle.clone(),
            pid: runtime::pid(),
        })
    }
}

impl std::fmt::Debug for RegisterBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegisterBuilder").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// How the instance shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    health: Health,
    by: Who,
}

/// Who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// The process, in so many words.
    Process,
    /// Its health check.
    Check,
    /// Somebody else, in the record.
    Operator,
}

/// Turns single answers into changes.
#[derive(Debug)]
struct Hysteresis {
    shown: Health,
    bad: u32,
    good: u32,
}

impl Hysteresis {
    fn on(&mut self, answer: Health) -> Option<Health> {
        if answer == Health::Up {
            self.bad = 0;
            self.good += 1;
        } else {
            self.good = 0;
            self.bad += 1;
        }
        let change = answer != self.shown && (self.good >= GOODS || self.bad >= FAILS);
        if change {
            self.shown = answer;
        }
        change.then_some(answer)
    }
}

async fn run_checks<F, H>(check: F, health: Arc<watch::Sender<Wanted>>)
where
    F: Fn() -> H + Send + 'static,
    H: Future<Output = Health> + Send + 'static,
{
    let mut hysteresis = Hysteresis { shown: health.borrow().health, bad: 0, good: 0 };
    while !health.is_closed() {
        let answer = tokio::time::timeout(HEALTH_MAX, check()).await.unwrap_or(Health::Down);
        // The process or an operator may have said something else meanwhile.
        hysteresis.shown = health.borrow().health;
        if let Some(change) = hysteresis.on(answer) {
            health.send_if_modified(|shown| {
                // Who drains has decided so.
                let change_it =
                    !matches!(shown.health, Health::Draining | Health::Maintenance) && shown.health != change;
                if change_it {
                    *shown = Wanted { health: change, by: Who::Check };
                }
                change_it
            });
        }
        tokio::select! {
            () = tokio::time::sleep(HEALTH_EVERY) => {}
            () = health.closed() => {}
        }
    }
}

/// Keeps an instance registered.
struct Keeper {
    client: Client,
    instance: Instance,
    ttl: Duration,
    on_conflict: OnConflict,
    /// What is wanted; an operator may say so in the record itself.
    health: Arc<watch::Sender<Wanted>>,
    wanted: watch::Receiver<Wanted>,
    /// What the record says, as far as it is known.
    written: watch::Sender<Option<Health>>,
    events: mpsc::Sender<RegistrationEvent>,
}

enum End {
    /// The session is lost: begin again.
    Lost,
    /// It is not wanted any more.
    Stopped(Option<oneshot::Sender<Result<()>>>),
    /// Somebody else has it.
    Taken,
}

type Stop = oneshot::Sender<Result<()>>;

impl Keeper {
    fn key(&self) -> Bytes {
        format!("services/{}/{}/{}", self.instance.namespace, self.instance.service, self.instance.id).into()
    }

    async fn run(mut self, begun: oneshot::Sender<Result<String>>, mut stop: mpsc::Receiver<Stop>) {
        let mut begun = Some(begun);
        let mut backoff = Backoff::new(Duration::from_millis(50), (self.ttl / 3).min(Duration::from_secs(5)));
        let mut epoch = 0;
        loop {
            let begin = async {
                let mut open = self.client.session().ttl(self.ttl);
                if self.ttl < Duration::from_secs(5) {
                    open = open.allow_short_ttl();
                }
                let session = open.open().await?;
                let revision = self.register(&session, epoch == 0).await?;
                Ok::<_, Error>((session, revision))
            };
            let (session, revision) = match begin.await {
                Ok(registered) => registered,
                Err(error) => {
                    if let Some(begun) = begun.take() {
                        // Whoever waits for it may be gone; it is not registered in either case.
                        let _ = begun.send(Err(error));
                        return;
                    }
                    if error.kind() == ErrorKind::AlreadyRegistered {
                        let _ = self.events.try_send(RegistrationEvent::Conflict);
                        return;
                    }
                    tokio::select! {
                        () = backoff.wait() => continue,
                        answer = stop.recv() => {
                            if let Some(answer) = answer {
                                let _ = answer.send(Ok(()));
                            }
                            return;
                        }
                    }
                }
            };
            backoff.reset();
            epoch += 1;
            match begun.take() {
                Some(begun) => {
                    if begun.send(Ok(self.instance.id.clone())).is_err() {
                        let closed = session.close().await;
                        tracing::debug!(?closed, "a registration that nobody waited for was given up");
                        return;
                    }
                }
                // A full queue has earlier news of the same kind.
                None => drop(self.events.try_send(RegistrationEvent::Reregistered { epoch })),
            }
            match self.keep(&session, revision, &mut stop).await {
                End::Lost => {}
                End::Taken => {
                    let _ = self.events.try_send(RegistrationEvent::Conflict);
                    return;
                }
                End::Stopped(answer) => {
                    let outcome = self.deregister(session).await;
                    if let Some(answer) = answer {
                        let _ = answer.send(outcome);
                    }
                    return;
                }
            }
        }
    }

    /// Puts the record, if nobody else has the id.
    async fn register(&mut self, session: &Session, first: bool) -> Result<i64> {
        for _ in 0..16 {
            self.instance.health = self.wanted.borrow_and_update().health;
            let key = self.key();
            let put = Put::new(&key, self.instance.encode()).lease(session.lease());
            let txn = Txn::new()
                .when(Compare::absent(key.clone()))
                .and_then(put.clone())
                .or_else(Get::new(key.clone()));
            let answer = self.client.commit_idempotent(txn).await?;
            if answer.succeeded {
                self.written.send_replace(Some(self.instance.health));
                return Ok(answer.header.revision);
            }
            let Some(kv) = answer.get(0).and_then(|get| get.first()) else { continue };
            let known = Instance::decode(
                &self.instance.namespace,
                &self.instance.service,
                &self.instance.id,
                &kv.value,
            );
            // An earlier session of this very start, whose lease has not ended yet.
            let own = kv.lease == session.lease()
                || known.is_some_and(|known| known.incarnation == self.instance.incarnation);
            if own && self.heed(&kv.value) {
                continue;
            }
            if own || (first && self.on_conflict == OnConflict::Takeover) {
                let same = Compare::mod_revision(key, Is::Equal, kv.mod_revision);
                let answer = self.client.commit_idempotent(Txn::new().when(same).and_then(put)).await?;
                if answer.succeeded {
                    self.written.send_replace(Some(self.instance.health));
                    return Ok(answer.header.revision);
                }
                continue;
            }
            if first && self.on_conflict == OnConflict::Suffix {
                let tail = unique().to_lowercase();
                self.instance.id = format!("{}-{}", self.instance.id, &tail[20..]);
                continue;
            }
            let text = format!("somebody else is registered key={:?}", kv.key_text());
            return Err(Error::new(ErrorKind::AlreadyRegistered, text));
        }
        Err(Error::new(ErrorKind::Conflict, "the record changed again and again while it was put"))
    }

    /// If the record says something else than was written into it, an operator has, and so it shall be.
    /// Answers whether that was so.
    fn heed(&self, record: &[u8]) -> bool {
        let Instance { namespace, service, id, .. } = &self.instance;
        let Some(said) = Instance::decode(namespace, service, id, record).map(|record| record.health) else {
            return false;
        };
        let written = *self.written.borrow();
        // What this process has just said itself is in nobody's record yet, and counts.
        let wanted = *self.health.borrow();
        let pending = Some(wanted.health) != written && wanted.by == Who::Process;
        let foreign = written.is_some_and(|written| written != said) && !pending;
        if foreign {
            self.written.send_replace(Some(said));
            self.health.send_replace(Wanted { health: said, by: Who::Operator });
        }
        foreign
    }

    async fn keep(&mut self, session: &Session, mut revision: i64, stop: &mut mpsc::Receiver<Stop>) -> End {
        let mut deleted = 0;
        let mut watcher = self.client.watch(crate::kv::Keys::from(self.key())).open_at(revision + 1).ok();
        let mut retry = Backoff::default();
        let mut dirty = false;
        // What happened between the end of a watch and the next one is read.
        let mut unseen = false;
        loop {
            let event = async {
                match &mut watcher {
                    Some(watcher) => watcher.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = stop.recv() => return End::Stopped(answer),
                _ = session.lost() => return End::Lost,
                Ok(()) = self.wanted.changed() => dirty = true,
                () = retry.wait(), if dirty || unseen => {}
                event = event => match event {
                    Some(Ok(batch)) => {
                        let gone = batch.events.iter().any(|event| event.kind == EventKind::Delete);
                        let other = batch.events.iter().any(|event| {
                            event.kind == EventKind::Put && event.kv.lease != session.lease()
                        });
                        if other {
                            return End::Taken;
                        }
                        let later = batch.events.iter().rfind(|event| {
                            event.kind == EventKind::Put && event.kv.mod_revision > revision
                        });
                        if let Some(event) = later
                            && self.heed(&event.kv.value)
                        {
                            // It is in the record already.
                            self.wanted.mark_unchanged();
                        }
                        if gone {
                            deleted += 1;
                            if deleted > 1 {
                                return End::Taken;
                            }
                            dirty = true;
                        }
                    }
                    Some(Err(error)) if error.kind() != ErrorKind::Closed => {
                        tracing::debug!(%error, "the watch of a record ended");
                        watcher = None;
                        unseen = true;
                        continue;
                    }
                    Some(Err(_)) | None => return End::Lost,
                },
            }
            if unseen {
                match self.client.get(Get::new(self.key())).await {
                    Ok(answer) => {
                        match answer.first() {
                            Some(kv) if kv.lease != session.lease() => return End::Taken,
                            Some(kv) => {
                                if kv.mod_revision > revision && self.heed(&kv.value) {
                                    self.wanted.mark_unchanged();
                                }
                            }
                            None => {
                                deleted += 1;
                                if deleted > 1 {
                                    return End::Taken;
                                }
                                dirty = true;
                            }
                        }
                        let keys = crate::kv::Keys::from(self.key());
                        watcher = self.client.watch(keys).open_at(answer.header.revision + 1).ok();
                        unseen = false;
                        if watcher.is_none() {
                            return End::Lost;
                        }
                    }
                    Err(error) => tracing::debug!(%error, "a record could not be read yet"),
                }
            }
            if dirty {
                match self.register(session, false).await {
                    Ok(now) => {
                        revision = now;
                        dirty = false;
                        retry.reset();
                    }
                    Err(error) if error.kind() == ErrorKind::AlreadyRegistered => return End::Taken,
                    Err(error) => tracing::debug!(%error, "a record could not be put yet"),
                }
            }
        }
    }

    async fn deregister(&self, session: Session) -> Result<()> {
        let key = self.key();
        let own = Compare::lease(key.clone(), Is::Equal, session.lease());
        let deleted = self.client.commit_idempotent(Txn::new().when(own).and_then(Delete::new(key))).await;
        let closed = session.close().await;
        deleted.map(drop).and(closed)
    }
}

/// An instance that is registered. Dropping it deregisters it in the background.
#[derive(Debug)]
pub struct Registration {
    id: String,
    health: Arc<watch::Sender<Wanted>>,
    written: watch::Receiver<Option<Health>>,
    stop: mpsc::Sender<Stop>,
    events: mpsc::Receiver<RegistrationEvent>,
    core_handle: tokio::runtime::Handle,
    pid: u32,
}

impl Registration {
    /// Its id within the service.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Says how it is.
    pub fn set_health(&self, health: Health) {
        self.health.send_replace(Wanted { health, by: Who::Process });
    }

    /// What happened to it; `None` after its end. What nobody hears is forgotten after 64.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn event(&mut self) -> Option<RegistrationEvent> {
        self.events.recv().await
    }

    /// Takes the events out, to be heard by somebody else than who drains and deregisters. Afterwards
    /// [`Registration::event`] and this have none.
    pub fn events(&mut self) -> RegistrationEvents {
        let (_, none) = mpsc::channel(1);
        RegistrationEvents { heard: std::mem::replace(&mut self.events, none) }
    }

    /// Says that it takes nothing new, and waits until clients have had the time to notice. Then
    /// close the listeners and [`deregister`](Registration::deregister).
    ///
    /// The time counts from when it is in the registry. If the store cannot be told within that time, it
    /// begins all the same: clients that hear nothing of the store do not hear of this either.
    ///
    /// # Cancel safety
    /// It stays draining if the future is dropped.
    pub async fn drain(&self, grace: Duration) -> Result<()> {
        if self.pid != runtime::pid() {
            return Err(Error::forked());
        }
        self.set_health(Health::Draining);
        let mut written = self.written.clone();
        runtime::within(&self.core_handle, async move {
            let told = written.wait_for(|written| *written == Some(Health::Draining));
            let _ = tokio::time::timeout(grace, told).await;
            tokio::time::sleep(grace).await;
        })
        .await;
        Ok(())
    }

    /// Takes it out of the registry.
    ///
    /// # Cancel safety
    /// It is taken out in the background if the future is dropped.
    pub async fn deregister(self) -> Result<()> {
        if self.pid != runtime::pid() {
            return Err(Error::forked());
        }
        let (answer, answered) = oneshot::channel();
        if self.stop.send(answer).await.is_err() {
            return Ok(());
        }
        answered.await.unwrap_or(Ok(()))
    }
}

/// What happens to a registration.
#[derive(Debug)]
pub struct RegistrationEvents {
    heard: mpsc::Receiver<RegistrationEvent>,
}

impl RegistrationEvents {
    /// What happened; `None` after the end of the registration. What nobody hears is forgotten after
    /// 64.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn next(&mut self) -> Option<RegistrationEvent> {
        self.heard.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_3_health_changes_after_three_bad_answers_or_two_good_ones() {
        let mut health = Hysteresis { shown: Health::Up, bad: 0, good: 0 };
        let mut on = |answers: &[Health]| answers.iter().map(|answer| health.on(*answer)).collect::<Vec<_>>();
        use Health::{Down, Up};
        assert_eq!(on(&[Down, Down, Up, Down, Down]), [None; 5]);
        assert_eq!(on(&[Down]), [Some(Down)]);
        assert_eq!(on(&[Up, Up, Up]), [None, Some(Up), None]);
    }
}
