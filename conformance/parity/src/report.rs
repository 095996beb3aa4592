//! Reports of conformance runs, and whether they agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::page::Story;

#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub id: String,
    pub result: String,
    pub reason: Option<String>,
}

/// What one run wrote down.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    pub format: u32,
    pub languages: Vec<String>,
    pub store: String,
    pub scenarios: Vec<Line>,
    pub must_fail: Vec<Line>,
}

impl Report {
    pub fn load(path: &Path) -> Result<Self, String> {
        let place = |error: &dyn std::fmt::Display| format!("{error} file={}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| place(&error))?;
        let report: Self = serde_json::from_str(&text).map_err(|error| place(&error))?;
        if report.format == 1 { Ok(report) } else { Err(place(&format!("format={}", report.format))) }
    }

    pub fn who(&self) -> String {
        self.languages.join("+")
    }

    fn with(&self, result: &str) -> BTreeSet<&str> {
        self.scenarios.iter().filter(|line| line.result == result).map(|line| line.id.as_str()).collect()
    }
}

/// What is wrong with the reports: failures, skips without reason, languages whose passed sets differ
/// on the same store, languages without a report.
pub fn compare(reports: &[Report], there: &BTreeMap<&str, bool>, unplayed: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    for language in unplayed {
        if there.get(language.as_str()) != Some(&true) {
            wrong.push(format!("there is no SDK that could play: --unplayed {language}"));
        }
        if reports.iter().any(|report| report.languages.contains(language)) {
            wrong.push(format!("{language}: it plays; do not say --unplayed {language}"));
        }
    }
    for report in reports {
        let place = format!("{} on {}", report.who(), report.store);
        for line in report.scenarios.iter().chain(&report.must_fail) {
            let reason = line.reason.as_deref().unwrap_or_default().trim();
            match line.result.as_str() {
                "passed" => {}
                "skipped" if !reason.is_empty() => {}
                "skipped" => wrong.push(format!("{place}: skipped without a reason: {}", line.id)),
                _ => wrong.push(format!("{place}: {}: {} {reason}", line.result, line.id)),
            }
        }
        if report.must_fail.is_empty() {
            wrong
                .push(format!("{place}: nothing shows that the suite can fail: the report has no must_fail"));
        }
    }
    let stores: BTreeSet<_> = reports.iter().map(|report| report.store.as_str()).collect();
    for store in &stores {
        let mut on_it = reports.iter().filter(|report| report.store == *store);
        let Some(first) = on_it.next() else { continue };
        for other in on_it {
            for id in first.with("passed").symmetric_difference(&other.with("passed")) {
                let (one, two) = (first.who(), other.who());
                wrong.push(format!("{store}: passed with one of {one} and {two} only: {id}"));
            }
        }
        for (language, _) in there.iter().filter(|(_, is_there)| **is_there) {
            let has = reports.iter().any(|report| report.store == *store && report.languages == [*language]);
            if !has && !unplayed.iter().any(|one| one == language) {
                wrong.push(format!("{store}: there is no report of {language}"));
            }
        }
    }
    if stores.is_empty() {
        wrong.push("no report was given: the scenarios were not compared".into());
    }
    wrong
}

/// Scenarios that a report left out, or that do not exist.
pub fn complete(reports: &[Report], stories: &[Story]) -> Vec<String> {
    let all: BTreeSet<_> = stories.iter().map(|story| story.id.as_str()).collect();
    let mut wrong = Vec::new();
    for report in reports {
        let played: BTreeSet<_> = report.scenarios.iter().map(|line| line.id.as_str()).collect();
        let difference = all.symmetric_difference(&played);
        wrong.extend(
            difference
                .map(|id| format!("{} on {}: not of these scenarios: {id}", report.who(), report.store)),
        );
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(language: &str, lines: &[(&str, &str, Option<&str>)]) -> Report {
        let line = |(id, result, reason): &(&str, &str, Option<&str>)| Line {
            id: (*id).into(),
            result: (*result).into(),
            reason: reason.map(Into::into),
        };
        Report {
            format: 1,
            languages: vec![language.into()],
            store: "embedded".into(),
            scenarios: lines.iter().map(line).collect(),
            must_fail: vec![line(&("must/x", "passed", None))],
        }
    }

    fn there(names: &[&'static str]) -> BTreeMap<&'static str, bool> {
        ["rust", "python", "node"].into_iter().map(|name| (name, names.contains(&name))).collect()
    }

    #[test]
    fn equal_sets_are_fine_and_others_are_not() {
        let rust = report("rust", &[("a/b", "passed", None), ("a/c", "skipped", Some("no users"))]);
        let python = report("python", &[("a/b", "passed", None), ("a/c", "skipped", Some("no users"))]);
        assert_eq!(compare(&[rust.clone(), python], &there(&["rust", "python"]), &[]), Vec::<String>::new());
        let python =
            report("python", &[("a/b", "skipped", Some("not yet")), ("a/c", "skipped", Some("no users"))]);
        let wrong = compare(&[rust.clone(), python], &there(&["rust", "python"]), &[]);
        assert_eq!(wrong, ["embedded: passed with one of rust and python only: a/b"]);
        let wrong = compare(&[rust], &there(&["rust", "node"]), &[]);
        assert_eq!(wrong, ["embedded: there is no report of node"]);
    }

    #[test]
    fn a_language_that_does_not_play_has_to_be_named() {
        let rust = report("rust", &[("a/b", "passed", None)]);
        let unplayed = ["node".to_owned()];
        let both = there(&["rust", "node"]);
        assert_eq!(compare(std::slice::from_ref(&rust), &both, &unplayed), Vec::<String>::new());
        let node = report("node", &[("a/b", "passed", None)]);
        let wrong = compare(&[rust.clone(), node], &both, &unplayed);
        assert_eq!(wrong, ["node: it plays; do not say --unplayed node"]);
        assert_eq!(compare(&[rust], &there(&["rust"]), &unplayed).len(), 1);
    }

    #[test]
    fn skips_need_a_reason_and_failures_have_none() {
        let rust = report("rust", &[("a/b", "skipped", Some(" ")), ("a/c", "failed", Some("step 1"))]);
        let wrong = compare(&[rust], &there(&["rust"]), &[]);
        assert_eq!(
            wrong,
            ["rust on embedded: skipped without a reason: a/b", "rust on embedded: failed: a/c step 1"]
        );
    }

    #[test]
    fn no_report_is_not_silently_fine() {
        assert_eq!(compare(&[], &there(&["rust"]), &[]).len(), 1);
        let mut mute = report("rust", &[]);
        mute.must_fail.clear();
        assert_eq!(compare(&[mute], &there(&["rust"]), &[]).len(), 1);
    }

    #[test]
    fn a_scenario_that_was_not_played_is_missed() {
        let story =
            |id: &str| Story { id: id.into(), about: String::new(), clauses: Vec::new(), ops: Vec::new() };
        let wrong = complete(&[report("rust", &[("a/b", "passed", None)])], &[story("a/b"), story("a/c")]);
        assert_eq!(wrong, ["rust on embedded: not of these scenarios: a/c"]);
    }
}
