//! The page `docs/parity.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::manifest::{Language, Manifest, Operation};
use crate::report::Report;

/// A scenario, as far as the page goes.
#[derive(Debug)]
pub struct Story {
    pub id: String,
    pub about: String,
    pub clauses: Vec<String>,
    pub ops: Vec<String>,
}

/// As YAML 1.2 has it: `no`, `on` and `y` are texts.
fn read_yaml(text: &str) -> Result<Value, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(dir).map_err(|error| format!("{error} folder={}", dir.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    Ok(())
}

fn ops(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| ops(item, found)),
        Value::Object(fields) => {
            found.extend(fields.get("op").and_then(Value::as_str).map(str::to_owned));
            if fields.contains_key("collect") {
                found.push("stream.next".into());
            }
            fields.values().for_each(|value| ops(value, found));
        }
        _ => {}
    }
}

/// All scenarios, in the order of their ids.
pub fn stories(folder: &Path) -> Result<Vec<Story>, String> {
    let mut paths = Vec::new();
    files(folder, &mut paths)?;
    let mut stories = Vec::new();
    for path in paths {
        let place = |error: &dyn std::fmt::Display| format!("{error} file={}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|error| place(&error))?;
        let value: Value = read_yaml(&text).map_err(|error| place(&error))?;
        let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let clauses = value["clauses"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut found = Vec::new();
        ops(&value["steps"], &mut found);
        let clauses = clauses.map(str::to_owned).collect();
        stories.push(Story { id: field("id"), about: field("about"), clauses, ops: found });
    }
    stories.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(stories)
}

fn signature(operation: &Operation) -> String {
    let arg = |arg: &crate::manifest::Arg| match &arg.default {
        None => format!("{}: {}", arg.name, arg.r#type),
        Some(default) => format!("{}: {} = {default}", arg.name, arg.r#type),
    };
    let args: Vec<_> = operation.args.iter().map(arg).collect();
    let result = operation.result.as_ref().map(|result| format!(" → {result}")).unwrap_or_default();
    format!("({}){result}", args.join(", "))
}

/// Writes the page. The same input gives the same bytes.
pub fn page(
    manifest: &Manifest,
    there: &BTreeMap<&str, bool>,
    unplayed: &[String],
    reports: &[Report],
    stories: &[Story],
) -> String {
    let mut page = String::from(
        "# What the SDKs have in common\n\nWritten by `folkmoot-parity check --write` from `conformance/api.toml`, the public \
         surfaces of the\nSDKs and the reports of `make conformance`. Do not edit it.\n",
    );
    let is_there = |language: Language| there.get(language.name()).copied().unwrap_or_default();
    page.push_str("\n## Languages\n\n| language | SDK |\n|---|---|\n");
    for language in Language::ALL {
        let word = match (is_there(language), unplayed.iter().any(|one| one == language.name())) {
            (false, _) => "**absent**",
            (true, false) => "is there, has what follows, and plays the scenarios",
            (true, true) => "is there and has what follows; **does not play the scenarios yet**",
        };
        let _ = writeln!(page, "| {} | {word} |", language.name());
    }
    page.push_str("\n## Operations\n\nThe last column counts the scenarios that use it.\n");
    let mut group = "";
    for operation in &manifest.operations {
        let (head, _) = operation.id.split_once('.').unwrap_or((&operation.id, ""));
        if head != group {
            group = head;
            let _ = writeln!(
                page,
                "\n### {group}\n\n| operation | what it does | rust | python | node | scenarios |"
            );
            page.push_str("|---|---|---|---|---|---|\n");
        }
        let mut row = format!("| `{}` {} | {}", operation.id, signature(operation), operation.about);
        for language in Language::ALL {
            let cell = match manifest.symbol(operation, language) {
                Err(reason) => format!("– {reason}"),
                Ok(_) if !is_there(language) => "absent".into(),
                Ok(names) => format!("`{}`", names.join("` `")),
            };
            let _ = write!(row, " | {cell}");
        }
        let count = stories.iter().filter(|story| story.ops.contains(&operation.id)).count();
        let count = if count == 0 { "–".into() } else { count.to_string() };
        let _ = writeln!(page, "{row} | {count} |");
    }
    page.push_str("\n## Errors\n\n| code | what happened | retryable | maybe applied |\n|---|---|---|---|\n");
    for error in &manifest.errors {
        let word = |yes: bool| if yes { "yes" } else { "no" };
        let (again, maybe) = (word(error.retryable), word(error.maybe_applied));
        let _ = writeln!(page, "| `{}` | {} | {again} | {maybe} |", error.code, error.about);
    }
    let columns: BTreeSet<_> = reports.iter().map(|report| (report.who(), report.store.clone())).collect();
    let heads: Vec<_> = columns.iter().map(|(who, store)| format!("{who}, {store}")).collect();
    let _ =
        writeln!(page, "\n## Scenarios\n\n| scenario | what it shows | clauses | {} |", heads.join(" | "));
    let _ = writeln!(page, "|---|---|---|{}", "---|".repeat(heads.len()));
    let mut reasons: Vec<&str> = Vec::new();
    for story in stories {
        let mut row = format!("| `{}` | {} | {}", story.id, story.about, story.clauses.join(" "));
        for (who, store) in &columns {
            let of = reports.iter().find(|report| report.who() == *who && report.store == *store);
            let line = of.and_then(|report| report.scenarios.iter().find(|line| line.id == story.id));
            let cell =
                match line.map(|line| (line.result.as_str(), line.reason.as_deref().unwrap_or_default())) {
                    Some(("passed", _)) => "passed".into(),
                    Some(("skipped", reason)) => {
                        let number = reasons.iter().position(|one| *one == reason).unwrap_or_else(|| {
                            reasons.push(reason);
                            reasons.len() - 1
                        });
                        format!("skipped ({})", number + 1)
                    }
                    Some((result, _)) => format!("**{result}**"),
                    None => "**not played**".into(),
                };
            let _ = write!(row, " | {cell}");
        }
        let _ = writeln!(page, "{row} |");
    }
    if !reasons.is_empty() {
        page.push_str("\nSkipped because:\n\n");
        for (number, reason) in reasons.iter().enumerate() {
            let _ = writeln!(page, "{}. {reason}", number + 1);
        }
    }
    page
}
