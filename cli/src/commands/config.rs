//! Configuration: `config get`, `set`, `del`, `watch` and `diff`.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, Subcommand};
use folkmoot_client::recipes::config::{Config, ConfigEvent, ConfigWatch};
use serde_json::{Map, Value, json as value};

use super::Context;
use super::kv::stdin_is_null;
use crate::diff::{self, Line};
use crate::failure::{Failure, Result};
use crate::output::plain;
use crate::signals::StopRequests;

/// Read, change and follow configuration
///
/// A namespace of configuration has items. An item's path is its place in one tree of values, and
/// its suffix says how it is written: .json, .yaml, .yml, .toml, or .txt for a text as it is; without
/// a suffix it is a truth value, a number or a text.
#[derive(Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Show an item as it lies in the store, all items, or the tree that they make
    #[command(after_help = "\
Examples:
  folkmoot config get gateway limits.yaml          that item, byte for byte
  folkmoot config get gateway                      all items, path and value
  folkmoot config get gateway --tree               what programs are given
  folkmoot config get gateway --tree --extends base
                                                   over what another says
  folkmoot config get gateway limits.yaml -w json  with the revision")]
    Get {
        /// The namespace
        namespace: String,
        /// The item; all if left out
        path: Option<String>,
        /// Show the one tree that all items make, as JSON
        #[arg(long, conflicts_with = "path")]
        tree: bool,
        #[command(flatten)]
        layers: LayerArgs,
    },
    /// Set an item
    ///
    /// What does not parse is refused. So is the change if anything in the namespace was set since
    /// --rev, or since this command began to read its value: what is edited in a pipeline is not
    /// written over somebody else's change.
    #[command(after_help = "\
Examples:
  folkmoot config set gateway debug true
  folkmoot config set gateway limits.yaml --file limits.yaml
  folkmoot config set gateway limits.yaml --file limits.yaml --rev 41
                                                   if 41 is what was edited
  folkmoot config get gateway limits.yaml | sed s/10/20/ |
    folkmoot config set gateway limits.yaml        value from standard input")]
    Set {
        /// The namespace
        namespace: String,
        /// The item
        path: String,
        /// The value; read from --file or standard input when left out
        #[arg(allow_negative_numbers = true)]
        value: Option<String>,
        /// Read the value from this file
        #[arg(long, value_name = "FILE", conflicts_with = "value")]
        file: Option<PathBuf>,
        #[command(flatten)]
        basis: BasisArgs,
    },
    /// Remove items, all at once
    #[command(after_help = "\
Examples:
  folkmoot config del gateway debug
  folkmoot config del gateway debug limits.yaml    both at one revision")]
    Del {
        /// The namespace
        namespace: String,
        /// The items
        #[arg(required = true)]
        paths: Vec<String>,
        #[command(flatten)]
        basis: BasisArgs,
    },
    /// Show the tree of a namespace, and again whenever it changes, until Ctrl-C
    ///
    /// Changes that come together are shown together. What cannot be read is refused, as programs
    /// refuse it: the last good configuration stays.
    #[command(after_help = "\
Examples:
  folkmoot config watch gateway
  folkmoot config watch gateway --extends base     over what another says
  folkmoot config watch gateway -w json | jq .config.limits")]
    Watch {
        /// The namespace
        namespace: String,
        #[command(flatten)]
        layers: LayerArgs,
    },
    /// Show how a file differs from an item: - what the store has, + what the file has
    ///
    /// Exit code 0 if they are the same, 1 if they differ.
    #[command(after_help = "\
Examples:
  folkmoot config diff gateway limits.yaml limits.yaml
  sed s/10/20/ limits.yaml | folkmoot config diff gateway limits.yaml -")]
    Diff {
        /// The namespace
        namespace: String,
        /// The item
        path: String,
        /// The file; - for standard input
        file: PathBuf,
    },
}

/// What lies below a namespace.
#[derive(Args)]
struct LayerArgs {
    /// Lay the namespace over this one; may be repeated, the last one lies lowest
    #[arg(long, value_name = "NAMESPACE")]
    extends: Vec<String>,
}

/// What a change is based on.
#[derive(Args)]
struct BasisArgs {
    /// Refuse if anything in the namespace was set after this revision, which get -w json shows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    rev: Option<i64>,
    /// Change it whatever was set meanwhile
    #[arg(long, conflicts_with = "rev")]
    force: bool,
}

impl BasisArgs {
    /// The revision that a change is based on; of what is there now if nobody says so.
    async fn revision(&self, config: &Config) -> Result<Option<i64>> {
        match (self.rev, self.force) {
            (Some(revision), _) => Ok(Some(revision)),
            (None, true) => Ok(None),
            (None, false) => Ok(Some(config.items().await?.1)),
        }
    }
}

impl ConfigArgs {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        match self.command {
            ConfigCommand::Get { namespace, path: None, tree: true, layers } => {
                let config = context.store().await?.config(namespace);
                let tree = layers.open(&config).await?.current();
                context.printer.print(|| pretty(&tree), || Value::clone(&tree))
            }
            ConfigCommand::Get { layers, .. } if !layers.extends.is_empty() => {
                Err(Failure::usage("--extends is for --tree: items lie where they are"))
            }
            ConfigCommand::Get { namespace, path, .. } => {
                let config = context.store().await?.config(namespace);
                match path {
                    Some(path) => get(context, &config, &path).await,
                    None => get_all(context, &config).await,
                }
            }
            ConfigCommand::Set { namespace, path, value, file, basis } => {
                if value.is_none() && file.is_none() && stdin_is_null()? {
                    return Err(Failure::usage(
                        "a value is needed: as the third argument, by --file, or on standard input",
                    ));
                }
                let config = context.store().await?.config(namespace);
                // Before the value is read, which may take as long as somebody edits it.
                let based_on = basis.revision(&config).await?;
                let value = match (value, file) {
                    (Some(value), _) => value.into_bytes(),
                    (None, file) => content(file.as_deref().unwrap_or(Path::new("-")))?,
                };
                let mut change = config.publish().set(path, value);
                if let Some(revision) = based_on {
                    change = change.based_on(revision);
                }
                published(context, change.commit().await?)
            }
            ConfigCommand::Del { namespace, paths, basis } => {
                let config = context.store().await?.config(namespace);
                let (items, revision) = config.items().await?;
                if let Some(path) = paths.iter().find(|path| !items.iter().any(|(known, _)| known == *path)) {
                    return Err(no_item(path));
                }
                let based_on = match basis.force {
                    true => None,
                    false => Some(basis.rev.unwrap_or(revision)),
                };
                let mut change = paths.into_iter().fold(config.publish(), |change, path| change.remove(path));
                if let Some(revision) = based_on {
                    change = change.based_on(revision);
                }
                published(context, change.commit().await?)
            }
            ConfigCommand::Watch { namespace, layers } => {
                let mut stop_requests = StopRequests::listen()?;
                let follow = async {
                    let config = context.store().await?.config(namespace);
                    watch(context, layers.open(&config).await?).await
                };
                tokio::select! {
                    end = follow => end,
                    () = stop_requests.next() => Ok(()),
                }
            }
            ConfigCommand::Diff { namespace, path, file } => {
                let config = context.store().await?.config(namespace);
                compare(context, &config, &path, &file).await
            }
        }
    }
}

impl LayerArgs {
    async fn open(&self, config: &Config) -> Result<ConfigWatch<Value>> {
        let typed = config.typed::<Value>();
        let typed = self.extends.iter().fold(typed, |typed, namespace| typed.extends(namespace));
        Ok(typed.open().await?)
    }
}

fn no_item(path: &str) -> Failure {
    Failure::new(format!("there is no such item; path={path:?}"))
}

fn pretty(value: &Value) -> Vec<u8> {
    plain::lines([format!("{value:#}")])
}

/// What a file or standard input has.
fn content(path: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut content)?;
        return Ok(content);
    }
    fs::read(path).map_err(|error| Failure::new(format!("{error}; file={}", path.display())))
}

/// An item in JSON: a text, or base64 where it is none.
fn document(path: &str, bytes: &[u8]) -> Value {
    let mut document = Map::new();
    document.insert("path".into(), path.into());
    match std::str::from_utf8(bytes) {
        Ok(text) => document.insert("value".into(), text.into()),
        Err(_) => document.insert("value_base64".into(), STANDARD.encode(bytes).into()),
    };
    document.into()
}

async fn item(config: &Config, path: &str) -> Result<(Option<Bytes>, i64)> {
    let (items, revision) = config.items().await?;
    Ok((items.into_iter().find(|(known, _)| known == path).map(|(_, bytes)| bytes), revision))
}

async fn get(context: &Context, config: &Config, path: &str) -> Result<()> {
    let (found, revision) = item(config, path).await?;
    let bytes = found.ok_or_else(|| no_item(path))?;
    context.printer.print(
        || {
            let mut text = bytes.to_vec();
            // People want a line; a file must have what the store has.
            if io::stdout().is_terminal() && !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            text
        },
        || {
            let mut document = document(path, &bytes);
            document["revision"] = revision.into();
            document
        },
    )
}

async fn get_all(context: &Context, config: &Config) -> Result<()> {
    let (items, revision) = config.items().await?;
    context.printer.print(
        || plain::lines(items.iter().flat_map(|(path, bytes)| [path.as_bytes(), bytes])),
        || {
            let items: Vec<_> = items.iter().map(|(path, bytes)| document(path, bytes)).collect();
            value!({ "revision": revision, "items": items })
        },
    )
}

fn published(context: &Context, revision: i64) -> Result<()> {
    context.printer.print(
        || plain::lines([format!("published at revision {revision}")]),
        || value!({ "revision": revision }),
    )
}

async fn watch(context: &Context, mut config: ConfigWatch<Value>) -> Result<()> {
    loop {
        match config.next().await? {
            ConfigEvent::Changed(change) => context.printer.print(
                || {
                    let paths = change.changed_paths.join(" ");
                    let mut text = plain::lines([format!("revision {}: {paths}", change.revision)]);
                    text.extend(pretty(&change.new));
                    text
                },
                || {
                    value!({
                        "revision": change.revision,
                        "changed": change.changed_paths,
                        "config": *change.new,
                    })
                },
            )?,
            ConfigEvent::Rejected(rejection) => {
                let (revision, why) = (rejection.revision, rejection.error.message());
                if context.printer.is_json() {
                    context.printer.print(Vec::new, || value!({ "revision": revision, "refused": why }))?;
                } else {
                    writeln!(io::stderr(), "revision {revision} is refused, the last one stays: {why}")?;
                }
            }
        }
    }
}

/// Shows how a file differs from an item. One that is not there is an empty text.
async fn compare(context: &Context, config: &Config, path: &str, file: &Path) -> Result<()> {
    let local = content(file)?;
    let (stored, revision) = item(config, path).await?;
    let is_same = stored.as_deref() == Some(&local[..]);
    let (old, new) =
        (String::from_utf8_lossy(stored.as_deref().unwrap_or_default()), String::from_utf8_lossy(&local));
    context.printer.print(
        || match is_same {
            true => Vec::new(),
            false => {
                let names =
                    [format!("--- store {path} at revision {revision}"), format!("+++ {}", file.display())];
                plain::lines(names.into_iter().chain(marked(&old, &new)))
            }
        },
        || {
            let differs: Vec<_> = marked(&old, &new).filter(|line| !line.starts_with(' ')).collect();
            value!({ "path": path, "revision": revision, "same": is_same, "exists": stored.is_some(),
                "differences": differs })
        },
    )?;
    match is_same {
        true => Ok(()),
        false => Err(Failure::passed_on(1)),
    }
}

/// The lines of both with a mark before each. That a last line ends is no line of its own.
fn marked(old: &str, new: &str) -> impl Iterator<Item = String> {
    let lines = diff::lines(old, new).into_iter().map(|line| match line {
        Line::Same(text) => format!(" {text}"),
        Line::Gone(text) => format!("-{text}"),
        Line::New(text) => format!("+{text}"),
    });
    let mut lines: Vec<_> = lines.collect();
    if lines.last().is_some_and(|line| line == " ") {
        lines.pop();
    }
    lines.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_is_no_text_is_base64() {
        assert_eq!(document("a", b"x").to_string(), r#"{"path":"a","value":"x"}"#);
        assert_eq!(document("a", &[0xff]).to_string(), r#"{"path":"a","value_base64":"/w=="}"#);
    }

    #[test]
    fn differing_lines_are_marked() {
        let lines: Vec<_> = marked("a: 1\nb: 2\n", "a: 1\nb: 3\n").collect();
        assert_eq!(lines, [" a: 1", "-b: 2", "+b: 3"]);
        assert_eq!(marked("a", "a\n").collect::<Vec<_>>(), [" a", "+"]);
    }
}
