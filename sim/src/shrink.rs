//! Reduces a failing seed: leaves out kinds of fault, single episodes and clients, and ends the
//! faults earlier, for as long as the same checker still finds something. What is left is kept as
//! a file with its story and replayed by a test.

use std::collections::BTreeSet;

use crate::faults::FaultKind;
use crate::plan::{Overrides, Plan, Profile};
use crate::run::{Verdict, run_seed};
use crate::story;
use crate::time::{MS, Nanos, SEC};

/// A seed with what is left out of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The known bug that was put back for it; `None` if it was found in the sound core.
    pub mutant: Option<String>,
    /// The seed.
    pub seed: u64,
    /// Its family.
    pub profile: Profile,
    /// What is left out.
    pub overrides: Overrides,
    /// The checker that found something.
    pub checker: String,
    /// What it said, and how it came to that.
    pub story: String,
}

/// Reduces a seed; `None` if it finds nothing.
pub fn shrink(seed: u64, profile: Profile, overrides: Overrides, say: &dyn Fn(&str)) -> Option<Kept> {
    let first = run_seed(seed, profile, &overrides, false);
    let checker = first.finding.as_ref()?.checker;
    let mut work = Work { seed, profile, checker, best: overrides, found: first, runs: 0 };
    say(&format!("found by {checker}"));
    for kind in FaultKind::ALL {
        work.attempt(|overrides| overrides.without.insert(*kind));
    }
    say(&format!("{} kinds of fault left out", work.best.without.len()));
    work.end_early();
    let plan = Plan::new(seed, profile, &work.best);
    for episode in plan.episodes.iter().rev() {
        work.attempt(|overrides| overrides.skip.insert(episode.number));
    }
    let left: Vec<_> = Plan::new(seed, profile, &work.best)
        .episodes
        .iter()
        .filter(|episode| !work.best.skip.contains(&episode.number))
        .map(|episode| episode.kind.name())
        .collect();
    say(&format!("faults left: {}", left.join(", ")));
    let clients = plan.kv_clients + plan.lease_clients + plan.lock_clients + plan.watch_clients;
    for client in (0..clients).rev() {
        work.attempt(|overrides| overrides.idle.insert(client));
    }
    work.end_early();
    say(&format!("{} clients left, {} runs", clients - work.best.idle.len(), work.runs));
    let story = story::tell(&work.found, profile, &work.best);
    say(&story);
    Some(Kept { mutant: None, seed, profile, overrides: work.best, checker: checker.to_owned(), story })
}

struct Work {
    seed: u64,
    profile: Profile,
    checker: &'static str,
    best: Overrides,
    found: Verdict,
    runs: usize,
}

impl Work {
    /// Tries one thing more to leave out.
    fn attempt(&mut self, change: impl FnOnce(&mut Overrides) -> bool) -> bool {
        let mut overrides = self.best.clone();
        if !change(&mut overrides) {
            return false;
        }
        self.runs += 1;
        let verdict = run_seed(self.seed, self.profile, &overrides, false);
        let same = verdict.finding.as_ref().is_some_and(|finding| finding.checker == self.checker);
        if same {
            self.best = overrides;
            self.found = verdict;
        }
        same
    }

    /// Ends the faults soon after the finding, and earlier if that is enough.
    fn end_early(&mut self) {
        let at = self.found.finding.as_ref().map_or(0, |finding| finding.at);
        let whole: Nanos = self.best.end.unwrap_or(at.max(SEC));
        let mut step = whole / 2;
        let mut end = whole;
        while step > 200 * MS {
            let earlier = end.saturating_sub(step);
            if earlier > SEC && self.attempt(|overrides| overrides.end.replace(earlier) != Some(earlier)) {
                end = earlier;
            } else {
                step /= 2;
            }
        }
    }
}

impl Kept {
    /// As a file.
    pub fn to_toml(&self) -> String {
        let kinds: Vec<_> =
            self.overrides.without.iter().map(|kind| format!("\"{}\"", kind.name())).collect();
        let numbers =
            |set: &BTreeSet<usize>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut text = String::new();
        for line in self.story.lines() {
            text += &format!("# {line}\n");
        }
        if let Some(mutant) = &self.mutant {
            text += &format!("mutant = \"{mutant}\"\n");
        }
        text += &format!("seed = {}\nprofile = \"{}\"\n", self.seed, self.profile.name());
        text += &format!("checker = \"{}\"\n", self.checker);
        text += &format!("without = [{}]\n", kinds.join(", "));
        text += &format!("skip = [{}]\n", numbers(&self.overrides.skip));
        text += &format!("idle = [{}]\n", numbers(&self.overrides.idle));
        if let Some(end) = self.overrides.end {
            text += &format!("end_ms = {}\n", end / MS);
        }
        text
    }

    /// Reads a file that [`Self::to_toml`] wrote: `name = value` lines, of which a value is a
    /// number, a text in quotes, or a list of those on one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut kept = Self {
            mutant: None,
            seed: 0,
            profile: Profile::Default,
            overrides: Overrides::default(),
            checker: String::new(),
            story: String::new(),
        };
        for line in text.lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix('#') {
                kept.story += comment.trim_start();
                kept.story.push('\n');
                continue;
            }
            let Some((name, value)) = line.split_once('=') else { continue };
            let value = value.trim();
            let bad = || format!("cannot be read: line={line}");
            let quoted = |text: &str| text.trim().trim_matches('"').to_owned();
            let items = || -> Vec<String> {
                let inside = value.trim_start_matches('[').trim_end_matches(']');
                inside.split(',').map(quoted).filter(|item| !item.is_empty()).collect()
            };
            let numbers = || -> Result<BTreeSet<usize>, String> {
                items().iter().map(|item| item.parse().map_err(|_| bad())).collect()
            };
            match name.trim() {
                "mutant" => kept.mutant = Some(quoted(value)),
                "seed" => kept.seed = value.parse().map_err(|_| bad())?,
                "profile" => kept.profile = Profile::parse(&quoted(value)).ok_or_else(bad)?,
                "checker" => kept.checker = quoted(value),
                "without" => {
                    for item in items() {
                        kept.overrides.without.insert(FaultKind::parse(&item).ok_or_else(bad)?);
                    }
                }
                "skip" => kept.overrides.skip = numbers()?,
                "idle" => kept.overrides.idle = numbers()?,
                "end_ms" => kept.overrides.end = Some(value.parse::<u64>().map_err(|_| bad())? * MS),
                _ => return Err(bad()),
            }
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_seed_reads_back_as_it_was_written() {
        let kept = Kept {
            mutant: Some("a_bug".into()),
            seed: 77,
            profile: Profile::Hostile,
            overrides: Overrides {
                without: [FaultKind::Loss, FaultKind::Flap].into(),
                skip: [3, 4].into(),
                idle: BTreeSet::new(),
                end: Some(1500 * MS),
            },
            checker: "history".into(),
            story: "it happened\nso\n".into(),
        };
        assert_eq!(Kept::parse(&kept.to_toml()), Ok(kept));
        assert!(Kept::parse("seed = x").is_err() && Kept::parse("other = 1").is_err());
    }
}
