//! Typed configuration that follows the store.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::Stream;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::cache::{self, Cached};
use super::tree::{self, Items};
use super::{Config, items_prefix};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime;
use crate::view::{PrefixView, ViewEvent};

const INITIAL_TIMEOUT: Duration = Duration::from_secs(5);
const DEBOUNCE: Duration = Duration::from_millis(50);
const VALIDATE_MAX: Duration = Duration::from_secs(5);

/// Where a configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The store.
    Live,
    /// The disk, because the store could not be reached; it may be old.
    DiskCache,
}

/// A configuration that was accepted.
#[derive(Clone, Debug)]
pub struct ConfigChange<T> {
    /// The one before, as this watcher saw it; `None` at first.
    pub old: Option<Arc<T>>,
    /// The present one.
    pub new: Arc<T>,
    /// Where the two differ.
    pub changed_paths: Vec<String>,
    /// As of when.
    pub revision: i64,
    /// Where it comes from.
    pub source: Source,
}

/// A configuration that was not accepted; the last good one stays.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// As of when.
    pub revision: i64,
    /// Why.
    pub error: Error,
}

/// What a watcher tells.
#[derive(Clone, Debug)]
pub enum ConfigEvent<T> {
    /// There is a new configuration.
    Changed(ConfigChange<T>),
    /// There is one, but it was refused.
    Rejected(Rejection),
}

type Validate<T> = Arc<dyn Fn(Option<&T>, &T) -> Result<(), String> + Send + Sync>;

/// How to read a namespace as a type.
#[must_use = "nothing is read until it is opened"]
pub struct ConfigBuilder<T> {
    client: Client,
    namespace: String,
    extends: Vec<String>,
    validate: Option<Validate<T>>,
    cache_dir: Option<PathBuf>,
    initial_timeout: Duration,
    debounce: Duration,
}

impl<T> std::fmt::Debug for ConfigBuilder<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigBuilder").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads the namespace as a type, and follows it.
    pub fn typed<T: DeserializeOwned + Send + Sync + 'static>(&self) -> ConfigBuilder<T> {
        ConfigBuilder {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            extends: Vec::new(),
            validate: None,
            cache_dir: None,
            initial_timeout: INITIAL_TIMEOUT,
            debounce: DEBOUNCE,
        }
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> ConfigBuilder<T> {
    /// Lays this namespace over another one, path by path. Of several the last named lies lowest.
    pub fn extends(mut self, namespace: impl Into<String>) -> Self {
        self.extends.push(namespace.into());
        self
    }

    /// Asks before a configuration is taken; a refusal keeps the last good one. It may take five
    /// seconds, and runs on a thread where it may block.
    pub fn validate<E: std::fmt::Display>(
        mut self,
        check: impl Fn(Option<&T>, &T) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.validate = Some(Arc::new(move |old, new| check(old, new).map_err(|error| error.to_string())));
        self
    }

    /// Keeps the last good configuration in this folder, readable for this user only, for starts
    /// while the store is away.
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(dir.into());
        self
    }

    /// How long to wait for the store before the cache is used; 5 s if not said.
    pub fn initial_timeout(mut self, timeout: Duration) -> Self {
        self.initial_timeout = timeout;
        self
    }

    /// How long changes must pause before they are taken together; 50 ms if not said.
    pub fn debounce(mut self, pause: Duration) -> Self {
        self.debounce = pause;
        self
    }

    /// Reads it and begins to follow it. Fails if there is no good configuration, neither in the
    /// store nor on disk.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn open(self) -> Result<ConfigWatch<T>> {
        let mut namespaces: Vec<String> = self.extends.iter().rev().cloned().collect();
        namespaces.push(self.namespace.clone());
        for namespace in &namespaces {
            super::check_namespace(namespace)?;
        }
        let core = self.client.core()?;
        let mut driver = Driver {
            client: self.client,
            namespaces,
            validate: self.validate,
            cache_dir: self.cache_dir,
            debounce: self.debounce,
            views: Vec::new(),
        };
        let timeout = self.initial_timeout;
        let first = async {
            let live = match tokio::time::timeout(timeout, driver.connect()).await {
                Ok(Ok(())) => driver.load(None).await.inspect(|loaded| driver.store(loaded)),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(Error::new(ErrorKind::Unavailable, "the store did not answer in time")),
            };
            match live {
                Ok(loaded) => Ok(loaded),
                Err(error) => match driver.load_cached().await {
                    Some(loaded) => {
                        tracing::warn!(%error, "the configuration comes from the disk");
                        Ok(loaded)
                    }
                    None => Err(error),
                },
            }
        };
        let loaded = Arc::new(runtime::within(&core.handle, first).await?);
        let current = Arc::new(ArcSwap::new(loaded.value.clone()));
        let (state, states) = watch::channel(State { loaded: loaded.clone(), rejected: None });
        let task = core.handle.spawn(driver.run(state, current.clone(), loaded));
        Ok(ConfigWatch {
            current,
            states,
            seen: None,
            rejected: 0,
            _task: Arc::new(Task(task.abort_handle())),
        })
    }
}

#[derive(Debug)]
struct Loaded<T> {
    value: Arc<T>,
    tree: Value,
    revision: i64,
    source: Source,
    layers: BTreeMap<String, Items>,
}

#[derive(Debug)]
struct State<T> {
    loaded: Arc<Loaded<T>>,
    /// The last refusal, and its number.
    rejected: Option<(u64, Rejection)>,
}

/// Follows the namespaces.
struct Driver<T> {
    client: Client,
    /// The lowest first.
    namespaces: Vec<String>,
    validate: Option<Validate<T>>,
    cache_dir: Option<PathBuf>,
    debounce: Duration,
    views: Vec<PrefixView>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Driver<T> {
    fn namespace(&self) -> &str {
        self.namespaces.last().expect("there is at least one")
    }

    async fn connect(&mut self) -> Result<()> {
        self.views.clear();
        for namespace in &self.namespaces {
            self.views.push(PrefixView::open(&self.client, items_prefix(namespace)).await?);
        }
        Ok(())
    }

    fn layers(&self) -> BTreeMap<String, Items> {
        let items = |(namespace, view): (&String, &PrefixView)| {
            let prefix = items_prefix(namespace);
            let path = |key: &[u8]| Some(std::str::from_utf8(key).ok()?.strip_prefix(&prefix)?.to_owned());
            let items = view.values().filter_map(|kv| Some((path(&kv.key)?, kv.value.clone()))).collect();
            (namespace.clone(), items)
        };
        self.namespaces.iter().zip(&self.views).map(items).collect()
    }

    /// Makes a value of what the views have.
    async fn load(&self, old: Option<Arc<T>>) -> Result<Loaded<T>> {
        let revision = self.views.iter().map(PrefixView::revision).max().unwrap_or(0);
        self.decode(self.layers(), revision, Source::Live, old).await
    }

    async fn decode(
        &self,
        layers: BTreeMap<String, Items>,
        revision: i64,
        source: Source,
        old: Option<Arc<T>>,
    ) -> Result<Loaded<T>> {
        let mut tree = Value::Object(serde_json::Map::new());
        for namespace in &self.namespaces {
            if let Some(items) = layers.get(namespace) {
                tree::overlay(&mut tree, tree::build(items)?);
            }
        }
        let value: T = serde_json::from_value(tree.clone()).map_err(|error| {
            let text =
                format!("the configuration does not fit its type: {error} namespace={:?}", self.namespace());
            Error::new(ErrorKind::InvalidConfig, text)
        })?;
        let value = Arc::new(value);
        if let Some(validate) = self.validate.clone() {
            let new = value.clone();
            let check = tokio::task::spawn_blocking(move || validate(old.as_deref(), &new));
            let refuse = |why: String| Err(Error::new(ErrorKind::Rejected, why));
            match tokio::time::timeout(VALIDATE_MAX, check).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(why))) => return refuse(format!("the validator refused the configuration: {why}")),
                Ok(Err(_)) => return refuse("the validator panicked".into()),
                Err(_) => return refuse("the validator took more than five seconds".into()),
            }
        }
        Ok(Loaded { value, tree, revision, source, layers })
    }

    async fn load_cached(&self) -> Option<Loaded<T>> {
        let cached = cache::read(self.cache_dir.as_deref()?, self.namespace())?;
        let known = self.client.cluster_id();
        if known != 0 && known != cached.cluster_id {
            return None;
        }
        self.decode(cached.layers, cached.revision, Source::DiskCache, None).await.ok()
    }

    fn store(&self, loaded: &Loaded<T>) {
        let Some(dir) = &self.cache_dir else { return };
        let cluster_id = self.client.cluster_id();
        if let Some(before) = cache::read(dir, self.namespace())
            && before.cluster_id == cluster_id
            && before.revision > loaded.revision
        {
            tracing::warn!(
                cached = before.revision,
                live = loaded.revision,
                "the store is behind the cached configuration: it was restored from a backup"
            );
        }
        let cached = Cached { cluster_id, revision: loaded.revision, layers: loaded.layers.clone() };
        if let Err(error) = cache::write(dir, self.namespace(), &cached) {
            tracing::warn!(%error, dir = %dir.display(), "the configuration cannot be cached");
        }
    }

    /// Waits for a change of any layer.
    async fn change(&mut self) -> Result<()> {
        let mut waiting: Vec<_> = self.views.iter_mut().map(|view| Box::pin(view.next())).collect();
        loop {
            let event = poll_fn(|cx| {
                for view in &mut waiting {
                    if let Poll::Ready(event) = view.as_mut().poll(cx) {
                        return Poll::Ready(event);
                    }
                }
                Poll::Pending
            });
            if let ViewEvent::Change(_) = event.await? {
                return Ok(());
            }
            // A finished future is not polled again.
            drop(waiting);
            waiting = self.views.iter_mut().map(|view| Box::pin(view.next())).collect();
        }
    }

    async fn run(
        mut self,
        state: watch::Sender<State<T>>,
        current: Arc<ArcSwap<T>>,
        mut loaded: Arc<Loaded<T>>,
    ) {
        let mut backoff = Backoff::default();
        let mut rejections = 0;
        let mut refused: Option<BTreeMap<String, Items>> = None;
        let mut begin = self.views.len() != self.namespaces.len() || loaded.source == Source::DiskCache;
        loop {
            if !std::mem::take(&mut begin) {
                match self.change().await {
                    Ok(()) => self.settle().await,
                    Err(error) if error.kind() == ErrorKind::Closed => return,
                    Err(error) => {
                        tracing::warn!(%error, "the configuration is read afresh");
                        self.views.clear();
                    }
                }
            }
            while self.views.len() != self.namespaces.len() {
                match self.connect().await {
                    Ok(()) => backoff.reset(),
                    Err(error) if error.kind() == ErrorKind::Closed => return,
                    Err(_) => {
                        self.views.clear();
                        backoff.wait().await;
                    }
                }
            }
            match self.load(Some(loaded.value.clone())).await {
                Ok(fresh) if fresh.tree == loaded.tree && loaded.source == Source::Live => {}
                Ok(fresh) => {
                    self.store(&fresh);
                    loaded = Arc::new(fresh);
                    current.store(loaded.value.clone());
                    state.send_modify(|state| state.loaded = loaded.clone());
                    refused = None;
                }
                Err(error) => {
                    let layers = self.layers();
                    if refused.as_ref() != Some(&layers) {
                        refused = Some(layers);
                        rejections += 1;
                        tracing::warn!(%error, "a configuration was refused; the last good one stays");
                        let revision = self.views.iter().map(PrefixView::revision).max().unwrap_or(0);
                        let rejection = (rejections, Rejection { revision, error });
                        state.send_modify(|state| state.rejected = Some(rejection));
                    }
                }
            }
        }
    }

    /// Takes changes until they pause.
    async fn settle(&mut self) {
        let until = Instant::now() + self.debounce * 10;
        while Instant::now() < until {
            let pause = self.debounce;
            let change = pin!(self.change());
            match tokio::time::timeout(pause, change).await {
                Ok(Ok(())) => {}
                // An error shows again at the next wait.
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}

#[derive(Debug)]
struct Task(tokio::task::AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A configuration that follows the store. Clones follow it each for themselves.
#[derive(Debug)]
pub struct ConfigWatch<T> {
    current: Arc<ArcSwap<T>>,
    states: watch::Receiver<State<T>>,
    seen: Option<Arc<Loaded<T>>>,
    rejected: u64,
    _task: Arc<Task>,
}

impl<T> Clone for ConfigWatch<T> {
    fn clone(&self) -> Self {
        Self {
            current: self.current.clone(),
            states: self.states.clone(),
            seen: self.seen.clone(),
            rejected: self.rejected,
            _task: self._task.clone(),
        }
    }
}

impl<T> ConfigWatch<T> {
    /// The last good configuration. Takes no lock.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// The present configuration at first, then each later one; those in between may be left out,
    /// the last one never.
    ///
    /// # Cancel safety
    /// May be dropped and called again; nothing is lost.
    pub async fn next(&mut self) -> Result<ConfigEvent<T>> {
        loop {
            {
                let state = self.states.borrow_and_update();
                let is_news = self.seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &state.loaded));
                if is_news {
                    let loaded = state.loaded.clone();
                    let old = self.seen.replace(loaded.clone());
                    let nothing = Value::Object(serde_json::Map::new());
                    let before = old.as_ref().map_or(&nothing, |old| &old.tree);
                    return Ok(ConfigEvent::Changed(ConfigChange {
                        changed_paths: tree::changed(before, &loaded.tree),
                        old: old.as_ref().map(|old| old.value.clone()),
                        new: loaded.value.clone(),
                        revision: loaded.revision,
                        source: loaded.source,
                    }));
                }
                if let Some((number, rejection)) = &state.rejected
                    && *number > self.rejected
                {
                    self.rejected = *number;
                    return Ok(ConfigEvent::Rejected(rejection.clone()));
                }
            }
            self.states.changed().await.map_err(|_| Error::closed("the configuration"))?;
        }
    }

    /// The same as a stream, which ends after an error. Of a clone, if [`ConfigWatch::current`] is
    /// asked meanwhile.
    pub fn into_stream(self) -> impl Stream<Item = Result<ConfigEvent<T>>> + Send + Unpin
    where
        T: Send + Sync + 'static,
    {
        crate::stream::endless(self, |watch| Box::pin(watch.next()))
    }
}
