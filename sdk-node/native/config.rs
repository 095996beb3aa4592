//! Typed configuration. TypeScript makes the value and keeps it by the number of its document.

use std::sync::Arc;

use folkmoot_bridge as bridge;
use napi::bindgen_prelude::*;
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;

use super::call::{Table, Weak, buffer, bytes, call, fail, maybe_millis, signed, text, weak};
use super::client::Client;
use super::stream::stream;

#[napi(object)]
pub struct Document {
    pub id: f64,
    pub json: String,
}

impl From<bridge::ConfigDocument> for Document {
    fn from(document: bridge::ConfigDocument) -> Self {
        Self { id: document.id as f64, json: document.json.to_string() }
    }
}

fn source(source: bridge::ConfigSource) -> &'static str {
    match source {
        bridge::ConfigSource::Live => "live",
        bridge::ConfigSource::DiskCache => "disk-cache",
    }
}

#[napi(object, object_from_js = false)]
pub struct ConfigState {
    pub document: Document,
    pub revision: BigInt,
    /// `live` or `disk-cache`.
    pub source: &'static str,
}

#[napi(object, object_from_js = false)]
pub struct ConfigEvent {
    /// `changed` or `rejected`.
    pub kind: &'static str,
    pub old: Option<Document>,
    pub new: Option<Document>,
    pub changed_paths: Vec<String>,
    pub revision: BigInt,
    pub source: Option<&'static str>,
    /// Of a rejection: the text of an error.
    pub error: Option<String>,
}

impl From<bridge::ConfigEventRecord> for ConfigEvent {
    fn from(event: bridge::ConfigEventRecord) -> Self {
        match event {
            bridge::ConfigEventRecord::Changed { old, new, changed_paths, revision, source: from } => Self {
                kind: "changed",
                old: old.map(Into::into),
                new: Some(new.into()),
                changed_paths,
                revision: revision.into(),
                source: Some(source(from)),
                error: None,
            },
            bridge::ConfigEventRecord::Rejected { revision, error } => Self {
                kind: "rejected",
                old: None,
                new: None,
                changed_paths: vec![],
                revision: revision.into(),
                source: None,
                error: Some(text(&error)),
            },
        }
    }
}

stream!(ConfigStream(ConfigStream) -> ConfigEvent, ConfigEvent::from);

static CANDIDATES: Table<bridge::Candidate> = Table::new();

/// Takes a configuration, or refuses it with a reason, or says why it does not fit its type; an answer to
/// an old question does nothing.
#[napi]
pub fn answer_candidate(number: u32, refusal: Option<String>, misfit: Option<String>) {
    if let Some(candidate) = CANDIDATES.take(number) {
        match (refusal, misfit) {
            (_, Some(why)) => candidate.misfit(why),
            (Some(why), None) => candidate.reject(why),
            (None, None) => candidate.accept(None),
        }
    }
}

/// A question whether a configuration is good.
#[napi(object)]
pub struct Question {
    pub number: u32,
    pub document: Document,
    pub old: Option<Document>,
}

struct Check(Weak<Question>);

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Check")
    }
}

impl bridge::ConfigCheck for Check {
    fn check(&self, candidate: bridge::Candidate) {
        let (document, old) = (candidate.document().into(), candidate.old().map(Into::into));
        let number = CANDIDATES.put(candidate);
        let question = Question { number, document, old };
        if self.0.call(question, ThreadsafeFunctionCallMode::NonBlocking) != Status::Ok {
            CANDIDATES.take(number);
        }
    }
}

#[napi(object)]
pub struct Item {
    pub path: String,
    /// In a publication, none removes the item.
    pub value: Option<Buffer>,
}

#[napi(object)]
pub struct Items {
    pub items: Vec<Item>,
    pub revision: BigInt,
}

#[napi(object)]
pub struct ConfigOptions {
    pub extends: Vec<String>,
    pub cache_dir: Option<String>,
    pub initial_timeout_ms: Option<f64>,
    pub debounce_ms: Option<f64>,
}

#[napi]
pub struct Config(bridge::Config);

#[napi]
impl Client {
    #[napi]
    pub fn config(&self, namespace: String) -> Config {
        Config(self.0.config(namespace))
    }
}

#[napi]
impl Config {
    #[napi]
    pub fn get<'e>(
        &self,
        env: &'e Env,
        path: String,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, Option<Buffer>>> {
        let config = self.0.clone();
        call(env, cancel, async move { config.get(path).await }, |value| value.as_ref().map(buffer))
    }

    #[napi]
    pub fn items<'e>(&self, env: &'e Env, cancel: Option<u32>) -> Result<PromiseRaw<'e, Items>> {
        fn items((items, revision): (Vec<bridge::ConfigItem>, i64)) -> Items {
            let item =
                |item: bridge::ConfigItem| Item { path: item.path, value: item.value.as_ref().map(buffer) };
            Items { items: items.into_iter().map(item).collect(), revision: revision.into() }
        }
        let config = self.0.clone();
        call(env, cancel, async move { config.items().await }, items)
    }

    #[napi]
    pub fn publish<'e>(
        &self,
        env: &'e Env,
        items: Vec<Item>,
        based_on: Option<BigInt>,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, BigInt>> {
        let item = |item: Item| bridge::ConfigItem { path: item.path, value: item.value.as_ref().map(bytes) };
        let items = items.into_iter().map(item).collect();
        let based_on = based_on.as_ref().map(signed).transpose()?;
        let config = self.0.clone();
        call(env, cancel, async move { config.publish(items, based_on).await }, BigInt::from)
    }

    #[napi]
    pub fn open<'e>(
        &self,
        env: &'e Env,
        options: ConfigOptions,
        check: Function<Question, ()>,
        cancel: Option<u32>,
    ) -> Result<PromiseRaw<'e, ConfigReader>> {
        let options = bridge::ConfigOptions {
            extends: options.extends,
            cache_dir: options.cache_dir,
            initial_timeout: maybe_millis(options.initial_timeout_ms)?,
            debounce: maybe_millis(options.debounce_ms)?,
        };
        let check: Arc<dyn bridge::ConfigCheck> = Arc::new(Check(weak(&check)?));
        let config = self.0.clone();
        call(env, cancel, async move { config.open(options, Some(check)).await }, ConfigReader)
    }
}

#[napi]
pub struct ConfigReader(bridge::ConfigReader);

#[napi]
impl ConfigReader {
    #[napi]
    pub fn current(&self) -> Result<Document> {
        Ok(self.0.current().map_err(fail)?.into())
    }

    #[napi]
    pub fn state(&self) -> Result<ConfigState> {
        let state = self.0.state().map_err(fail)?;
        Ok(ConfigState {
            document: state.document.into(),
            revision: state.revision.into(),
            source: source(state.source),
        })
    }

    #[napi]
    pub fn watch(&self) -> Result<ConfigStream> {
        Ok(ConfigStream(self.0.watch().map_err(fail)?))
    }

    #[napi]
    pub fn stop(&self) {
        self.0.stop();
    }
}
