//! Compares the public surfaces of the SDKs with the manifest, and their conformance reports with
//! each other, and writes both down as one page.

mod manifest;
mod page;
mod report;
mod surface;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::manifest::{Language, Manifest};
use crate::report::Report;
use crate::surface::Surface;

#[derive(Parser)]
#[command(version, about = "Compares the SDKs with the manifest and with each other")]
struct Flags {
    /// The project.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Prints the public names of an SDK: rust, python, python-sync or node.
    Surface { language: String },
    /// Checks surfaces and reports; fails on any difference.
    Check {
        /// Languages that are known not to be there yet. One that is there must not be named.
        #[arg(long, value_delimiter = ',')]
        absent: Vec<String>,
        /// Languages that are known not to play the scenarios yet. One that does must not be named.
        #[arg(long, value_delimiter = ',')]
        unplayed: Vec<String>,
        /// Reports of conformance runs.
        #[arg(long)]
        report: Vec<PathBuf>,
        /// Writes the page instead of comparing it.
        #[arg(long)]
        write: bool,
    },
}

/// The surfaces of a language that are there. Python has two that must be alike.
fn surfaces(root: &Path, language: Language) -> Result<Vec<(&'static str, Surface)>, String> {
    let (rust, python) = (root.join("sdk-rust"), root.join("sdk-python/python/folkmoot"));
    let node = root.join("sdk-node");
    Ok(match language {
        Language::Rust if rust.exists() => vec![("rust", surface::rust::surface(&rust)?)],
        Language::Python if python.exists() => vec![
            ("python", surface::python::surface(&python, "")?),
            // Values and errors are the same objects in both.
            (
                "python-sync",
                surface::python::surface(&python, "sync")?.over(surface::python::surface(&python, "")?),
            ),
        ],
        Language::Node if node.exists() => {
            let places = ["dist/index.d.ts", "index.d.ts"].map(|place| node.join(place));
            let place = places.iter().find(|place| place.exists());
            let place = place
                .ok_or("sdk-node is there, but neither dist/index.d.ts nor index.d.ts: build it first")?;
            vec![("node", surface::node::surface(place)?)]
        }
        _ => Vec::new(),
    })
}

fn say(text: &str) {
    // Whoever does not read any more needs no line.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn check(
    root: &Path,
    absent: &[String],
    unplayed: &[String],
    reports: &[PathBuf],
    write: bool,
) -> Result<Vec<String>, String> {
    let manifest = Manifest::load(&root.join("conformance/api.toml"))?;
    let mut wrong = Vec::new();
    let mut there = BTreeMap::new();
    for language in Language::ALL {
        let name = language.name();
        let found = surfaces(root, language)?;
        match (found.is_empty(), absent.iter().any(|one| one == name)) {
            (true, true) => say(&format!("{name}: absent")),
            (true, false) => {
                wrong.push(format!("{name}: there is no SDK; if that is meant, say --absent {name}"))
            }
            (false, true) => wrong.push(format!("{name}: it is there; do not say --absent {name}")),
            (false, false) => {}
        }
        for (which, surface) in &found {
            let differences = manifest.compare(language, surface);
            say(&format!("{which}: {} public names, {} differences", surface.names.len(), differences.len()));
            wrong.extend(differences.into_iter().map(|difference| format!("{which}: {difference}")));
        }
        there.insert(name, !found.is_empty());
    }
    for name in absent.iter().filter(|name| !there.contains_key(name.as_str())) {
        wrong.push(format!("there is no such language: --absent {name}"));
    }
    let reports = reports.iter().map(|path| Report::load(path)).collect::<Result<Vec<_>, _>>()?;
    wrong.extend(report::compare(&reports, &there, unplayed));
    let stories = page::stories(&root.join("conformance/scenarios"))?;
    wrong.extend(report::complete(&reports, &stories));
    let page = page::page(&manifest, &there, unplayed, &reports, &stories);
    let place = root.join("docs/parity.md");
    if write {
        std::fs::write(&place, page).map_err(|error| format!("{error} file={}", place.display()))?;
    } else if std::fs::read_to_string(&place).ok().is_none_or(|written| written != page) {
        wrong.push("docs/parity.md is not what this run found: say --write".into());
    }
    Ok(wrong)
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let outcome = match &flags.verb {
        Verb::Surface { language } => {
            let all = Language::ALL
                .iter()
                .map(|language| surfaces(&flags.root, *language))
                .collect::<Result<Vec<_>, _>>();
            all.map(|all| {
                for (_, surface) in all.into_iter().flatten().filter(|(name, _)| name == language) {
                    for (name, parameters) in surface.names {
                        say(&format!("{name} {}", parameters.into_iter().collect::<Vec<_>>().join(" ")));
                    }
                }
                Vec::new()
            })
        }
        Verb::Check { absent, unplayed, report, write } => {
            check(&flags.root, absent, unplayed, report, *write)
        }
    };
    let wrong = outcome.unwrap_or_else(|error| vec![error]);
    for one in &wrong {
        let _ = writeln!(std::io::stderr(), "{one}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
