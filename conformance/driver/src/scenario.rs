//! Scenarios as they are written: read, checked against the schema, refused with the place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

/// One story.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The version of the format.
    #[serde(rename = "schema")]
    _schema: u32,
    pub id: String,
    /// What it shows, in a sentence.
    #[serde(rename = "about")]
    _about: String,
    /// The clauses of the contract that it is about.
    #[serde(rename = "clauses")]
    _clauses: Vec<String>,
    #[serde(default = "one")]
    pub members: usize,
    /// Abilities of the store, beside those that every store has.
    #[serde(default)]
    pub requires: Vec<String>,
    pub actors: BTreeMap<String, Value>,
    pub steps: Vec<Step>,
    /// Leases may be left at the end.
    #[serde(default)]
    pub leaves_leases: bool,
    /// Why it fails at present, whatever the language.
    pub unsolved: Option<String>,
    /// The step that must fail, in scenarios that show that the suite can fail.
    pub fails_at: Option<String>,
}

fn one() -> usize {
    1
}

/// What an answer must be.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Expect {
    Result(Value),
    /// A code, or a pattern of the error.
    Error(Value),
}

/// What is common to steps that have an answer.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Answer {
    pub save: Option<String>,
    pub within: Option<f64>,
    pub expect: Option<Expect>,
}

/// What happens to the process of an actor.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// Stopped in its tracks.
    Pause,
    Resume,
    /// Gone without a word.
    Kill,
}

/// One step. The schema tells the kinds apart before they are read.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Step {
    /// An actor does something.
    Op {
        actor: String,
        op: String,
        #[serde(default)]
        args: Map<String, Value>,
        #[serde(default)]
        r#async: bool,
        /// Again and again until the result is this.
        eventually: Option<Value>,
        #[serde(flatten)]
        answer: Answer,
    },
    /// An actor takes items of a stream until one matches, or so many.
    Collect {
        actor: String,
        collect: String,
        until: Option<Value>,
        count: Option<usize>,
        #[serde(default)]
        r#async: bool,
        #[serde(flatten)]
        answer: Answer,
    },
    /// Something is done to the store or on the way to it.
    Ctl {
        ctl: String,
        #[serde(default)]
        args: Map<String, Value>,
        #[serde(default)]
        r#async: bool,
        #[serde(flatten)]
        answer: Answer,
    },
    /// The end of what was begun with `async`.
    Await {
        r#await: String,
        #[serde(flatten)]
        answer: Answer,
    },
    /// What was begun has not ended, and does not for a moment.
    Pending { pending: String, r#for: Option<f64> },
    /// What was begun is given up.
    Cancel { cancel: String },
    /// A saved result, looked at once more.
    Check { check: String, expect: Value },
    /// Something happens to an actor's process.
    Process { actor: String, process: Happening },
    /// Branches at the same time.
    Parallel { parallel: Vec<Vec<Step>> },
}

impl Scenario {
    /// The operations in it.
    pub fn ops(&self) -> Vec<&str> {
        fn walk<'a>(steps: &'a [Step], found: &mut Vec<&'a str>) {
            for step in steps {
                match step {
                    Step::Op { op, .. } => found.push(op),
                    Step::Parallel { parallel } => parallel.iter().for_each(|branch| walk(branch, found)),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.steps, &mut found);
        found
    }
}

/// As YAML 1.2 has it: `no`, `on` and `y` are texts.
fn read_yaml(text: &str) -> Result<Value, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    Ok(())
}

/// Reads all scenarios below a folder, in the order of their names. The name of a file is the id of
/// its scenario.
pub fn load(dir: &Path, schema: &Value) -> Result<Vec<Scenario>, String> {
    let schema =
        jsonschema::validator_for(schema).map_err(|error| format!("the schema is wrong: {error}"))?;
    let mut paths = Vec::new();
    files(dir, &mut paths).map_err(|error| format!("{error} folder={}", dir.display()))?;
    paths.sort();
    let mut scenarios = Vec::new();
    for path in paths {
        let place = |error: &dyn std::fmt::Display| format!("{error} file={}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|error| place(&error))?;
        let value: Value = read_yaml(&text).map_err(|error| place(&error))?;
        if let Some(error) = schema.iter_errors(&value).next() {
            return Err(place(&format!("{error} at={}", error.instance_path())));
        }
        let scenario: Scenario = serde_json::from_value(value).map_err(|error| place(&error))?;
        let name = path.strip_prefix(dir).unwrap_or(&path).with_extension("");
        if name.to_string_lossy() != scenario.id {
            return Err(place(&format!("the id is not the name of the file id={}", scenario.id)));
        }
        scenarios.push(scenario);
    }
    Ok(scenarios)
}
