//! `api.toml`: every operation, type and error that an SDK has, and what it is called where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::surface::Surface;

/// A language, as far as names go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Rust,
    Python,
    Node,
}

impl Language {
    pub const ALL: [Self; 3] = [Self::Rust, Self::Python, Self::Node];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Node => "node",
        }
    }

    /// How it writes `max_create_revision`.
    fn spell(self, name: &str) -> String {
        if self != Self::Node {
            return name.to_owned();
        }
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |name, word| {
            let mut letters = word.chars();
            let capital: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
            name + &capital + letters.as_str()
        })
    }
}

/// What something is called in a language, or why it is not there.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Symbol {
    Name(String),
    Names(Vec<String>),
    Absent {
        /// Why.
        absent: String,
    },
}

/// Names by language, where they are not the usual ones.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Names {
    rust: Option<Symbol>,
    python: Option<Symbol>,
    node: Option<Symbol>,
}

impl Names {
    fn of(&self, language: Language) -> Option<&Symbol> {
        match language {
            Language::Rust => self.rust.as_ref(),
            Language::Python => self.python.as_ref(),
            Language::Node => self.node.as_ref(),
        }
    }
}

/// An argument of an operation.
#[derive(Clone, Debug, Deserialize)]
pub struct Arg {
    pub name: String,
    /// `key`, `bytes`, `text`, `integer`, `seconds`, `flag`, or a type of the manifest.
    pub r#type: String,
    /// Absent: it must be given.
    pub default: Option<String>,
    #[serde(flatten)]
    names: Names,
}

/// Something that a user can ask for.
#[derive(Clone, Debug, Deserialize)]
pub struct Operation {
    pub id: String,
    /// The type that it is a method of.
    pub on: String,
    pub about: String,
    #[serde(default)]
    pub args: Vec<Arg>,
    pub result: Option<String>,
    /// Codes of errors, beside those that every call can have.
    #[serde(default)]
    pub errors: Vec<String>,
    pub since: String,
    #[serde(flatten)]
    names: Names,
}

/// A type that users see.
#[derive(Clone, Debug, Deserialize)]
pub struct Type {
    pub id: String,
    #[serde(default)]
    pub fields: Vec<String>,
    /// Of a choice, in lower case with underscores.
    #[serde(default)]
    pub values: Vec<String>,
    #[serde(flatten)]
    names: Names,
}

/// A kind of error.
#[derive(Clone, Debug, Deserialize)]
pub struct ErrorKind {
    pub code: String,
    pub retryable: bool,
    pub maybe_applied: bool,
    pub about: String,
    #[serde(flatten)]
    names: Names,
}

/// A public name that is not in the manifest on purpose.
#[derive(Clone, Debug, Deserialize)]
pub struct Extra {
    pub names: Vec<String>,
    pub why: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    #[serde(rename = "error")]
    pub errors: Vec<ErrorKind>,
    #[serde(rename = "type")]
    pub types: Vec<Type>,
    #[serde(rename = "operation")]
    pub operations: Vec<Operation>,
    #[serde(default, rename = "extra")]
    pub extras: BTreeMap<String, Vec<Extra>>,
}

fn upper_camel(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        let capital: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
        capital + letters.as_str()
    };
    name.to_lowercase().split('_').map(word).collect()
}

impl Manifest {
    pub fn load(path: &Path) -> Result<Self, String> {
        let text =
            std::fs::read_to_string(path).map_err(|error| format!("{error} file={}", path.display()))?;
        let manifest: Self =
            toml::from_str(&text).map_err(|error| format!("{error} file={}", path.display()))?;
        let mistakes = manifest.mistakes();
        if mistakes.is_empty() { Ok(manifest) } else { Err(mistakes.join("\n")) }
    }

    fn mistakes(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.format != 1 {
            found.push(format!("this tool knows format 1 of the manifest format={}", self.format));
        }
        let codes: BTreeSet<_> = self.errors.iter().map(|error| error.code.as_str()).collect();
        let types: BTreeSet<_> = self.types.iter().map(|one| one.id.as_str()).collect();
        let mut ids = BTreeSet::new();
        for operation in &self.operations {
            if !ids.insert(&operation.id) {
                found.push(format!("an operation is there twice id={}", operation.id));
            }
            if !types.contains(operation.on.as_str()) {
                found.push(format!(
                    "the type of an operation is not there id={} on={}",
                    operation.id, operation.on
                ));
            }
            if !operation.since.split('.').all(|part| part.parse::<u32>().is_ok()) {
                found.push(format!("since is a version id={} since={}", operation.id, operation.since));
            }
            for code in operation.errors.iter().filter(|code| !codes.contains(code.as_str())) {
                found.push(format!("there is no such error id={} code={code}", operation.id));
            }
        }
        for extra in self.extras.values().flatten().filter(|extra| extra.why.trim().is_empty()) {
            found.push(format!("an extra needs a reason names={:?}", extra.names));
        }
        found
    }

    /// What an operation is called, and why it is not there.
    pub fn symbol(&self, operation: &Operation, language: Language) -> Result<Vec<String>, String> {
        match operation.names.of(language) {
            Some(Symbol::Name(name)) => Ok(vec![name.clone()]),
            Some(Symbol::Names(names)) => Ok(names.clone()),
            Some(Symbol::Absent { absent }) => Err(absent.clone()),
            None => {
                let last = operation.id.rsplit('.').next().unwrap_or_default();
                Ok(vec![format!("{}.{}", self.type_name(&operation.on, language), language.spell(last))])
            }
        }
    }

    fn type_name(&self, id: &str, language: Language) -> String {
        let found = self.types.iter().find(|one| one.id == id);
        match found.and_then(|one| one.names.of(language)) {
            Some(Symbol::Name(name)) => name.clone(),
            _ => id.to_owned(),
        }
    }

    /// Everything that is wrong with a surface: what it lacks, and what nobody knows of.
    pub fn compare(&self, language: Language, surface: &Surface) -> Vec<String> {
        let mut wrong = Vec::new();
        let known = std::cell::RefCell::new(BTreeSet::new());
        let need = |what: String, name: String, wrong: &mut Vec<String>| {
            if !surface.has(&name) {
                wrong.push(format!("{what} is missing: {name}"));
            }
            known.borrow_mut().insert(name);
        };
        for error in &self.errors {
            let name = match (error.names.of(language), language) {
                (Some(Symbol::Absent { .. }), _) => continue,
                (Some(Symbol::Name(name)), _) => name.clone(),
                (_, Language::Rust) => format!("ErrorKind.{}", upper_camel(&error.code)),
                (_, Language::Python) => upper_camel(&error.code),
                (_, Language::Node) => format!("{}Error", upper_camel(&error.code)),
            };
            let inside = surface.names.keys().filter(|one| one.starts_with(&format!("{name}.")));
            if language != Language::Rust {
                // Those of the common parent.
                known.borrow_mut().extend(inside.cloned());
            }
            need(format!("error {}", error.code), name, &mut wrong);
        }
        for one in &self.types {
            if matches!(one.names.of(language), Some(Symbol::Absent { .. })) {
                continue;
            }
            let name = self.type_name(&one.id, language);
            need(format!("type {}", one.id), name.clone(), &mut wrong);
            for field in &one.fields {
                need(format!("field of {}", one.id), format!("{name}.{}", language.spell(field)), &mut wrong);
            }
            for value in &one.values {
                let value = match language {
                    Language::Rust => upper_camel(value),
                    Language::Python => value.to_uppercase(),
                    // A union of texts has no names.
                    Language::Node => continue,
                };
                // Neither has one of Python that is no enumeration.
                let prefix = format!("{name}.");
                let is_constant = |one: &String| {
                    let member = one.strip_prefix(&prefix);
                    member.is_some_and(|member| member.chars().all(|letter| !letter.is_lowercase()))
                };
                let is_union = language == Language::Python && !surface.names.keys().any(is_constant);
                if is_union {
                    continue;
                }
                need(format!("value of {}", one.id), format!("{name}.{value}"), &mut wrong);
            }
        }
        for operation in &self.operations {
            let Ok(symbols) = self.symbol(operation, language) else { continue };
            for symbol in &symbols {
                need(format!("operation {}", operation.id), symbol.clone(), &mut wrong);
            }
            for arg in &operation.args {
                let what = format!("argument {} of {}", arg.name, operation.id);
                match (arg.names.of(language), language) {
                    (Some(Symbol::Absent { .. }), _) | (None, Language::Rust) => {}
                    (Some(Symbol::Name(name)), Language::Rust) => need(what, name.clone(), &mut wrong),
                    (Some(Symbol::Names(names)), Language::Rust) => {
                        names.iter().for_each(|name| need(what.clone(), name.clone(), &mut wrong));
                    }
                    (given, _) => {
                        let names = match given {
                            Some(Symbol::Name(name)) => vec![name.clone()],
                            Some(Symbol::Names(names)) => names.clone(),
                            _ => vec![language.spell(&arg.name)],
                        };
                        for name in names {
                            let mut parameters =
                                symbols.iter().filter_map(|symbol| surface.names.get(symbol)).flatten();
                            let is_parameter = parameters.any(|one| *one == name);
                            let option = format!("Options.{name}");
                            let options: Vec<_> =
                                surface.names.keys().filter(|one| one.ends_with(&option)).cloned().collect();
                            if language == Language::Node {
                                known.borrow_mut().extend(options.iter().cloned());
                            }
                            if !is_parameter && (language != Language::Node || options.is_empty()) {
                                wrong.push(format!("{what} is missing: {name}"));
                            }
                        }
                    }
                }
            }
        }
        let extras = self.extras.get(language.name()).into_iter().flatten();
        for name in extras.flat_map(|extra| &extra.names) {
            match name.strip_suffix(".*") {
                Some(of) => {
                    let inside = |one: &&String| one.as_str() == of || one.starts_with(&format!("{of}."));
                    known.borrow_mut().extend(surface.names.keys().filter(inside).cloned());
                }
                None => need("what the manifest lists as extra".into(), name.clone(), &mut wrong),
            }
        }
        let unknown = surface.names.keys().filter(|name| !known.borrow().contains(*name));
        wrong.extend(unknown.map(|name| format!("nobody knows of it: {name}")));
        wrong
    }
}
