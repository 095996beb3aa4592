//! The rows of a comparison, for one member and for a cluster.

use super::figures::Group as G;
use super::figures::Target::{AtLeast, AtMost};
use super::figures::Unit::{Bytes, Micros, PerSecond, Seconds};
use super::figures::{Figure, Group, Unit};

/// The rows of a comparison of clusters of this size.
pub fn figures(members: usize) -> &'static [Figure] {
    if members == 1 { &SINGLE } else { &CLUSTER }
}

/// Whether any comparison has a row of this id.
pub fn known(id: &str) -> bool {
    SINGLE.iter().chain(&CLUSTER).any(|figure| figure.id == id)
}

const fn figure(id: &'static str, group: Group, title: &'static str, unit: Unit) -> Figure {
    Figure::new(id, group, title, unit)
}

/// Rows of one member, first those that something is aimed at.
const SINGLE: [Figure; 29] = [
    figure("put.ops", G::Put, "put, 8×32: throughput", PerSecond).aim(AtLeast(1.7)),
    figure("put.server_cpu", G::Put, "put, 8×32: server CPU per put", Micros).aim(AtMost(0.45)),
    // Two rows, because etcd 3.4 answers reads right after a burst of puts several times
    // slower than reads at rest: it copies the burst's buffer for each of them.
    figure(
        "range_after_writes.ops",
        G::RangeAfterWrites,
        "linearizable get right after puts, 8×32: throughput",
        PerSecond,
    )
    .aim(AtLeast(3.0)),
    figure("range.ops", G::Range, "linearizable get at rest, 8×32: throughput", PerSecond).aim(AtLeast(3.0)),
    figure("put_single.p50", G::PutSingle, "put, one at a time: p50", Micros).aim(AtMost(1.1)),
    figure("memory.rss", G::Memory, "memory after loading N keys", Bytes).aim(AtMost(0.6)),
    figure("restart.clean", G::Restart, "restart with N keys, after SIGTERM", Seconds).aim(AtMost(0.5)),
    figure("restart.killed", G::Restart, "restart with N keys, after kill -9", Seconds).aim(AtMost(0.5)),
    figure("put.p99", G::Put, "put, 8×32: p99", Micros),
    figure("put_single.p99", G::PutSingle, "put, one at a time: p99", Micros),
    figure(
        "range_after_writes.server_cpu",
        G::RangeAfterWrites,
        "linearizable get right after puts: server CPU",
        Micros,
    ),
    figure("range.server_cpu", G::Range, "linearizable get at rest: server CPU", Micros),
    figure("range.p99", G::Range, "linearizable get at rest, 8×32: p99", Micros),
    figure("range_serializable.ops", G::RangeSerializable, "serializable get, 8×32: throughput", PerSecond),
    figure("range_serializable.server_cpu", G::RangeSerializable, "serializable get: server CPU", Micros),
    figure("prefix.ops", G::Prefix, "list of 10,000 keys, 2×2: throughput", PerSecond),
    figure("prefix.p50", G::Prefix, "list of 10,000 keys, 2×2: p50", Micros),
    figure("prefix.server_cpu", G::Prefix, "list of 10,000 keys: server CPU", Micros),
    figure("txn.ops", G::Txn, "compare and put, 8×32: throughput", PerSecond),
    figure("txn.server_cpu", G::Txn, "compare and put: server CPU", Micros),
    figure("watch.events", G::WatchFanout, "1000 watchers on 10 streams: events", PerSecond),
    figure("watch.p99", G::WatchFanout, "1000 watchers on 10 streams: put to event, p99", Micros),
    figure("watch.server_cpu", G::WatchFanout, "1000 watchers on 10 streams: server CPU per event", Micros),
    figure("lease.ops", G::LeaseKeepalive, "lease keepalive, 1000 leases, 8×32: throughput", PerSecond),
    figure("lease.p99", G::LeaseKeepalive, "lease keepalive, 8×32: p99", Micros),
    figure("lease.server_cpu", G::LeaseKeepalive, "lease keepalive: server CPU", Micros),
    figure("load.ops", G::Memory, "loading N keys by single puts: throughput", PerSecond),
    figure("memory.rss_anon", G::Memory, "anonymous memory after loading N keys", Bytes),
    figure("restart.rss", G::Restart, "memory after restart with N keys", Bytes),
];

/// Rows of a cluster, first those that something is aimed at. Server CPU is that of all members.
const CLUSTER: [Figure; 29] = [
    figure("put.ops", G::Put, "put, 8×32: throughput", PerSecond).aim(AtLeast(2.0)),
    figure(
        "range_after_writes.ops",
        G::RangeAfterWrites,
        "linearizable get right after puts, 8×32: throughput",
        PerSecond,
    )
    .aim(AtLeast(3.0)),
    figure("range.ops", G::Range, "linearizable get at rest, 8×32: throughput", PerSecond).aim(AtLeast(3.0)),
    figure("put.p50", G::Put, "put, 8×32: p50", Micros),
    figure("put.p99", G::Put, "put, 8×32: p99", Micros),
    figure("put.server_cpu", G::Put, "put: CPU of all members", Micros),
    figure("put.leader_cpu", G::Put, "put: CPU of the leader", Micros),
    figure("put_single.p50", G::PutSingle, "put, one at a time: p50", Micros),
    figure("put_single.p99", G::PutSingle, "put, one at a time: p99", Micros),
    figure("put_single.server_cpu", G::PutSingle, "put, one at a time: CPU of all members", Micros),
    figure(
        "range_after_writes.p50",
        G::RangeAfterWrites,
        "linearizable get right after puts, 8×32: p50",
        Micros,
    ),
    figure(
        "range_after_writes.p99",
        G::RangeAfterWrites,
        "linearizable get right after puts, 8×32: p99",
        Micros,
    ),
    figure(
        "range_after_writes.server_cpu",
        G::RangeAfterWrites,
        "linearizable get right after puts: CPU of all members",
        Micros,
    ),
    figure("range.p50", G::Range, "linearizable get at rest, 8×32: p50", Micros),
    figure("range.p99", G::Range, "linearizable get at rest, 8×32: p99", Micros),
    figure("range.server_cpu", G::Range, "linearizable get at rest: CPU of all members", Micros),
    figure("range.leader_cpu", G::Range, "linearizable get at rest: CPU of the leader", Micros),
    figure("range_serializable.ops", G::RangeSerializable, "serializable get, 8×32: throughput", PerSecond),
    figure(
        "range_serializable.server_cpu",
        G::RangeSerializable,
        "serializable get: CPU of all members",
        Micros,
    ),
    figure("prefix.ops", G::Prefix, "list of 10,000 keys, 2×2: throughput", PerSecond),
    figure("prefix.p50", G::Prefix, "list of 10,000 keys, 2×2: p50", Micros),
    figure("txn.ops", G::Txn, "compare and put, 8×32: throughput", PerSecond),
    figure("txn.server_cpu", G::Txn, "compare and put: CPU of all members", Micros),
    figure("watch.events", G::WatchFanout, "1000 watchers on 10 streams: events", PerSecond),
    figure("watch.p99", G::WatchFanout, "1000 watchers on 10 streams: put to event, p99", Micros),
    figure(
        "watch.server_cpu",
        G::WatchFanout,
        "1000 watchers on 10 streams: CPU of all members per event",
        Micros,
    ),
    figure("lease.ops", G::LeaseKeepalive, "lease keepalive, 1000 leases, 8×32: throughput", PerSecond),
    figure("lease.p99", G::LeaseKeepalive, "lease keepalive, 8×32: p99", Micros),
    figure("lease.server_cpu", G::LeaseKeepalive, "lease keepalive: CPU of all members", Micros),
];

#[cfg(test)]
mod tests {
    use super::super::figures::Target;
    use super::*;

    fn ids(members: usize) -> std::collections::BTreeSet<&'static str> {
        figures(members).iter().map(|figure| figure.id).collect()
    }

    #[test]
    fn figures_have_ids_of_their_own_and_every_group_has_one() {
        for members in [1, 3] {
            assert_eq!(ids(members).len(), figures(members).len());
            for group in Group::ALL.into_iter().filter(|group| members == 1 || group.suits_cluster()) {
                assert!(figures(members).iter().any(|figure| figure.group == group));
            }
        }
        let aimed = |members| figures(members).iter().filter(|figure| figure.target != Target::None).count();
        assert_eq!((aimed(1), aimed(3)), (8, 3));
    }
}
