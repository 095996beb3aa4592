//! Typed configuration: watched, checked before it is taken, kept on disk for bad days.
//!
//! # What it guarantees
//! - A reader sees all changes of one publication or none ([`Publish`] is one transaction).
//! - What does not parse, does not fit the type, or is refused by the validator is never taken: the
//!   last good configuration stays, and the refusal is told.
//! - It never goes stale silently: a watch that lost its place reads everything afresh.
//! - With a cache, a process starts while the store is away, with what was last good, and says so.
//!
//! # What it does not
//! Processes take a change at slightly different times. The cache may be older than the store.
//!
//! An item is the key `config/<namespace>/items/<path>`; any client may put it. See
//! [`typed`](Config::typed) for how items become a value.

mod cache;
mod tree;
mod watcher;

pub use watcher::{ConfigBuilder, ConfigChange, ConfigEvent, ConfigWatch, Rejection, Source};

use bytes::Bytes;

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{Compare, Delete, Get, Is, Keys, Put, Txn};

const ITEM_BYTES_MAX: usize = 1 << 20;
const ITEMS_MAX: usize = 128;

/// A namespace of configuration.
#[derive(Clone, Debug)]
pub struct Config {
    client: Client,
    namespace: String,
}

fn items_prefix(namespace: &str) -> String {
    format!("config/{namespace}/items/")
}

fn check_namespace(namespace: &str) -> Result<()> {
    if namespace.is_empty() || namespace.starts_with('.') || namespace.contains(['/', '\0']) {
        let text = "a namespace of configuration is a text without slashes that does not begin with a dot";
        return Err(Error::invalid(format!("{text} namespace={namespace:?}")));
    }
    Ok(())
}

impl Client {
    /// The configuration of this namespace.
    pub fn config(&self, namespace: impl Into<String>) -> Config {
        Config { client: self.clone(), namespace: namespace.into() }
    }
}

impl Config {
    fn key(&self, path: &str) -> Result<String> {
        check_namespace(&self.namespace)?;
        if path.is_empty() || path.starts_with('/') {
            return Err(Error::invalid(format!(
                "the path of an item is relative and not empty path={path:?}"
            )));
        }
        Ok(format!("{}{path}", items_prefix(&self.namespace)))
    }

    /// One item as it lies in the store.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let answer = self.client.get(self.key(path)?).await?;
        Ok(answer.first().map(|kv| kv.value.clone()))
    }

    /// All items, and the revision at which they were read.
    ///
    /// # Cancel safety
    /// Nothing happens if the future is dropped.
    pub async fn items(&self) -> Result<(Vec<(String, Bytes)>, i64)> {
        check_namespace(&self.namespace)?;
        let prefix = items_prefix(&self.namespace);
        let answer = self.client.get(Get::prefix(&prefix)).await?;
        let path = |key: &Bytes| String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        let items = answer.kvs.into_iter().map(|kv| (path(&kv.key), kv.value)).collect();
        Ok((items, answer.header.revision))
    }

    /// Prepares to change items together.
    pub fn publish(&self) -> Publish {
        Publish { config: self.clone(), changes: Vec::new(), based_on: None }
    }
}

/// Changes of items that come into effect together.
#[derive(Clone, Debug)]
#[must_use = "nothing is published until it is committed"]
pub struct Publish {
    config: Config,
    changes: Vec<(String, Option<Bytes>)>,
    based_on: Option<i64>,
}

impl Publish {
    /// Sets an item.
    pub fn set(mut self, path: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.changes.push((path.into(), Some(Bytes::copy_from_slice(value.as_ref()))));
        self
    }

    /// Removes an item.
    pub fn remove(mut self, path: impl Into<String>) -> Self {
        self.changes.push((path.into(), None));
        self
    }

    /// Refuses if an item of the namespace was set after this revision, which [`Config::items`] told.
    pub fn based_on(mut self, revision: i64) -> Self {
        self.based_on = Some(revision);
        self
    }

    /// Publishes, and answers with the revision. What does not parse is refused before.
    ///
    /// # Cancel safety
    /// If the future is dropped it may be published or not.
    pub async fn commit(self) -> Result<i64> {
        let Self { config, changes, based_on } = self;
        if changes.is_empty() || changes.len() > ITEMS_MAX {
            let text =
                format!("one publication changes between 1 and {ITEMS_MAX} items count={}", changes.len());
            return Err(Error::invalid(text));
        }
        let mut txn = Txn::new();
        for (path, value) in &changes {
            let key = config.key(path)?;
            txn = match value {
                None => txn.and_then(Delete::new(key)),
                Some(value) if value.len() > ITEM_BYTES_MAX => {
                    let text = format!(
                        "an item has at most {ITEM_BYTES_MAX} bytes bytes={} path={path:?}",
                        value.len()
                    );
                    return Err(Error::invalid(text));
                }
                Some(value) => {
                    tree::parse(path, value)?;
                    txn.and_then(Put::new(key, value))
                }
            };
        }
        if let Some(revision) = based_on {
            let items = Keys::prefix(items_prefix(&config.namespace));
            txn = txn.when(Compare::mod_revision(items, Is::Less, revision + 1));
        }
        let answer = config.client.commit(txn).await?;
        if !answer.succeeded {
            let text = "the configuration was changed meanwhile: read it again and decide anew";
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        Ok(answer.header.revision)
    }
}
