//! The figures of a comparison: what each one means, what is aimed at, and whether it was met.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rows::{figures, known};
use crate::cluster::Side;
use crate::stats::median;

/// Figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Puts, many at a time.
    Put,
    /// Puts, one at a time.
    PutSingle,
    /// Linearizable reads right after many puts.
    RangeAfterWrites,
    /// Linearizable reads of a store at rest.
    Range,
    /// Serializable reads.
    RangeSerializable,
    /// Lists of 10,000 keys.
    Prefix,
    /// Transactions of one compare and one put.
    Txn,
    /// 1000 watchers of one key.
    WatchFanout,
    /// Lease keepalives.
    LeaseKeepalive,
    /// Memory with many keys.
    Memory,
    /// Restart with many keys.
    Restart,
}

impl Group {
    /// Those that a cluster of several members is measured with unless others are asked for.
    pub const CLUSTER: [Group; 4] = [Group::Put, Group::RangeAfterWrites, Group::PutSingle, Group::Range];

    /// Whether it can be measured with several members.
    pub fn suits_cluster(self) -> bool {
        !matches!(self, Group::Memory | Group::Restart)
    }

    /// All groups, in the order in which they run.
    pub const ALL: [Group; 11] = [
        Group::Put,
        Group::RangeAfterWrites,
        Group::PutSingle,
        Group::Range,
        Group::RangeSerializable,
        Group::Prefix,
        Group::Txn,
        Group::WatchFanout,
        Group::LeaseKeepalive,
        Group::Memory,
        Group::Restart,
    ];
}

/// What the ratio Folkmoot / etcd should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Higher is better.
    AtLeast(f64),
    /// Lower is better.
    AtMost(f64),
    /// Shown for information.
    None,
}

impl Target {
    /// Whether the ratio is as it should be; `None` where nothing is aimed at.
    pub fn met(self, ratio: f64) -> Option<bool> {
        match self {
            Target::AtLeast(bound) => Some(ratio >= bound),
            Target::AtMost(bound) => Some(ratio <= bound),
            Target::None => None,
        }
    }
}

/// How a value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Operations a second.
    PerSecond,
    /// Microseconds.
    Micros,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// The value with its unit, for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Unit::PerSecond => format!("{}/s", grouped(value)),
            Unit::Micros if value >= 10_000.0 => format!("{:.1} ms", value / 1000.0),
            Unit::Micros if value >= 1000.0 => format!("{:.2} ms", value / 1000.0),
            Unit::Micros => format!("{value:.1} µs"),
            Unit::Bytes => format!("{:.1} MiB", value / f64::from(1 << 20)),
            Unit::Seconds => format!("{value:.3} s"),
        }
    }
}

/// A whole number with its thousands set apart; small ones with one decimal.
fn grouped(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One row of the comparison.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figure {
    /// Stable name for scripts.
    pub id: &'static str,
    /// What it is measured with.
    #[serde(skip)]
    pub group: Group,
    /// What it is, for people.
    pub title: &'static str,
    /// Unit of its values.
    pub unit: Unit,
    /// What is aimed at.
    pub target: Target,
}

impl Figure {
    /// A figure that is shown for information.
    pub const fn new(id: &'static str, group: Group, title: &'static str, unit: Unit) -> Self {
        Self { id, group, title, unit, target: Target::None }
    }

    /// The same with something to aim at.
    pub const fn aim(mut self, target: Target) -> Self {
        self.target = target;
        self
    }
}

/// Values of all rounds.
#[derive(Debug, Default)]
pub struct Values(BTreeMap<(&'static str, Side), Vec<f64>>);

impl Values {
    /// Adds the value of one round. A value that only clusters of another size show is left out of
    /// the result.
    pub fn add(&mut self, id: &'static str, side: Side, value: f64) {
        assert!(known(id), "no row shows this figure id={id}");
        self.0.entry((id, side)).or_default().push(value);
    }

    fn of(&self, id: &'static str, side: Side) -> &[f64] {
        self.0.get(&(id, side)).map_or(&[], Vec::as_slice)
    }

    /// All rows of these groups for clusters of this size, also those that could not be measured.
    pub fn rows(&self, groups: &[Group], members: usize) -> Vec<Row> {
        figures(members)
            .iter()
            .filter(|figure| groups.contains(&figure.group))
            .map(|figure| {
                let etcd = self.of(figure.id, Side::Etcd);
                let folkmoot = self.of(figure.id, Side::Folkmoot);
                Row::new(*figure, etcd, folkmoot)
            })
            .collect()
    }
}

/// A figure with what was measured.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The figure.
    #[serde(flatten)]
    pub figure: Figure,
    /// Values of etcd, one a round.
    pub etcd: Vec<f64>,
    /// Values of Folkmoot, one a round.
    pub folkmoot: Vec<f64>,
    /// Median over etcd's rounds.
    pub etcd_median: Option<f64>,
    /// Median over Folkmoot's rounds.
    pub folkmoot_median: Option<f64>,
    /// Folkmoot's median / etcd's.
    pub ratio: Option<f64>,
    /// Whether the target is met; absent without target or without ratio.
    pub met: Option<bool>,
}

impl Row {
    fn new(figure: Figure, etcd: &[f64], folkmoot: &[f64]) -> Self {
        let (etcd_median, folkmoot_median) = (median(etcd), median(folkmoot));
        let ratio = match (etcd_median, folkmoot_median) {
            (Some(etcd), Some(folkmoot)) if etcd > 0.0 => Some(folkmoot / etcd),
            _ => None,
        };
        Self {
            figure,
            etcd: etcd.to_vec(),
            folkmoot: folkmoot.to_vec(),
            etcd_median,
            folkmoot_median,
            ratio,
            met: ratio.and_then(|ratio| figure.target.met(ratio)),
        }
    }

    /// Lowest and highest ratio of a round, if there are several.
    pub fn ratio_spread(&self) -> Option<(f64, f64)> {
        let ratios: Vec<f64> = self
            .etcd
            .iter()
            .zip(&self.folkmoot)
            .filter(|(etcd, _)| **etcd > 0.0)
            .map(|(etcd, folkmoot)| folkmoot / etcd)
            .collect();
        let lowest = ratios.iter().copied().reduce(f64::min)?;
        let highest = ratios.iter().copied().reduce(f64::max)?;
        (ratios.len() > 1).then_some((lowest, highest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &'static str, etcd: &[f64], folkmoot: &[f64]) -> Row {
        let mut values = Values::default();
        for value in etcd {
            values.add(id, Side::Etcd, *value);
        }
        for value in folkmoot {
            values.add(id, Side::Folkmoot, *value);
        }
        let rows = values.rows(&Group::ALL, 1);
        rows.into_iter().find(|row| row.figure.id == id).unwrap()
    }

    #[test]
    fn a_ratio_is_of_medians_and_is_held_against_its_target() {
        let slow = row("put.ops", &[100.0, 110.0, 900.0], &[150.0, 180.0, 190.0]);
        assert_eq!(slow.ratio, Some(180.0 / 110.0));
        assert_eq!(slow.met, Some(false));
        let fast = row("put.ops", &[100.0], &[170.0]);
        assert_eq!(fast.met, Some(true));
        let cheap = row("put.server_cpu", &[100.0], &[45.0]);
        assert_eq!(cheap.met, Some(true));
        let dear = row("put.server_cpu", &[100.0], &[46.0]);
        assert_eq!(dear.met, Some(false));
    }

    #[test]
    fn a_side_that_was_not_measured_is_neither_met_nor_missed() {
        let row = row("put.ops", &[100.0], &[]);
        assert_eq!((row.ratio, row.met), (None, None));
    }

    #[test]
    fn the_spread_is_over_the_ratios_of_single_rounds() {
        let several = row("put.ops", &[100.0, 200.0], &[150.0, 200.0]);
        assert_eq!(several.ratio_spread(), Some((1.0, 1.5)));
        assert_eq!(row("put.ops", &[1.0], &[2.0]).ratio_spread(), None);
    }

    #[test]
    fn only_the_rows_of_the_asked_groups_are_given() {
        let rows = Values::default().rows(&[Group::PutSingle], 1);
        let ids: Vec<_> = rows.iter().map(|row| row.figure.id).collect();
        assert_eq!(ids, ["put_single.p50", "put_single.p99"]);
    }

    #[test]
    fn values_are_shown_with_a_unit_that_suits_their_size() {
        assert_eq!(Unit::PerSecond.show(17_543.4), "17,543/s");
        assert_eq!(Unit::PerSecond.show(1_234_567.0), "1,234,567/s");
        assert_eq!(Unit::PerSecond.show(12.34), "12.3/s");
        assert_eq!(Unit::Micros.show(75.04), "75.0 µs");
        assert_eq!(Unit::Micros.show(1520.0), "1.52 ms");
        assert_eq!(Unit::Bytes.show(1_572_864.0), "1.5 MiB");
        assert_eq!(Unit::Seconds.show(1.2345), "1.234 s");
    }
}
