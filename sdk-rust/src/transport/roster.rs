//! Which members are asked: of those that were given, found by names, and listed by the members. No input
//! or output.
//!
//! What was given by a URL is always asked. Once the members have told who they are, their list stands in
//! for the names, until all of them fail.

use super::endpoint::{Given, Target};

#[derive(Debug)]
struct Entry {
    is_name: bool,
    /// Whether it has members: a name has none before it was found.
    is_known: bool,
    /// The placeholder of a name that was not found yet.
    targets: Vec<Target>,
}

/// Where members are known from.
#[derive(Debug)]
pub(crate) struct Roster {
    /// In the order of the endpoints.
    given: Vec<Entry>,
    listed: Vec<Target>,
    /// Whether the list stands in for the names.
    trusts_list: bool,
}

impl Roster {
    pub fn new(endpoints: &[Given]) -> Self {
        let entry = |given: &Given| Entry {
            is_name: given.is_name(),
            is_known: !given.is_name(),
            targets: vec![given.placeholder()],
        };
        Self { given: endpoints.iter().map(entry).collect(), listed: Vec::new(), trusts_list: false }
    }

    /// What the name of this index stands for now. Nothing leaves what was known.
    pub fn find(&mut self, index: usize, targets: Vec<Target>) {
        if !targets.is_empty() {
            self.given[index].is_known = true;
            self.given[index].targets = targets;
        }
    }

    /// Whom the members tell of.
    pub fn list(&mut self, targets: Vec<Target>) {
        self.trusts_list = !targets.is_empty();
        self.listed = targets;
    }

    /// Asks the names again beside the list, until the members tell once more. Answers whether that is new.
    pub fn doubt_list(&mut self) -> bool {
        std::mem::take(&mut self.trusts_list)
    }

    /// Whether there is anybody to ask.
    pub fn has_members(&self) -> bool {
        self.given.iter().any(|entry| entry.is_known)
    }

    /// What the endpoints stand for.
    pub fn given(&self) -> impl Iterator<Item = &Target> {
        self.given.iter().flat_map(|entry| &entry.targets)
    }

    /// Who is to be asked, at least one.
    pub fn wanted(&self) -> impl Iterator<Item = &Target> {
        let given = self.given.iter().filter(|entry| !(entry.is_name && self.trusts_list));
        given.flat_map(|entry| &entry.targets).chain(&self.listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(urls: &[&str]) -> Vec<Target> {
        urls.iter().map(|url| Target::at(url)).collect()
    }

    fn roster(endpoints: &[&str]) -> Roster {
        let given = endpoints.iter().map(|endpoint| Given::parse(endpoint, false).unwrap());
        Roster::new(&given.collect::<Vec<_>>())
    }

    fn wanted(roster: &Roster) -> Vec<&str> {
        roster.wanted().map(|target| &*target.url).collect()
    }

    #[test]
    fn c_1_a_name_is_replaced_by_what_was_found_last() {
        let mut roster = roster(&["dns:///store:1", "n1:1"]);
        assert_eq!(wanted(&roster), ["http://store:1", "http://n1:1"]);
        roster.find(0, targets(&["a", "b"]));
        assert_eq!(wanted(&roster), ["a", "b", "http://n1:1"]);
        roster.find(0, targets(&["b", "c"]));
        roster.find(0, Vec::new());
        assert_eq!(wanted(&roster), ["b", "c", "http://n1:1"]);
    }

    #[test]
    fn c_1_there_is_somebody_to_ask_once_one_name_is_found() {
        assert!(roster(&["dns:///store:1", "n1:1"]).has_members());
        let mut roster = roster(&["dns:///store:1", "dns:///other:1"]);
        assert!(!roster.has_members());
        roster.find(1, Vec::new());
        assert!(!roster.has_members());
        roster.find(1, targets(&["a"]));
        assert!(roster.has_members());
    }

    #[test]
    fn c_1_the_members_list_stands_in_for_names_until_all_fail() {
        let mut roster = roster(&["dns:///store:1", "n1:1"]);
        roster.find(0, targets(&["a"]));
        roster.list(targets(&["m1", "m2"]));
        assert_eq!(wanted(&roster), ["http://n1:1", "m1", "m2"]);
        roster.find(0, targets(&["b"]));
        assert_eq!(wanted(&roster), ["http://n1:1", "m1", "m2"]);
        assert!(roster.doubt_list());
        assert!(!roster.doubt_list());
        assert_eq!(wanted(&roster), ["b", "http://n1:1", "m1", "m2"]);
        roster.list(targets(&["m3"]));
        assert_eq!(wanted(&roster), ["http://n1:1", "m3"]);
        // A list of which nothing can be used.
        roster.list(Vec::new());
        assert_eq!(wanted(&roster), ["b", "http://n1:1"]);
    }
}
