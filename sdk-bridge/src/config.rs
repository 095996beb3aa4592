//! Typed configuration, for types that only a language can make.
//!
//! `folkmoot-client` follows the items, lays namespaces over each other, keeps the last good value and
//! the disk cache. Its value here is the text of the JSON that the items amount to; whether that is a good
//! one is asked of a [`ConfigCheck`].

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use folkmoot_client as sdk;
use folkmoot_client::recipes::config as recipe;
use futures_util::FutureExt as _;
use parking_lot::Mutex as Lock;
use serde::{Deserialize, Deserializer};

use crate::client::Client;
use crate::edge::{Mine, Result, at_once, edge};
use crate::error::BridgeError;
use crate::stream::{Cell, Source, stream};

/// `folkmoot-client` gives a check five seconds; its thread is not held for longer.
const CHECK_MAX: Duration = Duration::from_secs(6);

/// What a language made of a configuration. It comes back with every mention of it.
pub type Attachment = Arc<dyn Any + Send + Sync>;

/// The value of a configuration, before a language has made its own of it.
#[derive(Debug)]
struct Document {
    id: u64,
    json: Arc<str>,
    attachment: OnceLock<Attachment>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let value = serde_json::Value::deserialize(deserializer)?;
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Self { id, json: value.to_string().into(), attachment: OnceLock::new() })
    }
}

/// A configuration.
#[derive(Clone)]
pub struct ConfigDocument {
    /// Tells one from another within this process.
    pub id: u64,
    /// Its value, as the text of a JSON object.
    pub json: Arc<str>,
    /// What was attached when it was accepted.
    pub attachment: Option<Attachment>,
}

impl fmt::Debug for ConfigDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigDocument")
            .field("id", &self.id)
            .field("json", &self.json)
            .finish_non_exhaustive()
    }
}

impl From<&Document> for ConfigDocument {
    fn from(document: &Document) -> Self {
        let Document { id, json, attachment } = document;
        Self { id: *id, json: json.clone(), attachment: attachment.get().cloned() }
    }
}

/// Stands before the reason of a misfit on its way through `folkmoot-client`, to which every refusal of a
/// check is one of a validator.
const MISFIT: char = '\u{1}';

/// An error of a reader, with misfits told from refusals.
fn told(error: sdk::Error) -> BridgeError {
    match error.message().split_once(MISFIT) {
        Some((_, why)) if error.kind() == sdk::ErrorKind::Rejected => {
            BridgeError::new(sdk::ErrorKind::InvalidConfig, why)
        }
        _ => error.into(),
    }
}

type Verdict = Result<Option<Attachment>, String>;

/// A configuration that may be taken. Dropping it unanswered refuses it.
pub struct Candidate {
    document: ConfigDocument,
    old: Option<ConfigDocument>,
    answer: Lock<Option<SyncSender<Verdict>>>,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("document", &self.document).finish_non_exhaustive()
    }
}

impl Candidate {
    /// The configuration, with nothing attached.
    pub fn document(&self) -> ConfigDocument {
        self.document.clone()
    }

    /// The one that it would replace.
    pub fn old(&self) -> Option<ConfigDocument> {
        self.old.clone()
    }

    /// Takes it. The first answer counts.
    pub fn accept(&self, attachment: Option<Attachment>) {
        self.answer(Ok(attachment));
    }

    /// It does not fit the type that the language wants; says why. What the reader tells then is
    /// `INVALID_CONFIG`, as of a text that does not parse.
    pub fn misfit(&self, why: String) {
        self.answer(Err(format!("{MISFIT}{why}")));
    }

    /// Refuses it, and says why: `REJECTED`.
    pub fn reject(&self, why: String) {
        self.answer(Err(why));
    }

    fn answer(&self, verdict: Verdict) {
        if let Some(answer) = self.answer.lock().take() {
            // Nobody waits any more if it took too long.
            let _ = answer.try_send(verdict);
        }
    }
}

/// Decides whether a configuration is taken.
pub trait ConfigCheck: Send + Sync + fmt::Debug {
    /// Answers, now or within five seconds; later counts as a refusal. Called on a thread where it may
    /// block.
    fn check(&self, candidate: Candidate);
}

fn consult(check: &dyn ConfigCheck, old: Option<&Document>, new: &Document) -> Result<(), String> {
    let (answer, answered) = sync_channel(1);
    let candidate =
        Candidate { document: new.into(), old: old.map(Into::into), answer: Lock::new(Some(answer)) };
    check.check(candidate);
    match answered.recv_timeout(CHECK_MAX) {
        Ok(Ok(attachment)) => {
            if let Some(attachment) = attachment {
                // It is new, so nothing was attached before.
                let _ = new.attachment.set(attachment);
            }
            Ok(())
        }
        Ok(Err(why)) => Err(why),
        Err(RecvTimeoutError::Timeout) => Err("no answer in time".to_owned()),
        Err(RecvTimeoutError::Disconnected) => Err("the check ended without an answer".to_owned()),
    }
}

/// How to follow a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigOptions {
    /// Namespaces that this one is laid over; of several the last lies lowest.
    pub extends: Vec<String>,
    /// Folder of the last good configuration.
    pub cache_dir: Option<String>,
    /// How long to wait for the store before the cache is used.
    pub initial_timeout: Option<Duration>,
    /// How long changes must pause before they are taken together.
    pub debounce: Option<Duration>,
}

/// Where a configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// The store.
    Live,
    /// The disk; it may be old.
    DiskCache,
}

impl From<recipe::Source> for ConfigSource {
    fn from(source: recipe::Source) -> Self {
        match source {
            recipe::Source::Live => Self::Live,
            recipe::Source::DiskCache => Self::DiskCache,
        }
    }
}

/// The last good configuration, and where it comes from.
#[derive(Clone, Debug)]
pub struct ConfigState {
    /// The configuration.
    pub document: ConfigDocument,
    /// As of when.
    pub revision: i64,
    /// Where from.
    pub source: ConfigSource,
}

/// What a reader tells.
#[derive(Clone, Debug)]
pub enum ConfigEventRecord {
    /// There is a new configuration.
    Changed {
        /// The one before, as this stream saw it; `None` at first.
        old: Option<ConfigDocument>,
        /// The present one.
        new: ConfigDocument,
        /// Where the two differ.
        changed_paths: Vec<String>,
        /// As of when.
        revision: i64,
        /// Where it comes from.
        source: ConfigSource,
    },
    /// There is one, but it was refused, or does not parse; the last good one stays.
    Rejected {
        /// As of when.
        revision: i64,
        /// Why.
        error: BridgeError,
    },
}

impl From<recipe::ConfigEvent<Document>> for ConfigEventRecord {
    fn from(event: recipe::ConfigEvent<Document>) -> Self {
        match event {
            recipe::ConfigEvent::Changed(change) => Self::Changed {
                old: change.old.as_deref().map(Into::into),
                new: (&*change.new).into(),
                changed_paths: change.changed_paths,
                revision: change.revision,
                source: change.source.into(),
            },
            recipe::ConfigEvent::Rejected(rejection) => {
                Self::Rejected { revision: rejection.revision, error: told(rejection.error) }
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Configs(recipe::ConfigWatch<Document>);

impl Source for Configs {
    type Item = ConfigEventRecord;
    const QUICK: bool = true;

    async fn pull(&mut self) -> Option<Result<ConfigEventRecord>> {
        Some(self.0.next().await.map(Into::into).map_err(Into::into))
    }
}

stream! {
    /// The present configuration at first, then each later one, and each refusal; those in between may be
    /// left out, the last one never.
    ConfigStream(Configs) -> ConfigEventRecord
}

/// An item as it lies in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigItem {
    /// Its path.
    pub path: String,
    /// Its bytes; in a publication `None` removes it.
    pub value: Option<Bytes>,
}

/// A namespace of configuration. As harmless as a client: a forked child may use it.
#[derive(Clone, Debug)]
pub struct Config {
    client: Client,
    namespace: String,
}

impl Client {
    /// The configuration of this namespace.
    pub fn config(&self, namespace: String) -> Config {
        Config { client: self.clone(), namespace }
    }
}

impl Config {
    fn sdk(&self) -> Result<recipe::Config> {
        Ok(self.client.sdk()?.config(&self.namespace))
    }

    /// One item.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn get(&self, path: String) -> Result<Option<Bytes>, BridgeError> {
        let config = self.sdk()?;
        edge(async { Ok(config.get(&path).await?) }).await
    }

    /// All items, and the revision at which they were read.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn items(&self) -> Result<(Vec<ConfigItem>, i64), BridgeError> {
        let config = self.sdk()?;
        edge(async {
            let (items, revision) = config.items().await?;
            let item = |(path, value)| ConfigItem { path, value: Some(value) };
            Ok((items.into_iter().map(item).collect(), revision))
        })
        .await
    }

    /// Changes items together, and answers with the revision; refuses with `CONFLICT` if an item was set after
    /// `based_on`.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be published or not.
    pub async fn publish(&self, items: Vec<ConfigItem>, based_on: Option<i64>) -> Result<i64, BridgeError> {
        let config = self.sdk()?;
        edge(async {
            let mut publish = config.publish();
            for item in items {
                publish = match item.value {
                    Some(value) => publish.set(item.path, value),
                    None => publish.remove(item.path),
                };
            }
            if let Some(revision) = based_on {
                publish = publish.based_on(revision);
            }
            Ok(publish.commit().await?)
        })
        .await
    }

    /// Reads the namespace and begins to follow it; without a check everything that parses is taken. Fails if
    /// there is no good configuration, neither in the store nor on disk.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn open(
        &self,
        options: ConfigOptions,
        check: Option<Arc<dyn ConfigCheck>>,
    ) -> Result<ConfigReader, BridgeError> {
        let config = self.sdk()?;
        edge(async {
            let mut open = config.typed::<Document>();
            for namespace in options.extends {
                open = open.extends(namespace);
            }
            if let Some(check) = check {
                open = open.validate(move |old, new: &Document| consult(&*check, old, new));
            }
            if let Some(dir) = options.cache_dir {
                open = open.cache_dir(dir);
            }
            if let Some(timeout) = options.initial_timeout {
                open = open.initial_timeout(timeout);
            }
            if let Some(debounce) = options.debounce {
                open = open.debounce(debounce);
            }
            Ok(ConfigReader(Arc::new(Mine::new(Lock::new(Some(open.open().await.map_err(told)?))))))
        })
        .await
    }
}

/// A configuration that follows the store, until it is stopped or the last clone, streams included, is
/// dropped.
#[derive(Clone, Debug)]
pub struct ConfigReader(Arc<Mine<Lock<Option<recipe::ConfigWatch<Document>>>>>);

impl ConfigReader {
    fn copy(&self) -> Result<recipe::ConfigWatch<Document>> {
        let reader = self.0.get()?;
        let copy = reader.lock().as_ref().cloned();
        copy.ok_or_else(|| BridgeError::closed("the configuration"))
    }

    /// The last good configuration.
    pub fn current(&self) -> Result<ConfigDocument, BridgeError> {
        let reader = self.0.get()?;
        match &*reader.lock() {
            Some(watch) => Ok((&*watch.current()).into()),
            None => Err(BridgeError::closed("the configuration")),
        }
    }

    /// The last good configuration, and where it comes from.
    pub fn state(&self) -> Result<ConfigState, BridgeError> {
        let mut copy = self.copy()?;
        at_once(|| match copy.next().now_or_never() {
            Some(Ok(recipe::ConfigEvent::Changed(change))) => Ok(ConfigState {
                document: (&*change.new).into(),
                revision: change.revision,
                source: change.source.into(),
            }),
            // A reader that has seen nothing yet is told the present state at once.
            _ => Err(BridgeError::closed("the configuration")),
        })
    }

    /// Follows it, from the present state on.
    pub fn watch(&self) -> Result<ConfigStream, BridgeError> {
        Ok(ConfigStream(Cell::new(Configs(self.copy()?))))
    }

    /// Lets go of it. Streams go on until they are stopped themselves.
    pub fn stop(&self) {
        if let Ok(reader) = self.0.get() {
            drop(at_once(|| {
                drop(reader.lock().take());
                Ok(())
            }));
        }
    }
}
